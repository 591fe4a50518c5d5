# SPDX-License-Identifier: GPL-2.0-or-later
"""Vocabulary and decoding of PCI configuration space: port types, ACS registers, capability walks.

Everything here works on a function that gives single dwords, so that a live machine is asked for no
byte that the answer does not need: each one can be a VM exit.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass, replace

ReadDword = Callable[[int], int | None]
"""Gives the little-endian dword at a multiple of four, or None where these bytes cannot be had."""

CLASS_HOST_BRIDGE = 0x0600
CLASS_PCI_BRIDGE = 0x0604
CLASS_CARDBUS_BRIDGE = 0x0607
CLASS_SYSTEM_IOMMU = 0x0806
CLASS_DISPLAY = 0x03

STATUS_CAPABILITY_LIST = 0x0010
CAPABILITY_ID_PCIE = 0x10
EXTENDED_CAPABILITY_ID_ACS = 0x000D
HEADER_TYPE_CARDBUS = 2

STANDARD_HEADER_SIZE = 64
CARDBUS_HEADER_SIZE = 128
CONVENTIONAL_CONFIG_SIZE = 256
EXTENDED_CONFIG_SIZE = 4096
MPC_REGISTER = 0xD8
"""Miscellaneous Port Configuration of Intel PCH root ports (``INTEL_MPC_REG``, drivers/pci/quirks.c)."""

_CAPABILITY_STEPS = 48  # PCI_FIND_CAP_TTL, drivers/pci/pci.h
_EXTENDED_STEPS = (EXTENDED_CONFIG_SIZE - CONVENTIONAL_CONFIG_SIZE) // 8


class PortType(enum.IntEnum):
    """Device/Port Type, bits 7:4 of the PCI Express Capabilities register (PCIe r3.1, sec 7.8.2)."""

    ENDPOINT = 0x0
    LEGACY_ENDPOINT = 0x1
    ROOT_PORT = 0x4
    UPSTREAM_PORT = 0x5
    DOWNSTREAM_PORT = 0x6
    PCIE_TO_PCI_BRIDGE = 0x7
    PCI_TO_PCIE_BRIDGE = 0x8
    ROOT_COMPLEX_INTEGRATED_ENDPOINT = 0x9
    EVENT_COLLECTOR = 0xA


class Acs(enum.IntFlag):
    """Bits of the ACS Capability and Control registers (PCIe r3.1, sec 7.16.2 and 7.16.3)."""

    SV = 0x01
    TB = 0x02
    RR = 0x04
    CR = 0x08
    UF = 0x10
    EC = 0x20
    DT = 0x40


REQUIRED_ACS = 0x1D
"""SV, RR, CR and UF: ``REQ_ACS_FLAGS`` of drivers/iommu/iommu.c."""

ACS_EC = 0x20
ACS_SV = 0x01


def acs_names(bits: int) -> str:
    """The set flags as text, ``SV|RR`` or ``none``."""
    return "|".join(str(flag.name) for flag in Acs if bits & flag) or "none"


class Gap(enum.StrEnum):
    """Why bytes of a config space are not at hand."""

    NO_CONFIG = "no-config"
    """The snapshot holds no ``config`` attribute for the function."""
    ASLEEP = "asleep"
    """Reading would wake the function or the bridge above it."""
    RESTRICTED = "restricted"
    """Only the standard header may be read: the reader lacks CAP_SYS_ADMIN (``pci_read_config()``)."""
    TRUNCATED = "truncated"
    """The file ends before the bytes wanted."""
    ALL_ONES = "all-ones"
    """The function did not answer: gone, or without power."""
    VANISHED = "vanished"
    """The function disappeared while it was read."""


class Oddity(enum.StrEnum):
    """A malformed config space that nevertheless reads as the kernel reads it."""

    CAPABILITY_LOOP = "capability-list-loop"
    EXTENDED_CAPABILITY_LOOP = "extended-capability-list-loop"
    CARDBUS_HEADER = "cardbus-header"
    UNKNOWN_HEADER = "unknown-header-type"
    SHORT_EXTENDED_SPACE = "extended-space-contradicted"


@dataclass(frozen=True, slots=True)
class AcsRegisters:
    """ACS Capability and Control as read; ``wide`` where both are dwords (Sunrise Point root ports)."""

    capability: int
    control: int
    wide: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Which registers of one function the answer needs."""

    header: bool = True
    capabilities: bool = True
    acs: bool = True
    every_type: bool = False
    """Read ACS also where the port type alone decides (for display)."""
    wide_acs: bool = False
    """The function is a Sunrise Point root port: ACS registers are dwords."""
    mpc: bool = False
    """The function is an Intel PCH root port: read the Miscellaneous Port Configuration register."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigFacts:
    """What was decoded from one config space. Each None means "not known", but for ``acs``."""

    header_type: int | None = None
    multifunction_bit: bool | None = None
    is_pcie: bool | None = None
    port_type: int | None = None
    """Raw port type; None also for a function without a PCIe capability."""
    acs: AcsRegisters | None = None
    acs_known: bool = False
    """True: ``acs`` is the truth, and None there means that the capability is absent."""
    mpc: int | None = None
    gap: Gap | None = None
    oddities: tuple[Oddity, ...] = ()


NOT_READ = ConfigFacts()
"""The facts of a function whose config space the answer does not need."""


def decode_config(
    read: ReadDword, wanted: Wanted, *, size: int, function_number: int, extended_evidence: bool, gap: Gap
) -> ConfigFacts:
    """Decode what is wanted of one config space.

    ``size`` is the size of the space as the kernel probed it (64, 256 or 4096 bytes), ``extended_evidence``
    says that another attribute proves extended capabilities, ``gap`` names the reason if bytes are missing.
    """
    facts = _decode_header(read, wanted, function_number, gap)
    if facts.gap is not None or not wanted.capabilities:
        return facts
    facts = _decode_pcie(read, facts, gap)
    if wanted.mpc and facts.port_type == PortType.ROOT_PORT:
        facts = replace(facts, mpc=read(MPC_REGISTER))
    if not _acs_decides(facts, wanted, function_number):
        return facts
    return _decode_acs(read, facts, wanted, size, extended_evidence, gap)


def _decode_header(read: ReadDword, wanted: Wanted, function_number: int, gap: Gap) -> ConfigFacts:
    if not wanted.header and function_number > 0:
        return ConfigFacts()
    dword = read(0x0C)
    if dword is None:
        return ConfigFacts(gap=gap)
    if dword == 0xFFFFFFFF:
        return ConfigFacts(gap=Gap.ALL_ONES)
    header = dword >> 16 & 0x7F
    return ConfigFacts(
        header_type=header, multifunction_bit=bool(dword & 0x00800000), oddities=_header_oddities(header)
    )


def _header_oddities(header: int) -> tuple[Oddity, ...]:
    if header < HEADER_TYPE_CARDBUS:
        return ()
    return (Oddity.CARDBUS_HEADER if header == HEADER_TYPE_CARDBUS else Oddity.UNKNOWN_HEADER,)


def _decode_pcie(read: ReadDword, facts: ConfigFacts, gap: Gap) -> ConfigFacts:
    """Find the PCIe capability as ``__pci_bus_find_cap_start()`` and ``__pci_find_next_cap_ttl()`` do."""
    status = read(0x04)
    if status is None:
        return replace(facts, gap=gap)
    if status == 0xFFFFFFFF:
        return replace(facts, gap=Gap.ALL_ONES)
    if not status >> 16 & STATUS_CAPABILITY_LIST:
        return replace(facts, is_pcie=False, acs_known=True)
    pointer = read(0x14 if facts.header_type == HEADER_TYPE_CARDBUS else 0x34)
    return replace(facts, gap=gap) if pointer is None else _walk_capabilities(read, facts, pointer, gap)


def _walk_capabilities(read: ReadDword, facts: ConfigFacts, pointer: int, gap: Gap) -> ConfigFacts:
    position = pointer & 0xFF
    for _ in range(_CAPABILITY_STEPS):
        if position < STANDARD_HEADER_SIZE:
            return replace(facts, is_pcie=False, acs_known=True)
        entry = read(position & 0xFC)
        if entry is None:
            return replace(facts, gap=gap)
        if entry & 0xFF == 0xFF:
            return replace(facts, is_pcie=False, acs_known=True)
        if entry & 0xFF == CAPABILITY_ID_PCIE:
            return replace(facts, is_pcie=True, port_type=entry >> 20 & 0xF)
        position = entry >> 8 & 0xFF
    looped = (*facts.oddities, Oddity.CAPABILITY_LOOP)
    return replace(facts, is_pcie=False, acs_known=True, oddities=looped)


_TYPE_DECIDES = frozenset({PortType.PCIE_TO_PCI_BRIDGE, PortType.PCI_TO_PCIE_BRIDGE, PortType.EVENT_COLLECTOR})
_ALONE_DECIDES = frozenset(
    {
        PortType.ENDPOINT,
        PortType.LEGACY_ENDPOINT,
        PortType.UPSTREAM_PORT,
        PortType.ROOT_COMPLEX_INTEGRATED_ENDPOINT,
    }
)


def _acs_decides(facts: ConfigFacts, wanted: Wanted, function_number: int) -> bool:
    """Whether ACS registers can matter to ``pci_acs_enabled()`` for this type of port."""
    if not facts.is_pcie or not wanted.acs:
        return False
    if wanted.every_type:
        return True
    if facts.port_type in _TYPE_DECIDES:
        return False
    lone = not facts.multifunction_bit and function_number == 0
    return not (lone and facts.port_type in _ALONE_DECIDES)


def _decode_acs(
    read: ReadDword, facts: ConfigFacts, wanted: Wanted, size: int, extended_evidence: bool, gap: Gap
) -> ConfigFacts:
    if size <= CONVENTIONAL_CONFIG_SIZE:
        if extended_evidence:
            oddities = (*facts.oddities, Oddity.SHORT_EXTENDED_SPACE)
            return replace(facts, gap=Gap.TRUNCATED, oddities=oddities)
        # The kernel sized the space at 256 bytes: it found nothing to read beyond (pci_cfg_space_size()).
        return replace(facts, acs_known=True)
    wide = wanted.wide_acs and facts.port_type == PortType.ROOT_PORT
    return _walk_extended(read, facts, wide, gap)


def _walk_extended(read: ReadDword, facts: ConfigFacts, wide: bool, gap: Gap) -> ConfigFacts:
    """Find ACS as ``pci_find_next_ext_capability()`` does."""
    position = CONVENTIONAL_CONFIG_SIZE
    for _ in range(_EXTENDED_STEPS):
        header = read(position)
        if header is None:
            return replace(facts, gap=gap)
        # A header of 0, the mark of an empty list, needs no test of its own: it leads nowhere either.
        if header == 0xFFFFFFFF:
            return replace(facts, acs_known=True)
        if header & 0xFFFF == EXTENDED_CAPABILITY_ID_ACS:
            return _read_acs(read, facts, position, wide, gap)
        position = header >> 20 & 0xFFC
        if position < CONVENTIONAL_CONFIG_SIZE:
            return replace(facts, acs_known=True)
    looped = (*facts.oddities, Oddity.EXTENDED_CAPABILITY_LOOP)
    return replace(facts, acs_known=True, oddities=looped)


def _read_acs(read: ReadDword, facts: ConfigFacts, position: int, wide: bool, gap: Gap) -> ConfigFacts:
    """Capability word at +4 and Control word at +6; dwords at +4 and +8 on Sunrise Point root ports."""
    low = read(position + 4)
    high = read(position + 8) if wide else low
    if low is None or high is None:
        return replace(facts, gap=gap)
    if wide:
        return replace(facts, acs=AcsRegisters(low, high, wide=True), acs_known=True)
    return replace(facts, acs=AcsRegisters(low & 0xFFFF, low >> 16), acs_known=True)
