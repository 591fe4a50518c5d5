# SPDX-License-Identifier: GPL-2.0-or-later
"""The facts of one machine at one moment, as values: what sysfs and procfs said, decoded but not judged."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field

from iommud.address import Address
from iommud.pci import NOT_READ, ConfigFacts


@dataclass(frozen=True, slots=True, kw_only=True)
class PciFunction:
    """One PCI function as sysfs shows it below ``/sys/bus/pci/devices``."""

    address: Address
    vendor: int | None = None
    device: int | None = None
    class_code: int | None = None
    """24 bits: base class, subclass, programming interface."""
    subsystem_vendor: int | None = None
    subsystem_device: int | None = None
    upstream: Address | None = None
    """The bridge in whose directory this function lies; None on a root bus."""
    root: tuple[int, int] | None = None
    """Domain and bus number of the root bus (``pciDDDD:BB``) this function lies below."""
    host_parent: Address | None = None
    """The PCI function in whose directory the root bus lies (a VMD endpoint), or None."""
    host_node: str | None = None
    """Directory name of the host bridge's platform device (``4010000000.pcie``), or None."""
    physfn: Address | None = None
    """The physical function, if this is a virtual one (``physfn`` link)."""
    driver: str | None = None
    group: int | None = None
    """Number in the ``iommu_group`` link; None without one."""
    iommu: str | None = None
    """Name of the IOMMU instance that took the function (``iommu`` link), where it was looked at."""
    secondary_bus: int | None = None
    subordinate_bus: int | None = None
    ari_enabled: bool = False
    has_link: bool | None = None
    """Whether link attributes exist, which only PCIe functions have; None: not looked at."""
    config: ConfigFacts = NOT_READ
    present: bool = True
    """False for a bridge that only another function's path names."""

    @property
    def is_bridge(self) -> bool:
        """Whether a bus lies below it: ``secondary_bus_number`` exists or its class says so."""
        return self.secondary_bus is not None or self.class_high in (0x0604, 0x0607)

    @property
    def class_high(self) -> int | None:
        """Base class and subclass, the upper 16 bits of the class code; None where that is not known."""
        return None if self.class_code is None else self.class_code >> 8

    @property
    def is_virtual(self) -> bool:
        """Whether it is an SR-IOV virtual function (``pdev->is_virtfn``)."""
        return self.physfn is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class IommuGroup:
    """One directory of ``/sys/kernel/iommu_groups``."""

    number: int
    members: tuple[Address, ...]
    others: tuple[str, ...] = ()
    """Members that are not PCI functions."""
    name: str | None = None
    type: str | None = None

    @property
    def is_artificial(self) -> bool:
        """A VFIO no-IOMMU group: one function, and no protection behind it."""
        return self.name == "vfio-noiommu"


class Complaint(enum.StrEnum):
    """How sysfs can contradict itself."""

    LINK_WITHOUT_MEMBERSHIP = "link-without-membership"
    MEMBERSHIP_WITHOUT_LINK = "membership-without-link"
    IN_TWO_GROUPS = "in-two-groups"
    MEMBER_NOT_LISTED = "member-not-listed"
    UPSTREAM_NOT_LISTED = "upstream-not-listed"
    BUS_NUMBER_DISAGREES = "bus-number-disagrees"
    BUS_RANGE_REVERSED = "bus-range-reversed"
    BUS_CLAIMED_TWICE = "bus-claimed-twice"
    PHYSFN_NOT_LISTED = "physfn-not-listed"
    CHANGED_WHILE_READ = "changed-while-read"


@dataclass(frozen=True, slots=True)
class Contradiction:
    """One contradiction in sysfs: its kind, the functions concerned and a sentence of detail."""

    complaint: Complaint
    devices: tuple[Address, ...]
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """Everything iommud knows of a machine. A missing fact is None, never a default."""

    source: str
    functions: tuple[PciFunction, ...] = ()
    """In canonical order: by address."""
    groups: Mapping[int, IommuGroup] = field(default_factory=dict)
    groups_listed: bool = False
    """Whether ``/sys/kernel/iommu_groups`` is in the snapshot."""
    iommus: Mapping[str, tuple[Address, ...]] | None = None
    """Entries of ``/sys/class/iommu`` and the functions each lists; None: not in the snapshot."""
    kernel_release: str | None = None
    kernel_version: str | None = None
    """The line of ``/proc/version``."""
    cmdline: str | None = None
    modules: tuple[str, ...] | None = None
    tables: Mapping[str, bytes] = field(default_factory=dict)
    """ACPI tables that could be read, by signature."""
    table_names: frozenset[str] | None = None
    """Names in the ACPI table directory, readable or not; None: not in the snapshot."""
    device_tree: bytes | None = None
    log: tuple[str, ...] | None = None
    contradictions: tuple[Contradiction, ...] = ()
    config_reads: int = 0
    """Dwords of config space read to make this snapshot."""
