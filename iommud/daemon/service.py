# SPDX-License-Identifier: GPL-2.0-or-later
"""The daemon that watches: one loop for sockets, timers and signals, and one worker for all that takes time."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from iommud.address import Address
from iommud.daemon.accept import AcceptError, AcceptRule, load_rules
from iommud.daemon.activity import Activity, Tally
from iommud.daemon.coalesce import Coalescer
from iommud.daemon.incremental import IncrementalReader
from iommud.daemon.log import log_event
from iommud.daemon.metrics import started_at
from iommud.daemon.notify import Notifier
from iommud.daemon.publication import Board
from iommud.daemon.rebuild import Look, Rebuilder
from iommud.daemon.rendering import Renderer
from iommud.daemon.settings import Settings
from iommud.daemon.sources import Sources, open_tree
from iommud.daemon.uevents import Uevent
from iommud.daemon.worker import Worker
from iommud.kernel import requested
from iommud.verdict.report import FailOn

__all__ = ["CollectorService"]

_TICK = 5.0
"""Seconds between looks at the daemon itself."""
_FIRST_RETRY, _LAST_RETRY = 1.0, 30.0
"""Seconds to wait after a failure, twice as long after each further one."""
_CLOCK_WAS_SET = 1.0
_LONG_LOOK = 20.0
"""Seconds that the first look may take unnoticed; the unit's TimeoutStartSec is 90."""
_PATIENCE = 1.0
"""Seconds that the worker gets to end what it is at, when the daemon stops."""


