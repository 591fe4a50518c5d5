# SPDX-License-Identifier: GPL-2.0-or-later
"""Requester IDs: every kind of bridge in the walk, every kind of fixup, and who shares an ID with whom."""

import pytest

from iommud.address import Address
from iommud.pci import PortType
from tests.machines import PLAIN, Machine


def takers(machine: Machine, name: str) -> list[str]:
    aliases = machine.aliases()
    found = aliases.of(aliases.topology.functions[Address.parse(name)])
    return [f"{one.taker} as {one.requester_id}".replace("0000:", "") for one in found][1:]


def shared(machine: Machine, one: str, other: str) -> str | None:
    aliases = machine.aliases()
    functions = aliases.topology.functions
    found = aliases.share(functions[Address.parse(one)], functions[Address.parse(other)])
    mirrored = aliases.share(functions[Address.parse(other)], functions[Address.parse(one)])
    assert found == mirrored
    return None if found is None else str(found).removeprefix("0000:")


def below(port_type: int | None, ids: str = PLAIN, kernel: str = "6.12") -> Machine:
    machine = Machine(kernel)
    machine.root_port("00:01.0", to=1)
    machine.add("01:02.0", port_type, to=5, ids=ids)
    machine.endpoint("05:03.0")
    return machine


@pytest.mark.parametrize(
    ("port_type", "ids", "kernel", "expected"),
    [
        *((port_type, PLAIN, "6.12", []) for port_type in (0, 1, 4, 5, 6, 9, 10, 15)),
        (7, PLAIN, "6.12", ["01:02.0 as 05:00.0"]),
        (8, PLAIN, "6.12", ["01:02.0 as 01:02.0"]),
        (None, PLAIN, "6.12", ["01:02.0 as 01:02.0"]),
        (None, "10e3:8113", "6.12", ["01:02.0 as 05:00.0"]),
        (7, "1a03:1150", "6.12", ["01:02.0 as 05:00.0"]),
        (7, "1a03:1150", "7.3", []),
        # The flag concerns the walk at a PCIe-to-PCI bridge only.
        (8, "1a03:1150", "7.3", ["01:02.0 as 01:02.0"]),
        (7, "14e4:9000", "6.12", []),
        (None, "14e4:9084", "6.12", []),
    ],
)
def test_what_each_kind_of_bridge_adds_to_the_walk(
    port_type: int | None, ids: str, kernel: str, expected: list[str]
) -> None:
    assert takers(below(port_type, ids, kernel), "05:03.0") == expected


def test_the_alias_of_a_bridge_is_on_the_bus_right_below_it() -> None:
    machine = Machine()
    machine.pcie_to_pci("00:01.0", to=1, subordinate_bus=9)
    machine.pci_bridge("01:04.0", to=2)
    machine.conventional("02:05.0")
    assert takers(machine, "02:05.0") == ["01:04.0 as 01:04.0", "00:01.0 as 01:00.0"]


def test_a_bridge_that_translates_ends_the_whole_walk() -> None:
    machine = Machine()
    machine.pcie_to_pci("00:01.0", to=1)
    machine.root_port("01:01.0", to=2, ids="14e4:9000")
    machine.pcie_to_pci("02:01.0", to=3)
    machine.conventional("03:05.0")
    assert takers(machine, "03:05.0") == ["02:01.0 as 03:00.0"]


def test_a_bridge_without_a_known_secondary_bus_aliases_as_itself() -> None:
    machine = below(PortType.PCIE_TO_PCI_BRIDGE)
    machine.change("01:02.0", secondary_bus=None)
    assert takers(machine, "05:03.0") == ["01:02.0 as 01:02.0"]


def test_a_bridge_of_unread_type_adds_nothing_that_is_known() -> None:
    machine = below(PortType.PCIE_TO_PCI_BRIDGE)
    machine.hide_capabilities("01:02.0")
    assert takers(machine, "05:03.0") == []
    aliases = machine.aliases()
    chain = aliases.topology.chain(aliases.topology.functions[Address.parse("05:03.0")])
    assert aliases.alias_bridges(chain) == []
    assert aliases.alias_bridges(chain, unread=True) == [chain[0]]
    assert aliases.type_unread(aliases.topology.functions[Address.parse("01:02.0")])
    assert not aliases.type_unread(aliases.topology.functions[Address.parse("00:01.0")])


def test_virtual_buses_are_passed_through() -> None:
    machine = below(PortType.PCIE_TO_PCI_BRIDGE)
    machine.vf("06:00.0", of="05:03.0")
    assert takers(machine, "06:00.0") == ["01:02.0 as 05:00.0"]


def test_the_walk_of_a_vmd_domain_starts_at_the_endpoint() -> None:
    machine = Machine()
    machine.pci_bridge("00:01.0", to=1)
    machine.vmd("01:0e.0", domain=0x10000)
    machine.pcie_to_pci("10000:e0:06.0", to=0xE1)
    machine.conventional("10000:e1:00.0")
    aliases = machine.aliases()
    found = aliases.of(aliases.topology.functions[Address.parse("10000:e1:00.0")])
    assert [(str(one.taker), str(one.requester_id)) for one in found] == [
        ("0000:01:0e.0", "0000:01:0e.0"),
        ("0000:00:01.0", "0000:00:01.0"),
    ]


