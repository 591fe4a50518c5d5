# SPDX-License-Identifier: GPL-2.0-or-later
"""From the report on a captured machine to a machine for QEMU."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from iommud.address import Address
from iommud.model.acs import AcsModel
from iommud.model.topology import BusId
from iommud.reproduce.board import (
    SCALABLE_MODE_SINCE,
    Board,
    board_of,
    is_scalable,
    kernel_parameters,
    machine_arguments,
)
from iommud.reproduce.bridges import DOWNSTREAM, EXPANDER, PCI_BRIDGE, PORT_WITHOUT_ACS, ROOT_PORT
from iommud.reproduce.grow import Grower
from iommud.reproduce.models import IGB, NVME, Option, Version
from iommud.reproduce.notes import Notes
from iommud.reproduce.numbers import LAST_BUS, Placed, numbered
from iommud.reproduce.parts import Architecture, Device, Iommu, OmissionKind, Part, Reproduction, depth_first
from iommud.reproduce.roots import AMD_IOMMU, VIRTIO_IOMMU_MODEL, Roots
from iommud.verdict.report import Analysis, Report

ROOT_BUS = "pcie.0"
_VIRTUAL_FUNCTIONS: Mapping[str, tuple[int, int]] = {IGB.name: (0x80, 2), NVME.name: (1, 1)}
"""First offset and stride of QEMU's SR-IOV capabilities (hw/net/igb.c, hw/nvme/nvme.h)."""
_LARGEST_CHASSIS = 0xFF


def reproduce(report: Report, qemu: Version) -> Reproduction:
    """The machine for QEMU that is most like the one that was captured.

    Raises ValueError if the report was stripped of its analysis.
    """
    if report.analysis is None:
        raise ValueError("this report was stripped of its analysis")
    return _Planner(report, report.analysis, qemu, Notes()).reproduction()


@dataclass(frozen=True, slots=True)
class _Planner:
    report: Report
    analysis: Analysis
    qemu: Version
    notes: Notes

    def reproduction(self) -> Reproduction:
        platform, snapshot = self.analysis.platform, self.analysis.snapshot
        board = board_of(self.report, platform.firmware, platform.drivers, self.notes)
        placed = self._numbered(self._parts(board), board)
        board = self._with_acpi(board, placed)
        present = {one.address for one in snapshot.functions}
        captured = ((one.part.captured, one.address) for one in placed)
        addresses = {one: address for one, address in captured if one is not None and one in present}
        virtual = {one.address: len(one.part.virtual) for one in placed if one.part.virtual}
        addresses |= _virtual_addresses(placed)
        parameters = (
            *kernel_parameters(snapshot.cmdline, board.iommu, addresses, self.notes),
            *self._without_ari(placed),
        )
        bypass = self._bypassed(self._first_root())
        devices = tuple(_devices(placed, board, parameters, self.qemu))
        self._note_coverage(placed, addresses)
        self._note_forgotten(addresses)
        return Reproduction(
            source=self.report.source,
            kernel=self.report.kernel.text or None,
            functions=len(snapshot.functions),
            qemu=self.qemu,
            architecture=board.architecture,
            device_tree=board.device_tree,
            iommu=board.iommu,
            machine=machine_arguments(board, bypass=bypass),
            devices=devices,
            addresses=dict(sorted(addresses.items())),
            virtual_functions=virtual,
            parameters=parameters,
            omissions=self.notes.omissions(),
        )

    @property
    def _acs(self) -> AcsModel:
        return self.analysis.explainer.model.acs

    def _parts(self, board: Board) -> tuple[Part, ...]:
        grower = Grower.of(self.analysis.snapshot, self._acs, self.qemu, self.notes)
        return Roots(grower, self._acs, board, self.notes, self._bypassed).parts()

    def _numbered(self, parts: tuple[Part, ...], board: Board) -> tuple[Placed, ...]:
        """Addresses with the captured bus numbers if they can be had, else packed; what has no number is left out."""
        placed, left_out = numbered(parts, keep=board.architecture is Architecture.X86_64)
        if left_out or any(one.address.bus > LAST_BUS for one in placed):
            placed, left_out = numbered(parts, keep=False)
        lost = [one for one in depth_first(left_out) if one.captured is not None]
        lost += [one.part for one in placed if one.address.bus > LAST_BUS]
        gone = [one.captured for one in lost if one.captured is not None]
        if gone:
            self.notes.add(OmissionKind.FUNCTION, "bus numbers run out: the guest has one domain of 256 buses", *gone)
        return tuple(one for one in placed if one.address.bus <= LAST_BUS)

    def _with_acpi(self, board: Board, placed: Iterable[Placed]) -> Board:
        """Further root buses are described by ACPI only."""
        if board.device_tree and any(one.part.model == EXPANDER for one in placed):
            text = "the guest needs ACPI for its further root buses; the captured machine has a device tree"
            self.notes.add(OmissionKind.IOMMU, text)
            return replace(board, device_tree=False)
        return board

    def _without_ari(self, placed: Iterable[Placed]) -> tuple[str, ...]:
        """With ARI the kernel goes from function to function by a chain that ends with QEMU's first igb."""
        first = {one.address[:3] for one in placed if one.part.model == IGB.name and not one.part.function}
        behind = [one.part.captured for one in placed if one.part.function and one.address[:3] in first]
        if not behind:
            return ()
        text = "it lies beside an igb, and the kernel finds it only without ARI (pci=noari)"
        self.notes.add(OmissionKind.KERNEL, text, *(one for one in behind if one is not None))
        return ("pci=noari",)

    def _first_root(self) -> BusId:
        return min(
            (one.address[:2] for one in self.analysis.snapshot.functions if one.upstream is None), default=(0, 0)
        )

    def _bypassed(self, bus: BusId) -> bool:
        """Whether all below a root bus is without a group, though the machine has groups."""
        grouped = self.report.actual.number_of
        roots = {function.root or function.address[:2] for function in self._acs.topology.functions.values()}
        here = {self._acs.topology.functions[one].root or one[:2] for one in grouped}
        excused = {address for address, _ in self.report.without}
        silent = all(
            one.address in excused for one in self.analysis.snapshot.functions if (one.root or one.address[:2]) == bus
        )
        return bool(grouped) and bus in roots and bus not in here and silent

    def _note_coverage(self, placed: Iterable[Placed], addresses: Mapping[Address, Address]) -> None:
        """Functions that are rightly without a group, where their stand-ins may get one."""
        iommus = (AMD_IOMMU, VIRTIO_IOMMU_MODEL)
        same = {one.part.captured for one in placed if one.part.exact or one.part.model in iommus}
        for address, excuse in self.report.without:
            function = self._acs.topology.functions[address]
            bypassed = self._bypassed(function.root or address[:2])
            if self.report.in_use and address in addresses and address not in same and not bypassed:
                text = f"rightly without a group ({excuse.reason}); its stand-in may have one"
                self.notes.add(OmissionKind.COVERAGE, text, address)

    def _note_forgotten(self, addresses: Mapping[Address, Address]) -> None:
        """What was reached by no way: a capture that contradicts itself has such functions."""
        told = {one for omission in self.notes.omissions() for one in omission.functions}
        lost = [one.address for one in self.analysis.snapshot.functions if one.address not in addresses]
        lost = [one for one in lost if one not in told]
        if lost:
            self.notes.add(OmissionKind.FUNCTION, "nothing in the capture says where it hangs", *lost)


