# SPDX-License-Identifier: GPL-2.0-or-later
"""Whether a world gives exactly what was observed of the functions concerned, and by which order of probing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from iommud.address import Address
from iommud.causes.facts import Facts
from iommud.causes.replay import Replay
from iommud.causes.streams import Streams
from iommud.causes.world import World
from iommud.model.groups import GroupingModel
from iommud.verdict.findings import Finding


@dataclass(frozen=True, slots=True)
class Proof:
    """A replay that gave what was observed."""

    order: tuple[Address, ...]
    """The functions that were probed and got a group, in that order."""
    concerned: frozenset[Address]
    without: tuple[Address, ...]
    """Functions concerned that should have a group and got none."""


def reproduces(facts: Facts, finding: Finding, world: World) -> Proof | None:
    """Replay a world for one finding; None if it gives anything else than what was observed.

    Where missing bytes could decide either way, both ways must give it, in the same order.
    """
    if not facts.budget.spend(finding, 1):
        return None
    concerned = facts.concerned(finding, world.acs)
    facts.budget.spend(finding, len(concerned) // 4)
    joining = sorted((one for one in concerned if facts.should_join(one)), key=facts.rank.__getitem__)
    models = facts.models(world.acs)
    case = _Case(facts, finding, world, joining)
    order = case.searched(models[0]) if world.any_order else case.in_list_order(models[0])
    if order is None or not all(case.gives(model, order) for model in models[1:]):
        return None
    probed = set(order)
    return Proof(tuple(order), concerned, tuple(one for one in joining if one not in probed))


@dataclass(frozen=True, slots=True)
class _Case:
    facts: Facts
    finding: Finding
    world: World
    joining: Sequence[Address]
    """Functions concerned that should have a group, in list order."""

    def _kernel(self, model: GroupingModel) -> Replay:
        return Replay(model, self.facts.neighbours(model))

    def _is_left_out(self, address: Address) -> bool:
        return address in self.world.unprobed or address in self.world.refused

    def in_list_order(self, model: GroupingModel) -> list[Address] | None:
        """The functions that get a group when all are probed parents first, if that gives what was observed."""
        numbers = self.facts.numbers
        if not self._can_leave_out_those():
            return None
        order = self._accepted()
        if {one for one in self.joining if one in numbers} != set(order):
            return None
        return order if self.gives(model, order) else None

    def _can_leave_out_those(self) -> bool:
        """Whether nobody has a group whom the world gives none; the quick way to see that a replay is vain."""
        numbers = self.facts.numbers
        return not any(one in numbers and self._is_left_out(one) for one in self.joining)

    def _accepted(self) -> list[Address]:
        streams = Streams(self.facts, self.world)
        accepted: list[Address] = []
        for one in self.joining:
            function = self.facts.function(one)
            if one in self.world.unprobed:
                continue
            if one in self.world.refused or streams.refuses(function):
                if self.world.abandons:
                    return []
                continue
            streams.claim(function)
            accepted.append(one)
        return accepted

    def gives(self, model: GroupingModel, order: Sequence[Address]) -> bool:
        """Whether probing in this order gives the observed groups."""
        kernel, numbers = self._kernel(model), self.facts.numbers
        theirs: dict[int, int] = {}
        for one in order:
            self.facts.budget.left -= 1
            number = kernel.probe(self.facts.function(one))
            if theirs.setdefault(number, numbers[one]) != numbers[one]:
                return False
        return len(set(theirs.values())) == len(theirs)

    def searched(self, model: GroupingModel) -> list[Address] | None:
        """An order that gives what was observed and fits group numbers and log; None if there is none."""
        numbers = self.facts.numbers
        missing = [one for one in self.joining if one not in numbers and not self._is_left_out(one)]
        if not self._can_leave_out_those():
            return None
        if missing and (self.world.abandons or not (self.world.stream_taken or self.world.stream_twice)):
            return None
        grouped = [one for one in self.joining if one in numbers]
        search = _OrderSearch(self.facts, self.finding, self._kernel(model), Streams(self.facts, self.world), grouped)
        order = search.find()
        refused = order is not None and all(search.streams.refuses(self.facts.function(one)) for one in missing)
        return order if refused else None


@dataclass(slots=True)
class _OrderSearch:
    """Looks for an order depth first. What the kernel does next depends on who has a group, not on how it came about.

    So each set of functions is looked at once. Group numbers grow with the first member of each group
    (``iommu_group_alloc()`` takes the lowest free number), and functions whose entry is in the log keep its order.
    """

    facts: Facts
    finding: Finding
    kernel: Replay
    streams: Streams
    functions: Sequence[Address]
    _spent: int = 0
    _is_over: bool = False
    _seen: set[frozenset[Address]] = field(default_factory=set)

    def find(self) -> list[Address] | None:
        """The order, list order where nothing speaks against it; None if there is none or the limit was hit."""
        logged: Mapping[Address, int] = self.facts.logged
        entries = sorted((one for one in self.functions if one in logged), key=logged.__getitem__)
        path: list[Address] = []
        waiting = [self._next(path, entries)]
        while waiting and len(path) < len(self.functions):
            one = next(waiting[-1], None)
            if self._is_over:
                return None
            if one is None:
                waiting.pop()
                if path:
                    self._undo(path.pop())
                continue
            self._do(one)
            path.append(one)
            waiting.append(self._next(path, entries))
        return path if len(path) == len(self.functions) else None

    def _do(self, address: Address) -> None:
        self.kernel.groups[address] = self.facts.numbers[address]
        self.streams.claim(self.facts.function(address))

    def _undo(self, address: Address) -> None:
        del self.kernel.groups[address]
        self.streams.release(self.facts.function(address))

    def _next(self, path: Sequence[Address], entries: Sequence[Address]) -> Iterator[Address]:
        done = frozenset(path)
        if done in self._seen:
            return
        self._seen.add(done)
        numbers, logged = self.facts.numbers, self.facts.logged
        begun = {numbers[one] for one in done}
        lowest = min((numbers[one] for one in self.functions if numbers[one] not in begun), default=None)
        entry = next((one for one in entries if one not in done), None)
        for one in self.functions:
            if self._is_over:
                return
            if one in done or (one in logged and one != entry):
                continue
            number = numbers[one]
            if (number in begun or number == lowest) and self._fits(one, None if number not in begun else number):
                yield one

    def _fits(self, address: Address, wanted: int | None) -> bool:
        budget = self.facts.budget
        if self._spent >= budget.each or not budget.spend(self.finding, 1):
            budget.spent_up[id(self.finding)] = self.finding
            self._is_over = True
            return False
        self._spent += 1
        function = self.facts.function(address)
        return self.kernel.found_by(function) == wanted and not self.streams.refuses(function)
