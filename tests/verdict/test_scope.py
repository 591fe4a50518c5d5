# SPDX-License-Identifier: GPL-2.0-or-later
"""Who rightly has no group, read from the firmware's own tables, or by pattern where the snapshot holds none."""

from dataclasses import replace
from typing import Any

import pytest

from iommud import check
from iommud.address import Address
from iommud.snapshot import Snapshot
from iommud.verdict.report import Report
from tests.firmware.builders import Strings, fdt, fdt_node
from tests.firmware.test_dmar import dmar, drhd, scope
from tests.firmware.test_iort import FIRST, ROOT, SMMU_V3, id_map, iort
from tests.firmware.test_iort import node as iort_node
from tests.firmware.test_ivrs import ALIAS, ALL, END, SELECT, START, ivhd, ivrs, long, short
from tests.firmware.test_viot import iommu_pci, pci_range, viot
from tests.machines import ON, Machine
from tests.verdict.seen import seen

ENDPOINT, BRIDGE = 1, 2
INCLUDE_ALL = 1
ITS = 0
AMD, HYGON, INTEL = "1022:1480", "1d94:1450", "8086:3ec2"
SMMU = "smmu3.0x0000000009050000"


def excuse(report: Report, name: str) -> str:
    """``evidence: reason``, ``ungrouped`` for a defect, or ``grouped``."""
    address = Address.parse(name)
    if address in report.actual.number_of:
        return "grouped"
    found = dict(report.without).get(address)
    assert (found is None) == (address in report.ungrouped)
    return "ungrouped" if found is None else f"{found.evidence}: {found.reason}"


def holding(snapshot: Snapshot, **tables: bytes) -> Snapshot:
    return replace(snapshot, tables=tables, table_names=frozenset(tables))


def intel(machine: Machine, groups: str, *units: bytes, **facts: Any) -> Report:
    return check(holding(seen(machine, groups, iommu="dmar0", **facts), DMAR=dmar(*units)))


def test_functions_that_no_unit_names_are_left_alone() -> None:
    machine = Machine()
    machine.endpoint("00:03.0")
    machine.endpoint("00:04.0")
    machine.endpoint("0001:00:05.0")

    report = intel(machine, "00:03.0", drhd(scope(ENDPOINT, 0, (3, 0))))

    assert excuse(report, "00:04.0") == excuse(report, "0001:00:05.0") == "DMAR: no DMAR unit covers it"
    assert report.status == "ok"


def test_a_function_that_a_unit_names_should_have_a_group() -> None:
    machine = Machine()
    machine.endpoint("00:03.0")
    machine.endpoint("00:04.0")

    report = intel(machine, "00:03.0", drhd(scope(ENDPOINT, 0, (3, 0)), scope(ENDPOINT, 0, (4, 0))))

    assert excuse(report, "00:04.0") == "ungrouped"


def test_a_unit_for_all_serves_its_own_segment_alone() -> None:
    machine = Machine()
    machine.endpoint("00:03.0")
    machine.endpoint("00:04.0")
    machine.endpoint("0001:00:04.0")

    report = intel(machine, "00:03.0", drhd(flags=INCLUDE_ALL))

    assert (excuse(report, "00:04.0"), excuse(report, "0001:00:04.0")) == ("ungrouped", "DMAR: no DMAR unit covers it")


def behind_a_port() -> Machine:
    machine = Machine()
    machine.root_port("00:01.0", to=1, acs=ON)
    machine.switch_upstream("01:00.0", to=2)
    machine.switch_downstream("02:00.0", to=3, acs=ON)
    machine.endpoint("03:00.0")
    machine.endpoint("00:03.0")
    return machine


