# SPDX-License-Identifier: GPL-2.0-or-later
"""Read single PCI functions: identity, place in the hierarchy, and the wanted part of config space."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import lru_cache

from iommud.address import Address
from iommud.capture_note import NOTE_PATH, CaptureNote
from iommud.files import ConfigFile, Tree
from iommud.pci import (
    CARDBUS_HEADER_SIZE,
    CONVENTIONAL_CONFIG_SIZE,
    EXTENDED_CONFIG_SIZE,
    STANDARD_HEADER_SIZE,
    ConfigFacts,
    Gap,
    Wanted,
    decode_config,
)
from iommud.power import Sleep
from iommud.snapshot import PciFunction

_ROOT_BUS = re.compile(r"pci([0-9a-f]{4,8}):([0-9a-f]{2})")
_BUS = re.compile(r"[0-9a-f]{4,8}:([0-9a-f]{2})")
_HEXADECIMAL = re.compile(r"(?:0x)?[0-9a-fA-F]{1,6}")
_CLIMB = "../../../"


class FunctionReader:
    """Reads functions of one tree; remembers where each lies and counts config-space reads."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        self.paths: dict[Address, str] = {}
        self.config_reads = 0
        note = None if tree.live else CaptureNote.decode(tree.read(NOTE_PATH))
        self.whole = tree.live or (note is not None and note.complete)
        """Whether every attribute and link that the machine has can be seen: not so in captures of other makers."""
        self.woken = note is not None and note.woken
        """Whether sleeping functions were woken for this capture: reading them then wakes nobody."""

    def identity(self, address: Address, entry: str) -> PciFunction | None:
        """What sysfs tells of a function without config space; None if it is gone."""
        path = self._path(entry)
        if path is None:
            return None if self._tree.live else PciFunction(address=address)
        return self._identity_at(address, path)

    def _identity_at(self, address: Address, path: str) -> PciFunction | None:
        event = self._uevent(path)
        if not event and self._tree.live and not self._tree.exists(path):
            return None
        self.paths[address] = path
        upstream, root, host_parent, host_node = place(path.rpartition("/")[0])
        subsystem = event.get("PCI_SUBSYS_ID", "").partition(":")
        return PciFunction(
            address=address,
            vendor=self._id(path, "vendor", event.get("PCI_ID", "").partition(":")[0]),
            device=self._id(path, "device", event.get("PCI_ID", "").partition(":")[2]),
            class_code=self._id(path, "class", event.get("PCI_CLASS", "")),
            subsystem_vendor=_hexadecimal(subsystem[0]),
            subsystem_device=_hexadecimal(subsystem[2]),
            upstream=upstream,
            root=root,
            host_parent=host_parent,
            host_node=host_node,
            physfn=Address.from_name(self._link_name(f"{path}/physfn") or ""),
            driver=event.get("DRIVER") or self._link_name(f"{path}/driver"),
            group=_decimal(self._link_name(f"{path}/iommu_group")),
            ari_enabled=self._ari(address, path),
        )

    def with_bus_numbers(self, function: PciFunction, sleep: Sleep) -> PciFunction:
        """The bridge with its secondary and subordinate bus numbers.

        Since 6.18 the attributes wake the bridge, so of one that sleeps, or where they are not in the snapshot, the
        secondary number is told by the name of the bus object below it.
        """
        path = self.paths.get(function.address)
        if path is None:
            return function
        secondary = subordinate = None
        if not sleep.would_wake(function.address, function.upstream):
            secondary = _decimal(self._tree.text(f"{path}/secondary_bus_number"))
            subordinate = _decimal(self._tree.text(f"{path}/subordinate_bus_number"))
        if secondary is None:
            secondary = self._bus_below(path)
        return replace(function, secondary_bus=secondary, subordinate_bus=subordinate)

    def _bus_below(self, path: str) -> int | None:
        names = self._tree.list(f"{path}/pci_bus") or ()
        buses = [int(found[1], 16) for name in names if (found := _BUS.fullmatch(name))]
        return buses[0] if len(buses) == 1 else None

    def has_link(self, address: Address) -> bool | None:
        """True if the function has link attributes, else None: what absence means depends on the source."""
        path = self.paths.get(address)
        if path is None:
            return None
        names = ("current_link_speed", "max_link_width")
        return True if any(self._tree.exists(f"{path}/{name}") for name in names) else None

    def with_config(self, function: PciFunction, wanted: Wanted | None, sleep: Sleep) -> PciFunction:
        """The function with the wanted part of its config space decoded."""
        path = self.paths.get(function.address)
        if wanted is None:
            return function
        if path is None:
            return replace(function, config=ConfigFacts(gap=Gap.NO_CONFIG))
        if sleep.would_wake(function.address, function.upstream):
            return replace(function, config=ConfigFacts(gap=Gap.ASLEEP))
        file = self._tree.config(f"{path}/config")
        if file is None:
            return replace(function, config=ConfigFacts(gap=Gap.NO_CONFIG))
        with file:
            return self._decode(function, wanted, file, path)

    def _decode(self, function: PciFunction, wanted: Wanted, file: ConfigFile, path: str) -> PciFunction:
        stored = file.size

        def read(offset: int) -> int | None:
            self.config_reads += 1
            piece = file.read(offset, 4)
            return int.from_bytes(piece, "little") if len(piece) == 4 else None

        if function.vendor is None or function.device is None:
            function = _identified(function, read(0))
        if not self.whole and file.read(0, 4) == b"\xff\xff\xff\xff":
            # A virtual function answers so, too (PCIe r3.1, sec 9.3.4.1.1): its physfn link is not in this capture.
            return replace(function, config=ConfigFacts(gap=Gap.ALL_ONES))
        config = decode_config(
            read,
            wanted,
            size=stored if stored == CONVENTIONAL_CONFIG_SIZE else EXTENDED_CONFIG_SIZE,
            # With ARI the whole devfn is the function number (pci_scan_slot()).
            function_number=function.address.devfn if function.ari_enabled else function.address.function,
            extended_evidence=stored == CONVENTIONAL_CONFIG_SIZE and self._tree.exists(f"{path}/sriov_numvfs"),
            gap=self._reason_for_gap(stored),
        )
        if config.gap is Gap.RESTRICTED and self._tree.live and not self._tree.exists(path):
            config = replace(config, gap=Gap.VANISHED)
        return replace(function, config=config)

    def _reason_for_gap(self, stored: int) -> Gap:
        if stored in (STANDARD_HEADER_SIZE, CARDBUS_HEADER_SIZE):
            return Gap.RESTRICTED
        if not self._tree.live:
            return Gap.TRUNCATED
        return Gap.RESTRICTED if stored else Gap.VANISHED

    def _path(self, entry: str) -> str | None:
        target = self._tree.link(entry)
        if target is not None and target.startswith(_CLIMB + "devices/") and "/.." not in target[9:]:
            return "sys/" + target[len(_CLIMB) :]
        return self._tree.resolve(entry)

    def _uevent(self, path: str) -> dict[str, str]:
        lines = (self._tree.text(f"{path}/uevent") or "").splitlines()
        pairs = (line.partition("=") for line in lines)
        return {key: value for key, _, value in pairs}

    def _id(self, path: str, attribute: str, from_event: str) -> int | None:
        """An identifier as ``uevent`` spells it, or where that lacks it from its own attribute."""
        found = _hexadecimal(from_event)
        return _hexadecimal(self._tree.text(f"{path}/{attribute}")) if found is None else found

    def _ari(self, address: Address, path: str) -> bool:
        """``ari_enabled`` decides only for function 0 of a slot other than the first."""
        if address.function or not address.device:
            return False
        return self._tree.text(f"{path}/ari_enabled") == "1"

    def _link_name(self, path: str) -> str | None:
        target = self._tree.link(path)
        return None if target is None else target.rpartition("/")[2]


