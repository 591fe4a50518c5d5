# SPDX-License-Identifier: GPL-2.0-or-later
"""From a snapshot to its findings: one defect, one finding, with the right kind and severity."""

from dataclasses import replace
from typing import Any

import pytest

from iommud import check
from iommud.address import Address
from iommud.kernel import requested
from iommud.model.acs import Override
from iommud.pci import AcsRegisters
from iommud.snapshot import Complaint, Contradiction, IommuGroup, Snapshot
from iommud.verdict.findings import Finding, Kind
from iommud.verdict.report import FailOn, Failure, Report, Status, overall_exit_status
from iommud.verdict.survey import parse_override
from tests.machines import OFF, ON, Machine, partition
from tests.verdict.seen import seen, thread


def kinds(report: Report) -> list[str]:
    return [f"{one.kind} {one.severity}" for one in report.findings]


def only(report: Report) -> Finding:
    assert len(report.findings) == 1
    return report.findings[0]


def names(addresses: tuple[Address, ...]) -> str:
    return " ".join(str(one)[5:] for one in addresses)


def test_a_machine_that_is_right_has_no_findings() -> None:
    report = check(seen(thread(), "00:02.0 01:00.0 02:00.0"))

    assert (report.status, report.findings, report.exit_status()) == (Status.OK, (), 0)
    assert report.expected == report.actual.groups


def test_functions_that_send_under_one_requester_id_are_an_alias_split() -> None:
    report = check(seen(thread(ON), "00:02.0 | 01:00.0 | 02:00.0"))

    found = only(report)
    assert (found.kind, found.severity, names(found.devices)) == ("alias-split", "critical", "01:00.0 02:00.0")
    assert "share requester ID 0000:02:00.0" in found.reasons[0].text


def test_functions_that_nothing_isolates_are_an_isolation_split() -> None:
    machine = Machine()
    machine.root_port("00:02.0", to=1, acs=OFF)
    machine.endpoint("01:00.0")

    found = only(check(seen(machine, "00:02.0 | 01:00.0")))

    assert (found.kind, names(found.devices)) == ("isolation-split", "00:02.0 01:00.0")
    assert "control 0x0000 lacks SV|RR|CR|UF" in found.reasons[0].text


def test_the_stronger_kind_names_a_split_with_both_causes() -> None:
    assert kinds(check(seen(thread(), "00:02.0 | 01:00.0 | 02:00.0"))) == ["alias-split critical"]


def test_one_defect_is_one_finding_in_the_founding_topology() -> None:
    report = check(seen(thread(), "02:00.0 | 00:02.0"))

    assert kinds(report) == ["isolation-split critical", "ungrouped critical"]
    assert [names(one.devices) for one in report.findings] == ["00:02.0 02:00.0", "01:00.0"]
    assert names(report.ungrouped) == "01:00.0"


def test_a_bridge_alone_without_a_group_is_a_warning() -> None:
    machine = Machine()
    machine.root_port("00:02.0", to=1, acs=ON, class_code=0x060400)
    machine.endpoint("00:03.0")

    found = only(check(seen(machine, "00:03.0")))

    assert (found.kind, found.severity) == ("ungrouped", "warning")


@pytest.mark.parametrize(("grouped", "about"), [("00:02.0 | 01:00.0", "02:00.0"), ("00:02.0 | 02:00.0", "01:00.0")])
def test_an_ungrouped_function_that_shares_a_requester_id_is_critical(grouped: str, about: str) -> None:
    found = only(check(seen(thread(ON), grouped)))

    assert (found.kind, found.severity, names(found.devices)) == ("ungrouped", "critical", about)
    assert "share requester ID 0000:02:00.0" in found.reasons[1].text


def test_a_group_wider_than_the_model_demands_is_information() -> None:
    machine = Machine()
    machine.endpoint("00:03.0")
    machine.endpoint("00:04.0")

    report = check(seen(machine, "00:03.0 00:04.0"))

    assert kinds(report) == ["merged info"]
    assert (report.status, report.exit_status(), report.exit_status(FailOn.INFO)) == (Status.OK, 0, 1)


