# SPDX-License-Identifier: GPL-2.0-or-later
"""From a reason to look to a new publication: read, judge, accept, say what changed, render, publish, save.

All of it runs in the worker's thread. Nothing here ends the daemon: what goes wrong is logged, counted, and tried
again; what was known stays known.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime
from pathlib import Path

from iommud.address import Address
from iommud.daemon.accept import AcceptRule, accept
from iommud.daemon.activity import Activity, Tally
from iommud.daemon.exposition import expositions
from iommud.daemon.garbage import GarbageKeeper
from iommud.daemon.incremental import IncrementalReader
from iommud.daemon.known import Known, what_changed
from iommud.daemon.log import log_event
from iommud.daemon.metrics import ActivityCollector
from iommud.daemon.publication import Board, Publication, PublicationError, load, save
from iommud.daemon.rendering import Renderer, with_activity
from iommud.daemon.state import StateError, load_state, save_state
from iommud.errors import SourceError
from iommud.kernel import Kernel
from iommud.render.words import summary
from iommud.snapshot import Snapshot
from iommud.verdict.pipeline import check
from iommud.verdict.report import Failure, Report

__all__ = ["Look", "Rebuilder", "since_boot"]


_RUNTIME_MODE, _STATE_MODE = 0o755, 0o700
"""Of directories that are made: reports are for others to read, what is remembered is not."""

_CLOCK_WAS_SET = 1.0
"""Seconds that the two clocks do not drift apart by themselves."""


def since_boot() -> float:
    """Seconds of a clock that nobody sets and that goes on while the machine is suspended."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """What to look at, and why."""

    reasons: frozenset[str]
    """Some of TRIGGERS."""
    touched: frozenset[Address] = frozenset()
    full: bool = True
    rules: tuple[AcceptRule, ...] = ()
    notes: tuple[str, ...] = ()
    """What a reader of the report should know of the daemon's state."""


