# SPDX-License-Identifier: GPL-2.0-or-later
"""Examples worked by hand: the founding topology in every order, and the cases in which the rule surprises."""

from collections.abc import Callable

import pytest

from iommud.address import Address
from iommud.model.acs import AcsState
from iommud.pci import AcsRegisters, PortType
from tests.kernel_oracle import KernelOracle
from tests.machines import EMPTY, OFF, ON, Machine, partition, refines


def founding(acs: AcsRegisters | None, *, nics: tuple[str, ...] = ("02:01.0",), kernel: str = "6.12") -> Machine:
    """A root port, a PCIe-to-PCI bridge below it, and conventional NICs below that."""
    machine = Machine(kernel)
    machine.root_port("00:02.0", to=1, acs=acs)
    machine.pcie_to_pci("01:00.0", to=2)
    for nic in nics:
        machine.conventional(nic, ids="8086:100e")
    return machine


def probe(machine: Machine, order: str) -> frozenset[frozenset[Address]]:
    kernel = KernelOracle(
        machine.snapshot(), machine.version, logged=machine.logged, ivrs_aliases=machine.firmware, ivrs=True
    )
    return kernel.probe(map(Address.parse, order.split()))


def requester_ids(machine: Machine, name: str) -> list[str]:
    """``taker as ID`` for each alias of a function, domain 0000 left out."""
    aliases = machine.aliases()
    found = aliases.of(aliases.topology.functions[Address.parse(name)])
    return [f"{one.taker} as {one.requester_id}".replace("0000:", "") for one in found]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("02:01.0", ["02:01.0 as 02:01.0", "01:00.0 as 02:00.0"]),
        ("02:02.0", ["02:02.0 as 02:02.0", "01:00.0 as 02:00.0"]),
        ("02:00.0", ["02:00.0 as 02:00.0", "01:00.0 as 02:00.0"]),
        ("01:00.0", ["01:00.0 as 01:00.0"]),
        ("00:02.0", ["00:02.0 as 00:02.0"]),
    ],
)
def test_requester_ids_of_the_founding_topology(name: str, expected: list[str]) -> None:
    machine = founding(OFF, nics=("02:00.0", "02:01.0", "02:02.0"))
    assert requester_ids(machine, name) == expected


@pytest.mark.parametrize(
    ("order", "without_acs", "with_acs"),
    [
        ("00:02.0 01:00.0 02:01.0", "00:02.0 01:00.0 02:01.0", "00:02.0 | 01:00.0 02:01.0"),
        ("02:01.0 01:00.0 00:02.0", "00:02.0 | 01:00.0 | 02:01.0", "00:02.0 | 01:00.0 | 02:01.0"),
        ("01:00.0 00:02.0 02:01.0", "00:02.0 | 01:00.0 02:01.0", "00:02.0 | 01:00.0 02:01.0"),
        ("00:02.0 02:01.0", "00:02.0 02:01.0", "00:02.0 | 02:01.0"),
        ("02:01.0 00:02.0", "00:02.0 | 02:01.0", "00:02.0 | 02:01.0"),
        ("00:02.0 02:01.0 02:02.0", "00:02.0 02:01.0 02:02.0", "00:02.0 | 02:01.0 | 02:02.0"),
    ],
)
def test_the_order_of_probing_decides_the_kernel_s_groups(order: str, without_acs: str, with_acs: str) -> None:
    nics = ("02:01.0", "02:02.0") if "02:02.0" in order else ("02:01.0",)
    assert probe(founding(None, nics=nics), order) == partition(without_acs)
    assert probe(founding(ON, nics=nics), order) == partition(with_acs)


@pytest.mark.parametrize("acs", [None, OFF, EMPTY, ON])
def test_the_model_gives_what_the_right_order_gives(acs: AcsRegisters | None) -> None:
    machine = founding(acs)
    assert machine.groups() == probe(machine, "00:02.0 01:00.0 02:01.0")