@pytest.mark.parametrize(
    ("iommu", "severity"),
    [("dmar0", "warning"), ("ivhd0", "warning"), ("smmu3.0x0000000009050000", "info")],
)
def test_groups_as_if_acs_were_still_off_are_a_warning_where_acs_comes_first(iommu: str, severity: str) -> None:
    machine = Machine(kernel="6.12.80")
    machine.root_port("00:02.0", to=1, acs=ON)
    machine.endpoint("01:00.0")

    report = check(seen(machine, "00:02.0 01:00.0", iommu=iommu))

    assert kinds(report) == [f"merged {severity}"]
    assert ("ACS was switched on too late" in only(report).reasons[0].text) is (severity == "warning")


def test_a_merged_group_that_late_acs_does_not_explain_stays_information() -> None:
    machine = Machine()
    machine.root_port("00:02.0", to=1, acs=ON)
    machine.endpoint("01:00.0")
    machine.endpoint("00:03.0")

    assert kinds(check(seen(machine, "00:02.0 01:00.0 00:03.0"))) == ["merged info"]


def test_a_group_may_be_both_split_and_merged() -> None:
    machine = Machine()
    machine.root_port("00:02.0", to=1, acs=OFF)
    machine.endpoint("01:00.0")
    machine.endpoint("00:03.0")

    report = check(seen(machine, "00:02.0 00:03.0 | 01:00.0"))

    assert kinds(report) == ["isolation-split critical", "merged info"]


def test_no_group_at_all_is_one_finding() -> None:
    report = check(seen(thread(), "", iommu="0000:00:01.0"))

    found = only(report)
    assert (found.kind, found.severity, names(found.devices)) == ("no-groups", "critical", "00:02.0 01:00.0 02:00.0")
    assert found.expected == (frozenset(Address.parse(one) for one in ("00:02.0", "01:00.0", "02:00.0")),)


def test_an_iommu_that_nobody_uses_is_no_finding() -> None:
    report = check(seen(thread(), "", iommu=None))

    assert (report.status, report.expected, report.ungrouped) == (Status.NO_IOMMU, (), ())
    assert len(report.without) == 3
    assert (report.exit_status(), report.exit_status(require_iommu=True)) == (0, 1)


def test_contradictions_in_sysfs_are_warnings() -> None:
    torn = Contradiction(Complaint.IN_TWO_GROUPS, (Address.parse("00:03.0"),), "groups 1 and 2 both list it")
    machine = Machine()
    machine.endpoint("00:03.0")

    found = only(check(seen(machine, "00:03.0", contradictions=(torn,))))

    assert (found.kind, found.severity, found.reasons[0].text) == ("inconsistent", "warning", torn.detail)


def test_a_switch_without_acs_lets_its_ports_meet() -> None:
    machine = Machine()
    machine.root_port("00:02.0", to=1, acs=ON)
    machine.switch_upstream("01:00.0", to=2)
    machine.switch_downstream("02:00.0", to=3, acs=ON)
    machine.switch_downstream("02:01.0", to=4, acs=OFF)

    report = check(seen(machine, "00:02.0 | 01:00.0 | 02:00.0 | 02:01.0"))

    assert (report.status, kinds(report)) == (Status.OK, ["unisolated info"])
    assert only(report).reasons[0].text.startswith("0000:02:01.0: not isolated: ACS capability")


def test_functions_that_share_a_ghost_meet_under_its_requester_id() -> None:
    machine = Machine()
    machine.endpoint("00:03.0", ids="9005:0285", subsystem="9005:02bb")
    machine.endpoint("00:04.0", ids="9005:0285", subsystem="9005:02bb")

    found = only(check(seen(machine, "00:03.0 | 00:04.0")))

    assert (found.kind, names(found.devices)) == ("unisolated", "00:03.0 00:04.0")
    assert "0000:00:01.0" in found.reasons[0].text


