# SPDX-License-Identifier: GPL-2.0-or-later
"""A made-up machine of any size: what its functions are, where they lie and how its kernel groups them.

The groups follow from how each block is built, not from iommud's model, so that a check of the machine is also
a check of the model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count, islice

from iommud.address import Address
from iommud.pci import PortType
from tools.bench.config_space import Buses, Identity, Layout

ISOLATED = (0x1F, 0x1D)
"""ACS as the kernel leaves it on a port that has it: SV, RR, CR and UF are on."""

_BLOCKS_PER_DOMAIN = 4
_VIRTUAL_FUNCTIONS = 16
_SWITCH_PORTS = 4

HOST_BRIDGE = Identity(vendor=0x8086, device=0x2020, class_code=0x060000)
ROOT_PORT = Identity(vendor=0x8086, device=0x2030, class_code=0x060400)
SWITCH = Identity(vendor=0x10B5, device=0x8747, class_code=0x060400)
PCIE_TO_PCI = Identity(vendor=0x104C, device=0x8240, class_code=0x060400)
PCI_TO_PCI = Identity(vendor=0x1011, device=0x0022, class_code=0x060400)
NVME = Identity(vendor=0x144D, device=0xA808, class_code=0x010802)
NETWORK = Identity(vendor=0x15B3, device=0x1017, class_code=0x020000)
NETWORK_VIRTUAL = Identity(vendor=0x15B3, device=0x1018, class_code=0x020000)
DUAL_PORT = Identity(vendor=0x8086, device=0x10FB, class_code=0x020000)
"""A dual-port card without ACS, of which the kernel's table says that its functions are isolated."""
SOUND_CARD = Identity(vendor=0x13F6, device=0x0111, class_code=0x040100)
GRAPHICS = (
    Identity(vendor=0x10DE, device=0x1E07, class_code=0x030000),
    Identity(vendor=0x10DE, device=0x10F7, class_code=0x040300),
    Identity(vendor=0x10DE, device=0x1AD6, class_code=0x0C0330),
    Identity(vendor=0x10DE, device=0x1AD7, class_code=0x0C8000),
)
CHIPSET = (
    (0, Identity(vendor=0x8086, device=0xA1C1, class_code=0x060100)),
    (2, Identity(vendor=0x8086, device=0xA1A1, class_code=0x058000)),
    (4, Identity(vendor=0x8086, device=0xA1A3, class_code=0x0C0500)),
    (5, Identity(vendor=0x8086, device=0xA1A4, class_code=0x0C8000)),
)
DRIVERS = {
    0x010802: "nvme",
    0x020000: "mlx5_core",
    0x030000: "nvidia",
    0x040100: "snd_cmipci",
    0x040300: "snd_hda_intel",
    0x058000: None,
    0x060000: None,
    0x060100: "lpc_ich",
    0x060400: "pcieport",
    0x0C0330: "xhci_hcd",
    0x0C0500: "i801_smbus",
    0x0C8000: None,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Function:
    """One function of the machine."""

    address: Address
    above: tuple[Address, ...]
    """The bridges whose directories it lies in, outermost first."""
    identity: Identity
    layout: Layout
    group: Address | None
    """The lowest member of its group; None without one."""
    physical: Address | None = None
    """The physical function, if this is a virtual one."""
    ari: bool = False

    @property
    def driver(self) -> str | None:
        """The driver that is bound to it."""
        return DRIVERS[self.identity.class_code]


def machine(functions: int) -> list[Function]:
    """A machine of exactly so many functions, on as many domains as they need; bridges before what is below."""
    endless = (one for domain in count() for one in _domain(domain))
    return list(islice(endless, functions))


def one_class(functions: int) -> list[Function]:
    """A machine of so many functions of which all but the root port fall into one group, that of a bridge to PCI."""
    port, first = Address(0, 0, 1, 0), Address(0, 1, 0, 0)
    bridges = [_bridge(port, (), ROOT_PORT, PortType.ROOT_PORT, (1, 255), port)]
    bridges.append(_bridge(first, (port,), PCIE_TO_PCI, PortType.PCIE_TO_PCI_BRIDGE, (2, 255), first))
    for bus in range(3, 256):
        address = Address(0, 2, (bus - 3) // 8, (bus - 3) % 8)
        bridges.append(
            _bridge(address, (port, first), PCI_TO_PCI, None, (bus, bus), first, multifunction=True),
        )
    cards = (
        _card(Address(0, bus, number // 8, number % 8), (port, first, bridge.address), first)
        for number in count()
        for bus, bridge in enumerate(bridges[2:], start=3)
    )
    return [*bridges, *islice(cards, functions - len(bridges))]


def _domain(domain: int) -> Iterator[Function]:
    """About 190 functions: a host bridge, a chipset device, and root ports with what is plugged in."""
    host = Address(domain, 0, 0, 0)
    yield Function(address=host, above=(), identity=HOST_BRIDGE, layout=Layout(port_type=None), group=host)
    slots = _Slots(domain)
    for index in range(_BLOCKS_PER_DOMAIN):
        yield from slots.plugged(_devices())
        if index == 0:
            yield from slots.plugged((_conventional,))
    yield from _multifunction(domain, 0, (), CHIPSET, device=0x1F, port_type=None)


def _devices() -> tuple[_Device, ...]:
    return (_nvme, _nvme, _graphics, _network, _nvme, _dual_port, _switch, _nvme)


@dataclass(frozen=True, slots=True)
class _Place:
    """A free bus below a bridge."""

    domain: int
    bus: int
    above: tuple[Address, ...]


_Device = Callable[[_Place], Iterator[Function]]


class _Slots:
    """Root ports of one domain, eight to a device, each with the next free buses below it."""

    def __init__(self, domain: int) -> None:
        self._domain = domain
        self._ports = count(8)
        self._bus = 1

    def plugged(self, devices: tuple[_Device, ...]) -> Iterator[Function]:
        """For each device a root port and the functions below it."""
        for device in devices:
            number = next(self._ports)
            port = Address(self._domain, 0, number >> 3, number & 7)
            below = list(device(_Place(self._domain, self._bus, (port,))))
            last = max(_last_bus(one) for one in below)
            yield _bridge(port, (), ROOT_PORT, PortType.ROOT_PORT, (self._bus, last), port, multifunction=True)
            yield from below
            self._bus = last + 1


def _last_bus(function: Function) -> int:
    buses = function.layout.buses
    return function.address.bus if buses is None else buses.subordinate


def _bridge(
    address: Address,
    above: tuple[Address, ...],
    identity: Identity,
    port_type: PortType | None,
    buses: tuple[int, int],
    group: Address,
    *,
    multifunction: bool = False,
) -> Function:
    has_acs = port_type in (PortType.ROOT_PORT, PortType.DOWNSTREAM_PORT)
    numbers = Buses(primary=address.bus, secondary=buses[0], subordinate=buses[1])
    layout = Layout(port_type=port_type, multifunction=multifunction, acs=ISOLATED if has_acs else None, buses=numbers)
    return Function(address=address, above=above, identity=identity, layout=layout, group=group)


def _nvme(place: _Place) -> Iterator[Function]:
    address = Address(place.domain, place.bus, 0, 0)
    layout = Layout(port_type=PortType.ENDPOINT)
    yield Function(address=address, above=place.above, identity=NVME, layout=layout, group=address)


def _multifunction(
    domain: int,
    bus: int,
    above: tuple[Address, ...],
    members: tuple[tuple[int, Identity], ...],
    *,
    device: int,
    port_type: PortType | None,
    isolated: bool = False,
) -> Iterator[Function]:
    first = Address(domain, bus, device, members[0][0])
    for number, identity in members:
        address = Address(domain, bus, device, number)
        layout = Layout(port_type=port_type, multifunction=True)
        group = address if isolated else first
        yield Function(address=address, above=above, identity=identity, layout=layout, group=group)


def _graphics(place: _Place) -> Iterator[Function]:
    """Four functions without ACS: one group."""
    members = tuple(enumerate(GRAPHICS))
    kind = PortType.LEGACY_ENDPOINT
    return _multifunction(place.domain, place.bus, place.above, members, device=0, port_type=kind)


def _dual_port(place: _Place) -> Iterator[Function]:
    members = tuple(enumerate((DUAL_PORT, DUAL_PORT)))
    kind = PortType.ENDPOINT
    return _multifunction(place.domain, place.bus, place.above, members, device=0, port_type=kind, isolated=True)


def _network(place: _Place) -> Iterator[Function]:
    """A physical function and its virtual ones, which are isolated by what they are."""
    physical = Address(place.domain, place.bus, 0, 0)
    layout = Layout(port_type=PortType.ENDPOINT, virtual_functions=_VIRTUAL_FUNCTIONS)
    yield Function(address=physical, above=place.above, identity=NETWORK, layout=layout, group=physical, ari=True)
    for devfn in range(1, _VIRTUAL_FUNCTIONS + 1):
        address = physical.with_devfn(devfn)
        yield Function(
            address=address,
            above=place.above,
            identity=NETWORK_VIRTUAL,
            layout=Layout(port_type=PortType.ENDPOINT),
            group=address,
            physical=physical,
            ari=True,
        )


def _switch(place: _Place) -> Iterator[Function]:
    """An upstream port and downstream ports with ACS, an NVMe disk below each."""
    upstream = Address(place.domain, place.bus, 0, 0)
    inner = place.bus + 1
    outer = (inner, inner + _SWITCH_PORTS)
    yield _bridge(upstream, place.above, SWITCH, PortType.UPSTREAM_PORT, outer, upstream)
    for index in range(_SWITCH_PORTS):
        port = Address(place.domain, inner, 8 + index, 0)
        bus = inner + 1 + index
        above = (*place.above, upstream)
        yield _bridge(port, above, SWITCH, PortType.DOWNSTREAM_PORT, (bus, bus), port)
        yield from _nvme(_Place(place.domain, bus, (*above, port)))


def _conventional(place: _Place) -> Iterator[Function]:
    """A bridge to conventional PCI, a card and a further bridge with two cards: one group."""
    first = Address(place.domain, place.bus, 0, 0)
    bus = place.bus + 1
    yield _bridge(first, place.above, PCIE_TO_PCI, PortType.PCIE_TO_PCI_BRIDGE, (bus, bus + 1), first)
    above = (*place.above, first)
    yield _card(Address(place.domain, bus, 1, 0), above, first)
    second = Address(place.domain, bus, 2, 0)
    yield _bridge(second, above, PCI_TO_PCI, None, (bus + 1, bus + 1), first)
    for device in (4, 5):
        yield _card(Address(place.domain, bus + 1, device, 0), (*above, second), first)


def _card(address: Address, above: tuple[Address, ...], group: Address) -> Function:
    layout = Layout(port_type=None)
    return Function(address=address, above=above, identity=SOUND_CARD, layout=layout, group=group)