@pytest.mark.parametrize(
    ("entry", "covered"),
    [
        (scope(BRIDGE, 0, (1, 0)), "00:01.0 01:00.0 02:00.0 03:00.0"),
        (scope(BRIDGE, 0, (1, 0)) + scope(ENDPOINT, 0, (1, 0)), "00:01.0 01:00.0 02:00.0 03:00.0"),
        (scope(BRIDGE, 0, (1, 0), (0, 0), (0, 0)), "02:00.0 03:00.0"),
        (scope(ENDPOINT, 0, (1, 0), (0, 0), (0, 0), (0, 0)), "03:00.0"),
        (scope(ENDPOINT, 3, (0, 0)), "03:00.0"),
        (scope(ENDPOINT, 2, (0, 0), (0, 0)), ""),
        (scope(ENDPOINT, 0, (3, 0), (0, 0)), ""),
        (scope(ENDPOINT, 0, (9, 0), (0, 0)), ""),
        (scope(ENDPOINT, 9, (0, 0), (0, 0)), ""),
        (scope(ENDPOINT, 0, (9, 0)), ""),
        (scope(3, 0, (1, 0)), ""),
        (scope(ENDPOINT, 0), ""),
    ],
    ids=[
        "subtree of the port",
        "subtree of the port, which is named again by itself",
        "subtree down a path",
        "function down a path",
        "bus given directly",
        "path from a bus that is no root",
        "path through a function that is no bridge",
        "path through nothing",
        "unknown bus",
        "absent function",
        "I/O APIC",
        "no path",
    ],
)
def test_scopes_cover_what_their_paths_lead_to(entry: bytes, covered: str) -> None:
    report = intel(behind_a_port(), "00:03.0", drhd(scope(ENDPOINT, 0, (3, 0)), entry))

    assert [str(one)[5:] for one in report.ungrouped] == covered.split()


def test_a_virtual_function_counts_as_its_physical_one() -> None:
    machine = Machine()
    machine.endpoint("00:03.0")
    machine.endpoint("00:04.0")
    machine.vf("00:03.1", of="00:03.0")
    machine.vf("00:04.1", of="00:04.0")

    report = intel(machine, "00:03.0", drhd(scope(ENDPOINT, 0, (3, 0))))

    assert (excuse(report, "00:03.1"), excuse(report, "00:04.1")) == ("ungrouped", "DMAR: no DMAR unit covers it")


def test_what_sends_through_an_uncovered_vmd_endpoint_is_uncovered() -> None:
    machine = Machine()
    machine.endpoint("00:03.0")
    machine.vmd("00:05.0", domain=0x10000)
    machine.root_port("10000:00:01.0", to=1)
    machine.endpoint("10000:01:00.0")

    report = intel(machine, "00:03.0", drhd(scope(ENDPOINT, 0, (3, 0))))

    assert excuse(report, "10000:01:00.0") == "DMAR: 0000:00:05.0 sends its requests, and no DMAR unit covers it"
    assert report.status == "ok"


@pytest.mark.parametrize("grouped", ["00:03.0", "00:03.0 | 00:05.0"])
def test_what_sends_through_a_covered_vmd_endpoint_is_covered(grouped: str) -> None:
    machine = Machine()
    machine.endpoint("00:03.0")
    machine.vmd("00:05.0", domain=0x10000)
    machine.root_port("10000:00:01.0", to=1)

    report = intel(machine, grouped, drhd(flags=INCLUDE_ALL))

    assert excuse(report, "10000:00:01.0") == "ungrouped"


def with_graphics(ids: str = INTEL, host: str = "8086:3ec4") -> Machine:
    machine = Machine()
    machine.rciep("00:00.0", class_code=0x060000, ids=host)
    machine.rciep("00:02.0", class_code=0x030000, ids=ids)
    machine.endpoint("00:03.0")
    return machine


GRAPHICS_UNITS = (drhd(scope(ENDPOINT, 0, (2, 0))), drhd(flags=INCLUDE_ALL, base=0xFED91000))


