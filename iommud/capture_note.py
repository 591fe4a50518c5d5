# SPDX-License-Identifier: GPL-2.0-or-later
"""What is said of a capture: in its own ``iommud-capture.json``, and to the person who made it."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from iommud import __version__

__all__ = ["NOTE_PATH", "CaptureNote", "CaptureSummary", "LeftOut"]

NOTE_PATH = "iommud-capture.json"
_FORMAT = 1
_BLANKED = (
    "PCIe Device Serial Number",
    "Vital Product Data registers",
    "config space outside of capability lists that cannot be followed",
    "values on the kernel command line that are not about IOMMUs, PCI or known to be harmless",
    "who built the kernel, and where",
    "serial numbers, MAC and IP addresses, UUIDs and DMI names in the kernel log",
    "personal properties of the device tree",
    "addresses and sizes of modules",
)


class LeftOut(enum.StrEnum):
    """What a capture lacks although the machine has it."""

    KERNEL_LOG = "kernel-log"
    """It could not be read."""
    DEVICE_TREE = "device-tree"
    """It cannot be walked to its end, so nobody knows what it gives away."""
    SLEEPING = "config-of-sleeping-functions"
    """Reading would have woken them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CaptureNote:
    """The note of one capture: it follows from the state of the machine, and names no time and no host."""

    complete: bool
    """Every attribute that the machine has for a function, and iommud reads, is here: what is absent was absent."""
    left_out: frozenset[LeftOut] = frozenset()
    woken: bool = False
    """Sleeping functions were woken and read, so their config space is here although they were asleep before."""

    def encode(self) -> bytes:
        """The note as JSON, for people too."""
        import json  # noqa: PLC0415 - a check of a live machine has no use for it

        facts = {
            "format": _FORMAT,
            "iommud": __version__,
            "complete": self.complete,
            "blanked": list(_BLANKED),
            "left_out": sorted(self.left_out),
            "woken": self.woken,
        }
        return (json.dumps(facts, indent=1) + "\n").encode()

    @classmethod
    def decode(cls, content: bytes | None) -> CaptureNote | None:
        """The note as it was written; None: there is none, or none that this version understands."""
        if not content:
            return None
        import json  # noqa: PLC0415 - as above

        try:
            facts = json.loads(content)
        except (ValueError, RecursionError):
            return None
        if not isinstance(facts, dict) or facts.get("format") != _FORMAT:
            return None
        listed = facts.get("left_out")
        names = listed if isinstance(listed, list) else []
        return cls(
            complete=facts.get("complete") is True,
            left_out=frozenset(one for one in LeftOut if one in names),
            woken=facts.get("woken") is True,
        )


@dataclass(slots=True, kw_only=True)
class CaptureSummary:
    """What went into a capture, and what was blanked or left out."""

    functions: int = 0
    configs: int = 0
    """Functions whose config space is in it to the full length that exists."""
    headers_only: int = 0
    """Functions of whose config space only the standard header could be read: the reader is not root."""
    asleep: int = 0
    """Functions that were not read because that would wake them."""
    serial_numbers: int = 0
    """PCIe Device Serial Numbers blanked."""
    vital_data: int = 0
    """Functions whose Vital Product Data registers were blanked."""
    cut_configs: int = 0
    """Functions of which bytes were zeroed that no capability list explains, because it is broken or absent."""
    parameters: int = 0
    """Values blanked on the kernel command line."""
    log_lines: int | None = None
    """Lines of the kernel log; None: it could not be read."""
    left_out: frozenset[LeftOut] = frozenset()

    def sentences(self) -> list[str]:
        """The summary for a person, one statement each."""
        counted = (
            (self.headers_only, "{} with their standard header only; run as root for the whole config space"),
            (self.asleep, "{} left asleep, so without their config space (--wake reads it)"),
            (self.serial_numbers, "blanked: the serial numbers of {}"),
            (self.vital_data, "blanked: the vital product data registers of {}"),
            (
                self.cut_configs,
                "blanked: what lies outside the capability lists of {}, which do not tell all that is there",
            ),
        )
        log = "the kernel log could not be read" if self.log_lines is None else f"{self.log_lines} lines of kernel log"
        return [
            f"{_functions(self.functions)}, {self.configs} with config space; {log}",
            *(text.format(_functions(count)) for count, text in counted if count),
            *([f"blanked: {self.parameters} values on the kernel command line"] if self.parameters else []),
            "blanked: who built the kernel; addresses and identifiers in the kernel log",
            *(["left out: the device tree, which is broken"] if LeftOut.DEVICE_TREE in self.left_out else []),
            "never in it: VPD, DMI, host name",
        ]


def _functions(count: int) -> str:
    return f"{count} function{'' if count == 1 else 's'}"
