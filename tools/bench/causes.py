# SPDX-License-Identifier: GPL-2.0-or-later
"""Measure what it costs to find causes: ``iommud check`` on machines whose kernel grouped wrongly, each in its way.

usage: python -m tools.bench.causes [--write] [FUNCTIONS]

The last three machines hang in one class below one bridge, and their IOMMU's driver groups functions as they are
probed: there the search for an order is at its dearest, and ends at its limit.
"""

from __future__ import annotations

import argparse
import random
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from iommud.address import Address
from tools.bench.generate import INTEL, write
from tools.bench.machine import Function, machine, one_class
from tools.bench.run import DOCUMENT, Sample, check, run, working_directory

FIGURES = re.compile(r"(?<=<!-- causes -->\n).*(?=<!-- end of causes -->)", re.DOTALL)
VIRTIO = "virtio"
RUNS = 5
RIGHT_OR_WRONG = (0, 1)
"""The exit status of a check that judged."""
_LOST = 40

Members = list[Function]


def right(members: Members) -> Members:
    """As the kernel should have it."""
    return members


def some_lost(members: Members) -> Members:
    """A few functions without a group."""
    lost = set(_lot().sample([one.address for one in members], _LOST))
    return [replace(one, group=None) if one.address in lost else one for one in members]


def all_apart(members: Members) -> Members:
    """A group for each function, whatever it shares a requester ID with."""
    return [replace(one, group=one.address) for one in members]


def all_together(members: Members) -> Members:
    """One group for each domain."""
    return [replace(one, group=Address(one.address.domain, 0, 0, 0)) for one in members]


def none_at_all(members: Members) -> Members:
    """No group."""
    return [replace(one, group=None) for one in members]


def in_two(members: Members) -> Members:
    """The class in two groups, drawn by lot."""
    leads, lot = [one.address for one in members[1:3]], _lot()
    drawn = [replace(one, group=lot.choice(leads)) for one in members[3:]]
    return [*(replace(one, group=one.address) for one in members[:3]), *drawn]


def half_lost(members: Members) -> Members:
    """Every second function without a group."""
    return [replace(one, group=None) if index % 2 else one for index, one in enumerate(members)]


MACHINES: Sequence[tuple[str, Callable[[int], Members], str, Callable[[Members], Members]]] = (
    ("all as it should be", machine, INTEL, right),
    (f"{_LOST} functions have no group", machine, INTEL, some_lost),
    ("each function has a group of its own", machine, INTEL, all_apart),
    ("each domain is one group", machine, INTEL, all_together),
    ("no function has a group", machine, INTEL, none_at_all),
    ("one class, each function in a group of its own", one_class, VIRTIO, all_apart),
    ("one class, in two groups drawn by lot", one_class, VIRTIO, in_two),
    ("one class, every second function without a group", one_class, VIRTIO, half_lost),
)


def _lot() -> random.Random:
    return random.Random(1)  # noqa: S311 - the same machine each time is what is wanted


def measured(directory: Path, functions: int) -> Iterator[tuple[str, Sample]]:
    """The check of each machine, as often as it takes to see what a quiet moment gives."""
    for title, make, iommu, broken in MACHINES:
        place = directory / "machine"
        write(str(place), broken(make(functions)), iommu)
        yield title, Sample(tuple(run(check(place), accepted=RIGHT_OR_WRONG) for _ in range(RUNS)))
        shutil.rmtree(place)


def report(functions: int, samples: Sequence[tuple[str, Sample]]) -> str:
    """The figures as markdown."""
    healthy = samples[0][1].best
    lines = [f"| {title} | {sample.best:.2f} s | {sample.best / healthy:.1f} |" for title, sample in samples]
    head = [f"| a machine of {functions:,} functions | time | x the first |", "|---|---:|---:|"]
    return "\n" + "\n".join([*head, *lines]) + "\n\n"


def main() -> None:
    """Measure, print, and with ``--write`` renew the figures of the document."""
    parser = argparse.ArgumentParser(description="Measure iommud check where there is something to explain.")
    parser.add_argument("--write", action="store_true", help="put the figures into docs/performance.md")
    parser.add_argument("functions", nargs="?", type=int, default=10_000)
    arguments = parser.parse_args()
    with working_directory(None, arguments.functions) as directory:
        text = report(arguments.functions, list(measured(directory, arguments.functions)))
    print(text)
    if arguments.write:
        document = DOCUMENT.read_text(encoding="utf-8")
        DOCUMENT.write_text(FIGURES.sub(lambda _: text, document), encoding="utf-8")


if __name__ == "__main__":
    main()
