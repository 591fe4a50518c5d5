# SPDX-License-Identifier: GPL-2.0-or-later
"""What differs between two states of a machine, by members and never by group number, and what may explain it."""

from __future__ import annotations

import enum
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from iommud.address import Address
from iommud.model.groups import DisjointSets, Group, canonical
from iommud.verdict.circumstances import Circumstance, circumstances
from iommud.verdict.state import KnownFinding, State

__all__ = ["Change", "Difference", "GroupChange", "compare"]


class Change(enum.StrEnum):
    """What happened to groups that share members."""

    APPEARED = "appeared"
    """A group none of whose members had one."""
    GONE = "gone"
    """A group none of whose members has one any more."""
    GREW = "grew"
    """One group, with all its members and more that were in none."""
    SHRANK = "shrank"
    """One group, without members that now are in none."""
    REPLACED = "replaced"
    """One group that both won members from none and lost some to none."""
    SPLIT = "split"
    """The members of one group are in several."""
    JOINED = "joined"
    """The members of several groups are in one."""
    MOVED = "moved"
    """Functions went from one group to another."""


@dataclass(frozen=True, slots=True)
class GroupChange:
    """Groups before and after that hold each other's members, as few together as can be."""

    change: Change
    before: tuple[Group, ...]
    after: tuple[Group, ...]
    as_expected: bool | None
    """Whether the model expects every group that there is now; None: nothing is expected, or no group is left."""

    @property
    def members(self) -> Group:
        """All functions concerned."""
        return frozenset[Address]().union(*self.before, *self.after)


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """From one state to another. Only groups, functions and findings make states differ; the rest explains them."""

    before: State
    after: State
    groups: tuple[GroupChange, ...]
    """By lowest member."""
    appeared: tuple[Address, ...]
    """Functions that are new on the machine."""
    gone: tuple[Address, ...]
    """Functions that are on it no more."""
    lost: tuple[Address, ...]
    """Functions that are there still, without the group they had."""
    gained: tuple[Address, ...]
    """Functions that were there without a group, and have one."""
    findings_appeared: tuple[KnownFinding, ...]
    findings_cleared: tuple[KnownFinding, ...]
    circumstances: tuple[Circumstance, ...]
    """What else differs: what may explain the change first."""
    not_compared: tuple[str, ...]
    """What one of the states does not tell, in sentences."""

    @property
    def same(self) -> bool:
        """Whether functions, groups and findings are the same, whatever else differs."""
        changes = (self.groups, self.appeared, self.gone, self.findings_appeared, self.findings_cleared)
        return not any(changes)


def compare(before: State, after: State) -> Difference:
    """What differs from one state to another; that groups have other numbers is no difference.

    Functions are told apart by their addresses, so one that got another bus number has gone and another appeared.
    """
    groups = tuple(_group_changes(before, after))
    appeared = after.functions - before.functions if before.complete else frozenset[Address]()
    gone = before.functions - after.functions if after.complete else frozenset[Address]()
    old, new = ({(one.id, one.severity) for one in state.findings} for state in (before, after))
    touched = frozenset[Address]().union(*(one.members for one in groups))
    return Difference(
        before=before,
        after=after,
        groups=groups,
        appeared=tuple(sorted(appeared)),
        gone=tuple(sorted(gone)),
        lost=tuple(sorted(before.grouped - after.grouped - gone)),
        gained=tuple(sorted(after.grouped - before.grouped - appeared)),
        findings_appeared=tuple(one for one in after.findings if (one.id, one.severity) not in old),
        findings_cleared=tuple(one for one in before.findings if (one.id, one.severity) not in new),
        circumstances=circumstances(before, after, touched),
        not_compared=tuple(_not_compared(before, after)),
    )


def _group_changes(before: State, after: State) -> Iterator[GroupChange]:
    old, new = before.groups - after.groups, after.groups - before.groups
    concerned = _concerned([*old, *new])
    place = {address: number for number, members in enumerate(concerned) for address in members}
    found: list[tuple[list[Group], list[Group]]] = [([], []) for _ in concerned]
    for side, groups in enumerate((old, new)):
        for group in groups:
            found[place[min(group)]][side].append(group)
    for parts in found:
        was, now = canonical(parts[0]), canonical(parts[1])
        expected = None if after.expected is None or not now else after.expected.issuperset(now)
        yield GroupChange(_change(was, now), was, now, expected)


def _concerned(groups: list[Group]) -> tuple[Group, ...]:
    """The finest sets of functions such that no group lies in two."""
    sets = DisjointSets(frozenset[Address]().union(*groups))
    for group in groups:
        first = min(group)
        for one in group:
            sets.union(first, one)
    return sets.groups()


def _change(before: tuple[Group, ...], after: tuple[Group, ...]) -> Change:
    match len(before), len(after):
        case 0, _:
            return Change.APPEARED
        case _, 0:
            return Change.GONE
        case 1, 1:
            return _resized(before[0], after[0])
        case 1, _:
            return Change.SPLIT
        case _, 1:
            return Change.JOINED
        case _:
            return Change.MOVED


def _resized(before: Group, after: Group) -> Change:
    if before < after:
        return Change.GREW
    return Change.SHRANK if after < before else Change.REPLACED


def _not_compared(before: State, after: State) -> Iterator[str]:
    for state in _distinct((before, after)):
        if state.machine is None:
            yield (
                f"{state.source} is a JSON report, which holds no command line, drivers, ACS registers and firmware: "
                "what changed of these is not told"
            )
        if not state.complete:
            yield f"{state.source} does not name every function: which appeared or went is not told completely"


def _distinct(states: Iterable[State]) -> list[State]:
    return list({state.source: state for state in states}.values())
