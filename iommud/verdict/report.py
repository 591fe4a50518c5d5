# SPDX-License-Identifier: GPL-2.0-or-later
"""The answer about one machine: status, groups, findings. Every renderer takes it, none adds a judgement."""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from iommud.address import Address
from iommud.kernel import Kernel
from iommud.model.groups import Group
from iommud.snapshot import Snapshot
from iommud.verdict.actual import ActualGroups
from iommud.verdict.findings import Finding, Kind, Severity
from iommud.verdict.reasons import Explainer
from iommud.verdict.scope import Excuse
from iommud.verdict.survey import Platform

if TYPE_CHECKING:
    from datetime import date

    from iommud.causes.cause import Cause


class Status(enum.StrEnum):
    """The verdict in one word."""

    OK = "ok"
    FINDINGS = "findings"
    UNDECIDABLE = "undecidable"
    NO_IOMMU = "no-iommu"
    ERROR = "error"


class FailOn(enum.StrEnum):
    """The mildest severity that makes a report fail."""

    CRITICAL = "critical"
    WARNING = "warning"
    INFO = "info"
    NEVER = "never"

    def includes(self, severity: Severity) -> bool:
        """Whether a finding of this severity fails."""
        return self is not FailOn.NEVER and severity.rank <= Severity(self.value).rank


@dataclass(frozen=True, slots=True, kw_only=True)
class Analysis:
    """What was computed of one snapshot, for whoever wants more than the findings."""

    snapshot: Snapshot
    platform: Platform
    explainer: Explainer
    """The ties of the expected groups; of the finest ones where bytes are missing."""


@dataclass(frozen=True, slots=True)
class Acceptance:
    """A finding that somebody has looked at and accepted."""

    finding: Finding
    reason: str
    """In that person's words."""
    until: date
    """The last day on which it is accepted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """The verdict on one machine."""

    source: str
    kernel: Kernel
    usage_reason: str
    in_use: bool
    """Whether an IOMMU is in use or wanted."""
    judged: bool
    """False: the groups could not be judged at all."""
    actual: ActualGroups
    expected: tuple[Group, ...] | None
    """The expected partition of the functions that have a group or should; None: not decidable or not judged."""
    finest: tuple[Group, ...] | None = None
    coarsest: tuple[Group, ...] | None = None
    """Bounds of the expected partition, where bytes are missing."""
    ungrouped: tuple[Address, ...] = ()
    """Functions without a group that should have one."""
    without: tuple[tuple[Address, Excuse], ...] = ()
    """Functions that rightly have no group, and why."""
    findings: tuple[Finding, ...] = ()
    causes: Mapping[str, tuple[Cause, ...]] = field(default_factory=dict)
    """By the id of a finding its causes, the one that assumes least first; a finding without any is unexplained."""
    accepted: tuple[Acceptance, ...] = ()
    """Findings that do not count, and are shown as what they are; none of them is in ``findings``."""
    notes: tuple[str, ...] = ()
    """What a reader should know of how the verdict was reached."""
    config_reads: int = 0
    config_complete: bool = True
    """Whether every byte of config space that was wanted was read."""
    functions: int = 0
    iommus: tuple[tuple[str, str], ...] = ()
    """Name and driver of each IOMMU."""
    analysis: Analysis | None = None

    @property
    def undecided(self) -> bool:
        """Whether something could not be decided."""
        return any(finding.kind is Kind.UNDECIDABLE for finding in self.findings)

    def failing(self, fail_on: FailOn = FailOn.WARNING) -> tuple[Finding, ...]:
        """Findings at or above a severity; an undecidable one never fails, it has a status of its own."""
        return tuple(
            one for one in self.findings if one.kind is not Kind.UNDECIDABLE and fail_on.includes(one.severity)
        )

    @property
    def status(self) -> Status:
        """The verdict in one word, findings of warning and above before what is undecidable."""
        if self.failing():
            return Status.FINDINGS
        if self.undecided:
            return Status.UNDECIDABLE
        return Status.OK if self.in_use else Status.NO_IOMMU

    def exit_status(self, fail_on: FailOn = FailOn.WARNING, *, require_iommu: bool = False) -> int:
        """0 nothing wrong, 1 findings, 3 could not judge; never 4, which is for sources that cannot be read."""
        if self.failing(fail_on) or (require_iommu and self.status is Status.NO_IOMMU):
            return 1
        return 3 if self.undecided else 0

    def filtered(self, only: Iterable[Kind] = (), ignored: Iterable[tuple[Kind, Address | None]] = ()) -> Report:
        """The report with some findings left out: status and exit status follow."""
        wanted = frozenset(only)
        dropped = frozenset(ignored)
        kept = [one for one in self.findings if not wanted or one.kind in wanted]
        return replace(self, findings=tuple(one for one in kept if not _is_ignored(one, dropped)))


def _is_ignored(finding: Finding, dropped: frozenset[tuple[Kind, Address | None]]) -> bool:
    return (finding.kind, None) in dropped or any((finding.kind, one) in dropped for one in finding.devices)


@dataclass(frozen=True, slots=True)
class Failure:
    """A source that could not be read, in the place of its report."""

    source: str
    error: str

    @property
    def status(self) -> Status:
        """Always ``error``."""
        return Status.ERROR


Result = Report | Failure

EXIT_UNREADABLE = 4
_PRECEDENCE = (EXIT_UNREADABLE, 1, 3, 0)


def overall_exit_status(statuses: Iterable[int]) -> int:
    """The exit status for several sources: unreadable before findings before undecidable before nothing wrong."""
    found = set(statuses)
    return next((status for status in _PRECEDENCE if status in found), 0)