@pytest.mark.parametrize(
    ("ids", "host", "cmdline", "why"),
    [
        (INTEL, "8086:3ec4", "quiet", "DMAR: its DMAR unit serves graphics alone, which kernels may be built"),
        (INTEL, "8086:3ec4", "intel_iommu=on,igfx_off", "command line: intel_iommu=igfx_off leaves"),
        (INTEL, "8086:3ec4", None, "DMAR: its DMAR unit serves graphics alone, which kernels may be built"),
        ("8086:1616", "8086:1604", None, "DMAR: the kernel leaves the graphics unit of this chipset off"),
        ("8086:2a42", "8086:2a40", None, "DMAR: the kernel leaves the graphics unit of this chipset off"),
    ],
    ids=["build option", "switch", "no command line", "listed graphics", "listed host bridge"],
)
def test_a_unit_for_graphics_alone_may_be_off(ids: str, host: str, cmdline: str | None, why: str) -> None:
    report = intel(with_graphics(ids, host), "00:00.0 | 00:03.0", *GRAPHICS_UNITS, cmdline=cmdline)

    assert excuse(report, "00:02.0").startswith(why)


@pytest.mark.parametrize(
    "units",
    [(drhd(flags=INCLUDE_ALL),), (drhd(scope(ENDPOINT, 0, (2, 0)), scope(ENDPOINT, 0, (3, 0))),)],
    ids=["served with all", "served with another function"],
)
def test_graphics_on_a_unit_with_others_should_have_a_group(units: tuple[bytes, ...]) -> None:
    report = intel(with_graphics(), "00:00.0 | 00:03.0", *units, cmdline="intel_iommu=igfx_off")

    assert excuse(report, "00:02.0") == "ungrouped"


def test_graphics_with_a_group_keep_it_whatever_might_excuse_its_absence() -> None:
    report = intel(with_graphics(), "00:00.0 | 00:02.0 | 00:03.0", *GRAPHICS_UNITS, cmdline="intel_iommu=igfx_off")

    assert (report.status, report.without) == ("ok", ())
    assert frozenset({Address.parse("00:02.0")}) in (report.expected or ())


def test_without_tables_graphics_alone_without_a_group_are_excused() -> None:
    lone = check(seen(with_graphics(), "00:00.0 | 00:03.0"))
    with_another = check(seen(with_graphics(), "00:03.0"))
    other_vendor = check(seen(with_graphics("1234:1111"), "00:00.0 | 00:03.0"))

    assert excuse(lone, "00:02.0").startswith("none: kernels may be built to leave")
    assert (excuse(with_another, "00:02.0"), excuse(other_vendor, "00:02.0")) == ("ungrouped", "ungrouped")


@pytest.mark.parametrize("tables", [{}, {"DMAR": dmar(drhd(flags=INCLUDE_ALL))}], ids=["no table", "DMAR"])
def test_quickdata_behind_the_wrong_unit_is_refused(tables: dict[str, bytes]) -> None:
    machine = Machine()
    machine.endpoint("00:03.0")
    machine.endpoint("00:04.0", ids="8086:402f")

    report = check(holding(seen(machine, "00:03.0"), **tables))

    assert excuse(report, "00:04.0").startswith("none: the driver refuses this function")


def amd(machine: Machine, groups: str, *blocks: bytes) -> Report:
    return check(holding(seen(machine, groups, iommu="ivhd0"), IVRS=ivrs(*blocks)))


def amd_machine(**facts: Any) -> Machine:
    machine = Machine(**facts)
    machine.rciep("00:00.0", class_code=0x060000, ids=AMD)
    machine.rciep("00:00.2", class_code=0x080600, ids="1022:1481")
    machine.rciep("00:01.0", class_code=0x060000, ids="1022:1482")
    machine.endpoint("00:03.0", class_code=0x020000)
    machine.endpoint("00:08.0", class_code=0x020000)
    return machine


def test_entries_of_ivrs_tell_whom_an_amd_iommu_serves() -> None:
    range_of_ids = (short(START, 0x08), short(END, 0x1F))

    report = amd(amd_machine(), "00:03.0", ivhd(0x10, *range_of_ids))

    no_entry = "IVRS: no entry of the IVRS table covers its requester ID"
    assert [excuse(report, one) for one in ("00:00.0", "00:01.0", "00:08.0")] == [no_entry, "ungrouped", no_entry]
    assert excuse(report, "00:00.2") == "IVRS: it is the IOMMU itself"


