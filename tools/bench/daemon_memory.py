# SPDX-License-Identifier: GPL-2.0-or-later
"""Follow the daemon's memory over very many looks at a machine of 1,000 functions, as fast as it can look.

usage: python -m tools.bench.daemon_memory [--looks NUMBER] [--every NUMBER] [--csv FILE] [--write]

Each look answers an event. One in ``--every`` finds that a function came or went, so that all is judged, rendered and
published anew; the others find the machine as it was. What was measured is written to the file line by line, so that a
run that is ended early tells as much as it got to.
"""

from __future__ import annotations

import argparse
import re
import signal
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from tools.bench.daemon import Function, Process, iommud
from tools.bench.generate import generate
from tools.bench.run import DOCUMENT, surroundings

FIGURES = re.compile(r"(?<=<!-- memory figures -->\n).*(?=<!-- end of memory figures -->)", re.DOTALL)
_SIZE = 1000
_PATIENCE = 120.0
_SAMPLES = 200
_REPORTED = (0, 10, 25, 50, 75, 100)
"""Per cent of the looks at which the document tells the memory."""


@dataclass(frozen=True, slots=True)
class Sample:
    """What was measured after so many looks."""

    looks: int
    seconds: float
    resident: float
    """MiB."""


class Looker:
    """Has a daemon look, once for each call, and waits until it has published what it saw."""

    def __init__(self, machine: Path, runtime: Path, kernel: socket.socket) -> None:
        self.function = Function(machine)
        self._events = f"{machine}/events"
        self._current = runtime / "current"
        self._kernel = kernel
        # The daemon answers as soon as it has a report, and writes it down after that.
        self._until(self._current.is_symlink)

    def look(self, *, changed: bool) -> None:
        """Send an event, of a function that came or went if the machine is to change."""
        if changed:
            self.function.toggle()
        action = "change" if not changed else "add" if self.function.present else "remove"
        # A new report is published twice, for the page takes longest.
        wanted = self._generation + (2 if changed else 1)
        self._kernel.sendto(f"{action} {self.function.name}".encode(), self._events)
        self._until(lambda: self._generation >= wanted)

    @staticmethod
    def _until(happened: Callable[[], bool]) -> None:
        deadline = time.monotonic() + _PATIENCE
        while not happened():
            if time.monotonic() > deadline:
                raise RuntimeError("the daemon published nothing for two minutes")
            time.sleep(0.001)

    @property
    def _generation(self) -> int:
        return int(str(self._current.readlink()).rpartition("-")[2])


def samples(directory: Path, looks: int, every: int, size: int = _SIZE) -> Iterator[Sample]:
    """The memory at the start and after each half per cent of the looks."""
    machine, runtime = directory / "machine", directory / "run"
    generate(str(machine), size)
    runtime.mkdir()
    begin = time.monotonic()
    step = max(1, looks // _SAMPLES)
    with (
        iommud(machine, quiet=0.0, runtime_directory=str(runtime)) as process,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as kernel,
    ):
        looker = Looker(machine, runtime, kernel)
        yield Sample(0, time.monotonic() - begin, process.resident)
        for number in range(1, looks + 1):
            looker.look(changed=number % every == 0)
            if number % step == 0 or number == looks:
                yield Sample(number, time.monotonic() - begin, process.resident)
        _verify(process, looks)


def _verify(process: Process, looks: int) -> None:
    match = re.search(r"^iommud_snapshot_duration_seconds_count (\S+)", process.scrape(), re.MULTILINE)
    if match is None or float(match[1]) < looks:
        raise RuntimeError(f"the daemon says that it looked {match and match[1]} times")


def followed(found: Iterator[Sample], looks: int, table: TextIO) -> list[Sample]:
    """All samples, each written to a table as it comes, with the time that is left on standard error."""
    table.write("looks,seconds,resident_mib\n")
    every: list[Sample] = []
    for one in found:
        every.append(one)
        table.write(f"{one.looks},{one.seconds:.1f},{one.resident:.2f}\n")
        table.flush()
        left = (looks - one.looks) * one.seconds / one.looks / 60 if one.looks else 0.0
        print(f"{one.looks:,} of {looks:,}: {one.resident:.1f} MiB, {left:.0f} min left", file=sys.stderr, flush=True)
    return every


def growth(found: Sequence[Sample]) -> float:
    """KiB for each thousand looks, by least squares over all but the first tenth."""
    settled = [one for one in found if one.looks * 10 >= found[-1].looks]
    if len(settled) < 2:
        return 0.0
    line = statistics.linear_regression([one.looks / 1000 for one in settled], [one.resident * 1024 for one in settled])
    return line.slope


def lines(found: Sequence[Sample], every: int) -> Iterator[str]:
    """Markdown."""
    last = found[-1]
    yield f"{last.looks:,} looks in {last.seconds / 60:.0f} min, of which {last.looks // every:,} found a change:"
    yield ""
    yield "| looks | memory |"
    yield "|---:|---:|"
    for per_cent in _REPORTED:
        one = min(found, key=lambda sample: abs(sample.looks - last.looks * per_cent / 100))
        yield f"| {one.looks:,} | {one.resident:.1f} MiB |"
    yield ""
    yield f"From a tenth on it grows by {growth(found):.1f} KiB for each thousand looks."


def main() -> None:
    """Measure, print, and with ``--write`` renew the figures of the document."""
    parser = argparse.ArgumentParser(description="Follow the daemon's memory.")
    parser.add_argument("--looks", type=int, default=100_000)
    parser.add_argument("--every", type=int, default=8, help="one in so many looks finds a change")
    parser.add_argument("--csv", default="daemon-memory.csv", help="where each figure goes")
    parser.add_argument("--write", action="store_true", help="put the figures into docs/performance.md")
    parser.add_argument("--directory", default="/dev/shm", help="where the machine is generated")  # noqa: S108 - a fresh directory is made in it
    options = parser.parse_args()
    # Whoever ends this ends the daemon too, and takes the machine away.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with (
        tempfile.TemporaryDirectory(prefix="iommud-bench-", dir=options.directory) as directory,
        Path(options.csv).open("w", encoding="ascii") as table,
    ):
        found = followed(samples(Path(directory), options.looks, options.every), options.looks, table)
    text = "\n" + "\n".join((surroundings(), "", *lines(found, options.every))) + "\n\n"
    print(text)
    if options.write:
        DOCUMENT.write_text(FIGURES.sub(lambda _: text, DOCUMENT.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
