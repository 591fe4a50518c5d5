# SPDX-License-Identifier: GPL-2.0-or-later
"""The groups that somebody wants a machine to have, and where the kernel's are others.

What is wanted comes from a report of the same machine, or of the image that it was made from, or from a short list.
It is no model: a deviation says that the machine is not as wanted, not that the kernel is wrong.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from iommud.address import Address
from iommud.model.groups import Group, canonical
from iommud.verdict.findings import Finding, Kind, Reason, Severity, ordered
from iommud.verdict.reasons import Explainer
from iommud.verdict.report import Report
from iommud.verdict.state import State

__all__ = ["Expectation", "with_deviations"]

WITHOUT = "without"
"""The word that begins a line of functions that should have no group."""
_REASONS = 6
_LISTED = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Expectation:
    """Wanted groups. A function is in one of them at most, and then not in ``without``."""

    source: str
    """What named them."""
    groups: tuple[Group, ...]
    without: frozenset[Address] = frozenset()
    """Functions that should have no group."""
    whole: bool = False
    """Whether functions that are named nowhere should have no group either: a report speaks of a whole machine."""

    @classmethod
    def of_state(cls, state: State) -> Expectation:
        """The kernel's groups of a report, wanted again."""
        return cls(source=state.source, groups=canonical(state.groups), whole=True)

    @classmethod
    def of_list(cls, text: str, source: str) -> Expectation:
        """Groups written one on each line, as addresses apart by white space; ``#`` begins a comment.

        A line that begins with ``without`` names functions that should have no group. Raises ValueError for a list
        that names no function, as one that was cut off on its way, and with the line's number for what is no address
        and for a function that is named twice.
        """
        groups: list[Group] = []
        without: set[Address] = set()
        seen: set[Address] = set()
        for number, line in enumerate(text.splitlines(), 1):
            words = line.partition("#")[0].split()
            alone = bool(words) and words[0] == WITHOUT
            members = [_address(word, number) for word in (words[1:] if alone else words)]
            for one in members:
                if one in seen:
                    raise ValueError(f"line {number}: {one} is named twice")
                seen.add(one)
            if alone:
                without.update(members)
            elif members:
                groups.append(frozenset(members))
        if not seen:
            raise ValueError("names no function")
        return cls(source=source, groups=canonical(groups), without=frozenset(without))


def _address(word: str, number: int) -> Address:
    try:
        return Address.parse(word)
    except ValueError as error:
        raise ValueError(f"line {number}: {error}") from error


def with_deviations(report: Report, wanted: Expectation) -> Report:
    """The report with one more finding for each wanted group that the kernel did not make, and each it made besides."""
    return replace(report, findings=ordered([*report.findings, *_Comparison(report, wanted).deviations()]))


@dataclass(frozen=True, slots=True)
class _Comparison:
    report: Report
    wanted: Expectation

    def deviations(self) -> Iterator[Finding]:
        actual = set(self.report.actual.groups)
        for group in self.wanted.groups:
            if group not in actual:
                yield self._unlike(group)
        named = frozenset[Address]().union(*self.wanted.groups)
        for group in self.report.actual.groups:
            unwanted = group & self.wanted.without
            if unwanted or (self.wanted.whole and not group & named):
                yield self._unwanted(group, unwanted or group)

    def _unlike(self, wanted: Group) -> Finding:
        here = tuple(sorted(one for one in wanted if self._is_here(one)))
        groups = self.report.actual.of_members(here)
        alone = f"{min(wanted)} in a group of its own"
        wish = alone if len(wanted) == 1 else f"one group of {_listed(wanted)}"
        reasons = [Reason(f"{self.wanted.source} wants {wish}"), *self._differences(wanted, here, groups)]
        return self._finding(here, groups, (wanted,), reasons, wanted)

    def _differences(self, wanted: Group, here: tuple[Address, ...], groups: tuple[Group, ...]) -> Iterator[Reason]:
        gone = wanted.difference(here)
        if gone:
            yield Reason(f"not on this machine: {_listed(gone)}")
        ungrouped = [one for one in here if one not in self.report.actual.number_of]
        if ungrouped:
            yield Reason(f"without a group: {_listed(ungrouped)}")
        if len(groups) > 1:
            yield Reason(f"they are in {len(groups)} groups here")
            yield from self._apart(groups, wanted)
        extra = frozenset[Address]().union(*groups) - wanted
        if extra:
            yield Reason(f"the kernel has in their group besides: {_listed(extra)}")
            yield from self._together(here, extra)

    def _apart(self, groups: tuple[Group, ...], wanted: Group) -> Iterator[Reason]:
        """Whether anything demands that the first two groups be one."""
        explainer = self._explainer()
        one, other = (min(group & wanted) for group in groups[:2])
        if explainer is not None and explainer.chain(one, {other}) is None:
            yield Reason(f"no rule of the kernel's puts {one} and {other} into one group", "pci_device_group()")

    def _together(self, here: tuple[Address, ...], extra: Group) -> Iterator[Reason]:
        """The ties by which the nearest of the others comes in."""
        explainer = self._explainer()
        if explainer is not None:
            chain = explainer.chain(here[0], extra) or ()
            yield from map(explainer.reason, chain[:_REASONS])

    def _unwanted(self, group: Group, members: Group) -> Finding:
        devices = tuple(sorted(members))
        reasons = [Reason(f"{self.wanted.source} wants no group for {_listed(members)}")]
        return self._finding(devices, (group,), (), reasons, members)

    def _finding(
        self,
        devices: tuple[Address, ...],
        groups: tuple[Group, ...],
        expected: tuple[Group, ...],
        reasons: list[Reason],
        about: Group,
    ) -> Finding:
        return Finding(
            kind=Kind.UNEXPECTED,
            severity=Severity.WARNING,
            devices=devices,
            groups=groups,
            expected=expected,
            reasons=tuple(reasons),
            subject=" ".join(str(one) for one in sorted(about)),
        )

    def _is_here(self, address: Address) -> bool:
        analysis = self.report.analysis
        return analysis is None or address in analysis.explainer.model.topology.functions

    def _explainer(self) -> Explainer | None:
        return None if self.report.analysis is None or not self.report.judged else self.report.analysis.explainer


def _listed(addresses: Iterable[Address]) -> str:
    found = [str(one) for one in sorted(addresses)]
    more = f" and {len(found) - _LISTED} more" if len(found) > _LISTED else ""
    return " ".join(found[:_LISTED]) + more
