# SPDX-License-Identifier: GPL-2.0-or-later
"""Reading a machine: what is read, what is left asleep, and what missing bytes become."""

from pathlib import Path
from typing import Any

import pytest

from iommud import check, read_sysfs
from iommud.address import Address
from iommud.pci import NOT_READ, Gap
from iommud.snapshot import Complaint, PciFunction, Snapshot
from iommud.sysfs import take_snapshot
from iommud.tree import DirectoryTree, LiveTree
from iommud.verdict.findings import Kind
from tests.trees import TreeWriter, config_space

ROOT_PORT = config_space(4, (0x1D, 0x1D), header=1)
BRIDGE = config_space(7, header=1)


@pytest.fixture
def machine(tmp_path: Path) -> TreeWriter:
    return TreeWriter(tmp_path)


def port(machine: TreeWriter, path: str, config: bytes | None = ROOT_PORT, secondary: int = 1, **more: Any) -> str:
    return machine.function(
        path,
        "1b36:000c",
        "060400",
        config=config,
        secondary_bus_number=str(secondary),
        subordinate_bus_number="2",
        **more,
    )


def captured(machine: TreeWriter, *, wake: bool = False, thorough: bool = False) -> Snapshot:
    return take_snapshot(DirectoryTree(str(machine.root)), wake=wake, thorough=thorough)


def live(machine: TreeWriter) -> Snapshot:
    return take_snapshot(LiveTree(str(machine.root / "sys"), str(machine.root / "proc")))


def function(snapshot: Snapshot, name: str) -> PciFunction:
    return next(one for one in snapshot.functions if one.address == Address.parse(name))


def test_identity_and_place_of_a_function(machine: TreeWriter) -> None:
    port(machine, "0000:00:02.0")
    machine.function("0000:00:02.0/0000:01:00.0", "8086:10d3", "020000", driver="e1000e")
    machine.group(7, "0000:00:02.0/0000:01:00.0")

    found = function(captured(machine), "01:00.0")

    assert (found.vendor, found.device, found.class_code) == (0x8086, 0x10D3, 0x020000)
    assert (found.upstream, found.root) == (Address.parse("00:02.0"), (0, 0))
    assert (found.driver, found.group, found.physfn) == ("e1000e", 7, None)


def test_single_attributes_stand_in_for_a_missing_uevent(machine: TreeWriter) -> None:
    place = machine.function("0000:00:03.0", vendor="0x1af4", device="0x1041")
    machine.write(f"{place}/class", "0x020000\n")
    (machine.root / place / "uevent").unlink()

    found = function(captured(machine), "00:03.0")

    assert (found.vendor, found.device, found.class_code) == (0x1AF4, 0x1041, 0x020000)


def test_a_function_without_any_attribute_is_a_function_of_which_nothing_is_known(machine: TreeWriter) -> None:
    place = machine.function("0000:00:03.0")
    (machine.root / place / "uevent").write_text("PCI_ID=wat:\nPCI_CLASS=-1\n")

    found = function(captured(machine), "00:03.0")

    assert (found.vendor, found.device, found.class_code, found.driver) == (None, None, None, None)


def test_config_space_tells_the_identity_that_sysfs_does_not(machine: TreeWriter) -> None:
    config = bytearray(ROOT_PORT)
    config[:4] = bytes.fromhex("361b0c00")
    place = port(machine, "0000:00:02.0", bytes(config))
    (machine.root / place / "uevent").write_text("")

    found = function(captured(machine), "00:02.0")

    assert (found.vendor, found.device) == (0x1B36, 0x000C)


def test_a_lone_endpoint_is_not_read(machine: TreeWriter) -> None:
    machine.function("0000:00:03.0", config=config_space(0, (0x1D, 0x00)))

    snapshot = captured(machine)

    assert function(snapshot, "00:03.0").config == NOT_READ
    assert snapshot.config_reads == 0


def test_functions_of_one_slot_are_read(machine: TreeWriter) -> None:
    for number in range(2):
        machine.function(f"0000:00:03.{number}", config=config_space(0, (0x1D, 0x00), multifunction=True))

    snapshot = captured(machine)

    assert [one.config.acs is not None for one in snapshot.functions] == [True, True]
    # Header, status, pointer and three dwords of capabilities; function 1 needs no header.
    assert snapshot.config_reads == 11


