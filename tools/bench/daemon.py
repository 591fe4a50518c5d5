# SPDX-License-Identifier: GPL-2.0-or-later
"""Measure the daemon: how soon it shows a change, and what it costs, beside node_exporter.

usage: python -m tools.bench.daemon [--write] [--directory DIRECTORY] [--idle SECONDS]
"""

from __future__ import annotations

import argparse
import http.client
import os
import re
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from iommud.daemon.settings import Settings
from tools.bench.generate import generate
from tools.bench.run import DOCUMENT, ROOT, surroundings

FIGURES = re.compile(r"(?<=<!-- daemon figures -->\n).*(?=<!-- end of daemon figures -->)", re.DOTALL)
QUIET = 0.2
_CHANGES = 25
_SCRAPES = 1000
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Process:
    """A program that serves metrics."""

    pid: int
    port: int

    @property
    def resident(self) -> float:
        """MiB."""
        status = Path(f"/proc/{self.pid}/status").read_text(encoding="ascii")
        found = re.search(r"^VmRSS:\s*(\d+) kB", status, re.MULTILINE)
        return int(found[1]) / 1024 if found else 0.0

    @property
    def cpu(self) -> float:
        """Seconds of CPU time so far."""
        fields = Path(f"/proc/{self.pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS

    def scrape(self, client: http.client.HTTPConnection | None = None) -> str:
        """The metrics."""
        if client is None:
            with closing(self.client()) as once:
                return self.scrape(once)
        client.request("GET", "/metrics")
        return client.getresponse().read().decode()

    def client(self) -> http.client.HTTPConnection:
        """A connection that can be used for many requests."""
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)


@contextmanager
def started(command: Sequence[str], port: int) -> Iterator[Process]:
    """Run a server until the block ends; the block begins when it answers."""
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        found = Process(process.pid, port)
        try:
            _until(lambda: _answers(found), process)
            yield found
        finally:
            process.terminate()


def _answers(process: Process) -> bool:
    try:
        return len(process.scrape()) > 0
    except OSError:
        return False


