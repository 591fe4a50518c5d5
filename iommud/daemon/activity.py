# SPDX-License-Identifier: GPL-2.0-or-later
"""What the daemon has done so far, as numbers: counted by its parts, read when metrics are written."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import accumulate

__all__ = ["BOUNDS", "TRIGGERS", "Activity", "Durations", "Tally"]

TRIGGERS = ("start", "uevent", "groups", "reconcile", "reload", "retry")
"""Reasons to look at the machine: the daemon's start, an event, a change seen by polling, time, SIGHUP, a failure."""

BOUNDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
"""Upper bounds in seconds of the durations told apart; a machine of 1,000 functions takes about 0.1."""


@dataclass(frozen=True, slots=True)
class Durations:
    """How long snapshots took."""

    counts: tuple[int, ...] = (0,) * (len(BOUNDS) + 1)
    """How many took up to each bound and more than the one before; the last: more than all."""
    sum: float = 0.0

    def with_one(self, seconds: float) -> Durations:
        """One more."""
        place = bisect_left(BOUNDS, seconds)
        counts = (*self.counts[:place], self.counts[place] + 1, *self.counts[place + 1 :])
        return Durations(counts, self.sum + seconds)

    @property
    def cumulative(self) -> tuple[int, ...]:
        """How many took up to each bound, and at last all of them."""
        return tuple(accumulate(self.counts))


@dataclass(slots=True)
class Tally:
    """Counters that the daemon's parts add to; each is written by one thread."""

    snapshots: Counter[str] = field(default_factory=Counter)
    """By trigger."""
    snapshot_errors: int = 0
    durations: Durations = Durations()
    state_write_errors: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Activity:
    """All numbers at one moment."""

    started_at: float
    """Unix seconds."""
    readable: bool
    """Whether the last attempt to read the machine was a success."""
    snapshots: Mapping[str, int]
    snapshot_errors: int = 0
    snapshots_retaken: int = 0
    durations: Durations = Durations()
    config_reads: int = 0
    uevents: Mapping[str, int] = field(default_factory=dict)
    monitor_overruns: int = 0
    monitor_restarts: int = 0
    sources: Mapping[str, bool] = field(default_factory=dict)
    """Whether each source that is switched on is up."""
    state_write_errors: int = 0
    accept_file_valid: bool | None = None
    """None without such a file."""
