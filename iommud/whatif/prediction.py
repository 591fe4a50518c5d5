# SPDX-License-Identifier: GPL-2.0-or-later
"""The groups that a kernel would make of an imagined machine, and the report that iommud would give on it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

from iommud.address import Address
from iommud.causes.replay import replayed
from iommud.model.acs import AcsModel, AcsState
from iommud.model.groups import Group, GroupingModel, canonical
from iommud.model.topology import Topology
from iommud.snapshot import IommuGroup, PciFunction, Snapshot
from iommud.verdict.pipeline import aliases_of, judge
from iommud.verdict.report import Report
from iommud.whatif.changes import Order
from iommud.whatif.imagined import Imagined


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """What a kernel would make of an imagined machine."""

    machine: Imagined
    groups: tuple[Group, ...]
    """The groups; where facts are missing, the finest that they permit."""
    coarsest: tuple[Group, ...] | None
    """Where facts are missing that decide, the coarsest groups they permit; None: the groups are certain."""
    report: Report
    """On the imagined machine with these groups; without causes."""

    @property
    def certain(self) -> tuple[Group, ...]:
        """The groups that no missing fact can change."""
        return self.groups if self.coarsest is None else tuple(one for one in self.groups if one in set(self.coarsest))


@dataclass(frozen=True, slots=True)
class Groups:
    """The two bounds of what the facts permit."""

    finest: tuple[Group, ...]
    coarsest: tuple[Group, ...]

    def together(self, one: Address, other: Address) -> bool | None:
        """Whether two functions would be in one group; None where facts are missing that decide."""
        if any(one in group and other in group for group in self.finest):
            return True
        return None if any(one in group and other in group for group in self.coarsest) else False


def predict(machine: Imagined) -> Prediction:
    """The groups of an imagined machine, and the report on it."""
    found = groups_of(machine)
    return Prediction(
        machine=machine,
        groups=found.finest,
        coarsest=None if found.finest == found.coarsest else found.coarsest,
        report=judge(with_groups(machine.snapshot, found.finest), machine.kernel),
    )


def groups_of(machine: Imagined) -> Groups:
    """The groups of an imagined machine, between the bounds that missing facts leave."""
    topology = machine.topology()
    joins = machine.joins(topology)
    model = _model(machine, topology, joins, unknown=True)
    finest = _partition(machine, model, joins)
    if not model.acs.unknown and machine.order is None:
        return Groups(finest, finest)
    return Groups(finest, _partition(machine, _model(machine, topology, joins, unknown=False), joins))


def _model(machine: Imagined, topology: Topology, joins: Callable[[Address], bool], *, unknown: bool) -> GroupingModel:
    state = AcsState(
        unknown=unknown,
        ivrs_present=machine.platform.ivrs_present,
        override=machine.override,
        override_ids=machine.override_ids,
    )
    aliases = aliases_of(topology, machine.platform, machine.snapshot)
    return GroupingModel(AcsModel(topology, state), aliases, joins)


def _partition(machine: Imagined, model: GroupingModel, joins: Callable[[Address], bool]) -> tuple[Group, ...]:
    if machine.order is None:
        return model.expected().restricted_to(joins)
    order = (one for one in listed(model.topology, machine.order) if joins(one))
    return _by_number(replayed(model, order))


def _by_number(numbers: Mapping[Address, int]) -> tuple[Group, ...]:
    found: dict[int, set[Address]] = {}
    for address, number in numbers.items():
        found.setdefault(number, set()).add(address)
    return canonical(frozenset(members) for members in found.values())


def listed(topology: Topology, order: Order) -> tuple[Address, ...]:
    """The functions in an order; virtual ones, which drivers make, come last in the kernel's list."""
    placed: dict[Address, None] = {}
    for one in sorted(topology.functions.values(), key=lambda one: (one.is_virtual, one.address)):
        for above in reversed(topology.chain(one)):
            placed.setdefault(above.address)
        placed.setdefault(topology.real_dma_device(one).address)
        placed.setdefault(one.address)
    if order is Order.BOTTOM_UP:
        return tuple(reversed(placed))
    if order is Order.BRIDGES_LAST:
        return tuple(sorted(placed, key=lambda one: topology.functions[one].is_bridge))
    return tuple(placed)


def with_groups(snapshot: Snapshot, groups: Iterable[Group]) -> Snapshot:
    """The snapshot as it would be if the kernel had made these groups; members that are not PCI stay where they were.

    VFIO's no-IOMMU groups stay too: they are none that the kernel's rule makes.
    """
    numbers = {address: number for number, group in enumerate(groups) for address in group}
    kept = {one.number: one for one in snapshot.groups.values() if one.is_artificial}
    shift = max(kept, default=-1) + 1
    made = {address: number + shift for address, number in numbers.items()}
    functions = tuple(replace(one, group=_number(one, made, kept)) for one in snapshot.functions)
    return replace(
        snapshot, functions=functions, groups=kept | _made(snapshot, made), groups_listed=True, contradictions=()
    )


def _number(function: PciFunction, made: Mapping[Address, int], kept: Mapping[int, IommuGroup]) -> int | None:
    stays = function.group if function.group in kept else None
    return made.get(function.address, stays)


def _made(snapshot: Snapshot, numbers: Mapping[Address, int]) -> dict[int, IommuGroup]:
    others: dict[int, tuple[str, ...]] = {}
    for old in snapshot.groups.values():
        number = next((numbers[one] for one in old.members if one in numbers), None)
        if number is not None and old.others:
            others[number] = (*others.get(number, ()), *old.others)
    members: dict[int, list[Address]] = {}
    for address, number in numbers.items():
        members.setdefault(number, []).append(address)
    return {
        number: IommuGroup(number=number, members=tuple(sorted(found)), others=others.get(number, ()))
        for number, found in sorted(members.items())
    }
