# SPDX-License-Identifier: GPL-2.0-or-later
"""Parsers of what firmware says: ACPI tables DMAR, IVRS, IORT, VIOT and MCFG, and the device tree.

All are pure: bytes in, facts out. Firmware is not trusted; any bytes give a result,
and what is wrong with them is named in its `problems`.

The names below are loaded when they are first used: a machine has one or two of the tables, and parsers for the
others would take a tenth of the time of a small check.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from iommud.firmware.dmar import Dmar, DmarUnit, ScopeKind, parse_dmar
    from iommud.firmware.fdt import parse_fdt
    from iommud.firmware.fdt_pci import HostBridge, host_bridges
    from iommud.firmware.iort import Iort, NodeKind, parse_iort
    from iommud.firmware.ivrs import Ivrs, parse_ivrs
    from iommud.firmware.mcfg import Mcfg, parse_mcfg
    from iommud.firmware.viot import Viot, VirtioIommuPci, parse_viot

_HOMES = {
    "Dmar": "dmar",
    "DmarUnit": "dmar",
    "HostBridge": "fdt_pci",
    "Iort": "iort",
    "Ivrs": "ivrs",
    "Mcfg": "mcfg",
    "NodeKind": "iort",
    "ScopeKind": "dmar",
    "Viot": "viot",
    "VirtioIommuPci": "viot",
    "host_bridges": "fdt_pci",
    "parse_dmar": "dmar",
    "parse_fdt": "fdt",
    "parse_iort": "iort",
    "parse_ivrs": "ivrs",
    "parse_mcfg": "mcfg",
    "parse_viot": "viot",
}

__all__ = [
    "Dmar",
    "DmarUnit",
    "HostBridge",
    "Iort",
    "Ivrs",
    "Mcfg",
    "NodeKind",
    "ScopeKind",
    "Viot",
    "VirtioIommuPci",
    "host_bridges",
    "parse_dmar",
    "parse_fdt",
    "parse_iort",
    "parse_ivrs",
    "parse_mcfg",
    "parse_viot",
]


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{home}"), name)
