# SPDX-License-Identifier: GPL-2.0-or-later
"""What the hypotheses ask about one report: the model in other states, the order of things, the log, the streams."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, TypeVar, cast

from iommud.address import Address
from iommud.causes.replay import Neighbours
from iommud.causes.world import AcsAtGrouping, AcsThen, switched
from iommud.kernel import Kernel
from iommud.model.acs import AcsState
from iommud.model.groups import Group, GroupingModel, closure
from iommud.model.topology import Bus, BusId, Topology
from iommud.snapshot import PciFunction, Snapshot
from iommud.verdict.findings import Finding
from iommud.verdict.report import Analysis, Report
from iommud.verdict.service import Service
from iommud.verdict.survey import Platform, parse_override

if TYPE_CHECKING:
    from iommud.firmware import HostBridge

SEARCH_LIMIT = 20_000
"""Decisions of the kernel's that the search for one finding may replay."""
_FINDINGS = 10
"""How many such searches all the findings of a report may cost together."""
_GROUPED = re.compile(r"\b([0-9a-f]{4,8}:[0-9a-f]{2}:[01][0-9a-f]\.[0-7]): Adding to iommu group (\d+)")

_Found = TypeVar("_Found")

StreamId = tuple[object, int]
"""An SMMU, and a stream of it."""


@dataclass
class Budget:
    """How much more may be replayed."""

    each: int = SEARCH_LIMIT
    """For one finding."""
    left: int = _FINDINGS * SEARCH_LIMIT
    """For all the others together."""
    spent_up: dict[int, Finding] = field(default_factory=dict)
    """Findings whose search ended for lack of it, by identity: their ids take long to work out."""

    def spend(self, finding: Finding, amount: int) -> bool:
        """Take something out for a finding, and say whether there was any left."""
        if self.left <= 0:
            self.spent_up[id(finding)] = finding
            return False
        self.left -= amount
        return True

    @classmethod
    def of(cls, limit: int) -> Budget:
        """A budget of so many decisions for a finding."""
        return cls(limit, _FINDINGS * limit)


