# SPDX-License-Identifier: GPL-2.0-or-later
"""Each cause is named for a machine that has it, and not for one that nearly has it."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from iommud import Kind, Report, check
from iommud.causes.cause import Basis, Cause, CauseId
from iommud.causes.explain import explain_causes
from iommud.snapshot import IommuGroup, Snapshot
from tests.firmware.test_iort import FIRST, ROOT, SMMU_V3, id_map, iort, node
from tests.firmware.test_ivrs import ALIAS, ALL, ivhd, ivrs, long, short
from tests.firmware.test_viot import iommu_pci, pci_range, viot
from tests.machines import OFF, ON, Machine
from tests.verdict.seen import seen, thread
from tests.verdict.test_survey import MAP, tree

VIOT = {"VIOT": viot(iommu_pci(0, 8), pci_range(0, 0xFFFF, 48))}
IORT = {"IORT": iort(node(SMMU_V3), node(ROOT, id_map(0, 0x10000, 0, FIRST)))}
HOLEY_IORT = {
    "IORT": iort(node(SMMU_V3), node(ROOT, id_map(0, 0x200, 0, FIRST), id_map(0x208, 0x100, 0x208, FIRST), at=None))
}
IVRS = {"IVRS": ivrs(ivhd(0x10, short(ALL), long(ALIAS, 0x88, 0x90), long(ALIAS, 0x90, 0x80)))}
"""00:11.0 sends as 00:12.0 too, and that one as 00:10.0."""
SHARING_IVRS = {"IVRS": ivrs(ivhd(0x10, short(ALL), long(ALIAS, 0x89, 0x80)))}
"""00:11.1 sends as 00:10.0 too."""
SMMU, VIRTIO = "smmu3.0x0000000009050000", "0000:00:01.0"


def two_nics(kernel: str = "6.12", port_acs: Any = None, first: str = "02:01.0") -> Machine:
    """The founding topology with two NICs, neither at device number 0 unless asked for."""
    machine = thread(port_acs, kernel=kernel)
    del machine.functions[min(one for one in machine.functions if one.bus == 2)]
    machine.conventional(first, driver="e1000", class_code=0x020000)
    machine.conventional("02:02.0", driver="e1000", class_code=0x020000)
    return machine


def port_and_nic(acs: Any, kernel: str = "7.3") -> Machine:
    machine = Machine(kernel=kernel)
    machine.root_port("00:02.0", to=1, acs=acs, driver="pcieport", class_code=0x060400)
    machine.endpoint("01:00.0", driver="e1000e", class_code=0x020000)
    return machine


def port_and_ntb(kernel: str) -> Machine:
    machine = port_and_nic(ON, kernel)
    machine.change("01:00.0", vendor=0x10B5, device=0x87B0)
    return machine


def chained_aliases() -> Machine:
    """The machine of ``IVRS``."""
    machine = Machine()
    for number in (0x10, 0x11, 0x12):
        machine.conventional(f"00:{number:x}.0")
    return machine


def silent_first() -> Machine:
    """A slot whose function 0 keeps silent about its function 1, which sends as the device before it, too."""
    machine = Machine()
    machine.conventional("00:10.0")
    machine.conventional("00:11.0", mf=False)
    machine.conventional("00:11.1", mf=True)
    return machine


def behind_a_host_bridge(kernel: str) -> Machine:
    machine = port_and_nic(ON, kernel)
    machine.rciep("00:00.0", class_code=0x060000)
    return machine


def two_functions(bit: bool | None) -> Machine:
    """A device of two functions without ACS in a port with ACS; whether function 1 says that there are several."""
    machine = Machine(kernel="6.12")
    machine.root_port("00:02.0", to=1, acs=ON, driver="pcieport", class_code=0x060400)
    machine.endpoint("01:00.0", mf=True, driver="e1000e", class_code=0x020000)
    machine.endpoint("01:00.1", mf=bit, driver="e1000e", class_code=0x020000)
    return machine


def without_port_driver() -> Machine:
    machine = thread()
    machine.change("00:02.0", driver=None)
    return machine


def causes_of(report: Report) -> list[Cause]:
    return [cause for found in report.causes.values() for cause in found]


def ids(report: Report) -> set[str]:
    return {cause.id.value for cause in causes_of(report)}


def no_iommu_group(snapshot: Snapshot) -> Snapshot:
    """VFIO's stand-in for the NIC, number 9."""
    nic = max(one.address for one in snapshot.functions)
    group = IommuGroup(number=9, members=(nic,), name="vfio-noiommu")
    functions = tuple(replace(one, group=9) if one.address == nic else one for one in snapshot.functions)
    return replace(snapshot, functions=functions, groups={**snapshot.groups, 9: group})


