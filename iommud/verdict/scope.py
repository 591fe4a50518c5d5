# SPDX-License-Identifier: GPL-2.0-or-later
"""Who rightly has no group: which functions an IOMMU serves, by the firmware's own words or, failing these, by pattern.

An excuse permits a group to be absent; it never forbids one that is there.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from iommud.address import Address
from iommud.model.quirks import DeviceList
from iommud.model.topology import Topology
from iommud.pci import CLASS_DISPLAY, CLASS_HOST_BRIDGE, CLASS_PCI_BRIDGE
from iommud.snapshot import PciFunction, Snapshot
from iommud.verdict.service import Answer, Evidence, Service, Unserved
from iommud.verdict.survey import Platform, Usage, is_iommu_itself, parameter_values

if TYPE_CHECKING:
    from iommud.firmware import DmarUnit

_CLASS_EVENT_COLLECTOR = 0x0807
_AMD = frozenset({0x1022, 0x1002, 0x1D94})
"""AMD, ATI, and Hygon with AMD's design."""
_INTEL = 0x8086
_INTEL_QUICKDATA = (_INTEL, 0x402F)
"""``quirk_ioat_snb_local_iommu()``: whether it is refused stands in registers that no snapshot needs otherwise."""


@dataclass(frozen=True, slots=True)
class Excuse:
    """Why a function rightly has no group."""

    reason: str
    evidence: Evidence


