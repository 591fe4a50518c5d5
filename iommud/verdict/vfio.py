# SPDX-License-Identifier: GPL-2.0-or-later
"""Whether VFIO would hand a group to user space, who stands in the way, and whether that would be safe."""

from __future__ import annotations

import enum
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from iommud.address import Address
from iommud.kernel import Kernel
from iommud.model.groups import Group
from iommud.pci import CLASS_HOST_BRIDGE
from iommud.snapshot import PciFunction
from iommud.verdict.firmware_words import KeptMemory, kept_memory
from iommud.verdict.hazards import Danger, Dangers, Hazard
from iommud.verdict.report import Analysis, Report
from iommud.verdict.service import Evidence, Service

_DMA_OWNERSHIP = (5, 19)
"""Since then the core tracks who owns the DMA of a group (``iommu_group_claim_dma_owner()``)."""
_ONE_TO_ONE = (6, 6)
"""Since then no function leaves the host whose memory must stay mapped: commit a48ce36e2786 ("iommu: Prevent
RESV_DIRECT devices from blocking domains"). The Intel driver refused before (``device_is_rmrr_locked()``)."""
_STUB = "pci-stub"
_PORT = "pcieport"


class Answer(enum.StrEnum):
    """Whether a function can be assigned safely."""

    YES = "yes"
    NO = "no"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One PCI function of a group, as VFIO looks at it."""

    address: Address
    driver: str | None
    bridge: bool
    """Whether it goes with the group but can be given to nobody: vfio-pci refuses every bridge."""
    inert: bool
    """Whether it is a bridge or a host bridge: nobody asks for one, and no command is needed for it."""
    blocks: bool | None
    """Whether its driver keeps the group from user space; None: this kernel may go by either rule."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Assignment:
    """The answer about one group, or about one function and the group that comes along."""

    asked: Address | None
    """The function that somebody wants to assign; None: the question is about the group as it is."""
    number: int | None
    """The kernel's number of the group; None without one."""
    members: tuple[Member, ...] = ()
    others: tuple[str, ...] = ()
    """Members that are not PCI functions, whose drivers no snapshot holds."""
    obstacle: str | None = None
    """Why the function can be assigned in no case, or None."""
    refusal: str | None = None
    """Why the kernel hands the group to nobody, whatever its drivers, or None."""
    dangers: tuple[Danger, ...] = ()
    doubts: tuple[str, ...] = ()
    """Facts without which the answer is not certain, as sentences."""

    @property
    def blockers(self) -> tuple[Member, ...]:
        """Members whose drivers keep the group from user space; the function asked for is rebound in any case."""
        return tuple(one for one in self.members if one.blocks and one.address != self.asked)

    @property
    def viable(self) -> bool | None:
        """Whether the kernel would hand the group over as its drivers are bound now; None: not certain."""
        if not self.members or self.refusal is not None or any(one.blocks for one in self.members):
            return False
        return None if self.others or any(one.blocks is None for one in self.members) else True

    @property
    def safe(self) -> bool | None:
        """Whether nothing outside the group shares its mappings or reaches it; None: not certain."""
        if self.dangers:
            return False
        return None if self.doubts or not self.members else True

    @property
    def answer(self) -> Answer:
        """No before unknown before yes: what is missing cannot turn a no into a yes."""
        if self.obstacle is not None or self.refusal is not None or self.blockers or self.dangers:
            return Answer.NO
        return Answer.UNKNOWN if self.doubts or not self.members else Answer.YES

    @property
    def to_bind(self) -> tuple[Member, ...]:
        """Members that have to be bound to vfio-pci: all but bridges and those that VFIO or pci-stub holds already.

        The function asked for leaves pci-stub, which hands nothing out.
        """
        if self.obstacle is not None or self.refusal is not None:
            return ()
        return tuple(one for one in self.members if not one.inert and not self._held(one))

    def _held(self, member: Member) -> bool:
        stubbed = member.driver == _STUB and member.address != self.asked
        return member.driver is not None and (is_vfio(member.driver) or stubbed)

    @property
    def commands(self) -> tuple[str, ...]:
        """Shell commands, for root, that give the members to vfio-pci; none where there is nothing to do."""
        bound = tuple(line for one in self.to_bind for line in _bind(one))
        return ("modprobe vfio-pci", *bound) if bound else ()