class CollectorService:
    """Watches a machine and keeps a board, and the directories, up to date; to be used in one event loop."""

    def __init__(self, settings: Settings, notifier: Notifier, board: Board) -> None:
        self._settings = settings
        self._notifier = notifier
        self._loop = asyncio.get_running_loop()
        self._worker = Worker()
        self._tally = Tally()
        self._coalescer = Coalescer(quiet=settings.quiet, maximum=max(settings.quiet, settings.delay))
        self._sources = Sources(settings, self._loop, on_uevents=self._uevents, on_groups=self._groups_changed)
        kernel = None if settings.kernel is None else requested(settings.kernel)
        self._reader = IncrementalReader(
            lambda: open_tree(settings), changes=self._sources.structural_changes, kernel=kernel, wake=settings.wake
        )
        renderer = Renderer(
            self.activity,
            here=settings.source is None,
            fail_on=FailOn(settings.fail_on),
            require_iommu=settings.require_iommu,
            function_groups=settings.function_groups,
            stale_after=settings.staleness,
        )
        self._rebuilder = Rebuilder(
            self._reader,
            renderer,
            board,
            tally=self._tally,
            activity=self.activity,
            kernel=kernel,
            runtime=_path(settings.runtime_directory),
            state=_path(settings.state_directory),
        )
        self._rules: tuple[AcceptRule, ...] = ()
        self._accept_valid: bool | None = None
        self._touched: set[Address] = set()
        self._full = True
        self._was_up: dict[str, bool] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._retry = _FIRST_RETRY
        self._retrying = False
        self._ready = False
        self._reloading = False
        self._stopped = False
        self._told_of_first = False
        self._clocks = _clock_offset()

    def start(self) -> None:
        """Begin to watch, and look at once."""
        self._load_rules()
        self._notifier.status("reading the machine for the first time")
        self._sources.start()
        self._submit_first()
        self._was_up = dict.fromkeys(self._sources.up(), True)
        self._watch_sources()
        self._loop.call_later(self._settings.reconcile_interval, self._reconcile)
        self._loop.call_later(_TICK, self._tick)
        if self._notifier.watchdog is not None:
            self._ping()

    def stop(self) -> bool:
        """End; gives whether the worker has ended what it was at, and is not stuck."""
        self._stopped = True
        self._sources.stop()
        return self._worker.wait(_PATIENCE)

    def reload(self) -> None:
        """Read the file of accepted findings again, and look at everything."""
        if self._ready:
            self._notifier.reloading()
            self._reloading = True
        self._load_rules()
        self.trigger("reload", full=True)

    def trigger(self, reason: str, *, touched: Sequence[Address] = (), full: bool = False) -> None:
        """Look at the machine soon; ``reason`` is one of TRIGGERS."""
        self._touched.update(touched)
        self._full = self._full or full
        self._coalescer.trigger(self._loop.time(), reason)
        self._schedule()

    def activity(self) -> Activity:
        """All numbers as they are now; may be asked in any thread."""
        return Activity(
            started_at=started_at(),
            readable=self._rebuilder.readable,
            snapshots=dict(self._tally.snapshots),
            snapshot_errors=self._tally.snapshot_errors,
            snapshots_retaken=self._reader.retakes,
            durations=self._tally.durations,
            config_reads=self._reader.config_reads,
            uevents=self._sources.uevent_counts(),
            monitor_overruns=self._sources.overruns,
            monitor_restarts=self._sources.monitor_restarts,
            sources=self._sources.up(),
            state_write_errors=self._tally.state_write_errors,
            accept_file_valid=self._accept_valid,
        )

    def _uevents(self, events: Sequence[Uevent], lost: bool) -> None:
        touched = [one.address for one in events if one.address is not None]
        self.trigger("uevent", touched=touched, full=lost or len(touched) < len(events))

    def _groups_changed(self) -> None:
        self.trigger("groups")

    def _reconcile(self) -> None:
        if not self._stopped:
            self.trigger("reconcile", full=True)
            self._loop.call_later(self._settings.reconcile_interval, self._reconcile)

    def _submit_first(self) -> None:
        look = self._look(frozenset({"start"}))

        def first() -> None:
            self._rebuilder.remember()
            self._rebuilder.rebuild(look)

        self._worker.submit(first, self._from_worker)

    def _schedule(self) -> None:
        """Have the loop look when the burst of triggers is over; while the worker is busy, when it has done."""
        deadline = self._coalescer.next_deadline()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if deadline is not None and not self._worker.busy and not self._stopped:
            self._timer = self._loop.call_at(deadline, self._due)

    def _due(self) -> None:
        self._timer = None
        reasons = self._coalescer.due(self._loop.time())
        if reasons is None or self._worker.busy:
            self._schedule()
            return
        look = self._look(reasons)
        self._worker.submit(lambda: self._rebuilder.rebuild(look), self._from_worker)

    def _look(self, reasons: frozenset[str]) -> Look:
        touched, full = frozenset(self._touched), self._full or not self._sources.hears_uevents
        self._touched.clear()
        self._full = False
        return Look(reasons=reasons, touched=touched, full=full, rules=self._rules, notes=self._notes())

    def _notes(self) -> tuple[str, ...]:
        every = f"only by looking at everything every {self._settings.reconcile_interval:g} s"
        down = [name for name, up in self._sources.up().items() if not up]
        return tuple(f"the daemon is degraded: changes that {name} tell of are noticed {every}" for name in down)

    def _from_worker(self) -> None:
        with suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(self._done)

    def _done(self) -> None:
        """A job of the worker has ended."""
        if self._stopped:
            return
        if self._rebuilder.readable:
            self._retry = _FIRST_RETRY
        elif not self._retrying:
            self._retrying = True
            self._loop.call_later(self._retry, self._try_again)
            self._retry = min(2 * self._retry, _LAST_RETRY)
        self._tell_manager()
        self._schedule()

    def _try_again(self) -> None:
        self._retrying = False
        if not self._stopped and not self._rebuilder.readable:
            self.trigger("retry", full=True)

    def _tell_manager(self) -> None:
        """Ready after the first report and after each reload, also if that has found the machine unreadable.

        Before there is one the status alone says why, for as long as the manager waits.
        """
        status = self._rebuilder.status
        if status is None:
            self._notifier.status(f"no report yet: cannot read the machine: {self._rebuilder.problem or 'unknown'}")
            return
        if not self._rebuilder.readable:
            status = f"cannot read the machine; last report: {status}"
        if self._ready and not self._reloading:
            self._notifier.status(status)
        else:
            self._ready, self._reloading = True, False
            self._notifier.ready(status)

    @property
    def busy_for(self) -> float:
        """Seconds that the present look at the machine has taken so far; 0 without one."""
        return self._worker.busy_for

    def _ping(self) -> None:
        """A sign of life, from this loop, and none while the worker is stuck in one job."""
        interval = self._notifier.watchdog
        if interval is None or self._stopped:
            return
        if self._worker.busy_for < interval:
            self._notifier.alive()
        self._loop.call_later(interval / 3, self._ping)

    def _tick(self) -> None:
        """Look at the daemon itself: threads that died, sources that fell silent, a clock that was set."""
        if self._stopped:
            return
        self._sources.check()
        self._watch_first_look()
        self._watch_sources()
        self._watch_clock()
        self._loop.call_later(_TICK, self._tick)

    def _watch_first_look(self) -> None:
        """Say so if it does not end, before a service manager gives up and nobody knows why."""
        if self._rebuilder.status is None and self._worker.busy_for > _LONG_LOOK and not self._told_of_first:
            self._told_of_first = True
            log_event(logging.WARNING, "the first look at the machine does not end", seconds=int(self._worker.busy_for))

    def _watch_sources(self) -> None:
        up = dict(self._sources.up())
        for name, is_up in up.items():
            if is_up != self._was_up.get(name):
                level, message = (logging.INFO, "source is back") if is_up else (logging.WARNING, "source is down")
                log_event(level, message, source=name, problem=self._sources.problem(name))
        if up != self._was_up:
            self._was_up = up
            self.trigger("reconcile", full=True)

    def _watch_clock(self) -> None:
        """After a suspend much may have changed; after the clock was set the report must say when it was made anew."""
        clocks = _clock_offset()
        if abs(clocks - self._clocks) > _CLOCK_WAS_SET:
            self.trigger("reconcile", full=True)
        self._clocks = clocks

    def _load_rules(self) -> None:
        if self._settings.accept_file is None:
            return
        try:
            self._rules = load_rules(Path(self._settings.accept_file))
            self._accept_valid = True
        except AcceptError as error:
            self._accept_valid = False
            log_event(logging.WARNING, "accepted findings stay as they were", error=str(error))


def _path(text: str | None) -> Path | None:
    return None if text is None else Path(text)


def _clock_offset() -> float:
    """Seconds between the clock that people set and the one that stands still while the machine is suspended."""
    return time.time() - time.monotonic()
