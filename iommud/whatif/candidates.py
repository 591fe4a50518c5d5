# SPDX-License-Identifier: GPL-2.0-or-later
"""What somebody could change to get two functions apart: parameters, other kernels, other slots."""

from __future__ import annotations

import enum
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from iommud.address import Address
from iommud.kernel import requested
from iommud.model.acs import AcsModel, AcsState, Override
from iommud.model.topology import Topology
from iommud.pci import PortType
from iommud.snapshot import PciFunction
from iommud.whatif.apply import CONFIG_ACS_SINCE
from iommud.whatif.changes import (
    BootKernel,
    Change,
    ImpossibleChangeError,
    Move,
    OverrideAcs,
    Slot,
    SwitchAcs,
)
from iommud.whatif.imagined import Imagined
from iommud.whatif.parameters import flag_settings
from iommud.whatif.part import Part
from iommud.whatif.placing import moved
from iommud.whatif.registers import switched
from iommud.whatif.removal import taken_out


class Class(enum.StrEnum):
    """How much a change takes, the least first."""

    SOFTWARE = "software"
    """A parameter of the kernel, or another release."""
    HARDWARE = "hardware"
    """A device in another slot."""
    HYPERVISOR = "hypervisor"
    """A device of a guest on a root bus, where no hardware could have it."""
    PRETENCE = "pretence"
    """A patched kernel that takes functions for isolated which are not."""

    @property
    def is_last_resort(self) -> bool:
        """Whether it is only looked at where nothing else separates."""
        return self in (Class.HYPERVISOR, Class.PRETENCE)


_REPRESENTATIVES = 3
"""Of ports that are alike as many as there can be moves in one answer."""

KERNELS = ("6.0", "6.1", "6.12", "7.0", "7.3")
"""The releases from which groups follow other rules than before: tables of devices, and when ACS is asked for."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """One change, and what it takes."""

    change: Change
    kind: Class
    since: tuple[int, int] = (0, 0)
    """The first kernel on which it can be made."""
    alike: tuple[Address, ...] = ()
    """Other ports that would do as well as the one it moves to, of which not all are candidates themselves."""


def candidates(part: Part, one: Address, other: Address, chain: Iterable[Address]) -> tuple[Candidate, ...]:
    """The changes that could get two functions apart; ``chain`` are the functions by which they are tied.

    Only ties on the ways from the two functions to the root count, so only switches there, and at the ports to which
    one of them could be moved, are looked at.
    """
    machine = part.machine
    topology = machine.topology()
    functions = topology.functions
    moves = tuple(_moves(part, topology, one, other))
    ways = {one, other, *chain}
    ways |= {bridge.address for each in (one, other) for bridge in topology.chain(functions[each])}
    ways |= {slot for slot in (_port(each.change) for each in moves) if slot is not None}
    return (
        *_switches(machine, topology, [functions[each] for each in sorted(ways)]),
        *_kernels(machine),
        *_pretences(machine),
        *moves,
    )


def _port(change: Change) -> Address | None:
    return change.slot.below if isinstance(change, Move) else None


def _switches(machine: Imagined, topology: Topology, functions: Iterable[PciFunction]) -> Iterator[Candidate]:
    """ACS that is implemented and off: the parameter that switches it on came with 6.11."""
    acs = AcsModel(topology, AcsState(ivrs_present=machine.platform.ivrs_present))
    named = _named(machine, topology)
    for function in functions:
        if function.config.acs is None or acs.verdict(function).isolated is not False:
            continue
        on = machine.altered({function.address: switched(function, on=True)}).topology()
        if AcsModel(on, acs.state).verdict(on.functions[function.address]).isolated:
            since = (0, 0) if function.address in named else CONFIG_ACS_SINCE
            yield Candidate(SwitchAcs(True, function.address), Class.SOFTWARE, since)


def _named(machine: Imagined, topology: Topology) -> frozenset[Address]:
    """Functions whose flags the command line sets already: there it takes one word less."""
    try:
        settings = flag_settings(machine.snapshot.cmdline or "")
    except ValueError:
        return frozenset()
    functions = machine.snapshot.functions
    return frozenset(one.address for one in functions if any(each.matches(one, topology) for each in settings))


def _kernels(machine: Imagined) -> Iterator[Candidate]:
    for text in KERNELS:
        kernel = requested(text)
        if machine.kernel.readable and kernel.version > machine.kernel.version:
            yield Candidate(BootKernel(kernel), Class.SOFTWARE)


def _pretences(machine: Imagined) -> Iterator[Candidate]:
    for tokens in ({Override.DOWNSTREAM}, {Override.MULTIFUNCTION}, {Override.DOWNSTREAM, Override.MULTIFUNCTION}):
        if not tokens <= machine.override:
            yield Candidate(OverrideAcs(frozenset(tokens)), Class.PRETENCE)


def _moves(part: Part, topology: Topology, one: Address, other: Address) -> Iterator[Candidate]:
    """To every bridge with room, and to that above another device which could leave."""
    units = {unit.address: unit.upstream for unit in movable(topology, one, other)}
    bridges = sorted(part.ports.union(above for above in units.values() if above is not None))
    for unit, upstream in units.items():
        possible = [port for port in bridges if port != upstream and _is_possible(part.machine, unit, port, units)]
        for alike in _alike(topology, possible):
            for bridge in alike[:_REPRESENTATIVES]:
                others = tuple(one for one in alike if one != bridge)
                yield Candidate(Move(unit, Slot(below=bridge)), Class.HARDWARE, alike=others)


def _alike(topology: Topology, bridges: Iterable[Address]) -> Iterable[list[Address]]:
    """Bridges that no rule tells apart: empty, on one bus, alone in their slots, of one kind, with equal registers."""
    found: dict[object, list[Address]] = {}
    for address in bridges:
        bridge = topology.functions[address]
        slot = [one for one in topology.bus_of(bridge).functions if one.address[:3] == address[:3]]
        empty = (address.domain, bridge.secondary_bus) not in topology.buses
        kind = (address[:2], bridge.vendor, bridge.device, bridge.config, bridge.driver, bridge.group is None)
        found.setdefault(kind if empty and len(slot) == 1 else address, []).append(address)
    return found.values()


_QEMU = frozenset({0x1AF4, 0x1B36})
"""Vendors under which QEMU's devices go; the first stands in the subsystem ids of most others too."""
_DEVICES = 32


