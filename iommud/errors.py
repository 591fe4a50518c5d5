# SPDX-License-Identifier: GPL-2.0-or-later
"""Every error that iommud raises on purpose; whatever else escapes is a bug."""

from __future__ import annotations

__all__ = ["ArchiveError", "IommudError", "SourceError", "visible"]

_LONGEST = 300
"""Characters of a hostile name that a message repeats."""


def visible(text: str) -> str:
    """Give the text with everything that could drive a terminal written as an escape, ESC as backslash x1b.

    Control characters, bidirectional overrides, line separators and lone surrogates are no printable
    characters; all others, the space included, stay as they are.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def _shortened(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"


class IommudError(Exception):
    """Base of all errors that stand for bad input or a machine that cannot be read."""


class SourceError(IommudError):
    """A machine, directory or archive that cannot be read; ``str()`` is one line, ``source: path: problem``.

    ``source`` is the source as the user named it, ``path`` the name inside it that is to blame (None: the
    source as a whole), ``problem`` what is wrong with it. The attributes are raw; only the message is safe to
    print.
    """

    def __init__(self, source: str, problem: str, *, path: str | None = None) -> None:
        super().__init__(source, problem)
        self.source = source
        self.path = path
        self.problem = problem

    def __str__(self) -> str:
        parts = (self.source, self.path, self.problem)
        return ": ".join(_shortened(visible(part)) for part in parts if part is not None)


class ArchiveError(ValueError):
    """An archive that is damaged or asks for too much; ``path`` is the member to blame, or None.

    Internal to the reading of archives, which makes it a SourceError as soon as the name of the archive is
    known.
    """

    def __init__(self, problem: str, *, path: str | None = None) -> None:
        super().__init__(problem)
        self.problem = problem
        self.path = path
