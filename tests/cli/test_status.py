# SPDX-License-Identifier: GPL-2.0-or-later
"""``iommud status`` and a server that is not what it should be: nothing it says crashes, or drives the terminal."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from tests.cli.running import call

Capture = pytest.CaptureFixture[str]

TAKEN, EXIT = "Iommud-Snapshot-Timestamp", "Iommud-Exit-Status"


@contextmanager
def answering(headers: Mapping[str, str], body: bytes) -> Iterator[str]:
    """A server that gives one answer to everything."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize("taken", ["nan", "inf", "-inf", "1e400", "soon"])
def test_a_time_that_is_none_comes_from_no_iommud(taken: str, capsys: Capture) -> None:
    with answering({TAKEN: taken, EXIT: "0"}, b"ok\n") as url:
        assert call("status", url) == 4

    assert capsys.readouterr().err == f"iommud: {url}: what answers is no iommud\n"


@pytest.mark.parametrize("status", ["-1", "2", "256", "99999999999", "1.5"])
def test_an_exit_status_that_no_check_has_is_not_passed_on(status: str, capsys: Capture) -> None:
    with answering({TAKEN: str(time.time()), EXIT: status}, b"ok\n") as url:
        assert call("status", url) == 4

    assert capsys.readouterr().err == f"iommud: {url}: what answers is no iommud\n"


@pytest.mark.parametrize("status", [0, 1, 3, 4])
def test_those_of_a_check_are(status: int, capsys: Capture) -> None:
    with answering({TAKEN: str(time.time()), EXIT: str(status)}, "└─ 1 finding\n\n".encode()) as url:
        assert call("status", url) == status

    assert capsys.readouterr().out.startswith("└─ 1 finding\n\nThis report is ")


def test_what_a_server_says_does_not_drive_the_terminal(capsys: Capture) -> None:
    with answering({TAKEN: str(time.time()), EXIT: "0"}, b"ok\x1b]0;title\x07\r\n\n") as url:
        assert call("status", url) == 0

    assert capsys.readouterr().out.startswith("ok\\x1b]0;title\\x07\\r\n\n")


@pytest.mark.parametrize("url", ["http://exa mple:80", "http://127.0.0.1:9/a b", "http://host\x7f", "https://ho\nst"])
def test_characters_that_no_url_has_are_wrong_usage(url: str, capsys: Capture) -> None:
    assert call("status", url) == 2
    assert "holds characters that no URL has" in " ".join(capsys.readouterr().err.split())
