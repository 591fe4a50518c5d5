# SPDX-License-Identifier: GPL-2.0-or-later
"""The page of the founding thread shows what iommud says of captures, and every picture of the lab is on it."""

import re
import shutil
from functools import cache
from pathlib import Path

import pytest

from iommud.verdict.report import Report
from tests.guest.founding import FIXTURES, PICTURES, TODAY, Picture, report_of, shown, tree_of, verdict_of
from tests.guest.judge import Result

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "founding-thread.md"
SHOWN = re.compile(r"(<!-- output: (tree|check) (\S+) -->\n```text\n)(.*?)(```\n<!-- end -->)", re.DOTALL)
RENDERERS = {"tree": tree_of, "check": verdict_of}


@cache
def of(capture: str) -> Report:
    return report_of(FIXTURES / f"{capture}.tar.gz")


def text() -> str:
    return PAGE.read_text(encoding="utf-8")


def test_the_page_shows_what_iommud_says(request: pytest.FixtureRequest) -> None:
    renewed = SHOWN.sub(lambda one: one[1] + RENDERERS[one[2]](of(one[3])) + one[5], text())

    if request.config.getoption("--update-golden"):
        PAGE.write_text(renewed, encoding="utf-8")
    assert renewed == text()


def test_every_block_of_the_page_that_is_output_is_generated() -> None:
    blocks = re.findall(r"^```text$", text(), re.MULTILINE)

    assert len(blocks) == len(SHOWN.findall(text())) > 15


@pytest.mark.parametrize("picture", PICTURES, ids=lambda one: one.cell.name)
def test_the_page_quotes_what_the_thread_said(picture: Picture) -> None:
    quoted = re.sub(r"^> ?", "", text(), flags=re.MULTILINE)
    words = " ".join(quoted.split())

    assert picture.said == TODAY or " ".join(picture.said.split()) in words


@pytest.mark.parametrize("capture", sorted((FIXTURES / "founding").glob("*.tar.gz")), ids=lambda path: path.name)
def test_every_capture_made_for_the_page_is_a_picture_of_the_lab_and_on_the_page(capture: Path) -> None:
    name = f"founding/{capture.name.removesuffix('.tar.gz')}"

    assert name in {picture.capture for picture in PICTURES}
    assert name in {found[2] for found in SHOWN.findall(text())}


def test_no_two_pictures_are_of_the_same_guest() -> None:
    assert len({picture.cell.name for picture in PICTURES}) == len(PICTURES)


# What the kernel did, by hand, with the numbers of the groups. The thread has those of the first two.
GROUPS = {
    "captures/6.1bug-amd64-virtio-at-0x3-seed-vga-builtin-q7.2": "1: 02:00.0 | 2: 00:02.0",
    "founding/6.1-amd64-intel-founding-vga-q7.2": "2: 00:02.0 01:00.0 02:00.0",
    "captures/6.1fix-amd64-virtio-seed-builtin-q7.2": "1: 02:00.0 | 2: 00:02.0 01:00.0",
    "founding/6.1builtin-arm64-smmuv3-two-nics-1-2-q7.2-dt": "0: 02:01.0 | 1: 00:02.0 01:00.0",
    "founding/6.1builtin-arm64-smmuv3-two-nics-1-2-q7.2-acpi": "0: 02:01.0 | 1: 00:02.0 | 2: 01:00.0",
    "founding/6.12-amd64-virtio-founding-without-bridge-drivers-q7.2": "2: 02:00.0",
    "founding/7.3-amd64-virtio-founding-vga-q11": "2: 00:02.0 01:00.0 02:00.0",
    "captures/6.12-arm64-smmuv3-two-e1000-rp-acpi-q7.2": "0: 00:02.0 | 1: 01:00.0 02:01.0",
    "captures/7.3-arm64-smmuv3-two-e1000-rp-q7.2": "1: 00:02.0 | 2: 01:00.0 02:01.0",
    "founding/6.12-arm64-smmuv3-founding-acs-slot-1-q7.2-acpi": "0: 00:02.0 | 1: 01:00.0 02:01.0",
    "captures/6.12-arm64-smmuv3-seed-rp-q7.2": "0: 00:02.0 01:00.0 02:01.0",
    "founding/7.3-arm64-smmuv3-founding-acs-slot-1-q11-dt": "1: 00:02.0 | 2: 01:00.0 02:01.0",
    "founding/6.1bug-amd64-virtio-virtio-net-behind-bridge-slot-1-q7.2": "1: 00:02.0 01:00.0",
    "founding/6.1bug-amd64-virtio-virtio-net-behind-bridge-q7.2": "1: 00:02.0 01:00.0 02:00.0",
    "founding/7.3-amd64-virtio-virtio-net-behind-bridge-slot-1-q11": "",
    "founding/6.1bug-arm64-virtio-founding-acs-slot-1-q7.2-acpi": "0: 00:02.0",
    "founding/6.1bug-arm64-virtio-founding-acs-slot-1-q7.2-dt": "0: 00:02.0 01:00.0",
    "captures/7.3-arm64-virtio-seed-rp-acpi-q7.2": "",
}
BEHIND_THE_PORT = {"00:02.0", "01:00.0", "02:00.0", "02:01.0", "02:02.0"}


