# SPDX-License-Identifier: GPL-2.0-or-later
"""Which IOMMUs a machine has, what its firmware says of them, and whether they are in use."""

from __future__ import annotations

import enum
import re
from collections.abc import Mapping
from dataclasses import dataclass

from iommud.address import Address
from iommud.firmware import (
    Dmar,
    HostBridge,
    Iort,
    Ivrs,
    Viot,
    host_bridges,
    parse_dmar,
    parse_fdt,
    parse_iort,
    parse_ivrs,
    parse_viot,
)
from iommud.kernel import Kernel
from iommud.pci import CLASS_SYSTEM_IOMMU
from iommud.snapshot import PciFunction, Snapshot

VIRTIO_IOMMU = (0x1AF4, 0x1057)
"""Vendor and device of a virtio-iommu PCI function (virtio 1.2, sec 4.1.2.1: 0x1040 + device id 23)."""


class Driver(enum.StrEnum):
    """IOMMU drivers, as far as they differ in whom they group and when."""

    INTEL = "intel"
    AMD = "amd"
    VIRTIO = "virtio"
    SMMUV3 = "smmuv3"
    SMMU = "smmu"
    RISCV = "riscv"
    APPLE_DART = "apple-dart"
    S390 = "s390"
    POWER = "powerpc"
    OTHER = "other"


_DRIVER_NAMES = (
    (re.compile(r"dmar\d+"), Driver.INTEL),
    (re.compile(r"ivhd\d+"), Driver.AMD),
    (re.compile(r"smmu3\..*"), Driver.SMMUV3),
    (re.compile(r"smmu\..*"), Driver.SMMU),
    (re.compile(r"riscv-iommu.*"), Driver.RISCV),
    (re.compile(r"apple-dart.*"), Driver.APPLE_DART),
    (re.compile(r"s390-iommu.*"), Driver.S390),
    (re.compile(r"iommu-phb.*"), Driver.POWER),
    (re.compile(r".*virtio.*"), Driver.VIRTIO),
)
_POWER_GROUP = re.compile(r"(?:domain|pci:)[0-9a-f]+.*pe.*", re.IGNORECASE)

FIRMWARE_DESCRIBED = frozenset({Driver.VIRTIO, Driver.SMMUV3, Driver.SMMU, Driver.RISCV, Driver.APPLE_DART})
"""Drivers whose functions are told by firmware nodes, so that grouping waits for DMA configuration."""


def driver_of(name: str) -> Driver:
    """The driver behind an entry of ``/sys/class/iommu``; a virtio-iommu's is named by its PCI address."""
    if Address.from_name(name) is not None:
        return Driver.VIRTIO
    return next((driver for pattern, driver in _DRIVER_NAMES if pattern.fullmatch(name)), Driver.OTHER)


@dataclass(frozen=True, slots=True, kw_only=True)
class Firmware:
    """The firmware's own words, parsed; None where the snapshot does not hold them."""

    dmar: Dmar | None
    ivrs: Ivrs | None
    viot: Viot | None
    iort: Iort | None
    host_bridges: tuple[HostBridge, ...] | None
    """PCI host bridges of the device tree."""
    problems: tuple[str, ...]

    @classmethod
    def of(cls, snapshot: Snapshot) -> Firmware:
        """Parse what a snapshot holds; broken tables are named problems."""
        tables = snapshot.tables
        dmar = parse_dmar(tables["DMAR"]) if "DMAR" in tables else None
        ivrs = parse_ivrs(tables["IVRS"]) if "IVRS" in tables else None
        viot = parse_viot(tables["VIOT"]) if "VIOT" in tables else None
        iort = parse_iort(tables["IORT"]) if "IORT" in tables else None
        bridges, tree_problems = _device_tree(snapshot)
        tables_read = [table.problems for table in (dmar, ivrs, viot, iort) if table is not None]
        return cls(
            dmar=dmar,
            ivrs=ivrs,
            viot=viot,
            iort=iort,
            host_bridges=bridges,
            problems=(*(problem for found in tables_read for problem in found), *tree_problems),
        )

    @property
    def is_silent(self) -> bool:
        """Whether the snapshot holds nothing that says which functions an IOMMU serves."""
        tables = (self.dmar, self.ivrs, self.viot, self.iort, self.host_bridges)
        return all(table is None for table in tables)


