# SPDX-License-Identifier: GPL-2.0-or-later
"""One small topology for every rule that ties functions, and for what keeps them apart."""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import pytest

from iommud.address import Address
from iommud.model.acs import AcsState
from iommud.model.groups import Rule, Tie, closure
from iommud.pci import AcsRegisters
from tests.machines import OFF, ON, PLAIN, Machine, partition

FINEST = AcsState(unknown=True)
COARSEST = AcsState(unknown=False)


def ties(machine: Machine, state: AcsState = FINEST, never: tuple[str, ...] = ()) -> set[str]:
    """Ties written as ``rule: one - other``, domain 0000 left out."""
    found = machine.model(state, {Address.parse(one) for one in never}).ties()
    return {f"{tie.rule}: {tie.one} - {tie.other}".replace(" 0000:", " ") for tie in found}


def below_port(acs: AcsRegisters | None) -> Machine:
    machine = Machine()
    machine.root_port("00:01.0", to=1, acs=acs)
    machine.endpoint("01:00.0")
    return machine


def test_an_isolated_port_and_what_lies_below_it_are_apart() -> None:
    assert below_port(ON).groups() == partition("00:01.0 | 01:00.0")
    assert ties(below_port(ON)) == set()


def test_an_unprotected_port_takes_in_what_lies_below_it() -> None:
    assert below_port(OFF).groups() == partition("00:01.0 01:00.0")
    assert ties(below_port(OFF)) == {"unprotected-path: 01:00.0 - 00:01.0"}


def test_one_unprotected_bridge_makes_the_whole_path_below_it_unprotected() -> None:
    machine = Machine()
    machine.root_port("00:01.0", to=1, acs=ON)
    machine.root_port("01:00.0", to=2, acs=OFF)
    machine.root_port("02:00.0", to=3, acs=ON)
    machine.endpoint("03:00.0")
    assert machine.groups() == partition("00:01.0 | 01:00.0 02:00.0 03:00.0")


def test_an_alias_bridge_takes_in_its_bus_even_on_an_isolated_path() -> None:
    machine = Machine()
    machine.root_port("00:01.0", to=1, acs=ON)
    machine.pcie_to_pci("01:00.0", to=2)
    machine.conventional("02:01.0")
    machine.conventional("02:02.0")
    assert machine.groups() == partition("00:01.0 | 01:00.0 02:01.0 02:02.0")
    assert ties(machine) == {"alias-bridge: 02:01.0 - 01:00.0", "alias-bridge: 02:02.0 - 01:00.0"}


def test_an_alias_bridge_that_the_table_calls_isolated_still_takes_in_its_bus() -> None:
    machine = Machine()
    machine.pcie_to_pci("00:01.0", to=1, ids="10e8:e004")
    machine.conventional("01:01.0")
    assert machine.groups() == partition("00:01.0 01:01.0")


def test_the_nearest_alias_bridge_goes_before_unprotected_bridges_below_it() -> None:
    machine = Machine()
    machine.pcie_to_pci("00:01.0", to=1)
    machine.root_port("01:00.0", to=2)
    machine.endpoint("02:00.0")
    assert machine.groups() == partition("00:01.0 01:00.0 02:00.0")
    assert "alias-bridge: 02:00.0 - 00:01.0" in ties(machine)


def test_unprotected_bridges_below_an_alias_bridge_without_a_group_count_for_nothing() -> None:
    machine = Machine()
    machine.root_port("00:01.0", to=1, acs=ON)
    machine.pcie_to_pci("01:00.0", to=2)
    machine.root_port("02:00.0", to=3, acs=OFF)
    machine.endpoint("03:00.0")
    # The search for a group goes on from the last bridge that takes an alias, upward.
    assert machine.groups(never=["01:00.0"]) == partition("00:01.0 | 02:00.0 | 03:00.0")


def test_above_a_bridge_that_translates_only_the_path_counts() -> None:
    machine = Machine()
    machine.pci_bridge("00:01.0", to=1, ids="10e8:e004")
    machine.root_port("01:00.0", to=2, ids="14e4:9000", acs=ON)
    machine.endpoint("02:00.0")
    assert machine.groups() == partition("00:01.0 01:00.0 | 02:00.0")


def slot(*functions: tuple[str, AcsRegisters | None, bool], port: AcsRegisters = ON) -> Machine:
    machine = Machine()
    machine.root_port("00:01.0", to=1, acs=port)
    for name, acs, mf in functions:
        machine.endpoint(name, acs=acs, mf=mf)
    return machine


