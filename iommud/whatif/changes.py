# SPDX-License-Identifier: GPL-2.0-or-later
"""Changes to a machine as values: what somebody would switch, move, take out or boot with."""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass

from iommud.address import Address
from iommud.errors import IommudError, visible
from iommud.kernel import Kernel
from iommud.model.acs import Override


class ImpossibleChangeError(IommudError):
    """A change that this machine cannot undergo; ``str()`` is one line that says why."""


class Order(enum.StrEnum):
    """An order in which functions could be given their groups."""

    TOP_DOWN = "top-down"
    """The kernel's device list: bridges before what lies below them."""
    BOTTOM_UP = "bottom-up"
    """The device list backwards: what lies below bridges first."""
    BRIDGES_LAST = "bridges-last"
    """All other functions in list order, then the bridges: the port driver comes late."""


@dataclass(frozen=True, slots=True)
class SwitchAcs:
    """The required ACS flags on or off, at one function or wherever the capability exists."""

    on: bool
    address: Address | None = None

    def __str__(self) -> str:
        state = "on" if self.on else "off"
        return f"ACS {state} wherever it exists" if self.address is None else f"ACS {state} at {self.address}"


@dataclass(frozen=True, slots=True)
class OverrideAcs:
    """The out-of-tree ``pcie_acs_override=`` parameter with its tokens, on a kernel that has the patch."""

    tokens: frozenset[Override]
    ids: frozenset[tuple[int, int]] = frozenset()

    @property
    def parameter(self) -> str:
        """The word on the kernel command line."""
        named = [f"id:{vendor:04x}:{device:04x}" for vendor, device in sorted(self.ids)]
        return f"pcie_acs_override={','.join([*sorted(self.tokens), *named])}"

    def __str__(self) -> str:
        return f"a patched kernel with {self.parameter}" if self.tokens or self.ids else "no pcie_acs_override"


@dataclass(frozen=True, slots=True)
class BootKernel:
    """Another kernel release."""

    kernel: Kernel

    def __str__(self) -> str:
        return f"kernel {visible(self.kernel.text)}"


@dataclass(frozen=True, slots=True)
class TakeOut:
    """A function is not there, nor is what lies below it or belongs to it."""

    address: Address

    def __str__(self) -> str:
        return f"without {self.address}"


@dataclass(frozen=True, slots=True)
class Slot:
    """A place for a device: below a bridge, or an address on a bus that is there.

    ``below`` names a bridge, ``device`` and ``function`` a place on its bus (None: the first that is free, and the
    numbers the functions have); without ``below``, ``at`` is the address.
    """

    below: Address | None = None
    device: int | None = None
    function: int | None = None
    at: Address | None = None

    @classmethod
    def parse(cls, text: str) -> Slot:
        """Read ``PORT``, ``PORT/DD.F`` or an address; which of the first and the last is meant, the machine tells.

        Raises ValueError for anything else.
        """
        port, slash, rest = text.partition("/")
        if not slash:
            return cls(at=Address.parse(text))
        match = _PLACE.fullmatch(rest)
        if match is None or int(match[1], 16) > 0x1F:
            raise ValueError(f"{text!r} is no slot like 0000:00:1c.0, 0000:00:1c.0/00.0 or 0000:02:01.0")
        return cls(below=Address.parse(port), device=int(match[1], 16), function=int(match[2]))

    def __str__(self) -> str:
        if self.at is not None:
            return str(self.at)
        place = "" if self.device is None else f"/{self.device:02x}.{self.function or 0}"
        return f"{self.below}{place}"


_PLACE = re.compile(r"([0-9a-fA-F]{1,2})\.([0-7])")


@dataclass(frozen=True, slots=True)
class Move:
    """A device in another slot, with all its functions and all that lies below it."""

    address: Address
    slot: Slot

    def __str__(self) -> str:
        return f"{self.address} moved to {self.slot}"


@dataclass(frozen=True, slots=True)
class AddParameters:
    """Words added to the kernel command line."""

    text: str

    def __str__(self) -> str:
        return f"{visible(self.text)} on the kernel command line"


@dataclass(frozen=True, slots=True)
class ProbeInOrder:
    """Functions get their groups in a certain order."""

    order: Order

    def __str__(self) -> str:
        return f"probed {self.order}"


Change = SwitchAcs | OverrideAcs | BootKernel | TakeOut | Move | AddParameters | ProbeInOrder