PLUGGED = ("pci 0000:01:00.0: Adding to iommu group 1", "pci 0000:01:00.1: Adding to iommu group 2")
DT = {"device_tree": tree(MAP)}

# Cause; a machine that has it; the same, or nearly, without it.
CASES: list[tuple[CauseId, Callable[[], Snapshot], Callable[[], Snapshot]]] = [
    (
        CauseId.NEVER_JOINED,
        lambda: seen(chained_aliases(), "00:10.0 00:12.0 | 00:11.0", iommu="ivhd0", tables=IVRS),
        lambda: seen(chained_aliases(), "00:10.0 | 00:11.0 00:12.0", iommu="ivhd0", tables=IVRS),
    ),
    (
        CauseId.NEVER_JOINED,
        lambda: seen(silent_first(), "00:10.0 00:11.1 | 00:11.0", iommu="ivhd0", tables=SHARING_IVRS),
        lambda: seen(silent_first(), "00:10.0 | 00:11.0 00:11.1", iommu="ivhd0", tables=SHARING_IVRS),
    ),
    (
        CauseId.BRIDGES_NOT_PROBED,
        lambda: seen(without_port_driver(), "02:00.0", iommu=VIRTIO, tables=VIOT, cmdline="pcie_ports=compat"),
        lambda: seen(thread(), "00:02.0 02:00.0", iommu=VIRTIO, tables=VIOT),
    ),
    (
        CauseId.VIOT_ALIAS_BUG,
        lambda: seen(thread(kernel="6.1"), "00:02.0 02:00.0", iommu=VIRTIO, tables=VIOT),
        lambda: seen(thread(kernel="6.12"), "00:02.0 02:00.0", iommu=VIRTIO, tables=VIOT),
    ),
    (
        CauseId.FIRMWARE_COVERAGE,
        lambda: seen(two_nics(), "00:02.0 01:00.0", iommu=SMMU, tables=HOLEY_IORT),
        lambda: seen(two_nics(), "00:02.0 01:00.0", iommu=SMMU, tables=IORT),
    ),
    (
        CauseId.SMMUV3_DUPLICATE_STREAM,
        lambda: seen(thread(kernel="6.8"), "00:02.0 01:00.0", iommu=SMMU, tables=IORT),
        lambda: seen(thread(kernel="6.15"), "00:02.0 01:00.0", iommu=SMMU, tables=IORT),
    ),
    (
        CauseId.SMMUV3_DUPLICATE_STREAM,  # a switch's NTB, which the kernel has send as everything on its bus
        lambda: seen(port_and_ntb("6.1.137"), "00:02.0", iommu=SMMU, tables=IORT),
        lambda: seen(port_and_ntb("6.1.138"), "00:02.0", iommu=SMMU, tables=IORT),
    ),
    (
        CauseId.SMMUV3_STREAM_CONFLICT,
        lambda: seen(two_nics(), "00:02.0 01:00.0 02:01.0", iommu=SMMU, tables=IORT),
        lambda: seen(two_nics(), "00:02.0 01:00.0 02:01.0"),
    ),
    (
        CauseId.VIRTIO_ENDPOINT_UNKNOWN,
        lambda: seen(two_nics(), "00:02.0 01:00.0", iommu=VIRTIO, tables=VIOT),
        lambda: seen(two_nics(first="02:00.0"), "00:02.0 01:00.0 02:02.0", iommu=VIRTIO, tables=VIOT),
    ),
    (
        CauseId.VIRTIO_INSTANCE_LOOKUP,
        lambda: seen(port_and_nic(ON, "6.16.3"), iommu=VIRTIO, tables=VIOT),
        lambda: seen(port_and_nic(ON, "6.16.4"), iommu=VIRTIO, tables=VIOT),
    ),
    (
        CauseId.VIRTIO_INSTANCE_LOOKUP,
        lambda: seen(behind_a_host_bridge("6.16.3"), "00:02.0 | 01:00.0", iommu=VIRTIO, **DT),
        lambda: seen(behind_a_host_bridge("6.16.3"), "00:02.0 | 01:00.0", iommu=VIRTIO, tables=VIOT),
    ),
    (
        CauseId.PASS_ABANDONED,
        lambda: seen(two_nics("6.18"), iommu=VIRTIO, tables=VIOT),
        lambda: seen(thread(kernel="6.18"), iommu=VIRTIO, tables=VIOT),
    ),
    (
        CauseId.PASS_ABANDONED,
        lambda: seen(two_nics("6.16.12"), iommu=VIRTIO, tables=VIOT),
        lambda: seen(two_nics("6.14"), iommu=VIRTIO, tables=VIOT),
    ),
    (
        CauseId.LATE_ACS,
        lambda: seen(port_and_nic(ON, "6.12.80"), "00:02.0 01:00.0"),
        lambda: seen(port_and_nic(ON, "6.12.83"), "00:02.0 01:00.0"),
    ),
    (
        CauseId.LATE_ACS,
        lambda: seen(port_and_nic(ON, "6.12"), "00:02.0 01:00.0", iommu=SMMU, **DT),
        lambda: seen(port_and_nic(ON, "7.0"), "00:02.0 01:00.0", iommu=SMMU, **DT),
    ),
    (
        CauseId.LATE_ACS,  # from 6.15 on the first function asks for it
        lambda: seen(port_and_nic(ON, "6.18.15"), "00:02.0 01:00.0", iommu=SMMU, **DT),
        lambda: seen(behind_a_host_bridge("6.18.15"), "00:00.0 | 00:02.0 01:00.0", iommu=SMMU, **DT),
    ),
    (
        CauseId.LATE_ACS,
        lambda: seen(behind_a_host_bridge("6.14"), "00:00.0 | 00:02.0 01:00.0", iommu=SMMU, **DT),
        lambda: seen(behind_a_host_bridge("6.16"), "00:00.0 | 00:02.0 01:00.0", iommu=SMMU, **DT),
    ),
    (
        CauseId.LATE_ACS,
        lambda: seen(port_and_nic(ON, "5.19"), "00:02.0 01:00.0", iommu=VIRTIO, tables=VIOT),
        lambda: seen(port_and_nic(ON, "6.1"), "00:02.0 01:00.0", iommu=VIRTIO, tables=VIOT),
    ),
    (
        CauseId.LATE_ACS,  # 5.19.2 took the fix
        lambda: seen(port_and_nic(ON, "5.19.1"), "00:02.0 01:00.0", iommu=VIRTIO, tables=VIOT),
        lambda: seen(port_and_nic(ON, "5.19.2"), "00:02.0 01:00.0", iommu=VIRTIO, tables=VIOT),
    ),
    (
        CauseId.ACS_OVERRIDE,
        lambda: seen(port_and_nic(None), "00:02.0 | 01:00.0", cmdline="pcie_acs_override=downstream"),
        lambda: seen(port_and_nic(None), "00:02.0 | 01:00.0", cmdline="pcie_acs_override=multifunction"),
    ),
    (
        CauseId.PROBE_ORDER,
        lambda: seen(thread(), "02:00.0 | 01:00.0 | 00:02.0", iommu=VIRTIO, tables=VIOT),
        lambda: seen(thread(kernel="6.15"), "02:00.0 | 01:00.0 | 00:02.0", iommu=VIRTIO, tables=VIOT),
    ),
    (
        CauseId.PROBE_ORDER,  # the numbers say that the parents came first, and then they would be together
        lambda: seen(thread(), "02:00.0 | 00:02.0 01:00.0", iommu=VIRTIO, tables=VIOT),
        lambda: seen(thread(), "00:02.0 01:00.0 | 02:00.0", iommu=VIRTIO, tables=VIOT),
    ),
    (
        CauseId.LATE_MULTIFUNCTION,
        lambda: seen(two_functions(None), "00:02.0 | 01:00.0 | 01:00.1", log=PLUGGED),
        lambda: seen(two_functions(True), "00:02.0 | 01:00.0 | 01:00.1", log=PLUGGED),
    ),
    (
        CauseId.LATE_MULTIFUNCTION,
        lambda: seen(two_functions(False), "00:02.0 | 01:00.0 | 01:00.1", log=PLUGGED),
        lambda: seen(two_functions(False), "00:02.0 | 01:00.0 | 01:00.1"),
    ),
    *(
        (
            CauseId.PROBE_RACE,
            lambda kernel=kernel, iommu=iommu, tables=tables: seen(
                port_and_nic(ON, kernel), "00:02.0", iommu=iommu, tables=tables
            ),
            nearly,
        )
        for kernel, iommu, tables, nearly in (
            (
                "7.2",
                VIRTIO,
                VIOT,
                lambda: seen(port_and_nic(ON, "6.14"), "00:02.0", iommu=VIRTIO, tables=VIOT),
            ),
            # The log shows that it had a group.
            (
                "6.15",
                SMMU,
                IORT,
                lambda: seen(
                    port_and_nic(ON, "6.15"),
                    "00:02.0",
                    iommu=SMMU,
                    tables=IORT,
                    log=("pci 0000:00:02.0: Adding to iommu group 0", "pci 0000:01:00.0: Adding to iommu group 1"),
                ),
            ),
            # The kernel makes up for it where a device tree describes the machine.
            ("7.3", VIRTIO, VIOT, lambda: seen(port_and_nic(ON, "7.3"), "00:02.0", iommu=SMMU, **DT)),
            # Whoever shares a requester ID may be refused for it.
            ("7.3", SMMU, IORT, lambda: seen(two_nics("7.3"), "00:02.0 01:00.0 02:01.0", iommu=SMMU, tables=IORT)),
        )
    ),
    (
        CauseId.ACS_CHANGED_SINCE,
        lambda: seen(port_and_nic(ON), "00:02.0 01:00.0"),
        lambda: seen(port_and_nic(None), "00:02.0 01:00.0"),
    ),
    (
        CauseId.ACS_CHANGED_SINCE,
        lambda: seen(port_and_nic(OFF), "00:02.0 | 01:00.0"),
        lambda: seen(port_and_nic(None), "00:02.0 | 01:00.0"),
    ),
    (
        CauseId.IOMMU_DRIVER_REFUSED,
        lambda: seen(port_and_nic(ON), iommu=None, tables=VIOT, log=("virtio_iommu: probe failed with error -22",)),
        lambda: seen(port_and_nic(ON), iommu=None, tables=VIOT, log=("virtio_iommu virtio0: input address: 64 bits",)),
    ),
    (
        CauseId.IOMMU_DRIVER_DEFERRED,
        lambda: seen(port_and_nic(ON), iommu=None, tables=IORT, log=("smmu 9.smmu: deferred probe pending",)),
        lambda: seen(port_and_nic(ON), iommu=None, tables=IORT, log=("sound 3.codec: deferred probe pending",)),
    ),
    (
        CauseId.IOMMU_DRIVER_MISSING,
        lambda: seen(port_and_nic(ON), iommu=None, tables=VIOT, modules=("e1000e",)),
        lambda: seen(port_and_nic(ON), iommu=VIRTIO, tables=VIOT, modules=("e1000e",)),
    ),
    (
        CauseId.VFIO_NOIOMMU,
        lambda: no_iommu_group(seen(port_and_nic(ON), "00:02.0")),
        lambda: seen(port_and_nic(ON), "00:02.0"),
    ),
    (
        CauseId.DOWNSTREAM_KERNEL,
        lambda: seen(port_and_nic(ON, "6.14.0-1004-nvidia"), "00:02.0 01:00.0"),
        lambda: seen(port_and_nic(ON, "6.14.0-1004-generic"), "00:02.0 01:00.0"),
    ),
    (
        CauseId.FOREIGN_DRIVER,
        lambda: seen(port_and_nic(ON), "00:02.0 | 01:00.0", iommu="s390-iommu.00000010"),
        lambda: seen(port_and_nic(ON), "00:02.0 | 01:00.0", iommu=SMMU, tables=IORT),
    ),
    (
        CauseId.FOREIGN_DRIVER,
        lambda: seen(port_and_nic(ON), "00:02.0 01:00.0", iommu="smmu.0x00000000fd800000"),
        lambda: seen(port_and_nic(ON), "00:02.0 01:00.0", iommu=SMMU, tables=IORT),
    ),
]
EVIDENT = {
    CauseId.IOMMU_DRIVER_REFUSED,
    CauseId.IOMMU_DRIVER_DEFERRED,
    CauseId.IOMMU_DRIVER_MISSING,
    CauseId.VFIO_NOIOMMU,
    CauseId.DOWNSTREAM_KERNEL,
    CauseId.FOREIGN_DRIVER,
}


