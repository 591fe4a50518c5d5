# SPDX-License-Identifier: GPL-2.0-or-later
"""What the service manager wants to know: ready, status, reloading, stopping, alive (sd_notify(3))."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping

from iommud.errors import visible

__all__ = ["Notifier"]

_LONGEST_STATUS = 200


class Notifier:
    """Sends to the socket that ``NOTIFY_SOCKET`` names, a path or (``@``) an abstract name; nowhere without one.

    A service manager that does not listen is no reason to fail: then nothing is sent.
    """

    def __init__(self, environment: Mapping[str, str]) -> None:
        address = environment.get("NOTIFY_SOCKET", "")
        self._address = f"\0{address[1:]}" if address.startswith("@") else address
        self.watchdog = _watchdog(environment)
        """Seconds within which the service manager wants a sign of life; None: it wants none."""

    def ready(self, status: str) -> None:
        """The first report is there, or a reload is done."""
        self._send("READY=1", _status(status))

    def status(self, status: str) -> None:
        """What ``systemctl status`` shows, one line."""
        self._send(_status(status))

    def reloading(self) -> None:
        """A reload has begun; ``ready`` ends it."""
        self._send("RELOADING=1", f"MONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")

    def stopping(self) -> None:
        """The end has begun."""
        self._send("STOPPING=1")

    def alive(self) -> None:
        """A sign of life."""
        self._send("WATCHDOG=1")

    def _send(self, *lines: str) -> None:
        if not self._address:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
                # A manager whose queue is full must not hold up the loop.
                sender.setblocking(False)
                sender.sendto("\n".join(lines).encode("utf-8", "replace"), self._address)
        except OSError:
            pass


def _status(text: str) -> str:
    return f"STATUS={visible(text)[:_LONGEST_STATUS]}"


def _watchdog(environment: Mapping[str, str]) -> float | None:
    """Seconds, from ``WATCHDOG_USEC``, if it is meant for this process (sd_watchdog_enabled(3))."""
    owner = environment.get("WATCHDOG_PID", "")
    interval = environment.get("WATCHDOG_USEC", "")
    if owner and owner != str(os.getpid()):
        return None
    return int(interval) / 1e6 if interval.isascii() and interval.isdigit() and int(interval) else None
