# SPDX-License-Identifier: GPL-2.0-or-later
"""Configuration spaces of made-up functions, as full as real ones, so that every reader walks real lists."""

from __future__ import annotations

import enum
import struct
from dataclasses import dataclass

from iommud.pci import PortType


class Header(enum.IntEnum):
    """Header type, the low seven bits of the byte at 0x0E."""

    FUNCTION = 0
    BRIDGE = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """What the header says of one model of a device. ``class_code`` has 24 bits."""

    vendor: int
    device: int
    class_code: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Buses:
    """Bus numbers of a bridge."""

    primary: int
    secondary: int
    subordinate: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """What makes two configuration spaces of one identity differ."""

    port_type: PortType | None
    """None: conventional PCI, 256 bytes and no PCI Express capability."""
    multifunction: bool = False
    acs: tuple[int, int] | None = None
    """ACS Capability and Control; None: no ACS capability."""
    virtual_functions: int = 0
    """Virtual functions switched on; 0: no SR-IOV capability."""
    buses: Buses | None = None


_POWER, _MSI, _EXPRESS, _MSIX, _SUBSYSTEM = 0x40, 0x50, 0x70, 0xB0, 0xC0
_ERRORS, _ACS, _ARI, _SRIOV = 0x100, 0x148, 0x158, 0x168
_SLOT_IMPLEMENTED = 0x0100


def config_space(identity: Identity, layout: Layout) -> bytes:
    """All bytes of a ``config`` attribute: 4096 of a PCI Express function, 256 of a conventional one."""
    space = bytearray(256 if layout.port_type is None else 4096)
    struct.pack_into("<HHHH", space, 0x00, identity.vendor, identity.device, 0x0406, 0x0010)
    space[0x08] = 1
    space[0x09:0x0C] = identity.class_code.to_bytes(3, "little")
    space[0x0E] = (Header.FUNCTION if layout.buses is None else Header.BRIDGE) | layout.multifunction << 7
    if layout.buses is None:
        _function_header(space, identity)
    else:
        _bridge_header(space, layout.buses)
    _capabilities(space, identity, layout)
    if layout.port_type is not None:
        _extended_capabilities(space, layout)
    return bytes(space)


def _function_header(space: bytearray, identity: Identity) -> None:
    struct.pack_into("<II", space, 0x10, 0x9000000C, 0x20)  # a 64-bit prefetchable BAR
    struct.pack_into("<HH", space, 0x2C, identity.vendor, 0x0001)
    space[0x3D] = 1


def _bridge_header(space: bytearray, buses: Buses) -> None:
    space[0x18:0x1B] = bytes((buses.primary, buses.secondary, buses.subordinate))
    struct.pack_into("<HH", space, 0x20, 0x9000, 0x90F0)
    space[0x3E] = 0x02


def _capabilities(space: bytearray, identity: Identity, layout: Layout) -> None:
    space[0x34] = _POWER
    after_power = _SUBSYSTEM if layout.port_type is None else _MSI
    struct.pack_into("<BBHH", space, _POWER, 0x01, after_power, 0xC803, 0x0008)
    struct.pack_into("<BBHHH", space, _SUBSYSTEM, 0x0D, 0x00, 0, identity.vendor, 0x0001)
    if layout.port_type is None:
        return
    struct.pack_into("<BBHIII", space, _MSI, 0x05, _EXPRESS, 0x0180, 0, 0, 0)
    after_express = _MSIX if layout.buses is None else _SUBSYSTEM
    slot = _SLOT_IMPLEMENTED if layout.port_type in (PortType.ROOT_PORT, PortType.DOWNSTREAM_PORT) else 0
    kind = 0x0002 | layout.port_type << 4 | slot
    struct.pack_into(
        "<BBHIHHIHH", space, _EXPRESS, 0x10, after_express, kind, 0x8FE1, 0x2810, 0, 0x437843, 0x40, 0x1043
    )
    struct.pack_into("<BBHII", space, _MSIX, 0x11, 0x00, 0x801F, 0x2000, 0x3000)


def _extended_capabilities(space: bytearray, layout: Layout) -> None:
    present = [
        (_ERRORS, 0x0001, 2),
        *([(_ACS, 0x000D, 1)] if layout.acs is not None else ()),
        *([(_ARI, 0x000E, 1)] if layout.buses is None else ()),
        *([(_SRIOV, 0x0010, 1)] if layout.virtual_functions else ()),
    ]
    for index, (offset, kind, version) in enumerate(present):
        following = present[index + 1][0] if index + 1 < len(present) else 0
        struct.pack_into("<I", space, offset, following << 20 | version << 16 | kind)
    if layout.acs is not None:
        struct.pack_into("<HH", space, _ACS + 4, *layout.acs)
    if layout.virtual_functions:
        count = layout.virtual_functions
        struct.pack_into("<IHHHHHHHH", space, _SRIOV + 4, 0, 0x19, 0, count, count, count, 0, 1, 1)