@pytest.mark.parametrize("vendor", ["1022:1419", "1002:5a23"])
@pytest.mark.parametrize("tables", [{}, {"IVRS": ivrs(ivhd(0x10, short(ALL)))}], ids=["no table", "IVRS"])
def test_an_amd_iommu_has_no_group_of_its_own(vendor: str, tables: dict[str, bytes]) -> None:
    machine = Machine()
    machine.rciep("00:00.2", class_code=0x080600, ids=vendor)
    machine.endpoint("00:03.0")

    report = check(holding(seen(machine, "00:03.0", iommu="ivhd0"), **tables))

    assert excuse(report, "00:00.2") == f"{'IVRS' if tables else 'none'}: it is the IOMMU itself"


@pytest.mark.parametrize(("kernel", "elsewhere"), [("5.19", "ungrouped"), ("6.0", "IVRS: no entry")])
def test_segments_of_ivrs_count_since_6_0(kernel: str, elsewhere: str) -> None:
    machine = Machine(kernel=kernel)
    machine.endpoint("00:03.0")
    machine.endpoint("0001:00:03.0")
    machine.endpoint("0001:00:04.0")
    blocks = (ivhd(0x11, short(SELECT, 0x18)), ivhd(0x11, short(SELECT, 0x20), segment=1, device_id=3))

    report = amd(machine, "00:03.0", *blocks)

    assert excuse(report, "0001:00:03.0").startswith(elsewhere)
    assert excuse(report, "0001:00:04.0") == "ungrouped"


def test_an_alias_of_ivrs_is_covered_with_its_owner() -> None:
    machine = Machine()
    machine.endpoint("00:03.0")
    machine.endpoint("00:04.0")

    report = amd(machine, "", ivhd(0x10, short(SELECT, 0x28), long(ALIAS, 0x18, 0x20)))

    assert excuse(report, "00:03.0") == excuse(report, "00:04.0") == "ungrouped"


@pytest.mark.parametrize("ids", [AMD, HYGON])
def test_without_ivrs_host_bridges_of_amd_are_excused(ids: str) -> None:
    machine = Machine()
    machine.rciep("00:00.0", class_code=0x060000, ids=ids)
    machine.rciep("00:01.0", class_code=0x060000, ids="8086:1237")
    machine.endpoint("00:03.0")

    report = check(seen(machine, "00:03.0", iommu="ivhd0"))

    assert excuse(report, "00:00.0").startswith("none: AMD firmware often leaves host bridges out")
    assert excuse(report, "00:01.0") == "ungrouped"


def test_without_tables_a_root_bus_on_which_nothing_has_a_group_is_excused() -> None:
    machine = Machine()
    machine.endpoint("00:03.0")
    machine.root_port("40:00.0", to=0x41, root=(0, 0x40), class_code=0x060400)
    machine.endpoint("41:00.0", root=(0, 0x40))

    report = check(seen(machine, "00:03.0"))

    assert excuse(report, "40:00.0") == excuse(report, "41:00.0") == "none: nothing on its root bus has a group"


def test_tables_say_more_than_an_empty_root_bus() -> None:
    machine = Machine()
    machine.endpoint("00:03.0")
    machine.endpoint("40:00.0", root=(0, 0x40))

    assert excuse(intel(machine, "00:03.0", drhd(flags=INCLUDE_ALL)), "40:00.0") == "ungrouped"


def virtio(machine: Machine, groups: str, *nodes: bytes, iommu: str = "0000:00:01.0") -> Report:
    return check(holding(seen(machine, groups, iommu=iommu), VIOT=viot(*nodes)))