def _bind(member: Member) -> Iterator[str]:
    """The override comes first, so that no other driver takes the function once it is free."""
    path = f"/sys/bus/pci/devices/{member.address}"
    yield f"echo vfio-pci > {path}/driver_override"
    if member.driver is not None:
        yield f"echo {member.address} > {path}/driver/unbind"
    yield f"echo {member.address} > /sys/bus/pci/drivers/vfio-pci/bind"


def is_vfio(driver: str) -> bool:
    """Whether a driver is vfio-pci or one of its variants (mlx5_vfio_pci, nvgrace_gpu_vfio_pci ...)."""
    return driver.replace("-", "_").endswith("vfio_pci")


def driver_blocks(function: PciFunction, kernel: Kernel) -> bool | None:
    """Whether the driver of a group's member keeps the group from user space.

    Before 5.19 ``vfio_dev_viable()`` lets bridges have any driver. Since then the driver itself must say that it
    does not mind (``driver_managed_dma``), and among the drivers of bridges only pcieport does. None where the two
    differ and the release does not tell which one holds: unreadable, or of a distribution that carries work back.
    """
    driver = function.driver
    if driver is None or driver == _STUB or is_vfio(driver):
        return False
    old, new = not _has_bridge_header(function), driver != _PORT
    if old == new or kernel.at_least(*_DMA_OWNERSHIP):
        return new if kernel.readable or old == new else None
    return None if ".el" in kernel.text else old


def _has_bridge_header(function: PciFunction) -> bool:
    header = function.config.header_type
    return function.is_bridge if header is None else header != 0


def assignment_of(report: Report, address: Address) -> Assignment:
    """What assigning one function takes, with the group that comes along.

    Raises ValueError if the report holds no analysis, KeyError if it knows no such function.
    """
    desk = _Desk.of(report)
    function = desk.analysis.explainer.model.topology.functions[address]
    number = desk.number(function)
    if number is None:
        return desk.without_group(address)
    found = replace(desk.group(number), asked=address)
    if _has_bridge_header(function):
        return replace(found, obstacle=f"{address} is a bridge, and vfio-pci takes none")
    return found


def assignments(report: Report) -> tuple[Assignment, ...]:
    """One answer for each group that holds more than bridges, by number. Raises ValueError without an analysis."""
    desk = _Desk.of(report)
    artificial = (one.number for one in desk.analysis.snapshot.groups.values() if one.is_artificial)
    found = (desk.group(number) for number in sorted({*report.actual.members, *artificial}))
    return tuple(one for one in found if not all(member.inert for member in one.members))


