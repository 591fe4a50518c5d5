# SPDX-License-Identifier: GPL-2.0-or-later
"""Which IOMMUs a machine has, and whether they are in use: missing groups are a defect only where they are wanted."""

from dataclasses import replace
from typing import Any

import pytest

from iommud import check
from iommud.address import Address
from iommud.kernel import requested
from iommud.snapshot import IommuGroup, Snapshot
from iommud.verdict.survey import Driver, Platform, Usage, driver_of, parameter_values, survey
from tests.firmware.builders import Strings, fdt, fdt_node, fixture
from tests.firmware.test_dmar import dmar, drhd
from tests.firmware.test_iort import FIRST, NAMED, ROOT, SMMU_V3, id_map, iort
from tests.firmware.test_iort import node as iort_node
from tests.firmware.test_ivrs import ALL, SELECT, ivhd, ivrs, short
from tests.firmware.test_viot import iommu_pci, pci_range, viot
from tests.machines import ON, Machine
from tests.verdict.seen import seen

DMAR = {"DMAR": dmar(drhd(flags=1))}
IVRS = {"IVRS": ivrs(ivhd(0x10, short(ALL)))}
VIOT = {"VIOT": viot(iommu_pci(0, 8), pci_range(0, 0xFFFF, 48))}
IORT = {"IORT": iort(iort_node(SMMU_V3), iort_node(ROOT, id_map(0, 0x10000, 0, FIRST)))}
ITS_ONLY = {"IORT": fixture("iort-its-only.aml")}
NO_IOMMU_NODE = {"VIOT": viot(iommu_pci(0, 8), pci_range(0, 0xFFFF, 200))}
SMMU = "smmu3.0x0000000009050000"


def tree(*properties: tuple[str, Any], status: str = "okay") -> bytes:
    """A device tree with one host bridge and one IOMMU, phandle 5."""
    strings = Strings()
    iommu = fdt_node("iommu@9", strings.prop("phandle", 5), strings.prop("status", "okay"))
    stated = (("device_type", "pci"), ("status", status), *properties)
    bridge = fdt_node("pcie@8", *(strings.prop(name, value) for name, value in stated))
    return fdt(fdt_node("", iommu, bridge), strings.block)


MAP = ("iommu-map", (0, 5, 0, 0x10000))


def machine(kernel: str = "6.12") -> Machine:
    found = Machine(kernel=kernel)
    found.endpoint("00:03.0", driver="e1000e", class_code=0x020000)
    found.endpoint("00:04.0", driver="nvme", class_code=0x010802)
    return found


def surveyed(snapshot: Snapshot) -> Platform:
    return survey(snapshot, requested(snapshot.kernel_release or "7.3"))


def platform(groups: str = "", *, kernel: str = "6.12", iommu: str | None = None, **facts: Any) -> Platform:
    """The survey of a machine; tables that are given are listed, unless ``table_names`` says otherwise."""
    if "tables" in facts:
        facts.setdefault("table_names", frozenset(facts["tables"]))
    return surveyed(seen(machine(kernel), groups, iommu=iommu, **facts))


@pytest.mark.parametrize(
    ("name", "driver"),
    [
        ("dmar12", Driver.INTEL),
        ("ivhd0", Driver.AMD),
        ("0000:00:01.0", Driver.VIRTIO),
        ("10000:00:01.0", Driver.VIRTIO),
        ("a003e00.virtio_mmio", Driver.VIRTIO),
        (SMMU, Driver.SMMUV3),
        ("smmu.0x00000000fd800000", Driver.SMMU),
        ("riscv-iommu@0000:00:01.0", Driver.RISCV),
        ("apple-dart.681008000.iommu", Driver.APPLE_DART),
        ("s390-iommu.00000010", Driver.S390),
        ("iommu-phb0001", Driver.POWER),
        ("1000005100.iommu", Driver.OTHER),
        ("dmar", Driver.OTHER),
    ],
)
def test_the_driver_is_known_by_the_name_of_its_entry(name: str, driver: Driver) -> None:
    assert driver_of(name) is driver


