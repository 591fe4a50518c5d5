# SPDX-License-Identifier: GPL-2.0-or-later
"""The daemon on a made-up machine, whose events come as ``action address`` over a socket instead of the kernel's.

usage: python -m tools.bench.daemon_process SETTINGS SOCKET
"""

from __future__ import annotations

import functools
import socket
import sys
from dataclasses import dataclass

from iommud.daemon import sources
from iommud.daemon.main import main
from iommud.daemon.uevents import Monitor, UeventSource


@dataclass
class Told:
    """An event."""

    action: str | None
    sys_name: str


class SocketMonitor:
    """A monitor that hears what comes over a datagram socket."""

    def __init__(self, path: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(path)
        self._socket.setblocking(False)

    def fileno(self) -> int:
        """The socket."""
        return self._socket.fileno()

    def poll(self, timeout: float) -> Told | None:  # noqa: ARG002 - the daemon never waits here
        """The next event."""
        try:
            action, _, name = self._socket.recv(200).decode().partition(" ")
        except BlockingIOError:
            return None
        return Told(action, name)


def run(settings: str, path: str) -> int:
    """The daemon, with the machine that the settings name taken for the kernel's own."""

    def connect() -> Monitor:
        return SocketMonitor(path)

    setattr(sources, "is_sysfs", lambda _: True)  # noqa: B010 - other types than these would be an error to mypy
    setattr(sources, "UeventSource", functools.partial(UeventSource, connect))  # noqa: B010 - as above
    return main([settings])


if __name__ == "__main__":
    sys.exit(run(sys.argv[1], sys.argv[2]))
