# SPDX-License-Identifier: GPL-2.0-or-later
"""What changes would do: groups before and after, and what could newly be given to a virtual machine or no more."""

from __future__ import annotations

import enum
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from iommud.address import Address
from iommud.model.groups import Group
from iommud.verdict.difference import Difference, GroupChange, compare
from iommud.verdict.report import Report
from iommud.verdict.state import State
from iommud.verdict.vfio import Assignment, assignments
from iommud.whatif.apply import apply_all
from iommud.whatif.changes import Change, ImpossibleChangeError
from iommud.whatif.imagined import Imagined
from iommud.whatif.prediction import Prediction, predict

_GROUP_NUMBER = re.compile(r" \(group \d+\)")
"""What a danger says of groups that the kernel has numbered; these here have no numbers."""


class Freedom(enum.StrEnum):
    """How freely a function could be assigned, whoever holds its group now."""

    NONE = "none"
    """It has no group."""
    REFUSED = "refused"
    """The kernel hands its group to nobody, because firmware keeps memory mapped for a member."""
    UNSAFE = "unsafe"
    """Something outside its group shares its mappings, or requests can pass."""
    TOGETHER = "together"
    """Safely, but only with other functions of its group."""
    ALONE = "alone"
    """Safely, and without any other function."""
    UNKNOWN = "unknown"
    """Facts are missing that decide."""


_RANKS = {Freedom.NONE: 0, Freedom.REFUSED: 0, Freedom.UNSAFE: 0, Freedom.TOGETHER: 1, Freedom.ALONE: 2}


@dataclass(frozen=True, slots=True)
class Standing:
    """The freedom of one function, and who would come along; bridges are left out, as they go nowhere."""

    freedom: Freedom
    companions: tuple[str, ...] = ()
    why: str | None = None
    """What makes it unsafe, or why nobody gets it."""


@dataclass(frozen=True, slots=True)
class Shift:
    """A function whose freedom changes."""

    address: Address
    """Where it would be."""
    origin: Address
    """Where it is."""
    before: Standing
    after: Standing

    @property
    def allows(self) -> bool | None:
        """True: more would be possible, False: less; None: facts are missing, or neither."""
        ranks = [_RANKS.get(one.freedom) for one in (self.before, self.after)]
        if ranks[0] is None or ranks[1] is None or ranks[0] == ranks[1]:
            return None
        return ranks[0] < ranks[1]


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What some changes would do together."""

    changes: tuple[Change, ...]
    prediction: Prediction
    difference: Difference
    """From what the model expects of the machine as it is, by the addresses of before and after."""
    shifts: tuple[Shift, ...]
    """Functions that are there before and after, and whose freedom changes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WhatIf:
    """The answer to what changes would do: computed, never observed."""

    report: Report
    """On the machine as it is."""
    before: Prediction
    """What the model expects of the machine as it is."""
    deviations: tuple[GroupChange, ...]
    """From the groups of the kernel to those that the model expects; empty where they are the same."""
    together: Step
    alone: tuple[Step, ...]
    """Each change without the others; empty if there is only one."""

    @property
    def decided(self) -> bool:
        """Whether no missing fact can change the predicted groups."""
        return self.before.coarsest is None and self.together.prediction.coarsest is None


def what_if(report: Report, changes: Sequence[Change]) -> WhatIf:
    """What changes to the machine of a report would do, all together and each alone.

    A change that needs another one first, as a move into a slot that one makes free, has no answer alone.
    Raises ImpossibleChangeError if the machine was not judged or cannot undergo the changes together.
    """
    machine = Imagined.of(report)
    before = predict(machine)
    together = _step(before, changes)
    alone = (step for change in changes if (step := _alone(before, change)) is not None)
    return WhatIf(
        report=report,
        before=before,
        deviations=compare(State.of(report), State.of(before.report)).groups,
        together=together,
        alone=tuple(alone) if len(changes) > 1 else (),
    )


def _alone(before: Prediction, change: Change) -> Step | None:
    try:
        return _step(before, (change,))
    except ImpossibleChangeError:
        return None


def _step(before: Prediction, changes: Sequence[Change]) -> Step:
    after = predict(apply_all(before.machine, changes))
    return Step(
        changes=tuple(changes),
        prediction=after,
        difference=compare(State.of(before.report), State.of(after.report)),
        shifts=tuple(_shifts(before, after)),
    )


def _shifts(before: Prediction, after: Prediction) -> Iterator[Shift]:
    """Functions on the machine before and after whose freedom is another."""
    old, new = standings(before), standings(after)
    for address, standing in sorted(new.items()):
        origin = after.machine.origins.get(address, address)
        was = old.get(origin)
        if was is not None and was.freedom is not standing.freedom:
            yield Shift(address, origin, was, standing)


def standings(prediction: Prediction) -> Mapping[Address, Standing]:
    """The freedom of every function that somebody could want to assign."""
    found = {
        one.address: Standing(Freedom.NONE)
        for one in prediction.machine.snapshot.functions
        if not one.is_bridge and one.present
    }
    coarsest = {address: group for group in prediction.coarsest or () for address in group}
    for assignment in assignments(prediction.report):
        found.update(_of_group(assignment, coarsest))
    return found


def _of_group(assignment: Assignment, coarsest: Mapping[Address, Group]) -> Iterable[tuple[Address, Standing]]:
    group = frozenset(one.address for one in assignment.members)
    wanted = [one for one in assignment.members if not one.inert]
    open_ = any(not coarsest.get(one, group) <= group for one in group)
    for member in wanted:
        companions = tuple(str(one.address) for one in wanted if one is not member) + assignment.others
        if assignment.refusal is not None:
            yield member.address, Standing(Freedom.REFUSED, companions, assignment.refusal)
        elif assignment.dangers:
            why = _GROUP_NUMBER.sub("", assignment.dangers[0].text)
            yield member.address, Standing(Freedom.UNSAFE, companions, why)
        elif open_:
            yield member.address, Standing(Freedom.UNKNOWN, companions)
        else:
            yield member.address, Standing(Freedom.TOGETHER if companions else Freedom.ALONE, companions)
