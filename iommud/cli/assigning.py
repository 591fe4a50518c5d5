# SPDX-License-Identifier: GPL-2.0-or-later
"""``iommud vfio``: what can be assigned to a guest, what comes along, and how."""

from __future__ import annotations

import json
from collections.abc import Sequence

import typer

from iommud.address import Address
from iommud.cli.checking import names_for
from iommud.cli.options import Colour, ShowFormat
from iommud.cli.output import emit, output_style
from iommud.cli.showing import Machine
from iommud.verdict.report import Report
from iommud.verdict.vfio import Answer, Assignment, assignment_of, assignments

_STATUSES = {Answer.YES: 0, Answer.NO: 1, Answer.UNKNOWN: 3}


def show_assignment(machine: Machine, text: str | None, format_: ShowFormat, colour: Colour) -> int:
    """Answer about one function, or about every group; gives the exit status."""
    if text is None:
        return _show_all(machine.report(), format_, colour)
    try:
        address = Address.parse(text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    return _show_one(machine.report(), address, format_, colour)


def _show_one(report: Report, address: Address, format_: ShowFormat, colour: Colour) -> int:
    from iommud.render.vfio import assignment_data, render_assignment

    functions = report.analysis.explainer.model.topology.functions if report.analysis else {}
    if address not in functions or not functions[address].present:
        raise typer.BadParameter(f"{address} is not on the PCI bus of {report.source}")
    found = assignment_of(report, address)
    data = assignment_data(report, found)
    if format_ is ShowFormat.JSON:
        emit(json.dumps(data, separators=(",", ":")) + "\n")
    else:
        emit(render_assignment(data, functions, style=output_style(colour), names=names_for([report])))
    return _STATUSES[found.answer]


def _show_all(report: Report, format_: ShowFormat, colour: Colour) -> int:
    from iommud.render.vfio import assignments_data, render_assignments

    found = assignments(report)
    data = assignments_data(report, found)
    if format_ is ShowFormat.JSON:
        emit(json.dumps(data, separators=(",", ":")) + "\n")
    else:
        emit(render_assignments(data, style=output_style(colour)))
    return _overall(report, found)


def _overall(report: Report, found: Sequence[Assignment]) -> int:
    """Groups in use by the host are as they should be; one that is not safe to give away is not."""
    if any(one.dangers for one in found):
        return 1
    undecided = any(one.doubts for one in found) or (not found and not report.judged)
    return 3 if undecided else 0