def guest(kernel: str = "7.3") -> Machine:
    machine = Machine(kernel=kernel)
    machine.rciep("00:00.0", class_code=0x060000)
    machine.endpoint("00:01.0", class_code=0x00FF00, ids="1af4:1057", driver="virtio-pci")
    machine.endpoint("00:03.0", class_code=0x020000, driver="e1000e")
    machine.endpoint("00:04.0", class_code=0x020000, driver="e1000e")
    return machine


def test_ranges_of_viot_tell_whom_a_virtio_iommu_serves() -> None:
    report = virtio(guest(), "00:03.0", iommu_pci(0, 8), pci_range(0, 0x1F, 48))

    assert excuse(report, "00:00.0") == "ungrouped"
    assert excuse(report, "00:04.0") == "VIOT: no PCI range of the VIOT table holds its requester ID"


def test_a_range_that_names_no_iommu_serves_nobody() -> None:
    nodes = (iommu_pci(0, 8), pci_range(0, 0x1F, 48), pci_range(0x20, 0x2F, 200))

    report = virtio(guest(), "00:00.0 | 00:03.0", *nodes)

    assert excuse(report, "00:04.0") == "VIOT: the VIOT table names an IOMMU for it that is not described"


@pytest.mark.parametrize(
    ("ids", "iommu"), [("1234:1111", "0000:00:01.0"), ("1af4:1057", "a003e00.virtio_mmio")], ids=["by name", "by id"]
)
@pytest.mark.parametrize("tables", [{}, {"VIOT": viot(iommu_pci(0, 8), pci_range(0, 0xFFFF, 48))}])
def test_a_virtio_iommu_has_no_group_of_its_own(ids: str, iommu: str, tables: dict[str, bytes]) -> None:
    machine = guest()
    vendor, device = (int(part, 16) for part in ids.split(":"))
    machine.change("00:01.0", vendor=vendor, device=device)

    report = check(holding(seen(machine, "00:00.0 | 00:03.0 | 00:04.0", iommu=iommu), **tables))

    assert excuse(report, "00:01.0") == f"{'VIOT' if tables else 'none'}: it is the IOMMU itself"


def test_a_range_that_leaves_an_alias_out_excuses_nobody() -> None:
    machine = guest()
    machine.root_port("00:05.0", to=1, acs=ON, class_code=0x060400)
    machine.pcie_to_pci("01:00.0", to=2, class_code=0x060400)
    machine.conventional("02:03.0", driver="e1000")
    nodes = (iommu_pci(0, 8), pci_range(0, 0x100, 48), pci_range(0x210, 0x2FF, 48))

    report = virtio(machine, "00:00.0 | 00:03.0 | 00:04.0 | 00:05.0 | 01:00.0", *nodes)

    assert excuse(report, "02:03.0") == "ungrouped"


def arm(machine: Machine, groups: str, *roots: bytes) -> Report:
    """A machine whose IORT holds an SMMU at 48, an ITS group at 84, and these root complexes."""
    table = iort(iort_node(SMMU_V3), iort_node(ITS), *roots)
    return check(holding(seen(machine, groups, iommu=SMMU), IORT=table))


def arm_machine(kernel: str = "7.3", **facts: Any) -> Machine:
    machine = Machine(kernel=kernel)
    machine.root_port("00:02.0", to=1, acs=ON, class_code=0x060400, **facts)
    machine.endpoint("00:03.0", driver="e1000e", class_code=0x020000, **facts)
    machine.endpoint("01:00.0", driver="nvme", class_code=0x010802, **facts)
    machine.endpoint("0001:00:03.0", driver="e1000e", class_code=0x020000)
    return machine


def test_root_complexes_of_iort_tell_whom_an_smmu_serves() -> None:
    root = iort_node(ROOT, id_map(0, 0x100, 0, FIRST), id_map(0x100, 0x100, 0, FIRST + 36))

    report = arm(arm_machine(), "00:03.0", root)

    assert excuse(report, "00:02.0") == "ungrouped"
    assert excuse(report, "01:00.0") == "IORT: the IORT table maps its requester ID to no SMMU"
    assert excuse(report, "0001:00:03.0") == "IORT: the IORT table has no root complex for its segment"