def test_the_model_gives_what_comes_of_a_bridge_that_is_never_probed() -> None:
    nics = ("02:01.0", "02:02.0")
    shared, apart = founding(None, nics=nics), founding(ON, nics=nics)
    assert shared.groups(never=["01:00.0"]) == partition("00:02.0 02:01.0 02:02.0")
    assert apart.groups(never=["01:00.0"]) == partition("00:02.0 | 02:01.0 | 02:02.0")


def verdict(machine: Machine, name: str, *, ivrs: bool | None = None) -> bool | None:
    acs = machine.acs(AcsState(ivrs_present=ivrs))
    return acs.verdict(acs.topology.functions[Address.parse(name)]).isolated


@pytest.mark.parametrize("port_type", [PortType.ROOT_PORT, PortType.DOWNSTREAM_PORT])
def test_an_unlisted_zhaoxin_port_is_not_isolated_even_with_working_acs(port_type: PortType) -> None:
    machine = Machine()
    machine.add("00:01.0", port_type, to=1, acs=ON, ids="1d17:0001")
    assert verdict(machine, "00:01.0") is False


def test_an_unlisted_wangxun_function_is_not_isolated_even_alone_or_virtual() -> None:
    machine = Machine()
    machine.endpoint("00:01.0", acs=ON, ids="8088:0001")
    machine.vf("00:01.1", of="00:01.0")
    assert verdict(machine, "00:01.0") is False
    assert verdict(machine, "00:01.1") is False


@pytest.mark.parametrize(("mpc", "isolated"), [(0, False), (1 << 26, True), (None, None)])
def test_an_intel_pch_port_is_isolated_if_the_kernel_switched_it_on(mpc: int | None, isolated: bool | None) -> None:
    machine = Machine()
    machine.root_port("00:1c.0", to=1, ids="8086:1c10", mpc=mpc)
    assert verdict(machine, "00:1c.0") is isolated


def test_an_intel_integrated_endpoint_is_always_isolated() -> None:
    machine = Machine()
    machine.rciep("00:1f.3", ids="8086:0001")
    assert verdict(machine, "00:1f.3") is True


@pytest.mark.parametrize(
    ("mf", "on_root", "ivrs", "isolated"),
    [(True, True, True, True), (True, True, False, False), (True, False, True, False), (False, True, True, False)],
)
def test_an_amd_south_bridge_is_isolated_only_on_the_root_bus_with_siblings_and_ivrs(
    mf: bool, on_root: bool, ivrs: bool, isolated: bool
) -> None:
    machine = Machine()
    machine.root_port("00:01.0", to=1)
    name = "00:14.0" if on_root else "01:14.0"
    machine.conventional(name, ids="1002:4385", mf=mf)
    assert verdict(machine, name, ivrs=ivrs) is isolated


def test_a_row_that_always_holds_does_not_ask_for_the_port_type() -> None:
    machine = Machine()
    machine.pcie_to_pci("00:01.0", to=1, ids="10e8:e004")
    machine.conventional("00:02.0", ids="10e8:e004")
    assert verdict(machine, "00:01.0") is True
    assert verdict(machine, "00:02.0") is True


def switch_without_acs(machine: Machine) -> None:
    machine.root_port("00:01.0", to=1, acs=ON)
    machine.switch_upstream("01:00.0", to=2)
    machine.switch_downstream("02:00.0", to=3)
    machine.switch_downstream("02:01.0", to=4)
    machine.endpoint("03:00.0")
    machine.endpoint("04:00.0")


def isolated_sibling(machine: Machine) -> None:
    machine.rciep("00:01.0", mf=True, acs=ON)
    machine.rciep("00:01.1", mf=True)
    machine.rciep("00:01.2", mf=True)


def off_path(machine: Machine) -> None:
    machine.root_port("00:01.0", to=1, acs=ON, mf=True)
    machine.root_port("00:01.1", to=2, mf=True)
    machine.endpoint("01:00.0")
    machine.endpoint("02:00.0")


def ghost_requester(machine: Machine) -> None:
    machine.rciep("00:01.0", ids="8086:2260")
    machine.rciep("00:02.0", ids="8086:2260")


