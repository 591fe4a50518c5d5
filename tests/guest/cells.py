# SPDX-License-Identifier: GPL-2.0-or-later
"""The cells with a name: those of the smoke run, the founding thread's, and others that a plan by pairs would miss."""

from __future__ import annotations

from collections.abc import Mapping

from tests.guest.machine import Architecture, Cell, Firmware, Iommu, LoadOrder
from tests.guest.steps import EnableVirtualFunctions, HotAdd, HotRemove, Look, Settle
from tests.guest.topology import Device, endpoint, pcie_to_pci_bridge

ARM64 = Architecture.ARM64
DT = Firmware.DEVICE_TREE


def _with_id(device: Device, name: str) -> Device:
    return Device(model=device.model, name=name, bus=device.bus, slot=device.slot, options=device.options)


NIC_BEHIND_BRIDGE = _with_id(endpoint("e1000", "br", 2), "nic")
PLUGGED_BRIDGE = pcie_to_pci_bridge("br", "rp")

# What each shows today, as the answer's status and kinds of findings, is in EXPECTED.
SMOKE: Mapping[str, Cell] = {
    "founding-virtio": Cell(kernel="6.12", topology="founding", iommu=Iommu.VIRTIO, qemu="10"),
    "founding-intel": Cell(kernel="6.1", topology="founding", iommu=Iommu.INTEL),
    "founding-amd": Cell(kernel="6.12", topology="founding-acs", iommu=Iommu.AMD),
    "founding-smmuv3": Cell(kernel="6.1", topology="two-nics-1-2", iommu=Iommu.SMMUV3, architecture=ARM64, firmware=DT),
    "hot-add": Cell(
        kernel="6.12",
        topology="empty-bridge",
        iommu=Iommu.INTEL,
        qemu="10",
        steps=(Look("before"), HotAdd(NIC_BEHIND_BRIDGE), Settle(), Look("added"), HotRemove("nic"), Settle()),
        story="hot-add",
    ),
    "no-iommu": Cell(kernel="6.1", topology="founding-acs", iommu=Iommu.NONE),
}

EXPECTED: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "founding-virtio": ("ok", ()),
    "founding-intel": ("ok", ()),
    "founding-amd": ("ok", ()),
    "founding-smmuv3": ("findings", ("ungrouped",)),
    "hot-add": ("ok", ()),
    "no-iommu": ("no-iommu", ()),
}

RACING = LoadOrder.RACING
# What the founding thread shows, from its first message to its answers, on kernels of today.
FOUNDING: Mapping[str, Cell] = {
    "x86 virtio-iommu, drivers racing": Cell(kernel="6.12", topology="founding", iommu=Iommu.VIRTIO, order=RACING),
    "x86 virtio-iommu, IOMMU last": Cell(
        kernel="6.12", topology="founding", iommu=Iommu.VIRTIO, order=LoadOrder.IOMMU_LAST
    ),
    "x86 virtio-iommu, virtio-net behind the bridge, IOMMU last": Cell(
        kernel="6.12", topology="virtio-net-behind-bridge", iommu=Iommu.VIRTIO, order=LoadOrder.IOMMU_LAST
    ),
    "x86 virtio-iommu, IOMMU first": Cell(kernel="6.12", topology="founding", iommu=Iommu.VIRTIO),
    "x86 virtio-iommu, virtio-net behind the bridge": Cell(
        kernel="6.12", topology="virtio-net-behind-bridge", iommu=Iommu.VIRTIO
    ),
    "x86 virtio-iommu, newest kernel": Cell(kernel="7.3", topology="founding", iommu=Iommu.VIRTIO, qemu="11"),
    "x86 intel": Cell(kernel="6.1", topology="founding", iommu=Iommu.INTEL),
    "arm64 SMMUv3, device tree, two NICs": SMOKE["founding-smmuv3"],
    "arm64 SMMUv3, ACPI, two NICs": Cell(
        kernel="6.12", topology="two-nics-1-2", iommu=Iommu.SMMUV3, architecture=ARM64
    ),
    "arm64 SMMUv3, newest kernel, two NICs": Cell(
        kernel="7.3", topology="two-nics-1-2", iommu=Iommu.SMMUV3, architecture=ARM64, firmware=DT, qemu="11"
    ),
    "arm64 virtio-iommu, device tree": Cell(
        kernel="6.12", topology="founding-slot-1", iommu=Iommu.VIRTIO, architecture=ARM64, firmware=DT
    ),
    "arm64 virtio-iommu, ACPI": Cell(kernel="6.12", topology="founding-slot-1", iommu=Iommu.VIRTIO, architecture=ARM64),
    "x86 virtio-iommu, two NICs": Cell(kernel="6.12", topology="two-nics-1-2", iommu=Iommu.VIRTIO),
    "x86 virtio-iommu, newest kernel, two NICs": Cell(
        kernel="7.3", topology="two-nics-1-2", iommu=Iommu.VIRTIO, qemu="11"
    ),
}


def _hot_plug(story: str, topology: str, *devices: Device, iommu: Iommu, kernel: str = "6.12") -> Cell:
    """A guest into which devices are plugged one after the other, with a look after each."""
    steps = [step for one in devices for step in (HotAdd(one), Settle(), Look(f"with-{one.name}"))]
    return Cell(kernel=kernel, topology=topology, iommu=iommu, qemu="10", steps=tuple(steps), story=story, seconds=240)


HOT_PLUG: Mapping[str, Cell] = {
    cell.name: cell
    for iommu in (Iommu.INTEL, Iommu.VIRTIO)
    for kernel in ("6.1", "6.12", "7.3")
    for cell in (
        _hot_plug("into-port", "empty-port", _with_id(endpoint("e1000e", "rp"), "nic"), iommu=iommu, kernel=kernel),
        _hot_plug("behind-bridge", "empty-bridge", NIC_BEHIND_BRIDGE, iommu=iommu, kernel=kernel),
        _hot_plug("bridge-then-nic", "empty-port", PLUGGED_BRIDGE, NIC_BEHIND_BRIDGE, iommu=iommu, kernel=kernel),
        _hot_plug(
            "into-switch", "empty-switch", _with_id(endpoint("e1000e", "upd1"), "nic"), iommu=iommu, kernel=kernel
        ),
    )
}
OTHERS: Mapping[str, Cell] = {
    cell.name: cell
    for cell in (
        # QEMU 7.2 has no igb; its own words say so.
        Cell(kernel="6.12", topology="sriov-igb", iommu=Iommu.INTEL, steps=(EnableVirtualFunctions(4),)),
        Cell(kernel="6.12", topology="two-nics-0-1", iommu=Iommu.SMMUV3, architecture=ARM64),
        Cell(kernel="6.12", topology="sriov-nvme", iommu=Iommu.AMD, steps=(EnableVirtualFunctions(4),), seconds=90),
        Cell(kernel="6.12", topology="virtio-net-behind-bridge", iommu=Iommu.AMD, seconds=90),
        Cell(kernel="6.12", topology="founding", iommu=Iommu.VIRTIO, order=LoadOrder.NO_IOMMU_DRIVER),
        Cell(kernel="6.12", topology="founding-vga", iommu=Iommu.VIRTIO, iommu_slot=3),
        # A guest without memory enough, to see that this ends as a result.
        Cell(kernel="6.12", topology="founding", iommu=Iommu.INTEL, memory=128, story="128-mib", seconds=60),
    )
}
NAMED: Mapping[str, Cell] = {**SMOKE, **FOUNDING, **HOT_PLUG, **OTHERS}