def test_for_display_everything_is_read(machine: TreeWriter) -> None:
    machine.function("0000:00:03.0", config=config_space(0, (0x1D, 0x00)))

    assert function(captured(machine, thorough=True), "00:03.0").config.acs is not None


@pytest.mark.parametrize(
    ("config", "gap"),
    [
        (ROOT_PORT[:64], Gap.RESTRICTED),
        (config_space(4, header=2, size=128)[:0x40] + bytes(64), None),
        (ROOT_PORT[:0x102], Gap.TRUNCATED),
        (ROOT_PORT[:100], Gap.TRUNCATED),
        (b"", Gap.TRUNCATED),
        (b"\xff" * 4096, Gap.ALL_ONES),
        (None, Gap.NO_CONFIG),
        (ROOT_PORT, None),
    ],
    ids=["64 bytes", "CardBus", "cut in ACS", "cut", "empty", "all ones", "no file", "whole"],
)
def test_missing_bytes_have_a_name(machine: TreeWriter, config: bytes | None, gap: Gap | None) -> None:
    port(machine, "0000:00:02.0", config)

    assert function(captured(machine), "00:02.0").config.gap is gap


def test_256_bytes_beside_extended_attributes_are_cut_off(machine: TreeWriter) -> None:
    port(machine, "0000:00:02.0", ROOT_PORT[:256], sriov_numvfs="0")

    assert function(captured(machine), "00:02.0").config.gap is Gap.TRUNCATED


@pytest.mark.parametrize("config", [ROOT_PORT[:64], b""], ids=["64 bytes", "nothing"])
def test_a_live_machine_that_gives_too_little_is_restricted(machine: TreeWriter, config: bytes) -> None:
    port(machine, "0000:00:02.0", config)

    assert function(live(machine), "00:02.0").config.gap is (Gap.RESTRICTED if config else Gap.VANISHED)


@pytest.mark.parametrize(
    ("bridge", "device", "asleep"),
    [
        ({"power_state": "D0", "power__runtime_status": "active"}, {"power_state": "D0"}, False),
        ({"power_state": "D0"}, {"power_state": "D3cold"}, True),
        ({"power__runtime_status": "suspended"}, {"power_state": "D3hot", "power__runtime_status": "suspended"}, True),
        ({"power__runtime_status": "suspended"}, {"power_state": "D0", "power__runtime_status": "active"}, False),
        ({"power__runtime_status": "active"}, {"power_state": "D3hot", "power__runtime_status": "suspended"}, False),
        ({}, {"power__runtime_status": "suspended"}, True),
        ({}, {"power__runtime_status": "suspended", "d3cold_allowed": "0"}, False),
        ({}, {}, False),
    ],
)
def test_what_sleeps_is_left_asleep(
    machine: TreeWriter, bridge: dict[str, Any], device: dict[str, Any], asleep: bool
) -> None:
    port(machine, "0000:00:02.0", power_state="D0", **{k: v for k, v in bridge.items() if k != "power_state"})
    port(machine, "0000:00:02.0/0000:01:00.0", BRIDGE, 2, **device)

    found = function(captured(machine), "01:00.0")

    assert (found.config.gap is Gap.ASLEEP) is asleep
    assert function(captured(machine, wake=True), "01:00.0").config.gap is None


@pytest.mark.parametrize(("elsewhere", "pcie"), [({}, None), ({"max_link_width": "1"}, False)])
def test_absent_link_attributes_tell_only_where_others_have_them(
    machine: TreeWriter, elsewhere: dict[str, Any], pcie: bool | None
) -> None:
    port(machine, "0000:00:02.0", ROOT_PORT[:64], **elsewhere)
    port(machine, "0000:00:02.0/0000:01:00.0", BRIDGE[:64], 2)

    assert function(captured(machine), "01:00.0").has_link is pcie