@pytest.mark.parametrize(("cause", "has_it", "nearly"), CASES, ids=[f"{n}-{case[0]}" for n, case in enumerate(CASES)])
def test_a_cause_is_named_where_it_reproduces_and_only_there(
    cause: CauseId, has_it: Callable[[], Snapshot], nearly: Callable[[], Snapshot]
) -> None:
    found = causes_of(check(has_it()))
    named = next((one for one in found if one.id is cause), None)

    assert named is not None, [one.id for one in found]
    assert named.basis is (Basis.EVIDENCE if cause in EVIDENT else Basis.REPLAY)
    assert named.summary
    assert named.evidence
    assert named.remedy
    assert cause not in {one.id for one in causes_of(check(nearly()))}


def test_every_cause_has_a_machine_here() -> None:
    assert {case[0] for case in CASES} == set(CauseId)


def test_of_a_bridge_left_out_and_a_bad_order_both_are_named_and_the_bridge_has_only_its_own() -> None:
    report = check(seen(thread(kernel="6.1"), "02:00.0 | 00:02.0", iommu=VIRTIO, tables=VIOT))
    by_kind = {one.kind: [cause.id for cause in report.causes[one.id]] for one in report.findings}

    assert by_kind == {
        Kind.ISOLATION_SPLIT: [CauseId.VIOT_ALIAS_BUG, CauseId.PROBE_ORDER],
        Kind.UNGROUPED: [CauseId.VIOT_ALIAS_BUG],
    }