@pytest.mark.parametrize(
    ("machine", "expected"),
    [
        (slot(("01:00.0", None, True), ("01:00.1", None, True)), "00:01.0 | 01:00.0 01:00.1"),
        (slot(("01:00.0", ON, True), ("01:00.1", None, True)), "00:01.0 | 01:00.0 | 01:00.1"),
        (slot(("01:00.0", ON, True), ("01:00.1", ON, True)), "00:01.0 | 01:00.0 | 01:00.1"),
        # A single endpoint is isolated by its type; the mark of the other finds nothing.
        (slot(("01:00.0", None, False), ("01:00.1", None, True)), "00:01.0 | 01:00.0 | 01:00.1"),
        (slot(("01:00.0", None, True), ("01:01.0", None, True)), "00:01.0 | 01:00.0 | 01:01.0"),
        (slot(("01:00.0", ON, True), ("01:00.1", ON, True), port=OFF), "00:01.0 01:00.0 01:00.1"),
    ],
)
def test_functions_of_one_slot_fall_together_where_acs_does_not_part_them(machine: Machine, expected: str) -> None:
    assert machine.groups() == partition(expected)


def test_one_mark_is_enough_to_find_an_unmarked_function() -> None:
    machine = Machine()
    machine.conventional("00:01.0", mf=False)
    machine.conventional("00:01.1", mf=True)
    assert machine.groups() == partition("00:01.0 00:01.1")
    assert ties(machine) == {"multifunction: 00:01.1 - 00:01.0"}


def test_conventional_functions_without_a_mark_stay_apart() -> None:
    machine = Machine()
    machine.conventional("00:01.0")
    machine.conventional("00:02.0")
    assert machine.groups() == partition("00:01.0 | 00:02.0")


@pytest.mark.parametrize(
    ("kernel", "expected"), [("5.10", "00:01.0 | 01:00.0 01:00.1"), ("7.3", "00:01.0 | 01:00.0 | 01:00.1")]
)
def test_a_device_of_the_table_is_parted_from_the_version_that_knows_it(kernel: str, expected: str) -> None:
    machine = Machine(kernel)
    machine.root_port("00:01.0", to=1, acs=ON)
    machine.endpoint("01:00.0", mf=True, ids="14e4:1760")
    machine.endpoint("01:00.1", mf=True, ids="14e4:1760")
    assert machine.groups() == partition(expected)


@pytest.mark.parametrize(
    ("port", "expected"),
    [
        (ON, "00:01.0 | 01:00.0 01:00.1 | 01:00.2"),
        # On a bus that falls together with its port, masks add nothing.
        (OFF, "00:01.0 01:00.0 01:00.1 01:00.2"),
    ],
)
def test_a_function_that_sends_as_another_falls_together_with_it(port: AcsRegisters, expected: str) -> None:
    machine = Machine()
    machine.root_port("00:01.0", to=1, acs=port)
    for function in range(3):
        machine.endpoint(f"01:00.{function}", mf=True, acs=ON)
    machine.change("01:00.0", vendor=0x1103, device=0x0642)
    assert machine.groups() == partition(expected)
    assert ("dma-alias: 01:00.0 - 01:00.1" in ties(machine)) is (port is ON)


def test_masks_reach_no_other_bus() -> None:
    machine = Machine()
    machine.rciep("00:01.0", ids="10b5:87b0")
    machine.rciep("00:02.0")
    machine.root_port("00:03.0", to=1, acs=ON)
    machine.endpoint("01:00.0")
    assert machine.groups() == partition("00:01.0 00:02.0 00:03.0 | 01:00.0")


@pytest.mark.parametrize(
    ("domain", "expected"),
    [(0, "0000:00:01.0 0000:00:02.0 | 0001:00:02.0"), (1, "0000:00:01.0 | 0000:00:02.0 | 0001:00:02.0")],
)
def test_aliases_from_firmware_tie_like_those_of_the_table(domain: int, expected: str) -> None:
    machine = Machine()
    for name in ("0000:00:01.0", "0000:00:02.0", "0001:00:02.0"):
        machine.rciep(name)
    machine.firmware[Address(domain, 0, 2 if domain else 1, 0)] = frozenset({0x10})
    assert machine.groups() == partition(expected)