class Rebuilder:
    """Keeps a board up to date; all methods are to be called in one thread, attributes may be read in any."""

    def __init__(
        self,
        reader: IncrementalReader,
        renderer: Renderer,
        board: Board,
        *,
        tally: Tally,
        activity: Callable[[], Activity],
        kernel: Kernel | None = None,
        runtime: Path | None = None,
        state: Path | None = None,
    ) -> None:
        self.status: str | None = None
        """One line about the last report; None before the first."""
        self.readable = True
        """Whether the last attempt was a success."""
        self._reader = reader
        self._renderer = renderer
        self._board = board
        self._tally = tally
        self._collector = ActivityCollector(activity)
        self._garbage = GarbageKeeper()
        self._kernel = kernel
        self._runtime = runtime
        self._state = state
        self._judged: tuple[Snapshot, Report] | None = None
        self._report: Report | None = None
        self._known: Known | None = None
        self._saved: Known | None = None
        self._taken_at = 0.0
        self._read_at = 0.0
        self._problem: str | None = None
        self._write_problems: dict[Path, str] = {}
        self._expired: frozenset[AcceptRule] = frozenset()

    @property
    def problem(self) -> str | None:
        """Why the machine could not be read at the last attempt; None if it could."""
        return self._problem

    def remember(self) -> None:
        """Take up what was known at the last run, for the first report to be compared with."""
        if self._state is None:
            return
        try:
            self._known = self._saved = load_state(self._state)
        except StateError as error:
            log_event(logging.WARNING, "what was known before is lost", error=str(error))

    def rebuild(self, look: Look) -> None:
        """Look at the machine and publish what is found; a failure leaves the last report in place."""
        with self._garbage.spared():
            self._rebuild(look)

    def _rebuild(self, look: Look) -> None:
        started, taken_at = time.monotonic(), time.time()
        read_at = since_boot()
        try:
            report = self._examined(look)
        except SourceError as error:
            self._failed(str(error))
            return
        except Exception as error:  # noqa: BLE001 - a defect of ours must not blind the daemon to the next state
            self._failed(f"{type(error).__name__}: {error}", trace=True)
            return
        self._tally.snapshots.update(look.reasons)
        self._tally.durations = self._tally.durations.with_one(time.monotonic() - started)
        self._taken_at, self._read_at = taken_at, read_at
        self._recovered()
        self._tell(report)
        self._report = report
        self.status = f"{report.status}: {summary(report)}"
        self.publish()
        self._save_state()

    def publish(self) -> None:
        """Publish the last report again, with the daemon's present numbers."""
        if self._report is not None:
            # The wall clock may have been set meanwhile: the report is as old as the other clock says.
            taken_at = time.time() - (since_boot() - self._read_at)
            if abs(taken_at - self._taken_at) > _CLOCK_WAS_SET:
                self._taken_at = taken_at
            self._publish(self._report, self._taken_at)

    def _examined(self, look: Look) -> Report:
        snapshot = self._reader.snapshot(look.touched, full=look.full)
        if self._judged is None or not _same(self._judged[0], snapshot):
            self._judged = (snapshot, check(snapshot, kernel=self._kernel, evidence=self._reader.with_evidence))
        today = datetime.now(tz=UTC).date()
        self._tell_expired(look.rules, today)
        report = accept(self._judged[1], look.rules, today)
        if look.notes:
            report = replace(report, notes=(*report.notes, *look.notes))
        # The same object again lets nothing be rendered anew.
        return self._report if self._report is not None and _equal(self._report, report) else report

    def _tell(self, report: Report) -> None:
        if report is self._report:
            return
        known = Known.of(report)
        if self._known is None:
            self._known = replace(known, findings={})
        for change in what_changed(self._known, known):
            log_event(change.level, change.message, **change.fields)
        self._known = known

    def _tell_expired(self, rules: Collection[AcceptRule], today: date) -> None:
        """Each acceptance that is over is told once, whether there is a finding that it would accept or not."""
        expired = frozenset(one for one in rules if today > one.expires)
        for rule in sorted(expired - self._expired, key=lambda one: (one.expires, one.about)):
            day = rule.expires.isoformat()
            log_event(logging.WARNING, "acceptance has expired", about=rule.about, expired=day, reason=rule.reason)
        self._expired = expired

    def _failed(self, problem: str, *, trace: bool = False) -> None:
        self._tally.snapshot_errors += 1
        self.readable = False
        if problem != self._problem:
            self._problem = problem
            logging.getLogger("iommud").log(
                logging.ERROR, "cannot read the machine", extra={"fields": {"error": problem}}, exc_info=trace
            )
        if self._report is not None:
            self.publish()
        else:
            self._publish(Failure("this machine", problem), time.time())

    def _recovered(self) -> None:
        self.readable = True
        if self._problem is not None:
            log_event(logging.INFO, "the machine can be read again")
        self._problem = None

    def _publish(self, result: Report | Failure, taken_at: float) -> None:
        for publication in self._renderer.publications(result, taken_at):
            self._board.publish(publication)
            self._save(publication, result)

    def _save(self, publication: Publication, result: Report | Failure) -> None:
        if self._runtime is None or (isinstance(result, Failure) and _has_publication(self._runtime)):
            return  # a report of an earlier run says more than that there is none now
        metrics, openmetrics = expositions(self._collector)
        complete, directory = with_activity(publication, metrics, openmetrics), self._runtime
        self._written(directory, _RUNTIME_MODE, lambda: save(complete, directory))

    def _save_state(self) -> None:
        directory, known = self._state, self._known
        if directory is None or known is None or known == self._saved:
            return
        if self._written(directory, _STATE_MODE, lambda: save_state(known, directory)):
            self._saved = known

    def _written(self, directory: Path, mode: int, write: Callable[[], None]) -> bool:
        """Write into a directory, which is made if missing, or count that it failed; each problem is told once."""
        try:
            _make(directory, mode)
            write()
        except OSError as error:
            self._tally.state_write_errors += 1
            problem = error.strerror or str(error)
            if self._write_problems.get(directory) != problem:
                log_event(logging.WARNING, "cannot write", directory=str(directory), error=problem)
            self._write_problems[directory] = problem
            return False
        if self._write_problems.pop(directory, None) is not None:
            log_event(logging.INFO, "writing works again", directory=str(directory))
        return True


def _make(directory: Path, mode: int) -> None:
    if not directory.is_dir():
        directory.mkdir(parents=True, exist_ok=True)
        directory.chmod(mode)  # the umask of a service may hide it from the one that serves


def _same(one: Snapshot, other: Snapshot) -> bool:
    """Whether two snapshots are of one state; how much was read of it does not matter."""
    return replace(one, config_reads=0) == replace(other, config_reads=0)


def _equal(one: Report, other: Report) -> bool:
    """Whether two reports say the same; that of a snapshot is made once."""
    return (
        one.analysis is other.analysis
        and one.findings == other.findings
        and one.accepted == other.accepted
        and one.notes == other.notes
    )


def _has_publication(directory: Path) -> bool:
    try:
        load(directory)
    except PublicationError:
        return False
    return True
