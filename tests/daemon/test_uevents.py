# SPDX-License-Identifier: GPL-2.0-or-later
"""The source of uevents with a monitor made up for the test: what is told, counted, lost and repaired."""

import asyncio
import errno
import os
import socket
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import pytest

from iommud.address import Address
from iommud.daemon.uevents import Device, Monitor, Uevent, UeventSource

FUNCTION = Address.parse("0000:00:01.0")


@dataclass
class Told:
    """A device as pyudev gives it."""

    action: str | None = "change"
    sys_name: str = "0000:00:01.0"


@dataclass
class ScriptedMonitor:
    """A monitor on a pair of sockets: one byte makes it readable for each event that it has."""

    waiting: list[Device | OSError] = field(default_factory=list)
    pair: tuple[socket.socket, socket.socket] = field(default_factory=socket.socketpair)

    def __post_init__(self) -> None:
        self.pair[0].setblocking(False)

    def fileno(self) -> int:
        return self.pair[0].fileno()

    def poll(self, timeout: float) -> Device | None:
        assert timeout == 0, "the loop must never wait here"
        if not self.waiting:
            return None
        self.pair[0].recv(1)
        first = self.waiting.pop(0)
        if isinstance(first, OSError):
            raise first
        return first

    def tell(self, *told: Device | OSError) -> None:
        self.waiting += told
        self.pair[1].send(bytes(len(told)))

    def close(self) -> None:
        for one in self.pair:
            one.close()


class Monitors:
    """Gives out monitors, and refuses while ``refuse`` is set."""

    def __init__(self) -> None:
        self.made: list[ScriptedMonitor] = []
        self.refuse: Exception | None = None

    def __call__(self) -> Monitor:
        if self.refuse is not None:
            raise self.refuse
        self.made.append(ScriptedMonitor())
        return self.made[-1]

    @property
    def last(self) -> ScriptedMonitor:
        return self.made[-1]


@pytest.fixture
def monitors() -> Iterator[Monitors]:
    monitors = Monitors()
    yield monitors
    for one in monitors.made:
        one.close()


@pytest.fixture
def source(monitors: Monitors) -> Iterator[UeventSource]:
    source = UeventSource(monitors, retry_after=0.01)
    assert source.open()
    yield source
    source.close()


def hang_up(monitor: ScriptedMonitor) -> None:
    monitor.pair[1].close()


def reset(monitor: ScriptedMonitor) -> None:
    """Make the socket itself carry an error, as netlink does after an overrun."""
    listener = socket.create_server(("127.0.0.1", 0))
    near = socket.create_connection(listener.getsockname())
    far, _ = listener.accept()
    listener.close()
    far.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    far.close()
    os.dup2(near.fileno(), monitor.fileno())
    near.close()


def fail_while_read(monitor: ScriptedMonitor) -> None:
    monitor.tell(OSError(errno.EIO, "Input/output error"))


def test_events_come_with_their_action_and_function(source: UeventSource, monitors: Monitors) -> None:
    monitors.last.tell(Told("add"), Told("bind"), Told("remove", "0001:ff:1f.7"))

    assert source.drain() == [
        Uevent(action="add", address=FUNCTION),
        Uevent(action="bind", address=FUNCTION),
        Uevent(action="remove", address=Address.parse("0001:ff:1f.7")),
    ]
    assert source.drain() == []
    assert source.events == {"add": 1, "bind": 1, "remove": 1}
    assert (source.losses, source.restarts, source.overruns) == (0, 0, 0)


@pytest.mark.parametrize("action", ["explode", "", None])
def test_actions_that_no_kernel_knows_are_counted_as_one(
    action: str | None, source: UeventSource, monitors: Monitors
) -> None:
    monitors.last.tell(Told(action))

    assert source.drain() == [Uevent(action="other", address=FUNCTION)]
    assert source.events == {"other": 1}


def test_a_name_that_is_no_address_is_still_a_reason_to_look(source: UeventSource, monitors: Monitors) -> None:
    monitors.last.tell(Told("add", "slot-3"))

    assert source.drain() == [Uevent(action="add", address=None)]


def test_a_storm_is_taken_in_pieces(source: UeventSource, monitors: Monitors) -> None:
    monitors.last.tell(*[Told() for _ in range(2000)])
    pieces = []
    while piece := source.drain():
        pieces.append(len(piece))

    assert sum(pieces) == 2000
    assert max(pieces) < 1000
    assert source.events["change"] == 2000