def test_ghosts_within_one_group_are_nobodys_business() -> None:
    machine = Machine()
    machine.root_port("00:02.0", to=1, acs=OFF)
    machine.endpoint("01:02.0", ids="9005:0285", subsystem="9005:02bb")
    machine.endpoint("01:03.0", ids="9005:0285", subsystem="9005:02bb")

    assert check(seen(machine, "00:02.0 01:02.0 01:03.0")).findings == ()


def test_within_a_device_an_exposed_function_reaches_an_isolated_one() -> None:
    machine = Machine()
    machine.endpoint("00:03.0", mf=True, acs=ON)
    machine.endpoint("00:03.1")

    found = only(check(seen(machine, "00:03.0 | 00:03.1")))

    assert (found.kind, names(found.devices)) == ("unisolated", "00:03.0 00:03.1")


def test_missing_registers_are_undecidable_but_certain_splits_stay() -> None:
    machine = thread()
    machine.endpoint("00:03.0", mf=True)
    machine.endpoint("00:03.1")
    machine.hide_extended("00:03.0")

    report = check(seen(machine, "00:02.0 01:00.0 | 02:00.0 | 00:03.0 | 00:03.1"))

    assert kinds(report) == ["alias-split critical", "undecidable warning"]
    assert (report.status, report.exit_status(), report.exit_status(FailOn.NEVER)) == (Status.FINDINGS, 1, 3)
    assert (report.expected, len(report.finest or ()), len(report.coarsest or ())) == (None, 3, 2)


def test_a_merge_across_the_coarsest_closure_is_certain() -> None:
    machine = Machine()
    machine.root_port("00:02.0", to=1)
    machine.endpoint("01:00.0")
    machine.endpoint("00:04.0")
    machine.hide_capabilities("00:02.0")

    report = check(seen(machine, "00:02.0 01:00.0 00:04.0"))

    assert kinds(report) == ["undecidable warning", "merged info"]


def test_bytes_that_cannot_change_the_partition_leave_it_decided() -> None:
    machine = Machine()
    machine.root_port("00:02.0", to=1)
    machine.hide_capabilities("00:02.0")

    report = check(seen(machine, "00:02.0"))

    assert (report.status, report.expected, report.config_complete) == (Status.OK, report.actual.groups, False)


@pytest.mark.parametrize(
    ("facts", "why"),
    [
        ({"kernel_release": "6.14.0-1007-nvidia"}, "-nvidia"),
        ({"iommus": {"s390-iommu.00000001": ()}}, "s390"),
        ({"iommus": {"iommu-phb0000": ()}}, "powerpc"),
        ({"groups": {0: IommuGroup(number=0, members=(Address.parse("00:03.0"),), name="domain0-pe2")}}, "powerpc"),
    ],
)
def test_other_algorithms_are_not_judged(facts: dict[str, Any], why: str) -> None:
    machine = Machine()
    machine.endpoint("00:03.0")
    machine.endpoint("00:04.0")

    report = check(replace(seen(machine, "00:03.0 | 00:04.0"), **facts))

    assert (report.status, report.judged, report.expected, report.exit_status()) == ("undecidable", False, None, 3)
    assert why in only(report).reasons[0].text


def test_groups_that_were_not_captured_are_not_missed() -> None:
    report = check(seen(thread(), "", groups_listed=False))

    assert (report.status, report.expected) == (Status.UNDECIDABLE, None)
    assert "not in this snapshot" in only(report).reasons[0].text


def test_vfio_groups_without_an_iommu_are_no_groups() -> None:
    machine = Machine()
    machine.endpoint("00:03.0")
    group = IommuGroup(number=0, members=(Address.parse("00:03.0"),), name="vfio-noiommu")

    report = check(replace(seen(machine, "00:03.0", iommu=None), groups={0: group}))

    assert (report.status, report.actual.groups) == (Status.NO_IOMMU, ())


def test_links_alone_tell_the_groups() -> None:
    report = check(replace(seen(thread(), "00:02.0 01:00.0 02:00.0"), groups={}, groups_listed=False))

    assert (report.status, len(report.actual.groups)) == (Status.OK, 1)


