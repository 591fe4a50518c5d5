# SPDX-License-Identifier: GPL-2.0-or-later
"""Which IOMMUs a machine has, what its firmware says of them, and whether they are in use."""

from __future__ import annotations

import enum
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from iommud import firmware as parsers
from iommud.address import Address
from iommud.kernel import Kernel
from iommud.model.acs import Override
from iommud.pci import CLASS_SYSTEM_IOMMU
from iommud.snapshot import PciFunction, Snapshot

if TYPE_CHECKING:
    from iommud.firmware import Dmar, HostBridge, Iort, Ivrs, Viot

_STONEY_RIDGE_GRAPHICS = (0x1002, 0x98E4)
"""``early_amd_iommu_init()`` gives the IOMMU up beside it."""
_NO_CMDLINE = "and whether the kernel was to use them stands on its command line, which is not in this snapshot"
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
        """Parse what a snapshot holds; broken tables are named problems.

        A table of which nothing could be read is none: it would refuse every function.
        """
        tables = snapshot.tables
        dmar = parsers.parse_dmar(tables["DMAR"]) if "DMAR" in tables else None
        ivrs = parsers.parse_ivrs(tables["IVRS"]) if "IVRS" in tables else None
        viot = parsers.parse_viot(tables["VIOT"]) if "VIOT" in tables else None
        iort = parsers.parse_iort(tables["IORT"]) if "IORT" in tables else None
        bridges, tree_problems = _device_tree(snapshot)
        tables_read = [table.problems for table in (dmar, ivrs, viot, iort) if table is not None]
        return cls(
            dmar=dmar if dmar is not None and dmar.units else None,
            ivrs=ivrs if ivrs is not None and ivrs.blocks_used() else None,
            viot=viot if viot is not None and (viot.pci_ranges or viot.iommus) else None,
            iort=iort if iort is not None and iort.nodes else None,
            host_bridges=bridges,
            problems=(*(problem for found in tables_read for problem in found), *tree_problems),
        )

    @property
    def iommu_functions(self) -> frozenset[Address]:
        """PCI functions that a table names as IOMMUs."""
        named = [(one.segment, one.rid) for one in (self.viot.pci_iommus if self.viot else ())]
        named += [(one.segment, one.device_id) for one in (self.ivrs.blocks_used() if self.ivrs else ())]
        return frozenset(Address.from_requester_id(segment, rid) for segment, rid in named)

    @property
    def is_silent(self) -> bool:
        """Whether the snapshot holds nothing that says which functions an IOMMU serves."""
        return self.dmar is None and self.ivrs is None and not self.maps_ids

    @property
    def maps_ids(self) -> bool:
        """Whether it holds a VIOT, an IORT or a device tree, which map requester IDs to IOMMUs."""
        return any(one is not None for one in (self.viot, self.iort, self.host_bridges))

    @property
    def id_mapping(self) -> str | None:
        """Name of the first of these that leads requester IDs of PCI functions to an IOMMU."""
        if self.viot is not None and any(one.output is not None for one in self.viot.pci_ranges):
            return "ACPI table VIOT"
        if self.iort is not None and _iort_serves(self.iort):
            return "ACPI table IORT"
        return "device tree" if _tree_serves(self.host_bridges) else None


def _device_tree(snapshot: Snapshot) -> tuple[tuple[HostBridge, ...] | None, tuple[str, ...]]:
    """Host bridges of the device tree, unless ACPI describes the machine: then the tree is a stub."""
    if snapshot.device_tree is None or snapshot.table_names or snapshot.tables:
        return None, ()
    tree = parsers.parse_fdt(snapshot.device_tree)
    bridges = parsers.host_bridges(tree)
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
        return True if self.firmware.maps_ids else None

    @property
    def waits_for_drivers(self) -> bool:
        """Whether a function is grouped only once some driver matches it.

        So before 6.15: commit bcb81ac6ae3c ("iommu: Get DT/ACPI parsing into the proper probe path"). A kernel that
        is not known may be one of those.
        """
        late = self.kernel.readable and self.kernel.at_least(6, 15)
        return self.by_firmware is not False and not late

    @property
    def _late_request_repaired(self) -> bool:
        """Whether a device tree asks for ACS in time: since 7.0, and in the stable series 6.19 and 6.18.16."""
        if self.kernel.version == (6, 18):
            return (self.kernel.stable or 0) >= 16
        return self.kernel.at_least(6, 19)

    @property
    def acs_before_grouping(self) -> bool | None:
        """Whether ACS is switched on before functions are grouped; None: the platform is not known.

        Intel, AMD and IORT ask for it before the PCI scan, VIOT since 6.0 ("ACPI: VIOT: Fix ACS setup"); a device
        tree does so in time only since commit c41e2fb67e26 ("PCI: Enable ACS after configuring IOMMU for OF
        platforms").
        """
        firmware = self.firmware
        if self.by_firmware is False or firmware.iort is not None:
            return True
        if firmware.viot is not None:
            return self.kernel.at_least(6, 0)
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
    usage, reason = _usage_without_groups(snapshot, drivers, firmware)
    if usage is Usage.NO_GROUPS and not snapshot.groups_listed:
        return Usage.UNKNOWN, f"{reason}, but /sys/kernel/iommu_groups is not in this snapshot"
    return usage, reason


