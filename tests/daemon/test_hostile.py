# SPDX-License-Identifier: GPL-2.0-or-later
"""Clients that mean harm, plain and with TLS: an honest scraper is served meanwhile, and memory stays what it was."""

import contextlib
import itertools
import resource
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.daemon.serving import Running, connect, fetch, running
from tests.daemon.test_tls import client, issue

SECONDS = 1.0
"""How long each attack lasts before the honest client's answers are counted."""
CROWD = 400
"""Connections of an attack: three times what the server holds."""
PATIENCE = 5.0
"""Seconds that an honest scrape may take here, beside the attacker on the same busy machine."""
GROWTH = 24 << 20
"""Bytes that an attack may add. A TLS connection costs OpenSSL about 70 KiB, of which the server holds 128."""
SLACK = 6 << 20
"""Bytes that a second wave of the same attack may add to what the first left behind."""


@dataclass
class Attacker:
    """What an attack needs: the server's address, how to speak to it, and when to stop."""

    address: tuple[str, int]
    tls: ssl.SSLContext | None
    ended: threading.Event = field(default_factory=threading.Event)
    held: list[socket.socket] = field(default_factory=list)

    def open(self, *, raw: bool = False) -> socket.socket | None:
        """A connection; ``raw``: without the handshake of TLS. None if the server would not have it.

        Some hundreds a second: what more of them cost is a matter of the processor, not of patience.
        """
        time.sleep(0.002)
        try:
            found = connect(self.address, None if raw else self.tls, 2)
        except OSError:
            return None
        self.held.append(found)
        if len(self.held) > CROWD:
            self.held.pop(0).close()
        return found

    def send(self, one: socket.socket, data: bytes) -> bool:
        """Send without waiting long; False if the server has closed."""
        try:
            one.settimeout(0.2)
            one.sendall(data)
        except TimeoutError:
            return True
        except OSError:
            return False
        return True

    def close(self) -> None:
        for one in self.held:
            one.close()


Attack = Callable[[Attacker], None]


def half_open(attacker: Attacker) -> None:
    """Connections that never say a word, not even of TLS."""
    while not attacker.ended.is_set():
        attacker.open(raw=True)


def dripping(attacker: Attacker) -> None:
    """Heads of requests that come by the byte, on as many connections as there are."""
    head = itertools.cycle(b"GET /metrics HTTP/1.1\r\nX-Slow: " + b"a" * 500)
    while not attacker.ended.is_set():
        attacker.open()
        letter = bytes([next(head)])
        for one in list(attacker.held):
            attacker.send(one, letter)


def dripping_handshakes(attacker: Attacker) -> None:
    """What looks like the beginning of a TLS handshake, by the byte."""
    hello = itertools.cycle(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500))
    while not attacker.ended.is_set():
        attacker.open(raw=True)
        letter = bytes([next(hello)])
        for one in list(attacker.held):
            attacker.send(one, letter)


def huge_heads(attacker: Attacker) -> None:
    """Headers without end."""
    while not attacker.ended.is_set():
        one = attacker.open()
        if one is not None and attacker.send(one, b"GET /metrics HTTP/1.1\r\n"):
            while not attacker.ended.is_set() and attacker.send(one, b"X-Large: " + b"a" * 65536 + b"\r\n"):
                pass


def huge_bodies(attacker: Attacker) -> None:
    """Bodies of a gigabyte, announced or in chunks."""
    chunks = b"Transfer-Encoding: chunked\r\n\r\n" + (b"400\r\n" + b"b" * 1024 + b"\r\n") * 64
    announced = b"Content-Length: 1073741824\r\n\r\n" + b"b" * 65536
    while not attacker.ended.is_set():
        for form in (chunks, announced):
            one = attacker.open()
            if one is not None and attacker.send(one, b"POST /metrics HTTP/1.1\r\nHost: x\r\n" + form):
                while not attacker.ended.is_set() and attacker.send(one, b"b" * 65536):
                    pass