def test_a_bridge_left_out_is_explained_although_qemu_refused_all_that_is_below_it() -> None:
    report = check(seen(two_nics("6.1"), "00:02.0", iommu=VIRTIO, tables=VIOT))

    found = {finding.devices: report.causes.get(finding.id, ()) for finding in report.findings}
    assert {str(devices[0]): [one.id for one in causes] for devices, causes in found.items()} == {
        "0000:01:00.0": [CauseId.VIOT_ALIAS_BUG],
        "0000:02:01.0": [CauseId.VIRTIO_ENDPOINT_UNKNOWN],
        "0000:02:02.0": [CauseId.VIRTIO_ENDPOINT_UNKNOWN],
    }
    bridge = next(one for one in causes_of(report) if one.id is CauseId.VIOT_ALIAS_BUG)
    assert bridge.evidence[1] == "0000:01:00.0 has no group, though the port above has, and a driver matched below"


def test_a_bridge_is_not_said_to_be_left_out_where_no_driver_matched_anything_below_it() -> None:
    machine = two_nics("6.1")
    machine.change("02:01.0", driver=None)
    machine.change("02:02.0", driver=None)
    report = check(seen(machine, "00:02.0", iommu=VIRTIO, tables=VIOT))

    assert CauseId.VIOT_ALIAS_BUG not in {cause.id for cause in causes_of(report)}