def test_the_override_counts_only_where_the_groups_show_it() -> None:
    machine = Machine()
    machine.root_port("00:02.0", to=1)
    machine.endpoint("01:00.0")
    asked = {"cmdline": "pcie_acs_override=downstream,multifunction"}

    patched = check(seen(machine, "00:02.0 | 01:00.0", **asked))
    unpatched = check(seen(machine, "00:02.0 01:00.0", **asked))
    silent = check(seen(machine, "00:02.0 | 01:00.0"))

    assert (kinds(patched), len(patched.expected or ())) == (["unisolated info"], 2)
    assert (kinds(unpatched), len(unpatched.expected or ())) == ([], 1)
    assert kinds(silent) == ["isolation-split critical"]


def test_the_override_is_read_from_the_command_line() -> None:
    assert parse_override("quiet pcie_acs_override=downstream,id:8086:1d10,nonsense") == (
        frozenset({Override.DOWNSTREAM}),
        frozenset({(0x8086, 0x1D10)}),
    )
    assert parse_override("quiet") == (frozenset(), frozenset())


def test_an_unreadable_kernel_is_said_aloud() -> None:
    report = check(seen(thread(), "00:02.0 01:00.0 02:00.0", kernel_release="mystery"))

    assert report.notes == ("the kernel version 'mystery' is unreadable; judged as 7.3, the newest modelled",)
    assert check(replace(seen(thread()), kernel_release=None)).notes[0].startswith("the snapshot names no kernel")


def test_a_kernel_older_than_the_model_is_said_aloud() -> None:
    report = check(seen(thread(kernel="4.18.0-553.el8"), "00:02.0 01:00.0 02:00.0"))

    assert report.notes == ("kernel 4.18 is older than all that are modelled; judged by the tables of 5.10",)


def test_another_kernel_can_be_asked_for() -> None:
    machine = Machine(kernel="7.3")
    machine.root_port("00:02.0", to=1, ids="111d:80b5", acs=AcsRegisters(0x1D, 0x1C))
    machine.endpoint("01:00.0")
    snapshot = seen(machine, "00:02.0 | 01:00.0")

    assert check(snapshot).status is Status.OK
    assert kinds(check(snapshot, kernel=requested("6.12"))) == ["isolation-split critical"]


def test_ids_do_not_depend_on_group_numbers_or_order() -> None:
    one = check(seen(thread(), "02:00.0 | 00:02.0"))
    other = check(seen(thread(), "00:02.0 | 02:00.0"))

    assert [found.id for found in one.findings] == [found.id for found in other.findings]
    assert len({found.id for found in one.findings}) == 2


def test_findings_can_be_left_out_with_their_effect() -> None:
    report = check(seen(thread(), "02:00.0 | 00:02.0"))

    kept = report.filtered(only=[Kind.UNGROUPED])
    dropped = report.filtered(ignored=[(Kind.UNGROUPED, Address.parse("01:00.0")), (Kind.ISOLATION_SPLIT, None)])
    elsewhere = report.filtered(ignored=[(Kind.UNGROUPED, Address.parse("09:00.0"))])

    assert kinds(kept) == ["ungrouped critical"]
    assert (dropped.findings, dropped.status, dropped.exit_status()) == ((), Status.OK, 0)
    assert elsewhere == report


@pytest.mark.parametrize(("statuses", "overall"), [([], 0), ([0, 3], 3), ([3, 1, 0], 1), ([1, 4, 3], 4), ([0, 0], 0)])
def test_the_worst_source_decides_the_exit_status(statuses: list[int], overall: int) -> None:
    assert overall_exit_status(statuses) == overall


def test_a_source_that_cannot_be_read_has_the_status_error() -> None:
    assert Failure("x", "x: gone").status == "error"


def test_long_reasons_are_cut_with_their_number() -> None:
    machine = Machine()
    machine.root_port("00:02.0", to=1)
    for device in range(20):
        machine.endpoint(f"01:{device:02x}.0")
    apart = " | ".join(str(one) for one in machine.functions)

    assert only(check(seen(machine, apart))).reasons[-1].text == "and 8 further reasons"


