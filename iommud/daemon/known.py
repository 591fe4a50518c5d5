# SPDX-License-Identifier: GPL-2.0-or-later
"""What is remembered of a report, by members and never by group number; and what differs between two of them."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from iommud.address import Address
from iommud.model.groups import Group, canonical
from iommud.verdict.circumstances import Circumstance, Subject
from iommud.verdict.difference import Change as GroupsDid
from iommud.verdict.difference import Difference, GroupChange, compare
from iommud.verdict.findings import Finding
from iommud.verdict.report import Report
from iommud.verdict.state import Machine, State, parameters_of

if TYPE_CHECKING:
    from iommud.causes.cause import Cause

__all__ = ["Change", "Known", "KnownFinding", "what_changed"]

_LISTED = 8
"""Addresses of a group, and groups, that one line names."""
_LINES = 16
"""Groups, and other facts, that get a line of their own."""

Value = str | int


@dataclass(frozen=True, slots=True)
class KnownFinding:
    """What is remembered of a finding."""

    kind: str
    severity: str
    devices: tuple[Address, ...]
    groups: tuple[Group, ...]
    """The kernel's groups involved."""
    accepted: bool
    cause: Cause | None = field(default=None, compare=False)
    """The first one, told with the finding and not remembered: of another cause alone nobody is told."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """What is remembered of a machine."""

    kernel: str
    """Release; empty if unknown."""
    groups: frozenset[Group]
    ungrouped: frozenset[Address]
    """Functions without a group that should have one."""
    without: frozenset[Address]
    """Functions that rightly have none."""
    findings: Mapping[str, KnownFinding]
    """By id."""
    parameters: frozenset[str] | None = None
    """Words of the kernel command line, with values that are nobody's business blanked; None: unknown."""
    iommus: frozenset[tuple[str, str]] | None = None
    """Name and driver of each; None: unknown."""

    @classmethod
    def of(cls, report: Report) -> Known:
        """What to remember of a report."""
        accepted = {one.finding.id: _known(report, one.finding, accepted=True) for one in report.accepted}
        return cls(
            kernel=report.kernel.text,
            groups=frozenset(report.actual.groups),
            ungrouped=frozenset(report.ungrouped),
            without=frozenset(address for address, _ in report.without),
            findings={**accepted, **{one.id: _known(report, one, accepted=False) for one in report.findings}},
            parameters=None if report.analysis is None else parameters_of(report.analysis.snapshot),
            iommus=frozenset(report.iommus),
        )

    @property
    def state(self) -> State:
        """As ``compare`` takes it, without findings: those it does not know as well."""
        return State(
            source="",
            kernel=self.kernel or None,
            status="",
            groups=self.groups,
            expected=None,
            ungrouped=self.ungrouped,
            without=dict.fromkeys(self.without, "rightly without a group"),
            iommus=self.iommus or frozenset(),
            machine=Machine({}, self.parameters, {}),
        )


def _known(report: Report, finding: Finding, *, accepted: bool) -> KnownFinding:
    devices = tuple(sorted(finding.devices))
    cause = next(iter(report.causes.get(finding.id, ())), None)
    groups = canonical(finding.groups)
    return KnownFinding(finding.kind.value, finding.severity.value, devices, groups, accepted, cause)


@dataclass(frozen=True, slots=True)
class Change:
    """One thing that differs: what to log."""

    level: int
    """Of the logging module."""
    message: str
    fields: Mapping[str, Value] = field(default_factory=dict)


def what_changed(old: Known, new: Known) -> tuple[Change, ...]:
    """What differs from one report to a later one, findings first; nothing if nothing does.

    That a group has another number than before is no difference.
    """
    told = _findings(old.findings, new.findings)
    if replace(old, findings={}) == replace(new, findings={}):
        return tuple(told)
    # What an older version did not write down is no difference.
    before = old if old.iommus is not None else replace(old, iommus=new.iommus)
    found = compare(before.state, new.state)
    return (*told, *_circumstances(found.circumstances), *_functions(found), *_groups(found))