@pytest.mark.parametrize(
    ("tables", "cmdline", "usage", "reason"),
    [
        ({}, None, Usage.NOT_USED, "neither the kernel nor the firmware"),
        (DMAR, None, Usage.UNKNOWN, "which is not in this snapshot"),
        (DMAR, "quiet", Usage.NOT_USED, "the kernel was not asked"),
        ({}, "intel_iommu=on", Usage.NOT_USED, "neither the kernel nor the firmware"),
        (DMAR, "quiet intel_iommu=igfx_off", Usage.NOT_USED, "the kernel was not asked"),
        (DMAR, "intel_iommu=on", Usage.NO_GROUPS, "intel_iommu=on asks for them"),
        (DMAR, "intel_iommu=on,sm_on iommu=pt", Usage.NO_GROUPS, "intel_iommu=on asks for them"),
        (DMAR, "intel_iommu=off", Usage.NOT_USED, "the kernel command line switches the IOMMU off (intel_iommu=off)"),
        (
            DMAR,
            "intel_iommu=on intel_iommu=off",
            Usage.NOT_USED,
            "the kernel command line switches the IOMMU off (intel_iommu=off)",
        ),
        (DMAR, "intel_iommu=off intel_iommu=on", Usage.NO_GROUPS, "intel_iommu=on asks for them"),
        (
            DMAR,
            "intel_iommu=on iommu=off",
            Usage.NOT_USED,
            "the kernel command line switches the IOMMU off (iommu=off)",
        ),
        (
            DMAR,
            "intel_iommu=on iommu=pt,off",
            Usage.NOT_USED,
            "the kernel command line switches the IOMMU off (iommu=off)",
        ),
        (IVRS, None, Usage.UNKNOWN, "which is not in this snapshot"),
        (IVRS, "quiet", Usage.NO_GROUPS, "the ACPI table IVRS describes an IOMMU that no driver took"),
        (IVRS, "iommu=pt", Usage.NO_GROUPS, "the ACPI table IVRS describes"),
        (IVRS, "amd_iommu=off", Usage.NOT_USED, "the kernel command line switches the IOMMU off (amd_iommu=off)"),
        (
            IVRS,
            "amd_iommu=fullflush,off",
            Usage.NOT_USED,
            "the kernel command line switches the IOMMU off (amd_iommu=off)",
        ),
        (IVRS, "iommu=off", Usage.NOT_USED, "the kernel command line switches the IOMMU off (iommu=off)"),
        (IVRS, "intel_iommu=off", Usage.NO_GROUPS, "the ACPI table IVRS describes"),
        (VIOT, None, Usage.NO_GROUPS, "the ACPI table VIOT describes an IOMMU that no driver took"),
        (VIOT, "intel_iommu=off amd_iommu=off", Usage.NO_GROUPS, "the ACPI table VIOT describes"),
        (NO_IOMMU_NODE, None, Usage.NOT_USED, "neither the kernel nor the firmware"),
        (IORT, None, Usage.NO_GROUPS, "the ACPI table IORT describes an IOMMU that no driver took"),
        (ITS_ONLY, None, Usage.NOT_USED, "neither the kernel nor the firmware"),
    ],
)
def test_without_groups_and_drivers_firmware_and_switches_tell_whether_an_iommu_is_wanted(
    tables: dict[str, bytes], cmdline: str | None, usage: Usage, reason: str
) -> None:
    found = platform(tables=tables, cmdline=cmdline)

    assert found.usage is usage
    assert reason in found.usage_reason


@pytest.mark.parametrize(
    ("blob", "usage"),
    [
        (tree(MAP), Usage.NO_GROUPS),
        (tree(), Usage.NOT_USED),
        (tree(MAP, status="disabled"), Usage.NOT_USED),
        (fixture("fdt-smmuv3.dtb"), Usage.NO_GROUPS),
        (fixture("fdt-acpi-stub.dtb"), Usage.NOT_USED),
        (b"\xd0\r\xfe\xed", Usage.NOT_USED),
    ],
    ids=["map", "no map", "disabled host bridge", "real", "stub", "broken"],
)
def test_a_device_tree_tells_whether_an_iommu_is_wanted(blob: bytes, usage: Usage) -> None:
    assert platform(device_tree=blob).usage is usage


@pytest.mark.parametrize("iommu", ["dmar0", "ivhd0", "0000:00:01.0", SMMU, "smmu.0x0000000000000000"])
def test_an_entry_without_groups_is_a_defect(iommu: str) -> None:
    found = platform(iommu=iommu)

    assert found.usage is Usage.NO_GROUPS
    assert found.usage_reason.startswith("/sys/class/iommu lists an IOMMU (")


@pytest.mark.parametrize(
    ("iommu", "cmdline", "usage"),
    [
        ("dmar0", "intel_iommu=off", Usage.NOT_USED),
        ("dmar0", "iommu=off", Usage.NOT_USED),
        ("dmar0", "amd_iommu=off", Usage.NO_GROUPS),
        ("ivhd0", "amd_iommu=off", Usage.NOT_USED),
        ("ivhd0", "intel_iommu=off", Usage.NO_GROUPS),
        (SMMU, "iommu=off intel_iommu=off amd_iommu=off", Usage.NO_GROUPS),
        ("0000:00:01.0", "iommu=off intel_iommu=off amd_iommu=off", Usage.NO_GROUPS),
    ],
)
def test_a_switch_counts_for_its_own_driver(iommu: str, cmdline: str, usage: Usage) -> None:
    assert platform(iommu=iommu, cmdline=cmdline).usage is usage


