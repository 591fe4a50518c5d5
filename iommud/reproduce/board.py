# SPDX-License-Identifier: GPL-2.0-or-later
"""The machine around the PCI functions: architecture, board, IOMMU, firmware, and words for the kernel."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from iommud.address import Address
from iommud.reproduce.models import Version
from iommud.reproduce.notes import Notes
from iommud.reproduce.parts import Architecture, Iommu, OmissionKind
from iommud.snapshot import Snapshot
from iommud.verdict.report import Report
from iommud.verdict.survey import VIRTIO_IOMMU, Driver, Firmware

HOST_BRIDGES: Mapping[Architecture, tuple[int, int]] = {
    Architecture.X86_64: (0x8086, 0x29C0),
    Architecture.AARCH64: (0x1B36, 0x0008),
}
"""What the board has at 00:00.0."""
Q35_CHIPSET: Mapping[int, tuple[int, int]] = {0: (0x8086, 0x2918), 2: (0x8086, 0x2922), 3: (0x8086, 0x2930)}
"""Functions of device 1f that q35 has anyway: LPC bridge, AHCI, SMBus."""
CHIPSET_DEVICE = 0x1F
SCALABLE_MODE_SINCE: Version = (11, 0)
"""The intel-iommu's option lost its ``x-``."""

_ARM_DRIVERS = frozenset({Driver.SMMUV3, Driver.SMMU, Driver.APPLE_DART})
_ARM_TABLES = frozenset({"IORT", "GTDT"})
_AMD = 0x1022


@dataclass(frozen=True, slots=True, kw_only=True)
class Board:
    """What a machine is but for its PCI functions."""

    architecture: Architecture
    iommu: Iommu
    device_tree: bool


def board_of(report: Report, firmware: Firmware, drivers: frozenset[Driver], notes: Notes) -> Board:
    """Recognise board and IOMMU of a captured machine."""
    if report.analysis is None:
        raise ValueError("this report was stripped of its analysis")
    snapshot = report.analysis.snapshot
    architecture = _architecture(snapshot, drivers)
    tree = architecture is Architecture.AARCH64 and firmware.host_bridges is not None
    iommu = _iommu(report, snapshot, firmware, drivers, architecture, notes)
    if iommu not in (Iommu.NONE, Iommu.VIRTIO) and len(snapshot.iommus or ()) > 1:
        text = f"the machine has {len(snapshot.iommus or ())} IOMMUs, the guest one for all that it serves"
        notes.add(OmissionKind.IOMMU, text)
    return Board(architecture=architecture, iommu=iommu, device_tree=tree)


def _architecture(snapshot: Snapshot, drivers: frozenset[Driver]) -> Architecture:
    names = (snapshot.table_names or frozenset()) | snapshot.tables.keys()
    ids = {(one.vendor, one.device) for one in snapshot.functions if one.upstream is None}
    said = f"{snapshot.kernel_release or ''} {snapshot.kernel_version or ''}"
    arm = (
        bool(drivers & _ARM_DRIVERS)
        or bool(names & _ARM_TABLES)
        or snapshot.device_tree is not None
        or HOST_BRIDGES[Architecture.AARCH64] in ids
        or re.search(r"arm64|aarch64", said) is not None
    )
    return Architecture.AARCH64 if arm and not names & {"DMAR", "IVRS"} else Architecture.X86_64