@pytest.mark.parametrize(("capture", "groups"), GROUPS.items())
def test_port_bridge_and_cards_have_the_groups_and_numbers_that_they_had_in_the_guest(
    capture: str, groups: str
) -> None:
    members: dict[int, list[str]] = {}
    for address, number in sorted(of(capture).actual.number_of.items()):
        if (name := str(address).removeprefix("0000:")) in BEHIND_THE_PORT:
            members.setdefault(number, []).append(name)

    assert " | ".join(f"{number}: {' '.join(members[number])}" for number in sorted(members)) == groups


CAUSES = {
    "captures/6.1bug-amd64-virtio-at-0x3-seed-vga-builtin-q7.2": "probe-order viot-alias-bug",
    "founding/6.1-amd64-intel-founding-vga-q7.2": "",
    "captures/6.1fix-amd64-virtio-seed-builtin-q7.2": "probe-order",
    "founding/6.1builtin-arm64-smmuv3-two-nics-1-2-q7.2-dt": "probe-order smmuv3-stream-conflict",
    "founding/6.1builtin-arm64-smmuv3-two-nics-1-2-q7.2-acpi": "probe-order smmuv3-stream-conflict",
    "founding/6.12-amd64-virtio-founding-without-bridge-drivers-q7.2": "bridges-not-probed",
    "founding/7.3-amd64-virtio-founding-vga-q11": "",
    "captures/6.12-arm64-smmuv3-two-e1000-rp-acpi-q7.2": "smmuv3-stream-conflict",
    "captures/7.3-arm64-smmuv3-two-e1000-rp-q7.2": "smmuv3-stream-conflict",
    "founding/6.12-arm64-smmuv3-founding-acs-slot-1-q7.2-acpi": "",
    "captures/6.12-arm64-smmuv3-seed-rp-q7.2": "",
    "founding/7.3-arm64-smmuv3-founding-acs-slot-1-q11-dt": "",
    "founding/6.1bug-amd64-virtio-virtio-net-behind-bridge-slot-1-q7.2": "virtio-endpoint-unknown",
    "founding/6.1bug-amd64-virtio-virtio-net-behind-bridge-q7.2": "",
    "captures/6.1v-amd64-virtio-vnet-bridge-q7.2": "probe-order",
    "founding/7.3-amd64-virtio-virtio-net-behind-bridge-slot-1-q11": "pass-abandoned virtio-endpoint-unknown",
    "founding/6.1bug-arm64-virtio-founding-acs-slot-1-q7.2-acpi": "viot-alias-bug virtio-endpoint-unknown",
    "founding/6.1bug-arm64-virtio-founding-acs-slot-1-q7.2-dt": "virtio-endpoint-unknown",
    "captures/7.3-arm64-virtio-seed-rp-acpi-q7.2": "pass-abandoned virtio-endpoint-unknown",
}


@pytest.mark.parametrize(("capture", "causes"), CAUSES.items())
def test_the_causes_are_the_problems_that_the_thread_names(capture: str, causes: str) -> None:
    found = {str(cause.id) for causes in of(capture).causes.values() for cause in causes}

    assert " ".join(sorted(found)) == causes


def test_every_capture_on_the_page_is_known_by_hand() -> None:
    shown_there = {found[2] for found in SHOWN.findall(text())}

    assert shown_there == set(CAUSES) == {*GROUPS, "captures/6.1v-amd64-virtio-vnet-bridge-q7.2"}


def booted(picture: Picture, capture: str, keep: Path) -> Result:
    """The result of a boot of a picture's guest that ended as a capture has it."""
    kept = keep / picture.cell.name
    kept.mkdir()
    shutil.copy(FIXTURES / f"{capture}.tar.gz", kept / "end.tar.gz")
    return Result(cell=picture.cell.name, outcome="done", seconds=9, kernel="6.1.7", qemu="7.2.22")


def test_a_boot_is_shown_beside_the_words_of_the_thread_with_tree_and_verdict(tmp_path: Path) -> None:
    picture = PICTURES[0]

    told, same = shown(1, picture, booted(picture, picture.capture, tmp_path), tmp_path)

    assert same
    assert told.splitlines()[0] == "1. The wrong topology: x86, virtio-iommu  (Linux 6.1.7, QEMU 7.2.22)"
    assert "   the thread said:\n     wrong guest topology:\n" in told
    assert "     no group for 0000:01:00:0 (the pcie-to-pci bridge)\n\n   we see:\n     function" in told
    assert "     critical ungrouped\n       0000:01:00.0 has no group" in told
    assert told.endswith("\n   as docs/founding-thread.md shows it\n")


def test_a_boot_with_other_groups_or_causes_than_the_page_is_said_to_be_another(tmp_path: Path) -> None:
    told, same = shown(1, PICTURES[0], booted(PICTURES[0], PICTURES[2].capture, tmp_path), tmp_path)

    assert not same
    assert told.endswith("\n   NOT as docs/founding-thread.md shows it\n")


def test_a_guest_that_could_not_run_is_shown_with_the_reason(tmp_path: Path) -> None:
    failed = Result(cell="any", outcome="unavailable", seconds=0, words="no package")

    told, same = shown(7, PICTURES[0], failed, tmp_path)

    assert not same
    assert told.endswith("   we see:\n     cannot run: no package\n")
