# SPDX-License-Identifier: GPL-2.0-or-later
"""Five hundred slow clients at once: each is held or refused, an honest scraper is served, and all are gone in time."""

from __future__ import annotations

import contextlib
import os
import resource
import socket
import ssl
import statistics
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from iommud.daemon.web import HEAD_TIMEOUT, MAX_CONNECTIONS
from tests.daemon.serving import Running, connect, fetch, running
from tests.daemon.test_tls import client, issue

CLIENTS = 500
REQUEST_TIMEOUT = 8.0
"""Seconds; the server's own 25 would only make this test longer."""
SCRAPES = 20
PATIENCE = 5.0
"""Seconds that the slowest honest scrape may take, on a machine that does much else."""
USUAL = 1.0
"""Seconds that half of them may take."""
GROWTH = 24 << 20
"""Bytes that all of them together may cost: 70 KiB of OpenSSL for each of 128, and 64 KiB of buffers."""


@dataclass(frozen=True)
class Slow:
    """A way to be slow."""

    name: str
    first: bytes
    """What is said at once."""
    then: bytes
    """What is said again and again; nothing: a byte of the answer is read instead."""

    def __str__(self) -> str:
        return self.name


HEADS = Slow("head by the byte", b"GET /metrics HTTP/1.1\r\nHost: x\r\nX-Slow: ", b"a")
READERS = Slow("answer by the byte", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"")


class Crowd:
    """Five hundred of them, in a thread of their own."""

    def __init__(self, server: Running, tls: ssl.SSLContext | None, slow: Slow) -> None:
        self._slow = slow
        self._ended = threading.Event()
        # No connection of OpenSSL's may be used by two threads at once.
        self._lock = threading.Lock()
        self.states: list[str] = []
        self.sockets = [one for _ in range(CLIENTS) if (one := self._begin(server, tls)) is not None]
        self._thread = threading.Thread(target=self._drip)
        self._thread.start()

    def _begin(self, server: Running, tls: ssl.SSLContext | None) -> socket.socket | None:
        try:
            one = connect(server.address, tls, PATIENCE)
            one.sendall(self._slow.first)
        except OSError:
            self.states.append("refused")
            return None
        one.setblocking(False)
        return one

    def _drip(self) -> None:
        while not self._ended.wait(0.2):
            with self._lock:
                for one in self.sockets:
                    self._step(one)

    def _step(self, one: socket.socket) -> None:
        with contextlib.suppress(OSError):
            if self._slow.then:
                one.send(self._slow.then)
            else:
                one.recv(1)

    def count(self) -> Counter[str]:
        """How many are held and how many were refused."""
        with self._lock:
            return self._count()

    def _count(self) -> Counter[str]:
        return Counter([*self.states, *map(_state, self.sockets)])

    def end(self) -> None:
        """Leave."""
        self._ended.set()
        self._thread.join()
        for one in self.sockets:
            one.close()


def _state(one: socket.socket) -> str:
    """Reads what came so far, so that the end of the connection, if there is one, comes next."""
    try:
        while one.recv(1 << 16):
            pass
    except (BlockingIOError, ssl.SSLWantReadError):
        return "held"
    except OSError:
        pass
    return "refused"


@pytest.fixture(scope="module", autouse=True)
def _enough_descriptors() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 4096), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def descriptors(server: Running) -> int:
    """Files and connections that the server has open."""
    return len(os.listdir(f"/proc/{server.process.pid}/fd"))  # noqa: PTH208 - only their number is wanted


def scrapes(server: Running, tls: ssl.SSLContext | None) -> Iterator[float]:
    for _ in range(SCRAPES):
        begin = time.monotonic()
        assert fetch(server.address, tls=tls, timeout=PATIENCE).status == 200
        yield time.monotonic() - begin


@pytest.mark.parametrize("slow", [HEADS, READERS], ids=str)
@pytest.mark.parametrize("secure", [False, True], ids=["plain", "TLS"])
def test_five_hundred_slow_clients_are_held_or_refused_while_a_scraper_is_served(
    secure: bool, slow: Slow, tmp_path: Path
) -> None:
    files = [*issue(tmp_path), None] if secure else (None, None, None)
    tls = client() if secure else None
    with running(tls=files, page_kib=2048, limits={"REQUEST_TIMEOUT": REQUEST_TIMEOUT}) as server:
        for path in ("/", "/metrics"):
            fetch(server.address, path, tls=tls)
        before, open_before = server.resident, descriptors(server)
        crowd = Crowd(server, tls, slow)
        try:
            held = descriptors(server) - open_before
            took = list(scrapes(server, tls))
            grown = server.resident - before
            found = crowd.count()
            held_for_good = _held_until(crowd, max(HEAD_TIMEOUT, REQUEST_TIMEOUT) + PATIENCE)
        finally:
            crowd.end()

        assert found.total() == CLIENTS
        assert 0 < held <= MAX_CONNECTIONS
        assert found["held"] <= MAX_CONNECTIONS
        assert found["refused"] >= CLIENTS - MAX_CONNECTIONS
        assert max(took) < PATIENCE
        assert statistics.median(took) < USUAL
        assert grown < GROWTH
        assert held_for_good == 0
        assert server.process.poll() is None


def _held_until(crowd: Crowd, seconds: float) -> int:
    """How many are held when that time is over, or as soon as there are none."""
    deadline = time.monotonic() + seconds
    while (held := crowd.count()["held"]) and time.monotonic() < deadline:
        time.sleep(0.2)
    return held
