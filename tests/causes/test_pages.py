# SPDX-License-Identifier: GPL-2.0-or-later
"""Every cause has its page; captures of real machines have the causes that are known of them; defects have theirs."""

import re
from pathlib import Path

import pytest

from iommud.causes.cause import CauseId
from iommud.causes.defects import defects
from tests.causes.test_explain import CASES
from tests.test_fixtures import KNOWN, NAMES, report_of

PAGES = Path(__file__).parent.parent.parent / "docs" / "causes"
HEADINGS = ["What happened", "How iommud knows", "What to do", "What is not this cause", "References"]

# Of each capture with something to explain, the causes of all its findings; every other capture has none.
CAUSES = {
    "5.10-amd64-virtio-seed-q7.2": "iommu-driver-missing",
    "6.1-arm64-smmuv3-two-e1000-rp-q7.2": "smmuv3-stream-conflict",
    "6.12-amd64-intel-acs-off-since-q7.2": "acs-changed-since",
    "6.12-arm64-smmuv3-acs-on-since-q7.2": "late-acs",
    "6.12-amd64-virtio-seed-rp-none-q7.2": "iommu-driver-missing",
    "6.12-amd64-virtio-seed-rp-parallel-q7.2": "probe-order",
    "6.12-amd64-virtio-two-e1000-q7.2": "virtio-endpoint-unknown",
    "6.12-amd64-virtio-two-e1000-rp-q10.0": "virtio-endpoint-unknown",
    "6.12-arm64-smmuv3-two-e1000-rp-acpi-q7.2": "smmuv3-stream-conflict",
    "6.12-arm64-virtio-seed-q7.2": "virtio-endpoint-unknown",
    "6.12-amd64-intel-two-functions-q10": "late-multifunction",
    "6.16-amd64-virtio-two-nics-1-2-q7.2": "pass-abandoned virtio-endpoint-unknown",
    "6.16.3-amd64-virtio-founding-q7.2": "virtio-instance-lookup",
    "6.16.3-arm64-virtio-founding-slot-1-dt-q7.2": "virtio-endpoint-unknown virtio-instance-lookup",
    "6.1bug-amd64-virtio-at-0x3-seed-vga-builtin-q7.2": "probe-order viot-alias-bug",
    "6.1bug-amd64-virtio-seed-builtin-q7.2": "probe-order viot-alias-bug",
    "6.1fix-amd64-virtio-seed-builtin-q7.2": "probe-order",
    "6.1v-amd64-virtio-seed-rp-no-port-driver-q7.2": "bridges-not-probed",
    "6.1v-amd64-virtio-vnet-bridge-q7.2": "probe-order",
    "7.2-amd64-virtio-pxb-racing-q10": "probe-race",
    "7.3-amd64-virtio-hotplug-pciebridge-q7.2": "virtio-endpoint-unknown",
    "7.3-amd64-virtio-two-e1000-q7.2": "pass-abandoned virtio-endpoint-unknown",
    "7.3-amd64-virtio-two-e1000-rp-q10.0": "pass-abandoned virtio-endpoint-unknown",
    "7.3-arm64-smmuv3-two-e1000-rp-q7.2": "smmuv3-stream-conflict",
    "7.3-arm64-virtio-seed-q7.2": "pass-abandoned virtio-endpoint-unknown",
    "7.3-arm64-virtio-seed-rp-acpi-q7.2": "pass-abandoned virtio-endpoint-unknown",
    "adlink-altra-devplatform": "smmuv3-duplicate-stream",
}


@pytest.mark.parametrize("cause", CauseId)
def test_every_cause_has_a_page_with_all_its_parts(cause: CauseId) -> None:
    text = (PAGES / f"{cause}.md").read_text(encoding="utf-8")
    headings = re.findall(r"^## (.+)$", text, re.MULTILINE)

    assert text.splitlines()[0] == f"# {cause}"
    assert [one for one in headings if one != "A real example"] == HEADINGS


def test_the_index_lists_every_cause_in_order_and_there_is_no_other_page() -> None:
    index = (PAGES / "README.md").read_text(encoding="utf-8")

    assert re.findall(r"^\| \[`([\w-]+)`\]\(\1\.md\)", index, re.MULTILINE) == [str(one) for one in CauseId]
    assert {path.stem for path in PAGES.glob("*.md")} == {*map(str, CauseId), "README"}


@pytest.mark.parametrize("name", NAMES)
def test_a_capture_has_the_causes_known_of_it_and_a_right_machine_has_none(name: str) -> None:
    found = {cause.id.value for causes in report_of(name).causes.values() for cause in causes}

    assert found == set(CAUSES.get(name, "").split())


# Causes of which no real machine has been captured yet; they are held by built ones only.
ONLY_BUILT = {
    CauseId.NEVER_JOINED,
    CauseId.FIRMWARE_COVERAGE,
    CauseId.ACS_OVERRIDE,
    CauseId.IOMMU_DRIVER_REFUSED,
    CauseId.IOMMU_DRIVER_DEFERRED,
    CauseId.VFIO_NOIOMMU,
    CauseId.DOWNSTREAM_KERNEL,
    CauseId.FOREIGN_DRIVER,
}


def test_every_cause_has_a_real_capture_or_is_said_to_have_none() -> None:
    assert {CauseId(one) for text in CAUSES.values() for one in text.split()} == set(CauseId) - ONLY_BUILT


def test_every_capture_with_something_wrong_is_explained() -> None:
    assert {name for name in KNOWN if KNOWN[name].wrong or KNOWN[name].wide} == set(CAUSES)


def test_every_defect_that_groups_show_is_recognised_by_a_machine() -> None:
    named = {case[0] for case in CASES} | {CauseId(one) for text in CAUSES.values() for one in text.split()}

    assert {cause for one in defects() for cause in one.causes} <= named


@pytest.mark.parametrize("page", sorted(PAGES.glob("*.md")), ids=lambda path: path.stem)
def test_a_page_names_defects_and_captures_that_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    defects_named = set(re.findall(r"`iommud defects ([a-z][\w-]+)`", text))

    assert defects_named <= {one.id for one in defects()}
    assert set(re.findall(r"`(\d[\w.]*-\w+-[\w.-]+-q[\d.]+\d)`", text)) <= set(CAUSES)