def _virtual_addresses(placed: Iterable[Placed]) -> dict[Address, Address]:
    """Where the guest will have the virtual functions: routing ID plus offset plus stride (PCIe r3.1, sec 9.2.1.2)."""
    found: dict[Address, Address] = {}
    for one in placed:
        for number, captured in enumerate(one.part.virtual):
            offset, stride = _VIRTUAL_FUNCTIONS[one.part.model]
            requester = one.address.requester_id + offset + stride * number
            found[captured] = Address.from_requester_id(0, requester)
    return found


def _devices(placed: Iterable[Placed], board: Board, parameters: tuple[str, ...], qemu: Version) -> Iterator[Device]:
    """The devices in the order of the command line: an IOMMU before what it translates for."""
    ordered = sorted(placed, key=lambda one: (not one.part.on_board, one.part.model != VIRTIO_IOMMU_MODEL))
    amd = next((one for one in ordered if one.part.model == AMD_IOMMU), None)
    if board.iommu is Iommu.INTEL:
        yield _intel(is_scalable(parameters), qemu)
    chassis = 0
    for one in ordered:
        if one is amd:
            continue
        if amd is not None and one.parent is None and not one.part.on_board and one.part.device > amd.part.device:
            yield _amd(amd)
            amd = None
        chassis += one.part.bridge
        if "subsys" in one.part.options:
            yield _subsystem(str(one.part.options["subsys"]))
        yield _device(one, chassis)
    if amd is not None:
        yield _amd(amd)


def _intel(scalable: bool, qemu: Version) -> Device:
    option = "scalable-mode" if qemu >= SCALABLE_MODE_SINCE else "x-scalable-mode"
    argument = f"intel-iommu,{option}=on" if scalable else "intel-iommu"
    return Device(model="intel-iommu", address=None, argument=argument, captured=None, about="the IOMMU", exact=False)


def _amd(function: Placed) -> Device:
    """The amd-iommu puts its own function into the lowest slot that is free when it is made."""
    return Device(
        model="amd-iommu",
        address=function.address,
        argument="amd-iommu",
        captured=function.part.captured,
        about=function.part.about,
        exact=function.part.exact,
    )


def _subsystem(name: str) -> Device:
    argument = f"nvme-subsys,id={name},nqn={name}"
    about = "for the virtual functions of an nvme"
    return Device(model="nvme-subsys", address=None, argument=argument, captured=None, about=about, exact=False)


def _device(one: Placed, chassis: int) -> Device:
    part = one.part
    return Device(
        model=part.model,
        address=one.address,
        argument=None if part.on_board else _argument(one, chassis),
        captured=part.captured,
        about=part.about,
        exact=part.exact,
    )


def _argument(one: Placed, chassis: int) -> str:
    """The value of ``-device``."""
    part = one.part
    parent = ROOT_BUS if one.parent is None else one.parent.name
    name = {"id": part.name} if part.name is not None else {}
    place = {"bus": parent, "addr": f"{part.device:x}.{part.function:x}"}
    options = {**name, **place, **_bridge_options(one, chassis), **part.options}
    return ",".join([part.model, *(f"{key}={value}" for key, value in options.items())])


def _bridge_options(one: Placed, chassis: int) -> dict[str, Option]:
    """What bridges need to be told apart, and what keeps them from asking for I/O ports that nobody uses."""
    model = one.part.model
    if model == EXPANDER:
        return {"bus_nr": one.part.root_bus or 0}
    if model == PCI_BRIDGE:
        return {"chassis_nr": min(chassis, _LARGEST_CHASSIS), "shpc": "off"}
    if model not in (ROOT_PORT, PORT_WITHOUT_ACS, DOWNSTREAM):
        return {}
    options: dict[str, Option] = {"chassis": min(chassis, _LARGEST_CHASSIS), "slot": chassis}
    if model == ROOT_PORT:
        options["io-reserve"] = 0
    return options | ({"bus-reserve": one.spare} if one.spare else {})