def test_a_virtual_function_names_its_physical_one(machine: TreeWriter) -> None:
    physical = machine.function("0000:00:03.0")
    place = machine.function("0000:01:10.0")
    machine.link(f"{place}/physfn", physical)

    assert function(captured(machine), "01:10.0").physfn == Address.parse("00:03.0")


@pytest.mark.parametrize(
    ("path", "upstream", "root", "parent", "node"),
    [
        ("sys/devices/pci0000:00/0000:00:02.0", None, (0, 0), None, None),
        ("sys/devices/platform/4010000000.pcie/pci0000:00/0000:00:02.0", None, (0, 0), None, "4010000000.pcie"),
        ("sys/devices/pci0000:b2/0000:b2:05.5/pci10000:00/10000:00:02.0", None, (0x10000, 0), "b2:05.5", None),
        (
            "sys/devices/pci0000:b2/0000:b2:05.5/pci10000:00/10000:00:02.0/10000:01:00.0",
            "10000:00:02.0",
            (0x10000, 0),
            "b2:05.5",
            None,
        ),
    ],
)
def test_the_path_tells_the_place(
    machine: TreeWriter, path: str, upstream: str | None, root: tuple[int, int], parent: str | None, node: str | None
) -> None:
    machine.function(path)

    found = captured(machine).functions[0]

    assert found.upstream == (None if upstream is None else Address.parse(upstream))
    assert found.host_parent == (None if parent is None else Address.parse(parent))
    assert (found.root, found.host_node) == (root, node)


def test_without_paths_bus_numbers_tell_the_place(machine: TreeWriter) -> None:
    for name, secondary in (("0000:00:02.0", "1"), ("0000:01:00.0", None)):
        place = f"sys/bus/pci/devices/{name}"
        machine.write(f"{place}/uevent", "PCI_CLASS=60400\nPCI_ID=1B36:000C\n")
        if secondary:
            machine.write(f"{place}/secondary_bus_number", secondary)

    assert function(captured(machine), "01:00.0").upstream == Address.parse("00:02.0")


def test_a_function_that_vanishes_while_it_is_read_is_a_contradiction(machine: TreeWriter) -> None:
    port(machine, "0000:00:02.0")
    machine.link("sys/bus/pci/devices/0000:00:09.0", "sys/devices/pci0000:00/0000:00:09.0")

    snapshot = live(machine)

    assert [one.complaint for one in snapshot.contradictions] == [Complaint.CHANGED_WHILE_READ]
    assert [str(one.address) for one in snapshot.functions] == ["0000:00:02.0"]


def test_names_that_are_no_addresses_are_passed_over(machine: TreeWriter) -> None:
    port(machine, "0000:00:02.0")
    machine.write("sys/bus/pci/devices/readme", "")
    machine.write("sys/kernel/iommu_groups/old/type", "")

    snapshot = captured(machine)

    assert (len(snapshot.functions), snapshot.groups, snapshot.groups_listed) == (1, {}, True)


def test_groups_keep_their_name_and_members_that_are_no_pci_functions(machine: TreeWriter) -> None:
    place = machine.function("0000:00:03.0")
    machine.group(4, place, name="vfio-noiommu")
    machine.write("sys/kernel/iommu_groups/4/devices/arm-smmu", "")

    group = captured(machine).groups[4]

    assert (group.members, group.others) == ((Address.parse("00:03.0"),), ("arm-smmu",))
    assert group.is_artificial


def test_machine_wide_facts_are_read_and_missing_ones_are_none(machine: TreeWriter) -> None:
    bare = captured(machine)
    machine.write("proc/version", "Linux version 6.12.1 (x)\n")
    machine.write("proc/cmdline", "quiet iommu=pt\n")
    machine.write("sys/firmware/acpi/tables/DMAR", b"DMAR")
    machine.write("sys/firmware/acpi/tables/SSDT", b"")
    machine.write("sys/class/iommu/dmar0/devices/0000:00:02.0", "")
    full = captured(machine)

    assert (bare.kernel_version, bare.cmdline, bare.iommus, bare.table_names) == (None, None, None, None)
    assert (full.kernel_version, full.cmdline) == ("Linux version 6.12.1 (x)", "quiet iommu=pt")
    assert full.tables == {"DMAR": b"DMAR"}
    assert full.table_names == frozenset({"DMAR", "SSDT"})
    assert full.iommus == {"dmar0": (Address.parse("00:02.0"),)}


