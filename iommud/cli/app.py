# SPDX-License-Identifier: GPL-2.0-or-later
"""The verbs. Each imports what it needs when it runs, so that starting one does not load the others."""

from __future__ import annotations

from typing import Annotated

import typer

from iommud import __version__
from iommud.cli.options import (
    ALLOW_PLAIN,
    CLIENT_CA,
    COLOUR,
    KERNEL,
    LISTEN,
    LOG_FORMAT,
    LOG_LEVEL,
    OUTPUT,
    PROCFS,
    QUIET,
    RUNTIME_DIRECTORY,
    SHOW_FORMAT,
    SOURCE,
    STALE_AFTER,
    SYSFS,
    TLS_CERTIFICATE,
    TLS_KEY,
    VERBOSE,
    WAKE,
    CheckFormat,
    Colour,
    DiffFormat,
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
    format_: SHOW_FORMAT = ShowFormat.TEXT,
) -> int:
    """List known defects of kernels and QEMU that bear on groups, or those of a release before you run it."""
    from iommud.cli.knowing import show_defects

    return show_defects(name, affecting, qemu, format_)


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


@app.command()
def run(
    source: SOURCE = None,
    sysfs: SYSFS = "/sys",
    procfs: PROCFS = "/proc",
    kernel: KERNEL = None,
    wake: WAKE = False,
    web: Annotated[bool, typer.Option("--web/--no-web", help="Serve HTTP, or only write --runtime-directory.")] = True,
    listen: LISTEN = None,
    tls_certificate: TLS_CERTIFICATE = None,
    tls_key: TLS_KEY = None,
    client_ca: CLIENT_CA = None,
    allow_plain: ALLOW_PLAIN = False,
    runtime_directory: RUNTIME_DIRECTORY = None,
    state_directory: Annotated[
        str | None,
        typer.Option(
            "--state-directory",
            metavar="DIR",
            envvar="IOMMUD_STATE_DIRECTORY",
            help="Where to keep what is known, to tell after a reboot what changed.",
        ),
    ] = None,
    accept_file: Annotated[
        str | None,
        typer.Option(
            "--accept-file", metavar="FILE", envvar="IOMMUD_ACCEPT_FILE", help="Findings that are accepted (TOML)."
        ),
    ] = None,
    watch_uevents: Annotated[
        bool, typer.Option("--watch.uevents/--no-watch.uevents", help="Listen to the kernel's events.")
    ] = True,
    watch_groups: Annotated[
        bool, typer.Option("--watch.groups/--no-watch.groups", help="Poll groups and IOMMUs, which have no events.")
    ] = True,
    poll_interval: Annotated[
        str, typer.Option("--watch.groups-interval", metavar="TIME", help="How often to poll.")
    ] = "15s",
    quiet_time: Annotated[
        str, typer.Option("--watch.quiet-time", metavar="TIME", help="Look when nothing happened for this long,")
    ] = "200ms",
    maximum_delay: Annotated[
        str, typer.Option("--watch.maximum-delay", metavar="TIME", help="but no later than this.")
    ] = "5s",
    reconcile_interval: Annotated[
        str, typer.Option("--reconcile-interval", metavar="TIME", help="Look at everything this often in any case.")
    ] = "5m",
    stale_after: STALE_AFTER = None,
    fail_on: Annotated[
        str, typer.Option("--fail-on", metavar="SEVERITY", help="As in check: what `iommud status` fails on.")
    ] = "warning",
    require_iommu: Annotated[
        bool, typer.Option("--require-iommu", help="As in check: a machine without an IOMMU in use fails.")
    ] = False,
    function_groups: Annotated[
        bool, typer.Option("--metrics.function-groups", help="One series for each function, for inventories.")
    ] = False,
    log_format: LOG_FORMAT = "logfmt",
    log_level: LOG_LEVEL = "info",
) -> int:
    """Watch this machine, and serve metrics and a status page. Times are written as 90s, 5m or 1h."""
    from iommud.cli.daemon import duration, start
    from iommud.daemon.settings import Settings

    settings = Settings(
        serve=web,
        source=source,
        sysfs=sysfs,
        procfs=procfs,
        kernel=kernel,
        wake=wake,
        listen=tuple(listen or ()),
        tls_certificate=tls_certificate,
        tls_key=tls_key,
        tls_client_ca=client_ca,
        allow_plain=allow_plain,
        runtime_directory=runtime_directory,
        state_directory=state_directory,
        accept_file=accept_file,
        watch_uevents=watch_uevents,
        watch_groups=watch_groups,
        poll_interval=duration(poll_interval, "--watch.groups-interval"),
        quiet=duration(quiet_time, "--watch.quiet-time"),
        delay=duration(maximum_delay, "--watch.maximum-delay"),
        reconcile_interval=duration(reconcile_interval, "--reconcile-interval"),
        stale_after=None if stale_after is None else duration(stale_after, "--stale-after"),
        fail_on=fail_on,
        require_iommu=require_iommu,
        function_groups=function_groups,
        log_format=log_format,
        log_level=log_level,
    )
    return start(settings)


@app.command()
def serve(
    runtime_directory: RUNTIME_DIRECTORY = None,
    listen: LISTEN = None,
    tls_certificate: TLS_CERTIFICATE = None,
    tls_key: TLS_KEY = None,
    client_ca: CLIENT_CA = None,
    allow_plain: ALLOW_PLAIN = False,
    stale_after: STALE_AFTER = None,
    log_format: LOG_FORMAT = "logfmt",
    log_level: LOG_LEVEL = "info",
) -> int:
    """Serve what `iommud run --no-web` writes into its runtime directory; needs no access to the machine."""
    from iommud.cli.daemon import duration, start
    from iommud.daemon.settings import Settings

    settings = Settings(
        collect=False,
        runtime_directory=runtime_directory,
        listen=tuple(listen or ()),
        tls_certificate=tls_certificate,
        tls_key=tls_key,
        tls_client_ca=client_ca,
        allow_plain=allow_plain,
        stale_after=None if stale_after is None else duration(stale_after, "--stale-after"),
        log_format=log_format,
        log_level=log_level,
    )
    return start(settings)


@app.command(epilog=EXIT_STATUSES)
def status(
    where: Annotated[
        str | None, typer.Argument(metavar="[URL]", help="http://host:port, https://host:port or unix:/path.")
    ] = None,
    runtime_directory: RUNTIME_DIRECTORY = None,
    stale_after: STALE_AFTER = None,
) -> int:
    """Print what the running daemon has found, and how old that is; fails as check does, with 4 if it is stale."""
    from iommud.cli.daemon import duration
    from iommud.cli.status import show_status

    return show_status(
        where, runtime_directory, None if stale_after is None else duration(stale_after, "--stale-after")
    )