@dataclass(frozen=True, slots=True)
class _Desk:
    """One report, prepared to answer for any of its groups."""

    report: Report
    analysis: Analysis
    dangers: Dangers
    drivers_shown: bool
    coarsest: Mapping[Address, Group]
    """Where facts are missing, the largest group each function can belong to; empty where nothing is open."""

    @classmethod
    def of(cls, report: Report) -> _Desk:
        if report.analysis is None:
            raise ValueError("this report was stripped of its analysis")
        shown = any(one.driver is not None for one in report.analysis.snapshot.functions)
        coarsest = {address: group for group in report.coarsest or () for address in group}
        return cls(report, report.analysis, Dangers.of(report, report.analysis), shown, coarsest)

    def number(self, function: PciFunction) -> int | None:
        found = self.report.actual.number_of.get(function.address)
        return function.group if found is None else found

    def without_group(self, address: Address) -> Assignment:
        excuse = dict(self.report.without).get(address)
        if not self.report.judged and not self.report.actual.members:
            doubt = f"this snapshot shows no group, and whether there is one cannot be told: {self.report.usage_reason}"
            return Assignment(asked=address, number=None, doubts=(doubt,))
        why = f": {excuse.reason}" if excuse is not None else ""
        if not self.report.in_use:
            why = f": {self.report.usage_reason}"
        return Assignment(asked=address, number=None, obstacle=f"{address} has no group{why}")

    def group(self, number: int) -> Assignment:
        functions = self.analysis.explainer.model.topology.functions
        listed = self.analysis.snapshot.groups.get(number)
        artificial = listed is not None and listed.is_artificial
        addresses = self._unprotected(number) if artificial else self.report.actual.members[number]
        members = tuple(self._member(functions[one]) for one in sorted(addresses))
        others = () if listed is None else listed.others
        kept = () if artificial else tuple(self._kept(addresses))
        return Assignment(
            asked=None,
            number=number,
            members=members,
            others=others,
            refusal=next((text for text, certain in kept if certain), None),
            dangers=(_no_iommu(addresses),) if artificial else tuple(self.dangers.about(addresses)),
            doubts=(
                *self._doubts(members, others),
                *(() if artificial else self._open(addresses)),
                *(text for text, certain in kept if not certain),
            ),
        )

    def _kept(self, addresses: Group) -> Iterator[tuple[str, bool]]:
        """Why memory that firmware keeps for a member keeps the group on the host, and whether it certainly does."""
        model = self.analysis.explainer.model
        service = Service(model.topology, self.analysis.platform, self.analysis.snapshot)
        for address in sorted(addresses):
            function = model.topology.functions[address]
            requesters = [alias.requester_id for alias in model.aliases.of(function)]
            regions = [one for one in kept_memory(service, function, requesters) if one.fixed]
            told = next(((one, found) for one in regions if (found := self._refuses(one)) is not False), None)
            if told is not None:
                region, certain = told
                where = f"firmware keeps memory 0x{region.first:x} to 0x{region.last:x} mapped for {address}"
                yield f"{where} ({region.table}: {region.what})", certain is True

    def _refuses(self, region: KeptMemory) -> bool | None:
        """Whether the kernel leaves a function with such a region to nobody; None: it may."""
        kernel = self.report.kernel
        if region.table is Evidence.DMAR:
            return True
        if not kernel.readable or (".el" in kernel.text and not kernel.at_least(*_ONE_TO_ONE)):
            return None
        if not kernel.at_least(*_ONE_TO_ONE):
            return False
        # iort_rmr_has_dev(): only where the kernel kept firmware's PCI configuration, which nothing here tells.
        return None if region.table is Evidence.IORT else True

    def _unprotected(self, number: int) -> Group:
        listed = self.analysis.snapshot.groups[number].members
        linked = (one.address for one in self.analysis.snapshot.functions if one.group == number)
        known = self.analysis.explainer.model.topology.functions
        return frozenset(one for one in (*listed, *linked) if one in known)

    def _member(self, function: PciFunction) -> Member:
        bridge = _has_bridge_header(function)
        return Member(
            address=function.address,
            driver=function.driver,
            bridge=bridge,
            inert=bridge or (function.class_high == CLASS_HOST_BRIDGE and function.driver is None),
            blocks=driver_blocks(function, self.report.kernel),
        )

    def _doubts(self, members: tuple[Member, ...], others: tuple[str, ...]) -> Iterator[str]:
        if not self.drivers_shown:
            yield "this snapshot shows no driver of any function, so who holds the group cannot be told"
        for one in members:
            if one.blocks is None:
                yield f"whether {one.driver} on {one.address} blocks depends on the kernel, whose release does not tell"
        for name in others:
            yield f"the group holds {name}, which is no PCI function: its driver is not in this snapshot"

    def _open(self, addresses: Group) -> Iterator[str]:
        """Safety is settled where even the coarsest groups that the facts permit stay within the kernel's."""
        if not self.report.judged:
            yield f"whether the group is isolated was not judged: {self.report.usage_reason}"
            return
        if any(not self.coarsest[one] <= addresses for one in addresses if one in self.coarsest):
            yield "facts are missing that decide whether the group is isolated: see the undecidable finding of check"


def _no_iommu(addresses: Group) -> Danger:
    return Danger(
        hazard=Hazard.NO_IOMMU,
        devices=tuple(sorted(addresses)),
        text="this is a no-IOMMU group of VFIO: whoever has it reaches all of memory",
    )
