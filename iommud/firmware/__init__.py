# SPDX-License-Identifier: GPL-2.0-or-later
"""Parsers of what firmware says: ACPI tables DMAR, IVRS, IORT, VIOT and MCFG, and the device tree.

All are pure: bytes in, facts out. Firmware is not trusted; any bytes give a result,
and what is wrong with them is named in its `problems`.
"""

from iommud.firmware.dmar import DeviceScope, Dmar, DmarUnit, ReservedRegion, ScopeKind, parse_dmar
from iommud.firmware.fdt import DeviceTree, FdtError, Node, parse_fdt
from iommud.firmware.fdt_pci import HostBridge, IommuMapEntry, MapResult, host_bridges
from iommud.firmware.fdt_redact import redact_fdt
from iommud.firmware.iort import IdMapping, Iort, NodeKind, RootComplex, SmmuStream, parse_iort
from iommud.firmware.ivhd import AliasRange, RidRange
from iommud.firmware.ivrs import IvhdBlock, Ivrs, parse_ivrs
from iommud.firmware.mcfg import Mcfg, McfgAllocation, parse_mcfg
from iommud.firmware.viot import (
    MmioEndpoint,
    PciRange,
    Viot,
    VirtioIommuMmio,
    VirtioIommuPci,
    parse_viot,
)

__all__ = [
    "AliasRange",
    "DeviceScope",
    "DeviceTree",
    "Dmar",
    "DmarUnit",
    "FdtError",
    "HostBridge",
    "IdMapping",
    "IommuMapEntry",
    "Iort",
    "IvhdBlock",
    "Ivrs",
    "MapResult",
    "Mcfg",
    "McfgAllocation",
    "MmioEndpoint",
    "Node",
    "NodeKind",
    "PciRange",
    "ReservedRegion",
    "RidRange",
    "RootComplex",
    "ScopeKind",
    "SmmuStream",
    "Viot",
    "VirtioIommuMmio",
    "VirtioIommuPci",
    "host_bridges",
    "parse_dmar",
    "parse_fdt",
    "parse_iort",
    "parse_ivrs",
    "parse_mcfg",
    "parse_viot",
    "redact_fdt",
]