def test_each_segment_has_a_root_complex_of_its_own() -> None:
    roots = (iort_node(ROOT, id_map(0, 0x10000, 0, FIRST)), iort_node(ROOT, id_map(0, 8, 0, FIRST), segment=1))

    report = arm(arm_machine(), "00:02.0 | 00:03.0 | 01:00.0", *roots)

    assert excuse(report, "0001:00:03.0") == "IORT: the IORT table maps its requester ID to no SMMU"


def tree(*bridges: dict[str, Any], iommu: str = "okay") -> bytes:
    """A device tree with one IOMMU (phandle 5) and these host bridges at 0x10, 0x20 and so on."""
    strings = Strings()
    target = fdt_node("iommu@9", strings.prop("phandle", 5), strings.prop("status", iommu))
    nodes = (
        fdt_node(
            f"pcie@{16 * number:x}",
            strings.prop("device_type", "pci"),
            strings.prop("reg", (0, 16 * number, 0, 16)),
            *(strings.prop(name, value) for name, value in properties.items()),
        )
        for number, properties in enumerate(bridges, 1)
    )
    cells = (strings.prop("#address-cells", 2), strings.prop("#size-cells", 2))
    return fdt(fdt_node("", *cells, target, *nodes), strings.block)


def board(machine: Machine, groups: str, blob: bytes, **facts: Any) -> Report:
    return check(seen(machine, groups, iommu=SMMU, device_tree=blob, **facts))


WHOLE = {"iommu-map": (0, 5, 0, 0x10000)}
DOMAIN_0 = {"linux,pci-domain": 0}
DOMAIN_1 = {"linux,pci-domain": 1}


def test_the_map_of_the_host_bridge_tells_whom_an_iommu_serves() -> None:
    report = board(arm_machine(), "00:03.0", tree({"iommu-map": (0, 5, 0, 0x20)} | DOMAIN_0, DOMAIN_1))

    assert excuse(report, "00:02.0") == "ungrouped"
    assert excuse(report, "01:00.0") == "device tree: the iommu-map of its host bridge leaves its requester ID out"
    assert excuse(report, "0001:00:03.0") == "device tree: its host bridge has no iommu-map in the device tree"


def test_the_mask_counts_before_the_map() -> None:
    masked = {"iommu-map": (0, 5, 0, 0x20), "iommu-map-mask": 0xFF}

    report = board(arm_machine(), "00:03.0", tree(masked | DOMAIN_0, DOMAIN_1))

    assert excuse(report, "01:00.0") == "ungrouped"


def test_a_disabled_iommu_serves_nobody() -> None:
    blob = tree(WHOLE | DOMAIN_0, DOMAIN_1, iommu="disabled")

    report = board(arm_machine(), "00:03.0", blob)

    assert excuse(report, "01:00.0") == "device tree: the device tree has its IOMMU disabled"


@pytest.mark.parametrize(
    ("nodes", "host_node", "found"),
    [
        ([{}, WHOLE], "20.pcie", "ungrouped"),
        ([WHOLE, {}], "20.pcie", "device tree: its host bridge has no iommu-map"),
        ([WHOLE | DOMAIN_1, {} | DOMAIN_0], None, "device tree: its host bridge has no iommu-map"),
        ([{} | DOMAIN_1, WHOLE | DOMAIN_0], "30.pcie", "ungrouped"),
        ([{}], None, "device tree: its host bridge has no iommu-map"),
        ([{}, {}], None, "ungrouped"),
    ],
    ids=["by name", "by name, not the first", "by domain", "by domain, name unknown", "the only one", "not told apart"],
)
def test_among_several_host_bridges_the_right_one_speaks(
    nodes: list[dict[str, Any]], host_node: str | None, found: str
) -> None:
    report = board(arm_machine(host_node=host_node), "00:03.0", tree(*nodes))

    assert excuse(report, "01:00.0").startswith(found)


