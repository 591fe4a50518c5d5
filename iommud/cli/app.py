# SPDX-License-Identifier: GPL-2.0-or-later
"""The verbs. Each imports what it needs when it runs, so that starting one does not load the others."""

from __future__ import annotations

from typing import Annotated

import typer

from iommud import __version__
from iommud.cli.options import (
    COLOUR,
    KERNEL,
    OUTPUT,
    PLACE,
    PROCFS,
    QUIET,
    SHOW_FORMAT,
    SOURCE,
    SYSFS,
    VERBOSE,
    WAKE,
    CheckFormat,
    Colour,
    DiffFormat,
    GraphFormat,
    ShowFormat,
)

EXIT_STATUSES = """\
Exit status: 0 nothing wrong (also: no IOMMU in use); 1 findings at or above --fail-on; 2 wrong usage; \
3 could not judge; 4 a source could not be read. With several sources or findings the first of 4, 1, 3, 0 that \
occurs. 130 after Ctrl-C, 141 when the reader of the output has gone."""

DIFF_STATUSES = """\
Exit status: 0 the same functions, groups and findings; 1 different; 2 trouble: wrong usage, or a source that could \
not be read (as diff has it, and unlike the other verbs)."""
VFIO_STATUSES = """\
Exit status: 0 assignable and safe (without BDF: no group is unsafe); 1 not; 2 wrong usage; 3 could not judge; \
4 the source could not be read."""
SEPARATE_STATUSES = """\
Exit status: 0; with --separate: 0 they are apart, could be, or a change would isolate them from each other; 1 nothing \
that is known does; 3 facts are missing, or the search hit its limit."""
WHAT_IF_STATUSES = """\
Exit status: 0 computed; 2 wrong usage, or a change that this machine cannot undergo; 3 facts are missing that decide, \
or the machine could not be judged; 4 the source could not be read."""

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
    output: OUTPUT = None,
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
    expect: Annotated[
        str | None,
        typer.Option("--expect", metavar="FILE", help="Wanted groups, a JSON report or a list: others are findings."),
    ] = None,
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

    expectation = None
    if expect is not None:
        from iommud.cli.expecting import read_expectation

        if expect == "-" and "-" in (*(sources or []), *(more_sources or [])):
            raise typer.BadParameter("only one thing can come from standard input", param_hint="--expect")
        expectation = read_expectation(expect)
    options = CheckOptions(
        sysfs=sysfs,
        procfs=procfs,
        kernel=kernel,
        format=format_,
        selection=selection(only or [], ignore or [], fail_on),
        require_iommu=require_iommu,
        expectation=expectation,
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
    place: PLACE = None,
    source: SOURCE = None,
    sysfs: SYSFS = "/sys",
    procfs: PROCFS = "/proc",
    kernel: KERNEL = None,
    format_: SHOW_FORMAT = ShowFormat.TEXT,
    wake: WAKE = False,
    colour: COLOUR = Colour.AUTO,
) -> int:
    """Draw the PCI topology with actual and expected groups, ACS, and what is wrong."""
    from iommud.cli.showing import Machine, one_source, show_tree

    return show_tree(Machine(one_source(place, source), sysfs, procfs, kernel, wake), format_, colour)


@app.command()
def graph(
    place: PLACE = None,
    source: SOURCE = None,
    sysfs: SYSFS = "/sys",
    procfs: PROCFS = "/proc",
    kernel: KERNEL = None,
    format_: Annotated[
        GraphFormat, typer.Option("--format", "-f", help="A picture, or the text that Graphviz or Mermaid draws.")
    ] = GraphFormat.SVG,
    output: OUTPUT = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Draw every function, also where many are alike on a large machine.")
    ] = False,
    wake: WAKE = False,
) -> int:
    """Draw a picture of the topology: groups as areas, ties with their reasons, findings marked."""
    from iommud.cli.drawing import draw
    from iommud.cli.showing import Machine, one_source

    return draw(Machine(one_source(place, source), sysfs, procfs, kernel, wake), format_, output, everything=everything)


