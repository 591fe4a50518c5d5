# SPDX-License-Identifier: GPL-2.0-or-later
"""Buses, chains of bridges, effective port types, and flags."""

from collections.abc import Callable

import pytest

from iommud.address import Address
from iommud.model.quirks import BridgeFlag
from iommud.model.topology import Topology
from iommud.pci import ConfigFacts, PortType
from iommud.snapshot import PciFunction
from tests.machines import Machine


def at(topology: Topology, name: str) -> PciFunction:
    return topology.functions[Address.parse(name)]


def chain(topology: Topology, name: str) -> str:
    found = topology.chain(at(topology, name))
    return " ".join(str(one.address) for one in found).replace("0000:", "")


def switch() -> Machine:
    machine = Machine()
    machine.root_port("00:01.0", to=1)
    machine.switch_upstream("01:00.0", to=2)
    machine.switch_downstream("02:00.0", to=3)
    machine.endpoint("03:00.0")
    return machine


def test_a_chain_names_the_bridges_above_from_the_nearest_to_the_root() -> None:
    topology = switch().topology()
    assert chain(topology, "03:00.0") == "02:00.0 01:00.0 00:01.0"
    assert chain(topology, "00:01.0") == ""
    assert topology.on_root_bus(at(topology, "00:01.0"))
    assert not topology.on_root_bus(at(topology, "01:00.0"))


def test_a_bus_is_known_by_domain_and_number() -> None:
    machine = Machine()
    machine.root_port("0000:00:01.0", to=1)
    machine.endpoint("0000:01:00.0")
    machine.endpoint("0001:01:00.0")
    topology = machine.topology()
    assert chain(topology, "0000:01:00.0") == "00:01.0"
    assert topology.on_root_bus(at(topology, "0001:01:00.0"))


def test_a_root_bus_need_not_have_the_number_0() -> None:
    machine = switch()
    machine.endpoint("80:01.0")
    topology = machine.topology()
    assert topology.on_root_bus(at(topology, "80:01.0"))


def virtual(name: str) -> Topology:
    machine = switch()
    machine.vf(name, of="03:00.0")
    return machine.topology()


def test_a_virtual_function_with_the_number_of_its_pf_s_bus_shares_that_bus() -> None:
    topology = virtual("03:00.1")
    assert topology.bus_of(at(topology, "03:00.1")) is topology.bus_of(at(topology, "03:00.0"))


def test_a_virtual_function_with_another_number_is_on_a_bus_without_a_bridge() -> None:
    topology = virtual("04:00.0")
    bus = topology.bus_of(at(topology, "04:00.0"))
    assert bus.bridge is None
    assert bus.virtual_parent == (0, 3)
    assert not bus.is_root
    assert chain(topology, "04:00.0") == chain(topology, "03:00.0")


def test_a_virtual_function_joins_a_bus_that_has_its_number_already() -> None:
    machine = switch()
    machine.switch_downstream("02:01.0", to=4)
    machine.endpoint("04:00.0")
    machine.vf("04:02.0", of="03:00.0")
    topology = machine.topology()
    assert chain(topology, "04:02.0") == "02:01.0 01:00.0 00:01.0"


@pytest.mark.parametrize(("pf_bus", "expected"), [("03", "02:00.0 01:00.0 00:01.0"), ("00", "")])
def test_a_virtual_function_without_its_physical_one_keeps_its_place(pf_bus: str, expected: str) -> None:
    machine = switch()
    machine.endpoint(f"{pf_bus}:05.0")
    machine.vf("09:00.0", of=f"{pf_bus}:05.0")
    del machine.functions[Address.parse(f"{pf_bus}:05.0")]
    if pf_bus == "03":
        del machine.functions[Address.parse("03:00.0")]
    else:
        machine.functions = {at: one for at, one in machine.functions.items() if at.bus == 9}
    topology = machine.topology()
    assert chain(topology, "09:00.0") == expected
    assert {name: bus.id for name, bus in topology.buses.items()} == {name: name for name in topology.buses}


def test_a_bridge_that_only_a_path_names_is_a_bridge_of_which_nothing_is_known() -> None:
    machine = switch()
    machine.change("01:00.0", root=(0, 0))
    del machine.functions[Address.parse("00:01.0")]
    topology = machine.topology()
    missing = at(topology, "00:01.0")
    assert missing == PciFunction(address=Address.parse("00:01.0"), root=(0, 0), present=False)
    assert topology.is_pcie(missing) is None
    assert topology.port_type(missing) is None
    assert not topology.flag(missing, BridgeFlag.BRIDGE_XLATE_ROOT)
    assert chain(topology, "03:00.0") == "02:00.0 01:00.0 00:01.0"


