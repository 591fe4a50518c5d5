# SPDX-License-Identifier: GPL-2.0-or-later
"""A report in all the forms in which it is served, rendered ahead of time; kept on a board and in a directory.

The directory holds one subdirectory for each publication, a link ``current`` to the newest and links of the files'
own names through it, so that ``report.json`` is always there. Only the renaming of ``current`` publishes: whoever opens
that directory once reads files of one publication, and a writer killed at any moment leaves the old one whole.
"""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from iommud.errors import IommudError, visible

CURRENT = "current"
META = "publication.json"
FILES: Mapping[str, str] = {
    "json": "report.json",
    "text": "report.txt",
    "page": "page.html",
    "metrics": "metrics.prom",
    "openmetrics": "metrics.openmetrics",
}
"""The file of each form."""

_PREFIX = "publication-"
_LARGEST = 64 << 20
"""Bytes of a file at most: ten times what a machine with 10,000 functions needs."""
_ATTEMPTS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Publication:
    """One report, ready to be served."""

    generation: int
    """Grows by one with every report of a collector, and starts anew with it."""
    taken_at: float
    """When the snapshot was taken, in Unix seconds."""
    status: str
    """A value of ``iommud.verdict.report.Status``."""
    exit_status: int
    """What ``iommud check`` would exit with."""
    json: bytes
    text: bytes
    page: bytes
    """HTML that holds ``AGE_TOKEN`` where the age goes."""
    metrics: bytes
    """The collector's metrics in Prometheus' text format 0.0.4."""
    openmetrics: bytes
    """The same in OpenMetrics 1.0.0; may end in ``# EOF``."""
    stale_after: float = 900.0
    """Age in seconds from which the collector wants it to count as stale: it follows how often it looks."""


class PublicationError(IommudError):
    """A directory that holds no publication, or a damaged one; the message is one line that names the path."""

    def __init__(self, path: Path, problem: str) -> None:
        super().__init__(path, problem)
        self.path = path
        self.problem = problem

    def __str__(self) -> str:
        return f"{visible(str(self.path))}: {visible(self.problem)}"


class Board:
    """Where the newest publication hangs; readers look at one reference and never wait."""

    __slots__ = ("_hung", "_prepare")

    def __init__(self) -> None:
        self._hung: tuple[Publication, object] | None = None
        self._prepare: Callable[[Publication], object] = _as_it_is

    @property
    def current(self) -> Publication | None:
        """The newest publication; None before the first."""
        hung = self._hung
        return None if hung is None else hung[0]

    @property
    def prepared(self) -> object:
        """What the function given to ``prepare_with()`` made of the newest publication; None before the first."""
        hung = self._hung
        return None if hung is None else hung[1]

    def prepare_with(self, prepare: Callable[[Publication], object]) -> None:
        """Have something made of each publication by whoever publishes it, so that no reader has to."""
        self._prepare = prepare
        current = self.current
        if current is not None:
            self.publish(current)

    def publish(self, publication: Publication) -> None:
        """Replace the publication, from any thread."""
        self._hung = (publication, self._prepare(publication))

    def save(self, directory: Path) -> None:
        """Write the current publication into a directory, if there is one. Raises OSError if that fails."""
        if self.current is not None:
            save(self.current, directory)

    def load(self, directory: Path) -> bool:
        """Publish what a directory holds, unless it hangs here already; tells whether something changed.

        Raises PublicationError if the directory holds no whole publication; the board stays as it was.
        """
        found = load(directory)
        if found == self.current:
            return False
        self.publish(found)
        return True


def _as_it_is(publication: Publication) -> object:
    return publication


def save(publication: Publication, directory: Path) -> None:
    """Write a publication so that readers see the old one or the new one, whole, and nothing else.

    Nothing is forced to the disk: the directory is meant for ``/run``. Raises OSError (disk full, read-only) and
    leaves the old publication in place.
    """
    name = f"{_PREFIX}{os.getpid()}-{publication.generation}"
    place = directory / name
    shutil.rmtree(place, ignore_errors=True)
    try:
        place.mkdir(mode=0o755)
        place.chmod(0o755)  # the umask of a service may hide it from the one that serves
        for file, content in _contents(publication):
            _write(place / file, content)
        _link(directory / CURRENT, name)
    except OSError:
        shutil.rmtree(place, ignore_errors=True)
        raise
    for file in (*FILES.values(), META):
        _link(directory / file, f"{CURRENT}/{file}")
    _forget_others(directory, name)