@app.command()
def groups(
    place: PLACE = None,
    source: SOURCE = None,
    sysfs: SYSFS = "/sys",
    procfs: PROCFS = "/proc",
    kernel: KERNEL = None,
    format_: SHOW_FORMAT = ShowFormat.TEXT,
    wake: WAKE = False,
    colour: COLOUR = Colour.AUTO,
) -> int:
    """List the groups with their members, and the functions that have none."""
    from iommud.cli.showing import Machine, one_source, show_groups

    return show_groups(Machine(one_source(place, source), sysfs, procfs, kernel, wake), format_, colour)


@app.command(epilog=SEPARATE_STATUSES)
def explain(
    addresses: Annotated[list[str], typer.Argument(metavar="BDF [BDF]", help="02:01.0 means domain 0000.")],
    separate: Annotated[
        bool, typer.Option("--separate", help="Of two functions: say what would put them into different groups.")
    ] = False,
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

    if separate:
        from iommud.cli.imagining import show_separation

        return show_separation(Machine(source, sysfs, procfs, kernel, wake), addresses, format_, colour)
    return show_explanation(Machine(source, sysfs, procfs, kernel, wake), addresses, format_, colour)


@app.command(epilog=DIFF_STATUSES)
def diff(
    before: Annotated[
        str, typer.Argument(metavar="BEFORE", help="A directory, an archive, or a JSON report of check; - is stdin.")
    ],
    after: Annotated[
        str | None, typer.Argument(metavar="[AFTER]", help="The same; without it: this machine as it is now.")
    ] = None,
    sysfs: SYSFS = "/sys",
    procfs: PROCFS = "/proc",
    kernel: KERNEL = None,
    format_: Annotated[DiffFormat, typer.Option("--format", "-f", help="How to print.")] = DiffFormat.TEXT,
    output: OUTPUT = None,
    wake: WAKE = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Leave nothing out.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing where nothing differs.")] = False,
    colour: COLOUR = Colour.AUTO,
) -> int:
    """Say what differs between two states of a machine, by members of groups, and what may explain it."""
    from iommud.cli.comparing import DiffOptions, run_diff
    from iommud.cli.showing import Machine

    options = DiffOptions(format_, output, colour, verbose=verbose, quiet=quiet)
    return run_diff(before, after, Machine(None, sysfs, procfs, kernel, wake), options)


@app.command(epilog=VFIO_STATUSES)
def vfio(
    address: Annotated[
        str | None, typer.Argument(metavar="[BDF]", help="02:01.0 means domain 0000. Without: every group.")
    ] = None,
    source: SOURCE = None,
    sysfs: SYSFS = "/sys",
    procfs: PROCFS = "/proc",
    kernel: KERNEL = None,
    format_: SHOW_FORMAT = ShowFormat.TEXT,
    wake: WAKE = False,
    colour: COLOUR = Colour.AUTO,
) -> int:
    """Say whether a function can be assigned to a guest safely, what comes along, who blocks, and how to do it."""
    from iommud.cli.assigning import show_assignment
    from iommud.cli.showing import Machine

    return show_assignment(Machine(source, sysfs, procfs, kernel, wake), address, format_, colour)


@app.command("what-if", epilog=WHAT_IF_STATUSES)
def what_if(
    place: PLACE = None,
    acs: Annotated[
        list[str] | None,
        typer.Option("--acs", metavar="on|off[=BDF]", help="Switch ACS everywhere, or at BDF; may be repeated."),
    ] = None,
    acs_override: Annotated[
        str | None,
        typer.Option("--acs-override", metavar="TOKENS", help="downstream, multifunction, id:VVVV:DDDD, or none."),
    ] = None,
    kernel: Annotated[str | None, typer.Option("--kernel", metavar="VERSION", help="Boot this kernel.")] = None,
    without: Annotated[
        list[str] | None, typer.Option("--without", metavar="BDF", help="Take a function out; may be repeated.")
    ] = None,
    move: Annotated[
        list[str] | None,
        typer.Option(
            "--move", metavar="BDF=SLOT", help="SLOT: a bridge, BRIDGE/DD.F, or a free address; may be repeated."
        ),
    ] = None,
    cmdline: Annotated[
        list[str] | None,
        typer.Option("--cmdline", metavar="WORDS", help="Add to the kernel command line; may be repeated."),
    ] = None,
    probe_order: Annotated[
        str | None,
        typer.Option("--probe-order", metavar="ORDER", help="top-down, bottom-up or bridges-last."),
    ] = None,
    source: SOURCE = None,
    sysfs: SYSFS = "/sys",
    procfs: PROCFS = "/proc",
    format_: Annotated[DiffFormat, typer.Option("--format", "-f", help="How to print.")] = DiffFormat.TEXT,
    output: OUTPUT = None,
    wake: WAKE = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Leave nothing out.")] = False,
    colour: COLOUR = Colour.AUTO,
) -> int:
    """Compute what the groups would be with other facts, and what that would allow or forbid; nothing is changed."""
    from iommud.cli.imagining import Wishes, run_what_if
    from iommud.cli.showing import Machine, one_source

    wishes = Wishes(
        acs=tuple(acs or ()),
        acs_override=acs_override,
        kernel=kernel,
        without=tuple(without or ()),
        move=tuple(move or ()),
        cmdline=tuple(cmdline or ()),
        probe_order=probe_order,
    )
    machine = Machine(one_source(place, source), sysfs, procfs, None, wake)
    return run_what_if(machine, wishes, format_, output, colour, verbose=verbose)


@app.command()
def defects(
    name: Annotated[
        str | None, typer.Argument(metavar="[ID]", help="The defect to tell of; default: list all.")
    ] = None,
    affecting: Annotated[
        str | None,
        typer.Option("--affecting", metavar="KERNEL", help="Only defects that this release has or may have."),
    ] = None,
    qemu: Annotated[
        str | None, typer.Option("--qemu", metavar="VERSION", help="And those of this QEMU, below a guest.")
    ] = None,
    seen: Annotated[
        str | None,
        typer.Option(
            "--seen", metavar="SOURCE", help="Only those that a directory or archive shows; / is this machine."
        ),
    ] = None,
    log: Annotated[
        str | None,
        typer.Option("--log", metavar="FILE", help="Only those that a kernel's or QEMU's log tells of, as of a hang."),
    ] = None,
    format_: SHOW_FORMAT = ShowFormat.TEXT,
) -> int:
    """List known defects of kernels and QEMU that bear on groups, or those of a release before you run it."""
    from iommud.cli.knowing import show_defects

    return show_defects(name, affecting, qemu, format_, seen=seen, log=log)


@app.command()
def capture(
    place: PLACE = None,
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
    from iommud.cli.showing import Machine, one_source

    return run_capture(Machine(one_source(place, source), sysfs, procfs, None, wake), output, format_, quiet=quiet)


@app.command()
def reproduce(
    place: PLACE = None,
    qemu: Annotated[
        str | None, typer.Option("--qemu", metavar="VERSION", help="The QEMU that is to run it; default: 10.0.")
    ] = None,
    output: OUTPUT = None,
    source: SOURCE = None,
    sysfs: SYSFS = "/sys",
    procfs: PROCFS = "/proc",
    kernel: KERNEL = None,
    format_: SHOW_FORMAT = ShowFormat.TEXT,
    wake: WAKE = False,
) -> int:
    """Print the QEMU command line that rebuilds a captured machine's buses and IOMMU, and what it cannot carry over."""
    from iommud.cli.reproducing import show_reproduction
    from iommud.cli.showing import Machine, one_source

    return show_reproduction(Machine(one_source(place, source), sysfs, procfs, kernel, wake), qemu, format_, output)
