# SPDX-License-Identifier: GPL-2.0-or-later
"""Uevents of the running kernel, asked for through ``/sys/bus/pci/devices/*/uevent``: harmless, and for root only."""

import asyncio
import fcntl
import os
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from iommud.address import Address
from iommud.daemon.coalesce import Coalescer
from iommud.daemon.uevents import Uevent, UeventSource, connect_kernel

FUNCTIONS = sorted(Path("/sys/bus/pci/devices").glob("*/uevent"))


def reason_against() -> str | None:
    """Why no event can be had here, or None."""
    if not FUNCTIONS or not all(os.access(one, os.W_OK) for one in FUNCTIONS):
        return "needs a PCI function, and the right to write to its uevent attribute"
    source = UeventSource()
    try:
        if not source.open():
            return source.problem
        send(1)
        return None if wait_for(source, 1) else "the kernel's uevents do not reach this network namespace"
    finally:
        source.close()


def send(count: int) -> None:
    """Ask the kernel to tell of a change of so many functions, one after the other."""
    for index in range(count):
        FUNCTIONS[index % len(FUNCTIONS)].write_text("change")


def wait_for(source: UeventSource, count: int, seconds: float = 2) -> list[Uevent]:
    found: list[Uevent] = []
    deadline = time.monotonic() + seconds
    while len(found) < count and time.monotonic() < deadline:
        found += source.drain()
        time.sleep(0.001)
    return found


NO_EVENTS = reason_against()
pytestmark = pytest.mark.skipif(NO_EVENTS is not None, reason=str(NO_EVENTS))


@pytest.fixture(autouse=True)
def alone() -> Iterator[None]:
    """No other process that runs these tests sends events meanwhile."""
    with Path(__file__).open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@pytest.fixture
def source() -> Iterator[UeventSource]:
    source = UeventSource()
    assert source.open()
    yield source
    source.close()


def test_a_change_of_a_function_is_heard(source: UeventSource) -> None:
    send(1)

    found = wait_for(source, 1)

    assert Uevent(action="change", address=Address.from_name(FUNCTIONS[0].parent.name)) in found
    assert source.events["change"] >= 1
    assert (source.losses, source.overruns) == (0, 0)


def test_an_overrun_is_counted_and_repaired() -> None:
    # 1 byte is raised to what the kernel grants at least, which holds a few events.
    source = UeventSource(lambda: connect_kernel(receive_buffer=1))
    assert source.open()
    try:
        send(200)
        source.drain()
        assert (source.overruns, source.restarts, source.losses) == (1, 1, 1)

        for _ in range(10):
            assert source.drain() == [], "an overrun is over once it was noticed"
        send(1)
        assert wait_for(source, 1), "the new monitor hears"
        assert source.overruns == 1
    finally:
        source.close()


def close(descriptor: int) -> None:
    os.close(descriptor)


def hang_up(descriptor: int) -> None:
    near, far = socket.socketpair()
    far.close()
    os.dup2(near.fileno(), descriptor)
    near.close()


@pytest.mark.parametrize("kill", [close, hang_up])
def test_a_monitor_that_was_killed_is_replaced(kill: Callable[[int], None], source: UeventSource) -> None:
    assert source._monitor is not None
    kill(source._monitor.fileno())
    send(1)
    source.drain()

    assert (source.restarts, source.losses, source.overruns) == (1, 1, 0)
    send(1)
    assert wait_for(source, 1)


class Looker:
    """Has a coalescer decide when to look again, as the daemon does."""

    def __init__(self, source: UeventSource) -> None:
        self.heard = 0
        self.looks = 0
        self.losses = 0
        self._coalescer = Coalescer(quiet=0.05, maximum=0.5)
        self._loop = asyncio.get_running_loop()
        source.watch(self._loop, self)

    def __call__(self, events: Sequence[Uevent], lost: bool) -> None:
        self.heard += len(events)
        self.losses += lost
        self._coalescer.trigger(self._loop.time(), "uevent")

    async def look_until(self, heard: int = 0, losses: int = 0) -> None:
        async with asyncio.timeout(30):
            while self.heard < heard or self.losses < losses or self._coalescer.next_deadline() is not None:
                await asyncio.sleep(0.005)
                self.looks += self._coalescer.due(self._loop.time()) is not None


def test_a_storm_of_ten_thousand_events_leads_to_few_looks(source: UeventSource) -> None:
    async def storm() -> Looker:
        looker = Looker(source)
        sender = asyncio.to_thread(send, 10_000)
        await asyncio.gather(sender, looker.look_until(10_000))
        return looker

    started = time.monotonic()
    looker = asyncio.run(storm())
    duration = time.monotonic() - started

    assert looker.heard >= 10_000
    assert looker.losses == 0
    assert 1 <= looker.looks <= duration / 0.5 + 2


def test_a_storm_that_overruns_the_buffer_is_heard_of_all_the_same() -> None:
    async def storm() -> Looker:
        source = UeventSource(lambda: connect_kernel(receive_buffer=1))
        looker = Looker(source)
        send(5_000)  # from the loop itself, so that nobody reads meanwhile
        await looker.look_until(losses=1)
        send(1)
        await looker.look_until(looker.heard + 1)
        assert source.overruns >= 1
        assert source.up
        source.close()
        return looker

    looker = asyncio.run(storm())

    assert looker.losses >= 1
    assert looker.looks >= 1
