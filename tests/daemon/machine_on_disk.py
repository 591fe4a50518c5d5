# SPDX-License-Identifier: GPL-2.0-or-later
"""A small machine on disk that tests change while it is watched, and trees that count or disturb the reading of it."""

from __future__ import annotations

import itertools
import os
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from iommud.address import Address
from iommud.files import READ_LIMIT, ConfigFile, Stamp
from iommud.tree import LiveTree
from tests.trees import TreeWriter, config_space

ROOT_PORT, DOWNSTREAM_SLOT = 4, 6
ACS_ON, ACS_OFF = (0x1F, 0x1D), (0x1F, 0x00)
ACS_CONTROL = 0x106
"""Where ``config_space`` puts the ACS Control register."""

PORT = Address.parse("0000:00:1c.0")
LEFT = Address.parse("0000:01:00.0")
RIGHT = Address.parse("0000:01:00.1")
OTHER_PORT = Address.parse("0000:00:1d.0")
VIRTUAL_MACHINE_DISK = Address.parse("0000:00:02.0")

_clock = itertools.count(2_000_000_000)


class MachineOnDisk(TreeWriter):
    """Two root ports with ACS, a card with two functions below the first, and a lone function on the root bus."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        port = config_space(ROOT_PORT, ACS_ON, header=1)
        ids = {"ids": "8086:3420", "class_code": "060400", "driver": "pcieport", "subordinate_bus_number": "2"}
        self.function("0000:00:1c.0", config=port, secondary_bus_number="1", **ids)
        self.function("0000:00:1d.0", config=port, secondary_bus_number="2", **ids)
        card = config_space(0, ACS_ON, multifunction=True)
        self.function("0000:00:1c.0/0000:01:00.0", "1234:1111", config=card, driver="igb")
        self.function("0000:00:1c.0/0000:01:00.1", "1234:1111", config=card, driver="igb")
        self.function("0000:00:02.0", "1af4:1001", "010000", config=config_space())
        self.group(0, "0000:00:1c.0")
        self.group(1, "0000:00:1d.0")
        self.group(2, "0000:00:1c.0/0000:01:00.0")
        self.group(3, "0000:00:1c.0/0000:01:00.1")
        self.group(4, "0000:00:02.0")
        self.write("sys/class/iommu/.keep", "")
        self.write("proc/sys/kernel/osrelease", "6.12.38+deb13-amd64\n")
        self.write("proc/version", "Linux version 6.12.38+deb13-amd64\n")

    def place(self, address: Address) -> Path:
        return self.root / "sys/bus/pci/devices" / str(address)

    def poke(self, address: Address, offset: int, content: bytes) -> None:
        """Change registers as hardware does: the file stays the same one."""
        with (self.place(address) / "config").open("r+b") as config:
            config.seek(offset)
            config.write(content)

    def set_control(self, address: Address, control: int) -> None:
        self.poke(address, ACS_CONTROL, control.to_bytes(2, "little"))

    def remove(self, address: Address) -> None:
        """Take a function away with all that lies below it, and with its memberships."""
        directory = self.place(address).resolve()
        gone = [directory.name, *(one.name for one in directory.rglob("*") if Address.from_name(one.name))]
        for name in gone:
            for link in (self.root / "sys/bus/pci/devices" / name, *self._memberships(name)):
                link.unlink(missing_ok=True)
        shutil.rmtree(directory)

    def move(self, address: Address, number: int) -> None:
        """Put a function into another group, link and membership."""
        link = self.place(address) / "iommu_group"
        link.unlink(missing_ok=True)
        for member in self._memberships(str(address)):
            member.unlink(missing_ok=True)
        self.group(number, str(self.place(address).resolve().relative_to(self.root)))

    def _memberships(self, name: str) -> list[Path]:
        return [group / "devices" / name for group in self.root.glob("sys/kernel/iommu_groups/*")]


def later(path: Path) -> None:
    """Give a file a time that it never had before, which the clock of a file system is too coarse for."""
    now = next(_clock)
    os.utime(path, (now, now))


class WatchedTree(LiveTree):
    """The machine, with stamps as sysfs gives them, counting what is opened, and changing under the reader's hands."""

    opened: Counter[Address]
    disturb: Callable[[Address], None] | None = None
    """Called before the config file of a function is opened."""
    listed: Callable[[str], None] | None = None
    """Called after a directory was listed."""
    when_read: Callable[[str], None] | None = None
    """Called before a file is read."""

    @classmethod
    def of(cls, machine: MachineOnDisk, opened: Counter[Address] | None = None) -> WatchedTree:
        tree = cls(str(machine.root / "sys"), str(machine.root / "proc"))
        tree.opened = Counter() if opened is None else opened
        return tree

    def stamp(self, path: str) -> Stamp | None:
        found = super().stamp(path)
        return None if found is None else found[:3]

    def read(self, path: str, limit: int = READ_LIMIT) -> bytes | None:
        if self.when_read is not None:
            self.when_read(path)
        return super().read(path, limit)

    def list(self, path: str) -> list[str] | None:
        names = super().list(path)
        if self.listed is not None:
            self.listed(path)
        return names

    def config(self, path: str) -> ConfigFile | None:
        address = Address.parse(path.split("/")[-2])
        self.opened[address] += 1
        if self.disturb is not None:
            self.disturb(address)
        return super().config(path)
