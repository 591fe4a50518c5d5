# SPDX-License-Identifier: GPL-2.0-or-later
"""The verbs. Each imports what it needs when it runs, so that starting one does not load the others."""

from __future__ import annotations

from typing import Annotated

import typer

from iommud import __version__
from iommud.cli.options import (
    COLOUR,
    KERNEL,
    PROCFS,
    QUIET,
    SHOW_FORMAT,
    SOURCE,
    SYSFS,
    VERBOSE,
    WAKE,
    CheckFormat,
    Colour,
    ShowFormat,
)

EXIT_STATUSES = """\
Exit status: 0 nothing wrong (also: no IOMMU in use); 1 findings at or above --fail-on; 2 wrong usage; \
3 could not judge; 4 a source could not be read. With several sources or findings the first of 4, 1, 3, 0 that \
occurs. 130 after Ctrl-C, 141 when the reader of the output has gone."""

app = typer.Typer(
    name="iommud",
    help="Recompute the IOMMU groups of a Linux machine, compare them with the kernel's, say what is wrong and why.",
    epilog=EXIT_STATUSES,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"iommud {__version__}")
        raise typer.Exit


@app.callback()
def iommud(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and leave.")
    ] = False,
) -> None:
    """Take the options that belong to no verb."""


@app.command(epilog=EXIT_STATUSES)
def check(
    sources: Annotated[
        list[str] | None,
        typer.Argument(metavar="[SOURCE]...", help="Directories or archives; - is stdin. Without any: this machine."),
    ] = None,
    more_sources: Annotated[
        list[str] | None, typer.Option("--source", metavar="SOURCE", help="One more source; may be repeated.")
    ] = None,
    sysfs: SYSFS = "/sys",
    procfs: PROCFS = "/proc",
    kernel: KERNEL = None,
    format_: Annotated[CheckFormat, typer.Option("--format", "-f", help="How to print.")] = CheckFormat.TEXT,
    output: Annotated[
        str | None,
        typer.Option("--output", "-o", metavar="FILE", help="Write to FILE, all at once, instead of stdout."),
    ] = None,
    only: Annotated[
        list[str] | None, typer.Option("--only", metavar="KIND", help="Keep findings of this kind; may be repeated.")
    ] = None,
    ignore: Annotated[
        list[str] | None,
        typer.Option("--ignore", metavar="KIND[=BDF]", help="Drop findings of this kind (about BDF); repeatable."),
    ] = None,
    fail_on: Annotated[
        str,
        typer.Option("--fail-on", metavar="SEVERITY", help="critical, warning, info or never: what gives status 1."),
    ] = "warning",
    require_iommu: Annotated[
        bool, typer.Option("--require-iommu", help="A machine without an IOMMU in use gives status 1.")
    ] = False,
    jobs: Annotated[
        int | None,
        typer.Option("--jobs", "-j", min=1, metavar="N", help="Sources checked at once; default: all cores."),
    ] = None,
    wake: WAKE = False,
    verbose: VERBOSE = False,
    quiet: QUIET = False,
    colour: COLOUR = Colour.AUTO,
) -> int:
    """Check the IOMMU groups of this machine, or of captures of machines."""
    from iommud.cli.checking import CheckOptions, run_check, selection
    from iommud.cli.output import output_style

    options = CheckOptions(
        sysfs=sysfs,
        procfs=procfs,
        kernel=kernel,
        format=format_,
        selection=selection(only or [], ignore or [], fail_on),
        require_iommu=require_iommu,
        wake=wake,
        verbose=verbose,
        quiet=quiet,
        style=output_style(colour, output),
        output=output,
        jobs=jobs,
    )
    return run_check([*(sources or []), *(more_sources or [])], options)


@app.command()
def tree(
    source: SOURCE = None,
    sysfs: SYSFS = "/sys",
    procfs: PROCFS = "/proc",
    kernel: KERNEL = None,
    format_: SHOW_FORMAT = ShowFormat.TEXT,
    wake: WAKE = False,
    colour: COLOUR = Colour.AUTO,
) -> int:
    """Draw the PCI topology with actual and expected groups, ACS, and what is wrong."""
    from iommud.cli.showing import Machine, show_tree

    return show_tree(Machine(source, sysfs, procfs, kernel, wake), format_, colour)


@app.command()
def groups(
    source: SOURCE = None,
    sysfs: SYSFS = "/sys",
    procfs: PROCFS = "/proc",
    kernel: KERNEL = None,
    format_: SHOW_FORMAT = ShowFormat.TEXT,
    wake: WAKE = False,
    colour: COLOUR = Colour.AUTO,
) -> int:
    """List the groups with their members, and the functions that have none."""
    from iommud.cli.showing import Machine, show_groups

    return show_groups(Machine(source, sysfs, procfs, kernel, wake), format_, colour)


@app.command()
def explain(
    addresses: Annotated[list[str], typer.Argument(metavar="BDF [BDF]", help="02:01.0 means domain 0000.")],
    source: SOURCE = None,
    sysfs: SYSFS = "/sys",
    procfs: PROCFS = "/proc",
    kernel: KERNEL = None,
    format_: SHOW_FORMAT = ShowFormat.TEXT,
    wake: WAKE = False,
    colour: COLOUR = Colour.AUTO,
) -> int:
    """Say why one function is in its group, or what joins or separates two functions."""
    from iommud.cli.showing import Machine, show_explanation

    return show_explanation(Machine(source, sysfs, procfs, kernel, wake), addresses, format_, colour)


@app.command()
def capture(
    place: Annotated[
        str | None, typer.Argument(metavar="[SOURCE]", help="A directory or archive; default: here.")
    ] = None,
    output: Annotated[
        str | None, typer.Option("--output", "-o", metavar="FILE", help="Archive to write; - is stdout.")
    ] = None,
    source: SOURCE = None,
    sysfs: SYSFS = "/sys",
    procfs: PROCFS = "/proc",
    format_: SHOW_FORMAT = ShowFormat.TEXT,
    wake: WAKE = False,
    quiet: QUIET = False,
) -> int:
    """Write what check reads into an archive for a bug report; serial numbers and the like are blanked."""
    from iommud.cli.capturing import run_capture
    from iommud.cli.showing import Machine

    return run_capture(Machine(source or place, sysfs, procfs, None, wake), output, format_, quiet=quiet)
