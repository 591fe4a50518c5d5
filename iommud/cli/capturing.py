# SPDX-License-Identifier: GPL-2.0-or-later
"""``iommud capture``: write an archive that can be attached to a bug report, and say what it does not hold."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from typing import Any

from iommud.archive import open_source
from iommud.capture import CaptureSummary, capture_to_path
from iommud.cli.options import ShowFormat
from iommud.cli.output import emit
from iommud.cli.showing import Machine

DEFAULT_OUTPUT = "iommud-capture.tar.gz"


def run_capture(machine: Machine, output: str | None, format_: ShowFormat, *, quiet: bool) -> int:
    """Write the capture; without ``output`` to a file in the current directory, or to standard output if piped."""
    path = output or (DEFAULT_OUTPUT if sys.stdout.isatty() else "-")
    tree = open_source(machine.source, sysfs=machine.sysfs, procfs=machine.procfs)
    summary = capture_to_path(tree, path, wake=machine.wake)
    if format_ is ShowFormat.JSON and path != "-":
        emit(json.dumps(_values(path, summary), separators=(",", ":")) + "\n")
    elif not quiet:
        print(f"{'capture' if path == '-' else path}:", file=sys.stderr)
        for sentence in summary.sentences():
            print(f"  {sentence}", file=sys.stderr)
    return 0


def _values(path: str, summary: CaptureSummary) -> dict[str, Any]:
    return {"output": path, **asdict(summary), "left_out": sorted(one.value for one in summary.left_out)}
