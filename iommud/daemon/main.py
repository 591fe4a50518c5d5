# SPDX-License-Identifier: GPL-2.0-or-later
"""The daemon's process: ``python -m iommud.daemon.main SETTINGS``, with settings as ``Settings.to_json`` writes them.

The command line starts it in its own place, so that the memory of what parsed the options is given back.
"""

# ruff: noqa: PLC0415 - each of the two kinds of process loads only what it needs

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from iommud.daemon.exposition import exposition
from iommud.daemon.log import LogFormat, log_event, set_up_logging
from iommud.daemon.metrics import ActivityCollector, ProcessCollector
from iommud.daemon.notify import Notifier
from iommud.daemon.publication import Board
from iommud.daemon.settings import DEFAULT_RUNTIME_DIRECTORY, Settings
from iommud.errors import IommudError

if TYPE_CHECKING:
    from iommud.daemon.service import CollectorService
    from iommud.daemon.web import Server

__all__ = ["main"]

EXIT_USAGE = 2
EXIT_TROUBLE = 4
_SWITCH_INTERVAL = 0.001
"""Seconds after which the worker lets the loop go on; Python's own choice is five times as long."""


def main(arguments: list[str]) -> int:
    """Run until told to stop; gives the exit status."""
    settings = Settings.from_json(arguments[0])
    set_up_logging(LogFormat(settings.log_format), settings.log_level)
    sys.setswitchinterval(_SWITCH_INTERVAL)
    try:
        return asyncio.run(_collect(settings) if settings.collect else _serve(settings))
    except IommudError as error:
        log_event(logging.ERROR, "cannot start", error=str(error))
        # What the system refuses may work later; all else is wrong until somebody changes the options.
        return EXIT_TROUBLE if isinstance(error.__cause__, OSError) else EXIT_USAGE


async def _collect(settings: Settings) -> int:
    """Watch the machine, and serve what is found unless another process does."""
    from iommud.daemon.service import CollectorService

    notifier, board, ended = Notifier(os.environ), Board(), asyncio.Event()
    _on_signals(ended.set)
    service = CollectorService(settings, notifier, board)
    collectors = (ActivityCollector(service.activity), ProcessCollector())
    server = None
    if settings.serve:
        server = _open(
            settings,
            board,
            lambda openmetrics: exposition(*collectors, openmetrics=openmetrics),
            lambda: service.busy_for,
        )
    _on_reload(lambda: _reload(server, service))
    service.start()
    _settle()
    await ended.wait()
    notifier.stopping()
    if server is not None:
        server.stop()
    return _ended(clean=service.stop())


async def _serve(settings: Settings) -> int:
    """Serve what a collector has written into the runtime directory."""
    from iommud.daemon.follow import Follower

    notifier, board, ended = Notifier(os.environ), Board(), asyncio.Event()
    _on_signals(ended.set)
    follower = Follower(Path(settings.runtime_directory or DEFAULT_RUNTIME_DIRECTORY), board)
    server = _open(
        settings,
        board,
        lambda openmetrics: exposition(ProcessCollector(), openmetrics=openmetrics),
        lambda: follower.busy_for,
    )
    _on_reload(lambda: _reload_server(server, notifier, follower.look))
    await follower.start()
    notifier.ready("serving")
    _settle()
    _ping(notifier, lambda: follower.busy_for)
    await ended.wait()
    notifier.stopping()
    server.stop()
    follower.stop()
    return 0


def _open(
    settings: Settings, board: Board, own_metrics: Callable[[bool], bytes], busy_for: Callable[[], float]
) -> Server:
    """Listen, and begin to serve. Raises ListenError and TlsError."""
    from iommud.daemon.listen import inherited_sockets, names_of, open_listeners
    from iommud.daemon.tls import TlsFiles
    from iommud.daemon.web import build_application, start

    tls = TlsFiles.of(settings.tls_certificate, settings.tls_key, settings.tls_client_ca)
    inherited = inherited_sockets(os.environ)
    sockets = open_listeners(
        settings.listen, tls=tls is not None, allow_plain=settings.allow_plain, inherited=inherited
    )
    application = build_application(board, own_metrics, stale_after=settings.stale_after, busy_for=busy_for)
    server = start(application, sockets, tls)
    log_event(logging.INFO, "listening", addresses=" ".join(names_of(sockets)), tls=tls is not None)
    return server


def _on_signals(end: Callable[[], None]) -> None:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, end)
    # Until there is something to reload, a hang-up must not end the process.
    loop.add_signal_handler(signal.SIGHUP, lambda: None)


def _on_reload(reload: Callable[[], None]) -> None:
    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, reload)


def _reload(server: Server | None, service: CollectorService) -> None:
    log_event(logging.INFO, "reloading")
    if server is not None:
        _reload_certificates(server)
    service.reload()


def _reload_server(server: Server, notifier: Notifier, look: Callable[[], None]) -> None:
    notifier.reloading()
    log_event(logging.INFO, "reloading")
    _reload_certificates(server)
    look()
    notifier.ready("serving")


def _reload_certificates(server: Server) -> None:
    try:
        server.reload()
    except IommudError as error:
        log_event(logging.WARNING, "certificates stay as they were", error=str(error))


def _ping(notifier: Notifier, busy_for: Callable[[], float]) -> None:
    """Signs of life, from the loop, and none while its worker is stuck."""
    interval = notifier.watchdog
    if interval is None:
        return
    if busy_for() < interval:
        notifier.alive()
    asyncio.get_running_loop().call_later(interval / 3, _ping, notifier, busy_for)


def _settle() -> None:
    """What has been loaded stays for good: no collection needs to look at it again."""
    gc.collect()
    gc.freeze()


def _ended(*, clean: bool) -> int:
    """The exit status; at once if the worker hangs in a read that may never end."""
    if not clean:
        log_event(logging.WARNING, "ended in the middle of a look at the machine")
        logging.shutdown()
        os._exit(0)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
