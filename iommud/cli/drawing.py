# SPDX-License-Identifier: GPL-2.0-or-later
"""``iommud graph``: one machine as a picture."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from iommud.cli.checking import names_for
from iommud.cli.options import GraphFormat
from iommud.cli.output import Output
from iommud.cli.showing import Machine
from iommud.render.fold import Detail

if TYPE_CHECKING:
    from iommud.names import Names
    from iommud.verdict.report import Report


def draw(machine: Machine, format_: GraphFormat, output: str | None, *, everything: bool) -> int:
    """Write the picture; gives the exit status. Standard error tells what the picture cannot hold."""
    report = machine.report()
    detail = Detail.WHOLE if everything else None
    text, notice = _picture(report, names_for([report]), format_, detail)
    with Output(output) as out:
        out.write(text)
    if notice:
        print(f"iommud: {notice}", file=sys.stderr)
    return 0


def _picture(report: Report, names: Names | None, format_: GraphFormat, detail: Detail | None) -> tuple[str, str]:
    if format_ is GraphFormat.DOT:
        from iommud.render.dot import render_dot

        return render_dot(report, names=names, detail=detail), ""
    if format_ is GraphFormat.MERMAID:
        from iommud.render.mermaid import render_mermaid

        flowchart = render_mermaid(report, names=names, detail=detail)
        return flowchart.text, flowchart.notice
    from iommud.render.sheet import render_svg

    return render_svg(report, names=names, detail=detail), ""
