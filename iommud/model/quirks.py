# SPDX-License-Identifier: GPL-2.0-or-later
"""Device-specific facts of drivers/pci/quirks.c, selected for one kernel version.

The rows live in ``iommud/data/*.tsv``; which of them hold is decided by their ``since`` and ``until``
columns: a row since X holds for mainline X and later. Stable series receive rows in between, so whatever
hinges on a gated row says so.
"""

from __future__ import annotations

import enum
import functools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from iommud.data import data_text
from iommud.kernel import KNOWN_VERSIONS, Version


class AcsRule(enum.StrEnum):
    """How a row of ``pci_dev_acs_enabled[]`` answers; the rules themselves are in acs.py."""

    ALWAYS = "always"
    MF_ENDPOINT = "mf-endpoint"
    AMD_SB = "amd-sb"
    INTEL_RCIEP = "intel-rciep"
    ROOT_PORT_ONLY = "root-port-only"
    CAVIUM_RP = "cavium-rp"
    INTEL_PCH = "intel-pch"
    INTEL_SPT_PCH = "intel-spt-pch"
    ZHAOXIN_PORTS = "zhaoxin-ports"
    WANGXUN_NIC = "wangxun-nic"


class BridgeFlag(enum.StrEnum):
    """Flags that change the alias walk at one bridge (``PCI_DEV_FLAGS_*``, include/linux/pci.h)."""

    PCIE_BRIDGE_ALIAS = "PCIE_BRIDGE_ALIAS"
    BRIDGE_XLATE_ROOT = "BRIDGE_XLATE_ROOT"
    PCI_BRIDGE_NO_ALIAS = "PCI_BRIDGE_NO_ALIAS"


class DeviceList(enum.StrEnum):
    """Lists of device ids that rules refer to."""

    INTEL_PCH_ROOT_PORT = "intel-pch-root-port"
    INTEL_SPT_PCH_ROOT_PORT = "intel-spt-pch-root-port"
    CAVIUM_ROOT_PORT = "cavium-root-port"
    ZHAOXIN_PORT = "zhaoxin-port"
    WANGXUN_NIC = "wangxun-nic"
    ACS_WITHOUT_SOURCE_VALIDATION = "acs-without-source-validation"
    VMD = "vmd"
    INTEL_IGFX_IOMMU_OFF = "intel-igfx-iommu-off"


@dataclass(frozen=True, slots=True)
class AcsRow:
    """One row of the ACS table; ``device`` None stands for every device of the vendor."""

    vendor: int
    device: int | None
    rule: AcsRule
    since: Version
    until: Version | None
    source: str


@dataclass(frozen=True, slots=True)
class AliasRow:
    """One alias fixup: the devfns it adds to a function's mask, or the flag it sets on a bridge."""

    vendor: int
    device: int
    subsystem: tuple[int, int] | None
    class_high: int | None
    """Base class and subclass the function must have, or None for any."""
    effect: str
    since: Version
    until: Version | None
    source: str

    @property
    def flag(self) -> BridgeFlag | None:
        """The bridge flag it sets, or None for a fixup that adds aliases."""
        name, _, value = self.effect.partition("=")
        return BridgeFlag(value) if name == "flag" else None

    @property
    def in_device_memory(self) -> bool:
        """The aliases stand in a table in the device's memory: no snapshot can hold them."""
        return self.effect == "device-memory"

    def devfns(self, devfn: int) -> frozenset[int]:
        """The alias devfns that a function at ``devfn`` gets from this row."""
        name, _, value = self.effect.partition("=")
        if name == "function":
            # quirk_dma_func0_alias() and quirk_dma_func1_alias() skip the function that is the alias.
            return frozenset() if devfn & 7 == int(value) else frozenset({devfn & ~7 | int(value)})
        if name == "devfns":
            return frozenset(int(part, 16) for part in value.split(","))
        if name == "devfn-range":
            first, last = (int(part, 16) for part in value.split("-"))
            return frozenset(range(first, last + 1))
        if name == "functions-of-every-slot":
            return frozenset(slot << 3 | int(part) for slot in range(32) for part in value.split(","))
        return frozenset()