def test_paths_that_run_in_a_circle_end_at_the_first_repetition() -> None:
    machine = Machine()
    machine.root_port("01:00.0", to=2, upstream=Address.parse("02:00.0"))
    machine.root_port("02:00.0", to=1)
    topology = machine.topology()
    assert chain(topology, "01:00.0") == "02:00.0 01:00.0"


@pytest.mark.parametrize(
    ("name", "bit", "ari", "expected"),
    [
        ("01:00.0", False, False, False),
        ("01:00.0", True, False, True),
        ("01:00.0", None, False, None),
        ("01:00.3", False, False, True),
        ("01:00.3", None, False, True),
        ("01:01.0", False, False, False),
        ("01:01.0", False, True, True),
        ("01:00.0", False, True, False),
    ],
)
def test_multifunction_is_the_header_bit_or_a_number_above_0(
    name: str, bit: bool | None, ari: bool, expected: bool | None
) -> None:
    machine = Machine()
    machine.endpoint(name, ari_enabled=ari)
    machine.change(name, config=ConfigFacts(multifunction_bit=bit))
    topology = machine.topology()
    assert topology.multifunction(at(topology, name)) is expected


def test_a_virtual_function_is_never_multifunction() -> None:
    topology = virtual("03:00.1")
    assert topology.multifunction(at(topology, "03:00.1")) is False


def test_a_virtual_function_is_a_pcie_endpoint_without_being_read() -> None:
    topology = virtual("03:00.1")
    assert topology.is_pcie(at(topology, "03:00.1")) is True
    assert topology.port_type(at(topology, "03:00.1")) == PortType.ENDPOINT


@pytest.mark.parametrize(("has_link", "expected"), [(True, True), (False, False), (None, None)])
def test_link_attributes_betray_pcie_where_the_capabilities_are_unread(
    has_link: bool | None, expected: bool | None
) -> None:
    machine = Machine()
    machine.endpoint("00:01.0")
    machine.hide_config("00:01.0")
    machine.change("00:01.0", has_link=has_link)
    topology = machine.topology()
    assert topology.is_pcie(at(topology, "00:01.0")) is expected


def effective(parent: int | None, child: int) -> int | None:
    machine = Machine()
    machine.add("00:01.0", parent, to=1)
    machine.add("01:00.0", child, to=2)
    topology = machine.topology()
    return topology.port_type(at(topology, "01:00.0"))


@pytest.mark.parametrize(
    ("parent", "child", "expected"),
    [
        *((parent, 6, 0) for parent in (4, 6, 8)),
        *((parent, 6, 6) for parent in (None, 0, 1, 5, 7, 9, 10)),
        (5, 5, 0),
        *((parent, 5, 5) for parent in (None, 0, 1, 4, 6, 7, 8, 9, 10)),
        *((4, child, child) for child in (0, 1, 4, 7, 8, 9, 10, 15)),
    ],
)
def test_a_port_that_cannot_be_where_it_is_becomes_an_endpoint(parent: int | None, child: int, expected: int) -> None:
    assert effective(parent, child) == expected


def test_a_port_on_the_root_bus_keeps_its_type() -> None:
    machine = Machine()
    machine.switch_downstream("00:01.0", to=1)
    topology = machine.topology()
    assert topology.port_type(at(topology, "00:01.0")) == PortType.DOWNSTREAM_PORT


def test_types_are_corrected_from_the_root_down() -> None:
    machine = Machine()
    machine.root_port("00:01.0", to=1)
    machine.switch_downstream("01:00.0", to=2)
    machine.switch_downstream("02:00.0", to=3)
    machine.switch_downstream("03:00.0", to=4)
    topology = machine.topology()
    # The corrected port is no port any more, so that the one below it is not in doubt; the next one is.
    types = [topology.port_type(at(topology, name)) for name in ("01:00.0", "02:00.0", "03:00.0")]
    assert types == [0, 6, 0]


@pytest.mark.parametrize(
    ("hide", "doubtful"), [(Machine.hide_extended, 0), (Machine.hide_capabilities, 2), (Machine.hide_config, 2)]
)
def test_below_a_bridge_of_unread_type_a_correction_is_in_doubt(
    hide: Callable[[Machine, str], None], doubtful: int
) -> None:
    machine = Machine()
    machine.root_port("00:01.0", to=1)
    machine.switch_downstream("01:00.0", to=2)
    machine.switch_downstream("02:00.0", to=3)
    machine.switch_upstream("03:00.0", to=4)
    machine.switch_downstream("04:00.0", to=5)
    hide(machine, "00:01.0")
    topology = machine.topology()
    assert sorted(topology.doubtful) == [Address.parse("01:00.0"), Address.parse("02:00.0")][:doubtful]


