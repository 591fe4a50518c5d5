# SPDX-License-Identifier: GPL-2.0-or-later
"""Measure ``iommud check`` on made-up machines, beside programs that read the same files.

usage: python -m tools.bench.run [--write] [--directory DIRECTORY] [FUNCTIONS ...]

Every figure is of a whole process: started, run, ended. The programs take turns, so that whatever else the
machine does strikes all of them.
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

ROOT = Path(__file__).parent.parent.parent
DOCUMENT = ROOT / "docs" / "performance.md"
FIGURES = re.compile(r"(?<=<!-- figures -->\n).*(?=<!-- end of figures -->)", re.DOTALL)
SIZES = (100, 1_000, 10_000, 100_000)
_HERE = Path(__file__).parent
_SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - a fresh directory is made in it
_NAMES = 28
"""Names on disk for each function, hard links counted."""

_STARTS = 25
_SECONDS_PER_SIZE = 30
_FEWEST, _MOST = 3, 15
_MOST_FOR_TREE = 10_000
"""Functions that ``lspci -t`` is given: its time grows with their square, to 12 minutes for 100,000."""


@dataclass(frozen=True, slots=True)
class Run:
    """One process: how long it lived in seconds, and its peak memory in MiB."""

    seconds: float
    memory: float


@dataclass(frozen=True, slots=True)
class Sample:
    """All runs of one program."""

    runs: tuple[Run, ...]

    @property
    def best(self) -> float:
        """The shortest run: the one that was disturbed least."""
        return min(run.seconds for run in self.runs)

    @property
    def middle(self) -> float:
        """The median run."""
        return median(run.seconds for run in self.runs)

    @property
    def memory(self) -> float:
        """The highest peak."""
        return max(run.memory for run in self.runs)


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """What was measured on one machine."""

    functions: int
    samples: dict[str, Sample]
    dwords: int


def run(command: Sequence[str], *, accepted: Collection[int] = (0,)) -> Run:
    """Run a program with its output thrown away. Raises RuntimeError if it ends with a status that is not accepted."""
    start = time.perf_counter()
    # The peak of a child counts from its fork, so this process must itself stay small: it generates nothing.
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=ROOT)
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode not in accepted:
        raise RuntimeError(f"{' '.join(command)}: exit status {process.returncode}")
    return Run(seconds, usage.ru_maxrss / 1024)


def interleaved(programs: dict[str, Sequence[str]], repetitions: int) -> dict[str, Sample]:
    """Run each program once, then each again, and so on."""
    runs: dict[str, list[Run]] = {name: [] for name in programs}
    for _ in range(repetitions):
        for name, command in programs.items():
            runs[name].append(run(command))
    return {name: Sample(tuple(found)) for name, found in runs.items()}


def iommud() -> list[str]:
    """The command of the environment that this program runs in."""
    script = Path(sys.executable).with_name("iommud")
    return [str(script)] if script.exists() else [sys.executable, "-m", "iommud"]


def check(machine: Path) -> list[str]:
    """The check of one machine."""
    return [*iommud(), "check", "--path.sysfs", f"{machine}/sys", "--path.procfs", f"{machine}/proc"]


def lspci(machine: Path, option: str) -> list[str]:
    """What lspci says of one machine."""
    return ["lspci", "-A", "linux-sysfs", "-O", f"sysfs.path={machine}/sys/bus/pci", option]


def generated(directory: Path, functions: int) -> tuple[Path, Path]:
    """A machine of so many functions, and the plan of what a check reads of it."""
    machine, plan = directory / str(functions), directory / f"{functions}.plan"
    subprocess.run([sys.executable, "-m", "tools.bench.generate", str(machine), str(functions)], check=True, cwd=ROOT)
    record = [sys.executable, "-m", "tools.bench.record", f"{machine}/sys", f"{machine}/proc"]
    with plan.open("wb") as stream:
        subprocess.run(record, stdout=stream, check=True, cwd=ROOT)
    return machine, plan


def measured(directory: Path, functions: int) -> Size:
    """All programs on one machine, which is gone afterwards."""
    machine, plan = generated(directory, functions)
    programs: dict[str, Sequence[str]] = {
        "check": check(machine),
        "lspci -vvv": lspci(machine, "-vvv"),
        "lspci -t": lspci(machine, "-t"),
        "bare": [sys.executable, str(_HERE / "bare.py"), str(plan)],
    }
    if functions > _MOST_FOR_TREE:
        del programs["lspci -t"]
    first = interleaved(programs, 1)  # fills the caches, and tells how often there is time for more
    each = sum(sample.best for sample in first.values())
    samples = interleaved(programs, max(_FEWEST, min(_MOST, int(_SECONDS_PER_SIZE / each))))
    configs = plan.read_text(encoding="utf-8").rpartition("\n")[2].split("\t")
    shutil.rmtree(machine)
    return Size(functions=functions, samples=samples, dwords=sum(config.count(" ") for config in configs))


def starts(directory: Path) -> dict[str, Sample]:
    """The start-up of iommud, of a program that does nothing, and of the interpreter under both."""
    machine, _ = generated(directory, 1)
    programs: dict[str, Sequence[str]] = {
        "trivial": [sys.executable, str(_HERE / "trivial.py"), "first"],
        "version": [*iommud(), "--version"],
        "check": check(machine),
        "python": [sys.executable, "-c", "pass"],
    }
    interleaved(programs, 2)
    return interleaved(programs, _STARTS)


def _seconds(value: float) -> str:
    return f"{value:.2f} s" if value >= 1 else f"{value * 1000:.0f} ms"


def _times(sample: Sample | None) -> str:
    return "not run" if sample is None else f"{_seconds(sample.best)} ({_seconds(sample.middle)})"


def size_table(sizes: Sequence[Size]) -> Iterator[str]:
    """Markdown lines: times, and what they are to each other."""
    names = ("check", "lspci -vvv", "lspci -t", "bare")
    yield "| functions | `iommud check` | `lspci -vvv` | `lspci -t` | bare read | x `lspci -vvv` | x bare read |"
    yield "|---:|---:|---:|---:|---:|---:|---:|"
    for size in sizes:
        best = size.samples["check"].best
        ratios = [f"{best / size.samples[name].best:.2f}" for name in ("lspci -vvv", "bare")]
        cells = [f"{size.functions:,}", *(_times(size.samples.get(name)) for name in names), *ratios]
        yield f"| {' | '.join(cells)} |"


def cost_table(sizes: Sequence[Size]) -> Iterator[str]:
    """Markdown lines: what one function costs, and memory."""
    yield "| functions | µs per function | peak memory | peak of `lspci -vvv` | config dwords read | per function |"
    yield "|---:|---:|---:|---:|---:|---:|"
    for size in sizes:
        sample, other = size.samples["check"], size.samples["lspci -vvv"]
        cells = [
            f"{size.functions:,}",
            f"{sample.best / size.functions * 1e6:.0f}",
            f"{sample.memory:.0f} MiB",
            f"{other.memory:.0f} MiB",
            f"{size.dwords:,}",
            f"{size.dwords / size.functions:.2f}",
        ]
        yield f"| {' | '.join(cells)} |"


def start_table(samples: dict[str, Sample]) -> Iterator[str]:
    """Markdown lines: start-up beside a program of two commands that do nothing."""
    titles = {
        "python": "the interpreter alone",
        "trivial": "two typer commands that do nothing",
        "version": "`iommud --version`",
        "check": "`iommud check` of one function",
    }
    yield "| program | time | x two typer commands |"
    yield "|---|---:|---:|"
    for name, title in titles.items():
        yield f"| {title} | {_times(samples[name])} | {samples[name].best / samples['trivial'].best:.2f} |"


def surroundings() -> str:
    """The machine that measured, without its name."""
    kernel = re.match(r"[0-9.]+", platform.release())
    processor = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(encoding="utf-8"), re.MULTILINE)
    version = subprocess.run(["lspci", "--version"], capture_output=True, text=True, check=True).stdout.strip()
    return (
        f"Measured with {platform.python_implementation()} {platform.python_version()} and {version} on Linux "
        f"{kernel[0] if kernel else 'unknown'}, {os.cpu_count()} cores ({processor[1] if processor else 'unknown'})."
    )


def report(sizes: Sequence[Size], samples: dict[str, Sample]) -> str:
    """All figures as markdown."""
    tables = ("\n".join(table) for table in (size_table(sizes), cost_table(sizes), start_table(samples)))
    return "\n" + "\n\n".join((surroundings(), *tables)) + "\n\n"


def _has_room(directory: Path, names: int) -> bool:
    return os.access(directory, os.W_OK) and os.statvfs(directory).f_favail > names


@contextmanager
def working_directory(chosen: str | None, functions: int) -> Iterator[Path]:
    """A fresh directory, in memory where there is room for all names of a machine of so many functions."""
    parent = chosen or (_SHARED_MEMORY if _has_room(_SHARED_MEMORY, functions * _NAMES) else None)
    with tempfile.TemporaryDirectory(prefix="iommud-bench-", dir=parent) as directory:
        yield Path(directory)


def main() -> None:
    """Measure, print, and with ``--write`` renew the figures of the document."""
    parser = argparse.ArgumentParser(description="Measure iommud check beside lspci and a bare read.")
    parser.add_argument("--write", action="store_true", help="put the figures into docs/performance.md")
    parser.add_argument("--directory", help="where machines are generated; default: /dev/shm, else as TMPDIR says")
    parser.add_argument("functions", nargs="*", type=int, default=SIZES)
    arguments = parser.parse_args()
    if shutil.which("lspci") is None:
        parser.error("lspci is not installed (apt install pciutils)")
    with working_directory(arguments.directory, max(arguments.functions)) as directory:
        samples = starts(directory)
        sizes = [measured(directory, functions) for functions in arguments.functions]
    text = report(sizes, samples)
    print(text)
    if arguments.write:
        document = DOCUMENT.read_text(encoding="utf-8")
        DOCUMENT.write_text(FIGURES.sub(lambda _: text, document), encoding="utf-8")


if __name__ == "__main__":
    main()
