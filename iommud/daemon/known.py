# SPDX-License-Identifier: GPL-2.0-or-later
"""What is remembered of a report, by members and never by group number; and what differs between two of them."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from iommud.address import Address
from iommud.model.groups import Group, canonical
from iommud.verdict.findings import Finding
from iommud.verdict.report import Report

__all__ = ["Change", "Known", "KnownFinding", "what_changed"]

_LISTED = 8
"""Addresses that one line names."""
_LINES = 16
"""Groups that get a line of their own."""

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

    @classmethod
    def of(cls, report: Report) -> Known:
        """What to remember of a report."""
        accepted = {one.finding.id: _known(one.finding, accepted=True) for one in report.accepted}
        return cls(
            kernel=report.kernel.text,
            groups=frozenset(report.actual.groups),
            ungrouped=frozenset(report.ungrouped),
            without=frozenset(address for address, _ in report.without),
            findings={**accepted, **{one.id: _known(one, accepted=False) for one in report.findings}},
        )

    @property
    def functions(self) -> frozenset[Address]:
        """All functions."""
        return self.ungrouped.union(self.without, *self.groups)


def _known(finding: Finding, *, accepted: bool) -> KnownFinding:
    devices = tuple(sorted(finding.devices))
    return KnownFinding(finding.kind.value, finding.severity.value, devices, canonical(finding.groups), accepted)


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
    return (
        *_findings(old.findings, new.findings),
        *_kernel(old.kernel, new.kernel),
        *_functions(old.functions, new.functions),
        *_groups(old, new),
    )


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
    devices = _listed(finding.devices)
    return {"finding": name, "kind": finding.kind, "severity": finding.severity, "devices": devices, **accepted}


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


def _kernel(old: str, new: str) -> Iterator[Change]:
    if old != new:
        yield Change(logging.INFO, "kernel changed", {"kernel": new or "unknown", "before": old or "unknown"})


def _functions(old: frozenset[Address], new: frozenset[Address]) -> Iterator[Change]:
    for message, found in (("functions appeared", new - old), ("functions gone", old - new)):
        if found:
            yield Change(logging.INFO, message, {"count": len(found), "devices": _listed(sorted(found))})


def _groups(old: Known, new: Known) -> Iterator[Change]:
    """Groups whose members differ, but for functions that are not in both reports."""
    both = old.functions & new.functions
    before = {address: group & both for group in old.groups for address in group & both}
    after = canonical(group & both for group in new.groups if group & both)
    changed = [group for group in after if any(before.get(one, frozenset()) != group for one in group)]
    for group in changed[:_LINES]:
        parts = canonical({before[one] for one in group if one in before})
        fields: dict[str, Value] = {"group": _listed(sorted(group)), "before": _partition(parts) or "none"}
        yield Change(logging.INFO, "group changed", fields)
    if len(changed) > _LINES:
        yield Change(logging.INFO, "more groups changed", {"count": len(changed) - _LINES})
    left = before.keys() - {member for group in after for member in group}
    if left:
        yield Change(logging.INFO, "functions lost their group", {"count": len(left), "devices": _listed(sorted(left))})


def _listed(addresses: Iterable[Address]) -> str:
    names = [str(one) for one in addresses]
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return " ".join(names[:_LISTED]) + more


def _partition(groups: Iterable[Group]) -> str:
    return " | ".join(_listed(sorted(group)) for group in groups)