def test_nothing_is_in_doubt_below_a_bridge_that_is_surely_conventional() -> None:
    machine = Machine()
    machine.pci_bridge("00:01.0", to=1)
    machine.switch_downstream("01:00.0", to=2)
    machine.hide_capabilities("00:01.0")
    topology = machine.topology()
    assert not topology.doubtful
    assert topology.port_type(at(topology, "01:00.0")) == PortType.DOWNSTREAM_PORT


def sender(machine: Machine, name: str) -> str:
    topology = machine.topology()
    return str(topology.real_dma_device(at(topology, name)).address).removeprefix("0000:")


def vmd(ids: str = "8086:201d", driver: str | None = None) -> Machine:
    machine = Machine()
    machine.vmd("00:0e.0", domain=0x10000, ids=ids, driver=driver)
    machine.root_port("10000:e0:06.0", to=0xE1)
    machine.endpoint("10000:e1:00.0")
    machine.vf("10000:e1:00.1", of="10000:e1:00.0")
    return machine


@pytest.mark.parametrize("name", ["10000:e0:06.0", "10000:e1:00.0", "10000:e1:00.1"])
def test_the_vmd_endpoint_sends_for_every_function_of_its_domain(name: str) -> None:
    assert sender(vmd(), name) == "00:0e.0"
    assert sender(vmd(ids="8086:ffff", driver="vmd"), name) == "00:0e.0"


def test_other_host_bridges_inside_a_function_do_not_change_who_sends() -> None:
    assert sender(vmd(ids="1414:0001", driver="hv_pci"), "10000:e1:00.0") == "10000:e1:00.0"


def test_an_endpoint_that_is_missing_or_nameless_sends_for_nobody() -> None:
    machine = vmd()
    machine.change("00:0e.0", vendor=None)
    assert sender(machine, "10000:e1:00.0") == "10000:e1:00.0"
    del machine.functions[Address.parse("00:0e.0")]
    assert sender(machine, "10000:e1:00.0") == "10000:e1:00.0"


@pytest.mark.parametrize(("kernel", "expected"), [("6.12", "10000:e1:00.0"), ("7.3", "00:0e.0")])
def test_a_vmd_endpoint_counts_from_the_version_whose_driver_knows_it(kernel: str, expected: str) -> None:
    machine = vmd(ids="8086:28c1")
    machine.kernel = kernel
    assert sender(machine, "10000:e1:00.0") == expected


def bridge_alias_flag(above: int | None, own: int | None, header_type: int | None = 1) -> bool:
    machine = Machine()
    machine.add("00:01.0", above, to=1)
    machine.add("01:00.0", own, to=2, ids="10e3:8113")
    config = ConfigFacts(header_type=header_type, is_pcie=own is not None, port_type=own)
    machine.change("01:00.0", config=config, class_code=0x060700 if header_type is None else 0x060400)
    topology = machine.topology()
    return topology.flag(at(topology, "01:00.0"), BridgeFlag.PCIE_BRIDGE_ALIAS)


@pytest.mark.parametrize(
    ("above", "own", "header_type", "expected"),
    [
        (PortType.ROOT_PORT, None, 1, True),
        (PortType.PCI_TO_PCIE_BRIDGE, None, 1, True),
        (PortType.PCIE_TO_PCI_BRIDGE, None, 1, False),
        (None, None, 1, False),
        (PortType.ROOT_PORT, PortType.PCIE_TO_PCI_BRIDGE, 1, False),
        (PortType.ROOT_PORT, None, 2, False),
        (PortType.ROOT_PORT, None, None, False),
    ],
)
def test_a_bridge_hides_a_pcie_capability_only_as_a_conventional_bridge_below_pcie(
    above: int | None, own: int | None, header_type: int | None, expected: bool
) -> None:
    assert bridge_alias_flag(above, own, header_type) is expected


def test_a_bridge_on_the_root_bus_hides_no_capability() -> None:
    machine = Machine()
    machine.pci_bridge("00:01.0", to=1, ids="10e3:8113")
    topology = machine.topology()
    assert not topology.flag(at(topology, "00:01.0"), BridgeFlag.PCIE_BRIDGE_ALIAS)


def test_a_flag_is_its_own_row_s_and_no_other() -> None:
    machine = Machine()
    machine.root_port("00:01.0", to=1, ids="14e4:9000")
    topology = machine.topology()
    assert topology.flag(at(topology, "00:01.0"), BridgeFlag.BRIDGE_XLATE_ROOT)
    assert not topology.flag(at(topology, "00:01.0"), BridgeFlag.PCI_BRIDGE_NO_ALIAS)
