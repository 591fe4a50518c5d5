# SPDX-License-Identifier: GPL-2.0-or-later
"""The smallest sets of changes that put two functions into different groups, or why none does."""

from __future__ import annotations

import enum
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import combinations, permutations

from iommud.address import Address
from iommud.kernel import requested
from iommud.model.groups import Tie
from iommud.verdict.findings import Kind
from iommud.verdict.reasons import Explainer
from iommud.verdict.report import Report
from iommud.whatif.apply import apply_all
from iommud.whatif.candidates import Candidate, Class, candidates, movable, seats
from iommud.whatif.changes import BootKernel, Change, ImpossibleChangeError, Move, OverrideAcs, Slot, SwitchAcs
from iommud.whatif.imagined import Imagined
from iommud.whatif.part import part_of
from iommud.whatif.prediction import Groups, groups_of, predict

LARGEST = 3
"""Changes that are tried together at most."""
LIMIT = 4_000
"""Sets of changes that one search may try."""
_WORK = 100_000
"""Functions that all these predictions may group together."""
_LEAST = 100
"""Sets of changes that are tried on the largest machine too."""


class Verdict(enum.StrEnum):
    """What the answer is."""

    APART = "apart"
    """They are in different groups, as the model expects."""
    MERGED = "merged"
    """The model keeps them apart; the kernel has them in one group all the same."""
    POSSIBLE = "possible"
    """Some set of changes separates and isolates them."""
    IMPOSSIBLE = "impossible"
    """No set of up to three changes that iommud knows does."""
    UNDECIDED = "undecided"
    """Facts are missing, or the search hit its limit without an answer."""
    NO_GROUP = "no-group"
    """One of them has no group, and none is due."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One set of changes that separates the two, checked by computing the groups of the whole machine anew."""

    changes: tuple[Change, ...]
    kind: Class
    hazard: str | None
    """Why requests can pass between them all the same; None: nothing known lets them."""

    @property
    def real(self) -> bool:
        """Whether it isolates them, and does not only group them apart."""
        return self.hazard is None


@dataclass(frozen=True, slots=True, kw_only=True)
class Separation:
    """What it takes to get two functions apart."""

    one: Address
    other: Address
    verdict: Verdict
    because: tuple[str, ...]
    """What joins them, or why there is nothing to do, as sentences."""
    answers: tuple[Answer, ...] = ()
    """Of each class the smallest, software before hardware; what only pretends comes last."""
    tried: int = 0
    """Sets of changes that were computed."""
    complete: bool = True
    """False: the search ended at its limit."""
    notes: tuple[str, ...] = ()


def separate(report: Report, one: Address, other: Address, *, limit: int = LIMIT) -> Separation:
    """What would put two functions of a report into different groups.

    Raises ImpossibleChangeError if the machine was not judged, KeyError if it has no such functions.
    """
    machine = Imagined.of(report)
    groups = groups_of(machine)
    for address in (one, other):
        if not any(address in group for group in groups.finest):
            return _plain(one, other, Verdict.NO_GROUP, _without(report, address))
    together = groups.together(one, other)
    if together is None:
        return _plain(one, other, Verdict.UNDECIDED, *_missing(report))
    if not together:
        return _apart(report, one, other)
    return _searched(report, machine, groups, one, other, limit)


def _plain(one: Address, other: Address, verdict: Verdict, *because: str) -> Separation:
    return Separation(one=one, other=other, verdict=verdict, because=because)


def _without(report: Report, address: Address) -> str:
    excuse = dict(report.without).get(address)
    why = f": {excuse.reason}" if excuse is not None else ""
    return f"{address} has no group{why}"


def _missing(report: Report) -> Iterator[str]:
    for finding in report.findings:
        if finding.kind is Kind.UNDECIDABLE:
            yield from (reason.text for reason in finding.reasons)


def _apart(report: Report, one: Address, other: Address) -> Separation:
    numbers = report.actual.number_of
    if numbers.get(one) is not None and numbers.get(one) == numbers.get(other):
        causes = (
            f"{cause.summary}; {cause.remedy}"
            for finding in report.findings
            if finding.kind is Kind.MERGED and one in finding.devices and other in finding.devices
            for cause in report.causes.get(finding.id, ())
        )
        text = "hardware and settings keep them apart, yet the kernel has them in one group"
        return _plain(one, other, Verdict.MERGED, text, *dict.fromkeys(causes))
    hazard = between(report, one, other)
    return _plain(one, other, Verdict.APART, *([] if hazard is None else [hazard]))