def _device_tree(snapshot: Snapshot) -> tuple[tuple[HostBridge, ...] | None, tuple[str, ...]]:
    """Host bridges of the device tree, unless ACPI describes the machine: then the tree is a stub."""
    if snapshot.device_tree is None or snapshot.table_names:
        return None, ()
    tree = parse_fdt(snapshot.device_tree)
    bridges = host_bridges(tree)
    problems = (*tree.problems, *(problem for bridge in bridges for problem in bridge.problems))
    return bridges or None, problems


class Usage(enum.Enum):
    """Whether this kernel uses an IOMMU for PCI."""

    IN_USE = "in use"
    NO_GROUPS = "wanted, yet no function has a group"
    NOT_USED = "not in use"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class Platform:
    """The IOMMU side of one machine."""

    drivers: frozenset[Driver]
    """Drivers seen in ``/sys/class/iommu``; empty if none is or the directory is not in the snapshot."""
    firmware: Firmware
    kernel: Kernel
    usage: Usage
    usage_reason: str
    foreign: str | None
    """Why another group algorithm may be at work, so that this machine is not judged; None: it is judged."""
    ivrs_present: bool | None

    @property
    def by_firmware(self) -> bool | None:
        """Whether functions are grouped when their DMA is configured (DT, IORT, VIOT); None: not known."""
        if self.drivers & FIRMWARE_DESCRIBED:
            return True
        if self.drivers & {Driver.INTEL, Driver.AMD}:
            return False
        if self.firmware.dmar is not None or self.firmware.ivrs is not None:
            return False
        described = (self.firmware.viot, self.firmware.iort, self.firmware.host_bridges)
        return True if any(one is not None for one in described) else None

    @property
    def waits_for_drivers(self) -> bool:
        """Whether a function is grouped only once some driver matches it.

        So before 6.15: commit bcb81ac6ae3c ("iommu: Get DT/ACPI parsing into the proper probe path").
        """
        return self.by_firmware is not False and not self.kernel.at_least(6, 15)

    @property
    def _late_request_repaired(self) -> bool:
        """Whether a device tree asks for ACS in time: since 7.0, and in the stable series 6.19 and 6.18.16."""
        if self.kernel.version == (6, 18):
            return (self.kernel.stable or 0) >= 16
        return self.kernel.at_least(6, 19)

    @property
    def acs_before_grouping(self) -> bool | None:
        """Whether ACS is switched on before functions are grouped; None: the platform is not known.

        Intel, AMD, IORT and VIOT ask for it before the PCI scan; a device tree does so in time only since commit
        c41e2fb67e26 ("PCI: Enable ACS after configuring IOMMU for OF platforms").
        """
        firmware = self.firmware
        if self.by_firmware is False or firmware.iort is not None or firmware.viot is not None:
            return True
        return None if firmware.host_bridges is None else self._late_request_repaired


def survey(snapshot: Snapshot, kernel: Kernel) -> Platform:
    """Recognise the IOMMUs of a snapshot and judge whether they are in use."""
    firmware = Firmware.of(snapshot)
    drivers = frozenset(driver_of(name) for name in snapshot.iommus or ())
    usage, reason = _usage(snapshot, drivers, firmware)
    return Platform(
        drivers=drivers,
        firmware=firmware,
        kernel=kernel,
        usage=usage,
        usage_reason=reason,
        foreign=kernel.downstream or _foreign_driver(snapshot, drivers),
        ivrs_present=_ivrs_present(snapshot, drivers),
    )


def has_groups(snapshot: Snapshot) -> bool:
    """Whether any PCI function is in a real group."""
    real = (group for group in snapshot.groups.values() if group.members and not group.is_artificial)
    if any(real):
        return True
    artificial = {group.number for group in snapshot.groups.values() if group.is_artificial}
    return any(one.group is not None and one.group not in artificial for one in snapshot.functions)


def is_iommu_itself(function: PciFunction, iommus: Mapping[str, object] | None) -> bool:
    """Whether a PCI function is an IOMMU: it translates for others and has no group of its own."""
    if (function.class_code or 0) >> 8 == CLASS_SYSTEM_IOMMU:
        return True
    return str(function.address) in (iommus or ()) or (function.vendor, function.device) == VIRTIO_IOMMU


