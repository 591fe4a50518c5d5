# SPDX-License-Identifier: GPL-2.0-or-later
"""What ACPICA's disassembler prints of a table, read into pieces, for any of its releases."""

from __future__ import annotations

import itertools
import os
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

IASL = os.environ.get("IASL") or shutil.which("iasl")
"""The disassembler; $IASL names another one than that on PATH."""
KNOWS_VIOT = 20220331
"""From this release on all the tables here are known, and of them the structures of 2021: Debian 13 has it."""

_LINE = re.compile(r"^\[([0-9A-F]+)h [0-9]+ +[0-9A-F]+h?\] +(.+?) : (.*)$", re.MULTILINE)
_STARTS = {
    "DMAR": ("Subtable Type",),
    "IVRS": ("Subtable Type", "Entry Type"),
    "IORT": ("Type",),
    "VIOT": ("Type",),
    "MCFG": ("Base Address",),
}
_TROUBLE = re.compile(r"terminates|Unknown|Unsupported|Invalid")


@dataclass
class Piece:
    """One structure: its fields in table order, those of what lies in it included."""

    offset: int
    kind: int
    entry: bool = False
    """It is a device entry of the structure before it."""
    fields: list[tuple[str, str]] = field(default_factory=list)

    def all(self, label: str) -> list[int]:
        return [int(value.split()[0], 16) for name, value in self.fields if name == label]

    def one(self, label: str) -> int:
        return self.all(label)[0]

    def texts(self, label: str) -> list[str]:
        return [value for name, value in self.fields if name == label]

    def each(self, first: str, *labels: str) -> list[tuple[int, ...]]:
        """Repeated groups of fields, each begun by the first."""
        starts = [at for at, (name, _) in enumerate(self.fields) if name == first]
        parts = [self.fields[at:end] for at, end in itertools.pairwise([*starts, len(self.fields)])]
        found = [Piece(self.offset, self.kind, fields=part) for part in parts]
        return [tuple(one.one(label) for label in (first, *labels)) for one in found]


@cache
def release() -> int:
    """The disassembler's date of release; 0: there is none."""
    if IASL is None:
        return 0
    told = subprocess.run([IASL, "-v"], check=False, capture_output=True, text=True).stdout
    match = re.search(r"version (\d{8})", told)
    return int(match[1]) if match else 0


def pieces(data: bytes) -> list[Piece]:
    """The structures that the disassembler finds; it must find no fault."""
    signature = data[:4].decode()
    with tempfile.TemporaryDirectory() as folder:
        table = Path(folder, "table.aml")
        table.write_bytes(data)
        assert IASL is not None
        subprocess.run([IASL, "-d", table], check=True, capture_output=True, cwd=folder)
        text = table.with_suffix(".dsl").read_text(encoding="latin-1").partition("Raw Table Data")[0]
    assert not _TROUBLE.search(text), text
    found: list[Piece] = []
    for offset, label, value in _LINE.findall(text):
        name = label.removesuffix(" (decoded below)")
        if name in _STARTS[signature]:
            # Newer listings call the type of a device entry what they call that of a block, and say which it is.
            entry = name == "Entry Type" or "[Device Entry" in value
            found.append(Piece(int(offset, 16), int(value.split()[0], 16), entry))
        if found:
            found[-1].fields.append((name, value))
    return found