@pytest.mark.parametrize(
    ("iommu", "facts"),
    [
        ("1000005100.iommu", {"device_tree": tree()}),
        ("smmu.0x00000000fd800000", {"device_tree": tree()}),
        (SMMU, {"tables": ITS_ONLY}),
        ("0000:00:01.0", {"tables": NO_IOMMU_NODE}),
    ],
)
def test_an_iommu_that_serves_no_pci_function_is_not_missed(iommu: str, facts: dict[str, Any]) -> None:
    found = platform(iommu=iommu, **facts)

    assert found.usage is Usage.NOT_USED
    assert "the firmware leads no PCI function to it" in found.usage_reason


@pytest.mark.parametrize(
    ("iommu", "facts"),
    [("1000005100.iommu", {"device_tree": tree(MAP)}), (SMMU, {"tables": IORT}), ("0000:00:01.0", {"tables": VIOT})],
)
def test_an_iommu_that_firmware_leads_to_is_missed(iommu: str, facts: dict[str, Any]) -> None:
    assert platform(iommu=iommu, **facts).usage is Usage.NO_GROUPS


def test_an_unknown_iommu_without_firmware_leaves_the_question_open() -> None:
    snapshot = seen(machine(), "", iommu="1000005100.iommu")

    report = check(snapshot)

    assert (report.status, report.expected, report.exit_status()) == ("undecidable", None, 3)
    assert "nothing in this snapshot says whether it serves PCI" in report.findings[0].reasons[0].text


@pytest.mark.parametrize(
    ("names", "usage", "reason"),
    [
        ({"VIOT", "MCFG"}, Usage.UNKNOWN, "the ACPI table VIOT could not be read (run as root)"),
        ({"IORT"}, Usage.UNKNOWN, "the ACPI table IORT could not be read (run as root)"),
        ({"DMAR"}, Usage.NOT_USED, "not asked"),
        ({"IVRS"}, Usage.NO_GROUPS, "the ACPI table IVRS describes"),
        ({"MCFG"}, Usage.NOT_USED, "neither"),
    ],
)
def test_tables_that_only_their_names_show(names: set[str], usage: Usage, reason: str) -> None:
    found = platform(table_names=frozenset(names), cmdline="quiet")

    assert found.usage is usage
    assert reason in found.usage_reason


def test_a_readable_table_answers_for_an_unreadable_one() -> None:
    found = platform(tables=ITS_ONLY, table_names=frozenset({"IORT", "VIOT"}))

    assert found.usage is Usage.NOT_USED


@pytest.mark.parametrize("facts", [{"iommu": "dmar0"}, {"tables": VIOT}])
def test_groups_that_are_not_in_the_snapshot_are_not_missed(facts: dict[str, Any]) -> None:
    found = platform(groups_listed=False, **facts)

    assert found.usage is Usage.UNKNOWN
    assert found.usage_reason.endswith("but /sys/kernel/iommu_groups is not in this snapshot")


def test_any_group_proves_an_iommu_in_use() -> None:
    listed = seen(machine(), "00:03.0", iommu=None, cmdline="iommu=off")
    linked = replace(listed, groups={}, groups_listed=False)

    assert [surveyed(one).usage for one in (listed, linked)] == [Usage.IN_USE, Usage.IN_USE]


def test_groups_of_vfio_without_an_iommu_and_of_other_buses_prove_nothing() -> None:
    snapshot = seen(machine(), "00:03.0", iommu=None)
    address = Address.parse("00:03.0")
    artificial = {0: IommuGroup(number=0, members=(address,), name="vfio-noiommu")}
    platform_only = {0: IommuGroup(number=0, members=(), others=("fd900000.gpu",))}

    assert surveyed(replace(snapshot, groups=artificial)).usage is Usage.NOT_USED
    assert surveyed(replace(seen(machine(), iommu=None), groups=platform_only)).usage is Usage.NOT_USED


def test_the_iommu_of_stoney_ridge_is_off_by_design() -> None:
    found = machine()
    found.rciep("00:01.0", ids="1002:98e4", class_code=0x030000)

    report = check(seen(found, "", iommu=None, tables=IVRS, table_names=frozenset(IVRS)))

    assert (report.status, report.findings) == ("no-iommu", ())
    assert "Stoney Ridge" in report.usage_reason


def test_no_groups_where_nobody_should_have_one_is_no_finding() -> None:
    tables = {"IVRS": ivrs(ivhd(0x10, short(SELECT, 0xA0)))}

    report = check(seen(machine(), "", iommu="ivhd0", tables=tables, table_names=frozenset(tables)))

    assert (report.status, report.findings, report.expected, len(report.without)) == ("ok", (), (), 2)


