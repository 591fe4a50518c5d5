# SPDX-License-Identifier: GPL-2.0-or-later
"""The server on the wire: requests one after the other, limits and deadlines, a clean end."""

import contextlib
import gzip
import http.client
import re
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from iommud.daemon import web
from iommud.daemon.publication import save
from tests.daemon.serving import Running, connect, fetch, publication, running
from tests.daemon.test_tls import authority, client, issue

SHORT = {"HEAD_TIMEOUT": 0.6, "BODY_TIMEOUT": 0.6, "REQUEST_TIMEOUT": 1.5}


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    """One server for all tests that leave no trace in it."""
    with running() as found:
        yield found


@pytest.fixture(scope="module")
def hasty() -> Iterator[Running]:
    """A server with short deadlines and a page too large for the buffers of a socket."""
    with running(limits=SHORT, page_kib=8192) as found:
        yield found


def sent(server: Running, data: bytes) -> bytes:
    """Everything that the server answers to some bytes until it closes the connection."""
    with connect(server.address) as one:
        one.sendall(data)
        return received(one)


def received(one: socket.socket) -> bytes:
    """Everything up to the end or a reset."""
    found = b""
    with contextlib.suppress(ConnectionError):
        while piece := one.recv(1 << 16):
            found += piece
    return found


@pytest.mark.parametrize("path", ["/", "/metrics", "/report.json", "/report.txt", "/-/healthy", "/-/ready"])
def test_everything_that_is_promised_is_served(server: Running, path: str) -> None:
    plain = fetch(server.address, path)
    packed = fetch(server.address, path, accept_encoding="gzip")

    assert plain.status == 200
    assert plain.body
    assert "date" in plain.headers
    if packed.headers.get("content-encoding") == "gzip":
        assert gzip.decompress(packed.body)[:15] == plain.body[:15]


@pytest.mark.parametrize("path", ["/", "/metrics", "/report.json", "/nowhere"])
def test_head_has_the_length_and_no_body(server: Running, path: str) -> None:
    answer = fetch(server.address, path, method="HEAD")

    assert answer.body == b""
    assert int(answer.headers["content-length"]) > 0


def test_a_query_changes_nothing(server: Running) -> None:
    assert fetch(server.address, "/metrics?name[]=up").status == 200


def test_not_modified_has_no_body_and_keeps_the_connection(server: Running) -> None:
    connection = http.client.HTTPConnection(*server.address)
    with contextlib.closing(connection):
        connection.request("GET", "/report.json")
        first = connection.getresponse()
        first.read()
        for _ in range(3):
            connection.request("GET", "/report.json", headers={"If-None-Match": first.headers["ETag"]})
            again = connection.getresponse()
            assert (again.status, again.read()) == (304, b"")


def test_pipelined_requests_are_answered_in_their_order(server: Running) -> None:
    requests = b"".join(
        b"GET /%s HTTP/1.1\r\nHost: x\r\nConnection: %s\r\n\r\n" % pair
        for pair in ((b"-/healthy", b"keep-alive"), (b"nowhere", b"keep-alive"), (b"metrics", b"close"))
    )
    answers = sent(server, requests)

    assert re.findall(rb"HTTP/1.1 (\d+)", answers) == [b"200", b"404", b"200"]


@pytest.mark.parametrize("version", [b"HTTP/1.0", b"HTTP/1.1"])
def test_a_client_that_wants_the_connection_closed_has_its_way(server: Running, version: bytes) -> None:
    answer = sent(server, b"GET /-/healthy " + version + b"\r\nHost: x\r\nConnection: close\r\n\r\n")

    assert answer.endswith(b"\r\n\r\nhealthy\n")


@pytest.mark.parametrize("method", [b"POST", b"DELETE", b"BREW", b"get"])
def test_another_method_is_refused(server: Running, method: bytes) -> None:
    answer = sent(server, method + b" /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")

    assert answer.startswith(b"HTTP/1.1 405 ")
    assert b"Allow: GET, HEAD" in answer


@pytest.mark.parametrize(
    "request_",
    [
        b"\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET /metrics\r\n\r\n",
        b"GET /metrics HTTP/9.9\r\n\r\n",
        b"GET /metrics HTTP/1.1\r\nno colon\r\n\r\n",
        b"GET /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"GET /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 1, 2\r\n\r\n",
        b"POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9999999999\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nffffffff\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(600) + b"\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\x00\xff" * 50 + b"\r\n\r\n",
        b"GET /metrics HTTP/1.1\r\nX: " + b"a" * (web.MAX_HEAD + 1) + b"\r\n\r\n",
        b"GET /" + b"a" * (web.MAX_HEAD + 1) + b" HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * web.MAX_HEAD + b"\r\n",
    ],
)
def test_what_is_no_decent_request_is_refused_or_dropped(server: Running, request_: bytes) -> None:
    try:
        answer = sent(server, request_)
    except (BrokenPipeError, ConnectionResetError):
        answer = b""

    assert answer.split(b" ")[1:2] in ([], [b"400"])
    assert fetch(server.address).status == 200


