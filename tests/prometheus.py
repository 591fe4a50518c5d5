# SPDX-License-Identifier: GPL-2.0-or-later
"""A real Prometheus for tests: ``promtool`` by ``run_promtool``, a server over some targets by ``prometheus_over``."""

from __future__ import annotations

import contextlib
import functools
import http.client
import json
import socket
import subprocess
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, TypeVar

import pytest

T = TypeVar("T")
_FETCH = Path(__file__).parent.parent / "tools" / "prometheus.sh"


@functools.cache
def _directory() -> Path | None:
    done = subprocess.run([_FETCH], capture_output=True, text=True, check=False, timeout=300)
    return None if done.returncode else Path(done.stdout.strip())


def program(name: str) -> Path:
    """The path of ``prometheus`` or ``promtool``; the test is skipped where neither PATH, cache nor apt has them."""
    directory = _directory()
    if directory is None:
        pytest.skip("no Prometheus, and apt cannot download it (tools/prometheus.sh)")
    return directory / name


def run_promtool(*arguments: str | Path, text: str | None = None) -> subprocess.CompletedProcess[str]:
    """What promtool says; ``text`` is its standard input."""
    return subprocess.run(
        [program("promtool"), *arguments], input=text, capture_output=True, text=True, check=False, timeout=120
    )


def free_port() -> int:
    """A port of the loopback that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def eventually(ask: Callable[[], T | None], *, within: float = 30.0) -> T:
    """The first answer of ``ask`` that is not None; AssertionError after ``within`` seconds."""
    deadline = time.monotonic() + within
    while (answer := ask()) is None:
        assert time.monotonic() < deadline, f"not within {within} s"
        time.sleep(0.1)
    return answer


class Server:
    """A running Prometheus, asked by its HTTP API."""

    def __init__(self, port: int) -> None:
        self.port = port

    def fetch(self, path: str) -> tuple[int, bytes]:
        """Status and body of an answer. Raises OSError while nothing listens."""
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)) as connection:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read()

    def get(self, path: str, **parameters: str) -> Any:
        """The ``data`` of an answer of the API. Raises AssertionError with Prometheus' words when it refuses."""
        status, body = self.fetch(f"/api/v1/{path}?{urllib.parse.urlencode(parameters)}")
        answer = json.loads(body)
        assert status == 200, f"{parameters}: {answer['error']}"
        return answer["data"]

    def query(self, expression: str) -> list[dict[str, Any]]:
        """The series that an expression gives now."""
        result: list[dict[str, Any]] = self.get("query", query=expression)["result"]
        return result

    def ready(self) -> bool | None:
        """True once it answers; None before."""
        with contextlib.suppress(OSError):
            return self.fetch("/-/ready")[0] == 200 or None
        return None


@contextmanager
def prometheus_over(
    targets: list[str], directory: Path, *, rules: Path | None = None, settings: str = ""
) -> Iterator[Server]:
    """A Prometheus on loopback that scrapes ``targets`` each second as job ``iommud``; ended with the block.

    ``settings`` are further lines of the scrape job, indented by four, such as its scheme and certificates.
    """
    config = (
        "global: {scrape_interval: 1s, scrape_timeout: 1s, evaluation_interval: 1s}\n"
        + (f"rule_files: [{json.dumps(str(rules))}]\n" if rules else "")
        + f"scrape_configs:\n  - job_name: iommud\n{settings}    static_configs: [{{targets: {json.dumps(targets)}}}]\n"
    )
    (directory / "prometheus.yml").write_text(config, encoding="utf-8")
    port = free_port()
    command = [
        str(program("prometheus")),
        f"--config.file={directory / 'prometheus.yml'}",
        f"--storage.tsdb.path={directory / 'tsdb'}",
        f"--web.listen-address=127.0.0.1:{port}",
        "--log.level=warn",
    ]
    with (directory / "prometheus.log").open("wb") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        try:
            server = Server(port)
            eventually(server.ready)
            yield server
        finally:
            process.terminate()
            process.wait(timeout=10)


@contextmanager
def served(pages: Mapping[str, str]) -> Iterator[str]:
    """Expositions over HTTP, by path; gives ``host:port``. The pages may change while they are served."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = pages.get(self.path)
            self.send_response(404 if body is None else 200)
            self.send_header("Content-Type", "text/plain; version=0.0.4")
            self.end_headers()
            self.wfile.write((body or "").encode())

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name is the base class's
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield f"127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()