@dataclass
class Facts:
    """One report, with what is worked out of it once for all its findings."""

    report: Report
    analysis: Analysis
    budget: Budget = field(default_factory=Budget)
    _models: dict[AcsThen, tuple[GroupingModel, ...]] = field(default_factory=dict)
    _places: dict[AcsThen, Mapping[Address, Group]] = field(default_factory=dict)
    _neighbours: dict[int, Neighbours] = field(default_factory=dict)
    _concerned: dict[tuple[int, AcsThen], frozenset[Address]] = field(default_factory=dict)
    _once: dict[Callable[[Facts], object], object] = field(default_factory=dict)

    def once(self, work: Callable[[Facts], _Found]) -> _Found:
        """What a function of these facts gives, worked out the first time that it is asked for."""
        if work not in self._once:
            self._once[work] = work(self)
        return cast("_Found", self._once[work])

    @property
    def snapshot(self) -> Snapshot:
        """The machine."""
        return self.analysis.snapshot

    @property
    def platform(self) -> Platform:
        """Its IOMMUs and its firmware."""
        return self.analysis.platform

    @property
    def kernel(self) -> Kernel:
        """Its kernel."""
        return self.report.kernel

    @property
    def model(self) -> GroupingModel:
        """The model that gave the expected groups."""
        return self.analysis.explainer.model

    @property
    def topology(self) -> Topology:
        """The functions with their relations."""
        return self.model.topology

    @cached_property
    def service(self) -> Service:
        """What firmware says of who is served, and under which IDs."""
        return Service(self.topology, self.platform, self.snapshot)

    @property
    def numbers(self) -> Mapping[Address, int]:
        """The kernel's group of each function that has one."""
        return self.report.actual.number_of

    @property
    def cmdline(self) -> str:
        """The kernel's command line; empty if it is not known."""
        return self.snapshot.cmdline or ""

    @cached_property
    def log(self) -> tuple[str, ...]:
        """Lines of the kernel log; none if it is not known."""
        return self.snapshot.log or ()

    @cached_property
    def rank(self) -> Mapping[Address, int]:
        """Place of each function in the kernel's list: parents first, and virtual functions, made by drivers, last."""
        ordered: dict[Address, None] = {}
        functions = self.topology.functions.values()
        for one in sorted(functions, key=lambda one: (one.is_virtual, one.address)):
            for above in reversed(self.topology.chain(one)):
                ordered.setdefault(above.address)
            sender = self.topology.real_dma_device(one)
            ordered.setdefault(sender.address)
            ordered.setdefault(one.address)
        return {address: place for place, address in enumerate(ordered)}

    @cached_property
    def logged(self) -> Mapping[Address, int]:
        """For functions whose last entry into a group is in the log, and into the one they have: its place there."""
        found: dict[Address, tuple[int, int]] = {}
        for place, line in enumerate(self.log):
            match = _GROUPED.search(line)
            address = Address.from_name(match[1]) if match else None
            if match is not None and address is not None:
                found.pop(address, None)
                found[address] = (place, int(match[2]))
        return {one: place for one, (place, number) in found.items() if self.numbers.get(one) == number}

    @cached_property
    def logged_then(self) -> tuple[tuple[Address, int], ...]:
        """Every entry into a group that the log tells of, in its order, also into groups that are gone."""
        matches = (_GROUPED.search(line) for line in self.log)
        found = ((Address.from_name(match[1]), int(match[2])) for match in matches if match)
        return tuple((address, number) for address, number in found if address is not None)

    @property
    def order_matters(self) -> bool:
        """Whether functions were grouped as drivers matched them, in whatever order that was.

        So before 6.15 where firmware maps requester IDs; everywhere else parents came first.
        """
        return self.kernel.readable and self.platform.by_firmware is True and not self.kernel.at_least(6, 15)

    @property
    def undecided(self) -> bool:
        """Whether missing bytes leave the expected groups open."""
        return self.report.expected is None

    def models(self, then: AcsThen) -> tuple[GroupingModel, ...]:
        """The model with ACS as it was; two where missing bytes could decide either way."""
        if then not in self._models:
            plain = self.model.acs.state
            states = [self._state(then, plain)]
            if self.undecided:
                states.append(replace(states[0], unknown=False))
            altered = self._altered(then)
            self._models[then] = tuple(
                replace(self.model, acs=AcsAtGrouping(self.topology, state, then=altered, alone=then.alone), _beside={})
                for state in states
            )
        return self._models[then]

    def _state(self, then: AcsThen, plain: AcsState) -> AcsState:
        tokens, ids = parse_override(self.cmdline) if then.override else (plain.override, plain.override_ids)
        return replace(plain, control_cleared=then.cleared, override=tokens, override_ids=ids)

    def _altered(self, then: AcsThen) -> dict[Address, PciFunction]:
        functions = self.topology.functions
        found = {one: switched(functions[one], on=True) for one in then.on}
        return found | {one: switched(functions[one], on=False) for one in then.off}

    def neighbours(self, model: GroupingModel) -> Neighbours:
        """Whom the searches meet in this model."""
        return self._neighbours.setdefault(id(model), Neighbours(model))

    def place(self, then: AcsThen) -> Mapping[Address, Group]:
        """The class of each function in the closure with ACS as it was, the coarsest where bytes are missing.

        Where only some functions were different, functions that these cannot have touched may be left out.
        """
        if then not in self._places:
            model = self.models(then)[-1]
            altered = then.on | then.off
            if then.cleared or then.override or not altered:
                groups = model.expected().groups
            else:
                ties = tuple(tie for bus in self._touched(altered) for tie in model.ties_of(bus))
                groups = closure(ties, {one for tie in ties for one in (tie.one, tie.other)}).groups
            self._places[then] = {one: group for group in groups for one in group}
        return self._places[then]

    def _touched(self, altered: frozenset[Address]) -> Iterable[Bus]:
        """The buses of these functions, and all below them."""
        waiting = list(dict.fromkeys(one[:2] for one in sorted(altered)))
        below = self.once(_buses_below)
        met: set[BusId] = set()
        while waiting:
            bus = waiting.pop()
            if bus not in met:
                met.add(bus)
                waiting += below.get(bus, ())
                yield self.topology.buses[bus]

    def concerned(self, finding: Finding, then: AcsThen) -> frozenset[Address]:
        """The functions that a cause of the finding must account for: whole classes, and whole groups of the kernel."""
        key = (id(finding), then)
        if key not in self._concerned:
            self._concerned[key] = self._closed(finding, self.place(AcsThen()), self.place(then))
        return self._concerned[key]

    def _closed(
        self, finding: Finding, now: Mapping[Address, Group], place: Mapping[Address, Group]
    ) -> frozenset[Address]:
        waiting = [
            one for one in (*finding.devices, *_members(finding.groups), *_members(finding.expected)) if one in now
        ]
        found: set[Address] = set()
        met: set[Group] = set()
        while waiting:
            one = waiting.pop()
            if one not in found:
                found.add(one)
                for group in (now[one], place.get(one, now[one]), self._group_of(one)):
                    if group not in met:
                        met.add(group)
                        waiting += group
        return frozenset(found)

    def _group_of(self, address: Address) -> Group:
        """The kernel's group of a function; empty without one."""
        number = self.numbers.get(address)
        return frozenset() if number is None else self.report.actual.members[number]

    def host_bridge(self, function: PciFunction) -> HostBridge | None:
        """The device tree's node of the host bridge above a function; None if it is not told apart."""
        return self.service.host_bridge(function)

    def should_join(self, address: Address) -> bool:
        """Whether a function has a group or should have one."""
        return self.model.joins(address)

    def function(self, address: Address) -> PciFunction:
        """The function with this address."""
        return self.topology.functions[address]


def _members(groups: Iterable[Group]) -> Iterable[Address]:
    return (one for group in groups for one in group)


def _buses_below(facts: Facts) -> Mapping[BusId, Sequence[BusId]]:
    """For each bus the buses right below: those of its bridges, and the virtual ones."""
    found: dict[BusId, list[BusId]] = {}
    for bus in facts.topology.buses.values():
        above = bus.virtual_parent if bus.bridge is None else bus.bridge.address[:2]
        if above is not None:
            found.setdefault(above, []).append(bus.id)
    return found
