# SPDX-License-Identifier: GPL-2.0-or-later
"""Write a made-up machine to disk, as a ``sys`` and a ``proc`` that iommud and lspci read like live ones.

It has the attributes that the two read, and few others: a large machine has millions of names as it is.

usage: python -m tools.bench.generate DIRECTORY FUNCTIONS
"""

# ruff: noqa: PTH103, PTH123, PTH211 - pathlib costs more than the system calls beneath it

from __future__ import annotations

import os
import struct
import sys
from collections.abc import Mapping, Sequence
from functools import lru_cache

from iommud.address import Address
from tools.bench.config_space import Identity, Layout, config_space
from tools.bench.machine import Function, machine

INTEL = "dmar"
KERNEL = "6.12.38+deb13-amd64"
_VERSION = f"Linux version {KERNEL} (builder@example.org) (gcc-14) #1 SMP PREEMPT_DYNAMIC\n"
_CMDLINE = "BOOT_IMAGE=/vmlinuz ro intel_iommu=on\n"
_BAR = "0x{:016x} 0x{:016x} 0x{:016x}\n"
_NO_BAR = _BAR.format(0, 0, 0)
_ONE_BAR = _BAR.format(0x90000000, 0x90003FFF, 0x14220C)


class _Writer:
    """Writes below one root; files of one content are hard links to each other, which saves most of the space."""

    def __init__(self, root: str) -> None:
        self._root = root
        self._first: dict[bytes, str] = {}

    def directory(self, path: str) -> None:
        os.makedirs(f"{self._root}/{path}", exist_ok=True)

    def link(self, path: str, target: str) -> None:
        os.symlink(target, f"{self._root}/{path}")

    def file(self, path: str, content: str | bytes) -> None:
        data = content.encode() if isinstance(content, str) else content
        place = f"{self._root}/{path}"
        first = self._first.get(data)
        if first is not None:
            try:
                os.link(first, place)
            except OSError:  # as many links as the file system allows: the next ones go to a new file
                first = None
        if first is None:
            self._first[data] = place
            with open(place, "xb") as stream:
                stream.write(data)


def generate(root: str, functions: int) -> None:
    """Write a machine of so many functions below ``root``, which is made."""
    write(root, machine(functions))


def write(root: str, members: Sequence[Function], iommu: str = INTEL) -> None:
    """Write these functions below ``root``, which is made; ``iommu`` is how the driver of their IOMMUs names them."""
    writer = _Writer(root)
    _kernel(writer)
    _iommus(writer, members, iommu)
    leads = dict.fromkeys(one.group for one in members if one.group is not None)
    numbers = {lead: index for index, lead in enumerate(leads)}
    _groups(writer, numbers)
    virtual: dict[Address, int] = {}
    for one in members:
        _function(writer, one, None if one.group is None else numbers[one.group])
        if one.physical is not None:
            index = virtual[one.physical] = virtual.get(one.physical, -1) + 1
            writer.link(f"{_directory(one, one.physical)}/virtfn{index}", f"../{one.address}")


def _kernel(writer: _Writer) -> None:
    writer.directory("proc/sys/kernel")
    writer.file("proc/sys/kernel/osrelease", KERNEL + "\n")
    writer.file("proc/version", _VERSION)
    writer.file("proc/cmdline", _CMDLINE)
    for path in ("bus/pci/devices", "bus/pci/drivers", "bus/pci/slots", "class/iommu", "kernel/iommu_groups"):
        writer.directory(f"sys/{path}")


def _iommus(writer: _Writer, members: Sequence[Function], iommu: str) -> None:
    """One IOMMU for each domain, which lists what has a group; with Intel's, the table that describes them."""
    domains = list(dict.fromkeys(one.address.domain for one in members))
    for domain in domains:
        writer.directory(f"sys/devices/virtual/iommu/{iommu}{domain}/devices")
        writer.link(f"sys/class/iommu/{iommu}{domain}", f"../../devices/virtual/iommu/{iommu}{domain}")
    for one in members:
        if one.group is not None:
            target = "../../../../../" + _directory(one).removeprefix("sys/")
            writer.link(f"sys/devices/virtual/iommu/{iommu}{one.address.domain}/devices/{one.address}", target)
    writer.directory("sys/firmware/acpi/tables")
    if iommu == INTEL:
        writer.file("sys/firmware/acpi/tables/DMAR", _dmar(domains))


