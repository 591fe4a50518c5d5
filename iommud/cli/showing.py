# SPDX-License-Identifier: GPL-2.0-or-later
"""``iommud tree``, ``groups`` and ``explain``: verbs that show one machine."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import typer

from iommud.address import Address
from iommud.api import check_sysfs
from iommud.cli.checking import kernel_requested, names_for
from iommud.cli.options import Colour, ShowFormat
from iommud.cli.output import emit, output_style
from iommud.verdict.report import Report


@dataclass(frozen=True, slots=True)
class Machine:
    """Which machine a verb reads, and how."""

    source: str | None
    sysfs: str
    procfs: str
    kernel: str | None
    wake: bool

    def report(self) -> Report:
        """Read and check it, with the registers that people want to see. Raises SourceError if it cannot be read."""
        kernel = kernel_requested(self.kernel)
        return check_sysfs(
            self.source,
            sysfs=self.sysfs,
            procfs=self.procfs,
            kernel=kernel,
            wake=self.wake,
            thorough=True,
        )


def one_source(place: str | None, option: str | None) -> str | None:
    """The source that an argument or ``--source`` names. Raises typer.BadParameter if both do."""
    if place is not None and option is not None:
        raise typer.BadParameter("name the source as an argument or by --source, not twice")
    return option if place is None else place


def show_tree(machine: Machine, format_: ShowFormat, colour: Colour) -> int:
    """Draw the topology."""
    from iommud.render.data import tree_data
    from iommud.render.tree import render_tree

    report = machine.report()
    if format_ is ShowFormat.JSON:
        return print_json(tree_data(report))
    emit(render_tree(report, style=output_style(colour), names=names_for([report])))
    return 0


def show_groups(machine: Machine, format_: ShowFormat, colour: Colour) -> int:
    """List the groups."""
    from iommud.render.data import groups_data
    from iommud.render.groups import render_groups

    report = machine.report()
    if format_ is ShowFormat.JSON:
        return print_json(groups_data(report))
    emit(render_groups(report, style=output_style(colour), names=names_for([report])))
    return 0


def show_explanation(machine: Machine, texts: list[str], format_: ShowFormat, colour: Colour) -> int:
    """Explain one function, or two functions to each other."""
    from iommud.render.explain import render_one, render_two
    from iommud.render.explain_data import explain_one_data, explain_two_data

    addresses = parsed_addresses(texts)
    report = machine.report()
    require_present(report, addresses)
    style, names = output_style(colour), names_for([report])
    if len(addresses) == 1:
        data = explain_one_data(report, addresses[0])
        text = render_one(data, style=style, names=names)
    else:
        data = explain_two_data(report, *addresses)
        text = render_two(data, style=style, names=names)
    return print_json(data) if format_ is ShowFormat.JSON else _print(text)


def parsed_addresses(texts: list[str]) -> list[Address]:
    """One or two addresses. Raises typer.BadParameter for anything else."""
    if len(texts) > 2:
        raise typer.BadParameter("one or two addresses, please")
    try:
        return [Address.parse(text) for text in texts]
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error


def require_present(report: Report, addresses: list[Address]) -> None:
    """Raise typer.BadParameter for a function that the machine does not have."""
    snapshot = report.analysis.snapshot if report.analysis else None
    present = {one.address for one in snapshot.functions} if snapshot else set()
    for address in addresses:
        if address not in present:
            raise typer.BadParameter(f"{address} is not on the PCI bus of {report.source}")


def _print(text: str) -> int:
    emit(text)
    return 0


def print_json(data: Any) -> int:
    """One line of JSON on standard output."""
    return _print(json.dumps(data, separators=(",", ":")) + "\n")
