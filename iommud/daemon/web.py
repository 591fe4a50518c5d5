# SPDX-License-Identifier: GPL-2.0-or-later
"""The HTTP server: tornado's connections below, answers made ahead of time above, and limits on what clients may hold.

No client can take a thread (there is none to take), a connection for good (each request has one deadline, from its
first byte to the last of its answer) or the last connection (beyond the limit the oldest one makes room).
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections.abc import Callable, Sequence
from email.utils import formatdate
from http.client import responses
from typing import Any

from tornado.http1connection import HTTP1Connection
from tornado.httpserver import HTTPServer
from tornado.httputil import HTTPHeaders, HTTPMessageDelegate, RequestStartLine, ResponseStartLine
from tornado.iostream import IOStream

from iommud.daemon.answers import Answer, Answers, Request
from iommud.daemon.publication import Board
from iommud.daemon.tls import TlsFiles

HEAD_TIMEOUT = 5.0
"""Seconds for a TLS handshake and the head of a request; also how long an idle connection is kept."""
BODY_TIMEOUT = 2.0
"""Seconds for a body, which nobody needs to send."""
REQUEST_TIMEOUT = 25.0
"""Seconds from waiting for a request to the end of its answer: a scraper gives up sooner."""
MAX_HEAD = 16 << 10
"""Bytes of a request's head; also keeps small what grows with the square of it."""
MAX_BODY = 1 << 10
"""Bytes of a request's body."""
MAX_BUFFER = 32 << 10
"""Bytes that a connection may have sent and not yet been answered."""
READ_CHUNK = 4 << 10
KERNEL_BUFFER = 64 << 10
"""Bytes that the kernel buffers for a connection in each direction; left to itself it goes up to some megabytes,
which are counted as the service's memory (Documentation/admin-guide/cgroup-v2.rst, ``sock``)."""
MAX_CONNECTIONS = 128
"""Connections held at a time by the server for TLS and by the one without, each."""


class Application:
    """What is served; to be given to ``start()``."""

    def __init__(self, answers: Answers) -> None:
        self.answers = answers


def build_application(
    board: Board,
    own_metrics: Callable[[bool], bytes],
    *,
    stale_after: float | None = None,
    busy_for: Callable[[], float] = lambda: 0.0,
) -> Application:
    """Serve what hangs on a board.

    ``own_metrics`` gives the exposition of the serving process's own metrics, as OpenMetrics if it is called with
    True, to follow the collector's. A report older than ``stale_after`` seconds (None: than its collector says) is
    served as stale; while ``busy_for`` gives more than a minute the process calls itself unhealthy. From now on
    ``Board.publish()`` compresses what it publishes, in the thread that calls it.
    """
    return Application(Answers(board, own_metrics, stale_after=stale_after, busy_for=busy_for))


class Server:
    """A running server; needs the event loop in which it was started."""

    def __init__(self, application: Application, sockets: Sequence[socket.socket], tls: TlsFiles | None) -> None:
        self._tls = tls
        self._secure = _guarded(application, None if tls is None else tls.context())
        self._plain = _guarded(application, None)
        for one in sockets:
            # What is accepted inherits them (``sk_clone_lock()``).
            one.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, KERNEL_BUFFER)
            one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, KERNEL_BUFFER)
            # A Unix socket is guarded by its file's mode.
            inside = one.family == socket.AF_UNIX
            (self._plain if inside or tls is None else self._secure).add_socket(one)

    def reload(self) -> None:
        """Read certificate, key and authorities again; new connections use them.

        Raises TlsError if they do not fit together, and goes on with the old ones.
        """
        if self._tls is not None:
            self._secure.ssl_options = self._tls.context()

    def stop(self) -> None:
        """Close all sockets and connections, at once."""
        for server in (self._plain, self._secure):
            server.stop()
            server.close_streams()


def start(application: Application, sockets: Sequence[socket.socket], tls: TlsFiles | None) -> Server:
    """Serve on listening sockets, within the running event loop; TCP with TLS if there are files for it.

    The server owns the sockets from now on. Raises TlsError.
    """
    # Clients can provoke warnings at will (failed handshakes, malformed requests); errors are ours.
    logging.getLogger("tornado.general").setLevel(logging.ERROR)
    return Server(application, sockets, tls)