def test_a_split_that_nothing_reproduces_is_unexplained() -> None:
    report = check(seen(thread(kernel="7.3"), "02:00.0 | 01:00.0 | 00:02.0"))

    assert [one.kind for one in report.findings] == [Kind.ALIAS_SPLIT]
    assert report.causes == {}


def test_a_function_left_out_by_a_race_is_told_with_its_driver_and_the_pass() -> None:
    log = ("pci 0000:00:02.0: Adding to iommu group 0",)
    report = check(seen(port_and_nic(ON), "00:02.0", iommu=VIRTIO, tables=VIOT, log=log))
    (cause,) = causes_of(report)

    assert cause.summary.startswith("e1000e was being bound to 0000:01:00.0 while the IOMMU registered")
    assert cause.evidence[1] == "the kernel log shows the pass grouping 1 of the others, and not this one"
    assert (cause.since, cause.until) == ("Linux 6.15", None)


def test_findings_that_are_no_fault_of_the_kernels_have_no_causes() -> None:
    machine = Machine()
    machine.root_port("00:02.0", to=1, acs=ON)
    machine.switch_upstream("01:00.0", to=2)
    for number in (0, 1):
        machine.switch_downstream(f"02:0{number}.0", to=3 + number)
    report = check(seen(machine, "00:02.0 | 01:00.0 | 02:00.0 | 02:01.0"))

    assert [one.kind for one in report.findings] == [Kind.UNISOLATED]
    assert report.causes == {}


