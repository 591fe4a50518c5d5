# SPDX-License-Identifier: GPL-2.0-or-later
"""``iommud diff``: what differs between two states. Its exit status is that of diff(1): 0, 1, and 2 for trouble."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace

import typer

from iommud.cli.options import Colour, DiffFormat
from iommud.cli.output import Output, output_style
from iommud.cli.reports import is_report, read_report
from iommud.cli.showing import Machine
from iommud.errors import SourceError
from iommud.verdict.difference import Difference, compare
from iommud.verdict.state import State

EXIT_SAME = 0
EXIT_DIFFERENT = 1
EXIT_TROUBLE = 2


@dataclass(frozen=True, slots=True)
class DiffOptions:
    """How to tell what differs."""

    format: DiffFormat
    output: str | None
    colour: Colour
    verbose: bool
    quiet: bool


def run_diff(before: str, after: str | None, here: Machine, options: DiffOptions) -> int:
    """Compare two states, print what differs, and give the exit status.

    ``here`` says how machines are read, and where this one is, which stands for a missing ``after``.
    Raises typer.BadParameter if both are standard input.
    """
    if before == after == "-":
        raise typer.BadParameter("only one of the two can be standard input")
    try:
        difference = compare(_state(before, here), _state(after, here))
        _print(difference, options)
    except SourceError as error:
        print(f"iommud: {error}", file=sys.stderr)
        return EXIT_TROUBLE
    return EXIT_SAME if difference.same else EXIT_DIFFERENT


def _print(difference: Difference, options: DiffOptions) -> None:
    if options.quiet and difference.same:
        return
    with Output(options.output) as output:
        output.write(_rendered(difference, options))


def _rendered(difference: Difference, options: DiffOptions) -> str:
    from iommud.render.difference import render_difference, render_difference_json, render_difference_markdown

    if options.format is DiffFormat.JSON:
        return render_difference_json(difference)
    if options.format is DiffFormat.MARKDOWN:
        return render_difference_markdown(difference, verbose=options.verbose)
    return render_difference(difference, style=output_style(options.colour, options.output), verbose=options.verbose)


def _state(source: str | None, here: Machine) -> State:
    """Read one side: a JSON report if it looks like one, else a machine. Raises SourceError if it is neither."""
    if source is not None and is_report(source):
        return read_report(source)
    return State.of(replace(here, source=source).report())
