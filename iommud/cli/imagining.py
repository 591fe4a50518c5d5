# SPDX-License-Identifier: GPL-2.0-or-later
"""``iommud what-if`` and ``iommud explain --separate``: what groups would be with other facts."""

from __future__ import annotations

import sys
from dataclasses import dataclass

import typer

from iommud.address import Address
from iommud.cli.options import Colour, DiffFormat, ShowFormat
from iommud.cli.output import Output, emit, output_style
from iommud.cli.showing import Machine, parsed_addresses, print_json, require_present
from iommud.errors import visible
from iommud.kernel import parse_release
from iommud.model.acs import Override
from iommud.verdict.report import Report
from iommud.verdict.survey import parse_override
from iommud.whatif.changes import (
    AddParameters,
    BootKernel,
    Change,
    ImpossibleChangeError,
    Move,
    Order,
    OverrideAcs,
    ProbeInOrder,
    Slot,
    SwitchAcs,
    TakeOut,
)
from iommud.whatif.comparison import WhatIf, what_if

EXIT_UNDECIDED = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Wishes:
    """The changes as the command line names them."""

    acs: tuple[str, ...]
    acs_override: str | None
    kernel: str | None
    without: tuple[str, ...]
    move: tuple[str, ...]
    cmdline: tuple[str, ...]
    probe_order: str | None

    def changes(self) -> tuple[Change, ...]:
        """Understand them, in the order in which they are made. Raises typer.BadParameter for what means nothing.

        Hardware comes last, so that every address means a function as it is now.
        """
        found: list[Change] = []
        if self.kernel is not None:
            found.append(_kernel(self.kernel))
        found += [AddParameters(text) for text in self.cmdline if text.strip()]
        if self.acs_override is not None:
            found.append(_override(self.acs_override))
        found += [_acs(text) for text in self.acs]
        found += [TakeOut(_address(text, "--without")) for text in self.without]
        found += [_move(text) for text in self.move]
        if self.probe_order is not None:
            found.append(_order(self.probe_order))
        if not found:
            raise typer.BadParameter("name at least one change, such as --acs on or --kernel 6.18")
        return tuple(found)


def _address(text: str, option: str) -> Address:
    try:
        return Address.parse(text)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint=option) from error


def _kernel(text: str) -> BootKernel:
    kernel = parse_release(text)
    if kernel is None:
        raise typer.BadParameter(f"{text!r} is no release like 6.18", param_hint="--kernel")
    return BootKernel(kernel)


def _acs(text: str) -> SwitchAcs:
    state, equals, address = text.partition("=")
    if state not in ("on", "off"):
        raise typer.BadParameter(f"{text!r} is neither on nor off, nor either with =BDF", param_hint="--acs")
    return SwitchAcs(state == "on", _address(address, "--acs") if equals else None)


def _override(text: str) -> OverrideAcs:
    if text == "none":
        return OverrideAcs(frozenset())
    tokens, ids = parse_override(f"pcie_acs_override={text}")
    if len(tokens) + len(ids) != len(set(text.split(","))):
        known = ", ".join([*Override, "id:VVVV:DDDD", "none"])
        raise typer.BadParameter(f"{text!r} holds something else than {known}", param_hint="--acs-override")
    return OverrideAcs(tokens, ids)


def _move(text: str) -> Move:
    address, equals, slot = text.partition("=")
    if not equals:
        raise typer.BadParameter(f"{text!r} is no move like 03:00.0=00:1c.0", param_hint="--move")
    try:
        return Move(_address(address, "--move"), Slot.parse(slot))
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--move") from error


def _order(text: str) -> ProbeInOrder:
    if text not in set(Order):
        raise typer.BadParameter(f"{text!r} is none of {', '.join(Order)}", param_hint="--probe-order")
    return ProbeInOrder(Order(text))


def run_what_if(
    machine: Machine, wishes: Wishes, format_: DiffFormat, output: str | None, colour: Colour, *, verbose: bool
) -> int:
    """Compute and print; gives the exit status."""
    changes = wishes.changes()
    report = machine.report()
    if not report.judged:
        return _not_judged(report)
    try:
        found = what_if(report, changes)
    except ImpossibleChangeError as error:
        raise typer.BadParameter(visible(str(error))) from error
    with Output(output) as target:
        target.write(_rendered(found, format_, output, colour, verbose=verbose))
    return 0 if found.decided else EXIT_UNDECIDED


_STATUSES = {"apart": 0, "merged": 0, "possible": 0, "impossible": 1, "undecided": 3, "no-group": 1}


def show_separation(machine: Machine, texts: list[str], format_: ShowFormat, colour: Colour) -> int:
    """Say what would put two functions into different groups; gives the exit status."""
    from iommud.render.explain_data import explain_two_data
    from iommud.render.separate import render_separation, separation_data
    from iommud.whatif.separate import separate

    addresses = parsed_addresses(texts)
    if len(set(addresses)) != 2:
        raise typer.BadParameter("--separate takes two functions")
    report = machine.report()
    require_present(report, addresses)
    if not report.judged:
        return _not_judged(report)
    found = separate(report, addresses[0], addresses[1])
    cmdline = None if report.analysis is None else report.analysis.snapshot.cmdline
    if format_ is ShowFormat.JSON:
        print_json({**explain_two_data(report, *addresses), "separate": separation_data(found, cmdline)})
    else:
        emit(render_separation(found, cmdline, style=output_style(colour)))
    return _STATUSES[found.verdict.value]


def _not_judged(report: Report) -> int:
    why = visible(f"{report.source}: groups cannot be predicted: {report.usage_reason}")
    print(f"iommud: {why}", file=sys.stderr)
    return EXIT_UNDECIDED


def _rendered(found: WhatIf, format_: DiffFormat, output: str | None, colour: Colour, *, verbose: bool) -> str:
    from iommud.render.whatif import render_what_if, render_what_if_json, render_what_if_markdown

    if format_ is DiffFormat.JSON:
        return render_what_if_json(found)
    if format_ is DiffFormat.MARKDOWN:
        return render_what_if_markdown(found, verbose=verbose)
    return render_what_if(found, style=output_style(colour, output), verbose=verbose)
