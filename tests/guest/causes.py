# SPDX-License-Identifier: GPL-2.0-or-later
"""Why a kernel's groups are not the model's: the causes that are known, each with its evidence.

A cause is claimed only for the guests in which it was seen; whatever is not listed here is shown as not explained.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tests.guest.boot import Outcome
from tests.guest.judge import Result
from tests.guest.machine import Architecture, Cell, Iommu, LoadOrder
from tests.guest.steps import added

# Kernels before the change that groups every function when the IOMMU's driver arrives, drivers or not.
GROUPED_BY_PROBES = frozenset({"5.10", "6.1", "6.12"})
TWO_NICS = frozenset({"two-nics-0-1", "two-nics-1-2"})
BRIDGE = "pcie-pci-bridge"


@dataclass(frozen=True, slots=True)
class Cause:
    """A cause and the guests that have it."""

    text: str
    applies: Callable[[Cell, Result], bool]


def _only(result: Result, *kinds: str) -> bool:
    return bool(result.findings) and set(result.findings) <= {*kinds, "unisolated"}


def _unknown_to_qemu(cell: Cell) -> bool:
    """Whether a function behind a PCIe-to-PCI bridge has a device number: its requests carry device 0."""
    devices = (*cell.devices, *added(cell.steps))
    bridges = {device.name for device in devices if device.model == BRIDGE}
    return cell.iommu is Iommu.VIRTIO and any(device.bus in bridges and device.slot for device in devices)


CAUSES = (
    Cause(
        "Behind a PCIe-to-PCI bridge QEMU's virtio-iommu knows device 0 alone, since that is what requests carry; the "
        "kernel asks it about the function's own address, is refused, and the function stays without a group (no "
        "`Adding to iommu group` for it in `dmesg`, and its driver works all the same).",
        lambda cell, result: (
            _unknown_to_qemu(cell)
            and (cell.kernel in GROUPED_BY_PROBES or bool(added(cell.steps)))
            and _only(result, "ungrouped")
        ),
    ),
    Cause(
        "As before 6.15 QEMU's virtio-iommu refuses a function behind a PCIe-to-PCI bridge whose device number is not "
        "0; now the functions are grouped in one pass, which that ends, and all lose their groups again (`dmesg` "
        "shows them being made).",
        lambda cell, result: (
            _unknown_to_qemu(cell) and cell.kernel not in GROUPED_BY_PROBES and _only(result, "no-groups")
        ),
    ),
    Cause(
        "With a virtio-iommu before 6.15 a function gets its group when its driver is probed; the endpoint was probed "
        "before its bridges, found no group above it and got one of its own (`dmesg`: the order of `Adding to iommu "
        "group`).",
        lambda cell, result: (
            cell.iommu is Iommu.VIRTIO
            and cell.kernel in GROUPED_BY_PROBES
            and cell.order in {LoadOrder.RACING, LoadOrder.IOMMU_LAST}
            and _only(result, "alias-split", "split")
        ),
    ),
    Cause(
        "The SMMUv3 driver takes one function for each stream: the second NIC has the requester ID of the first, and "
        "is refused (`dmesg`: `stream 512 already in tree`, in newer kernels `Aliasing StreamID 0x200`).",
        lambda cell, result: cell.iommu is Iommu.SMMUV3 and cell.topology in TWO_NICS and _only(result, "ungrouped"),
    ),
    Cause(
        "No kernel driver: Debian's kernel has none for a virtio-iommu here, so no function has a group.",
        lambda cell, result: (
            cell.iommu is Iommu.VIRTIO
            and cell.architecture is Architecture.AMD64
            and cell.kernel in {"5.10", "6.1"}
            and not result.groups
        ),
    ),
    Cause(
        "The IOMMU's driver was never loaded, on purpose, so no function has a group.",
        lambda cell, result: cell.order is LoadOrder.NO_IOMMU_DRIVER and not result.groups,
    ),
    Cause(
        "The guest has too little memory, on purpose.",
        lambda cell, result: cell.story == "128-mib" and result.outcome != Outcome.DONE,
    ),
    Cause(
        "QEMU's amd-iommu makes the probe of this device's driver wait for ever.",
        lambda cell, result: cell.iommu is Iommu.AMD and result.outcome == Outcome.HANG,
    ),
)


def cause_of(cell: Cell, result: Result) -> str | None:
    """The cause of a difference, or None where none is known."""
    return next((one.text for one in CAUSES if one.applies(cell, result)), None)