def test_a_small_body_is_read_and_ignored(server: Running) -> None:
    answer = sent(server, b"GET /-/healthy HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello")

    assert answer.endswith(b"healthy\n")


@pytest.mark.parametrize(
    "begin",
    [b"", b"G", b"GET /metrics HTTP/1.1\r\nHost", b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 99\r\n\r\n"],
)
def test_a_request_that_comes_by_the_byte_is_cut_off_in_time(hasty: Running, begin: bytes) -> None:
    started = time.monotonic()
    with connect(hasty.address) as one:
        one.sendall(begin)
        with contextlib.suppress(ConnectionError):
            while time.monotonic() < started + 4:
                one.settimeout(0.05)
                with contextlib.suppress(TimeoutError):
                    if one.recv(100) == b"":
                        break
                if begin:
                    one.sendall(b"x")

    assert 0.3 < time.monotonic() - started < 2.5


def test_a_client_that_does_not_read_is_cut_off_in_time(hasty: Running) -> None:
    with socket.socket() as one:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        one.connect(hasty.address)
        one.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        time.sleep(SHORT["REQUEST_TIMEOUT"] + 0.5)
        got = received(one)

    assert 0 < len(got) < 8192 << 10
    assert len(fetch(hasty.address, "/").body) > 8192 << 10


def test_a_client_that_reads_slowly_but_in_time_gets_everything(hasty: Running) -> None:
    with connect(hasty.address) as one:
        one.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        time.sleep(0.4)

        assert received(one).endswith(b"</html>\n")


def test_what_was_pipelined_on_a_connection_that_was_cut_off_is_not_worked_off() -> None:
    many = b"GET / HTTP/1.1\r\nHost: x\r\nAccept-Encoding: gzip\r\n\r\n" * 1000
    with running(limits={"MAX_CONNECTIONS": 64}, page_kib=2048) as server, contextlib.ExitStack() as held:
        for _ in range(64):
            held.enter_context(connect(server.address)).sendall(many)
        time.sleep(0.7)  # all of them wait for someone to read their answers
        before = server.processor
        for _ in range(64):
            held.enter_context(connect(server.address))
        time.sleep(1)

        # Tens of requests lie in the buffer of each connection that was cut off: a tenth of a millisecond each.
        assert server.processor - before < 0.2


def test_beyond_the_limit_the_oldest_connection_makes_room() -> None:
    with running(limits={"MAX_CONNECTIONS": 8}) as server, contextlib.ExitStack() as held:
        waiting = [held.enter_context(connect(server.address)) for _ in range(8)]
        time.sleep(0.2)
        assert fetch(server.address).status == 200
        waiting[0].settimeout(2)
        waiting[7].settimeout(0.2)

        assert waiting[0].recv(1) == b""
        with pytest.raises(TimeoutError):
            waiting[7].recv(1)


def test_the_server_ends_at_once_whoever_is_connected(tmp_path: Path) -> None:
    tls = [*issue(tmp_path), None]
    with running(tls=tls, page_kib=8192) as server, contextlib.ExitStack() as held:
        for data in (b"", b"GET / HT", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"):
            held.enter_context(connect(server.address, client())).sendall(data)
        held.enter_context(connect(server.address))
        time.sleep(0.2)
        started = time.monotonic()
        server.process.terminate()

        assert server.process.wait(5) == 0
        assert time.monotonic() - started < 2


def test_a_unix_socket_is_served_without_tls_beside_a_port_with_it(tmp_path: Path) -> None:
    path = tmp_path / "web.sock"
    tls = [*issue(tmp_path), authority(tmp_path)]
    with running(listen=["127.0.0.1:0", f"unix:{path}"], tls=tls) as server:
        assert fetch(str(path)).status == 200
        assert fetch(server.address, tls=client(certificate=issue(tmp_path, name="client"))).status == 200


def test_what_another_process_saved_is_served_with_its_age(tmp_path: Path) -> None:
    save(publication(json=b'{"saved":true}\n', taken_at=time.time() - 3600), tmp_path)
    with running(directory=str(tmp_path)) as server:
        found = fetch(server.address, "/report.json")

        assert found.body == b'{"saved":true}\n'
        assert found.headers["iommud-stale"] == "true"
        assert b"Stale: this report is 1 hour old" in fetch(server.address, "/").body


def test_a_serving_process_is_small(server: Running) -> None:
    fetch(server.address)

    assert server.resident < 40 << 20