def test_an_empty_machine_is_no_machine_with_an_iommu() -> None:
    assert check(Snapshot(source="nothing")).status is Status.NO_IOMMU


def test_expected_groups_do_not_depend_on_who_shares_one() -> None:
    right = check(seen(thread(), "00:02.0 01:00.0 02:00.0"))
    wrong = check(seen(thread(), "00:02.0 | 01:00.0 02:00.0"))

    assert frozenset(right.expected or ()) == frozenset(wrong.expected or ()) == partition("00:02.0 01:00.0 02:00.0")


def test_functions_that_only_an_ungrouped_bridge_could_join_are_not_isolated() -> None:
    machine = Machine(kernel="6.1")
    machine.root_port("00:02.0", to=1, acs=ON, driver="pcieport", class_code=0x060400)
    machine.pcie_to_pci("01:00.0", to=2, class_code=0x088000)
    machine.conventional("02:01.0", driver="e1000")
    machine.conventional("02:02.0", driver="e1000")

    report = check(seen(machine, "00:02.0 | 02:01.0 | 02:02.0", iommu="smmu3.0x0"))

    assert (report.status, kinds(report)) == (Status.OK, ["unisolated info"])
    assert names(only(report).devices) == "02:01.0 02:02.0"
    assert "requester ID 0000:02:00.0" in only(report).reasons[0].text


def test_virtual_functions_can_be_reached_from_an_exposed_physical_one() -> None:
    machine = Machine()
    machine.root_port("00:02.0", to=1, acs=ON)
    machine.endpoint("01:00.0", mf=True)
    machine.endpoint("01:00.1")
    machine.vf("01:10.0", of="01:00.0")
    machine.vf("02:10.0", of="01:00.0")

    found = only(check(seen(machine, "00:02.0 | 01:00.0 01:00.1 | 01:10.0 | 02:10.0")))

    assert (found.kind, names(found.devices)) == ("unisolated", "01:00.0 01:00.1 01:10.0 02:10.0")


def test_the_override_is_seen_at_work_beside_another_defect() -> None:
    machine = Machine()
    machine.root_port("00:02.0", to=1)
    machine.endpoint("01:00.0")
    machine.endpoint("00:03.0")
    machine.endpoint("00:04.0")

    report = check(
        seen(machine, "00:02.0 | 01:00.0 | 00:03.0 00:04.0", cmdline="pcie_acs_override=downstream,multifunction")
    )

    assert kinds(report) == ["merged info", "unisolated info"]


def test_a_kernel_that_is_not_known_may_wait_for_drivers() -> None:
    machine = Machine()
    machine.rciep("00:00.0", class_code=0x060000)
    machine.endpoint("00:03.0", driver="e1000e")

    report = check(seen(machine, "00:03.0", iommu="smmu3.0x0", kernel_release=None))

    assert (report.findings, names(tuple(one for one, _ in report.without))) == ((), "00:00.0")


def test_a_function_of_which_a_capture_holds_nothing_is_not_missed() -> None:
    machine = Machine()
    machine.endpoint("00:03.0")
    machine.endpoint("00:04.0")
    machine.change("00:04.0", vendor=None, device=None)

    assert check(seen(machine, "00:03.0")).findings == ()


def test_an_iommu_that_serves_other_devices_alone_is_undecidable_without_firmware() -> None:
    machine = Machine()
    machine.endpoint("00:03.0")
    group = IommuGroup(number=0, members=(), others=("arm-smmu-user",))

    report = check(replace(seen(machine, "", iommu="smmu3.0x0"), groups={0: group}))

    assert report.status is Status.UNDECIDABLE


def test_ties_that_hinge_on_the_kernel_version_say_so() -> None:
    machine = Machine(kernel="6.1")
    machine.root_port("00:02.0", to=1, acs=ON)
    machine.pcie_to_pci("01:00.0", to=2, ids="1a03:1150")
    machine.conventional("02:00.0")

    found = only(check(seen(machine, "00:02.0 | 01:00.0 | 02:00.0")))

    assert all("by the device tables of 6.1" in reason.text for reason in found.reasons)
