# SPDX-License-Identifier: GPL-2.0-or-later
"""The lab from the command line: ``python -m tests.guest.run --help``."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType

from tests.guest import rebuilding
from tests.guest.cells import NAMED, SMOKE
from tests.guest.debian import Unavailable, cache_directory
from tests.guest.differences import unexplained
from tests.guest.founding import PICTURES, shown
from tests.guest.judge import Result, judge_again
from tests.guest.machine import Architecture, Cell, Files, qemu_arguments
from tests.guest.matrix import matrix
from tests.guest.page import page
from tests.guest.picture import picture
from tests.guest.progress import State, booting, fetch, run_all
from tests.guest.source import JOBS, SuppliesWithSource, build
from tests.guest.supplies import Supplies

PAGE = Path(__file__).parent.parent.parent / "docs" / "kernel-matrix.md"


def main(arguments: Sequence[str]) -> int:
    """Run a command; 0 when it did what was asked, whatever the guests say; 1 if something cannot be had."""
    options = _parser().parse_args(arguments)
    signal.signal(signal.SIGTERM, _interrupted)
    try:
        status: int = options.command(options)
    except KeyboardInterrupt:
        _say("interrupted; the results so far are kept, and the next run goes on from there")
        return 130
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.guest.run", description="Boot guests and judge them.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    listing = commands.add_parser("list", help="name all cells of the matrix")
    listing.set_defaults(command=_list)
    show = commands.add_parser("show", help="print the QEMU command line of cells")
    show.add_argument("cells", nargs="+", metavar="CELL")
    show.set_defaults(command=_show)
    supply = commands.add_parser("fetch", help="have here what the smoke run needs, or what cells need")
    supply.add_argument("cells", nargs="*", metavar="CELL")
    supply.set_defaults(command=_fetch)
    some = commands.add_parser("boot", help="boot cells by name, again if they have been")
    some.add_argument("cells", nargs="+", metavar="CELL")
    some.set_defaults(command=_boot)
    founding = commands.add_parser("founding", help="boot the founding thread's machines, each beside its words")
    founding.add_argument("--only", default="", metavar="TEXT", help="pictures with this in the name of their cell")
    founding.set_defaults(command=_founding)
    kernels = commands.add_parser("build-6.1bug", help="build the founding thread's kernels from Debian's source, anew")
    kernels.add_argument("--architecture", type=Architecture, choices=list(Architecture), action="append")
    kernels.add_argument("--jobs", type=int, default=JOBS, help="compilers at a time")
    kernels.set_defaults(command=_build)
    rebuilt = commands.add_parser("reproduce", help="rebuild captures and compare groups, into docs/reproduce.md")
    rebuilt.add_argument("fixtures", nargs="*", metavar="FIXTURE", help="captures by name, booted again; else all left")
    rebuilt.add_argument("--fresh", action="store_true", help="forget the results of earlier runs")
    rebuilt.add_argument("--judge", action="store_true", help="boot nothing: compare what is kept, and write the page")
    rebuilt.set_defaults(command=_reproduce)
    whole = commands.add_parser("matrix", help="run the matrix, from where it was left, and write its page")
    whole.add_argument("--jobs", type=int, default=max(1, (os.cpu_count() or 2) // 2), help="guests at a time")
    whole.add_argument("--only", default="", metavar="TEXT", help="cells with this in their name")
    whole.add_argument("--judge", action="store_true", help="boot nothing: judge what is kept, and write the page anew")
    whole.add_argument("--fresh", action="store_true", help="forget the results of earlier runs")
    whole.set_defaults(command=_matrix)
    return parser


def _list(_options: argparse.Namespace) -> int:
    print(names(matrix()), end="")
    return 0


def names(cells: Sequence[Cell]) -> str:
    """The names of cells, one on each line, as matrix-cells.txt has them."""
    return "".join(f"{cell.name}\n" for cell in cells)


def _show(options: argparse.Namespace) -> int:
    for cell in _named(options.cells):
        print(" ".join(_quoted(word) for word in qemu_arguments(cell, Files(qemu=(f"qemu-{cell.qemu}",)))))
    return 0


def _fetch(options: argparse.Namespace) -> int:
    cells = _named(options.cells) if options.cells else list(SMOKE.values())
    return 1 if fetch(cells, Supplies(cache_directory()), _say) else 0


def _boot(options: argparse.Namespace) -> int:
    cells = _named(options.cells)
    run = booting(SuppliesWithSource(cache_directory(), _say), _results())
    for cell in cells:
        result = run(cell)
        State(_results() / "matrix.jsonl").add(result)
        print(picture(cell.name, result))
    return 0


def _founding(options: argparse.Namespace) -> int:
    """1 if a picture is not that of the page."""
    run = booting(SuppliesWithSource(cache_directory(), _say), _results())
    others = []
    for number, one in enumerate(PICTURES, 1):
        if options.only not in one.cell.name:
            continue
        text, same = shown(number, one, run(one.cell), _results())
        print(text, flush=True)
        if not same:
            others.append(one.cell.name)
    _say(f"not as the page shows them: {', '.join(others)}" if others else "every picture is as the page shows it")
    return 1 if others else 0


def _build(options: argparse.Namespace) -> int:
    try:
        for architecture in options.architecture or Architecture:
            build(cache_directory(), architecture, _say, options.jobs)
    except Unavailable as error:
        _say(str(error))
        return 1
    return 0


def _reproduce(options: argparse.Namespace) -> int:
    keep = _results()
    if options.fresh:
        rebuilding.results_file(keep).unlink(missing_ok=True)
    trials = rebuilding.trials_named(options.fixtures)
    if options.judge:
        rebuilding.judge_kept(trials, keep)
    else:
        wanted = trials if options.fixtures else rebuilding.left(trials, rebuilding.results(keep))
        rebuilding.run_trials(wanted, Supplies(cache_directory()), keep, _say)
    found = rebuilding.results(keep)
    rebuilding.write_page(rebuilding.PAGE, found)
    for name in rebuilding.unexplained(trials, found):
        _say(f"not explained: {name}")
    return 0


def _matrix(options: argparse.Namespace) -> int:
    cells = [cell for cell in matrix() if options.only in cell.name]
    state = State(_results() / "matrix.jsonl")
    if options.judge:
        return _judge(cells, state, whole=not options.only)
    if options.fresh:
        state.path.unlink(missing_ok=True)
    supplies = Supplies(cache_directory())
    fetch(cells, supplies, _say)
    results: dict[str, Result] = run_all(cells, state, booting(supplies, _results()), jobs=options.jobs, say=_say)
    _tell(cells, results, whole=not options.only)
    return 0


def _judge(cells: Sequence[Cell], state: State, *, whole: bool) -> int:
    """Judge the kept captures, those of an earlier iommud too, without a boot."""
    kept = state.read()
    for cell in cells:
        if cell.name in kept and (again := judge_again(kept[cell.name], _results())) != kept[cell.name]:
            state.add(again)
            _say(f"{cell.name}: {kept[cell.name].summary} -> {again.summary}")
    results = state.read()
    missing = [cell.name for cell in cells if cell.name not in results]
    _say(
        f"{len(cells) - len(missing)} of {len(cells)} cells judged"
        + (f"; not booted: {', '.join(missing)}" if missing else "")
    )
    _tell(cells, results, whole=whole)
    return 0


def _tell(cells: Sequence[Cell], results: Mapping[str, Result], *, whole: bool) -> None:
    """Write the page, and name what it cannot explain."""
    if whole:
        PAGE.write_text(page(cells, results), encoding="utf-8")
        _say(f"wrote {PAGE}")
    for name in unexplained(cells, results):
        _say(f"not explained: {name}: {results[name].summary}")


def _named(wanted: Sequence[str]) -> list[Cell]:
    """Cells by the name of the matrix or by their own. Ends the program where there is none."""
    pictures = {one.cell.name: one.cell for one in PICTURES}
    known = pictures | {cell.name: cell for cell in matrix()} | dict(NAMED)
    missing = [name for name in wanted if name not in known]
    if missing:
        raise SystemExit(f"no cell is called {missing[0]}: see the list command")
    return [known[name] for name in wanted]


def _results() -> Path:
    return cache_directory() / "results"


def _quoted(word: str) -> str:
    return f"'{word}'" if " " in word else word


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _interrupted(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