def test_beside_acpi_tables_the_device_tree_is_a_stub() -> None:
    report = board(arm_machine(), "00:03.0", tree({}), table_names=frozenset({"FACP", "MCFG"}))

    assert excuse(report, "01:00.0") == "ungrouped"


def with_idle_functions(kernel: str) -> Machine:
    machine = Machine(kernel=kernel)
    machine.rciep("00:00.0", class_code=0x060000)
    machine.root_port("00:02.0", to=1, acs=ON, class_code=0x060400)
    machine.add("00:02.1", 10, class_code=0x080700)
    machine.endpoint("00:03.0", driver="e1000e", class_code=0x020000)
    machine.endpoint("00:04.0", class_code=0x020000)
    machine.endpoint("00:05.0", driver="nvme", class_code=0x010802)
    return machine


@pytest.mark.parametrize(
    ("kernel", "excused"), [("5.10", True), ("6.12.95", True), ("6.14", True), ("6.15", False), ("7.3", False)]
)
@pytest.mark.parametrize("source", ["IORT", "VIOT", "device tree", "nothing"])
def test_before_6_15_functions_without_a_driver_wait_for_one(kernel: str, excused: bool, source: str) -> None:
    everything = id_map(0, 0x10000, 0, FIRST)
    tables = {
        "IORT": {"IORT": iort(iort_node(SMMU_V3), iort_node(ROOT, everything))},
        "VIOT": {"VIOT": viot(iommu_pci(0, 8), pci_range(0, 0xFFFF, 48))},
    }.get(source, {})
    snapshot = seen(with_idle_functions(kernel), "00:03.0", iommu="0000:00:01.0" if source == "VIOT" else SMMU)
    if source == "device tree":
        snapshot = replace(snapshot, device_tree=tree(WHOLE))

    report = check(holding(snapshot, **tables) if tables else snapshot)

    evidence = "none" if source == "nothing" else "sysfs"
    waits = f"{evidence}: no driver is bound to it, and before 6.15 its group waits for one"
    assert [excuse(report, one) for one in ("00:00.0", "00:04.0")] == [waits if excused else "ungrouped"] * 2
    assert [excuse(report, one) for one in ("00:02.0", "00:02.1", "00:05.0")] == ["ungrouped"] * 3


@pytest.mark.parametrize("iommu", ["dmar0", "ivhd0"])
def test_intel_and_amd_never_wait_for_drivers(iommu: str) -> None:
    report = check(seen(with_idle_functions("6.12"), "00:03.0", iommu=iommu))

    assert excuse(report, "00:04.0") == "ungrouped"


def test_a_bridge_of_unknown_class_is_a_bridge() -> None:
    machine = with_idle_functions("6.12")
    machine.change("00:02.0", class_code=None)
    machine.change("00:04.0", class_code=None)

    report = check(seen(machine, "00:03.0", iommu=SMMU))

    assert excuse(report, "00:02.0") == "ungrouped"
    assert excuse(report, "00:04.0").startswith("none: no driver")


def test_a_snapshot_without_drivers_cannot_tell_who_waits() -> None:
    machine = with_idle_functions("6.12")
    machine.change("00:03.0", driver=None)
    machine.change("00:05.0", driver=None)

    report = check(seen(machine, "00:03.0", iommu=SMMU))

    assert excuse(report, "00:04.0") == "none: the snapshot names no drivers, and before 6.15 its group waits for one"


def test_a_group_without_a_driver_is_no_contradiction() -> None:
    report = check(seen(with_idle_functions("6.12"), "00:00.0 | 00:02.0 | 00:02.1 | 00:03.0 | 00:04.0 | 00:05.0"))

    assert (report.ungrouped, report.without) == ((), ())
    assert [one for one in report.findings if one.severity != "info"] == []


def test_where_nothing_has_a_group_missing_drivers_excuse_nobody() -> None:
    report = check(seen(with_idle_functions("6.12"), "", iommu=SMMU))

    assert [one.kind for one in report.findings] == ["no-groups"]
    assert report.without == ()


