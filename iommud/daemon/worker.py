# SPDX-License-Identifier: GPL-2.0-or-later
"""One thread that does the slow work, so that the loop never waits for the machine, the disk or the renderers."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable

__all__ = ["Worker"]

Job = Callable[[], None]


class Worker:
    """Runs jobs one after the other. They must not raise.

    The thread never keeps the process from ending: a read of a broken device may take for ever.
    """

    def __init__(self) -> None:
        self._jobs: queue.SimpleQueue[tuple[Job, Job]] = queue.SimpleQueue()
        self._idle = threading.Event()
        self._idle.set()
        self._since: float | None = None
        threading.Thread(target=self._work, name="worker", daemon=True).start()

    def submit(self, job: Job, done: Job) -> None:
        """Run ``job``, and then ``done``, in the thread; to be called from one thread, and only if it is not busy."""
        self._since = time.monotonic()
        self._idle.clear()
        self._jobs.put((job, done))

    @property
    def busy(self) -> bool:
        """Whether a job is under way."""
        return not self._idle.is_set()

    @property
    def busy_for(self) -> float:
        """Seconds that the present job has taken so far; 0 without one."""
        since = self._since
        return 0.0 if since is None or self._idle.is_set() else time.monotonic() - since

    def wait(self, seconds: float) -> bool:
        """Wait for the present job, but no longer than that; whether it has ended."""
        return self._idle.wait(seconds)

    def _work(self) -> None:
        while True:
            job, done = self._jobs.get()
            try:
                job()
            finally:
                self._idle.set()
                done()