@dataclass(frozen=True, slots=True)
class Scope:
    """Judges the functions of one machine that have no group."""

    topology: Topology
    platform: Platform
    snapshot: Snapshot
    grouped: frozenset[Address]
    """Functions that have a group."""
    roots: frozenset[tuple[int, int] | None]
    """Root buses on which some function has a group."""
    described: frozenset[Address]
    """Functions that a firmware table names as IOMMUs."""
    drivers_shown: bool
    """Whether the snapshot names the driver of any function."""
    service: Service
    """What firmware says of who is served."""
    _memo: dict[Address, Excuse | None] = field(default_factory=dict)

    @classmethod
    def of(cls, topology: Topology, platform: Platform, snapshot: Snapshot, grouped: frozenset[Address]) -> Scope:
        """The scope of the IOMMUs of one machine."""
        roots = frozenset(one.root for one in snapshot.functions if one.address in grouped)
        shown = any(one.driver is not None for one in snapshot.functions)
        service = Service(topology, platform, snapshot)
        return cls(topology, platform, snapshot, grouped, roots, platform.firmware.iommu_functions, shown, service)

    def excuse(self, function: PciFunction) -> Excuse | None:
        """Why this function may be without a group; None: it should have one."""
        if function.address not in self._memo:
            self._memo[function.address] = self._judge(function)
        return self._memo[function.address]

    def joins(self, address: Address) -> bool:
        """Whether a function has a group or should have one."""
        return address in self.grouped or self.excuse(self.topology.functions[address]) is None

    def _judge(self, function: PciFunction) -> Excuse | None:
        if not function.present:
            return Excuse("it is not on the PCI bus", Evidence.SYSFS)
        if self.platform.usage is Usage.NOT_USED:
            return Excuse(f"no IOMMU is in use: {self.platform.usage_reason}", Evidence.SYSFS)
        if _is_blank(function):
            return Excuse("the snapshot holds nothing of it", Evidence.NONE)
        if self._is_iommu(function):
            return Excuse("it is the IOMMU itself", self._own_evidence())
        sender = self.topology.real_dma_device(function)
        if sender is not function:
            return self._as_sender(sender)
        return self._by_firmware(function) or self._without_driver(function)

    def _own_evidence(self) -> Evidence:
        """The table that describes the IOMMU, where the snapshot holds it."""
        firmware = self.platform.firmware
        held = (
            (firmware.viot, Evidence.VIOT),
            (firmware.ivrs, Evidence.IVRS),
            (firmware.dmar, Evidence.DMAR),
            (firmware.host_bridges, Evidence.DEVICE_TREE),
        )
        return next((evidence for table, evidence in held if table is not None), Evidence.NONE)

    def _as_sender(self, sender: PciFunction) -> Excuse | None:
        if sender.address in self.grouped:
            return None
        excuse = self.excuse(sender)
        if excuse is None:
            return None
        return Excuse(f"{sender.address} sends its requests, and {excuse.reason}", excuse.evidence)

    def _by_firmware(self, function: PciFunction) -> Excuse | None:
        """Read coverage from the tables; one that serves the function is enough."""
        refusals: list[Excuse] = []
        for answer in self.service.answers(function, function.address):
            refusal = self._refusal(function, answer)
            if refusal is None:
                return None
            refusals.append(refusal)
        return refusals[0] if refusals else self._by_pattern(function)

    def _refusal(self, function: PciFunction, answer: Answer) -> Excuse | None:
        """Why a function has no group whatever this table says of it; None: it says that an IOMMU serves it."""
        if isinstance(answer, Unserved):
            return Excuse(answer.reason, answer.table)
        unit = self.service.dmar_unit(function) if answer.table is Evidence.DMAR else None
        if unit is None:
            return None
        physical = self.service.physical(function)
        if (physical.vendor, physical.device) == _INTEL_QUICKDATA:
            return Excuse("the driver refuses this function where firmware names the wrong unit for it", Evidence.NONE)
        return self._graphics_excuse(unit)

    def _graphics_excuse(self, unit: DmarUnit) -> Excuse | None:
        """A unit for graphics alone may be left off: by switch, for old chipsets, or by the kernel's build.

        ``init_no_remapping_devices()``, drivers/iommu/intel/iommu.c.
        """
        scoped = [self.topology.functions[address] for address in self.service.scoped_in_unit(unit)]
        if unit.include_all or not all(_is_display(one) for one in scoped):
            return None
        if "igfx_off" in parameter_values(self.snapshot.cmdline, "intel_iommu"):
            return Excuse("intel_iommu=igfx_off leaves the graphics unit off", Evidence.COMMAND_LINE)
        # The list names host bridges and graphics functions: either betrays the chipset.
        listed, name = self.topology.quirks.listed, DeviceList.INTEL_IGFX_IOMMU_OFF
        if any(listed(name, one.vendor or 0, one.device or 0) for one in self.snapshot.functions):
            return Excuse("the kernel leaves the graphics unit of this chipset off", Evidence.DMAR)
        return Excuse("its DMAR unit serves graphics alone, which kernels may be built to leave off", Evidence.DMAR)

    def _without_driver(self, function: PciFunction) -> Excuse | None:
        """A function that no driver matched has not been configured for DMA yet.

        Bridges and event collectors match the port driver's table, so theirs is a defect. Where nothing at all
        has a group, drivers may be deferred, and their absence explains nothing as long as an IOMMU is awaited.
        """
        if function.driver is not None or not self.platform.waits_for_drivers:
            return None
        if not self.grouped and not self._nothing_matched():
            return None
        if _is_matched_by_port_driver(function):
            return None
        if not self.platform.kernel.readable:
            return Excuse("no driver is bound to it, and kernels before 6.15 wait for one", Evidence.NONE)
        if not self.drivers_shown:
            return Excuse("the snapshot names no drivers, and before 6.15 its group waits for one", Evidence.NONE)
        evidence = Evidence.NONE if self.platform.firmware.is_silent else Evidence.SYSFS
        return Excuse("no driver is bound to it, and before 6.15 its group waits for one", evidence)

    def _nothing_matched(self) -> bool:
        """Whether the IOMMU is there, so that nothing waits for it, and still no driver matched any function."""
        return bool(self.snapshot.iommus) and all(
            self._is_iommu(one) or (one.driver is None and not _is_matched_by_port_driver(one))
            for one in self.snapshot.functions
        )

    def _is_iommu(self, function: PciFunction) -> bool:
        return is_iommu_itself(function, self.snapshot.iommus) or function.address in self.described

    def _by_pattern(self, function: PciFunction) -> Excuse | None:
        """What is known of machines that are right, where the snapshot holds no table."""
        if not self.grouped:
            return None
        if function.root is not None and function.root not in self.roots:
            return Excuse("nothing on its root bus has a group", Evidence.NONE)
        if (function.class_code or 0) >> 8 == CLASS_HOST_BRIDGE and function.vendor in _AMD:
            return Excuse("AMD firmware often leaves host bridges out of its tables", Evidence.NONE)
        if (function.vendor, function.device) == _INTEL_QUICKDATA:
            return Excuse("the driver refuses this function where firmware names the wrong unit for it", Evidence.NONE)
        if self._is_lone_integrated_graphics(function):
            return Excuse("kernels may be built to leave the IOMMU of integrated graphics off", Evidence.NONE)
        return None

    def _is_lone_integrated_graphics(self, function: PciFunction) -> bool:
        if function.address != Address(0, 0, 2, 0) or function.vendor != _INTEL or not _is_display(function):
            return False
        beside = [one for one in self.snapshot.functions if one.root == function.root and one is not function]
        return all(one.address in self.grouped for one in beside)


def _is_blank(function: PciFunction) -> bool:
    """Whether its directory is not in the snapshot, so that even a missing group link says nothing."""
    return function.vendor is None and function.class_code is None and function.driver is None


def _is_matched_by_port_driver(function: PciFunction) -> bool:
    """``port_pci_ids``, drivers/pci/pcie/portdrv.c: conventional bridges too, which the driver then rejects."""
    if function.class_code is None:
        return function.is_bridge
    return function.class_code >> 8 in (CLASS_PCI_BRIDGE, _CLASS_EVENT_COLLECTOR)


def _is_display(function: PciFunction) -> bool:
    return (function.class_code or 0) >> 16 == CLASS_DISPLAY
