# SPDX-License-Identifier: GPL-2.0-or-later
"""``iommud status``: what the daemon that runs has found, with its age and the exit status of a check."""

from __future__ import annotations

import http.client
import math
import socket
import ssl
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn
from urllib.parse import urlsplit

from iommud.cli.output import emit
from iommud.daemon.listen import DEFAULT_ADDRESS
from iommud.daemon.publication import PublicationError, load
from iommud.daemon.settings import DEFAULT_RUNTIME_DIRECTORY
from iommud.errors import IommudError, visible
from iommud.render.age import age_line
from iommud.verdict.report import EXIT_UNREADABLE

__all__ = ["ClientTls", "Place", "show_status"]

_TIMEOUT = 10.0
_LARGEST = 64 << 20
_EXIT_STATUSES = frozenset({0, 1, 3, EXIT_UNREADABLE})
"""Those of a check: a program that asks takes no other for one."""


class StatusError(IommudError):
    """A daemon that cannot be asked; the message is one line."""


@dataclass(frozen=True, slots=True)
class ClientTls:
    """What the client of a daemon with TLS brings along, in PEM."""

    certificate: str | None = None
    key: str | None = None
    """None: it lies in the certificate's file."""
    authorities: str | None = None
    """Of the daemon's certificate; None: those that the system trusts."""

    def context(self) -> ssl.SSLContext:
        """Raises StatusError for files that cannot be read or hold no such thing."""
        for file in (self.certificate, self.key, self.authorities):
            _readable(file)
        try:
            context = ssl.create_default_context(cafile=self.authorities)
        except ssl.SSLError as error:
            raise StatusError(f"{visible(str(self.authorities))}: holds no certificate in PEM") from error
        try:
            if self.certificate is not None:
                # An empty password instead of none, for OpenSSL would ask on the terminal for that of a locked key.
                context.load_cert_chain(self.certificate, self.key, password="")
        except (ssl.SSLError, ValueError) as error:
            names = ", ".join(visible(one) for one in (self.certificate, self.key) if one)
            raise StatusError(f"{names}: no certificate with its unlocked key") from error
        return context


@dataclass(frozen=True, slots=True)
class Place:
    """Where a daemon serves: a Unix socket, or a host with a port."""

    url: str
    unix: str | None = None
    host: str = ""
    port: int | None = None
    path: str = ""
    secure: bool = False

    @classmethod
    def of(cls, url: str) -> Place:
        """Read a URL, or a host with its port. Raises ValueError for anything else."""
        if url.startswith("unix:"):
            return cls(url, unix=url.removeprefix("unix:"))
        if not url.isprintable() or " " in url:
            raise ValueError(f"{url!r} holds characters that no URL has")
        parts = urlsplit(url if "://" in url else f"http://{url}")
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"{url!r} is no URL such as http://127.0.0.1:9798 or unix:/run/iommud.sock")
        path = parts.path.rstrip("/").removesuffix("/report.txt")
        return cls(url, host=parts.hostname, port=parts.port, path=path, secure=parts.scheme == "https")

    def connection(self, tls: ClientTls) -> http.client.HTTPConnection:
        """Raises StatusError for files that make no client."""
        if self.unix is not None:
            return _UnixConnection(self.unix)
        if self.secure:
            return http.client.HTTPSConnection(self.host, self.port, timeout=_TIMEOUT, context=tls.context())
        return http.client.HTTPConnection(self.host, self.port, timeout=_TIMEOUT)


@dataclass(frozen=True, slots=True)
class Answer:
    """What a daemon said."""

    text: str
    taken_at: float
    exit_status: int
    stale_after: float
    """Age in seconds from which the daemon itself calls it stale."""


def show_status(where: Place | None, runtime_directory: str | None, stale_after: float | None, tls: ClientTls) -> int:
    """Print the report of the daemon that runs at a place, or that writes into a directory; 4 for none or a stale one.

    It is stale at the age given, or at the one that its daemon says.
    """
    try:
        answer = _asked(where, runtime_directory, tls)
    except IommudError as error:
        print(f"iommud: {error}", file=sys.stderr)
        return EXIT_UNREADABLE
    age = time.time() - answer.taken_at
    stale = age > (answer.stale_after if stale_after is None else stale_after)
    emit(f"{answer.text}{age_line(age, stale=stale)}\n")
    if stale:
        print("iommud: the report is stale: is the daemon running?", file=sys.stderr)
    return EXIT_UNREADABLE if stale else answer.exit_status


def _asked(where: Place | None, runtime_directory: str | None, tls: ClientTls) -> Answer:
    if where is not None:
        return _from_server(where, tls)
    if runtime_directory is not None:
        return _from_directory(Path(runtime_directory))
    try:
        return _from_directory(Path(DEFAULT_RUNTIME_DIRECTORY))
    except PublicationError as error:
        # Under systemd only the web server may look into the directory.
        try:
            return _from_server(Place.of(f"http://{DEFAULT_ADDRESS}"), tls)
        except StatusError as second:
            raise StatusError(f"no daemon answers: {error}; {second}") from second


def _from_directory(directory: Path) -> Answer:
    found = load(directory)
    return Answer(found.text.decode("utf-8", "replace"), found.taken_at, found.exit_status, found.stale_after)


def _from_server(place: Place, tls: ClientTls) -> Answer:
    url, connection = place.url, place.connection(tls)
    try:
        connection.request("GET", f"{place.path}/report.txt", headers={"Accept": "text/plain"})
        response = connection.getresponse()
        body = response.read(_LARGEST)
    except (OSError, http.client.HTTPException, ValueError) as error:
        _fail(url, getattr(error, "strerror", None) or str(error) or type(error).__name__)
    if response.status != 200:
        _fail(url, f"{response.status} {response.reason}: {body[:100].decode('utf-8', 'replace').strip()}")
    try:
        taken_at = float(response.headers["Iommud-Snapshot-Timestamp"])
        exit_status = int(response.headers["Iommud-Exit-Status"])
    except (TypeError, ValueError):
        taken_at, exit_status = math.nan, EXIT_UNREADABLE
    if not math.isfinite(taken_at) or exit_status not in _EXIT_STATUSES:
        _fail(url, "what answers is no iommud")
    # A report that the server calls stale says so in its first line, which is said below in any case.
    text = "\n".join(map(visible, body.decode("utf-8", "replace").split("\n")))
    stale = response.headers.get("Iommud-Stale") == "true"
    if stale:
        text = text.partition("\n\n")[2] or text
    return Answer(text, taken_at, exit_status, -math.inf if stale else math.inf)


def _readable(path: str | None) -> None:
    """Raises StatusError, which says more than OpenSSL does."""
    if path is None:
        return
    try:
        Path(path).open("rb").close()
    except OSError as error:
        raise StatusError(f"{visible(path)}: {error.strerror}") from error


class _UnixConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=_TIMEOUT)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(_TIMEOUT)
        self.sock.connect(self._path)


def _fail(url: str, problem: str) -> NoReturn:
    raise StatusError(f"{visible(url)}: {visible(problem)}")
