# SPDX-License-Identifier: GPL-2.0-or-later
"""The cells with a name: those of the smoke run, the founding thread's, and others that a plan by pairs would miss."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from tests.guest.machine import Architecture, Cell, Firmware, Iommu, LoadOrder
from tests.guest.plan import END
from tests.guest.steps import EnableVirtualFunctions, HotAdd, HotRemove, Look, Rebind, Rescan, Serve, Settle, Step
from tests.guest.steps import Remove as RemoveFunction
from tests.guest.topology import Device, endpoint, multifunction, pcie_to_pci_bridge

AMD64, ARM64 = Architecture
DT = Firmware.DEVICE_TREE


def _with_id(device: Device, name: str) -> Device:
    return replace(device, name=name)


NIC_BEHIND_BRIDGE = _with_id(endpoint("e1000", "br", 2), "nic")
PLUGGED_BRIDGE = pcie_to_pci_bridge("br", "rp")

# What each shows today, as the answer's status and kinds of findings, is in EXPECTED.
# One emulator and one kernel for each architecture: a machine that has fetched nothing yet has the least to fetch.
SMOKE: Mapping[str, Cell] = {
    "founding-virtio": Cell(kernel="6.12", topology="founding", iommu=Iommu.VIRTIO, steps=(Serve(END),)),
    "founding-intel": Cell(kernel="6.12", topology="founding", iommu=Iommu.INTEL),
    "founding-amd": Cell(kernel="6.12", topology="founding-acs", iommu=Iommu.AMD),
    "founding-smmuv3": Cell(kernel="6.1", topology="two-nics-1-2", iommu=Iommu.SMMUV3, architecture=ARM64, firmware=DT),
    "hot-add": Cell(
        kernel="6.12",
        topology="empty-bridge",
        iommu=Iommu.INTEL,
        steps=(Look("before"), HotAdd(NIC_BEHIND_BRIDGE), Settle(), Look("added"), HotRemove("nic"), Settle()),
        story="hot-add",
    ),
    "no-iommu": Cell(kernel="6.12", topology="founding-acs", iommu=Iommu.NONE),
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


def _hot_plug(
    story: str,
    topology: str,
    *devices: Device,
    iommu: Iommu,
    kernel: str = "6.12",
    architecture: Architecture = AMD64,
    firmware: Firmware = Firmware.ACPI,
    taken: tuple[str, ...] = (),
) -> Cell:
    """A guest into which devices are plugged one after the other, and taken out again, with a look after each."""
    steps: list[Step] = [step for one in devices for step in (HotAdd(one), Settle(), Look(f"with-{one.name}"))]
    steps += [step for name in taken for step in (HotRemove(name), Settle(), Look(f"without-{name}"))]
    return Cell(
        kernel=kernel,
        topology=topology,
        iommu=iommu,
        architecture=architecture,
        firmware=firmware,
        qemu="10",
        steps=tuple(steps),
        story=story,
        seconds=480,
    )


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
INTO_PORT = _with_id(endpoint("e1000e", "rp"), "nic")
HOT_PLUG_ELSEWHERE: Mapping[str, Cell] = {
    cell.name: cell
    for cell in (
        _hot_plug("into-port", "empty-port", INTO_PORT, iommu=Iommu.AMD),
        _hot_plug("into-port", "empty-port", INTO_PORT, iommu=Iommu.SMMUV3, architecture=ARM64),
        _hot_plug("into-port", "empty-port", INTO_PORT, iommu=Iommu.SMMUV3, architecture=ARM64, kernel="7.3"),
        _hot_plug("into-port", "empty-port", INTO_PORT, iommu=Iommu.VIRTIO, architecture=ARM64, firmware=DT),
        _hot_plug("behind-bridge", "empty-bridge", NIC_BEHIND_BRIDGE, iommu=Iommu.SMMUV3, architecture=ARM64),
        *(
            _hot_plug(*hot_plug, iommu=Iommu.INTEL, taken=taken)
            for hot_plug, taken in (
                (("into-root-bus", "no-port", _with_id(endpoint("e1000e", slot=9), "nic")), ()),
                (("into-pxb", "empty-pxb", _with_id(endpoint("e1000e", "p1"), "nic")), ("nic",)),
                (("behind-second-bridge", "empty-nested", _with_id(endpoint("e1000", "b2", 4), "nic")), ("nic",)),
                (
                    (
                        "two-functions",
                        "empty-port",
                        # QEMU shows the guest both when function 0 comes.
                        _with_id(endpoint("e1000e", "rp", 0, 1), "second"),
                        multifunction(_with_id(endpoint("e1000e", "rp", 0), "first")),
                    ),
                    (),
                ),
                (
                    (
                        "switch",
                        "empty-port",
                        Device(model="x3130-upstream", name="up", bus="rp"),
                        Device(model="xio3130-downstream", name="dp", bus="up", slot=0, options={"chassis": 9}),
                    ),
                    (),
                ),
                (("bridge-and-back", "empty-port", PLUGGED_BRIDGE, NIC_BEHIND_BRIDGE), ("nic", "br")),
            )
        ),
    )
}
# Releases between the series of the big plan, for what came or went with one of them.
BETWEEN: Mapping[str, Cell] = {
    cell.name: cell
    for cell in (
        *(
            Cell(kernel=kernel, topology=topology, iommu=Iommu.VIRTIO)
            for kernel in ("6.16.3", "6.16", "6.18")
            for topology in ("founding", "founding-acs", "two-nics-1-2")
        ),
        Cell(kernel="6.16.3", topology="founding-slot-1", iommu=Iommu.VIRTIO, architecture=ARM64, firmware=DT),
        # Since when a device tree has ACS switched on before groups are made.
        *(
            Cell(kernel=kernel, topology="multifunction-ports", iommu=Iommu.SMMUV3, architecture=ARM64, firmware=DT)
            for kernel in ("6.1", "6.12")
        ),
        *(
            Cell(kernel=kernel, topology=topology, iommu=Iommu.SMMUV3, architecture=ARM64, firmware=firmware)
            for kernel in ("6.16", "6.18", "7.2")
            for topology, firmware in (("multifunction-ports", DT), ("two-nics-1-2", DT), ("founding-slot-1", DT))
        ),
    )
}
OTHERS: Mapping[str, Cell] = {
    cell.name: cell
    for cell in (
        # QEMU 7.2 has no igb; its own words say so.
        Cell(kernel="6.12", topology="sriov-igb", iommu=Iommu.INTEL, steps=(EnableVirtualFunctions(4),)),
        Cell(kernel="6.12", topology="two-nics-0-1", iommu=Iommu.SMMUV3, architecture=ARM64),
        Cell(kernel="6.12", topology="sriov-nvme", iommu=Iommu.AMD, steps=(EnableVirtualFunctions(4),)),
        Cell(kernel="6.12", topology="virtio-net-behind-bridge", iommu=Iommu.AMD),
        Cell(kernel="6.12", topology="founding", iommu=Iommu.VIRTIO, order=LoadOrder.NO_IOMMU_DRIVER),
        Cell(kernel="6.12", topology="founding-vga", iommu=Iommu.VIRTIO, iommu_slot=3),
        Cell(kernel="7.2", topology="many-functions", iommu=Iommu.INTEL, qemu="10"),
        # What the pairs of values leave to chance: the drivers of a newer kernel at once with that of its IOMMU.
        *(
            Cell(kernel=kernel, topology=topology, iommu=Iommu.VIRTIO, qemu="10", order=LoadOrder.RACING)
            for kernel, topology in (("6.12", "founding-acs"), ("7.2", "founding"), ("7.3", "pxb"))
        ),
        *(
            Cell(kernel=kernel, topology="multifunction-endpoints-with-acs", iommu=iommu, qemu="10")
            for kernel, iommu in (("5.10", Iommu.INTEL), ("6.12", Iommu.VIRTIO), ("7.3", Iommu.INTEL))
        ),
        *(
            Cell(kernel=kernel, topology="root-ports-below-switch", iommu=iommu, qemu="10")
            for kernel, iommu in (("6.1", Iommu.INTEL), ("6.12", Iommu.VIRTIO), ("7.3", Iommu.VIRTIO))
        ),
        Cell(
            kernel="6.12",
            topology="sriov-next-bus",
            iommu=Iommu.INTEL,
            qemu="11",
            steps=(EnableVirtualFunctions(4),),
        ),
        *(
            Cell(
                kernel=kernel,
                topology="founding-acs",
                iommu=Iommu.INTEL,
                steps=(RemoveFunction("0000:01:00.0"), Settle(), Look("removed"), Rescan()),
                story="remove-and-rescan",
            )
            for kernel in ("5.10", "7.3")
        ),
        Cell(
            kernel="6.12",
            topology="founding-acs",
            iommu=Iommu.VIRTIO,
            steps=(Rebind("0000:02:00.0"),),
            story="rebind",
        ),
        # A guest without memory enough, to see that this ends as a result.
        Cell(kernel="6.12", topology="founding", iommu=Iommu.INTEL, memory=128, story="128-mib"),
    )
}
NAMED: Mapping[str, Cell] = {**SMOKE, **FOUNDING, **HOT_PLUG, **HOT_PLUG_ELSEWHERE, **OTHERS, **BETWEEN}
