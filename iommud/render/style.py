# SPDX-License-Identifier: GPL-2.0-or-later
"""What the reader's terminal can show: colour, Unicode and a width, as one value."""

from __future__ import annotations

import enum
from collections.abc import Iterator
from dataclasses import dataclass

from iommud.errors import visible
from iommud.verdict.findings import Severity
from iommud.verdict.report import Status

_NARROWEST = 20
"""Columns that wrapped text gets at least, however deep it is indented."""
_SHORTEST = 12
"""Columns that a shortened name keeps at least."""


class Role(enum.Enum):
    """What a piece of text is; the value is its SGR parameter (ECMA-48, sec 8.3.117)."""

    HEADING = "1"
    QUIET = "2"
    GOOD = "32"
    CRITICAL = "1;31"
    WARNING = "33"
    INFO = "36"


_SEVERITY_ROLES = {Severity.CRITICAL: Role.CRITICAL, Severity.WARNING: Role.WARNING, Severity.INFO: Role.INFO}
_STATUS_ROLES = {
    Status.OK: Role.GOOD,
    Status.FINDINGS: Role.CRITICAL,
    Status.UNDECIDABLE: Role.WARNING,
    Status.NO_IOMMU: Role.INFO,
    Status.ERROR: Role.CRITICAL,
}
_MARKS = {Severity.CRITICAL: "!!", Severity.WARNING: "!", Severity.INFO: "i"}


def mark_of(severity: Severity) -> str:
    """The sign that stands beside a function with such a finding, so that nothing depends on colour."""
    return _MARKS[severity]


def role_of(severity: Severity) -> Role:
    """The role of text that speaks of such a finding."""
    return _SEVERITY_ROLES[severity]


def role_of_status(status: Status) -> Role:
    """The role of the word that sums a report up."""
    return _STATUS_ROLES[status]


@dataclass(frozen=True, slots=True)
class Style:
    """How to write for one reader. Whoever knows the terminal makes it; ``Style()`` writes plain text."""

    colour: bool = False
    unicode: bool = True
    """False: ASCII only."""
    width: int | None = None
    """Columns; None: lines may be as long as they are, as in a pipe."""

    def paint(self, text: str, role: Role | None) -> str:
        """The text in the colour of its role."""
        if not self.colour or role is None or not text:
            return text
        return f"\x1b[{role.value}m{text}\x1b[0m"

    def clean(self, text: str) -> str:
        """A string of foreign origin, harmless to the terminal and in characters that it can show."""
        text = visible(text)
        return text if self.unicode else text.encode("ascii", "backslashreplace").decode("ascii")

    def cut(self, text: str, *, used: int = 0, tail: str = "") -> str:
        """The text and its tail, the text shortened so that both fit a line of which ``used`` columns are taken."""
        if self.width is None or used + len(text) + len(tail) <= self.width:
            return text + tail
        ellipsis = "…" if self.unicode else "..."
        room = max(self.width - used - len(tail), _SHORTEST)
        return text + tail if len(text) <= room else text[: room - len(ellipsis)].rstrip() + ellipsis + tail

    def wrapped(self, text: str, *, first: str = "", rest: str | None = None) -> Iterator[str]:
        """Lines of at most the width, cut at spaces; ``first`` and ``rest`` begin the lines."""
        begin, later = first, " " * len(first) if rest is None else rest
        if self.width is None:
            yield begin + text
            return
        room = max(self.width - len(begin), _NARROWEST)
        line = ""
        for word in text.split(" "):
            if line and len(line) + 1 + len(word) > room:
                yield begin + line.rstrip()
                begin, line = later, word
                room = max(self.width - len(later), _NARROWEST)
            else:
                line = f"{line} {word}" if line else word
        yield begin + line.rstrip()


PLAIN = Style()
"""No colour, Unicode, no limit of width."""
