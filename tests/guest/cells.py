# SPDX-License-Identifier: GPL-2.0-or-later
"""The cells with a name: those of the smoke run, the founding thread's, and others that a plan by pairs would miss."""

from __future__ import annotations

from collections.abc import Mapping

from tests.guest.machine import Architecture, Cell, Firmware, Iommu
from tests.guest.steps import HotAdd, HotRemove, Look, Settle
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