def seats(machine: Imagined, one: Address, other: Address) -> Iterator[Candidate]:
    """In a guest: to a free slot of the root bus above, where QEMU puts devices that hang on nothing."""
    topology = machine.topology()
    if not any({each.vendor, each.subsystem_vendor} & _QEMU for each in topology.functions.values()):
        return
    for unit in movable(topology, one, other):
        top = topology.chain(unit)[-1].address
        taken = {each.address.device for each in topology.buses[top[:2]].functions}
        free = next((number for number in range(1, _DEVICES) if number not in taken), None)
        if free is not None:
            slot = Slot(at=Address(top.domain, top.bus, free, unit.address.function))
            yield Candidate(Move(unit.address, slot), Class.HYPERVISOR)


def movable(topology: Topology, one: Address, other: Address) -> tuple[PciFunction, ...]:
    """What can be put into another slot to take one of two functions away from the other."""
    return tuple(dict.fromkeys((*_units(topology, one, other), *_units(topology, other, one))))


def _units(topology: Topology, one: Address, other: Address) -> Iterator[PciFunction]:
    """What can be pulled out to take one function away from the other: its device, or a card it is on.

    What sits on a root bus, and the ports of a switch, are soldered.
    """
    functions = topology.functions
    function = functions[one]
    if function.physfn is not None:
        function = functions.get(function.physfn, function)
    there = {other, *(bridge.address for bridge in topology.chain(functions[other]))}
    for unit in (function, *topology.chain(function)):
        if unit.address in there or unit.upstream is None or unit.config.port_type == PortType.DOWNSTREAM_PORT:
            continue
        if functions[other].physfn != unit.address and other[:3] != unit.address[:3]:
            yield unit


def _is_possible(machine: Imagined, unit: Address, bridge: Address, units: Iterable[Address]) -> bool:
    """Whether the device fits there and finds a free slot, now or once another one of these has left."""
    if _finds_room(machine, unit, bridge):
        return True
    return any(_finds_room(machine, unit, bridge, gone=other) for other in units if other != unit)


def _finds_room(machine: Imagined, unit: Address, bridge: Address, *, gone: Address | None = None) -> bool:
    try:
        left = machine if gone is None else taken_out(machine, gone)
        moved(left, unit, Slot(below=bridge))
    except ImpossibleChangeError:
        return False
    return True
