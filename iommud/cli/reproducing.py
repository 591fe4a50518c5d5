# SPDX-License-Identifier: GPL-2.0-or-later
"""``iommud reproduce``: the QEMU command line that rebuilds a captured machine."""

from __future__ import annotations

import json
import re

import typer

from iommud.cli.options import ShowFormat
from iommud.cli.output import Output
from iommud.cli.showing import Machine
from iommud.reproduce.models import OLDEST, USUAL, Version

_VERSION = re.compile(r"(\d{1,3})(?:\.(\d{1,3}))?(?:\.\d+)*")


def show_reproduction(machine: Machine, qemu: str | None, format_: ShowFormat, output: str | None) -> int:
    """Print the command line; gives the exit status. Raises typer.BadParameter for a QEMU that is not known."""
    from iommud.render.reproduce import render_reproduction, reproduction_data
    from iommud.reproduce.plan import reproduce

    version = _version(qemu)
    found = reproduce(machine.report(), version)
    with Output(output) as out:
        if format_ is ShowFormat.JSON:
            out.write(json.dumps(reproduction_data(found), separators=(",", ":")) + "\n")
        else:
            out.write(render_reproduction(found))
    return 0


def _version(text: str | None) -> Version:
    if text is None:
        return USUAL
    match = _VERSION.fullmatch(text)
    if match is None:
        raise typer.BadParameter(f"{text!r} is no version like 10.0", param_hint="--qemu")
    version = (int(match[1]), int(match[2] or 0))
    if version < OLDEST:
        oldest = ".".join(str(number) for number in OLDEST)
        raise typer.BadParameter(f"{text} is older than {oldest}, the oldest that is known", param_hint="--qemu")
    return version