def with_functions_that_no_driver_matches(kernel: str) -> Machine:
    """The least that an arm64 board has, and test devices."""
    machine = Machine(kernel=kernel)
    machine.rciep("00:00.0", class_code=0x060000)
    machine.endpoint("00:04.0", class_code=0x00FF00)
    return machine


@pytest.mark.parametrize(
    ("kernel", "iommu", "kinds"),
    [
        ("5.10", SMMU, []),
        ("6.12", SMMU, []),
        ("6.15", SMMU, ["no-groups"]),
        ("6.12", "dmar0", ["no-groups"]),
    ],
)
def test_before_6_15_nothing_has_a_group_where_no_driver_matched_anything(
    kernel: str, iommu: str, kinds: list[str]
) -> None:
    report = check(seen(with_functions_that_no_driver_matches(kernel), "", iommu=iommu))

    assert [one.kind for one in report.findings] == kinds


def test_before_6_15_a_virtio_iommu_alone_with_functions_without_driver_is_as_it_should_be() -> None:
    machine = with_functions_that_no_driver_matches("6.12")
    machine.endpoint("00:01.0", ids="1af4:1057", class_code=0x00FF00, driver="virtio-pci")

    report = check(seen(machine, "", iommu="0000:00:01.0"))

    assert (report.status, report.findings) == ("ok", ())


def test_a_driver_that_may_still_be_deferred_excuses_nobody() -> None:
    machine = with_functions_that_no_driver_matches("6.12")
    waiting = holding(
        seen(machine, "", iommu=None), IORT=iort(iort_node(SMMU_V3), iort_node(ROOT, id_map(0, 0x10000, 0, FIRST)))
    )

    assert [one.kind for one in check(waiting).findings] == ["no-groups"]


def test_a_bridge_that_only_a_path_names_is_not_missed() -> None:
    machine = Machine()
    machine.endpoint("01:00.0", upstream=Address.parse("00:02.0"))
    machine.endpoint("00:03.0")

    report = check(seen(machine, "00:03.0 | 01:00.0"))

    assert (report.ungrouped, report.without) == ((), ())


def test_where_no_iommu_is_in_use_everybody_is_excused() -> None:
    machine = with_idle_functions("6.12")

    report = check(seen(machine, "", iommu=None))

    assert excuse(report, "00:05.0").startswith("sysfs: no IOMMU is in use: ")
    assert len(report.without) == len(machine.functions)


@pytest.mark.parametrize(
    ("iommu", "tables"),
    [
        ("dmar0", {"DMAR": dmar()}),
        ("dmar0", {"DMAR": b"DMAR"}),
        ("ivhd0", {"IVRS": ivrs()}),
        ("0000:00:01.0", {"VIOT": viot()}),
        (SMMU, {"IORT": iort()}),
        ("ivhd0", {"DMAR": dmar(drhd(scope(ENDPOINT, 0, (3, 0))))}),
    ],
    ids=["DMAR without units", "broken DMAR", "empty IVRS", "empty VIOT", "empty IORT", "of another IOMMU"],
)
def test_a_table_that_says_nothing_excuses_nobody(iommu: str, tables: dict[str, bytes]) -> None:
    machine = Machine(kernel="7.3")
    machine.endpoint("00:03.0")
    machine.endpoint("00:04.0")

    report = check(holding(seen(machine, "00:03.0", iommu=iommu), **tables))

    assert excuse(report, "00:04.0") == "ungrouped"


def test_one_table_that_serves_a_function_is_enough() -> None:
    machine = Machine(kernel="7.3")
    machine.endpoint("00:03.0")
    machine.endpoint("00:04.0")
    tables = {"DMAR": dmar(drhd(scope(ENDPOINT, 0, (3, 0)))), "IVRS": ivrs(ivhd(0x10, short(SELECT, 0x20)))}

    report = check(holding(seen(machine, "00:03.0", iommu=None), **tables))

    assert excuse(report, "00:04.0") == "ungrouped"
