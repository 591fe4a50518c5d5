# SPDX-License-Identifier: GPL-2.0-or-later
"""What stands for what, what the machine around it is, and what is told to be lost."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from iommud.address import Address
from iommud.pci import PortType
from iommud.render.reproduce import render_reproduction
from iommud.reproduce.board import board_of
from iommud.reproduce.models import Version
from iommud.reproduce.notes import Notes
from iommud.reproduce.parts import Architecture, Device, Iommu, OmissionKind, Reproduction
from iommud.reproduce.plan import reproduce
from iommud.verdict.pipeline import check
from iommud.verdict.survey import Firmware
from tests.machines import OFF, ON, Machine
from tests.verdict.seen import seen, thread

VIRT = "1b36:0008"
OTHER = "1234:4321"
"""An id that no device of QEMU has."""
DTB = Path(__file__).parent.parent / "fixtures" / "firmware" / "fdt-smmuv3.dtb"
HOST: dict[str, Any] = {"class_code": 0x060000}
BRIDGE: dict[str, Any] = {"class_code": 0x060400}


def rebuilt(machine: Machine, groups: str = "", *, qemu: Version = (10, 0), **facts: Any) -> Reproduction:
    return reproduce(check(seen(machine, groups, **facts)), qemu)


def device(found: Reproduction, captured: str) -> Device:
    return next(one for one in found.devices if one.captured == Address.parse(captured))


def told(found: Reproduction, kind: OmissionKind, captured: str | None = None) -> list[str]:
    """The sentences about a captured function, or those about no function."""
    address = None if captured is None else Address.parse(captured)
    return [one.text for one in found.omissions if one.kind is kind and (address in one.functions or address is None)]


def port_with(add: str, **facts: Any) -> Machine:
    """A root port and, below it, what a test is about."""
    machine = Machine()
    machine.root_port("00:02.0", to=1, acs=ON, **BRIDGE)
    getattr(machine, add)("01:00.0", **facts)
    return machine


@pytest.mark.parametrize(
    ("facts", "qemu", "argument"),
    [
        ({"acs": ON}, (10, 0), "pcie-root-port,id=p00.02.0,bus=pcie.0,addr=2.0,chassis=1,slot=1,io-reserve=0"),
        ({"acs": None}, (10, 0), "ioh3420,id=p00.02.0,bus=pcie.0,addr=2.0,chassis=1,slot=1"),
        (
            {"acs": None, "ids": "1b36:000c"},
            (10, 0),
            "pcie-root-port,id=p00.02.0,bus=pcie.0,addr=2.0,chassis=1,slot=1,io-reserve=0,disable-acs=on",
        ),
        ({"acs": None, "ids": "1b36:000c"}, (11, 1), "ioh3420,id=p00.02.0,bus=pcie.0,addr=2.0,chassis=1,slot=1"),
        (
            {"acs": None, "ids": "17cb:0400"},
            (10, 0),
            "pcie-root-port,id=p00.02.0,bus=pcie.0,addr=2.0,chassis=1,slot=1,io-reserve=0",
        ),
        (
            {"acs": ON, "subordinate_bus": 9},
            (10, 0),
            "pcie-root-port,id=p00.02.0,bus=pcie.0,addr=2.0,chassis=1,slot=1,io-reserve=0,bus-reserve=8",
        ),
    ],
    ids=["acs", "no acs", "disabled", "disabled, new QEMU", "device table", "spare numbers"],
)
def test_a_root_port_keeps_its_isolation(facts: dict[str, Any], qemu: Version, argument: str) -> None:
    machine = Machine()
    machine.root_port("00:02.0", to=1, **BRIDGE, **facts)

    assert device(rebuilt(machine, qemu=qemu), "00:02.0").argument == argument


def test_a_capability_that_isolates_nothing_is_given_and_told() -> None:
    machine = Machine()
    machine.root_port("00:02.0", to=1, acs=OFF, **BRIDGE)
    found = rebuilt(machine)

    assert device(found, "00:02.0").model == "pcie-root-port"
    assert told(found, OmissionKind.ISOLATION, "00:02.0")


def test_a_port_that_only_the_override_isolates_is_told() -> None:
    machine = Machine()
    for number in (2, 3):
        machine.root_port(f"00:0{number}.0", to=number, **BRIDGE)
        machine.endpoint(f"0{number}:00.0")
    groups = "00:02.0 | 02:00.0 | 00:03.0 | 03:00.0"
    found = rebuilt(machine, groups, cmdline="pcie_acs_override=downstream intel_iommu=on")

    assert device(found, "00:02.0").model == "pcie-root-port"
    assert "pcie_acs_override" in told(found, OmissionKind.ISOLATION, "00:02.0")[0]


def test_a_port_whose_registers_were_not_read_is_assumed_to_have_acs() -> None:
    machine = Machine()
    machine.root_port("00:02.0", to=1, **BRIDGE)
    machine.hide_extended("00:02.0")
    found = rebuilt(machine)

    assert device(found, "00:02.0").model == "pcie-root-port"
    assert told(found, OmissionKind.UNKNOWN, "00:02.0")


@pytest.mark.parametrize(("hidden", "model"), [("00:02.0", "pcie-root-port"), ("01:00.0", "x3130-upstream")])
def test_a_bridge_of_unknown_type_is_guessed_by_its_place(hidden: str, model: str) -> None:
    machine = port_with("switch_upstream", to=2, **BRIDGE)
    machine.switch_downstream("02:00.0", to=3, **BRIDGE)
    machine.hide_capabilities(hidden)
    found = rebuilt(machine)

    assert device(found, hidden).model == model
    assert "guessed" in told(found, OmissionKind.UNKNOWN, hidden)[0]


def test_a_downstream_port_of_unknown_type_is_one() -> None:
    machine = port_with("switch_upstream", to=2, **BRIDGE)
    machine.switch_downstream("02:00.0", to=3, **BRIDGE)
    machine.hide_capabilities("02:00.0")

    assert device(rebuilt(machine), "02:00.0").model == "pcie-root-port"


@pytest.mark.parametrize(
    ("add", "facts", "model", "kind"),
    [
        ("pcie_to_pci", {}, "pcie-pci-bridge", None),
        ("pcie_to_pci", {"ids": "1a03:1150", "kernel": "7.3"}, "pcie-pci-bridge", OmissionKind.ISOLATION),
        ("pci_bridge", {}, "pci-bridge", None),
        ("pci_bridge", {"ids": "10e3:8113"}, "pcie-pci-bridge", OmissionKind.NATURE),
        ("pci_to_pcie", {}, "pci-bridge", OmissionKind.NATURE),
        ("endpoint", {}, "pcie-root-port", OmissionKind.NATURE),
    ],
    ids=[
        "PCIe to PCI",
        "PCIe to PCI without alias",
        "conventional",
        "alias of PCIe to PCI",
        "PCI to PCIe",
        "no bridge",
    ],
)
def test_a_bridge_below_a_port_is_one_of_the_same_kind(
    add: str, facts: dict[str, Any], model: str, kind: OmissionKind | None
) -> None:
    kernel = facts.pop("kernel", "6.12")
    machine = port_with(add, to=2, **BRIDGE, **facts)
    machine.kernel = kernel
    found = rebuilt(machine)

    assert device(found, "01:00.0").model == model
    assert [one.kind for one in found.omissions] == ([] if kind is None else [kind])


def test_a_cardbus_bridge_is_a_conventional_one() -> None:
    machine = Machine()
    machine.pci_bridge("00:05.0", to=1, class_code=0x060700)
    machine.change("00:05.0", config=replace(machine.functions[Address.parse("00:05.0")].config, header_type=2))
    found = rebuilt(machine)

    assert device(found, "00:05.0").model == "pci-bridge"
    assert told(found, OmissionKind.NATURE, "00:05.0") == ["a PCI bridge stands for a CardBus bridge"]


def test_a_bridge_that_only_paths_name_is_there() -> None:
    machine = thread(ON)
    del machine.functions[Address.parse("01:00.0")]
    found = rebuilt(machine)

    assert device(found, "01:00.0").address == Address.parse("01:00.0")
    assert set(found.addresses) == set(machine.functions)


@pytest.mark.parametrize(
    ("add", "ids", "facts", "model"),
    [
        ("endpoint", "8086:10d3", {}, "e1000e"),
        ("endpoint", "8086:10d3", {"mf": True}, "e1000e"),
        ("endpoint", "8086:10c9", {}, "igb"),
        ("endpoint", "1af4:1000", {}, "virtio-net-pci"),
        ("endpoint", "1af4:1042", {"class_code": 0x010000}, "virtio-scsi-pci"),
        ("endpoint", "144d:a80c", {"class_code": 0x010802}, "nvme"),
        ("endpoint", "14e4:16d8", {"class_code": 0x020000}, "e1000e"),
        ("endpoint", "14e4:16d8", {"class_code": 0x020000, "mf": True, "acs": ON}, "igb"),
        ("endpoint", "10de:2204", {"class_code": 0x030000, "mf": True}, "qemu-xhci"),
        ("endpoint", "10de:2204", {"class_code": 0x030000, "mf": True, "acs": ON}, "pcie-root-port"),
        ("conventional", "8086:100e", {}, "e1000"),
        ("conventional", "1a03:2000", {"class_code": 0x030000}, "VGA"),
        ("conventional", "1234:4321", {}, "pci-testdev"),
    ],
)
def test_a_function_below_a_port_is_itself_or_the_like(add: str, ids: str, facts: dict[str, Any], model: str) -> None:
    assert device(rebuilt(port_with(add, ids=ids, **facts)), "01:00.0").model == model


def test_no_model_is_named_that_the_emulator_lacks() -> None:
    found = rebuilt(port_with("endpoint", ids="8086:10c9"), qemu=(7, 2))

    assert device(found, "01:00.0").model == "qemu-xhci"


@pytest.mark.parametrize(
    ("add", "facts", "model", "kind"),
    [
        ("rciep", {"ids": "8086:2021"}, "e1000e", None),
        ("rciep", {"acs": ON}, "e1000e", None),
        ("rciep", {}, "qemu-xhci", None),
        ("conventional", {"ids": OTHER}, "pci-testdev", None),
        ("conventional", {"ids": "1022:780f"}, "e1000e", OmissionKind.NATURE),
    ],
    ids=["vouched for", "with ACS", "not isolated", "conventional", "conventional and isolated"],
)
def test_a_function_of_several_on_the_root_bus_is_as_isolated_as_it_was(
    add: str, facts: dict[str, Any], model: str, kind: OmissionKind | None
) -> None:
    machine = Machine()
    getattr(machine, add)("00:04.0", mf=True, **facts)
    machine.conventional("00:04.1")
    found = rebuilt(machine, iommu="ivhd0")

    assert device(found, "00:04.0").model == model
    assert [one.kind for one in found.omissions if Address.parse("00:04.0") in one.functions] == (
        [] if kind is None else [kind]
    )


def test_isolation_that_nothing_can_have_is_told() -> None:
    machine = Machine()
    machine.pci_bridge("00:05.0", to=1, **BRIDGE)
    machine.conventional("01:01.0", ids="8086:1521", mf=True)
    found = rebuilt(machine)

    assert told(found, OmissionKind.ISOLATION, "01:01.0") == [
        "it is isolated from its siblings, and its stand-in is not"
    ]


def test_unread_capabilities_leave_the_nature_to_the_bus() -> None:
    machine = port_with("endpoint", ids=OTHER)
    machine.endpoint("01:00.1", ids=OTHER)
    machine.hide_config("01:00.0")
    found = rebuilt(machine)

    assert device(found, "01:00.0").model == "qemu-xhci"
    assert len(told(found, OmissionKind.UNKNOWN, "01:00.0")) == 2


def test_a_pcie_function_behind_a_conventional_bridge_becomes_conventional() -> None:
    machine = Machine()
    machine.pci_bridge("00:05.0", to=1, **BRIDGE)
    machine.pci_to_pcie("01:00.0", to=2, **BRIDGE)
    machine.endpoint("02:00.0", ids=OTHER)
    found = rebuilt(machine)

    assert device(found, "01:00.0").model == "pci-bridge"
    assert device(found, "02:00.0").model == "pci-testdev"
    assert told(found, OmissionKind.NATURE, "02:00.0") == ["a conventional function stands for a PCI Express one"]


def test_virtual_functions_come_after_boot_where_the_model_has_them() -> None:
    machine = port_with("endpoint", ids="8086:1572", mf=True, acs=ON, class_code=0x020000)
    machine.endpoint("01:00.1", ids="8086:1572", acs=ON, class_code=0x020000)
    for number in range(3):
        machine.vf(f"01:0{2 + number}.0", of="01:00.0")
        machine.vf(f"01:0{5 + number}.0", of="01:00.1")
    found = rebuilt(machine)

    assert found.virtual_functions == {Address.parse("01:00.0"): 3, Address.parse("01:00.1"): 3}
    assert found.addresses[Address.parse("01:03.0")] == Address.parse("01:10.2")
    assert found.addresses[Address.parse("01:06.0")] == Address.parse("01:10.3")
    assert found.parameters == ("intel_iommu=on", "pci=noari")


def test_many_virtual_functions_need_an_nvme() -> None:
    machine = port_with("endpoint", ids="8086:1572", class_code=0x020000)
    for number in range(9):
        machine.vf(f"01:{8 + number:02x}.0", of="01:00.0")
    found = rebuilt(machine)

    assert device(found, "01:00.0").model == "nvme"
    assert "sriov_max_vfs=9,sriov_vq_flexible=18" in str(device(found, "01:00.0").argument)
    assert found.addresses[Address.parse("01:10.0")] == Address.parse("01:01.1")
    assert any(one.model == "nvme-subsys" for one in found.devices)


@pytest.mark.parametrize(
    ("place", "count", "model", "carried"),
    [("0e.0", 7, "igb", 7), ("0f.0", 7, "nvme", 7), ("1e.0", 15, "nvme", 15), ("1e.0", 16, "nvme", 0)],
)
def test_virtual_functions_stay_on_the_bus_of_the_physical_one(
    place: str, count: int, model: str, carried: int
) -> None:
    machine = thread(ON)
    machine.endpoint(f"00:{place}", ids="8086:1572", class_code=0x020000)
    for number in range(count):
        machine.vf(f"70:{number >> 3:02x}.{number & 7}", of=f"00:{place}")
    found = rebuilt(machine)

    assert device(found, f"00:{place}").model == model
    assert found.virtual_functions == ({Address.parse(f"00:{place}"): carried} if carried else {})
    assert {one.bus for captured, one in found.addresses.items() if captured.bus == 0x70} <= {0}


def test_io_windows_are_not_used_up() -> None:
    machine = Machine()
    for number in range(2, 14):
        machine.root_port(f"00:{number:02x}.0", to=number, acs=ON, **BRIDGE)
        for function in range(2):
            machine.endpoint(f"{number:02x}:00.{function}", acs=ON, mf=True, class_code=0x020000, ids=OTHER)
    models = [device(rebuilt(machine), f"{number:02x}:00.1").model for number in range(2, 14)]

    assert models == ["igb"] * 8 + ["pcie-root-port"] * 4


def test_virtual_functions_without_room_are_told() -> None:
    machine = port_with("endpoint", mf=True)
    machine.endpoint("01:00.3", class_code=0x020000)
    machine.vf("01:02.0", of="01:00.3")
    found = rebuilt(machine)

    assert "virtual functions" in told(found, OmissionKind.FUNCTION, "01:02.0")[0]


def test_functions_above_device_0_below_a_port_are_told() -> None:
    machine = port_with("endpoint", acs=ON, mf=True)
    machine.endpoint("01:01.0", acs=ON, ari_enabled=True)

    assert told(rebuilt(machine), OmissionKind.FUNCTION, "01:01.0")


def test_a_device_without_function_0_gets_one() -> None:
    machine = port_with("endpoint")
    machine.change("01:00.0", present=True)
    machine.endpoint("02:00.0")
    machine.add("00:07.2", None)
    found = rebuilt(machine)
    arguments = [one.argument for one in found.devices]

    assert "pci-testdev,bus=pcie.0,addr=7.0,multifunction=on" in arguments
    assert told(found, OmissionKind.FUNCTION, "00:07.2")


def test_what_the_board_has_stands_for_what_was_captured() -> None:
    machine = Machine()
    machine.conventional("00:00.0", **HOST)
    machine.conventional("00:1f.0", mf=True)
    machine.conventional("00:1f.4", ids=OTHER)
    found = rebuilt(machine)

    assert device(found, "00:00.0").argument is None
    assert device(found, "00:1f.0").argument is None
    assert device(found, "00:1f.4").argument == "pci-testdev,bus=pcie.0,addr=1f.4"


@pytest.mark.parametrize("number", ["00", "1f"])
def test_a_device_where_the_board_has_another_moves(number: str) -> None:
    machine = Machine()
    machine.root_port(f"00:{number}.0", to=1, acs=ON, mf=True, **BRIDGE)
    machine.conventional(f"00:{number}.3")
    found = rebuilt(machine)

    assert found.addresses[Address.parse(f"00:{number}.3")] == Address.parse("00:1e.3")
    assert told(found, OmissionKind.PLACE, f"00:{number}.0")


def full(last: int) -> Machine:
    """A root bus on which slots 0 to ``last`` are taken."""
    machine = Machine()
    for number in range(last + 1):
        machine.add(Address(0, 0, number, 0), None, mf=number in (0, 0x1F), **(HOST if not number else {}))
    return machine


def test_what_finds_no_slot_is_told() -> None:
    machine = full(30)
    machine.conventional("00:00.1")
    machine.root_port("40:00.0", to=0x41, acs=ON, **BRIDGE)
    machine.endpoint("41:00.0")
    found = rebuilt(machine, iommu="ivhd0")

    assert "no slot is free" in told(found, OmissionKind.FUNCTION, "00:00.1")[0]
    assert "no slot is free" in told(found, OmissionKind.FUNCTION, "41:00.0")[0]
    assert told(found, OmissionKind.IOMMU) == ["no slot is free for the function of the amd-iommu"]


def test_a_virtio_iommu_needs_a_slot_too() -> None:
    assert told(rebuilt(full(30), iommu="virtio0"), OmissionKind.IOMMU) == ["no slot is free for the virtio-iommu"]


def test_a_virtio_iommu_without_a_function_of_its_own_gets_one() -> None:
    found = rebuilt(thread(ON), iommu="virtio0")

    assert found.iommu is Iommu.VIRTIO
    assert found.devices[0].argument == "virtio-iommu-pci,bus=pcie.0,addr=1e.0"


def test_further_root_buses_take_bridges_only() -> None:
    machine = thread(ON)
    machine.conventional("40:00.0", mf=True)
    machine.rciep("40:00.1", ids="8086:2021")
    machine.endpoint("40:03.2", mf=True)
    found = rebuilt(machine)

    assert [device(found, f"40:{place}").model for place in ("00.0", "00.1", "03.2")] == [
        "pci-bridge",
        "pcie-root-port",
        "pci-bridge",
    ]
    assert any(
        str(one.argument).startswith("pxb-pcie,id=x1e.0,bus=pcie.0,addr=1e.0,bus_nr=64") for one in found.devices
    )


def test_expanders_that_were_captured_stay_where_they_are() -> None:
    machine = thread(ON)
    for number in (8, 9):
        machine.conventional(f"00:0{number}.0", ids="1b36:000b", **HOST)
    machine.root_port("40:00.0", to=0x41, acs=ON, **BRIDGE)
    found = rebuilt(machine)

    assert "addr=8.0,bus_nr=64" in str(device(found, "00:08.0").argument)
    assert "addr=9.0,bus_nr=66" in str(device(found, "00:09.0").argument)


def places(found: Reproduction) -> list[str]:
    """Bus and address of everything that is plugged in; QEMU refuses to start with one of them twice."""
    arguments = (str(one.argument) for one in found.devices)
    return [place[0] for text in arguments if (place := re.search(r"bus=[^,]+,addr=[^,]+", text)) is not None]


def test_nothing_is_moved_to_the_slot_of_an_expander_that_was_captured() -> None:
    machine = thread(ON)
    machine.conventional("00:1e.0", ids="1b36:000b", **HOST)
    machine.root_port("00:1f.0", to=0x60, acs=ON, **BRIDGE)
    machine.root_port("40:00.0", to=0x41, acs=ON, **BRIDGE)
    machine.root_port("50:00.0", to=0x51, acs=ON, **BRIDGE)
    found = rebuilt(machine)

    assert "addr=1e.0" in str(device(found, "00:1e.0").argument)
    assert "addr=1d.0" in str(device(found, "00:1f.0").argument)
    assert len(places(found)) == len(set(places(found)))


@pytest.mark.parametrize(("place", "beside"), [("01.0", "01.1"), ("01.1", "01.2"), ("1f.0", "01.0"), ("00.0", "01.0")])
def test_an_expander_that_could_not_be_plugged_in_so_is_none(place: str, beside: str) -> None:
    machine = thread(ON)
    machine.conventional(f"00:{place}", ids="1b36:000b", **HOST)
    machine.conventional(f"00:{beside}", ids=OTHER)
    machine.root_port("40:00.0", to=0x41, acs=ON, **BRIDGE)
    found = rebuilt(machine)

    assert device(found, f"00:{place}").model != "pxb-pcie"
    assert "addr=1e.0,bus_nr=64" in str([one.argument for one in found.devices if one.model == "pxb-pcie"])
    assert len(places(found)) == len(set(places(found)))


def test_a_root_bus_that_no_iommu_serves_is_passed_by() -> None:
    machine = thread(ON)
    machine.root_port("40:00.0", to=0x41, acs=ON, root=(0, 0x40), **BRIDGE)
    groups = "00:02.0 | 01:00.0 02:00.0"
    found = rebuilt(machine, groups)

    assert "bypass_iommu=true" in str([one.argument for one in found.devices if one.model == "pxb-pcie"])


def test_the_first_root_bus_can_be_passed_by_too() -> None:
    machine = Machine()
    machine.conventional("00:00.0", root=(0, 0), **HOST)
    machine.root_port("40:00.0", to=0x41, acs=ON, root=(0, 0x40), **BRIDGE)
    found = rebuilt(machine, "40:00.0")

    assert found.machine == ("-machine", "q35,default-bus-bypass-iommu=on")


def test_domains_fold_into_one() -> None:
    machine = thread(ON)
    machine.root_port("0002:00:01.0", to=1, acs=ON, **BRIDGE)
    machine.endpoint("0002:01:00.0")
    found = rebuilt(machine)

    assert found.addresses[Address.parse("0002:01:00.0")] == Address.parse("04:00.0")
    assert "domain 0002" in told(found, OmissionKind.PLACE, "0002:00:01.0")[0]


def test_bus_numbers_are_packed_where_captured_ones_do_not_fit() -> None:
    machine = Machine()
    for root in (0xA0, 0xE0):
        for number in range(30):
            machine.add(Address(0, root, number, 0), None)
    machine.conventional("00:00.0", **HOST)
    for number in range(20):
        machine.add(Address(0, 0xF8, number, 0), None)
    found = rebuilt(machine)

    assert set(found.addresses) == set(machine.functions)
    assert max(found.addresses.values()).bus < 0x60


def test_what_finds_no_bus_number_is_told() -> None:
    machine = thread(ON)
    for root in range(0x10, 0xFF, 0x20):
        for number in range(31):
            for function in range(2):
                machine.add(Address(0, root, number, function), None, mf=not function)
    found = rebuilt(machine)

    assert [one.kind for one in found.omissions if "bus numbers run out" in one.text] == [OmissionKind.FUNCTION]
    assert max(found.addresses.values()).bus <= 0xFF


def test_a_volume_management_device_keeps_what_it_has_to_itself() -> None:
    machine = Machine()
    machine.vmd("00:0e.0", domain=0x10000)
    machine.root_port("10000:00:01.0", to=1, acs=ON, **BRIDGE)
    machine.endpoint("10000:01:00.0")
    found = rebuilt(machine)

    assert "VMD" in told(found, OmissionKind.FUNCTION, "10000:01:00.0")[0]
    assert set(found.addresses) == {Address.parse("00:0e.0")}


def test_slot_0_behind_a_bridge_is_left_where_its_own_controller_plugs() -> None:
    machine = thread(ON)
    machine.conventional("00:00.0", ids=VIRT, **HOST)
    found = rebuilt(machine, iommu="smmu3.0x0000000009050000")

    assert found.architecture is Architecture.AARCH64
    assert found.addresses[Address.parse("02:00.0")] == Address.parse("02:01.0")
    assert told(found, OmissionKind.PLACE, "02:00.0")


def test_a_full_bus_leaves_no_room_for_slot_0() -> None:
    machine = thread(ON)
    for number in range(1, 32):
        machine.add(Address(0, 2, number, 0), None)
    found = rebuilt(machine, iommu="smmu3.0x0000000009050000")

    assert told(found, OmissionKind.FUNCTION, "02:00.0")


@pytest.mark.parametrize(
    ("facts", "architecture", "iommu"),
    [
        ({"iommu": "dmar0"}, Architecture.X86_64, Iommu.INTEL),
        ({"iommu": "ivhd0"}, Architecture.X86_64, Iommu.AMD),
        ({"iommu": "virtio0"}, Architecture.X86_64, Iommu.VIRTIO),
        ({"iommu": "smmu3.0x0000000009050000"}, Architecture.AARCH64, Iommu.SMMUV3),
        ({"iommu": "smmu.0x0000000009050000"}, Architecture.AARCH64, Iommu.SMMUV3),
        ({"iommu": None}, Architecture.X86_64, Iommu.NONE),
        ({"iommu": None, "table_names": frozenset({"DMAR"})}, Architecture.X86_64, Iommu.INTEL),
        ({"iommu": None, "table_names": frozenset({"IVRS"})}, Architecture.X86_64, Iommu.AMD),
        ({"iommu": None, "kernel_release": "6.12-arm64"}, Architecture.AARCH64, Iommu.NONE),
        ({"iommu": None, "device_tree": DTB.read_bytes()}, Architecture.AARCH64, Iommu.SMMUV3),
        ({"iommu": "dmar0", "device_tree": b""}, Architecture.AARCH64, Iommu.SMMUV3),
        ({"iommu": "riscv-iommu.0"}, Architecture.X86_64, Iommu.INTEL),
    ],
)
def test_board_and_iommu_are_those_of_the_capture(
    facts: dict[str, Any], architecture: Architecture, iommu: Iommu
) -> None:
    found = rebuilt(thread(ON), **facts)

    assert (found.architecture, found.iommu) == (architecture, iommu)


def test_an_amd_machine_without_a_named_iommu_gets_an_amd_one() -> None:
    machine = thread(ON)
    machine.conventional("00:00.0", ids="1022:1480", **HOST)

    assert rebuilt(machine, "00:02.0 | 01:00.0 02:00.0", iommu=None).iommu is Iommu.AMD


@pytest.mark.parametrize(
    ("ids", "iommu"), [("1af4:1057", Iommu.VIRTIO), ("1022:1481", Iommu.AMD)], ids=["virtio", "AMD"]
)
def test_the_function_of_an_iommu_tells_which_it_is(ids: str, iommu: Iommu) -> None:
    machine = thread(ON)
    machine.conventional("00:03.0", ids=ids, class_code=0x080600)
    found = rebuilt(machine, "00:02.0 | 01:00.0 02:00.0", iommu=None)

    assert found.iommu is iommu
    assert Address.parse("00:03.0") in found.addresses


def test_several_iommus_become_one() -> None:
    machine = thread(ON)
    machine.conventional("00:00.2", ids="1022:1481", class_code=0x080600)
    machine.conventional("40:00.2", ids="1022:1481", class_code=0x080600)
    found = rebuilt(machine, iommus={"ivhd0": (), "ivhd1": ()})

    assert found.addresses[Address.parse("00:00.2")] == Address.parse("00:01.0")
    assert told(found, OmissionKind.FUNCTION, "40:00.2") == ["it is an IOMMU; the guest's serves all"]
    assert told(found, OmissionKind.IOMMU) == ["the machine has 2 IOMMUs, the guest one for all that it serves"]


def test_the_amd_iommu_is_made_when_the_slots_below_its_own_are_taken() -> None:
    machine = Machine()
    machine.conventional("00:01.0", ids=OTHER)
    machine.conventional("00:05.0", ids=OTHER)
    made = [one.model for one in rebuilt(machine, iommu="ivhd0").devices]

    assert made == ["pci-testdev", "amd-iommu", "pci-testdev"]


def test_the_amd_iommu_of_an_empty_bus_is_made_all_the_same() -> None:
    machine = Machine()
    machine.conventional("00:00.0", **HOST)

    assert [one.argument for one in rebuilt(machine, iommu="ivhd0").devices] == [None, "amd-iommu"]


def test_the_function_of_another_iommu_is_left_out() -> None:
    machine = thread(ON)
    machine.vmd("00:0e.0", domain=0x10000)
    for address in ("00:03.0", "10000:00:03.0"):
        machine.conventional(address, ids="1022:1481", class_code=0x080600)
    found = rebuilt(machine)

    assert told(found, OmissionKind.FUNCTION, "00:03.0") == ["it is an IOMMU; the guest's serves all"]
    assert "VMD" in told(found, OmissionKind.FUNCTION, "10000:00:03.0")[0]


def test_an_omission_about_no_function_is_told_too() -> None:
    text = render_reproduction(rebuilt(thread(ON), iommus={"dmar0": (), "dmar1": ()}))

    assert "# - iommu: the machine has 2 IOMMUs, the guest one for all that it serves\n" in text


def test_a_device_tree_does_not_describe_further_root_buses() -> None:
    machine = thread(ON)
    machine.root_port("40:00.0", to=0x41, acs=ON, **BRIDGE)
    tree: dict[str, Any] = {"device_tree": DTB.read_bytes(), "iommu": "smmu3.0x0000000009050000"}

    assert rebuilt(thread(ON), **tree).device_tree
    assert not rebuilt(machine, **tree).device_tree
    assert "ACPI" in told(rebuilt(machine, **tree), OmissionKind.IOMMU)[0]


@pytest.mark.parametrize(
    ("cmdline", "parameters"),
    [
        ("root=/dev/sda quiet", ("intel_iommu=on",)),
        ("iommu=pt intel_iommu=on,sm_on iommu.strict=0", ("iommu=pt", "intel_iommu=on,sm_on", "iommu.strict=0")),
        ("pcie_ports=compat intel_iommu=off", ("pcie_ports=compat", "intel_iommu=off")),
        (
            "pci=disable_acs_redir=0002:00:01.0;09:00.0 intel_iommu=on",
            ("pci=disable_acs_redir=0000:03:01.0;0000:09:00.0", "intel_iommu=on"),
        ),
    ],
)
def test_words_for_the_kernel_follow_the_functions(cmdline: str, parameters: tuple[str, ...]) -> None:
    machine = thread(ON)
    machine.root_port("0002:00:01.0", to=1, acs=ON, **BRIDGE)
    found = rebuilt(machine, cmdline=cmdline)

    assert found.parameters == parameters
    assert bool(told(found, OmissionKind.KERNEL)) is ("09:00.0" in cmdline)


@pytest.mark.parametrize(
    ("qemu", "argument"),
    [((10, 0), "intel-iommu,x-scalable-mode=on"), ((11, 1), "intel-iommu,scalable-mode=on")],
)
def test_scalable_mode_is_asked_for_as_the_emulator_calls_it(qemu: Version, argument: str) -> None:
    found = rebuilt(thread(ON), cmdline="intel_iommu=on,sm_on", qemu=qemu)

    assert found.devices[0].argument == argument


def test_what_hangs_on_nothing_is_told() -> None:
    machine = Machine()
    machine.add("05:00.0", PortType.ENDPOINT, upstream=Address.parse("06:00.0"))
    machine.add("06:00.0", PortType.ROOT_PORT, to=5, acs=ON, upstream=Address.parse("05:00.0"))

    assert "nothing in the capture says" in told(rebuilt(machine), OmissionKind.FUNCTION, "05:00.0")[0]


def test_a_tower_of_bridges_ends_somewhere() -> None:
    machine = Machine()
    machine.pci_bridge("00:05.0", to=1, **BRIDGE)
    for number in range(1, 250):
        machine.pci_bridge(f"{number:02x}:00.0", to=number + 1, **BRIDGE)
    found = rebuilt(machine)

    assert "below more than" in told(found, OmissionKind.FUNCTION, "f0:00.0")[0]


def test_a_report_without_its_analysis_cannot_be_rebuilt() -> None:
    report = replace(check(seen(thread(ON))), analysis=None)
    nothing = Firmware(dmar=None, ivrs=None, viot=None, iort=None, host_bridges=None, problems=())

    with pytest.raises(ValueError, match="analysis"):
        reproduce(report, (10, 0))
    with pytest.raises(ValueError, match="analysis"):
        board_of(report, nothing, frozenset(), Notes())
