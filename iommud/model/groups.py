# SPDX-License-Identifier: GPL-2.0-or-later
"""The expected groups: the closure of the ties by which ``pci_device_group()`` puts functions together.

The kernel decides for one function at a time and looks only at groups that exist already. What it arrives at
when every parent is probed before its children does not depend on any further order: it is the finest
partition in which all ties below hold. Each tie keeps the facts that decided it.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from iommud.address import Address
from iommud.model.acs import AcsModel
from iommud.model.aliases import Aliases
from iommud.model.topology import Bus, Topology
from iommud.snapshot import PciFunction

Group = frozenset[Address]


class Rule(enum.StrEnum):
    """Why two functions belong together."""

    ALIAS_BRIDGE = "alias-bridge"
    """The bridge puts its own requester ID on what comes from below (``pci_for_each_dma_alias()``)."""
    UNPROTECTED_PATH = "unprotected-path"
    """ACS does not isolate the way to the root (``pci_acs_path_enabled()``)."""
    REAL_DMA_DEVICE = "real-dma-device"
    """The other function sends the requests (``pci_real_dma_dev()``)."""
    DMA_ALIAS = "dma-alias"
    """One sends under the other's requester ID (``pci_devs_are_dma_aliases()``)."""
    MULTIFUNCTION = "multifunction"
    """Functions of one slot, none isolated (``get_pci_function_alias_group()``)."""
    UNGROUPED_BRIDGE = "ungrouped-bridge"
    """The bridge above has no group, yet its sibling function has (``get_pci_function_alias_group()``)."""


@dataclass(frozen=True, slots=True)
class Tie:
    """Two functions that the rule puts into one group."""

    one: Address
    other: Address
    rule: Rule


@dataclass(frozen=True, slots=True)
class Closure:
    """Ties over all functions, and the partition they generate."""

    ties: tuple[Tie, ...]
    groups: tuple[Group, ...]
    """Every function is in exactly one; in canonical order (by lowest member)."""

    def restricted_to(self, kept: Callable[[Address], bool]) -> tuple[Group, ...]:
        """The partition without the functions that have no group and should have none."""
        found = (frozenset(address for address in group if kept(address)) for group in self.groups)
        return canonical(group for group in found if group)


def canonical(groups: Iterable[Group]) -> tuple[Group, ...]:
    """Groups ordered by their lowest member."""
    return tuple(sorted(groups, key=min))


class DisjointSets:
    """Union-find over addresses."""

    def __init__(self, addresses: Iterable[Address]) -> None:
        self._parent = {address: address for address in addresses}

    def find(self, address: Address) -> Address:
        """The representative of an address's set."""
        parent = self._parent
        root = address
        while parent[root] is not root:
            root = parent[root]
        while parent[address] is not root:
            parent[address], address = root, parent[address]
        return root

    def union(self, one: Address, other: Address) -> None:
        """Merge two sets."""
        first, second = self.find(one), self.find(other)
        if first is not second:
            self._parent[second] = first

    def groups(self) -> tuple[Group, ...]:
        """All sets, in canonical order."""
        found: dict[Address, list[Address]] = {}
        for address in self._parent:
            found.setdefault(self.find(address), []).append(address)
        return canonical(frozenset(members) for members in found.values())


def closure(ties: Iterable[Tie], addresses: Iterable[Address]) -> Closure:
    """The finest partition of the addresses in which every tie holds."""
    kept = tuple(ties)
    sets = DisjointSets(addresses)
    for tie in kept:
        sets.union(tie.one, tie.other)
    return Closure(kept, sets.groups())


