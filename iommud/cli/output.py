# SPDX-License-Identifier: GPL-2.0-or-later
"""Where answers go: standard output, with colour and width as the terminal has them; progress on standard error."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import time
from typing import TYPE_CHECKING, Self

from iommud.cli.options import Colour
from iommud.errors import SourceError

if TYPE_CHECKING:
    from iommud.render.style import Style

_PATIENCE = 0.5
"""Seconds after which work that goes on shows its progress."""


def emit(text: str) -> None:
    """Write text to standard output; characters that its encoding lacks become escapes."""
    encoding = sys.stdout.encoding or "utf-8"
    sys.stdout.write(text.encode(encoding, "backslashreplace").decode(encoding))


class Output:
    """Standard output, or a file that appears whole when the work is done and not at all if it fails."""

    def __init__(self, path: str | None) -> None:
        self._path = None if path in (None, "-") else path
        self._pieces: list[str] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: object) -> None:
        if kind is None and self._path is not None:
            replace_file(self._path, "".join(self._pieces).encode("utf-8", "backslashreplace"))

    def write(self, text: str) -> None:
        """Add text."""
        if self._path is None:
            emit(text)
        else:
            self._pieces.append(text)

    def flush(self) -> None:
        """Let what was written be seen before something goes to standard error."""
        if self._path is None:
            sys.stdout.flush()


def replace_file(path: str, content: bytes) -> None:
    """Put content in the place of a file by a rename, so that no reader sees half of it.

    A link stays one, and what is no regular file (a device, a pipe) is written to as it is. Raises SourceError if
    that fails; nothing is left behind then.
    """
    try:
        if os.path.exists(path) and not os.path.isfile(path):  # noqa: PTH110, PTH113 - a name from the command line
            _write(path, content)
        else:
            _write_aside(os.path.realpath(path), content)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise SourceError(path, f"cannot be written: {error.strerror}") from error


def _write(path: str, content: bytes) -> None:
    with open(path, "wb") as file:  # noqa: PTH123 - a name from the command line, used as it is
        file.write(content)


def _write_aside(target: str, content: bytes) -> None:
    temporary = f"{target}.{os.getpid()}.tmp"
    try:
        _write(temporary, content)
        os.replace(temporary, target)  # noqa: PTH105 - see above
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)  # noqa: PTH108 - see above
        raise


def wants_colour(choice: Colour, *, terminal: bool) -> bool:
    """Whether to colour, on a terminal or elsewhere (https://no-color.org)."""
    if choice is not Colour.AUTO:
        return choice is Colour.ALWAYS
    return terminal and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def speaks_unicode() -> bool:
    """Whether standard output can carry box-drawing characters."""
    try:
        "└─│├".encode(sys.stdout.encoding or "ascii")
    except UnicodeEncodeError:
        return False
    return True


def output_style(colour: Colour, path: str | None = None) -> Style:
    """How text may look, on standard output or in a file: colour, character set and width of the terminal."""
    from iommud.render.style import Style

    if path not in (None, "-"):
        return Style(colour=wants_colour(colour, terminal=False), unicode=True, width=None)
    terminal = sys.stdout.isatty()
    width = shutil.get_terminal_size((100, 24)).columns if terminal else None
    return Style(colour=wants_colour(colour, terminal=terminal), unicode=speaks_unicode(), width=width)


class Progress:
    """One line on standard error while work lasts, erased at its end; nothing for short work or without a terminal."""

    def __init__(self, what: str, *, quiet: bool) -> None:
        self._what = what
        self._shown = False
        self._silent = quiet or not sys.stderr.isatty()
        self._next = time.monotonic() + _PATIENCE

    def step(self, done: int, total: int) -> None:
        """Tell how far the work is."""
        if self._silent or time.monotonic() < self._next:
            return
        self._next = time.monotonic() + 0.1
        self._shown = True
        print(f"\r{self._what}: {done} of {total}", end="\x1b[K", file=sys.stderr, flush=True)

    def done(self) -> None:
        """Erase the line."""
        if self._shown:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