@pytest.mark.parametrize("device", ["0000:01:00.0", "0000:01:10.0"])
def test_with_64_bytes_the_verdict_is_undecidable_and_names_the_remedy(machine: TreeWriter, device: str) -> None:
    port(machine, "0000:00:02.0", ROOT_PORT[:64], max_link_width="1")
    machine.function(f"0000:00:02.0/{device}", driver="e1000e")
    machine.group(0, "0000:00:02.0", f"0000:00:02.0/{device}")
    machine.write("sys/class/iommu/dmar0/devices/0000:00:02.0", "")

    report = check(read_sysfs(str(machine.root)))

    assert (report.status, report.expected, report.exit_status()) == ("undecidable", None, 3)
    assert [one.kind for one in report.findings] == [Kind.UNDECIDABLE]
    assert "run as root" in report.findings[0].reasons[0].text
    assert [len(report.finest or ()), len(report.coarsest or ())] == [2, 1]


def test_missing_bytes_that_cannot_change_the_groups_do_not_matter(machine: TreeWriter) -> None:
    port(machine, "0000:00:02.0", None)
    machine.group(0, "0000:00:02.0")
    machine.write("sys/class/iommu/dmar0/devices/0000:00:02.0", "")

    report = check(read_sysfs(str(machine.root)))

    assert (report.status, report.config_complete) == ("ok", False)


def test_the_bus_object_below_a_sleeping_bridge_tells_its_number(machine: TreeWriter) -> None:
    place = port(machine, "0000:00:02.0", power_state="D3cold", secondary=9)
    machine.write(f"{place}/pci_bus/0000:01/uevent", "")

    found = function(captured(machine), "00:02.0")

    assert (found.secondary_bus, found.subordinate_bus, found.config.gap) == (1, None, Gap.ASLEEP)
    assert function(captured(machine, wake=True), "00:02.0").secondary_bus == 9


def test_a_virtual_function_whose_physfn_link_was_not_captured_is_not_judged_by_its_registers(
    machine: TreeWriter,
) -> None:
    config = b"\xff\xff\xff\xff" + config_space(0)[4:]
    for number in (1, 2):
        machine.function(f"0000:00:03.{number}", config=config)

    assert [one.config.gap for one in captured(machine).functions] == [Gap.ALL_ONES] * 2


def test_a_function_without_config_file_in_a_capture_may_lack_its_links_too(machine: TreeWriter) -> None:
    port(machine, "0000:00:02.0", ROOT_PORT, max_link_width="1")
    port(machine, "0000:00:02.0/0000:01:00.0", None, 2)

    assert function(captured(machine), "01:00.0").has_link is None
    assert function(live(machine), "01:00.0").has_link is False


def test_aliases_that_stand_in_a_functions_memory_are_taken_from_the_log(machine: TreeWriter) -> None:
    for name in ("0000:00:03.0", "0000:00:04.0"):
        machine.function(name, "11f8:8531", "068000")
    machine.group(0, "0000:00:03.0", "0000:00:04.0")
    machine.write("sys/class/iommu/dmar0/devices/0000:00:03.0", "")
    unknown = check(read_sysfs(str(machine.root)))
    line = "[    1.0] pci 0000:00:0{}.0: Enabling fixed DMA alias to {}\n"
    machine.write("dmesg.txt", line.format(3, "04.0") + line.format(4, "05.0"))
    told = check(read_sysfs(str(machine.root)))

    assert (unknown.status, unknown.expected) == ("undecidable", None)
    assert (told.status, told.expected) == ("ok", told.actual.groups)


def test_with_ari_a_function_of_another_slot_is_multifunction_without_its_header_bit(machine: TreeWriter) -> None:
    for number in (0, 1):
        machine.function(f"0000:00:03.{number}", config=config_space(0, (0x1D, 0x1D)), ari_enabled="1")

    found = function(captured(machine), "00:03.0")

    assert (found.ari_enabled, found.config.acs is not None) == (True, True)
