# SPDX-License-Identifier: GPL-2.0-or-later
"""``pci_device_group()`` for one function after the other, in whatever order they are probed.

The closure (``iommud.model.groups``) says what groups must be; this says what a kernel arrives at that meets
functions in some order, never meets some of them, and finds ACS in the state of that moment.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import count

from iommud.address import Address
from iommud.model.aliases import Aliases
from iommud.model.groups import GroupingModel
from iommud.snapshot import PciFunction


@dataclass(frozen=True)
class Neighbours:
    """Who the searches of the kernel look at beside a function; of each bus it is found out once."""

    model: GroupingModel
    _partners: dict[Address, tuple[PciFunction, ...]] = field(default_factory=dict)
    _slots: dict[tuple[int, int, int], tuple[PciFunction, ...]] = field(default_factory=dict)
    _buses: set[tuple[int, int]] = field(default_factory=set)

    def aliases_of(self, function: PciFunction) -> tuple[PciFunction, ...]:
        """Functions of the same bus that are its DMA aliases (``pci_devs_are_dma_aliases()``)."""
        self._meet(function)
        return self._partners.get(function.address, ())

    def in_slot(self, function: PciFunction) -> tuple[PciFunction, ...]:
        """The functions of its slot, itself among them."""
        self._meet(function)
        return self._slots[function.address[:3]]

    @cached_property
    def without_firmware(self) -> Aliases:
        """The aliases that a function has before the IOMMU's driver meets it and adds those of the IVRS table."""
        return replace(self.model.aliases, firmware={})

    def _meet(self, function: PciFunction) -> None:
        bus = function.address[:2]
        if bus in self._buses:
            return
        self._buses.add(bus)
        functions = self.model.topology.bus_of(function).functions
        slots: dict[tuple[int, int, int], list[PciFunction]] = {}
        for one in functions:
            slots.setdefault(one.address[:3], []).append(one)
        self._slots.update((slot, tuple(found)) for slot, found in slots.items())
        self._partners.update(self._partners_on(functions))

    def _partners_on(self, functions: list[PciFunction]) -> dict[Address, tuple[PciFunction, ...]]:
        masks = {one.address: mask for one in functions if (mask := self.model.aliases.mask(one))}
        if not masks:
            return {}
        empty: frozenset[int] = frozenset()
        return {
            one.address: tuple(
                other
                for other in functions
                if other is not one
                and (
                    other.address.devfn in masks.get(one.address, empty)
                    or one.address.devfn in masks.get(other.address, empty)
                )
            )
            for one in functions
        }


@dataclass(frozen=True, slots=True)
class Replay:
    """A kernel that groups functions as they are probed; ``groups`` is what it has done so far."""

    model: GroupingModel
    neighbours: Neighbours
    groups: dict[Address, int] = field(default_factory=dict)
    _numbers: Iterator[int] = field(default_factory=count)

    @classmethod
    def of(cls, model: GroupingModel) -> Replay:
        """A kernel that has met no function yet."""
        return cls(model, Neighbours(model))

    def probe(self, function: PciFunction) -> int:
        """Give a function the group that it finds, or a new one."""
        found = self.found_by(function)
        number = next(self._numbers) if found is None else found
        self.groups[function.address] = number
        return number

    def found_by(self, function: PciFunction) -> int | None:
        """The group that ``pci_device_group()`` finds for a function now; None: it makes a new one."""
        last = function
        for alias in self.model.aliases.of(function):
            if alias.taker in self.groups:
                return self.groups[alias.taker]
            last = self.model.topology.functions[alias.taker]
        for bridge in self.model.topology.chain(last):
            if self.model.acs.path_isolated(bridge):
                break
            last = bridge
            if bridge.address in self.groups:
                return self.groups[bridge.address]
        visited: set[Address] = set()
        found = self._by_alias(last, visited, function.address)
        return self._by_function(last, visited, function.address) if found is None else found

    def _by_alias(self, function: PciFunction, visited: set[Address], current: Address) -> int | None:
        """``get_pci_alias_group()``."""
        if function.address in visited:
            return None
        visited.add(function.address)
        if function.address in self.groups:
            return self.groups[function.address]
        for other in self.neighbours.aliases_of(function):
            if not self._tied_by_now(function, other, current):
                continue
            for search in (self._by_alias, self._by_function):
                found = search(other, visited, current)
                if found is not None:
                    return found
        return None

    def _tied_by_now(self, one: PciFunction, other: PciFunction, current: Address) -> bool:
        """Whether one of two functions has the other's devfn as an alias already, of two that will have."""
        if not self.model.aliases.firmware:
            return True
        return other.address.devfn in self._mask(one, current) or one.address.devfn in self._mask(other, current)

    def _mask(self, function: PciFunction, current: Address) -> frozenset[int]:
        """``setup_aliases()``, drivers/iommu/amd/iommu.c, adds those of the IVRS table when it meets the function."""
        met = function.address == current or function.address in self.groups
        return (self.model.aliases if met else self.neighbours.without_firmware).mask(function)

    def _by_function(self, function: PciFunction, visited: set[Address], current: Address) -> int | None:
        """``get_pci_function_alias_group()``."""
        acs = self.model.acs
        if not acs.multifunction(function) or acs.isolated(function):
            return None
        for other in self.neighbours.in_slot(function):
            if other is not function and not acs.isolated(other):
                found = self._by_alias(other, visited, current)
                if found is not None:
                    return found
        return None


def replayed(model: GroupingModel, order: Iterable[Address]) -> Mapping[Address, int]:
    """The groups, numbered from 0, after these functions were probed in this order; the others have none."""
    kernel = Replay.of(model)
    for address in order:
        kernel.probe(model.topology.functions[address])
    return kernel.groups
