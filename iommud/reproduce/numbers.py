# SPDX-License-Identifier: GPL-2.0-or-later
"""Bus numbers as the guest's firmware or kernel will give them: depth first, in the order of device and function.

SeaBIOS numbers so (``pci_bios_init_bus_rec()``) and keeps numbers free where a port's reserve capability asks for it;
Linux keeps what it finds on x86, and numbers densely on arm64 (``pci_scan_bridge_extend()``).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from iommud.address import Address
from iommud.reproduce.parts import Part

LAST_BUS = 0xFF


@dataclass(frozen=True, slots=True, kw_only=True)
class Placed:
    """A part with its address in the guest."""

    part: Part
    address: Address
    parent: Part | None
    """The bridge or expander whose bus it is on; None: ``pcie.0``."""
    spare: int = 0
    """Bus numbers to keep free behind its secondary bus; 0: none but those in use."""


def numbered(parts: tuple[Part, ...], *, keep: bool) -> tuple[tuple[Placed, ...], tuple[Part, ...]]:
    """Every part with its address, and the expanders for which there are no bus numbers.

    ``keep``: give captured numbers to further root buses and keep spare ones free, as far as that goes; tried first
    by whoever calls, since without it more buses fit.
    """
    placed, last = _bus(parts, 0, None, keep=keep)
    left_out: list[Part] = []
    for expander in sorted(
        (one for one in parts if one.root_bus is not None), key=lambda one: one.root_bus or LAST_BUS
    ):
        wish = expander.root_bus or 0
        number = max(wish, last + 1) if keep else last + 1
        found, end = _bus(expander.below, number, expander, keep=keep)
        if end > LAST_BUS:
            left_out.append(expander)
            continue
        last = end
        placed = [
            replace(one, part=replace(expander, root_bus=number)) if one.part is expander else one for one in placed
        ]
        placed += found
    return tuple(one for one in placed if not any(one.part is expander for expander in left_out)), tuple(left_out)


def _bus(parts: Iterable[Part], bus: int, parent: Part | None, *, keep: bool) -> tuple[list[Placed], int]:
    """The functions of a bus with all below, and the last bus number used; the bus itself counts."""
    placed: list[Placed] = []
    last = bus
    for part in sorted(parts, key=lambda one: one.place):
        address = Address(0, bus, part.device, part.function)
        if not part.bridge:
            placed.append(Placed(part=part, address=address, parent=parent))
            continue
        below, end = _bus(part.below, last + 1, part, keep=keep)
        spare = part.spare if keep and part.reserves and last + 1 + part.spare > end else 0
        placed.append(Placed(part=part, address=address, parent=parent, spare=spare))
        placed += below
        last = max(end, last + 1 + spare)
    return placed, last
