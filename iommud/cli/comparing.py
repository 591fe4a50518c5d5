# SPDX-License-Identifier: GPL-2.0-or-later
"""``iommud diff``: what differs between two states. Its exit status is that of diff(1): 0, 1, and 2 for trouble."""

from __future__ import annotations

import io
import json
import os
import stat
import sys
from dataclasses import dataclass, replace

import typer

from iommud.cli.options import Colour, DiffFormat
from iommud.cli.output import Output, output_style
from iommud.cli.showing import Machine
from iommud.errors import SourceError
from iommud.verdict.difference import Difference, compare
from iommud.verdict.state import State

EXIT_SAME = 0
EXIT_DIFFERENT = 1
EXIT_TROUBLE = 2

_LARGEST = 256 << 20
"""Bytes of a JSON report; one of 100,000 functions has about 30 million."""


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
    if source is not None and _is_report(source):
        return _reported(source)
    return State.of(replace(here, source=source).report())


def _is_report(source: str) -> bool:
    """Whether the first byte that is no white space begins an object, as no archive does."""
    try:
        begin = _peeked() if source == "-" else _begin(source)
    except OSError as error:
        raise SourceError(source, error.strerror or str(error)) from error
    return begin.lstrip().startswith(b"{")


_PEEKED = 64


def _peeked() -> bytes:
    """What standard input begins with, which stays there to be read."""
    stream = sys.stdin.buffer
    return stream.peek(_PEEKED) if isinstance(stream, io.BufferedReader) else b""


def _begin(path: str) -> bytes:
    """The first bytes of a regular file, nothing of what is none: reading from a pipe would take them from it."""
    if not stat.S_ISREG(os.stat(path).st_mode):  # noqa: PTH116 - a name from the command line, used as it is
        return b""
    with open(path, "rb") as file:  # noqa: PTH123 - see above
        return file.read(_PEEKED)


def _reported(source: str) -> State:
    try:
        return State.of_document(json.loads(_content(source)), source)
    except OSError as error:
        raise SourceError(source, error.strerror or str(error)) from error
    except RecursionError as error:
        raise SourceError(source, "nested too deeply for a report") from error
    except UnicodeDecodeError as error:
        raise SourceError(source, "a JSON report that is no UTF-8") from error
    except json.JSONDecodeError as error:
        several = " (reports of several sources are compared one by one)" if error.msg == "Extra data" else ""
        raise SourceError(source, f"no JSON: {error}{several}") from error
    except ValueError as error:
        raise SourceError(source, str(error)) from error


def _content(source: str) -> bytes:
    if source == "-":
        content = sys.stdin.buffer.read(_LARGEST + 1)
    else:
        with open(source, "rb") as file:  # noqa: PTH123 - see above
            content = file.read(_LARGEST + 1)
    if len(content) > _LARGEST:
        raise ValueError(f"larger than {_LARGEST >> 20} MiB, which no report is")
    return content