def test_what_changes_the_topology_is_told_from_what_does_not(source: UeventSource, monitors: Monitors) -> None:
    monitors.last.tell(Told("change"), Told("change"))
    source.drain()
    assert source.structural_changes == 0

    monitors.last.tell(Told("bind"), Told("remove"))
    source.drain()
    assert source.structural_changes == 2

    hang_up(monitors.last)
    source.drain()
    assert source.structural_changes == 3


@pytest.mark.parametrize("failure", [hang_up, reset, fail_while_read])
def test_a_monitor_that_fails_is_replaced_and_the_loss_told(
    failure: Callable[[ScriptedMonitor], None], source: UeventSource, monitors: Monitors
) -> None:
    monitors.last.tell(Told("bind"))
    failure(monitors.last)
    source.drain()

    assert len(monitors.made) == 2
    assert (source.losses, source.restarts, source.overruns) == (1, 1, 0)
    assert source.up
    monitors.last.tell(Told("add"))
    assert source.drain() == [Uevent(action="add", address=FUNCTION)]


def test_an_overrun_that_the_read_reports_is_counted_as_one(source: UeventSource, monitors: Monitors) -> None:
    monitors.last.tell(Told("bind"), OSError(errno.ENOBUFS, "No buffer space available"))

    assert source.drain() == [Uevent(action="bind", address=FUNCTION)], "what came before is not lost"
    assert (source.losses, source.restarts, source.overruns) == (1, 1, 1)


@pytest.mark.parametrize("refusal", [PermissionError(1, "Operation not permitted"), ImportError("No library udev")])
def test_a_machine_without_uevents_has_a_source_that_is_down(refusal: Exception, monitors: Monitors) -> None:
    monitors.refuse = refusal
    source = UeventSource(monitors)

    assert not source.open()
    assert not source.up
    assert str(refusal) in (source.problem or "")
    assert source.drain() == []
    with pytest.raises(ValueError, match="cannot listen"):
        source.fileno()


def test_a_source_that_was_closed_is_down(monitors: Monitors) -> None:
    source = UeventSource(monitors)
    source.open()
    source.close()
    source.close()

    assert not source.up
    assert source.problem == "closed"


class Heard:
    """Collects what the source calls back with."""

    def __init__(self) -> None:
        self.events: list[Uevent] = []
        self.losses = 0
        self._news = asyncio.Event()

    def __call__(self, events: Sequence[Uevent], lost: bool) -> None:
        self.events += events
        self.losses += lost
        self._news.set()

    async def until(self, *, events: int = 0, losses: int = 0) -> None:
        async with asyncio.timeout(5):
            while len(self.events) < events or self.losses < losses:
                self._news.clear()
                await self._news.wait()


def test_a_loop_is_told_of_events(source: UeventSource, monitors: Monitors) -> None:
    async def scenario() -> None:
        heard = Heard()
        source.watch(asyncio.get_running_loop(), heard)
        monitors.last.tell(Told("add"))
        await heard.until(events=1)
        monitors.last.tell(Told("bind"), Told("change"))
        await heard.until(events=3)
        source.close()
        assert [one.action for one in heard.events] == ["add", "bind", "change"]
        assert heard.losses == 0

    asyncio.run(scenario())


def test_a_loop_goes_on_with_the_new_monitor_after_a_hang_up(source: UeventSource, monitors: Monitors) -> None:
    async def scenario() -> None:
        heard = Heard()
        source.watch(asyncio.get_running_loop(), heard)
        hang_up(monitors.last)
        await heard.until(losses=1)
        monitors.last.tell(Told("add"))
        await heard.until(events=1)
        source.close()
        assert heard.losses == 1

    asyncio.run(scenario())


def test_a_loop_tries_again_until_events_can_be_heard(source: UeventSource, monitors: Monitors) -> None:
    async def scenario() -> None:
        heard = Heard()
        source.watch(asyncio.get_running_loop(), heard)
        monitors.refuse = OSError(errno.EMFILE, "Too many open files")
        hang_up(monitors.last)
        await heard.until(losses=1)
        assert "Too many open files" in (source.problem or "")
        await asyncio.sleep(0.05)
        monitors.refuse = None
        await heard.until(losses=2)
        monitors.last.tell(Told("add"))
        await heard.until(events=1)
        source.close()

    asyncio.run(scenario())


def test_a_loop_is_left_alone_after_close(source: UeventSource, monitors: Monitors) -> None:
    async def scenario() -> None:
        heard = Heard()
        monitors.refuse = OSError(errno.EMFILE, "Too many open files")
        source.close()
        source.watch(asyncio.get_running_loop(), heard)
        source.close()
        monitors.refuse = None
        await asyncio.sleep(0.05)
        assert heard.losses == 0
        assert len(monitors.made) == 1

    asyncio.run(scenario())