@pytest.mark.parametrize(
    ("port", "expected"),
    [
        (ON, "00:01.0 | 01:00.0 | 01:00.1 | 02:00.0"),
        (OFF, "00:01.0 01:00.0 01:00.1 02:00.0"),
    ],
)
def test_virtual_functions_go_with_the_port_or_alone(port: AcsRegisters, expected: str) -> None:
    machine = below_port(port)
    machine.vf("01:00.1", of="01:00.0")
    machine.vf("02:00.0", of="01:00.0")
    assert machine.groups() == partition(expected)


def test_a_function_may_send_as_a_virtual_one_on_its_bus_but_not_on_a_virtual_bus() -> None:
    machine = below_port(ON)
    machine.change("01:00.0", vendor=0x8086, device=0x2260)
    machine.vf("01:10.0", of="01:00.0", ids=PLAIN)
    machine.vf("02:10.0", of="01:00.0", ids=PLAIN)
    assert machine.groups() == partition("00:01.0 | 01:00.0 01:10.0 | 02:10.0")


def vmd_domain(port: AcsRegisters = ON) -> Machine:
    machine = Machine()
    machine.root_port("00:01.0", to=1, acs=port)
    machine.vmd("01:00.0", domain=0x10000)
    machine.root_port("10000:e0:06.0", to=0xE1, acs=ON)
    machine.rciep("10000:e0:07.0")
    machine.endpoint("10000:e1:00.0")
    return machine


def test_a_vmd_domain_falls_together_with_its_endpoint() -> None:
    together = "01:00.0 10000:e0:06.0 10000:e0:07.0 10000:e1:00.0"
    assert vmd_domain().groups() == partition(f"00:01.0 | {together}")
    assert "real-dma-device: 10000:e1:00.0 - 01:00.0" in ties(vmd_domain())
    assert vmd_domain(OFF).groups() == partition(f"00:01.0 {together}")


@pytest.mark.parametrize("acs", [ON, OFF])
def test_ports_inside_a_vmd_domain_decide_nothing(acs: AcsRegisters) -> None:
    machine = Machine()
    machine.vmd("00:0e.0", domain=0x10000)
    machine.root_port("10000:e0:06.0", to=0xE1, acs=acs)
    machine.endpoint("10000:e1:00.0")
    assert "real-dma-device: 10000:e1:00.0 - 00:0e.0" in ties(machine)
    # Without a group of the endpoint, nothing above it is left that could hold the domain together.
    assert machine.groups(never=["00:0e.0"]) == partition("10000:e0:06.0 | 10000:e1:00.0")


def test_masks_and_slots_count_for_nothing_inside_a_vmd_domain() -> None:
    machine = vmd_domain()
    machine.change("10000:e0:07.0", vendor=0x10B5, device=0x87B0)
    rules = {tie.rule for tie in machine.model(FINEST).ties()}
    assert rules == {Rule.REAL_DMA_DEVICE}


@pytest.mark.parametrize("acs", [ON, OFF])
def test_below_a_vmd_endpoint_without_a_group_the_bridges_above_it_count(acs: AcsRegisters) -> None:
    below = ("10000:e0:06.0", "10000:e0:07.0", "10000:e1:00.0")
    expected = f"00:01.0 {' '.join(below)}" if acs is OFF else f"00:01.0 | {' | '.join(below)}"
    assert vmd_domain(acs).groups(never=["01:00.0"]) == partition(expected)


def test_below_a_vmd_endpoint_without_a_group_its_grouped_siblings_are_found() -> None:
    machine = Machine()
    machine.vmd("00:0e.0", domain=0x10000, mf=True, driver="vmd", ids=PLAIN)
    machine.rciep("00:0e.1", mf=True)
    machine.endpoint("10000:e0:06.0")
    assert machine.groups(never=["00:0e.0"]) == partition("00:0e.1 10000:e0:06.0")


def ungrouped_bridge(port: AcsRegisters | None = ON) -> Machine:
    machine = Machine()
    machine.root_port("00:01.0", to=1, acs=port, mf=True)
    machine.pcie_to_pci("01:00.0", to=2, mf=True)
    machine.conventional("02:01.0")
    machine.conventional("02:02.0")
    return machine


def test_below_a_bridge_without_a_group_the_next_one_that_has_a_group_counts() -> None:
    assert ungrouped_bridge(OFF).groups(never=["01:00.0"]) == partition("00:01.0 02:01.0 02:02.0")


