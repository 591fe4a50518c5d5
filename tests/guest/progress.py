# SPDX-License-Identifier: GPL-2.0-or-later
"""Run many cells, a few at a time: what is done is written at once, so that an interrupted run goes on where it was."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from functools import partial
from pathlib import Path

from tests.guest.boot import boot_twice, end_all
from tests.guest.debian import Unavailable
from tests.guest.image import base_archives
from tests.guest.judge import Result, judge
from tests.guest.machine import Cell
from tests.guest.supplies import Supplies

Run = Callable[[Cell], Result]
Say = Callable[[str], None]
WORTH_SAYING = 2
"""Seconds."""


class State:
    """The results so far, one on each line of a file; the last one of a cell counts."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()

    def read(self) -> dict[str, Result]:
        """The results by the name of their cell. A line cut short by an interruption is passed over."""
        found: dict[str, Result] = {}
        lines = self.path.read_text(encoding="utf-8").splitlines() if self.path.exists() else []
        for line in lines:
            with contextlib.suppress(ValueError, TypeError):
                result = Result.decode(line)
                found[result.cell] = result
        return found

    def add(self, result: Result) -> None:
        """Keep a result."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self._lock, self.path.open("a", encoding="utf-8") as file:
            file.write(result.encode() + "\n")


def fetch(cells: Iterable[Cell], supplies: Supplies, say: Say) -> list[str]:
    """Have everything here that the cells need, before several of them ask for it at once.

    What cannot be had is said, and becomes the result of the cells that need it; its names are given.
    """
    wanted: dict[str, Callable[[], object]] = {}
    for cell in cells:
        here = cell.architecture
        wanted[f"QEMU {cell.qemu}"] = partial(supplies.emulator, cell.qemu)
        wanted[f"kernel {cell.kernel} for {here}"] = partial(supplies.kernel, cell.kernel, here)
        wanted[f"Python and iommud for {here}"] = partial(base_archives, supplies, here)
    return [name for name, get in wanted.items() if not _had(name, get, say)]


def _had(name: str, get: Callable[[], object], say: Say) -> bool:
    """Whether something is here now; what took its time is said."""
    started = time.monotonic()
    try:
        get()
    except Unavailable as error:
        say(f"{name}: {error}")
        return False
    seconds = time.monotonic() - started
    if seconds >= WORTH_SAYING:
        say(f"{name}: here after {seconds:.0f} s")
    return True


def run_all(cells: Sequence[Cell], state: State, run: Run, *, jobs: int, say: Say) -> dict[str, Result]:
    """Run the cells that have no result yet, and give the results of all."""
    done = state.read()
    left = [cell for cell in cells if cell.name not in done]
    say(f"{len(cells)} cells, {len(cells) - len(left)} of them done before")
    started = time.monotonic()
    with ThreadPoolExecutor(jobs) as pool:
        futures = [pool.submit(run, cell) for cell in left]
        try:
            for number, future in enumerate(as_completed(futures), 1):
                result = future.result()
                state.add(result)
                say(progress_line(result, number, len(left), time.monotonic() - started))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            end_all()
            raise
    found = state.read()
    return {cell.name: found[cell.name] for cell in cells}


def progress_line(result: Result, number: int, total: int, seconds: float) -> str:
    """One line for a result: how far the run is, and how long the rest takes at this speed."""
    left = seconds / number * (total - number)
    return f"[{number}/{total}, {_duration(left)} left] {result.cell}: {result.summary} ({result.seconds:.0f} s)"


def booting(supplies: Supplies, keep: Path) -> Run:
    """How a cell becomes a result: boot it and judge what came of it."""
    return lambda cell: judge(cell, boot_twice(cell, supplies), keep)


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min"