@lru_cache(maxsize=256)  # functions of one bus lie in one directory
def place(
    directory: str,
) -> tuple[Address | None, tuple[int, int] | None, Address | None, str | None]:
    """What a function's directory tells: bridge above, root bus, function that owns the root bus, platform device.

    Every ``pciDDDD:BB`` component is a root bus; one inside a function's directory is a VMD domain.
    """
    parts = directory.split("/")
    for index in range(len(parts) - 1, -1, -1):
        match = _ROOT_BUS.fullmatch(parts[index])
        if match:
            upstream = Address.from_name(parts[-1]) if index < len(parts) - 1 else None
            above = [found for part in parts[:index] if (found := Address.from_name(part)) is not None]
            root = (int(match[1], 16), int(match[2], 16))
            return upstream, root, above[-1] if above else None, _host_node(parts[:index])
    return Address.from_name(parts[-1]), None, None, None


def _host_node(parts: list[str]) -> str | None:
    last = parts[-1] if parts else ""
    return None if last in ("devices", "") or Address.from_name(last) is not None else last


@lru_cache(maxsize=1024)  # a machine has few kinds of devices
def _hexadecimal(text: str | None) -> int | None:
    return int(text, 16) if text and _HEXADECIMAL.fullmatch(text) else None


def _decimal(text: str | None) -> int | None:
    return int(text) if text is not None and text.isascii() and text.isdigit() and len(text) < 10 else None


def _identified(function: PciFunction, dword: int | None) -> PciFunction:
    """Vendor and device from config space, where sysfs did not tell and the function answers."""
    if dword is None or dword == 0xFFFFFFFF or function.is_virtual:
        return function
    return replace(function, vendor=dword & 0xFFFF, device=dword >> 16)