def test_the_order_in_the_log_is_the_only_one_that_counts() -> None:
    lines = ("e1000 0000:02:00.0: Adding to iommu group 0", "pcieport 0000:01:00.0: Adding to iommu group 1")
    groups = "02:00.0 | 00:02.0 01:00.0"
    fits = check(
        seen(thread(), groups, iommu=VIRTIO, tables=VIOT, log=("x 0000:00:02.0: Adding to iommu group 1", *lines))
    )
    backwards = check(seen(thread(), groups, iommu=VIRTIO, tables=VIOT, log=tuple(reversed(lines))))
    forwards = check(seen(thread(), groups, iommu=VIRTIO, tables=VIOT, log=lines))

    assert ids(fits) == set()
    assert ids(backwards) == set()
    assert ids(forwards) == {"probe-order"}


def test_an_order_is_shown_with_the_groups_it_gives() -> None:
    report = check(seen(thread(), "02:00.0 | 01:00.0 | 00:02.0", iommu=VIRTIO, tables=VIOT))

    assert (
        causes_of(report)[0]
        .evidence[0]
        .endswith("0000:02:00.0 (group 0), 0000:01:00.0 (group 1), 0000:00:02.0 (group 2)")
    )


def test_no_more_functions_than_needed_are_said_to_have_changed() -> None:
    machine = Machine(kernel="7.3")
    for number in (2, 3):
        machine.root_port(f"00:0{number}.0", to=number, acs=ON)
        machine.switch_upstream(f"0{number}:00.0", to=number + 8, acs=ON)
        machine.endpoint(f"{number + 8:02x}:00.0")
    report = check(seen(machine, "00:02.0 02:00.0 0a:00.0 | 00:03.0 | 03:00.0 | 0b:00.0"))

    assert [cause.summary.split(" was ")[0] for cause in causes_of(report)] == ["ACS of 0000:00:02.0"]


def test_the_log_is_asked_for_only_where_something_is_to_be_explained() -> None:
    asked: list[Snapshot] = []

    def evidence(snapshot: Snapshot) -> Snapshot:
        asked.append(snapshot)
        return replace(snapshot, log=("virtio_iommu: probe failed",))

    right, wrong = seen(port_and_nic(ON), "00:02.0 | 01:00.0"), seen(port_and_nic(ON), iommu=None, tables=VIOT)
    check(right, evidence=evidence)

    assert asked == []
    assert ids(check(wrong, evidence=evidence)) == {"iommu-driver-refused"}
    assert asked == [wrong]


def test_the_search_has_a_limit_and_says_when_it_was_hit() -> None:
    report = check(seen(thread(), "02:00.0 | 01:00.0 | 00:02.0", iommu=VIRTIO, tables=VIOT))
    bare = replace(report, causes={})
    limited, enough = explain_causes(bare, limit=2), explain_causes(bare, limit=6)

    assert limited.causes == {}
    assert limited.notes == (f"search limit: the causes of {report.findings[0].id} were not looked for to the end",)
    assert enough.causes == report.causes
    assert enough.notes == ()


def test_unread_bytes_must_not_matter_for_a_cause_to_be_named() -> None:
    machine = thread(ON)
    machine.hide_extended("00:02.0")
    snapshot = seen(machine, "02:00.0 | 01:00.0 | 00:02.0", iommu=VIRTIO, tables=VIOT)
    report = check(snapshot)
    split = next(one for one in report.findings if one.kind is Kind.ALIAS_SPLIT)

    assert [cause.id for cause in report.causes[split.id]] == [CauseId.PROBE_ORDER]
