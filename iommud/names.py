# SPDX-License-Identifier: GPL-2.0-or-later
"""Names from the system's pci.ids, if there is one: only those that are wanted, so that it costs little.

The format is described at its home, https://pci-ids.ucw.cz/: vendors at the margin, devices after one tab,
subsystems after two; classes behind ``C`` in the same way at the end.
"""

from __future__ import annotations

import gzip
import re
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

PATHS = tuple(
    Path(directory) / name
    for directory in ("/usr/share/misc", "/usr/share/hwdata", "/var/lib/pciutils")
    for name in ("pci.ids", "pci.ids.gz")
)
"""Where distributions keep it, in order of preference."""

_LARGEST = 16 << 20
_CLASS = re.compile(rb"(?:C ([0-9a-f]{2})|\t([0-9a-f]{2}))  (.*)")


@dataclass(frozen=True, slots=True)
class Names:
    """Names by number."""

    vendors: Mapping[int, str]
    devices: Mapping[tuple[int, int], str]
    classes: Mapping[int, str]
    """By base class and subclass, 16 bits."""
    bases: Mapping[int, str]
    """By base class, 8 bits."""

    @classmethod
    def load(cls, wanted: Iterable[tuple[int, int]], paths: Iterable[Path] = PATHS) -> Names | None:
        """Look the wanted vendors and devices up in the first database that can be read; None if none can."""
        for path in paths:
            data = _content(path)
            if data is not None:
                return cls.parse(data, wanted)
        return None

    @classmethod
    def parse(cls, data: bytes, wanted: Iterable[tuple[int, int]]) -> Names:
        """Look the wanted vendors and devices up in the content of a pci.ids file."""
        data = b"\n" + data
        vendors: dict[int, str] = {}
        devices: dict[tuple[int, int], str] = {}
        for vendor, numbers in _by_vendor(wanted).items():
            block = _block(data, b"\n%04x  " % vendor)
            if block is not None:
                vendors[vendor] = _text(block[: block.find(b"\n")])
                found = ((number, _entry(block, number)) for number in numbers)
                devices.update({(vendor, number): name for number, name in found if name is not None})
        return cls(vendors, devices, *_classes(data))

    def vendor(self, vendor: int) -> str | None:
        """The name of a vendor, or None."""
        return self.vendors.get(vendor)

    def device(self, vendor: int, device: int) -> str | None:
        """The name of a device, or None."""
        return self.devices.get((vendor, device))

    def class_name(self, class_code: int) -> str | None:
        """The name of a 24-bit class code by its subclass, else by its base class, or None."""
        return self.classes.get(class_code >> 8) or self.bases.get(class_code >> 16)


def _content(path: Path) -> bytes | None:
    """The file's bytes; None where there is no such file, or none that can be read."""
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            return file.read(_LARGEST)
    except (OSError, EOFError, zlib.error):
        return None


def _by_vendor(wanted: Iterable[tuple[int, int]]) -> dict[int, list[int]]:
    found: dict[int, list[int]] = {}
    for vendor, device in sorted(wanted):
        found.setdefault(vendor, []).append(device)
    return found


def _block(data: bytes, head: bytes) -> bytes | None:
    """What follows a vendor's number up to the next entry at the margin; comments stand between as well."""
    start = data.find(head)
    if start < 0:
        return None
    end = _MARGIN.search(data, start + 1)
    return data[start + len(head) : end.start() + 1 if end else len(data)] + b"\n"


_MARGIN = re.compile(rb"\n[^\t#\n]")


def _entry(block: bytes, number: int) -> str | None:
    head = b"\n\t%04x  " % number
    start = block.find(head)
    if start < 0:
        return None
    return _text(block[start + len(head) : block.find(b"\n", start + 1)])


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "replace").strip()


def _classes(data: bytes) -> tuple[dict[int, str], dict[int, str]]:
    """The names of subclasses and of base classes."""
    subclasses: dict[int, str] = {}
    bases: dict[int, str] = {}
    base = 0
    start = data.find(b"\nC ")
    for line in data[start:].split(b"\n") if start >= 0 else ():
        match = _CLASS.fullmatch(line)
        if match is not None and match[1] is not None:
            base = int(match[1], 16)
            bases[base] = _text(match[3])
        elif match is not None:
            subclasses[base << 8 | int(match[2], 16)] = _text(match[3])
    return subclasses, bases