def between(report: Report, one: Address, other: Address) -> str | None:
    """Why requests can pass between two functions that are in different groups; None if nothing known lets them."""
    if report.analysis is not None:
        model = report.analysis.explainer.model
        shared = model.aliases.share(model.topology.functions[one], model.topology.functions[other])
        if shared is not None:
            return f"they share requester ID {shared}: each can use the other's mappings"
    for finding in report.findings:
        if finding.kind is Kind.UNISOLATED:
            homes = {group for group in finding.expected if one in group or other in group}
            if len(homes) > 1:
                return "; ".join(reason.text for reason in finding.reasons)
    return None


def _searched(
    report: Report, machine: Imagined, groups: Groups, one: Address, other: Address, limit: int
) -> Separation:
    chain = _chain(report, one, other)
    members = {end for tie, _ in chain for end in (tie.one, tie.other)}
    part = part_of(machine, one, other, groups)
    bound = min(limit, max(_LEAST, _WORK // len(part.machine.snapshot.functions)))
    tried = (*candidates(part, one, other, members), *seats(machine, one, other))
    search = _Search(machine, part.machine, one, other, bound, tried)
    search.complete = part.complete or not movable(machine.topology(), one, other)
    answers = tuple(search.answers())
    real = any(answer.real for answer in answers)
    verdict = Verdict.POSSIBLE if real else Verdict.IMPOSSIBLE if search.complete else Verdict.UNDECIDED
    return Separation(
        one=one,
        other=other,
        verdict=verdict,
        because=tuple(text for _, text in chain),
        answers=answers,
        tried=search.tried,
        complete=search.complete,
        notes=tuple(_wrongly_apart(report, one, other)),
    )


def _chain(report: Report, one: Address, other: Address) -> list[tuple[Tie, str]]:
    if report.analysis is None:  # pragma: no cover - a machine without an analysis cannot be imagined
        return []
    model = report.analysis.explainer.model
    explainer = Explainer(model, tuple(model.ties()))
    return [(tie, explainer.reason(tie).text) for tie in explainer.chain(one, (other,)) or ()]


def _wrongly_apart(report: Report, one: Address, other: Address) -> Iterator[str]:
    numbers = report.actual.number_of
    if one in numbers and other in numbers and numbers[one] != numbers[other]:
        found = [finding.id for finding in report.findings if {one, other} <= set(finding.devices)]
        named = f" (finding {found[0]})" if found else ""
        yield f"the kernel has them in different groups now, although nothing isolates them{named}"


@dataclass
class _Search:
    """Tries sets of changes, the smallest first, of each class by itself."""

    whole: Imagined
    machine: Imagined
    """The part of it that is looked at."""
    one: Address
    other: Address
    limit: int
    candidates: Sequence[Candidate]
    tried: int = 0
    complete: bool = True
    _found: list[frozenset[Change]] = field(default_factory=list)

    def answers(self) -> Iterator[Answer]:
        """The smallest real answers of each class; only where there is none, those that separate without isolating."""
        pretended: list[Answer] = []
        for kind in Class:
            if kind.is_last_resort and self._found:
                return
            real, only = self._of_class(kind)
            yield from real
            pretended += only
        if not self._found:
            yield from pretended

    def _of_class(self, kind: Class) -> tuple[list[Answer], list[Answer]]:
        """Real answers of the smallest size that has any; and those of the smallest size that are not."""
        pretended: list[Answer] = []
        for size in range(1, LARGEST + 1):
            if pretended and kind is Class.PRETENCE:
                break
            found = [answer for chosen in self._sets(kind, size) if (answer := self._tried(chosen, kind)) is not None]
            real = [answer for answer in found if answer.real]
            pretended = pretended or found
            if real:
                return [*_least(real), *self._alike(real)], []
        return [], _least(pretended)

    def _alike(self, answers: Sequence[Answer]) -> Iterator[Answer]:
        """The same with ports that were not tried because they are like one that was."""
        tried = {frozenset(answer.changes) for answer in answers}
        alike = {one.change: one.alike for one in self.candidates}
        for answer in answers:
            moves = [change for change in answer.changes if isinstance(change, Move)]
            for port in alike[moves[0]] if len(moves) == 1 else ():
                elsewhere = Move(moves[0].address, Slot(below=port))
                changes = tuple(elsewhere if one is moves[0] else one for one in answer.changes)
                if frozenset(changes) not in tried:
                    tried.add(frozenset(changes))
                    found = self._checked(changes, answer.kind)
                    if found is not None and found.real:
                        yield found

    def _sets(self, kind: Class, size: int) -> Iterator[tuple[Candidate, ...]]:
        """Sets of this size of the changes of one class and of software, at least one of that class."""
        usable = [one for one in self.candidates if one.kind in (Class.SOFTWARE, kind)]
        for chosen in combinations(usable, size):
            changes = frozenset(one.change for one in chosen)
            known = any(answer <= changes for answer in self._found)
            if not known and any(one.kind is kind for one in chosen) and self._is_sensible(chosen):
                yield chosen

    def _is_sensible(self, chosen: Sequence[Candidate]) -> bool:
        """One kernel, one override, no device moved twice, and every parameter known to the kernel."""
        kernels = [one.change for one in chosen if isinstance(one.change, BootKernel)]
        overrides = [one for one in chosen if isinstance(one.change, OverrideAcs)]
        moves = [one.change.address for one in chosen if isinstance(one.change, Move)]
        version = kernels[0].kernel.version if kernels else self.machine.kernel.version
        if len(kernels) > 1 or len(overrides) > 1 or len(set(moves)) < len(moves):
            return False
        return all(one.since <= version for one in chosen)

    def _tried(self, chosen: Sequence[Candidate], kind: Class) -> Answer | None:
        if self.tried >= self.limit:
            self.complete = False
            return None
        self.tried += 1
        for changes in _orders(chosen):
            imagined = _attempt(self.machine, changes)
            if imagined is None:
                continue
            return self._checked(changes, kind) if self._separates(imagined) else None
        return None

    def _separates(self, imagined: Imagined) -> bool:
        """Whether both have a group, and certainly not the same one."""
        ends = [_now(imagined, address) for address in (self.one, self.other)]
        groups = groups_of(imagined)
        grouped = all(any(end in group for group in groups.finest) for end in ends)
        return grouped and groups.together(*ends) is False

    def _checked(self, changes: tuple[Change, ...], kind: Class) -> Answer | None:
        """The answer, if it is one on the whole machine."""
        imagined = _attempt(self.whole, changes)
        if imagined is None or not self._separates(imagined):
            return None
        hazard = between(predict(imagined).report, *(_now(imagined, address) for address in (self.one, self.other)))
        if any(isinstance(change, OverrideAcs) for change in changes) and hazard is None:
            hazard = "pcie_acs_override isolates nothing"
        if hazard is None:
            self._found.append(frozenset(changes))
        return Answer(changes=changes, kind=kind, hazard=hazard)


def _orders(chosen: Sequence[Candidate]) -> Iterator[tuple[Change, ...]]:
    """The changes in the order in which they are made; which of several devices moves first is tried out."""
    changes = [one.change for one in chosen]
    soft = sorted((one for one in changes if not isinstance(one, Move)), key=lambda one: _ORDER.index(type(one)))
    for moves in permutations(one for one in changes if isinstance(one, Move)):
        yield (*soft, *moves)


_ORDER: tuple[type, ...] = (BootKernel, OverrideAcs, SwitchAcs)


def _attempt(machine: Imagined, changes: Sequence[Change]) -> Imagined | None:
    try:
        return apply_all(machine, changes)
    except ImpossibleChangeError:
        return None


def _now(imagined: Imagined, address: Address) -> Address:
    """Where a function is after it may have moved."""
    return next((new for new, old in imagined.origins.items() if old == address), address)


def _least(answers: list[Answer]) -> list[Answer]:
    """Of answers that differ in nothing but the kernel the one with the oldest, and without tokens to spare."""
    found: dict[frozenset[Change], Answer] = {}
    answers = [one for one in answers if not any(_grants_less(other, one) for other in answers)]
    for answer in answers:
        rest = frozenset(one for one in answer.changes if not isinstance(one, BootKernel))
        if any(isinstance(one, BootKernel) for one in answer.changes):
            found.setdefault(frozenset((*rest, _ANY_KERNEL)), answer)
        else:
            found[rest] = answer
    return list(found.values())


def _grants_less(one: Answer, other: Answer) -> bool:
    mine, its = ([change for change in answer.changes if isinstance(change, OverrideAcs)] for answer in (one, other))
    rest = set(one.changes) ^ set(other.changes)
    return bool(mine and its) and rest == {*mine, *its} and mine[0].tokens < its[0].tokens


_ANY_KERNEL = BootKernel(requested("7.3"))
"""Stands for whichever kernel an answer has."""