def _foreign_driver(snapshot: Snapshot, drivers: frozenset[Driver]) -> str | None:
    if Driver.S390 in drivers:
        return "the s390 driver gives every function a group of its own"
    named = any(group.name and _POWER_GROUP.fullmatch(group.name) for group in snapshot.groups.values())
    if Driver.POWER in drivers or named:
        return "the powerpc architecture groups by partitionable endpoints"
    return None


def _ivrs_present(snapshot: Snapshot, drivers: frozenset[Driver]) -> bool | None:
    if Driver.AMD in drivers or "IVRS" in snapshot.tables or "IVRS" in (snapshot.table_names or ()):
        return True
    if snapshot.table_names or Driver.INTEL in drivers:
        return False
    # An AMD IOMMU's own function and groups at work prove the table that describes it.
    own = any(one.vendor == 0x1022 and is_iommu_itself(one, None) for one in snapshot.functions)
    return True if own and has_groups(snapshot) else None


def _usage(snapshot: Snapshot, drivers: frozenset[Driver], firmware: Firmware) -> tuple[Usage, str]:
    if has_groups(snapshot):
        return Usage.IN_USE, "functions have groups"
    words = (snapshot.cmdline or "").split()
    usage, reason = _usage_without_groups(drivers, firmware, snapshot.table_names or frozenset(), words)
    if usage is Usage.NO_GROUPS and not snapshot.groups_listed:
        return Usage.UNKNOWN, f"{reason}, but /sys/kernel/iommu_groups is not in this snapshot"
    return usage, reason


def _usage_without_groups(
    drivers: frozenset[Driver], firmware: Firmware, names: frozenset[str], words: list[str]
) -> tuple[Usage, str]:
    if drivers:
        listed = ", ".join(sorted(drivers))
        return Usage.NO_GROUPS, f"/sys/class/iommu lists an IOMMU ({listed})"
    if firmware.viot is not None and firmware.viot.pci_ranges:
        return Usage.NO_GROUPS, "the ACPI table VIOT describes an IOMMU that no driver took"
    if firmware.iort is not None and _iort_serves(firmware.iort):
        return Usage.NO_GROUPS, "the ACPI table IORT describes an SMMU that no driver took"
    if _tree_serves(firmware.host_bridges):
        return Usage.NO_GROUPS, "the device tree describes an IOMMU that no driver took"
    if firmware.ivrs is not None or "IVRS" in names:
        return _by_switch(words, ("iommu=off", "amd_iommu=off"), "IVRS")
    if firmware.dmar is not None or "DMAR" in names:
        return _intel_usage(words)
    unread = sorted(names & {"VIOT", "IORT"})
    if unread and firmware.viot is None and firmware.iort is None:
        return Usage.UNKNOWN, f"the ACPI table {unread[0]} could not be read (run as root)"
    return Usage.NOT_USED, "neither the kernel nor the firmware in this snapshot names an IOMMU"


def _by_switch(words: list[str], switches: tuple[str, ...], table: str) -> tuple[Usage, str]:
    off = [word for word in words if word.split(",")[0] in switches]
    if off:
        return Usage.NOT_USED, f"the kernel command line says {off[0]}"
    return Usage.NO_GROUPS, f"the ACPI table {table} describes an IOMMU that no driver took"


def _intel_usage(words: list[str]) -> tuple[Usage, str]:
    """Intel IOMMUs stay off unless asked for: the kernel's own default differs between distributions."""
    settings = [part for word in words if word.startswith("intel_iommu=") for part in word[12:].split(",")]
    if "iommu=off" in words or "off" in settings:
        return Usage.NOT_USED, "the kernel command line switches the IOMMU off"
    if "on" in settings:
        return Usage.NO_GROUPS, "the ACPI table DMAR describes IOMMUs and intel_iommu=on asks for them"
    return (
        Usage.NOT_USED,
        "the machine has Intel IOMMUs, but the kernel was not asked to use them (intel_iommu=on)",
    )


def _iort_serves(iort: Iort) -> bool:
    return any(
        complex_.smmu_stream(mapping.input_base) is not None
        for complex_ in iort.root_complexes
        for mapping in complex_.mappings
    )


def _tree_serves(bridges: tuple[HostBridge, ...] | None) -> bool:
    return any(entry.target_enabled for bridge in bridges or () if bridge.enabled for entry in bridge.iommu_map or ())