def test_below_bridges_without_a_group_every_function_is_on_its_own() -> None:
    assert ungrouped_bridge().groups(never=["01:00.0"]) == partition("00:01.0 | 02:01.0 | 02:02.0")
    everything = ungrouped_bridge(OFF).groups(never=["01:00.0", "00:01.0"])
    assert everything == partition("02:01.0 | 02:02.0")


def test_not_even_their_slot_or_their_masks_hold_such_functions_together() -> None:
    machine = ungrouped_bridge()
    machine.conventional("02:01.1", mf=True, ids="10b5:87b0")
    assert machine.groups(never=["01:00.0"]) == partition("00:01.0 | 02:01.0 | 02:01.1 | 02:02.0")


def exposed_sibling(machine: Machine) -> None:
    machine.endpoint("01:00.1", mf=True)


def isolated_sibling(machine: Machine) -> None:
    machine.endpoint("01:00.1", mf=True, acs=ON)


def sibling_in_another_slot(machine: Machine) -> None:
    machine.endpoint("01:01.0", mf=True)


def sibling_that_sends_as_the_bridge(machine: Machine) -> None:
    machine.endpoint("01:01.0", ids="10b5:87b0")


def sibling_behind_an_ungrouped_one(machine: Machine) -> None:
    machine.endpoint("01:00.3", mf=True)
    machine.endpoint("01:01.0")
    machine.logged[Address.parse("01:00.3")] = frozenset({0x08})


@pytest.mark.parametrize(
    ("add", "expected"),
    [
        (exposed_sibling, "00:01.0 | 01:00.1 02:01.0 02:02.0"),
        (isolated_sibling, "00:01.0 | 01:00.1 | 02:01.0 | 02:02.0"),
        (sibling_in_another_slot, "00:01.0 | 01:01.0 | 02:01.0 | 02:02.0"),
        (sibling_that_sends_as_the_bridge, "00:01.0 | 01:01.0 02:01.0 02:02.0"),
        (sibling_behind_an_ungrouped_one, "00:01.0 | 01:01.0 02:01.0 02:02.0"),
    ],
)
def test_the_searches_that_start_at_a_bridge_without_a_group_find_its_grouped_siblings(
    add: Callable[[Machine], None], expected: str
) -> None:
    machine = ungrouped_bridge()
    add(machine)
    assert machine.groups(never=["01:00.0", "01:00.3"]) == partition(expected)


def test_the_ties_below_a_bridge_without_a_group_name_its_grouped_siblings_only() -> None:
    machine = ungrouped_bridge()
    sibling_behind_an_ungrouped_one(machine)
    found = ties(machine, never=("01:00.0", "01:00.3"))
    assert {tie for tie in found if tie.startswith("ungrouped-bridge")} == {
        "ungrouped-bridge: 02:01.0 - 01:01.0",
        "ungrouped-bridge: 02:02.0 - 01:01.0",
    }


@pytest.mark.parametrize("more", [0, 3])
def test_siblings_are_searched_once_for_all_that_lies_below_a_bridge_without_a_group(more: int) -> None:
    machine = ungrouped_bridge()
    exposed_sibling(machine)
    for slot in range(more):
        machine.conventional(f"02:{slot + 3:02x}.0")
    asked = Counter[Address]()

    def joins(address: Address) -> bool:
        asked[address] += 1
        return address != Address.parse("01:00.0")

    list(replace(machine.model(FINEST), joins=joins).ties())
    # Whether to search on from it, and whether to tie to it.
    assert asked[Address.parse("01:00.1")] == 2


def test_a_single_function_bridge_without_a_group_looks_for_no_siblings() -> None:
    machine = Machine()
    machine.pci_bridge("00:01.0", to=1, mf=False)
    machine.conventional("00:01.1", mf=True)
    machine.conventional("01:00.0")
    assert machine.groups(never=["00:01.0"]) == partition("00:01.1 | 01:00.0")


def test_a_function_that_rightly_has_no_group_still_joins_its_siblings() -> None:
    machine = slot(("01:00.0", None, True), ("01:00.1", None, True), ("01:00.2", None, True))
    assert machine.groups(never=["01:00.0"]) == partition("00:01.0 | 01:00.1 01:00.2")


def test_unread_isolation_of_a_port_leaves_two_possible_partitions() -> None:
    machine = below_port(ON)
    machine.hide_extended("00:01.0")
    assert machine.groups(FINEST) == partition("00:01.0 | 01:00.0")
    assert machine.groups(COARSEST) == partition("00:01.0 01:00.0")