_LEVELS = {"critical": logging.ERROR, "warning": logging.WARNING}


def _findings(old: Mapping[str, KnownFinding], new: Mapping[str, KnownFinding]) -> Iterator[Change]:
    for name, finding in new.items():
        level = logging.INFO if finding.accepted else _LEVELS.get(finding.severity, logging.INFO)
        before = old.get(name)
        if before is None:
            yield Change(level, "finding appeared", _about(name, finding))
        elif before != finding:
            yield Change(level, "finding changed", {**_about(name, finding), **_differences(before, finding)})
    for name, finding in old.items():
        if name not in new:
            yield Change(logging.INFO, "finding cleared", _about(name, finding))


def _about(name: str, finding: KnownFinding) -> dict[str, Value]:
    accepted: dict[str, Value] = {"accepted": "yes"} if finding.accepted else {}
    cause: dict[str, Value] = {}
    if finding.cause is not None:
        cause = {"cause": finding.cause.id.value, "because": finding.cause.summary}
    devices = _listed(finding.devices)
    return {
        "finding": name,
        "kind": finding.kind,
        "severity": finding.severity,
        "devices": devices,
        **accepted,
        **cause,
    }


def _differences(old: KnownFinding, new: KnownFinding) -> dict[str, Value]:
    found: dict[str, Value] = {}
    if old.severity != new.severity:
        found["was"] = old.severity
    if old.accepted != new.accepted:
        found["accepted"] = "yes" if new.accepted else "no longer"
    if old.groups != new.groups:
        found["groups"] = _partition(new.groups)
        found["groups_before"] = _partition(old.groups)
    return found


def _circumstances(found: Sequence[Circumstance]) -> Iterator[Change]:
    """What is different about the machine as a whole, and which functions should have a group now or not any more."""
    for one in found[:_LINES]:
        fields: dict[str, Value] = {one.subject.value: one.after or "none", "before": one.before or "none"}
        if one.subject is Subject.SCOPE:
            fields = {"devices": _listed(one.devices), "scope": one.after or "should have a group"}
        yield Change(logging.INFO, f"{one.subject.value.replace('-', ' ')} changed", fields)
    if len(found) > _LINES:
        yield Change(logging.INFO, "more facts changed", {"count": len(found) - _LINES})


def _functions(found: Difference) -> Iterator[Change]:
    told = (
        ("functions appeared", found.appeared),
        ("functions gone", found.gone),
        ("functions lost their group", found.lost),
    )
    for message, functions in told:
        if functions:
            yield Change(logging.INFO, message, {"count": len(functions), "devices": _listed(functions)})


def _groups(found: Difference) -> Iterator[Change]:
    """Changed groups, but for those that only came or went with their functions: these are told of already."""
    elsewhere = {*found.appeared, *found.gone, *found.lost}
    changed = [one for one in found.groups if not (_came_or_went(one) and one.members <= elsewhere)]
    for one in changed[:_LINES]:
        fields: dict[str, Value] = {
            "change": one.change.value,
            "groups": _partition(one.after) or "none",
            "before": _partition(one.before) or "none",
        }
        yield Change(logging.INFO, "groups changed", fields)
    if len(changed) > _LINES:
        yield Change(logging.INFO, "more groups changed", {"count": len(changed) - _LINES})


def _came_or_went(change: GroupChange) -> bool:
    return change.change in {GroupsDid.APPEARED, GroupsDid.GONE}


def _listed(addresses: Iterable[Address]) -> str:
    names = [str(one) for one in addresses]
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return " ".join(names[:_LISTED]) + more


def _partition(groups: Sequence[Group]) -> str:
    more = f" | and {len(groups) - _LISTED} more" if len(groups) > _LISTED else ""
    return " | ".join(_listed(sorted(group)) for group in groups[:_LISTED]) + more
