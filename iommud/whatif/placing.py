# SPDX-License-Identifier: GPL-2.0-or-later
"""Put a device into another slot: where it fits, which numbers it gets, and what comes along."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from iommud.address import Address
from iommud.model.topology import BusId, Topology
from iommud.snapshot import PciFunction, Snapshot
from iommud.verdict.survey import is_iommu_itself
from iommud.whatif.changes import ImpossibleChangeError, Slot
from iommud.whatif.fitting import Place, fitted, is_link
from iommud.whatif.imagined import Imagined
from iommud.whatif.removal import in_slot, with_dependants

_DEVICES = 32
_BUSES = 256


def moved(machine: Imagined, address: Address, slot: Slot) -> Imagined:
    """The machine with a device in another slot: all its functions, its virtual functions and all that lies below.

    Bus numbers below it stay, but in another domain where they are taken. Raises ImpossibleChangeError where the
    device cannot go or the slot is taken.
    """
    topology = machine.topology()
    device = _device(machine, address)
    travellers = with_dependants(machine.snapshot.functions, {one.address for one in device})
    place = _place(topology, slot)
    if place.bridge is not None and place.bridge.address in travellers:
        raise ImpossibleChangeError(f"{address} cannot lie below itself")
    fits = {one.address: fitted(topology, one, place) for one in device}
    others = [one for one in topology.functions.values() if one.address[:2] == place.bus]
    occupied = {one.address for one in others if one.address not in travellers}
    numbers = _Numbers(topology, place, travellers, occupied)
    heads = numbers.heads(address, device, slot)
    names = numbers.names([one for one in machine.snapshot.functions if one.address in travellers], heads)
    there = _relocated(machine, _Relocation(place, names, numbers.buses, fits))
    there = there.noted(*_notes(topology, device, place, names))
    return _served_as_before(machine, there, names) if _stays_below_its_host(topology, device[0], place) else there


def _stays_below_its_host(topology: Topology, function: PciFunction, place: Place) -> bool:
    """Whether a device is put on the root bus from which it hung."""
    above = topology.chain(function)
    return place.bridge is None and bool(above) and above[-1].address[:2] == place.bus


def _served_as_before(machine: Imagined, there: Imagined, names: Mapping[Address, Address]) -> Imagined:
    """A hypervisor writes its tables anew: what had a group keeps it although the old ones name another place."""
    before, after = machine.joins(machine.topology()), there.joins(there.topology())
    kept = sorted(new for old, new in names.items() if before(old) and not after(new))
    if not kept:
        return there
    listed = " ".join(str(one) for one in kept)
    note = f"the hypervisor's tables are taken to serve {listed}, which they do not name today"
    return replace(there, seated=there.seated.union(kept)).noted(note)


def _device(machine: Imagined, address: Address) -> tuple[PciFunction, ...]:
    function = machine.function(address)
    if function.is_virtual:
        raise ImpossibleChangeError(f"{address} is a virtual function: it goes where {function.physfn} goes")
    if function.is_bridge and function.secondary_bus is None:
        raise ImpossibleChangeError(f"{address} is a bridge, and which bus lies below it is not known")
    found = in_slot(machine.snapshot.functions, function)
    for one in found:
        if is_iommu_itself(one, machine.snapshot.iommus):
            raise ImpossibleChangeError(f"{one.address} is the IOMMU itself, whose place firmware names")
    return found


def _place(topology: Topology, slot: Slot) -> Place:
    """The bus that a slot lies on. Raises ImpossibleChangeError if there is none."""
    bridge = topology.functions.get(slot.below or slot.at or Address(0, 0, 0, 0))
    if slot.below is not None and (bridge is None or not bridge.is_bridge):
        raise ImpossibleChangeError(f"{slot.below} is no bridge of this machine")
    if bridge is not None and bridge.is_bridge:
        if bridge.secondary_bus is None:
            raise ImpossibleChangeError(f"which bus lies below {bridge.address} is not known")
        return Place.below(bridge)
    bus = slot.at[:2] if slot.at is not None else (0, 0)
    found = topology.buses.get(bus)
    if found is not None and found.virtual_parent is not None:
        raise ImpossibleChangeError(f"{slot}: the bus holds virtual functions only")
    if found is not None and found.bridge is not None:
        return Place.below(found.bridge)
    if found is not None:
        return Place.on_root_bus(found.functions[0])
    empty = next((one for one in topology.functions.values() if _leads_to(one, bus)), None)
    if empty is None:
        raise ImpossibleChangeError(f"{slot}: there is no bus {bus[0]:04x}:{bus[1]:02x}")
    return Place.below(empty)


def _leads_to(bridge: PciFunction, bus: BusId) -> bool:
    return bridge.secondary_bus is not None and (bridge.address.domain, bridge.secondary_bus) == bus


@dataclass(frozen=True, slots=True)
class _Numbers:
    """Gives the travellers their numbers."""

    topology: Topology
    place: Place
    travellers: frozenset[Address]
    occupied: set[Address]
    """Addresses on the bus of the new place that others have."""
    buses: dict[BusId, BusId] = field(default_factory=dict)
    """The number of each bus below the device, before and after."""

    def heads(self, named: Address, device: tuple[PciFunction, ...], slot: Slot) -> dict[Address, Address]:
        """The new address of each function of the device, one of which was named."""
        number = self._device_number(device, slot)
        if len(device) == 1:
            function = self._lone_function(device[0], slot, number)
            return {device[0].address: Address(*self.place.bus, number, function)}
        self._must_be_free(number)
        wanted = slot.function or (slot.at.function if self._is_exact(slot) and slot.at else 0)
        if wanted not in (0, named.function):
            raise ImpossibleChangeError(f"{device[0].address} has several functions, which keep their numbers")
        shift = (number - min(one.address.device for one in device)) << 3
        return {one.address: self._shifted(one.address, shift) for one in device}

    def _is_exact(self, slot: Slot) -> bool:
        return slot.at is not None and (self.place.bridge is None or slot.at != self.place.bridge.address)

    def _device_number(self, device: tuple[PciFunction, ...], slot: Slot) -> int:
        asked = slot.at.device if slot.at is not None and self._is_exact(slot) else slot.device
        if is_link(self.topology, self.place):
            if asked:
                raise ImpossibleChangeError(f"{slot}: a PCIe link has device 0 only")
            return 0
        if asked is not None:
            return asked
        taken = {one.device for one in self.occupied}
        own = min(one.address.device for one in device)
        numbers: list[int] = [own, *range(1, _DEVICES), 0]
        for number in numbers:
            if number not in taken:
                return number
        raise ImpossibleChangeError(f"{slot}: no slot is free there")

    def _must_be_free(self, number: int) -> None:
        for one in sorted(self.occupied):
            if one.device == number or is_link(self.topology, self.place):
                raise ImpossibleChangeError(f"the slot is taken by {one}")

    def _lone_function(self, function: PciFunction, slot: Slot, number: int) -> int:
        """Function 0, unless a number is asked for beside a function 0 that is multifunction."""
        asked = slot.at.function if slot.at is not None and self._is_exact(slot) else slot.function
        if not asked or asked == function.address.function:
            self._must_be_free(number)
            return function.address.function if asked is None else asked
        wanted = Address(*self.place.bus, number, asked)
        first = self.topology.functions.get(Address(*self.place.bus, number, 0))
        if wanted in self.occupied:
            raise ImpossibleChangeError(f"the slot is taken by {wanted}")
        if first is None or first.address in self.travellers or first.config.multifunction_bit is False:
            raise ImpossibleChangeError(f"{wanted}: the kernel finds it only beside a multifunction function 0")
        return asked

    def _shifted(self, address: Address, shift: int) -> Address:
        devfn = address.devfn + shift
        if not 0 <= devfn < _DEVICES * 8:
            raise ImpossibleChangeError(f"{address} finds no number there")
        return Address(*self.place.bus, devfn >> 3, devfn & 7)

    def names(self, functions: list[PciFunction], heads: Mapping[Address, Address]) -> dict[Address, Address]:
        """The new address of every traveller: of virtual functions as far from the physical one as before."""
        names = dict(heads)
        own_bus = next(iter(heads))[:2]
        for one in functions:
            if one.secondary_bus is not None and self._travels(one):
                self.bus((one.address.domain, one.secondary_bus))
            if one.address in names:
                continue
            if one.physfn is not None and one.physfn in heads and one.address[:2] == own_bus:
                shift = heads[one.physfn].devfn - one.physfn.devfn
                names[one.address] = self._shifted(one.address, shift)
            else:
                bus = self.bus(one.address[:2]) if self._travels(one) else one.address[:2]
                names[one.address] = Address(*bus, one.address.device, one.address.function)
        clash = set(names.values()) & self.occupied
        if clash or len(set(names.values())) < len(names):
            raise ImpossibleChangeError(f"there is no room for {min(names)} and what comes along")
        return names

    def _travels(self, function: PciFunction) -> bool:
        """Whether its bus number is one of the domain it leaves, and not of a domain inside a traveller."""
        return function.host_parent not in self.travellers

    def bus(self, bus: BusId) -> BusId:
        """The number that a bus below the device has afterwards."""
        if bus not in self.buses:
            domain = self.place.bus[0]
            taken = {one for one in self._taken() if one[0] == domain}
            same = (domain, bus[1])
            free = (same, *((domain, number) for number in range(_BUSES)))
            found = next((one for one in free if one[0] == bus[0] or one not in taken), None)
            if found is None:
                raise ImpossibleChangeError(f"domain {domain:04x} has no bus number left")
            self.buses[bus] = found
        return self.buses[bus]

    def _taken(self) -> set[BusId]:
        bridges = (one for one in self.topology.functions.values() if one.secondary_bus is not None)
        named = {(one.address.domain, one.secondary_bus or 0) for one in bridges}
        return {*self.topology.buses, *named, *self.buses.values()}


@dataclass(frozen=True, slots=True)
class _Relocation:
    place: Place
    names: Mapping[Address, Address]
    buses: Mapping[BusId, BusId]
    types: Mapping[Address, int | None]
    """Port type of each function of the device in its new place."""


def _relocated(machine: Imagined, relocation: _Relocation) -> Imagined:
    names = relocation.names
    functions = [_function(one, relocation) if one.address in names else one for one in machine.snapshot.functions]
    groups = {
        number: replace(group, members=tuple(sorted(names.get(one, one) for one in group.members)))
        for number, group in machine.snapshot.groups.items()
    }
    snapshot: Snapshot = replace(
        machine.snapshot, functions=tuple(sorted(functions, key=lambda one: one.address)), groups=groups
    )
    origins = {names.get(new, new): old for new, old in machine.origins.items()}
    origins |= {new: old for old, new in names.items() if old not in machine.origins}
    return replace(
        machine,
        snapshot=snapshot,
        seated=frozenset(names.get(one, one) for one in machine.seated),
        unprobed=frozenset(names.get(one, one) for one in machine.unprobed),
        origins={new: old for new, old in origins.items() if new != old},
    )


def _function(function: PciFunction, relocation: _Relocation) -> PciFunction:
    place, names = relocation.place, relocation.names
    changed = replace(
        function,
        address=names[function.address],
        physfn=None if function.physfn is None else names[function.physfn],
        upstream=None if function.upstream is None else names.get(function.upstream, function.upstream),
        secondary_bus=_secondary(function, relocation),
    )
    if function.host_parent is not None and function.host_parent in names:
        return replace(changed, host_parent=names[function.host_parent])
    changed = replace(changed, root=place.root, host_parent=place.host_parent, host_node=place.host_node)
    if function.address not in relocation.types and function.physfn not in relocation.types:
        return changed
    above = None if place.bridge is None else place.bridge.address
    config = function.config
    if function.address in relocation.types:
        config = replace(config, port_type=relocation.types[function.address])
    return replace(changed, upstream=above, config=config, ari_enabled=function.ari_enabled and above is not None)


def _secondary(function: PciFunction, relocation: _Relocation) -> int | None:
    if function.secondary_bus is None:
        return None
    bus = (function.address.domain, function.secondary_bus)
    return relocation.buses.get(bus, bus)[1]


def _notes(
    topology: Topology,
    device: tuple[PciFunction, ...],
    place: Place,
    names: Mapping[Address, Address],
) -> list[str]:
    found = [f"{old} becomes {new}" for old, new in sorted(names.items()) if old != new]
    if topology.on_root_bus(device[0]):
        found.append(f"{device[0].address} sits on a root bus, from where only a hypervisor can move it")
    if place.bridge is None:
        found.append(f"{device[0].address} is put on a root bus, which only a hypervisor can do")
    return found