def pipelining(attacker: Attacker) -> None:
    """Thousands of requests in a row, no answer ever read."""
    many = b"GET / HTTP/1.1\r\nHost: x\r\nAccept-Encoding: gzip\r\n\r\n" * 2000
    while not attacker.ended.is_set():
        one = attacker.open()
        if one is not None:
            attacker.send(one, many)


def not_reading(attacker: Attacker) -> None:
    """The largest answer, asked for by many with small buffers who read nothing."""
    while not attacker.ended.is_set():
        one = attacker.open()
        if one is not None:
            with contextlib.suppress(OSError):
                one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            attacker.send(one, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")


def bad_methods(attacker: Attacker) -> None:
    """Methods that nobody knows, other protocols, and noise."""
    forms = itertools.cycle(
        (
            b"BREW / HTCPCP/1.0\r\n\r\n",
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            b"\x00" * 9000,
            b"TRACE /metrics HTTP/1.1\r\nHost: x\r\n\r\n",
            b"\xff\xfe GET \r\r\r\n\n\n",
            b"CONNECT x:1 HTTP/1.1\r\n\r\n",
        )
    )
    while not attacker.ended.is_set():
        one = attacker.open()
        if one is not None:
            attacker.send(one, next(forms))


def early_close(attacker: Attacker) -> None:
    """Requests whose senders are gone, by a reset, before they are answered."""
    at_once = struct.pack("ii", 1, 0)  # SO_LINGER on, for no time: close() resets
    while not attacker.ended.is_set():
        one = attacker.open()
        if one is not None:
            attacker.send(one, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            with contextlib.suppress(OSError):
                one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, at_once)
            one.close()
            attacker.held.clear()


ATTACKS: tuple[Attack, ...] = (
    half_open,
    dripping,
    dripping_handshakes,
    huge_heads,
    huge_bodies,
    pipelining,
    not_reading,
    bad_methods,
    early_close,
)


@pytest.fixture(scope="module", autouse=True)
def _enough_descriptors() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 4096), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.fixture(scope="module", params=["plain", "TLS"])
def target(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Running, bool]]:
    """A server with a page of two megabytes, and whether it speaks TLS."""
    secure = request.param == "TLS"
    directory: Path = tmp_path_factory.mktemp("tls")
    with running(tls=[*issue(directory), None] if secure else (None, None, None), page_kib=2048) as server:
        context = client() if secure else None
        for path in ("/", "/metrics"):
            fetch(server.address, path, tls=context)
        yield server, secure


def wave(attack: Attack, server: Running, tls: ssl.SSLContext | None, honest: ssl.SSLContext | None) -> list[float]:
    """Seconds that each honest scrape took while the attack went on."""
    attacker = Attacker(server.address, tls)
    thread = threading.Thread(target=attack, args=(attacker,))
    thread.start()
    try:
        time.sleep(SECONDS)
        return [scrape(server, honest) for _ in range(5)]
    finally:
        attacker.ended.set()
        thread.join(30)
        attacker.close()


def scrape(server: Running, tls: ssl.SSLContext | None) -> float:
    started = time.monotonic()
    assert fetch(server.address, tls=tls, timeout=PATIENCE).status == 200
    return time.monotonic() - started


@pytest.mark.parametrize("attack", ATTACKS)
def test_no_client_keeps_an_honest_scraper_from_its_metrics_or_makes_memory_grow(
    target: tuple[Running, bool], attack: Attack
) -> None:
    server, secure = target
    context = client() if secure else None
    sizes = [server.resident]

    # On a busy machine one wave may not reach the most that is ever held at once; growth has to end all the same.
    while len(sizes) < 3 or (sizes[-1] - sizes[-2] >= SLACK and len(sizes) < 6):
        assert max(wave(attack, server, context, context)) < PATIENCE
        sizes.append(server.resident)

    assert sizes[-1] - sizes[0] < GROWTH
    assert sizes[-1] - sizes[-2] < SLACK
    assert server.process.poll() is None