def _guarded(application: Application, ssl_options: ssl.SSLContext | None) -> _Guarded:
    server = _Guarded(
        _never_called,
        ssl_options=ssl_options,
        idle_connection_timeout=HEAD_TIMEOUT,
        body_timeout=BODY_TIMEOUT,
        max_header_size=MAX_HEAD,
        max_body_size=MAX_BODY,
        max_buffer_size=MAX_BUFFER,
        chunk_size=READ_CHUNK,
    )
    server.answers = application.answers
    return server


class _Guarded(HTTPServer):
    """tornado's server with a limit on connections and a deadline for each request."""

    streams: dict[IOStream, asyncio.TimerHandle | None]
    """Open connections with their deadlines; the one with the oldest last step comes first."""

    answers: Answers

    def initialize(self, *arguments: Any, **named: Any) -> None:
        """Set up; tornado calls this in the place of ``__init__``."""
        self.streams = {}
        super().initialize(*arguments, **named)

    def handle_stream(self, stream: IOStream, address: tuple[Any, ...]) -> None:
        """A client has connected: the one whose last step is the oldest makes room if there are too many.

        What an honest client does takes milliseconds, so it is hardly ever the oldest.
        """
        while len(self.streams) >= MAX_CONNECTIONS:
            oldest = next(iter(self.streams))
            self._forget(oldest)
            oldest.close()
        self._step(stream)
        super().handle_stream(stream, address)

    def start_request(self, server_conn: object, request_conn: Any) -> HTTPMessageDelegate:  # noqa: ARG002 - tornado's
        """A connection waits for a request, its first or a further one."""
        stream = request_conn.stream
        if not stream.closed():
            self._step(stream, asyncio.get_running_loop().call_later(REQUEST_TIMEOUT, stream.close))
        return _Exchange(self.answers, request_conn, lambda: self._step(stream))

    def on_close(self, server_conn: Any) -> None:
        """A connection has ended."""
        super().on_close(server_conn)
        self._forget(server_conn.stream)

    def close_streams(self) -> None:
        """Close every connection."""
        for stream in list(self.streams):
            self._forget(stream)
            stream.close()

    def _step(self, stream: IOStream, deadline: asyncio.TimerHandle | None = None) -> None:
        """Put a connection last, with a new deadline if one is given."""
        earlier = self.streams.pop(stream, None)
        if earlier is not None and deadline is not None:
            earlier.cancel()
        self.streams[stream] = deadline or earlier

    def _forget(self, stream: IOStream) -> None:
        deadline = self.streams.pop(stream, None)
        if deadline is not None:
            deadline.cancel()


def _never_called(request: object) -> None:
    """Tornado asks for a function of requests; connections are taken over before it would be used."""
    raise NotImplementedError(request)


class _Exchange(HTTPMessageDelegate):
    """One request and its answer. Bodies are read, within their limit, and thrown away."""

    def __init__(self, answers: Answers, connection: HTTP1Connection, head_arrived: Callable[[], None]) -> None:
        self._answers = answers
        self._connection = connection
        self._head_arrived = head_arrived
        self._request = Request("", "")

    def headers_received(self, start_line: RequestStartLine | ResponseStartLine, headers: HTTPHeaders) -> None:
        """Tornado has read the head."""
        if self._connection.stream.closed():
            # It was pipelined and still lies in the buffer of a connection that was cut off: tornado would go on.
            self._connection.detach()
            return
        self._head_arrived()
        if isinstance(start_line, RequestStartLine):
            named = {name.lower(): value for name, value in headers.items()}
            self._request = Request(start_line.method, start_line.path.partition("?")[0], named)

    def finish(self) -> None:
        """Tornado has read the whole request: answer it."""
        answer = self._answers.answer(self._request)
        headers = HTTPHeaders()
        for name, value in (*answer.headers, ("Date", formatdate(usegmt=True))):
            headers.add(name, value)
        self._connection.write_headers(ResponseStartLine("HTTP/1.1", answer.status, responses[answer.status]), headers)
        self._write_body(answer)
        self._connection.finish()

    def _write_body(self, answer: Answer) -> None:
        """Each piece by itself: tornado does not copy large ones, so that all slow clients wait for the same bytes."""
        if self._request.method != "HEAD":
            for piece in filter(None, answer.body):
                self._connection.write(piece)
