# SPDX-License-Identifier: GPL-2.0-or-later
"""What a guest says on its channel: marked lines, files in base64 between them with their digest at the end."""

from __future__ import annotations

import base64
import binascii
import hashlib
from dataclasses import dataclass, field

MARK = ":iommud: "


@dataclass(frozen=True, slots=True)
class Sent:
    """A file that arrived whole."""

    content: bytes
    status: int
    """Exit status of the command that made it."""


@dataclass(slots=True)
class Channel:
    """Everything that was heard so far. Other text on the line, the console's for one, is passed over."""

    files: dict[str, Sent] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    damaged: list[str] = field(default_factory=list)
    """Names of files whose digest is not theirs."""
    at: str = ""
    """The step that the guest began last."""
    done: bool = False
    _parts: dict[str, list[str]] = field(default_factory=dict)

    def hear(self, line: str) -> str | None:
        """Take a line; what the guest asks the host for, if that is what it says."""
        mark = line.find(MARK)
        if mark < 0:
            return None
        verb, _, rest = line[mark + len(MARK) :].strip().partition(" ")
        match verb:
            case "note":
                self.notes.append(rest)
            case "at":
                self.at = rest
            case "done":
                self.done = True
            case "ask":
                return rest
            case _:
                self._part(verb, *rest.partition(" ")[::2])
        return None

    def _part(self, verb: str, name: str, value: str) -> None:
        """A line of a file."""
        match verb:
            case "begin":
                self._parts[name] = []
            case "data":
                self._parts.setdefault(name, []).append(value)
            case "end":
                self._end(name, value)

    def _end(self, name: str, value: str) -> None:
        status, _, digest = value.partition(" ")
        try:
            content = base64.b64decode("".join(self._parts.pop(name, [])), validate=True)
            number = int(status)
        except (binascii.Error, ValueError):
            self.damaged.append(name)
            return
        if hashlib.sha256(content).hexdigest() != digest:
            self.damaged.append(name)
        else:
            self.files[name] = Sent(content, number)
