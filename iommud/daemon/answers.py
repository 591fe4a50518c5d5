# SPDX-License-Identifier: GPL-2.0-or-later
"""What the server answers to a request: a function of the board, the time and the request, without a socket.

Of the page only the age in its middle is made for each request, of the metrics only those of the serving process.
"""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from email.utils import formatdate, parsedate_to_datetime

from iommud.daemon.edition import EOF, Edition, Piece, gzipped
from iommud.daemon.publication import Board
from iommud.render.age import age_html, age_line

TEXT = "text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"
_EVERYWHERE = (
    ("X-Content-Type-Options", "nosniff"),
    ("Referrer-Policy", "no-referrer"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
    ("Cross-Origin-Opener-Policy", "same-origin"),
    ("X-Frame-Options", "DENY"),
)
_CLOSED = "default-src 'none'; frame-ancestors 'none'"


@dataclass(frozen=True, slots=True)
class Answer:
    """A response, its body in pieces that answers share."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True)
class Request:
    """What matters of a request."""

    method: str
    path: str
    """Without a query."""
    headers: Mapping[str, str] = field(default_factory=dict)
    """By name in lower case."""


STUCK_AFTER = 60.0
"""Seconds that one look at a machine may take: the largest take a few."""


class Answers:
    """Answers requests from what hangs on a board."""

    def __init__(
        self,
        board: Board,
        own_metrics: Callable[[bool], bytes],
        *,
        stale_after: float | None = None,
        busy_for: Callable[[], float] = lambda: 0.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """``stale_after`` is the age in seconds from which a report counts as stale; None: as its collector has it.

        ``busy_for`` tells for how long the present look at the machine has lasted; ``clock`` gives Unix seconds.
        """
        self._board = board
        self._own_metrics = own_metrics
        self._stale_after = stale_after
        self._busy_for = busy_for
        self._clock = clock
        board.prepare_with(Edition.of)
        self._routes: Mapping[str, Callable[[Edition | None, Request], Answer]] = {
            "/": self._page,
            "/metrics": self._metrics,
            "/report.json": self._json,
            "/report.txt": self._text,
            "/-/healthy": self._healthy,
            "/-/ready": self._ready,
        }

    def answer(self, request: Request) -> Answer:
        """The answer to a request; one to HEAD has the headers of that to GET and the body to be left out."""
        route = self._routes.get(request.path)
        if route is None:
            return _plain(404, "not found\n")
        if request.method not in ("GET", "HEAD"):
            return _plain(405, "only GET and HEAD\n", ("Allow", "GET, HEAD"))
        edition = self._board.prepared
        return route(edition if isinstance(edition, Edition) else None, request)

    def _age(self, edition: Edition) -> float:
        return self._clock() - edition.publication.taken_at

    def _stale(self, edition: Edition) -> bool:
        limit = edition.publication.stale_after if self._stale_after is None else self._stale_after
        return self._age(edition) > limit

    def _healthy(self, _edition: Edition | None, _request: Request) -> Answer:
        """Not healthy while one look at the machine does not end: whoever asks should start the process anew."""
        if self._busy_for() > STUCK_AFTER:
            return _plain(503, f"a look at the machine has lasted for {self._busy_for():.0f} seconds\n")
        return _plain(200, "healthy\n")

    def _ready(self, edition: Edition | None, _request: Request) -> Answer:
        """Ready as soon as there is a report, however old: a stale one is served, and says so."""
        if edition is None:
            return _plain(503, "no report yet\n", ("Retry-After", "5"))
        return _plain(200, f"ready. {age_line(self._age(edition), stale=self._stale(edition))}\n")

    def _metrics(self, edition: Edition | None, request: Request) -> Answer:
        """The collector's metrics and the process's own; before the first report these alone."""
        openmetrics = prefers_openmetrics(request.headers.get("accept", ""))
        own = self._own_metrics(openmetrics)
        if openmetrics:
            own = own.removesuffix(EOF) + EOF
        pieces = [Piece.of(own)]
        if edition is not None:
            pieces.insert(0, edition.openmetrics if openmetrics else edition.metrics)
        kind = OPENMETRICS if openmetrics else TEXT
        return _encoded(request, pieces, [("Content-Type", kind), ("Vary", "Accept, Accept-Encoding")])

    def _page(self, edition: Edition | None, request: Request) -> Answer:
        if edition is None:
            return _plain(503, "no report yet\n", ("Retry-After", "5"))
        age = age_html(self._age(edition), stale=self._stale(edition))
        pieces = [edition.page_head, Piece.of(age.encode()), edition.page_tail]
        tag = f"{edition.tags['page']}-{zlib.crc32(age.encode()):08x}"
        headers = [("Content-Type", "text/html; charset=utf-8"), ("Content-Security-Policy", edition.policy)]
        # The page changes while the report does not, so its date alone must not validate it.
        return self._validated(request, edition, pieces, headers, tag, by_date=False)

    def _json(self, edition: Edition | None, request: Request) -> Answer:
        if edition is None:
            return _plain(503, "no report yet\n", ("Retry-After", "5"))
        headers = [("Content-Type", "application/json")]
        return self._validated(request, edition, [edition.json], headers, edition.tags["json"])

    def _text(self, edition: Edition | None, request: Request) -> Answer:
        if edition is None:
            return _plain(503, "no report yet\n", ("Retry-After", "5"))
        pieces, tag, stale = [edition.text], edition.tags["text"], self._stale(edition)
        if stale:
            line = f"{age_line(self._age(edition), stale=True)}\n\n".encode()
            pieces, tag = [Piece.of(line), edition.text], f"{tag}-{zlib.crc32(line):08x}"
        headers = [("Content-Type", "text/plain; charset=utf-8")]
        return self._validated(request, edition, pieces, headers, tag, by_date=not stale)

    def _validated(
        self,
        request: Request,
        edition: Edition,
        pieces: Sequence[Piece],
        headers: list[tuple[str, str]],
        tag: str,
        *,
        by_date: bool = True,
    ) -> Answer:
        """The pieces with their validators, or 304 if the client has them (RFC 9110, sec 13)."""
        publication = edition.publication
        tag = f'"{tag}-gzip"' if accepts_gzip(request.headers.get("accept-encoding", "")) else f'"{tag}"'
        headers += [
            ("ETag", tag),
            ("Vary", "Accept-Encoding"),
            ("Iommud-Snapshot-Timestamp", f"{publication.taken_at:.3f}"),
            ("Iommud-Exit-Status", str(publication.exit_status)),
            ("Iommud-Stale", str(self._stale(edition)).lower()),
        ]
        # Within the same second another report could follow with the same date, so a young one has no date yet.
        dated = self._age(edition) >= 1
        if dated:
            headers.append(("Last-Modified", formatdate(publication.taken_at, usegmt=True)))
        if _has_it(request, tag, publication.taken_at if dated and by_date else None):
            return _secured(304, headers)
        return _encoded(request, pieces, headers)


def _has_it(request: Request, tag: str, modified: float | None) -> bool:
    wanted = request.headers.get("if-none-match")
    if wanted is not None:
        tags = {one.strip().removeprefix("W/") for one in wanted.split(",")}
        return tag in tags or "*" in tags
    since = _seconds(request.headers.get("if-modified-since"))
    return since is not None and modified is not None and int(modified) <= since


def _seconds(date: str | None) -> float | None:
    if date is None:
        return None
    try:
        return parsedate_to_datetime(date).timestamp()
    except (ValueError, OverflowError, TypeError, IndexError):
        return None


def _encoded(request: Request, pieces: Sequence[Piece], headers: list[tuple[str, str]]) -> Answer:
    if accepts_gzip(request.headers.get("accept-encoding", "")):
        body = gzipped(pieces)
        headers = [*headers, ("Content-Encoding", "gzip")]
    else:
        body = tuple(piece.plain for piece in pieces)
    headers.append(("Content-Length", str(sum(map(len, body)))))
    return _secured(200, headers, body)


def _plain(status: int, text: str, *headers: tuple[str, str]) -> Answer:
    body = text.encode()
    own = (("Content-Type", "text/plain; charset=utf-8"), ("Content-Length", str(len(body))), *headers)
    return _secured(status, own, (body,))


def _secured(status: int, headers: Sequence[tuple[str, str]], body: tuple[bytes, ...] = ()) -> Answer:
    """An answer with the headers that all have; only the page brings a policy of its own."""
    closed = all(name != "Content-Security-Policy" for name, _ in headers)
    policy = (("Content-Security-Policy", _CLOSED),) if closed else ()
    return Answer(status, (*headers, ("Cache-Control", "no-cache"), *policy, *_EVERYWHERE), body)


def _qualities(header: str) -> dict[str, float]:
    """The choices of an Accept header and their weights (RFC 9110, sec 12.4.2); unreadable weights count as 0."""
    found: dict[str, float] = {}
    for choice in header.split(","):
        name, *parameters = (part.strip().lower() for part in choice.split(";"))
        weight = next((one[2:] for one in parameters if one.startswith("q=")), "1")
        try:
            found[name] = max(found.get(name, 0.0), float(weight))
        except ValueError:
            found.setdefault(name, 0.0)
    return found


def accepts_gzip(header: str) -> bool:
    """Whether a client that sent this Accept-Encoding wants gzip."""
    weights = _qualities(header)
    return weights.get("gzip", weights.get("*", 0.0)) > 0


def prefers_openmetrics(header: str) -> bool:
    """Whether a client that sent this Accept prefers OpenMetrics to the text format."""
    weights = _qualities(header)
    openmetrics = weights.get("application/openmetrics-text", 0.0)
    return openmetrics > 0 and openmetrics >= weights.get("text/plain", 0.0)
