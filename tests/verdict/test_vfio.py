# SPDX-License-Identifier: GPL-2.0-or-later
"""What VFIO hands out: the rules of old and new kernels, who is in the way, and what makes it unsafe."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iommud import check, read_sysfs
from iommud.address import Address
from iommud.pci import PortType
from iommud.snapshot import IommuGroup, Snapshot
from iommud.verdict.hazards import Hazard
from iommud.verdict.vfio import Answer, Assignment, assignment_of, assignments
from tests.firmware.test_dmar import dmar, drhd, rmrr, scope
from tests.firmware.test_iort import FIRST, ROOT, SMMU_V3, id_map, iort
from tests.firmware.test_iort import node as iort_node
from tests.firmware.test_iort import rmr as iort_rmr
from tests.firmware.test_ivrs import ALL, ivhd, ivmd, ivrs, short
from tests.machines import OFF, ON, Machine
from tests.verdict.seen import seen, thread

CAPTURES = Path(__file__).parent.parent / "fixtures" / "captures"
NIC = Address.parse("02:00.0")
ALIKE = "00:02.0 01:00.0 02:00.0"
NEW, OLD = "6.12.1", "5.18.1"


def of(snapshot: Snapshot, address: str = "02:00.0") -> Assignment:
    return assignment_of(check(snapshot), Address.parse(address))


def bound(kernel: str = NEW, *, groups: str = ALIKE, **drivers: str | None) -> Assignment:
    """The answer about the NIC of the founding topology with these drivers."""
    machine = thread(kernel=kernel)
    for name, driver in drivers.items():
        machine.change({"port": "00:02.0", "bridge": "01:00.0", "nic": "02:00.0"}[name], driver=driver)
    return of(seen(machine, groups))


def blocking(found: Assignment) -> dict[str, str | None]:
    return {str(one.address)[5:]: one.driver for one in found.members if one.blocks}


@pytest.mark.parametrize(
    ("kernel", "drivers", "blockers"),
    [
        pytest.param(OLD, {"nic": None}, {}, id="no driver, old"),
        pytest.param(NEW, {"nic": None}, {}, id="no driver, new"),
        pytest.param(OLD, {"nic": "e1000"}, {"02:00.0": "e1000"}, id="host driver, old"),
        pytest.param(NEW, {"nic": "e1000"}, {"02:00.0": "e1000"}, id="host driver, new"),
        pytest.param(OLD, {"nic": "vfio-pci"}, {}, id="vfio-pci, old"),
        pytest.param(NEW, {"nic": "vfio-pci"}, {}, id="vfio-pci, new"),
        pytest.param(NEW, {"nic": "mlx5_vfio_pci"}, {}, id="variant"),
        pytest.param(OLD, {"nic": "pci-stub"}, {}, id="pci-stub, old"),
        pytest.param(NEW, {"nic": "pci-stub"}, {}, id="pci-stub, new"),
        pytest.param(NEW, {"nic": "uio_pci_generic"}, {"02:00.0": "uio_pci_generic"}, id="uio is not VFIO"),
        pytest.param(OLD, {"nic": None, "bridge": "shpchp"}, {}, id="shpchp on a bridge, old"),
        pytest.param(NEW, {"nic": None, "bridge": "shpchp"}, {"01:00.0": "shpchp"}, id="shpchp on a bridge, new"),
        pytest.param("5.19.0", {"nic": None, "bridge": "shpchp"}, {"01:00.0": "shpchp"}, id="the first new one"),
        pytest.param(NEW, {"nic": None, "bridge": "pcieport"}, {}, id="pcieport on a bridge"),
    ],
)
def test_a_driver_blocks_by_the_rule_of_the_kernel(
    kernel: str, drivers: dict[str, str | None], blockers: dict[str, str]
) -> None:
    found = bound(kernel, groups=ALIKE, **drivers)

    assert blocking(found) == blockers
    assert found.viable is not bool(blockers)


@pytest.mark.parametrize("kernel", ["", "5.14.0-570.el9.x86_64"])
def test_where_the_release_does_not_tell_the_rule_nothing_is_guessed(kernel: str) -> None:
    doubtful, plain = bound(kernel, nic=None, bridge="shpchp"), bound(kernel, nic="e1000")

    assert (doubtful.viable, doubtful.answer) == (None, Answer.UNKNOWN)
    assert "shpchp" in doubtful.doubts[0]
    assert blocking(plain) == {"02:00.0": "e1000"}


def test_the_function_asked_for_does_not_block_itself() -> None:
    found = bound(nic="e1000")

    assert (found.viable, found.blockers, found.answer) == (False, (), Answer.YES)


def test_a_bridge_that_blocks_is_no_and_no_command_touches_it() -> None:
    found = bound(nic="e1000", bridge="shpchp")

    assert found.answer is Answer.NO
    assert [one.driver for one in found.blockers] == ["shpchp"]
    assert not any("0000:01:00.0" in line for line in found.commands)


def test_the_commands_override_release_and_bind_each_function_in_this_order() -> None:
    assert bound(nic="e1000").commands == (
        "modprobe vfio-pci",
        "echo vfio-pci > /sys/bus/pci/devices/0000:02:00.0/driver_override",
        "echo 0000:02:00.0 > /sys/bus/pci/devices/0000:02:00.0/driver/unbind",
        "echo 0000:02:00.0 > /sys/bus/pci/drivers/vfio-pci/bind",
    )


def test_a_function_without_a_driver_is_not_released() -> None:
    assert not any("unbind" in line for line in bound(nic=None).commands)


def test_what_vfio_has_needs_no_command() -> None:
    assert bound(nic="vfio-pci").commands == ()


def test_the_function_asked_for_leaves_pci_stub_and_others_stay_there() -> None:
    machine = two_ports(ON, driver="pci-stub")

    found = of(seen(machine, "00:02.0 | 01:00.0 01:00.1"), "01:00.0")

    assert [str(one.address) for one in found.to_bind] == ["0000:01:00.0"]


def two_ports(acs: Any, **facts: Any) -> Machine:
    """A NIC with two functions below one root port."""
    machine = Machine(kernel=NEW)
    machine.root_port("00:02.0", to=1, acs=acs, driver="pcieport", class_code=0x060400)
    for name in ("01:00.0", "01:00.1"):
        machine.endpoint(name, mf=True, class_code=0x020000, **facts)
    return machine


def test_the_other_functions_of_the_group_come_along_and_block() -> None:
    found = of(seen(two_ports(ON, driver="igb"), "00:02.0 | 01:00.0 01:00.1"), "01:00.0")

    assert [(str(one.address), one.driver) for one in found.blockers] == [("0000:01:00.1", "igb")]
    assert [str(one.address) for one in found.to_bind] == ["0000:01:00.0", "0000:01:00.1"]
    assert found.answer is Answer.NO


def test_a_requester_id_in_two_groups_makes_both_unsafe() -> None:
    machine = thread(kernel=NEW)
    machine.conventional("02:01.0", class_code=0x020000)
    report = check(seen(machine, "00:02.0 01:00.0 02:00.0 | 02:01.0"))

    for name in ("02:00.0", "02:01.0"):
        found = assignment_of(report, Address.parse(name))
        shared = next(one for one in found.dangers if one.hazard is Hazard.OTHER_GROUP)
        assert {Address.parse("02:00.0"), Address.parse("02:01.0")} <= set(shared.devices)
        assert (found.safe, found.answer) == (False, Answer.NO)


def test_a_bridge_in_another_group_that_takes_the_requests_makes_it_unsafe() -> None:
    found = bound(nic="vfio-pci", groups="00:02.0 01:00.0 | 02:00.0")

    assert Hazard.OTHER_GROUP in {one.hazard for one in found.dangers}


def test_a_function_without_a_group_that_shares_a_requester_id_makes_it_unsafe() -> None:
    machine = thread(kernel=NEW)
    machine.conventional("02:01.0", driver="8139too", class_code=0x020000)

    found = of(seen(machine, ALIKE))

    shared = next(one for one in found.dangers if one.hazard is Hazard.NO_GROUP)
    assert Address.parse("02:01.0") in shared.devices
    assert found.answer is Answer.NO


def test_a_split_that_check_finds_is_named_by_its_finding() -> None:
    report = check(seen(two_ports(OFF, driver=None), "00:02.0 | 01:00.0 01:00.1"))
    found = assignment_of(report, Address.parse("01:00.0"))

    assert [one.finding for one in found.dangers] == [one.id for one in report.findings]
    assert {one.hazard for one in found.dangers} == {Hazard.NOT_ISOLATED}


def test_a_switch_without_acs_reaches_what_lies_below_its_isolated_ports() -> None:
    machine = Machine(kernel=NEW)
    machine.root_port("00:02.0", to=1, acs=ON, driver="pcieport")
    machine.switch_upstream("01:00.0", to=2)
    machine.switch_downstream("02:00.0", to=3, acs=ON)
    machine.switch_downstream("02:01.0", to=4)
    machine.endpoint("03:00.0", class_code=0x020000)
    machine.endpoint("04:00.0", class_code=0x020000)

    found = of(seen(machine, "00:02.0 | 01:00.0 | 02:00.0 | 02:01.0 04:00.0 | 03:00.0"), "03:00.0")

    assert Hazard.NOT_ISOLATED in {one.hazard for one in found.dangers}


def test_a_group_that_is_merged_more_than_needed_is_safe() -> None:
    machine = Machine(kernel=NEW)
    machine.endpoint("00:03.0", driver="vfio-pci", class_code=0x020000)
    machine.endpoint("00:04.0", class_code=0x020000)

    found = of(seen(machine, "00:03.0 00:04.0"), "00:03.0")

    assert (found.viable, found.safe, found.answer) == (True, True, Answer.YES)


def test_a_function_without_a_group_cannot_be_assigned() -> None:
    found = of(seen(thread(kernel=NEW), "00:02.0 01:00.0"))

    assert found.obstacle == "0000:02:00.0 has no group"
    assert (found.members, found.commands, found.answer) == ((), (), Answer.NO)


def test_without_an_iommu_in_use_the_reason_is_given() -> None:
    found = of(seen(thread(kernel=NEW), "", iommu=None, cmdline="quiet", table_names=frozenset({"DSDT"})))

    assert found.obstacle is not None
    assert found.obstacle.startswith("0000:02:00.0 has no group: ")


def test_a_bridge_itself_cannot_be_assigned() -> None:
    found = of(seen(thread(kernel=NEW), ALIKE), "01:00.0")

    assert found.answer is Answer.NO
    assert found.obstacle == "0000:01:00.0 is a bridge, and vfio-pci takes none"
    assert found.commands == ()


def no_iommu() -> Snapshot:
    """The NIC in a no-IOMMU group, which VFIO made when it was bound."""
    machine = thread(kernel=NEW)
    machine.change("02:00.0", driver="vfio-pci")
    snapshot = seen(machine, "", iommu=None)
    functions = tuple(replace(one, group=7 if one.address == NIC else None) for one in snapshot.functions)
    group = IommuGroup(number=7, members=(NIC,), name="vfio-noiommu")
    return replace(snapshot, functions=functions, groups={7: group})


def test_a_no_iommu_group_is_viable_and_never_safe() -> None:
    found = of(no_iommu())

    assert (found.number, found.viable, found.safe, found.answer) == (7, True, False, Answer.NO)
    assert [one.hazard for one in found.dangers] == [Hazard.NO_IOMMU]
    assert [one.number for one in assignments(check(no_iommu()))] == [7]


def test_members_that_are_not_pci_leave_the_answer_open() -> None:
    snapshot = seen(two_ports(ON), "00:02.0 | 01:00.0 01:00.1")
    group = replace(snapshot.groups[1], others=("fsl-mc.0",))

    found = of(replace(snapshot, groups={**snapshot.groups, 1: group}), "01:00.0")

    assert (found.viable, found.answer) == (None, Answer.UNKNOWN)
    assert "fsl-mc.0" in found.doubts[0]


def test_a_snapshot_without_any_driver_leaves_the_answer_open() -> None:
    machine = Machine(kernel=NEW)
    machine.endpoint("00:03.0", class_code=0x020000)

    assert of(seen(machine, "00:03.0"), "00:03.0").answer is Answer.UNKNOWN


def test_unread_bytes_that_could_join_others_leave_safety_open() -> None:
    machine = Machine(kernel=NEW)
    machine.root_port("00:02.0", to=1, acs=ON, driver="pcieport", class_code=0x060400)
    machine.endpoint("01:00.0", class_code=0x020000)
    machine.endpoint("00:04.0", class_code=0x020000)
    machine.hide_extended("00:02.0")
    report = check(seen(machine, "00:02.0 | 01:00.0 | 00:04.0"))

    below, beside = (assignment_of(report, Address.parse(name)) for name in ("01:00.0", "00:04.0"))

    assert (below.safe, below.answer) == (None, Answer.UNKNOWN)
    assert (beside.safe, beside.answer) == (True, Answer.YES)


def test_groups_of_bridges_alone_are_not_listed() -> None:
    report = check(seen(two_ports(ON), "00:02.0 | 01:00.0 01:00.1"))

    assert [one.number for one in assignments(report)] == [1]


def test_a_root_complex_endpoint_alone_in_its_group_is_safe() -> None:
    machine = Machine(kernel=NEW)
    machine.add("00:03.0", PortType.ROOT_COMPLEX_INTEGRATED_ENDPOINT, driver="vfio-pci", class_code=0x020000)

    assert of(seen(machine, "00:03.0"), "00:03.0").answer is Answer.YES


def test_a_healthy_machine_with_the_founding_topology_has_no_unsafe_group() -> None:
    report = check(read_sysfs(str(CAPTURES / "6.12-amd64-intel-seed-q7.2.tar.gz")))

    assert [one.number for one in assignments(report) if one.safe is not True] == []


DRIVERS = st.sampled_from([None, "vfio-pci", "pci-stub", "pcieport", "shpchp", "e1000"])


@given(nic=DRIVERS, bridge=DRIVERS, port=st.sampled_from(["pcieport", "shpchp"]), kernel=st.sampled_from([OLD, NEW]))
def test_once_its_endpoints_are_bound_only_bridges_can_block(
    nic: str | None, bridge: str | None, port: str, kernel: str
) -> None:
    found = bound(kernel, nic=nic, bridge=bridge, port=port)
    after = {one.address: "vfio-pci" for one in found.to_bind}
    drivers = {str(one.address)[5:]: after.get(one.address, one.driver) for one in found.members}

    bound_now = bound(kernel, port=drivers["00:02.0"], bridge=drivers["01:00.0"], nic=drivers["02:00.0"])

    assert all(one.bridge for one in bound_now.members if one.blocks)
    assert bound_now.answer is found.answer


RMRR = {"DMAR": dmar(drhd(flags=1), rmrr(scope(1, 0, (2, 0)), segment=0, base=0x1000, limit=0x1FFF))}
IVMD = {"IVRS": ivrs(ivhd(0x11, short(ALL)), ivmd(0x22, 0, 0xFFF, flags=8, base=0x1000, size=0x1000))}
UNSEEN = {"IVRS": ivrs(ivhd(0x11, short(ALL)), ivmd(0x22, 0, 0xFFF, flags=0, base=0x1000, size=0x1000))}


def arm(flags: int) -> dict[str, bytes]:
    reserved = iort_rmr((0x1000, 0x1000), mappings=(id_map(0, 1, 0x200, FIRST),), flags=flags)
    return {"IORT": iort(iort_node(SMMU_V3), iort_node(ROOT, id_map(0, 0x300, 0, FIRST)), reserved)}


@pytest.mark.parametrize(
    ("tables", "kernel", "answer"),
    [
        pytest.param(RMRR, "5.10.1", Answer.NO, id="Intel, old"),
        pytest.param(RMRR, "6.12.1", Answer.NO, id="Intel, new"),
        pytest.param(IVMD, "6.5.1", Answer.YES, id="AMD, old"),
        pytest.param(IVMD, "6.6.1", Answer.NO, id="AMD, new"),
        pytest.param(IVMD, "", Answer.UNKNOWN, id="AMD, release not known"),
        pytest.param(IVMD, "5.14.0-570.el9.x86_64", Answer.UNKNOWN, id="AMD, carried back"),
        pytest.param(IVMD, "6.12.0-55.el10.x86_64", Answer.NO, id="AMD, distribution's new one"),
        pytest.param(UNSEEN, "6.12.1", Answer.YES, id="AMD, a block without effect"),
        pytest.param(arm(0), "6.5.1", Answer.YES, id="Arm, old"),
        pytest.param(arm(0), "6.12.1", Answer.UNKNOWN, id="Arm, new"),
        pytest.param(arm(1), "6.12.1", Answer.YES, id="Arm, may be moved"),
    ],
)
def test_memory_that_firmware_keeps_mapped_keeps_the_group(
    tables: dict[str, bytes], kernel: str, answer: Answer
) -> None:
    iommu = {"DMAR": "dmar0", "IVRS": "ivhd0"}.get(next(iter(tables)), "smmu3.0x0000000000000000")
    snapshot = seen(thread(kernel=kernel), ALIKE, iommu=iommu, tables=tables, table_names=frozenset(tables))

    found = of(snapshot)

    assert found.answer is answer
    kept = "firmware keeps memory 0x1000 to 0x1fff mapped for 0000:0"
    assert (found.refusal or "").startswith(kept) is (answer is Answer.NO)
    assert any(one.startswith(kept) for one in found.doubts) is (answer is Answer.UNKNOWN)


def test_a_group_that_the_kernel_refuses_is_not_viable_and_needs_no_commands() -> None:
    machine = thread()
    machine.change("02:00.0", driver="vfio-pci")
    found = of(seen(machine, ALIKE, tables=RMRR, table_names=frozenset(RMRR)))

    assert (found.viable, found.safe, found.commands) == (False, True, ())


def test_a_no_iommu_group_is_not_refused_for_memory() -> None:
    group = IommuGroup(number=0, members=(NIC,), name="vfio-noiommu")
    snapshot = seen(thread(), "02:00.0", tables=RMRR, table_names=frozenset(RMRR))

    (found,) = assignments(check(replace(snapshot, groups={0: group})))

    assert found.refusal is None
