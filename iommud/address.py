# SPDX-License-Identifier: GPL-2.0-or-later
"""Addresses of PCI functions, spelled as the kernel spells them."""

from __future__ import annotations

import re
from typing import NamedTuple

_BDF = re.compile(r"(?:([0-9a-fA-F]{4,8}):)?([0-9a-fA-F]{1,2}):([0-9a-fA-F]{1,2})\.([0-7])")
_BDF_NAME = re.compile(r"[0-9a-f]{4,8}:[0-9a-f]{2}:[01][0-9a-f]\.[0-7]")


class Address(NamedTuple):
    """Domain, bus, device and function of one PCI function; ordered as the kernel lists them."""

    domain: int
    bus: int
    device: int
    function: int

    @classmethod
    def parse(cls, text: str) -> Address:
        """Read ``dddd:bb:dd.f`` or ``bb:dd.f`` (domain 0000).

        Raises ValueError for anything else; domains beyond 16 bits (VMD) have five digits and more.
        """
        match = _BDF.fullmatch(text.strip())
        if match is None or int(match[3], 16) > 0x1F:
            raise ValueError(f"{text!r} is not a PCI address like 0000:02:01.0")
        return cls(int(match[1] or "0", 16), int(match[2], 16), int(match[3], 16), int(match[4]))

    @classmethod
    def from_name(cls, name: str) -> Address | None:
        """The address that a sysfs directory name spells, or None if it spells none."""
        if _BDF_NAME.fullmatch(name) is None:
            return None
        return cls(int(name[:-8], 16), int(name[-7:-5], 16), int(name[-4:-2], 16), int(name[-1]))

    @property
    def devfn(self) -> int:
        """Device and function number in one byte (``PCI_DEVFN()``)."""
        return self.device << 3 | self.function

    @property
    def requester_id(self) -> int:
        """Bus and devfn as they travel in a request: 16 bits (PCIe r3.1, sec 2.2.6.2)."""
        return self.bus << 8 | self.device << 3 | self.function

    def with_devfn(self, devfn: int) -> Address:
        """The address of another device and function number on the same bus."""
        return Address(self.domain, self.bus, devfn >> 3, devfn & 7)

    @classmethod
    def from_requester_id(cls, domain: int, requester_id: int) -> Address:
        """The address whose requester ID in this domain is the given 16-bit value."""
        return cls(domain, requester_id >> 8 & 0xFF, requester_id >> 3 & 0x1F, requester_id & 7)

    def __str__(self) -> str:
        return f"{self.domain:04x}:{self.bus:02x}:{self.device:02x}.{self.function}"
