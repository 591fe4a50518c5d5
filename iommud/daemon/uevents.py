# SPDX-License-Identifier: GPL-2.0-or-later
"""Uevents of PCI functions, straight from the kernel.

The source is ``kernel``, not ``udev``: a udev monitor hears nothing where no udevd runs, and says nothing about it.
An event is a reason to look, never data. Events may be lost, which is noticed and counted, never repaired: who is
told that some were lost looks at everything.
"""

from __future__ import annotations

import asyncio
import errno
import os
import select
import socket
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from iommud.address import Address

__all__ = ["ACTIONS", "Monitor", "Uevent", "UeventSource", "connect_kernel"]

ACTIONS = frozenset({"add", "remove", "change", "move", "online", "offline", "bind", "unbind"})
"""What the kernel can say of a device (``kobject_actions``, lib/kobject_uevent.c); all else is counted as other."""

_AT_ONCE = 512
"""Events taken in one go, so that a storm of them does not keep the loop from its other work."""


class Device(Protocol):
    """What is used of a ``pyudev.Device``."""

    action: str | None
    sys_name: str


class Monitor(Protocol):
    """What is used of a ``pyudev.Monitor``."""

    def fileno(self) -> int:
        """The netlink socket."""

    def poll(self, timeout: float) -> Device | None:
        """The next event, or None after so many seconds; raises OSError for ever once the socket has an error."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Uevent:
    """One event: what happened, one of ACTIONS or ``other``, and to which function; None if the name is no address."""

    action: str
    address: Address | None


def connect_kernel(receive_buffer: int | None = None) -> Monitor:
    """Listen to the kernel's PCI events.

    ``receive_buffer`` is the wanted size of the socket's buffer in bytes, None what libudev chooses. Raises OSError
    where the process may not, and ImportError without libudev.
    """
    import pyudev  # noqa: PLC0415 - loads libudev, which the daemon can do without

    monitor = pyudev.Monitor.from_netlink(pyudev.Context(), source="kernel")
    monitor.filter_by("pci")
    if receive_buffer is not None:
        monitor.set_receive_buffer_size(receive_buffer)
    monitor.start()
    kernel: Monitor = monitor
    return kernel


class UeventSource:
    """A monitor that is replaced as soon as it fails; to be used from one thread.

    ``events`` counts what came, by action. ``overruns`` counts how often the kernel dropped events because the buffer
    was full, ``restarts`` how often the monitor was replaced for that or any other reason. Whenever ``losses`` has
    grown, events may have been missed and everything should be looked at. ``problem`` says why it is not up.
    """

    def __init__(self, connect: Callable[[], Monitor] = connect_kernel, *, retry_after: float = 5.0) -> None:
        self.events: Counter[str] = Counter()
        self.overruns = 0
        self.restarts = 0
        self.losses = 0
        self.problem: str | None = "not started"
        self._structural = 0  # apart from events, which another thread must not sum up while it grows
        self._connect = connect
        self._retry_after = retry_after
        self._monitor: Monitor | None = None
        self._socket: socket.socket | None = None
        self._poll = select.poll()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._retry: asyncio.TimerHandle | None = None
        self._callback: Callable[[Sequence[Uevent], bool], None] | None = None

    @property
    def up(self) -> bool:
        """Whether events are heard."""
        return self._monitor is not None

    @property
    def structural_changes(self) -> int:
        """A number that grows whenever functions came, went, were bound or unbound, or that may have been missed.

        Any thread may ask for it.
        """
        return self._structural + self.losses

    def open(self) -> bool:
        """Start to listen, if it does not listen yet; False, and ``problem`` set, if that cannot be."""
        if self._monitor is not None:
            return True
        try:
            monitor = self._connect()
            # A descriptor of our own on the same socket: it tells of the socket's error, and stays if pyudev's is lost.
            self._socket = socket.socket(fileno=os.dup(monitor.fileno()))
        except (OSError, ImportError) as error:
            self.problem = f"cannot listen to uevents: {error}"
            return False
        self._poll = select.poll()
        self._poll.register(self._socket, select.POLLIN)
        self._poll.register(monitor.fileno(), select.POLLIN)
        self._monitor = monitor
        self.problem = None
        return True

    def close(self) -> None:
        """Stop to listen; a second call does nothing."""
        if self._retry is not None:
            self._retry.cancel()
        self._retry = self._loop = self._callback = None
        self._disconnect("closed")

    def fileno(self) -> int:
        """The descriptor that becomes readable with an event or an error, another one after each restart.

        Raises ValueError while it is not up.
        """
        if self._socket is None:
            raise ValueError(self.problem)
        return self._socket.fileno()

    def drain(self) -> list[Uevent]:
        """The events that wait, at most some hundred of them; after a failure ``losses`` has grown."""
        found: list[Uevent] = []
        if self._monitor is None:
            return found
        failure = 0
        try:
            while len(found) < _AT_ONCE and self._sound() and (device := self._monitor.poll(0)) is not None:
                found.append(self._counted(device))
            if self._sound():
                return found
        except OSError as error:
            failure = error.errno or 0
        self._replace(overrun=errno.ENOBUFS in {failure, self._pending_error()})
        return found

    def watch(self, loop: asyncio.AbstractEventLoop, callback: Callable[[Sequence[Uevent], bool], None]) -> None:
        """Call back from the loop with events and whether some were lost, and keep trying to listen until ``close``."""
        self._loop = loop
        self._callback = callback
        self.open()
        self._register()

    def _sound(self) -> bool:
        """Whether the socket has no error: once it has, pyudev raises for ever, or hears nothing more."""
        return not any(events & ~select.POLLIN for _, events in self._poll.poll(0))

    def _counted(self, device: Device) -> Uevent:
        action = device.action if device.action in ACTIONS else "other"
        self.events[action] += 1
        self._structural += action != "change"
        return Uevent(action=action, address=Address.from_name(device.sys_name))

    def _replace(self, *, overrun: bool) -> None:
        """Listen anew; what waited in the old socket is dropped, and the loss counted once the new one listens."""
        self.overruns += overrun
        self._disconnect("being replaced")
        self.open()
        self.restarts += 1
        self.losses += 1
        self._register()

    def _pending_error(self) -> int:
        """The error that waits in the socket; asking clears it."""
        try:
            return 0 if self._socket is None else self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        except OSError as error:
            return error.errno or 0

    def _disconnect(self, problem: str) -> None:
        if self._socket is not None:
            if self._loop is not None:
                self._loop.remove_reader(self._socket)
            if self._monitor is not None:
                # libudev aborts the process if the descriptor that it closes was closed before.
                os.dup2(self._socket.fileno(), self._monitor.fileno(), inheritable=False)
            self._monitor = None
            self._socket.close()
        self._socket = None
        self.problem = problem

    def _register(self) -> None:
        """Have the loop call when there is something to read, or, while nothing can be read, after a while."""
        if self._loop is None:
            return
        if self._socket is not None:
            self._loop.add_reader(self._socket, self._ready)
        else:
            self._retry = self._loop.call_later(self._retry_after, self._again)

    def _ready(self) -> None:
        lost_before = self.losses
        found = self.drain()
        if self._callback is not None and (found or self.losses != lost_before):
            self._callback(found, self.losses != lost_before)

    def _again(self) -> None:
        if self.open():
            self.losses += 1  # all that happened while nobody listened
            if self._callback is not None:
                self._callback((), True)
        self._register()