@dataclass(frozen=True, slots=True)
class GroupingModel:
    """The rules of ``pci_device_group()`` for one topology and one state of ACS."""

    acs: AcsModel
    aliases: Aliases
    joins: Callable[[Address], bool]
    """Whether a function has a group or should have one; one that rightly has none holds nothing together."""
    _beside: dict[Address, list[Address]] = field(default_factory=dict)

    @property
    def topology(self) -> Topology:
        """The topology that is grouped."""
        return self.acs.topology

    def expected(self) -> Closure:
        """The closure over every function of the snapshot."""
        return closure(self.ties(), self.topology.functions)

    def ties(self) -> Iterator[Tie]:
        """Every tie, bus by bus."""
        for bus in self.topology.buses.values():
            yield from self.ties_of(bus)

    def ties_of(self, bus: Bus) -> Iterator[Tie]:
        """The ties of the functions on one bus, among each other and to what lies above."""
        upward = self.upward_set(self.topology.chains[bus.id])
        if upward:
            yield from self._ties_to(upward, bus.functions)
        else:
            yield from self._ties_on(bus)

    def upward_set(self, chain: tuple[PciFunction, ...]) -> list[PciFunction]:
        """The bridges that a whole bus falls together with, in the order in which the kernel meets them.

        First the bridges that take an alias (``get_pci_alias_or_group()`` on the alias walk), then the ones above the
        last of these up to the first from which the path to the root is isolated.
        """
        self.acs.unknown.update(bridge.address for bridge in chain if self.aliases.type_unread(bridge))
        found = self.aliases.alias_bridges(chain, unread=self.acs.state.unknown is False)
        after = chain.index(found[-1]) + 1 if found else 0
        for bridge in chain[after:]:
            if self.acs.path_isolated(bridge):
                break
            found.append(bridge)
        return found

    def _ties_to(self, upward: list[PciFunction], functions: list[PciFunction]) -> Iterator[Tie]:
        for function in functions:
            sender = self.topology.real_dma_device(function)
            if sender is not function:
                yield from self._tie_to_sender(function, sender)
            else:
                yield from self._tie_to_first(function, upward)

    def _tie_to_sender(self, function: PciFunction, sender: PciFunction) -> Iterator[Tie]:
        """All functions of a VMD domain fall together with the endpoint that sends for them."""
        upward = [sender, *self.upward_set(self.topology.chain(sender))]
        if self.joins(sender.address):
            yield Tie(function.address, sender.address, Rule.REAL_DMA_DEVICE)
        else:
            yield from self._tie_to_first(function, upward)

    def _tie_to_first(self, function: PciFunction, upward: list[PciFunction]) -> Iterator[Tie]:
        for one in upward:
            if self.joins(one.address):
                yield Tie(function.address, one.address, self._rule_to(one))
                return
        yield from self._tie_beside(function, upward[-1])

    def _rule_to(self, bridge: PciFunction) -> Rule:
        return Rule.UNPROTECTED_PATH if self.aliases.bridge_alias(bridge) is None else Rule.ALIAS_BRIDGE

    def _tie_beside(self, function: PciFunction, last: PciFunction) -> Iterator[Tie]:
        """Nothing above ever gets a group: the searches start at the last function met and may find a sibling."""
        siblings = self._beside.get(last.address)
        if siblings is None:
            siblings = list(self._found_from(last))
            self._beside[last.address] = siblings
        for sibling in siblings:
            yield Tie(function.address, sibling, Rule.UNGROUPED_BRIDGE)

    def _found_from(self, start: PciFunction) -> Iterator[Address]:
        """The functions with a group that the alias and function searches from one without come upon.

        They stay on its bus and go on from each function that has no group either.
        """
        functions = self.topology.bus_of(start).functions
        seen, waiting = {start.address}, [start]
        while waiting:
            near = list(self._near(waiting.pop(), functions))
            waiting += (one for one in near if one.address not in seen and not self.joins(one.address))
            yield from (one.address for one in near if one.address not in seen and self.joins(one.address))
            seen.update(one.address for one in near)

    def _near(self, function: PciFunction, functions: list[PciFunction]) -> Iterator[PciFunction]:
        """One step of ``get_pci_alias_group()`` and ``get_pci_function_alias_group()``."""
        searches = self.acs.multifunction(function) and not self.acs.isolated(function)
        for other in functions:
            in_slot = other.address.device == function.address.device
            if self._are_aliases(function, other) or (searches and in_slot and not self.acs.isolated(other)):
                yield other

    def _are_aliases(self, one: PciFunction, other: PciFunction) -> bool:
        """``pci_devs_are_dma_aliases()``; aliases that nobody can read count as the state says."""
        if other.address.devfn in self.aliases.mask(one) or one.address.devfn in self.aliases.mask(other):
            return True
        unread = [function.address for function in (one, other) if self.aliases.mask_unknown(function)]
        self.acs.unknown.update(unread)
        return bool(unread) and self.acs.state.unknown is False

    def _ties_on(self, bus: Bus) -> Iterator[Tie]:
        """Ties among the functions of a bus that the path above isolates."""
        own: list[PciFunction] = []
        for function in bus.functions:
            sender = self.topology.real_dma_device(function)
            if sender is function:
                own.append(function)
            else:
                yield from self._tie_to_sender(function, sender)
        if len(own) > 1:
            yield from self._alias_ties(own)
            yield from self._slot_ties(own)

    def _alias_ties(self, functions: list[PciFunction]) -> Iterator[Tie]:
        """``get_pci_alias_group()``: functions of one bus of which one sends under the other's ID."""
        present = {function.address.devfn: function for function in functions}
        for function in functions:
            for devfn in self.aliases.mask(function):
                other = present.get(devfn)
                if other is not None and other is not function:
                    yield Tie(function.address, other.address, Rule.DMA_ALIAS)
            if self.aliases.mask_unknown(function):
                yield from self._possible_alias_ties(function, functions)

    def _possible_alias_ties(self, function: PciFunction, functions: list[PciFunction]) -> Iterator[Tie]:
        """A function whose aliases nobody can read may be an alias of any other on its bus."""
        self.acs.unknown.add(function.address)
        if self.acs.state.unknown is False:
            for other in functions:
                if other is not function:
                    yield Tie(function.address, other.address, Rule.DMA_ALIAS)

    def _slot_ties(self, functions: list[PciFunction]) -> Iterator[Tie]:
        """``get_pci_function_alias_group()``: a multifunction function and its siblings, none isolated."""
        slots: dict[int, list[PciFunction]] = {}
        for function in functions:
            slots.setdefault(function.address.device, []).append(function)
        for slot in slots.values():
            if len(slot) > 1:
                yield from self._ties_of_slot(slot)

    def _ties_of_slot(self, slot: list[PciFunction]) -> Iterator[Tie]:
        exposed = [function for function in slot if not self.acs.isolated(function)]
        first = next((function for function in exposed if self.acs.multifunction(function)), None)
        if first is not None:
            for function in exposed:
                if function is not first:
                    yield Tie(first.address, function.address, Rule.MULTIFUNCTION)