def test_a_bridge_of_unread_type_may_take_an_alias_though_the_table_calls_it_isolated() -> None:
    machine = Machine()
    machine.root_port("00:01.0", to=1, acs=ON)
    machine.pcie_to_pci("01:00.0", to=2, ids="10e8:e004")
    machine.endpoint("02:00.0")
    machine.hide_capabilities("01:00.0")
    assert machine.groups(FINEST) == partition("00:01.0 | 01:00.0 | 02:00.0")
    assert machine.groups(COARSEST) == partition("00:01.0 | 01:00.0 02:00.0")


def test_an_unread_header_leaves_it_open_whether_siblings_are_looked_for() -> None:
    machine = slot(("01:00.0", None, True), ("01:00.1", None, True))
    machine.hide_config("01:00.0")
    assert machine.groups(FINEST) == partition("00:01.0 | 01:00.0 | 01:00.1")
    assert machine.groups(COARSEST) == partition("00:01.0 | 01:00.0 01:00.1")


@pytest.mark.parametrize(
    ("logged", "coarsest"), [(False, "00:01.0 00:02.0 00:03.0"), (True, "00:01.0 00:03.0 | 00:02.0")]
)
def test_aliases_in_device_memory_may_be_any_on_the_bus_unless_the_log_tells_them(logged: bool, coarsest: str) -> None:
    machine = Machine()
    ntb = machine.rciep("00:01.0", ids="1055:1001", class_code=0x068000)
    machine.rciep("00:02.0")
    machine.rciep("00:03.0")
    if logged:
        machine.logged[ntb] = frozenset({0x18})
    model = machine.model(COARSEST)
    assert frozenset(model.expected().groups) == partition(coarsest)
    assert model.acs.unknown == (set() if logged else {ntb})
    assert ties(machine, COARSEST) == (
        {"dma-alias: 00:01.0 - 00:03.0"} if logged else {"dma-alias: 00:01.0 - 00:02.0", "dma-alias: 00:01.0 - 00:03.0"}
    )


def test_aliases_that_nobody_can_read_matter_to_no_function_alone_on_its_bus() -> None:
    machine = Machine()
    machine.rciep("00:01.0", ids="1055:1001", class_code=0x068000)
    model = machine.model(COARSEST)
    model.expected()
    assert not model.acs.unknown


def test_unread_registers_matter_to_no_function_alone_in_its_slot() -> None:
    machine = Machine()
    for name in ("00:01.0", "00:02.0"):
        machine.rciep(name)
        machine.hide_config(name)
    model = machine.model(COARSEST)
    assert frozenset(model.expected().groups) == partition("00:01.0 | 00:02.0")
    assert not model.acs.unknown


def test_aliases_in_device_memory_count_where_a_bridge_without_a_group_searches() -> None:
    machine = Machine()
    machine.pci_bridge("00:01.0", to=1)
    machine.rciep("00:02.0", ids="1055:1001", class_code=0x068000)
    machine.conventional("01:00.0")
    assert machine.groups(FINEST, ["00:01.0"]) == partition("00:02.0 | 01:00.0")
    assert machine.groups(COARSEST, ["00:01.0"]) == partition("00:02.0 01:00.0")


def test_groups_stand_in_the_order_of_their_lowest_members() -> None:
    machine = slot(("01:02.0", None, True), ("01:00.0", None, True), ("01:00.1", None, True))
    found = machine.model(FINEST).expected()
    assert [str(min(group)) for group in found.groups] == ["0000:00:01.0", "0000:01:00.0", "0000:01:02.0"]
    kept = found.restricted_to(lambda address: address.function == 0 and address.bus == 1)
    assert [[str(one) for one in group] for group in kept] == [["0000:01:00.0"], ["0000:01:02.0"]]


def test_a_tie_within_a_group_changes_nothing() -> None:
    one, two, three = (Address(0, 0, slot, 0) for slot in range(3))
    ring = [Tie(first, second, Rule.DMA_ALIAS) for first, second in ((one, two), (two, three), (three, one))]
    found = closure(iter(ring), [one, two, three])
    assert found.groups == (frozenset({one, two, three}),)
    assert found.ties == tuple(ring)


def test_a_closure_without_ties_leaves_everything_alone() -> None:
    addresses = [Address(0, 0, slot, 0) for slot in range(3)]
    assert closure([], addresses).groups == tuple(frozenset({one}) for one in addresses)