def _iommu(
    report: Report,
    snapshot: Snapshot,
    firmware: Firmware,
    drivers: frozenset[Driver],
    architecture: Architecture,
    notes: Notes,
) -> Iommu:
    known = {Driver.INTEL: Iommu.INTEL, Driver.AMD: Iommu.AMD, Driver.VIRTIO: Iommu.VIRTIO, Driver.SMMUV3: Iommu.SMMUV3}
    named = [iommu for driver, iommu in known.items() if driver in drivers]
    found = named or list(_by_firmware(snapshot, firmware))
    if not found and not drivers and not report.in_use:
        return Iommu.NONE
    native = Iommu.SMMUV3 if architecture is Architecture.AARCH64 else _of_maker(snapshot)
    iommu = found[0] if found else native
    if not found:
        what = ", ".join(sorted(drivers)) or "which the capture does not name"
        notes.add(OmissionKind.IOMMU, f"{iommu} stands for the machine's IOMMU ({what})")
    if (iommu is Iommu.SMMUV3) is not (architecture is Architecture.AARCH64) and iommu is not Iommu.VIRTIO:
        notes.add(OmissionKind.IOMMU, f"{native} stands for {iommu}, which QEMU's board does not have")
        return native
    return iommu


def _by_firmware(snapshot: Snapshot, firmware: Firmware) -> Iterator[Iommu]:
    """IOMMUs that are described, or there as functions, though no driver shows."""
    names = (snapshot.table_names or frozenset()) | snapshot.tables.keys()
    ids = {(one.vendor, one.device) for one in snapshot.functions}
    if VIRTIO_IOMMU in ids:
        yield Iommu.VIRTIO
    if "DMAR" in names:
        yield Iommu.INTEL
    if "IVRS" in names or any(one.vendor == _AMD and one.class_high == 0x0806 for one in snapshot.functions):
        yield Iommu.AMD
    if firmware.id_mapping is not None:
        yield Iommu.VIRTIO if firmware.viot is not None else Iommu.SMMUV3


def _of_maker(snapshot: Snapshot) -> Iommu:
    first = next((one for one in snapshot.functions if one.upstream is None), None)
    return Iommu.AMD if first is not None and first.vendor == _AMD else Iommu.INTEL


def machine_arguments(board: Board, *, bypass: bool) -> tuple[str, ...]:
    """``-machine`` with its value. ``bypass``: the IOMMU does not serve the first root bus."""
    x86 = board.architecture is Architecture.X86_64
    words = ["q35"] if x86 else ["virt", "gic-version=3"]
    if board.iommu is Iommu.SMMUV3:
        words.append("iommu=smmuv3")
    if bypass:
        words.append("default-bus-bypass-iommu=on")
    return ("-machine", ",".join(words))


_WORDS = re.compile(
    r"(?:intel_iommu|amd_iommu|iommu(?:\..+)?|pci|pcie_acs_override|pcie_ports|arm[-_]smmu.*|virtio[-_]iommu.*)"
)
_ADDRESS = re.compile(r"(?:[0-9a-fA-F]{4,8}:)?[0-9a-fA-F]{2}:[01][0-9a-fA-F]\.[0-7]")


def kernel_parameters(
    cmdline: str | None, iommu: Iommu, addresses: Mapping[Address, Address], notes: Notes
) -> tuple[str, ...]:
    """Words of the captured command line on which groups depend, with the guest's addresses in them."""
    words = [word for word in (cmdline or "").split() if _WORDS.fullmatch(word.partition("=")[0])]

    def moved(found: re.Match[str]) -> str:
        captured = Address.parse(found[0])
        if captured not in addresses:
            text = "named on the kernel command line, and not in the guest"
            notes.add(OmissionKind.KERNEL, text, captured)
        return str(addresses.get(captured, captured))

    parameters = [_ADDRESS.sub(moved, word) for word in words]
    if iommu is Iommu.INTEL and not any(word.startswith("intel_iommu=") for word in parameters):
        # Whether the driver takes an IOMMU that nobody asked for is a choice of the kernel's configuration.
        parameters.append("intel_iommu=on")
    return tuple(dict.fromkeys(parameters))


def is_scalable(parameters: tuple[str, ...]) -> bool:
    """Whether the kernel is asked for Intel's scalable mode, which the IOMMU must then have."""
    return any("sm_on" in word.partition("=")[2].split(",") for word in parameters if word.startswith("intel_iommu="))