def virtual_functions(machine: Machine) -> None:
    machine.root_port("00:01.0", to=1, acs=ON)
    machine.endpoint("01:00.0", mf=True)
    machine.endpoint("01:00.1", mf=True)
    machine.vf("01:00.2", of="01:00.0")
    machine.vf("02:00.0", of="01:00.0")


@pytest.mark.parametrize(
    ("build", "expected"),
    [
        (switch_without_acs, "00:01.0 | 01:00.0 | 02:00.0 03:00.0 | 02:01.0 04:00.0"),
        (isolated_sibling, "00:01.0 | 00:01.1 00:01.2"),
        (off_path, "00:01.0 | 01:00.0 | 00:01.1 02:00.0"),
        (ghost_requester, "00:01.0 | 00:02.0"),
        (virtual_functions, "00:01.0 | 01:00.0 01:00.1 | 01:00.2 | 02:00.0"),
    ],
)
def test_the_rule_keeps_apart_what_can_still_reach_each_other(build: Callable[[Machine], None], expected: str) -> None:
    machine = Machine()
    build(machine)
    assert machine.groups() == partition(expected)


def test_an_unmarked_function_0_with_a_marked_sibling_that_has_an_earlier_alias_stays_apart() -> None:
    machine = Machine()
    first = machine.rciep("00:00.0")
    machine.conventional("00:01.0", mf=False)
    machine.conventional("00:01.1", mf=True)
    # When 00:01.0 is probed nobody looks for its siblings; when 00:01.1 is, its alias has a group already.
    machine.logged[first] = frozenset({0x09})
    groups = probe(machine, "00:00.0 00:01.0 00:01.1")
    assert groups == partition("00:01.0 | 00:00.0 00:01.1")
    assert machine.groups() == partition("00:00.0 00:01.0 00:01.1")
    assert refines(groups, machine.groups())


def test_an_unmarked_function_0_probed_after_a_marked_one_stays_apart() -> None:
    machine = Machine()
    machine.conventional("00:01.0", mf=False)
    machine.conventional("00:01.1", mf=True)
    assert probe(machine, "00:01.0 00:01.1") == machine.groups() == partition("00:01.0 00:01.1")
    assert probe(machine, "00:01.1 00:01.0") == partition("00:01.0 | 00:01.1")


def test_aliases_from_ivrs_appear_one_by_one() -> None:
    machine = Machine()
    a, b, c = (machine.rciep(f"00:0{slot}.0") for slot in (1, 2, 3))
    machine.firmware = {b: frozenset({a.devfn}), c: frozenset({b.devfn})}
    assert machine.groups() == partition("00:01.0 00:02.0 00:03.0")
    assert probe(machine, "00:01.0 00:02.0 00:03.0") == machine.groups()
    assert probe(machine, "00:01.0 00:03.0 00:02.0") == partition("00:01.0 00:02.0 | 00:03.0")


@pytest.mark.parametrize(("kernel", "takes_alias"), [("5.10", True), ("6.1", True), ("6.12", True), ("7.3", False)])
def test_the_alias_of_an_ast1150_went_but_not_its_groups(kernel: str, takes_alias: bool) -> None:
    machine = Machine(kernel)
    machine.root_port("00:01.0", to=1, acs=ON)
    machine.pcie_to_pci("01:00.0", to=2, ids="1a03:1150")
    machine.conventional("02:00.0")
    assert machine.groups() == partition("00:01.0 | 01:00.0 02:00.0")
    assert ("01:00.0 as 02:00.0" in requester_ids(machine, "02:00.0")) is takes_alias


@pytest.mark.parametrize(("kernel", "isolated"), [("5.10", False), ("6.1", False), ("6.12", False), ("7.3", True)])
def test_the_broken_source_validation_of_an_idt_switch_is_asked_for_before_7_3(kernel: str, isolated: bool) -> None:
    machine = Machine(kernel)
    machine.switch_downstream("00:01.0", to=1, acs=AcsRegisters(0x1D, 0x1C), ids="111d:80b5")
    assert verdict(machine, "00:01.0") is isolated
