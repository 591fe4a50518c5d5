# SPDX-License-Identifier: GPL-2.0-or-later
"""A real server in a process of its own, and clients for it: ``python -m tests.daemon.serving '{"listen": […]}'``."""

import asyncio
import contextlib
import errno
import http.client
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from iommud.daemon import web
from iommud.daemon.listen import inherited_sockets, names_of, open_listeners
from iommud.daemon.publication import Board, Publication
from iommud.daemon.tls import TlsError, TlsFiles

ROOT = Path(__file__).parent.parent.parent
PAGE = b"<!DOCTYPE html><html><head><style>p{color:red}</style></head><body><!--age--><pre>"


def publication(**changes: Any) -> Publication:
    """A publication of small, recognisable content."""
    facts: dict[str, Any] = {
        "generation": 1,
        "taken_at": 1_000_000.25,
        "status": "ok",
        "exit_status": 0,
        "json": b'{"schema_version":1}\n',
        "text": b"ok: nothing wrong\n",
        "page": PAGE + b"</pre></body></html>\n",
        "metrics": b"# TYPE iommud_groups gauge\niommud_groups 3\n",
        "openmetrics": b"# TYPE iommud_groups gauge\niommud_groups 3\n# EOF\n",
    }
    return Publication(**{**facts, **changes})


def own_metrics(openmetrics: bool) -> bytes:
    """A stand-in for the metrics of the serving process."""
    return b"# TYPE own gauge\nown 1\n" + (b"# EOF\n" if openmetrics else b"")


@dataclass(frozen=True)
class Running:
    """A server that runs: its process and where it listens."""

    process: subprocess.Popen[str]
    names: list[str]

    @property
    def address(self) -> tuple[str, int]:
        host, _, port = self.names[0].rpartition(":")
        return host, int(port)

    @property
    def resident(self) -> int:
        """Bytes of memory."""
        status = Path(f"/proc/{self.process.pid}/status").read_text(encoding="ascii")
        return int(next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1]) << 10

    @property
    def processor(self) -> float:
        """Seconds of processor time that it has used."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def line(self) -> str:
        """The next line that it prints."""
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()


@contextlib.contextmanager
def running(prefix: tuple[str, ...] = (), pass_fds: tuple[int, ...] = (), **options: Any) -> Iterator[Running]:
    """Start a server; ``prefix`` is a command to start it with."""
    settings = {"listen": ["127.0.0.1:0"], **options}
    command = [*prefix, sys.executable, "-W", "error", "-m", "tests.daemon.serving", json.dumps(settings)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, pass_fds=pass_fds) as process:
        try:
            assert process.stdout is not None
            yield Running(process, json.loads(process.stdout.readline()))
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                raise


@dataclass(frozen=True)
class Response:
    status: int
    headers: Mapping[str, str]
    """By name in lower case."""
    body: bytes


def connect(address: tuple[str, int] | str, tls: ssl.SSLContext | None = None, timeout: float = 10) -> socket.socket:
    """A connection to a server on the loopback device or a Unix socket."""
    if isinstance(address, str):
        plain = socket.socket(socket.AF_UNIX)
        plain.settimeout(timeout)
        plain.connect(address)
    else:
        assert address[0] in ("127.0.0.1", "::1", "[::1]")
        plain = socket.create_connection((address[0].strip("[]"), address[1]), timeout)
    if tls is None:
        return plain
    try:
        return tls.wrap_socket(plain, server_hostname="127.0.0.1")
    except BaseException:
        plain.close()
        raise


def fetch(
    address: tuple[str, int] | str,
    path: str = "/metrics",
    *,
    tls: ssl.SSLContext | None = None,
    method: str = "GET",
    timeout: float = 10,
    **headers: str,
) -> Response:
    """One request as an honest client makes it; ``accept_encoding`` stands for ``Accept-Encoding``."""
    connection = http.client.HTTPConnection("127.0.0.1", timeout=timeout)
    connection.sock = connect(address, tls, timeout)
    with contextlib.closing(connection):
        connection.putrequest(method, path, skip_accept_encoding=True)
        for name, value in headers.items():
            connection.putheader(name.replace("_", "-"), value)
        connection.endheaders()
        answer = connection.getresponse()
        return Response(answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read())


def _without_inet() -> None:
    """What RestrictAddressFamilies=AF_UNIX does: no new socket of the Internet's families."""
    original = socket.socket.__init__

    def restricted(self: socket.socket, family: int = -1, type: int = -1, proto: int = -1, fileno: Any = None) -> None:  # noqa: A002 - as the socket module has it
        if fileno is None and family != socket.AF_UNIX:
            raise OSError(errno.EAFNOSUPPORT, os.strerror(errno.EAFNOSUPPORT))
        original(self, family, type, proto, fileno)

    socket.socket.__init__ = restricted  # type: ignore[method-assign] # for the whole process, as systemd does


def _board(options: Mapping[str, Any]) -> Board:
    board = Board()
    if options.get("directory"):
        board.load(Path(options["directory"]))
        return board
    filling = os.urandom(1 << 10).hex().encode() * int(options.get("page_kib", 0) / 2)
    board.publish(publication(page=PAGE + filling + b"</pre></body></html>\n", taken_at=time.time()))
    return board


async def _serve(options: Mapping[str, Any]) -> None:
    for name, value in options.get("limits", {}).items():
        assert hasattr(web, name)
        setattr(web, name, value)
    tls = TlsFiles.of(*options.get("tls", (None, None, None)))
    inherited = inherited_sockets(os.environ)
    if options.get("without_inet"):
        _without_inet()
    sockets = open_listeners(options["listen"], tls=tls is not None, allow_plain=False, inherited=inherited)
    application = web.build_application(_board(options), own_metrics, stale_after=600)
    server = web.start(application, sockets, tls)
    loop, ended = asyncio.get_running_loop(), asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, ended.set)
    loop.add_signal_handler(signal.SIGHUP, _reload, server)
    print(json.dumps(names_of(sockets)), flush=True)
    await ended.wait()
    server.stop()


def _reload(server: web.Server) -> None:
    try:
        server.reload()
        print("reloaded", flush=True)
    except TlsError as error:
        print(error, flush=True)


if __name__ == "__main__":
    asyncio.run(_serve(json.loads(sys.argv[1])))
