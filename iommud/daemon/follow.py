# SPDX-License-Identifier: GPL-2.0-or-later
"""Take up what a collector writes into the runtime directory, as soon as it is there."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from watchdog.events import FileSystemEvent, FileSystemEventHandler
from watchdog.observers import Observer
from watchdog.observers.api import BaseObserver

from iommud.daemon.log import log_event
from iommud.daemon.publication import CURRENT, Board, PublicationError
from iommud.daemon.worker import Worker

__all__ = ["Follower"]

_POLL, _POLL_BLIND = 10.0, 1.0
"""Seconds between looks at the directory, which may be another one by now; the second without inotify."""
_SETTLED = 0.02
"""Seconds after an event: several of them belong to one publication."""


class Follower(FileSystemEventHandler):
    """Loads each publication of a directory onto a board; to be used in one event loop."""

    def __init__(self, directory: Path, board: Board) -> None:
        self._directory = directory
        self._board = board
        self._loop = asyncio.get_running_loop()
        self._worker = Worker()
        self._observer: BaseObserver | None = None
        self._place: tuple[int, int] | None = None
        self._again = False
        self._stopped = False
        self._timer: asyncio.TimerHandle | None = None
        self._problem: str | None = None
        self._taken: tuple[int, int, int] | None = None
        self._loaded = asyncio.Event()

    async def start(self) -> None:
        """Begin to follow; returns when what the directory holds has been looked at."""
        self._poll()
        await self._loaded.wait()

    def stop(self) -> None:
        """End; threads do not keep the process from ending."""
        self._stopped = True

    def look(self) -> None:
        """Load what is there now."""
        if self._worker.busy:
            self._again = True
        elif not self._stopped:
            self._worker.submit(self._load, self._from_worker(self._done))

    @property
    def busy_for(self) -> float:
        """Seconds that the present load takes."""
        return self._worker.busy_for

    def on_moved(self, event: FileSystemEvent) -> None:
        """A file of the directory has a new name: what publishes is the renaming of one link."""
        if Path(str(event.dest_path)).name == CURRENT:
            self._from_worker(self._soon)()

    def _from_worker(self, what: Callable[[], None]) -> Callable[[], None]:
        def call() -> None:
            with suppress(RuntimeError):  # the loop has ended
                self._loop.call_soon_threadsafe(what)

        return call

    def _soon(self) -> None:
        if self._timer is None:
            self._timer = self._loop.call_later(_SETTLED, self._settled)

    def _settled(self) -> None:
        self._timer = None
        self.look()

    def _load(self) -> None:
        # To read all files of a publication every few seconds is most of what an idle server does.
        newest = self._newest()
        if newest is not None and newest == self._taken:
            return
        self._taken = None
        try:
            self._board.load(self._directory)
        except PublicationError as error:
            if str(error) != self._problem:
                log_event(logging.WARNING, "no new report", error=str(error))
            self._problem = str(error)
        else:
            self._problem = None
            self._taken = newest

    def _newest(self) -> tuple[int, int, int] | None:
        """What tells the link to the newest publication from those before it: each is made anew. None without one."""
        try:
            found = (self._directory / CURRENT).lstat()
        except OSError:
            return None
        return found.st_dev, found.st_ino, found.st_mtime_ns

    def _done(self) -> None:
        self._loaded.set()
        if self._again:
            self._again = False
            self.look()

    def _poll(self) -> None:
        if self._stopped:
            return
        self._watch()
        self.look()
        self._loop.call_later(_POLL_BLIND if self._observer is None else _POLL, self._poll)

    def _watch(self) -> None:
        """Have inotify tell of the directory, anew if it was replaced; without inotify the poll must do."""
        try:
            found = self._directory.stat()
        except OSError:
            self._unwatch()
            return
        place = (found.st_dev, found.st_ino)
        if place == self._place and self._observer is not None and self._observer.is_alive():
            return
        self._unwatch()
        self._place = place
        observer = Observer()
        try:
            observer.schedule(self, str(self._directory))
            observer.start()
        except OSError as error:
            log_event(logging.DEBUG, "no inotify: the directory is polled", error=error.strerror or str(error))
            return
        self._observer = observer

    def _unwatch(self) -> None:
        if self._observer is not None:
            self._observer.stop()
        self._observer = self._place = None