def load(directory: Path) -> Publication:
    """Read the newest publication of a directory.

    Raises PublicationError if there is none, or if a file is missing, too large or not what it should be.
    """
    for attempt in range(_ATTEMPTS):
        try:
            with _opened(directory) as place:
                return _read_all(directory, place)
        except FileNotFoundError as error:
            # Replaced while it was read, so look again; or nothing was ever published.
            if attempt == _ATTEMPTS - 1 or not (directory / CURRENT).is_symlink():
                raise PublicationError(directory, "no report has been published here") from error
        except OSError as error:
            raise PublicationError(directory / CURRENT, error.strerror or str(error)) from error
    raise AssertionError("unreachable: the last attempt returns or raises")


def _contents(publication: Publication) -> Iterator[tuple[str, bytes]]:
    for form, file in FILES.items():
        yield file, getattr(publication, form)
    meta = {
        "generation": publication.generation,
        "taken_at": publication.taken_at,
        "status": publication.status,
        "exit_status": publication.exit_status,
        "stale_after": publication.stale_after,
    }
    yield META, f"{json.dumps(meta)}\n".encode()


def _write(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        os.fchmod(file.fileno(), 0o644)
        file.write(content)


def _link(path: Path, target: str) -> None:
    """Make a symbolic link, or replace whatever has its name, in one step."""
    if path.is_symlink() and os.readlink(path) == target:  # noqa: PTH115 - Path.readlink() would normalise it
        return
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    fresh.unlink(missing_ok=True)
    fresh.symlink_to(target)
    fresh.rename(path)


def _forget_others(directory: Path, kept: str) -> None:
    """Remove older publications, and what a killed writer left behind."""
    for path in directory.glob(f"{_PREFIX}*"):
        if path.name != kept:
            shutil.rmtree(path, ignore_errors=True)


@contextlib.contextmanager
def _opened(directory: Path) -> Iterator[int]:
    place = os.open(directory / CURRENT, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield place
    finally:
        os.close(place)


def _read_all(directory: Path, place: int) -> Publication:
    meta = _meta(directory / META, _read(directory, place, META))
    return Publication(
        generation=int(_number(directory, meta, "generation")),
        taken_at=_number(directory, meta, "taken_at"),
        status=_text(directory, meta, "status"),
        exit_status=int(_number(directory, meta, "exit_status")),
        json=_read(directory, place, FILES["json"]),
        text=_read(directory, place, FILES["text"]),
        page=_read(directory, place, FILES["page"]),
        metrics=_read(directory, place, FILES["metrics"]),
        openmetrics=_read(directory, place, FILES["openmetrics"]),
        stale_after=_number(directory, meta, "stale_after"),
    )


def _read(directory: Path, place: int, name: str) -> bytes:
    # Whoever may write here could leave a FIFO or a link: neither may hold the reader up or lead it elsewhere.
    try:
        file = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=place)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise PublicationError(directory / name, "is a link inside the publication") from error
        raise
    with os.fdopen(file, "rb") as opened:
        content = opened.read(_LARGEST + 1)
    if len(content) > _LARGEST:
        raise PublicationError(directory / name, f"is larger than {_LARGEST} bytes")
    return content


def _meta(path: Path, content: bytes) -> dict[str, object]:
    try:
        found = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise PublicationError(path, "is not JSON") from error
    if not isinstance(found, dict):
        raise PublicationError(path, "is not a JSON object")
    return found


def _number(directory: Path, meta: Mapping[str, object], name: str) -> float:
    found = meta.get(name)
    if not isinstance(found, int | float) or isinstance(found, bool) or not math.isfinite(found):
        raise PublicationError(directory / META, f"{name!r} is missing or not a number")
    return found


def _text(directory: Path, meta: Mapping[str, object], name: str) -> str:
    found = meta.get(name)
    if not isinstance(found, str):
        raise PublicationError(directory / META, f"{name!r} is missing or not text")
    return found
