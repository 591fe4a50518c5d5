# SPDX-License-Identifier: GPL-2.0-or-later
"""Keeps of many inputs the few that together reach what all do: ``python -m tests.fuzz.keep TARGET DIRECTORY...``.

What an input reaches are the steps from line to line of iommud while its check runs. Inputs are looked at from the
smallest on, so that a large one is kept only for what no smaller one reaches.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterable
from pathlib import Path
from types import FrameType
from typing import Any

import iommud
from tests.fuzz.targets import CORPUS, TARGETS

MOST = 48 * 1024
"""Bytes of one target's corpus; what does not fit is left out, the largest inputs first."""
_PACKAGE = str(Path(iommud.__file__).parent)

Step = tuple[str, int, int]


class Tracer:
    """Collects the steps of one run."""

    def __init__(self) -> None:
        self.steps: set[Step] = set()
        self._last: dict[int, int] = {}

    def __call__(self, frame: FrameType, event: str, _argument: Any) -> Tracer | None:
        """Take one event of the interpreter (``sys.settrace()``)."""
        if not frame.f_code.co_filename.startswith(_PACKAGE):
            return None
        if event == "line":
            key = id(frame)
            self.steps.add((frame.f_code.co_filename, self._last.get(key, 0), frame.f_lineno))
            self._last[key] = frame.f_lineno
        elif event == "return":
            self._last.pop(id(frame), None)
        return self


def steps_of(target: str, data: bytes) -> set[Step]:
    """What the check of one input reaches."""
    tracer = Tracer()
    sys.settrace(tracer)
    try:
        TARGETS[target](data)
    finally:
        sys.settrace(None)
    return tracer.steps


def chosen(target: str, inputs: Iterable[bytes]) -> list[bytes]:
    """The inputs worth keeping, smallest first."""
    reached: set[Step] = set()
    found: list[bytes] = []
    size = 0
    for data in sorted(set(inputs), key=lambda data: (len(data), data)):
        new = steps_of(target, data) - reached
        if new and size + len(data) <= MOST:
            reached |= new
            found.append(data)
            size += len(data)
    return found


def main() -> None:
    """Put what is worth keeping into the corpus; inputs with names of their own stay in any case."""
    target, *folders = sys.argv[1:]
    home = CORPUS / target
    files = [path for folder in (home, *map(Path, folders)) for path in folder.glob("*") if path.is_file()]
    named = {path.read_bytes() for path in files if path.parent == home and "-" in path.name}
    kept = chosen(target, (path.read_bytes() for path in files))
    for path in home.iterdir():
        if "-" not in path.name:
            path.unlink()
    for data in kept:
        if data not in named:
            (home / hashlib.sha256(data).hexdigest()[:16]).write_bytes(data)
    print(f"{target}: {len(kept)} of {len(files)} inputs, {sum(map(len, kept))} bytes")


if __name__ == "__main__":
    main()