def _dmar(domains: list[int]) -> bytes:
    """A DMAR table (VT-d, sec 8.1) in which each segment has one unit that serves all of it."""
    units = b"".join(struct.pack("<HHBBHQ", 0, 16, 1, 0, domain, 0xFED90000 + (domain << 12)) for domain in domains)
    header = b"DMAR" + struct.pack("<IBB", 48 + len(units), 1, 0) + b"BENCH BENCHMRK" + bytes(12)
    table = bytearray(header + bytes((38, 0x01)) + bytes(10) + units)
    table[9] = -sum(table) & 0xFF
    return bytes(table)


def _groups(writer: _Writer, numbers: Mapping[Address, int]) -> None:
    for number in numbers.values():
        writer.directory(f"sys/kernel/iommu_groups/{number}/devices")


def _directory(function: Function, address: Address | None = None) -> str:
    """Where a function lies; with an address, where another function of its bus does."""
    lead = function.above[0] if function.above else function.address
    parts = (f"pci{lead.domain:04x}:00", *function.above, address or function.address)
    return "sys/devices/" + "/".join(str(part) for part in parts)


@lru_cache(maxsize=256)
def _config(identity: Identity, layout: Layout) -> bytes:
    return config_space(identity, layout)


def _function(writer: _Writer, function: Function, group: int | None) -> None:
    path = _directory(function)
    writer.directory(f"{path}/power")
    writer.file(f"{path}/config", _config(function.identity, function.layout))
    for name, content in _attributes(function).items():
        writer.file(f"{path}/{name}", content)
    _links(writer, function, path, group)


def _attributes(function: Function) -> dict[str, str]:
    identity, layout = function.identity, function.layout
    return {
        "uevent": _uevent(function),
        "vendor": f"0x{identity.vendor:04x}\n",
        "device": f"0x{identity.device:04x}\n",
        "class": f"0x{identity.class_code:06x}\n",
        "subsystem_vendor": f"0x{identity.vendor:04x}\n",
        "subsystem_device": "0x0001\n",
        "revision": "0x01\n",
        "irq": "16\n",
        "numa_node": "0\n",
        "modalias": _modalias(identity) + "\n",
        "resource": (_ONE_BAR if layout.buses is None else _NO_BAR) + _NO_BAR * 12,
        "ari_enabled": f"{function.ari:d}\n",
        "power_state": "D0\n",
        "power/runtime_status": "active\n",
        **_bus_attributes(layout),
    }


def _bus_attributes(layout: Layout) -> dict[str, str]:
    found: dict[str, str] = {}
    if layout.port_type is not None:
        found["current_link_speed"] = "8.0 GT/s PCIe\n"
    if layout.buses is not None:
        found["secondary_bus_number"] = f"{layout.buses.secondary}\n"
        found["subordinate_bus_number"] = f"{layout.buses.subordinate}\n"
    if layout.virtual_functions:
        found["sriov_numvfs"] = f"{layout.virtual_functions}\n"
    return found


def _uevent(function: Function) -> str:
    """As ``pci_uevent()``, drivers/pci/pci-driver.c, writes it."""
    identity = function.identity
    return (
        (f"DRIVER={function.driver}\n" if function.driver else "")
        + f"PCI_CLASS={identity.class_code:X}\n"
        + f"PCI_ID={identity.vendor:04X}:{identity.device:04X}\n"
        + f"PCI_SUBSYS_ID={identity.vendor:04X}:0001\n"
        + f"PCI_SLOT_NAME={function.address}\n"
        + f"MODALIAS={_modalias(identity)}\n"
    )


def _modalias(identity: Identity) -> str:
    base, sub, interface = identity.class_code.to_bytes(3, "big")
    ids = f"v{identity.vendor:08X}d{identity.device:08X}sv{identity.vendor:08X}sd00000001"
    return f"pci:{ids}bc{base:02X}sc{sub:02X}i{interface:02X}"


def _links(writer: _Writer, function: Function, path: str, group: int | None) -> None:
    from_sysfs = path.removeprefix("sys/")
    to_sysfs = "../" * (from_sysfs.count("/") + 1)
    if group is not None:
        writer.link(f"{path}/iommu_group", f"{to_sysfs}kernel/iommu_groups/{group}")
        writer.link(f"sys/kernel/iommu_groups/{group}/devices/{function.address}", f"../../../../{from_sysfs}")
    writer.link(f"sys/bus/pci/devices/{function.address}", f"../../../{from_sysfs}")
    if function.driver:
        writer.directory(f"sys/bus/pci/drivers/{function.driver}")
        writer.link(f"{path}/driver", f"{to_sysfs}bus/pci/drivers/{function.driver}")
    if function.physical is not None:
        writer.link(f"{path}/physfn", f"../{function.physical}")


if __name__ == "__main__":
    generate(sys.argv[1], int(sys.argv[2]))
