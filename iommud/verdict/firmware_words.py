# SPDX-License-Identifier: GPL-2.0-or-later
"""What firmware says of a function beside who serves it: memory kept for it, translation caches, platform flags."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from iommud.address import Address
from iommud.firmware.dmar import DmarFlag
from iommud.firmware.ivrs import IvInfo, MemoryFlag
from iommud.pci import CLASS_DISPLAY
from iommud.snapshot import PciFunction
from iommud.verdict.service import Evidence, Served, Service

if TYPE_CHECKING:
    from iommud.firmware import Dmar
    from iommud.firmware.dmar import DeviceScope
    from iommud.firmware.ivrs import MemoryBlock


_CLASS_USB = 0x0C03


@dataclass(frozen=True, slots=True)
class KeptMemory:
    """Memory that firmware keeps for a function: addresses `first` to `last`, both included."""

    table: Evidence
    first: int
    last: int
    what: str
    fixed: bool
    """Whether the mapping must stay whoever has the function (``IOMMU_RESV_DIRECT``)."""


@dataclass(frozen=True, slots=True)
class Remark:
    """Something else that a table says, which the groups do not depend on."""

    table: Evidence
    text: str


def kept_memory(service: Service, function: PciFunction, requesters: Iterable[Address]) -> Iterator[KeptMemory]:
    """The reserved regions that touch a function with these requester IDs, in the order of the tables."""
    yield from _by_dmar(service, function)
    yield from _by_ivrs(service, function)
    yield from _by_iort(service, requesters)


def _by_dmar(service: Service, function: PciFunction) -> Iterator[KeptMemory]:
    """``intel_iommu_get_resv_regions()``, drivers/iommu/intel/iommu.c."""
    dmar = service.platform.firmware.dmar
    above = {bridge.address for bridge in service.topology.chain(function)}
    # device_rmrr_is_relaxable(): what USB controllers and graphics needed it for is over once a driver has them.
    kind = function.class_high
    fixed = kind is None or (kind != _CLASS_USB and kind >> 8 != CLASS_DISPLAY)
    what = "RMRR, mapped one to one" + ("" if fixed else " until the function is given away")
    for region in dmar.reserved_regions if dmar is not None else ():
        scoped = dict(service.scoped(region.segment, region.scopes))
        if region.base <= region.limit and (function.address in scoped or above & scoped.keys()):
            yield KeptMemory(Evidence.DMAR, region.base, region.limit, what, fixed)


def _by_ivrs(service: Service, function: PciFunction) -> Iterator[KeptMemory]:
    """``amd_iommu_get_resv_regions()``, drivers/iommu/amd/iommu.c."""
    ivrs = service.platform.firmware.ivrs
    for block in ivrs.memory if ivrs is not None else ():
        held = block.first <= function.address.requester_id <= block.last
        if held and block.counts and block.size and block.segment == function.address.domain:
            yield KeptMemory(Evidence.IVRS, block.base, block.base + block.size - 1, _ivmd_words(block), fixed=True)


def _ivmd_words(block: MemoryBlock) -> str:
    # init_unity_map_range() maps an exclusion range too, to be read and written whatever the other flags say.
    if block.flags & MemoryFlag.EXCLUSION:
        return "IVMD exclusion range, mapped one to one (read and write)"
    rights = [name for flag, name in ((MemoryFlag.READ, "read"), (MemoryFlag.WRITE, "write")) if block.flags & flag]
    return f"IVMD, mapped one to one ({' and '.join(rights) or 'no access'})"


def _by_iort(service: Service, requesters: Iterable[Address]) -> Iterator[KeptMemory]:
    """``iort_iommu_rmr_get_resv_regions()``, drivers/acpi/arm64/iort.c."""
    iort = service.platform.firmware.iort
    if iort is None:
        return
    roots = ((iort.root_complex(one.domain), one.requester_id) for one in requesters)
    streams = [found for root, rid in roots if root is not None and (found := root.smmu_stream(rid)) is not None]
    for node in iort.nodes:
        if any(node.reserves_for(one.smmu_offset, one.stream_id) for one in streams):
            for memory in node.memory:
                if memory.size:
                    moved = "may be mapped elsewhere" if memory.remappable else "mapped one to one"
                    last = memory.base + memory.size - 1
                    yield KeptMemory(Evidence.IORT, memory.base, last, f"RMR, {moved}", not memory.remappable)


def remarks(service: Service, function: PciFunction) -> Iterator[Remark]:
    """What else the tables say of a function and its platform."""
    firmware = service.platform.firmware
    if firmware.dmar is not None:
        yield from (Remark(Evidence.DMAR, text) for text in _dmar_flags(firmware.dmar))
        yield from (Remark(Evidence.DMAR, text) for text in _dmar_caches(service, firmware.dmar, function))
    if firmware.ivrs is not None and firmware.ivrs.info & IvInfo.DMA_REMAP:
        yield Remark(Evidence.IVRS, "the IOMMU guards memory from before the system is started (DMA remap support)")
    root = firmware.iort.root_complex(function.address.domain) if firmware.iort is not None else None
    if root is not None:
        may = "may" if root.ats else "may not"
        yield Remark(Evidence.IORT, f"functions of the segment {may} cache translations (ATS attribute)")
    if _leads_out(service, function):
        yield Remark(Evidence.DEVICE_TREE, "it lies at or below a port that leads out of the case (external-facing)")


def _dmar_flags(dmar: Dmar) -> Iterator[str]:
    flags = DmarFlag(dmar.flags)
    offered = "offered" if flags & DmarFlag.INTERRUPT_REMAPPING else "not offered"
    yield f"interrupt remapping is {offered} (INTR_REMAP)"
    if flags & DmarFlag.X2APIC_OPT_OUT:
        yield "firmware asks to leave x2APIC mode off (X2APIC_OPT_OUT)"
    if flags & DmarFlag.DMA_CONTROL_OPT_IN:
        yield "firmware asks that all DMA stay under control (DMA_CTRL_PLATFORM_OPT_IN)"


def _dmar_caches(service: Service, dmar: Dmar, function: PciFunction) -> Iterator[str]:
    """``dmar_ats_supported()``, drivers/iommu/intel/iommu.c."""
    physical = service.physical(function)
    for cached in dmar.cached_translations:
        if physical.address in _named(service, cached.segment, cached.scopes):
            needs = "needs" if cached.required else "may use"
            yield f"it {needs} its translation cache (SATC)"
    way = (physical, *service.topology.chain(physical))
    for ports in dmar.root_ports:
        named = _named(service, ports.segment, ports.scopes)
        below = len(way) > 1 and (ports.all_ports or way[-1].address in named)
        if ports.segment == physical.address.domain and below:
            yield "functions below its root port may cache translations (ATSR)"


def _named(service: Service, segment: int, scopes: tuple[DeviceScope, ...]) -> set[Address]:
    return {address for address, _ in service.scoped(segment, scopes)}


def _leads_out(service: Service, function: PciFunction) -> bool:
    bridge = service.host_bridge(function)
    if bridge is None:
        return False
    way = [function.address, *(one.address for one in service.topology.chain(function))]
    steps = tuple((one.device, one.function) for one in reversed(way))
    return any(steps[: len(port)] == port for port in bridge.external_facing)


def firmware_alias(service: Service, function: PciFunction) -> Address | None:
    """The requester ID under which the IVRS table says that a function sends; None: its own, or no table.

    The driver programs it beside those of the alias walk (``setup_aliases()``, drivers/iommu/amd/iommu.c).
    """
    ivrs = service.platform.firmware.ivrs
    address = function.address
    alias = ivrs.alias_of(address.domain, address.requester_id) if ivrs is not None else None
    if alias is None or alias == address.requester_id:
        return None
    return Address.from_requester_id(address.domain, alias)


def listed_instance(service: Service, function: PciFunction) -> str | None:
    """The entry of ``/sys/class/iommu`` below which sysfs lists a function; None: none does."""
    instances = (service.snapshot.iommus or {}).items()
    listed = (name for name, functions in instances if function.address in functions)
    return function.iommu or next(listed, None)


def instance_of(service: Service, function: PciFunction, served: Served) -> str | None:
    """The entry of ``/sys/class/iommu`` behind the IOMMU that serves a function; None: there is none, or none is told.

    Where sysfs lists the function below an entry, that is it; else the driver's own way of naming tells.
    """
    found = listed_instance(service, function)
    own = service.answer(function, function.address)
    if found is not None and isinstance(own, Served) and own.unit == served.unit:
        return found
    return served.unit.instance if served.unit.instance in (service.snapshot.iommus or ()) else None