def _until(ask: Callable[[], bool], process: subprocess.Popen[bytes] | None = None, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not ask():
        if time.monotonic() > deadline or (process is not None and process.poll() is not None):
            raise RuntimeError("the program that is to be measured does not run")
        time.sleep(0.01)


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


@contextmanager
def iommud(machine: Path, **settings: Any) -> Iterator[Process]:
    """The daemon on a made-up machine, once it has its first report; ``events`` beside the machine takes events."""
    port = free_port()
    known = {"sysfs": f"{machine}/sys", "procfs": f"{machine}/proc", "listen": (f"127.0.0.1:{port}",), "quiet": QUIET}
    events = machine / "events"
    events.unlink(missing_ok=True)
    arguments = [Settings(**{**known, **settings}).to_json(), str(events)]
    with started([sys.executable, "-m", "tools.bench.daemon_process", *arguments], port) as process:
        _until(lambda: "iommud_snapshot_timestamp_seconds" in process.scrape())
        yield process


class Function:
    """A function that can be unplugged and plugged in again: the last of the machine, on a bus of its own."""

    def __init__(self, machine: Path) -> None:
        devices = machine / "sys/bus/pci/devices"
        self.name = max(path.name for path in devices.iterdir())
        self._place = (devices / self.name).resolve()
        self._link = devices / self.name
        self._target = os.readlink(self._link)  # noqa: PTH115 - as it is written
        self._group = (self._place / "iommu_group").resolve() / "devices" / self.name
        self._membership = os.readlink(self._group)  # noqa: PTH115 - as it is written
        self._aside = machine / "aside"
        self._sent = machine / "sys/kernel/uevent_seqnum"
        self._sent.write_text("1000\n", encoding="ascii")
        self.present = True

    def toggle(self) -> None:
        """Unplug it, or plug it in."""
        if self.present:
            self._link.unlink()
            self._group.unlink()
            self._place.rename(self._aside)
        else:
            self._aside.rename(self._place)
            self._link.symlink_to(self._target)
            self._group.symlink_to(self._membership)
        # The number of the last event, as on a live machine.
        self._sent.write_text(f"{int(self._sent.read_text(encoding='ascii')) + 1}\n", encoding="ascii")
        self.present = not self.present


def latencies(machine: Path) -> list[float]:
    """Seconds from the event of a function that came or went to metrics that show it, beyond the quiet time."""
    function, found = Function(machine), []
    with iommud(machine) as process, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as kernel:
        total = sum(one.name != "aside" for one in (machine / "sys/bus/pci/devices").iterdir())
        client = process.client()
        for _ in range(_CHANGES):
            function.toggle()
            begin = time.monotonic()
            kernel.sendto(f"{'add' if function.present else 'remove'} {function.name}".encode(), f"{machine}/events")
            wanted = f'iommud_functions{{state="grouped"}} {float(total - (not function.present))}'
            _until(lambda client=client, wanted=wanted: wanted in process.scrape(client))  # type: ignore[misc] # bound
            found.append(time.monotonic() - begin - QUIET)
            time.sleep(0.3)
        if not function.present:
            function.toggle()
    return found


def idle(process: Process, seconds: float) -> float:
    """Per cent of one core that a program uses while nothing happens."""
    before, begin = process.cpu, time.monotonic()
    time.sleep(seconds)
    return 100 * (process.cpu - before) / (time.monotonic() - begin)


def scrapes(process: Process, between: Callable[[], None] = lambda: None) -> list[float]:
    """Seconds that each of many scrapes took, one every few milliseconds."""
    client, found = process.client(), []
    for _ in range(_SCRAPES):
        begin = time.perf_counter()
        process.scrape(client)
        found.append(time.perf_counter() - begin)
        between()
        time.sleep(0.005)
    return found


def scrapes_during_rebuilds(machine: Path) -> list[float]:
    """The same while the daemon does nothing but rebuild a machine that changes all the time."""
    function = Function(machine)
    count = iter(range(_SCRAPES))
    with iommud(machine, quiet=0.0, reconcile_interval=0.001) as process:
        found = scrapes(process, lambda: function.toggle() if next(count) % 50 == 0 else None)
    if not function.present:
        function.toggle()
    return found


def node_exporter(directory: Path) -> str | None:
    """The program: installed, or unpacked from Debian's package; None if neither is to be had."""
    found = shutil.which("prometheus-node-exporter") or shutil.which("node_exporter")
    if found is not None:
        return found
    try:
        subprocess.run(["apt-get", "-qq", "download", "prometheus-node-exporter"], cwd=directory, check=True)
        (package,) = directory.glob("prometheus-node-exporter_*.deb")
        subprocess.run(["dpkg", "-x", str(package), str(directory / "unpacked")], check=True)
    except (OSError, subprocess.CalledProcessError, ValueError):
        return None
    return str(directory / "unpacked/usr/bin/prometheus-node-exporter")


def _milliseconds(seconds: float) -> str:
    return f"{seconds * 1000:.1f} ms"


def _p99(values: Sequence[float]) -> float:
    return statistics.quantiles(values, n=100)[98]


def _split(machine: Path, directory: Path) -> tuple[float, float]:
    """Memory of a collector and of a server, in MiB, after some reports."""
    runtime, port = directory / "run", free_port()
    runtime.mkdir()
    settings = Settings(
        sysfs=f"{machine}/sys",
        procfs=f"{machine}/proc",
        serve=False,
        runtime_directory=str(runtime),
        reconcile_interval=1.0,
    )
    serving = Settings(collect=False, runtime_directory=str(runtime), listen=(f"127.0.0.1:{port}",))
    program = [sys.executable, "-m", "iommud.daemon.main"]
    with subprocess.Popen([*program, settings.to_json()], cwd=ROOT, stderr=subprocess.DEVNULL) as collector:
        try:
            with started([*program, serving.to_json()], port) as server:
                _until(lambda: "iommud_snapshot_timestamp_seconds" in server.scrape())
                time.sleep(10)
                return Process(collector.pid, 0).resident, server.resident
        finally:
            collector.terminate()


def measured(directory: Path, options: argparse.Namespace) -> Iterator[str]:
    """Markdown lines."""
    for size in (1_000, 10_000):
        generate(str(directory / str(size)), size)
    thousand = directory / "1000"
    late = latencies(thousand)
    with iommud(thousand) as process:
        process.scrape()
        used, resident = idle(process, options.idle), process.resident
        quick = scrapes(process)
    collector, server = _split(thousand, directory)
    slow = scrapes_during_rebuilds(directory / "10000")
    yield "| what | wanted | measured |"
    yield "|---|---:|---:|"
    delay = f"{_milliseconds(statistics.median(late))}, at most {_milliseconds(max(late))}"
    yield f"| from the event to changed metrics, 1,000 functions, beyond the quiet time | 100 ms | {delay} |"
    yield f"| CPU while nothing happens, 1,000 functions, {options.idle:.0f} s | 0.2 % | {used:.2f} % |"
    yield f"| memory of `iommud run`, 1,000 functions | 60 MiB | {resident:.1f} MiB |"
    yield f"| memory of the collector alone, 1,000 functions | 45 MiB | {collector:.1f} MiB |"
    yield f"| memory of the server alone, 1,000 functions | 45 MiB | {server:.1f} MiB |"
    yield f"| scrape, 1,000 functions, p99 | | {_milliseconds(_p99(quick))} |"
    yield f"| scrape during rebuilds, 10,000 functions, p99 | 50 ms | {_milliseconds(_p99(slow))} |"
    yield from _beside(directory, options.idle)


def _beside(directory: Path, seconds: float) -> Iterator[str]:
    program = node_exporter(directory)
    if program is None:
        yield "| node_exporter | | not to be had here |"
        return
    port = free_port()
    with started([program, f"--web.listen-address=127.0.0.1:{port}"], port) as process:
        used = idle(process, min(seconds, 30))
        slowest = _p99(scrapes(process)[:_SCRAPES])
        figures = f"{used:.2f} %, {process.resident:.1f} MiB, {_milliseconds(slowest)}"
        yield f"| node_exporter here: CPU, memory, scrape p99 | | {figures} |"


def main() -> None:
    """Measure, print, and with ``--write`` renew the figures of the document."""
    parser = argparse.ArgumentParser(description="Measure the daemon.")
    parser.add_argument("--write", action="store_true", help="put the figures into docs/performance.md")
    parser.add_argument("--directory", default="/dev/shm", help="where machines are generated")  # noqa: S108 - a fresh directory is made in it
    parser.add_argument("--idle", type=float, default=330.0, help="seconds; more than one reconcile")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="iommud-bench-", dir=options.directory) as directory:
        lines = list(measured(Path(directory), options))
    text = "\n" + "\n".join((surroundings(), "", *lines)) + "\n\n"
    print(text)
    if options.write:
        DOCUMENT.write_text(FIGURES.sub(lambda _: text, DOCUMENT.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