def _usage_without_groups(snapshot: Snapshot, drivers: frozenset[Driver], firmware: Firmware) -> tuple[Usage, str]:
    if drivers:
        return _usage_by_class(snapshot, drivers, firmware)
    if firmware.id_mapping is not None:
        return Usage.NO_GROUPS, f"the {firmware.id_mapping} describes an IOMMU that no driver took"
    names = (snapshot.table_names or frozenset()) | snapshot.tables.keys()
    if "IVRS" in names:
        return _amd_usage(snapshot)
    if "DMAR" in names:
        return _intel_usage(snapshot.cmdline)
    if snapshot.table_names is None and "on" in parameter_values(snapshot.cmdline, "intel_iommu"):
        return Usage.UNKNOWN, "intel_iommu=on asks for an IOMMU, and no ACPI tables are in this snapshot"
    unread = sorted(names & {"VIOT", "IORT"})
    if unread and not firmware.maps_ids:
        return Usage.UNKNOWN, f"the ACPI table {unread[0]} could not be read (run as root)"
    return Usage.NOT_USED, "neither the kernel nor the firmware in this snapshot names an IOMMU"


def _usage_by_class(snapshot: Snapshot, drivers: frozenset[Driver], firmware: Firmware) -> tuple[Usage, str]:
    """An IOMMU is at work, but not every one is for PCI: boards have some for graphics and video alone."""
    switches = [_switched_off(driver, snapshot.cmdline) for driver in sorted(drivers)]
    if all(switches):
        return Usage.NOT_USED, f"the kernel command line switches the IOMMU off ({switches[0]})"
    listed = f"/sys/class/iommu lists an IOMMU ({', '.join(sorted(drivers))})"
    if drivers <= FIRMWARE_DESCRIBED | {Driver.OTHER}:
        if firmware.maps_ids and firmware.id_mapping is None:
            return Usage.NOT_USED, f"{listed}, but the firmware leads no PCI function to it"
        elsewhere = any(group.others for group in snapshot.groups.values())
        if not firmware.maps_ids and (drivers == {Driver.OTHER} or elsewhere):
            return Usage.UNKNOWN, f"{listed}, and nothing in this snapshot says whether it serves PCI functions"
    return Usage.NO_GROUPS, listed


def parameter_values(cmdline: str | None, name: str) -> list[str]:
    """Every value of a kernel parameter, in the order given: ``intel_iommu=on,igfx_off`` has two."""
    words = (word.partition("=") for word in (cmdline or "").split())
    return [part for key, _, values in words if key == name for part in values.split(",")]


def parse_override(cmdline: str) -> tuple[frozenset[Override], frozenset[tuple[int, int]]]:
    """The tokens and device ids of ``pcie_acs_override=`` on a kernel command line."""
    values = [word.partition("=")[2] for word in cmdline.split() if word.startswith("pcie_acs_override=")]
    parts = [part for value in values for part in value.split(",")]
    ids = (re.fullmatch(r"id:([0-9a-fA-F]{4}):([0-9a-fA-F]{4})", part) for part in parts)
    return (
        frozenset(Override(part) for part in parts if part in set(Override)),
        frozenset((int(found[1], 16), int(found[2], 16)) for found in ids if found),
    )


def _switched_off(driver: Driver, cmdline: str | None) -> str | None:
    """The parameter that keeps an x86 driver from using its IOMMUs, or None."""
    parameter = {Driver.INTEL: "intel_iommu", Driver.AMD: "amd_iommu"}.get(driver)
    if parameter is None:
        return None
    if "off" in parameter_values(cmdline, "iommu"):
        return "iommu=off"
    values = [value for value in parameter_values(cmdline, parameter) if value in ("on", "off")]
    # Of intel_iommu= the last one counts: intel_iommu_setup() takes them in order. AMD's off is never taken back.
    off = "off" in (values[-1:] if driver is Driver.INTEL else values)
    return f"{parameter}=off" if off else None


def _amd_usage(snapshot: Snapshot) -> tuple[Usage, str]:
    switch = _switched_off(Driver.AMD, snapshot.cmdline)
    if switch is not None:
        return Usage.NOT_USED, f"the kernel command line switches the IOMMU off ({switch})"
    if any((one.vendor, one.device) == _STONEY_RIDGE_GRAPHICS for one in snapshot.functions):
        return Usage.NOT_USED, "the kernel leaves the IOMMU of Stoney Ridge processors off"
    if snapshot.cmdline is None:
        return Usage.UNKNOWN, f"the machine has AMD IOMMUs, {_NO_CMDLINE}"
    return Usage.NO_GROUPS, "the ACPI table IVRS describes an IOMMU that no driver took"


def _intel_usage(cmdline: str | None) -> tuple[Usage, str]:
    """Intel IOMMUs stay off unless asked for: the kernel's own default differs between distributions."""
    switch = _switched_off(Driver.INTEL, cmdline)
    if switch is not None:
        return Usage.NOT_USED, f"the kernel command line switches the IOMMU off ({switch})"
    if cmdline is None:
        return Usage.UNKNOWN, f"the machine has Intel IOMMUs, {_NO_CMDLINE}"
    if "on" in parameter_values(cmdline, "intel_iommu"):
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
