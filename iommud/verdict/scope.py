# SPDX-License-Identifier: GPL-2.0-or-later
"""Who rightly has no group: which functions an IOMMU serves, by the firmware's own words or, failing these, by pattern.

An excuse permits a group to be absent; it never forbids one that is there.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from iommud import firmware as parsers
from iommud.address import Address
from iommud.model.quirks import DeviceList
from iommud.model.topology import Topology
from iommud.pci import CLASS_DISPLAY, CLASS_HOST_BRIDGE, CLASS_PCI_BRIDGE
from iommud.snapshot import PciFunction, Snapshot
from iommud.verdict.survey import Driver, Platform, Usage, is_iommu_itself, parameter_values

if TYPE_CHECKING:
    from iommud.firmware import DmarUnit, HostBridge, ScopeKind

_CLASS_EVENT_COLLECTOR = 0x0807
_AMD = frozenset({0x1022, 0x1002, 0x1D94})
"""AMD, ATI, and Hygon with AMD's design."""
_INTEL = 0x8086
_INTEL_QUICKDATA = (_INTEL, 0x402F)
"""``quirk_ioat_snb_local_iommu()``: whether it is refused stands in registers that no snapshot needs otherwise."""


class Evidence(enum.StrEnum):
    """What an excuse rests on."""

    DMAR = "DMAR"
    IVRS = "IVRS"
    VIOT = "VIOT"
    IORT = "IORT"
    DEVICE_TREE = "device tree"
    SYSFS = "sysfs"
    COMMAND_LINE = "command line"
    NONE = "none"
    """A pattern seen on machines that are right; this snapshot holds nothing that proves it."""


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
    _memo: dict[Address, Excuse | None] = field(default_factory=dict)

    @classmethod
    def of(cls, topology: Topology, platform: Platform, snapshot: Snapshot, grouped: frozenset[Address]) -> Scope:
        """The scope of the IOMMUs of one machine."""
        roots = frozenset(one.root for one in snapshot.functions if one.address in grouped)
        shown = any(one.driver is not None for one in snapshot.functions)
        return cls(topology, platform, snapshot, grouped, roots, platform.firmware.iommu_functions, shown)

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
        if is_iommu_itself(function, self.snapshot.iommus) or function.address in self.described:
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
        for reader in self._readers():
            refusal = reader(function)
            if refusal is None:
                return None
            refusals.append(refusal)
        return refusals[0] if refusals else self._by_pattern(function)

    def _readers(self) -> Iterator[Callable[[PciFunction], Excuse | None]]:
        """The tables that speak for the IOMMUs at work; all of them where no driver shows."""
        firmware, drivers = self.platform.firmware, self.platform.drivers
        others = drivers - {Driver.INTEL, Driver.AMD}
        if firmware.dmar is not None and (not drivers or Driver.INTEL in drivers):
            yield self._dmar
        if firmware.ivrs is not None and (not drivers or Driver.AMD in drivers):
            yield self._ivrs
        if firmware.viot is not None and (not drivers or Driver.VIRTIO in drivers):
            yield self._viot
        if firmware.iort is not None and (not drivers or others - {Driver.VIRTIO}):
            yield self._iort
        if firmware.host_bridges is not None and (not drivers or others):
            yield self._device_tree

    def _dmar(self, function: PciFunction) -> Excuse | None:
        """``device_lookup_iommu()``, drivers/iommu/intel/iommu.c; a virtual function counts as its physical one."""
        physical = function
        if function.physfn is not None:
            physical = self.topology.functions.get(function.physfn, function)
        unit = self._unit_of(physical)
        if unit is None:
            return Excuse("no DMAR unit covers it", Evidence.DMAR)
        if (physical.vendor, physical.device) == _INTEL_QUICKDATA:
            return Excuse("the driver refuses this function where firmware names the wrong unit for it", Evidence.NONE)
        return self._graphics_excuse(unit)

    def _unit_of(self, function: PciFunction) -> DmarUnit | None:
        dmar = self.platform.firmware.dmar
        above = {bridge.address for bridge in self.topology.chain(function)}
        for unit in dmar.units if dmar is not None else ():
            if unit.segment != function.address.domain:
                continue
            for kind, scoped in self._scopes(unit):
                if scoped == function.address or (kind is parsers.ScopeKind.PCI_SUB_HIERARCHY and scoped in above):
                    return unit
            if unit.include_all:
                return unit
        return None

    def _scopes(self, unit: DmarUnit) -> Iterator[tuple[ScopeKind, Address]]:
        """The existing PCI functions that a unit's scope names (``dmar_pci_bus_add_dev()``)."""
        for scope in unit.scopes:
            if scope.kind in (parsers.ScopeKind.PCI_ENDPOINT, parsers.ScopeKind.PCI_SUB_HIERARCHY):
                found = self._walk(unit.segment, scope.start_bus, scope.path)
                if found is not None:
                    yield scope.kind, found

    def _scoped(self, unit: DmarUnit) -> Iterator[Address]:
        return (address for _, address in self._scopes(unit))

    def _walk(self, segment: int, bus: int, path: tuple[tuple[int, int], ...]) -> Address | None:
        address: Address | None = None
        root = self.topology.buses.get((segment, bus))
        if len(path) > 1 and (root is None or not root.is_root):
            # dmar_match_pci_path() compares whole paths from the root bus; only single steps may start elsewhere.
            return None
        for device, function in path:
            if address is not None:
                bridge = self.topology.functions.get(address)
                if bridge is None or bridge.secondary_bus is None:
                    return None
                bus = bridge.secondary_bus
            address = Address(segment, bus, device, function)
        return address if address in self.topology.functions else None

    def _graphics_excuse(self, unit: DmarUnit) -> Excuse | None:
        """A unit for graphics alone may be left off: by switch, for old chipsets, or by the kernel's build.

        ``init_no_remapping_devices()``, drivers/iommu/intel/iommu.c.
        """
        scoped = [self.topology.functions[address] for address in self._scoped(unit)]
        if unit.include_all or not all(_is_display(one) for one in scoped):
            return None
        if "igfx_off" in parameter_values(self.snapshot.cmdline, "intel_iommu"):
            return Excuse("intel_iommu=igfx_off leaves the graphics unit off", Evidence.COMMAND_LINE)
        # The list names host bridges and graphics functions: either betrays the chipset.
        listed, name = self.topology.quirks.listed, DeviceList.INTEL_IGFX_IOMMU_OFF
        if any(listed(name, one.vendor or 0, one.device or 0) for one in self.snapshot.functions):
            return Excuse("the kernel leaves the graphics unit of this chipset off", Evidence.DMAR)
        return Excuse("its DMAR unit serves graphics alone, which kernels may be built to leave off", Evidence.DMAR)

    def _ivrs(self, function: PciFunction) -> Excuse | None:
        """``check_device()``, drivers/iommu/amd/iommu.c; before 6.0 it took no notice of segments."""
        ivrs = self.platform.firmware.ivrs
        segments = {block.segment for block in ivrs.blocks_used()} if ivrs is not None else set()
        if self.platform.kernel.at_least(6, 0):
            segments &= {function.address.domain}
        if ivrs is not None and any(ivrs.covers(one, function.address.requester_id) for one in segments):
            return None
        return Excuse("no entry of the IVRS table covers its requester ID", Evidence.IVRS)

    def _viot(self, function: PciFunction) -> Excuse | None:
        """``viot_pci_dev_iommu_init()``, drivers/acpi/viot.c."""
        viot = self.platform.firmware.viot
        where = (function.address.domain, function.address.requester_id)
        if viot is not None and viot.range_of(*where) is not None:
            return None
        if viot is not None and any(one.holds(*where) for one in viot.pci_ranges):
            return Excuse("the VIOT table names an IOMMU for it that is not described", Evidence.VIOT)
        return Excuse("no PCI range of the VIOT table holds its requester ID", Evidence.VIOT)

    def _iort(self, function: PciFunction) -> Excuse | None:
        """``iort_iommu_configure_id()``, drivers/acpi/arm64/iort.c."""
        iort = self.platform.firmware.iort
        node = iort.root_complex(function.address.domain) if iort is not None else None
        if node is None:
            return Excuse("the IORT table has no root complex for its segment", Evidence.IORT)
        if node.smmu_stream(function.address.requester_id) is None:
            return Excuse("the IORT table maps its requester ID to no SMMU", Evidence.IORT)
        return None

    def _device_tree(self, function: PciFunction) -> Excuse | None:
        """``of_pci_iommu_init()``, drivers/iommu/of_iommu.c."""
        bridge = self._host_bridge(function)
        if bridge is None:
            return self._by_pattern(function)
        if bridge.iommu_map is None:
            return Excuse("its host bridge has no iommu-map in the device tree", Evidence.DEVICE_TREE)
        found = bridge.translate(function.address.requester_id)
        if found is None:
            return Excuse("the iommu-map of its host bridge leaves its requester ID out", Evidence.DEVICE_TREE)
        if not found.entry.target_enabled:
            return Excuse("the device tree has its IOMMU disabled", Evidence.DEVICE_TREE)
        return None

    def _host_bridge(self, function: PciFunction) -> HostBridge | None:
        bridges = self.platform.firmware.host_bridges or ()
        named = [one for one in bridges if function.host_node and one.platform_name == function.host_node]
        numbered = [one for one in bridges if one.linux_pci_domain == function.address.domain]
        for found in (named, numbered, bridges):
            if len(found) == 1:
                return found[0]
        return None

    def _without_driver(self, function: PciFunction) -> Excuse | None:
        """A function that no driver matched has not been configured for DMA yet.

        Bridges and event collectors match the port driver's table, so theirs is a defect. Where nothing at all
        has a group, drivers are deferred and their absence explains nothing.
        """
        if function.driver is not None or not self.grouped or not self.platform.waits_for_drivers:
            return None
        if function.class_code is None and function.is_bridge:
            return None
        if (function.class_code or 0) >> 8 in (CLASS_PCI_BRIDGE, _CLASS_EVENT_COLLECTOR):
            return None
        if not self.platform.kernel.readable:
            return Excuse("no driver is bound to it, and kernels before 6.15 wait for one", Evidence.NONE)
        if not self.drivers_shown:
            return Excuse("the snapshot names no drivers, and before 6.15 its group waits for one", Evidence.NONE)
        evidence = Evidence.NONE if self.platform.firmware.is_silent else Evidence.SYSFS
        return Excuse("no driver is bound to it, and before 6.15 its group waits for one", evidence)

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


def _is_display(function: PciFunction) -> bool:
    return (function.class_code or 0) >> 16 == CLASS_DISPLAY