@dataclass(frozen=True, slots=True)
class Quirks:
    """The tables as one kernel version has them."""

    version: Version
    acs: dict[int, tuple[AcsRow, ...]]
    """Rows by vendor, in table order."""
    aliases: dict[tuple[int | None, int | None], tuple[AliasRow, ...]]
    """Rows by vendor and device; no row has a None, so that a function of unknown identity finds none."""
    lists: dict[DeviceList, tuple[tuple[int, int, int], ...]]
    """Ranges (vendor, first device, last device) of each list."""
    gated: frozenset[tuple[int | None, int | None]]
    """Vendor and device of every row that not all modelled kernels have: their verdicts hinge on the version."""

    def acs_rows(self, vendor: int, device: int) -> Iterator[AcsRow]:
        """The rows that match a function, in table order."""
        return (row for row in self.acs.get(vendor, ()) if row.device in (None, device))

    def alias_rows(self, vendor: int | None, device: int | None) -> tuple[AliasRow, ...]:
        """The alias fixups that match a function's vendor and device."""
        return self.aliases.get((vendor, device), ())

    def aliases_in_memory(self, vendor: int | None, device: int | None) -> bool:
        """Whether some fixup reads this device's aliases from its own memory."""
        return any(row.in_device_memory for row in self.alias_rows(vendor, device))

    def listed(self, name: DeviceList, vendor: int | None, device: int | None) -> bool:
        """Whether a device stands on a list; one of unknown identity stands on none."""
        if device is None:
            return False
        for listed, first, last in self.lists.get(name, ()):  # noqa: SIM110 - asked too often for a generator
            if vendor == listed and first <= device <= last:
                return True
        return False

    @classmethod
    def bundled(cls, version: Version) -> Quirks:
        """The bundled tables for a kernel version; versions before the first modelled one read as that one."""
        return _bundled(max(version, KNOWN_VERSIONS[0]))


@functools.lru_cache(maxsize=8)
def _bundled(version: Version) -> Quirks:
    acs = [_acs_row(row) for row in read_rows("acs.tsv")]
    aliases = [_alias_row(row) for row in read_rows("dma-alias.tsv")]
    held_aliases = [row for row in aliases if _holds(version, row.since, row.until)]
    return Quirks(
        version=version,
        acs=_by_vendor(row for row in acs if _holds(version, row.since, row.until)),
        aliases=_by_device(held_aliases),
        lists=_lists(version),
        gated=_gated(acs, aliases),
    )


def read_rows(name: str) -> list[list[str]]:
    """The data rows of a bundled table, without comments and the heading."""
    lines = [line for line in data_text(name).splitlines() if line and not line.startswith("#")]
    return [line.split("\t") for line in lines[1:]]


def _version(text: str) -> Version:
    major, minor = text.split(".")
    return int(major), int(minor)


def _until(text: str) -> Version | None:
    return None if text == "-" else _version(text)


def _holds(version: Version, since: Version, until: Version | None) -> bool:
    return version >= since and (until is None or version < until)


def _is_gated(since: Version, until: Version | None) -> bool:
    """Whether some modelled kernel lacks the row."""
    return since > KNOWN_VERSIONS[0] or until is not None


def _acs_row(row: list[str]) -> AcsRow:
    vendor, device, rule, since, until, _, source = row
    number = None if device == "any" else int(device, 16)
    return AcsRow(int(vendor, 16), number, AcsRule(rule), _version(since), _until(until), source)


def _alias_row(row: list[str]) -> AliasRow:
    vendor, device, subsystem, class_high, effect, since, until, _, source = row
    pair = None
    if subsystem != "-":
        first, second = subsystem.split(":")
        pair = (int(first, 16), int(second, 16))
    wanted_class = None if class_high == "-" else int(class_high, 16)
    return AliasRow(
        int(vendor, 16), int(device, 16), pair, wanted_class, effect, _version(since), _until(until), source
    )


def _by_vendor(rows: Iterable[AcsRow]) -> dict[int, tuple[AcsRow, ...]]:
    found: dict[int, tuple[AcsRow, ...]] = {}
    for row in rows:
        found[row.vendor] = (*found.get(row.vendor, ()), row)
    return found


def _by_device(rows: Iterable[AliasRow]) -> dict[tuple[int | None, int | None], tuple[AliasRow, ...]]:
    found: dict[tuple[int | None, int | None], tuple[AliasRow, ...]] = {}
    for row in rows:
        key = (row.vendor, row.device)
        found[key] = (*found.get(key, ()), row)
    return found


def _lists(version: Version) -> dict[DeviceList, tuple[tuple[int, int, int], ...]]:
    found: dict[DeviceList, tuple[tuple[int, int, int], ...]] = {}
    for name, vendor, first, last, since, until, _ in read_rows("device-lists.tsv"):
        if _holds(version, _version(since), _until(until)):
            key = DeviceList(name)
            entry = (int(vendor, 16), int(first, 16), int(last, 16))
            found[key] = (*found.get(key, ()), entry)
    return found


_LISTS_OF_VERDICTS = (DeviceList.WANGXUN_NIC, DeviceList.ACS_WITHOUT_SOURCE_VALIDATION)


def _gated(acs: list[AcsRow], aliases: list[AliasRow]) -> frozenset[tuple[int | None, int | None]]:
    gated: set[tuple[int | None, int | None]] = {
        (row.vendor, row.device) for row in acs if _is_gated(row.since, row.until)
    }
    gated.update((row.vendor, row.device) for row in aliases if _is_gated(row.since, row.until))
    for name, vendor, first, last, since, until, _ in read_rows("device-lists.tsv"):
        if name in _LISTS_OF_VERDICTS and _is_gated(_version(since), _until(until)):
            gated.update((int(vendor, 16), device) for device in range(int(first, 16), int(last, 16) + 1))
    return frozenset(gated)
