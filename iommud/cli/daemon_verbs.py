# SPDX-License-Identifier: GPL-2.0-or-later
"""The verbs of the daemon: run, serve, status. Importing this module adds them to the program."""

from __future__ import annotations

from typing import Annotated

import typer

from iommud.cli.app import EXIT_STATUSES, app
from iommud.cli.options import (
    ALLOW_PLAIN,
    CLIENT_CA,
    KERNEL,
    LISTEN,
    LOG_FORMAT,
    LOG_LEVEL,
    PROCFS,
    RUNTIME_DIRECTORY,
    SOURCE,
    STALE_AFTER,
    SYSFS,
    TLS_CERTIFICATE,
    TLS_KEY,
    WAKE,
)

__all__ = ["app", "run", "serve", "status"]


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
            help="Where to keep what is known, to tell after a reboot what changed; made if missing.",
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
    client_certificate: Annotated[
        str | None,
        typer.Option(
            "--web.client-cert-file", metavar="FILE", help="Show a daemon that asks for one this certificate (PEM)."
        ),
    ] = None,
    client_key: Annotated[
        str | None, typer.Option("--web.client-key-file", metavar="FILE", help="Its key (PEM), if not in that file.")
    ] = None,
    authorities: Annotated[
        str | None,
        typer.Option(
            "--web.tls-ca-file",
            metavar="FILE",
            help="Trust a daemon certified by these, not by the system's authorities.",
        ),
    ] = None,
    runtime_directory: RUNTIME_DIRECTORY = None,
    stale_after: STALE_AFTER = None,
) -> int:
    """Print what the running daemon has found, and how old that is; fails as check does, with 4 if it is stale."""
    from iommud.cli.daemon import duration
    from iommud.cli.status import ClientTls, Place, show_status

    tls = ClientTls(client_certificate, client_key, authorities)
    try:
        place = None if where is None else Place.of(where)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="URL") from error
    if tls != ClientTls() and (place is None or not place.secure):
        raise typer.BadParameter("certificates are for a URL that begins with https://")
    if client_key is not None and client_certificate is None:
        raise typer.BadParameter("--web.client-key-file needs --web.client-cert-file")
    return show_status(
        place, runtime_directory, None if stale_after is None else duration(stale_after, "--stale-after"), tls
    )
