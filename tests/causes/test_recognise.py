# SPDX-License-Identifier: GPL-2.0-or-later
"""Every known defect is recognised by a machine or a log that has it, and by none that nearly has it or is healthy."""

from collections.abc import Callable
from pathlib import Path

import pytest

from iommud import check
from iommud.causes.defects import Defect, Signs, defects
from iommud.causes.recognise import shown, told
from iommud.model.quirks import AcsRule
from iommud.snapshot import Snapshot
from iommud.verdict.findings import Kind
from iommud.verdict.survey import Driver
from tests.causes.test_explain import CASES, DT, SMMU, VIOT, VIRTIO, port_and_nic
from tests.machines import ON, Machine
from tests.test_fixtures import NAMES, report_of
from tests.verdict.seen import seen

LOGS = Path(__file__).parent.parent / "fixtures" / "logs"
LOG_NAMES = sorted(path.stem for path in LOGS.glob("*.log"))
APART = "00:02.0 | 01:00.0"
LATE = ("sata 1.sata: late IOMMU probe at driver bind, something fishy here!",)


def behind(ids: str, kernel: str) -> Machine:
    """A NIC behind a port with these ids, with its ACS on."""
    machine = Machine(kernel=kernel)
    machine.root_port("00:02.0", to=1, acs=ON, ids=ids, driver="pcieport", class_code=0x060400)
    machine.endpoint("01:00.0", driver="e1000e", class_code=0x020000)
    return machine


def chipset_port(kernel: str, *, switched_on: bool = False) -> Machine:
    """A root port of an Intel chipset, isolated by a register of its own in place of ACS."""
    machine = Machine(kernel=kernel)
    machine.root_port("00:1c.0", to=1, ids="8086:1c10", mpc=1 << 26 if switched_on else 0, class_code=0x060400)
    machine.endpoint("01:00.0", class_code=0x020000)
    return machine


# Defects that no cause tells, or not alone: a machine that has it; the same, or nearly, without it.
MACHINES: dict[str, tuple[Callable[[], Snapshot], Callable[[], Snapshot]]] = {
    "acs-on-breaks-switches": (
        lambda: seen(behind("12d8:2404", "6.18"), APART, iommu=SMMU, **DT),
        lambda: seen(behind("12d8:2404", "6.18"), APART),
    ),
    "acs-quirks-skipped": (
        lambda: seen(chipset_port("6.11"), "00:1c.0 01:00.0"),
        lambda: seen(chipset_port("6.11", switched_on=True), "00:1c.0 | 01:00.0"),
    ),
    "config-acs-parser": (
        lambda: seen(port_and_nic(ON, "6.13"), APART, cmdline="quiet pci=config_acs=xx1@pci:1b36:000c"),
        lambda: seen(port_and_nic(ON, "6.13"), APART, cmdline="quiet pci=config_acs=1@pci:1b36:000c"),
    ),
    "late-probe-warning": (
        lambda: seen(port_and_nic(ON, "6.15.0"), APART, iommu=SMMU, log=LATE, **DT),
        lambda: seen(port_and_nic(ON, "6.15.1"), APART, iommu=SMMU, log=LATE, **DT),
    ),
    "qemu-bus-number-cache": (
        lambda: seen(port_and_nic(ON), APART, iommu=VIRTIO, tables=VIOT, cmdline="pci=noats,assign-busses"),
        lambda: seen(port_and_nic(ON), APART, cmdline="pci=noats,assign-busses"),
    ),
}


def shown_by(snapshot: Snapshot) -> set[str]:
    return {one.id for one in shown(check(snapshot))}


@pytest.mark.parametrize("name", MACHINES)
def test_a_defect_is_recognised_by_its_signs_and_not_by_nearly_all_of_them(name: str) -> None:
    has_it, nearly = MACHINES[name]

    assert name in shown_by(has_it())
    assert name not in shown_by(nearly())


@pytest.mark.parametrize("name", LOG_NAMES)
def test_a_log_tells_of_the_defect_that_it_is_named_by_and_of_no_other(name: str) -> None:
    assert [one.id for one in told((LOGS / f"{name}.log").read_text(encoding="utf-8").splitlines())] == [name]


def test_every_defect_is_recognised_by_a_machine_or_a_log() -> None:
    by_fixture = {one.id for name in NAMES for one in shown(report_of(name))}
    by_case = {one for _, has_it, _ in CASES for one in shown_by(has_it())}

    assert by_fixture | by_case | set(MACHINES) | set(LOG_NAMES) == {one.id for one in defects()}


@pytest.mark.parametrize("name", [name for name in NAMES if not report_of(name).findings])
def test_a_healthy_capture_shows_no_defect(name: str) -> None:
    assert shown(report_of(name)) == ()


def test_healthy_captures_are_of_many_kinds() -> None:
    assert len([name for name in NAMES if not report_of(name).findings]) > len(NAMES) // 4


@pytest.mark.parametrize("one", defects(), ids=lambda one: one.id)
def test_there_is_something_to_recognise_a_defect_by_and_its_words_are_known_ones(one: Defect) -> None:
    signs = one.signs

    assert one.causes or signs != Signs()
    assert signs.firmware in (None, "device tree", "ACPI table VIOT", "ACPI table IORT")
    assert set(signs.drivers) <= set(Driver)
    assert signs.finding is None or signs.finding in set(Kind)
    assert signs.open_by_rule is None or signs.open_by_rule in set(AcsRule)


def test_of_a_kernel_that_is_not_known_no_kernel_defect_is_said_to_show() -> None:
    report = check(seen(port_and_nic(ON, "6.15.0"), APART, iommu=SMMU, log=LATE, kernel_release="unknown", **DT))

    assert shown(report) == ()


def test_lines_that_tell_of_nothing_are_no_defect() -> None:
    assert told(["pci 0000:00:02.0: Adding to iommu group 0"]) == ()