@pytest.mark.parametrize(
    ("facts", "by_firmware"),
    [
        ({"iommu": SMMU}, True),
        ({"iommu": "0000:00:01.0"}, True),
        ({"iommu": "ivhd0"}, False),
        ({"iommu": "dmar0"}, False),
        ({"tables": DMAR}, False),
        ({"tables": IVRS}, False),
        ({"tables": VIOT}, True),
        ({"tables": IORT}, True),
        ({"device_tree": tree()}, True),
        ({}, None),
        ({"iommu": "1000005100.iommu"}, None),
    ],
)
def test_firmware_nodes_decide_when_functions_are_grouped(facts: dict[str, Any], by_firmware: bool | None) -> None:
    assert platform("00:03.0", **facts).by_firmware is by_firmware


@pytest.mark.parametrize(
    ("kernel", "facts", "before"),
    [
        ("5.10", {"iommu": "dmar0"}, True),
        ("5.10", {"iommu": "ivhd0"}, True),
        ("5.10", {"iommu": SMMU, "tables": IORT}, True),
        ("5.19", {"iommu": "0000:00:01.0", "tables": VIOT}, False),
        ("6.0", {"iommu": "0000:00:01.0", "tables": VIOT}, True),
        ("6.12", {"iommu": SMMU, "device_tree": tree(MAP)}, False),
        ("6.18.15", {"iommu": SMMU, "device_tree": tree(MAP)}, False),
        ("6.18", {"iommu": SMMU, "device_tree": tree(MAP)}, False),
        ("6.18.16", {"iommu": SMMU, "device_tree": tree(MAP)}, True),
        ("6.19", {"iommu": SMMU, "device_tree": tree(MAP)}, True),
        ("7.3", {"iommu": SMMU, "device_tree": tree(MAP)}, True),
        ("7.3", {"iommu": SMMU}, None),
        ("7.3", {}, None),
    ],
)
def test_who_asks_for_acs_decides_whether_it_comes_in_time(
    kernel: str, facts: dict[str, Any], before: bool | None
) -> None:
    assert platform("00:03.0", kernel=kernel, **facts).acs_before_grouping is before


def test_groups_as_without_acs_are_only_information_where_acs_comes_late() -> None:
    found = Machine(kernel="5.19")
    found.root_port("00:02.0", to=1, acs=ON)
    found.endpoint("01:00.0")
    late = seen(found, "00:02.0 01:00.0", iommu="0000:00:09.0", tables=VIOT, table_names=frozenset(VIOT))

    severities = [check(one).findings[0].severity for one in (late, replace(late, kernel_release="6.1"))]

    assert severities == ["info", "warning"]


@pytest.mark.parametrize(
    ("facts", "present"),
    [
        ({"iommu": "ivhd0"}, True),
        ({"tables": IVRS}, True),
        ({"table_names": frozenset({"IVRS"})}, True),
        ({"table_names": frozenset({"MCFG"})}, False),
        ({"iommu": "dmar0"}, False),
        ({}, None),
    ],
)
def test_whether_the_machine_has_an_ivrs_table(facts: dict[str, Any], present: bool | None) -> None:
    assert platform("00:03.0", **facts).ivrs_present is present


@pytest.mark.parametrize(("groups", "present"), [("00:03.0", True), ("", None)])
def test_an_amd_iommu_at_work_proves_its_table(groups: str, present: bool | None) -> None:
    found = machine()
    found.rciep("00:00.2", ids="1022:1481", class_code=0x080600)

    assert surveyed(seen(found, groups, iommu=None)).ivrs_present is present


def test_what_is_wrong_with_tables_is_told() -> None:
    broken = {"DMAR": dmar(drhd(flags=1))[:-4], "IORT": b"IORT", "VIOT": b"", "IVRS": b"IVRS" + bytes(8)}

    firmware = platform("00:03.0", tables=broken, device_tree=b"junk").firmware

    assert {problem.partition(":")[0] for problem in firmware.problems} >= {"DMAR", "IORT", "IVRS"}
    assert (firmware.dmar, firmware.iort, firmware.viot, firmware.ivrs) == (None, None, None, None)


def test_problems_of_the_device_tree_are_told() -> None:
    firmware = platform("00:03.0", device_tree=tree(("iommu-map", (0, 77, 0, 1)))).firmware

    assert any("phandle 0x4d, which no node has" in problem for problem in firmware.problems)


def test_a_node_that_is_no_root_complex_leads_nobody_anywhere() -> None:
    table = iort(iort_node(SMMU_V3), iort_node(NAMED, id_map(0, 8, 0, FIRST)))

    assert platform(tables={"IORT": table}).usage is Usage.NOT_USED


def test_parameters_are_read_with_all_their_values() -> None:
    cmdline = "a=1,2 iommu.passthrough=1 xa=3 a= a a=4"

    assert parameter_values(cmdline, "a") == ["1", "2", "", "", "4"]
    assert parameter_values(None, "a") == []