EVERY_SLOT = [slot << 3 | function for slot in range(32) for function in (0, 4)]


@pytest.mark.parametrize(
    ("name", "ids", "subsystem", "kernel", "expected"),
    [
        ("00:03.0", "1180:e476", None, "6.12", []),
        ("00:03.2", "1180:e476", None, "6.12", [0x18]),
        ("00:03.2", "6766:3d40", None, "5.10", []),
        ("00:03.2", "6766:3d40", None, "6.1", [0x18]),
        ("00:03.0", "1103:0642", None, "6.12", [0x19]),
        ("00:03.1", "1103:0642", None, "6.12", []),
        ("00:03.7", "1103:0642", None, "6.12", [0x19]),
        ("00:03.0", "8086:2260", None, "6.12", [0x80, 0x88, 0x93]),
        ("00:03.0", "8086:2954", None, "6.12", EVERY_SLOT),
        ("00:03.0", "10b5:87b0", None, "6.12", list(range(256))),
        ("00:03.0", "9005:0285", "9005:02bb", "6.12", [0x08]),
        ("00:03.0", "9005:0285", "9005:02bd", "6.12", []),
        ("00:03.0", "9005:0285", None, "6.12", []),
        ("00:03.0", "10e3:8113", None, "6.12", []),
        ("00:03.0", "1055:1001", None, "6.12", []),
        ("00:03.0", PLAIN, None, "6.12", []),
    ],
)
def test_each_kind_of_fixup_gives_its_mask(
    name: str, ids: str, subsystem: str | None, kernel: str, expected: list[int]
) -> None:
    machine = Machine(kernel)
    address = machine.endpoint(name, ids=ids, subsystem=subsystem)
    aliases = machine.aliases()
    assert sorted(aliases.mask(aliases.topology.functions[address])) == expected


def test_masks_stand_in_the_walk_behind_the_own_id_and_before_the_bridges() -> None:
    machine = below(PortType.PCIE_TO_PCI_BRIDGE)
    machine.endpoint("05:04.1", ids="8086:2260")
    assert takers(machine, "05:04.1") == [
        *(f"05:04.1 as 05:{devfn}" for devfn in ("10.0", "11.0", "12.3")),
        "01:02.0 as 05:00.0",
    ]


def test_aliases_from_ivrs_and_from_the_log_join_those_of_the_table() -> None:
    machine = Machine()
    address = machine.endpoint("00:03.0", ids="1103:0642")
    machine.firmware[address] = frozenset({0x20})
    machine.logged[address] = frozenset({0x28})
    assert takers(machine, "00:03.0") == [f"00:03.0 as 00:{devfn}" for devfn in ("03.1", "04.0", "05.0")]


def test_a_function_of_unknown_identity_has_only_the_aliases_that_were_told() -> None:
    machine = Machine()
    address = machine.endpoint("00:03.0", ids="1103:0642")
    machine.firmware[address] = frozenset({0x20})
    machine.change(address, device=None)
    assert takers(machine, "00:03.0") == ["00:03.0 as 00:04.0"]
    aliases = machine.aliases()
    assert not aliases.mask_unknown(aliases.topology.functions[address])


@pytest.mark.parametrize(
    ("kernel", "ids", "class_code", "logged", "unknown"),
    [
        ("6.12", "1055:1001", 0x068000, False, True),
        ("6.12", "1055:1001", 0x068000, True, False),
        ("6.12", "1055:1001", 0x060400, False, False),
        ("6.12", "1055:1001", None, False, False),
        ("5.10", "1055:1001", 0x068000, False, False),
        ("6.12", "1103:0642", 0x068000, False, False),
    ],
)
def test_what_stands_in_device_memory_is_unknown_unless_the_log_tells_it(
    kernel: str, ids: str, class_code: int | None, logged: bool, unknown: bool
) -> None:
    machine = Machine(kernel)
    address = machine.endpoint("00:03.0", ids=ids, class_code=class_code)
    if logged:
        machine.logged[address] = frozenset()
    aliases = machine.aliases()
    assert aliases.mask_unknown(aliases.topology.functions[address]) is unknown


def test_two_functions_below_a_conventional_bus_share_the_bridge_s_id() -> None:
    machine = below(PortType.PCIE_TO_PCI_BRIDGE)
    machine.conventional("05:07.0")
    assert shared(machine, "05:03.0", "05:07.0") == "05:00.0"


def test_a_bridge_and_what_it_takes_an_alias_of_can_use_each_other_s_mappings() -> None:
    machine = below(PortType.PCIE_TO_PCI_BRIDGE)
    assert shared(machine, "01:02.0", "05:03.0") == "05:00.0"


def test_a_function_shares_the_id_that_its_sibling_s_mask_names() -> None:
    machine = Machine()
    machine.endpoint("00:03.0", ids="1103:0642")
    machine.endpoint("00:03.1")
    assert shared(machine, "00:03.0", "00:03.1") == "00:03.1"


def test_functions_on_isolated_links_share_nothing() -> None:
    machine = below(PortType.ROOT_PORT)
    machine.endpoint("05:04.0")
    assert shared(machine, "05:03.0", "05:04.0") is None
    assert shared(machine, "01:02.0", "05:03.0") is None
