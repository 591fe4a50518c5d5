# SPDX-License-Identifier: GPL-2.0-or-later
"""The part of a large machine that can decide whether two functions share a group."""

from __future__ import annotations

from dataclasses import dataclass, replace

from iommud.address import Address
from iommud.model.topology import BusId, Topology
from iommud.snapshot import PciFunction
from iommud.whatif.fitting import Place, is_link
from iommud.whatif.imagined import Imagined
from iommud.whatif.prediction import Groups

_LARGE = 400
"""Functions of a machine that is looked at as a whole."""
_PORTS = 64
"""Ports elsewhere, into which something could be moved, that are kept of a larger one."""


@dataclass(frozen=True, slots=True)
class Part:
    """What is looked at of a machine."""

    machine: Imagined
    ports: frozenset[Address]
    """Bridges below which something could be put."""
    complete: bool
    """Whether these are all such bridges."""


def part_of(machine: Imagined, one: Address, other: Address, groups: Groups) -> Part:
    """The machine with the functions that count: the groups of the two, the buses on their ways, some free ports.

    A small machine is given back whole.
    """
    topology = machine.topology()
    roomy = _roomy(topology)
    if len(machine.snapshot.functions) <= _LARGE:
        return Part(machine, frozenset(roomy), complete=True)
    kept = {address for group in groups.coarsest if one in group or other in group for address in group}
    ways = {address for each in (one, other) for address in (each, *_above(topology, each))}
    ports = {address for address in roomy if address in ways} | set(roomy[:_PORTS])
    kept |= ways | ports
    for address in list(kept):
        kept.update(_above(topology, address))
    buses = {address[:2] for address in ways} | {_below(topology.functions[port]) for port in ports}
    kept |= {function.address for bus in buses & topology.buses.keys() for function in topology.buses[bus].functions}
    functions = tuple(
        function
        for function in machine.snapshot.functions
        if function.address in kept or (function.physfn is not None and function.physfn in kept)
    )
    smaller = replace(machine, snapshot=replace(machine.snapshot, functions=functions))
    return Part(smaller, frozenset(ports), complete=len(ports) == len(roomy))


def _above(topology: Topology, address: Address) -> list[Address]:
    return [bridge.address for bridge in topology.chain(topology.functions[address])]


def _below(bridge: PciFunction) -> BusId:
    return bridge.address.domain, bridge.secondary_bus or 0


def _roomy(topology: Topology) -> list[Address]:
    """Bridges whose bus is empty or has several slots."""
    bridges = (one for one in topology.functions.values() if one.secondary_bus is not None and one.present)
    return sorted(one.address for one in bridges if _has_room(topology, one))


def _has_room(topology: Topology, bridge: PciFunction) -> bool:
    bus = topology.buses.get(_below(bridge))
    return bus is None or not is_link(topology, Place.below(bridge))
