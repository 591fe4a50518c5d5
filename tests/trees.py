# SPDX-License-Identifier: GPL-2.0-or-later
"""Write small machines as sysfs directories, so that a test shows what lies where."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

HEADER = 64


class TreeWriter:
    """Writes functions, groups and other files of one machine below a directory."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.write("sys/bus/pci/devices/.keep", "")
        (root / "sys/bus/pci/devices/.keep").unlink()

    def write(self, path: str, content: str | bytes) -> None:
        place = self.root / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(content.encode() if isinstance(content, str) else content)

    def link(self, path: str, target: str) -> None:
        """A link to another path of the tree, written relative as the kernel writes it."""
        place = self.root / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.symlink_to(os.path.relpath(self.root / target, place.parent))

    def function(
        self,
        path: str,
        ids: str = "8086:100e",
        class_code: str = "020000",
        *,
        driver: str | None = None,
        config: bytes | None = None,
        **attributes: Any,
    ) -> str:
        """One function; ``path`` is its place below ``pci0000:00``, such as ``0000:00:02.0/0000:01:00.0``."""
        place = path if path.startswith("sys/") else f"sys/devices/pci0000:00/{path}"
        name = place.rpartition("/")[2]
        event = f"PCI_CLASS={class_code.lstrip('0') or '0'}\nPCI_ID={ids.upper()}\nPCI_SLOT_NAME={name}\n"
        self.write(f"{place}/uevent", (f"DRIVER={driver}\n" if driver else "") + event)
        for attribute, value in attributes.items():
            self.write(f"{place}/{attribute.replace('__', '/')}", f"{value}\n")
        if config is not None:
            self.write(f"{place}/config", config)
        if driver:
            self.link(f"{place}/driver", f"sys/bus/pci/drivers/{driver}")
        self.link(f"sys/bus/pci/devices/{name}", place)
        return place

    def group(self, number: int, *paths: str, name: str | None = None) -> None:
        """One group with these functions, links in both directions."""
        self.write(f"sys/kernel/iommu_groups/{number}/type", "DMA\n")
        if name is not None:
            self.write(f"sys/kernel/iommu_groups/{number}/name", name + "\n")
        for path in paths:
            place = path if path.startswith("sys/") else f"sys/devices/pci0000:00/{path}"
            self.link(f"{place}/iommu_group", f"sys/kernel/iommu_groups/{number}")
            self.link(f"sys/kernel/iommu_groups/{number}/devices/{place.rpartition('/')[2]}", place)


def config_space(
    port_type: int | None = None,
    acs: tuple[int, int] | None = None,
    *,
    header: int = 0,
    multifunction: bool = False,
    size: int = 4096,
) -> bytes:
    """A config space with a PCIe capability at 0x40 and ACS (capability, control) at 0x100."""
    space = bytearray(4096)
    space[0x0E] = header | (0x80 if multifunction else 0)
    if port_type is not None:
        space[0x06] = 0x10
        space[0x34] = 0x40
        space[0x40:0x44] = (0x10 | (0x2 | port_type << 4) << 16).to_bytes(4, "little")
    if acs is not None:
        space[0x100:0x104] = (0x1000D).to_bytes(4, "little")
        space[0x104:0x108] = (acs[0] | acs[1] << 16).to_bytes(4, "little")
    return bytes(space[:size])
