# SPDX-License-Identifier: GPL-2.0-or-later
"""The cells of the big run: every two values of its dimensions meet in one, and the named cells come on top."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from tests.guest.cells import NAMED
from tests.guest.machine import Architecture, Cell, Firmware, Iommu, LoadOrder
from tests.guest.pairwise import pairwise
from tests.guest.steps import EnableVirtualFunctions, Step
from tests.guest.supplies import QEMUS
from tests.guest.topology import ROOT_BUS, TOPOLOGIES

MOST_BOOTS = 400
LIST = Path(__file__).parent / "matrix-cells.txt"
"""The names of the cells, committed so that a change of the plan shows."""


class Platform(NamedTuple):
    """What must fit together: an architecture, its firmware, and an IOMMU."""

    architecture: Architecture
    firmware: Firmware
    iommu: Iommu


PLATFORMS = (
    *(Platform(Architecture.AMD64, Firmware.ACPI, iommu) for iommu in Iommu if iommu is not Iommu.SMMUV3),
    *(Platform(Architecture.ARM64, firmware, iommu) for firmware in Firmware for iommu in (Iommu.SMMUV3, Iommu.VIRTIO)),
)
PARAMETERS = (
    "",
    "pci=config_acs=xxx0000@pci:1b36:000c",
    "pci=disable_acs_redir=pci:1b36:000c",
    "pcie_ports=compat",
    "iommu=off",
)
SERIES = ("5.10", "6.1", "6.12", "7.2", "7.3")
"""The kernels whose every pair with something else is planned for."""
BESIDE = ("6.18",)
"""Kernels that every topology is booted with, once."""
NAMED_ALONE = ("sriov-next-bus", "root-ports-below-switch", "multifunction-endpoints-with-acs")
"""Topologies that are for the cells with a name alone."""
DIMENSIONS: Mapping[str, tuple[Hashable, ...]] = {
    "platform": PLATFORMS,
    "topology": tuple(name for name in TOPOLOGIES if not name.startswith("empty-") and name not in NAMED_ALONE),
    "kernel": SERIES,
    "qemu": tuple(QEMUS),
    "order": (LoadOrder.IOMMU_FIRST, LoadOrder.IOMMU_LAST, LoadOrder.RACING),
    "parameters": PARAMETERS,
}
# A word on the command line makes a guest say less of everything else, so most guests get none.
PLAIN: Mapping[str, Hashable] = {"parameters": ""}
# Behind QEMU's amd-iommu the probe of nvme waits for a minute, and gets no answer.
HANGS_BEHIND_AMD = ("nvme", "virtio-")
VIRTUAL_FUNCTIONS = 4


def possible(values: Mapping[str, Hashable]) -> bool:
    """Whether a combination can be booted at all, and is no other one in disguise."""
    platform, topology = values["platform"], values["topology"]
    assert isinstance(platform, Platform)
    models = {device.model for device in TOPOLOGIES[str(topology)]}
    if platform.iommu is not Iommu.VIRTIO and values["order"] is not LoadOrder.IOMMU_FIRST:
        return False  # every other IOMMU's driver is built into Debian's kernels
    if platform.iommu is Iommu.AMD and any(model.startswith(HANGS_BEHIND_AMD) for model in models):
        return False
    if "igb" in models and values["qemu"] == "7.2":
        return False  # QEMU has igb from 8.0 on
    if platform.architecture is Architecture.ARM64:
        # iommu=off is a word of x86.
        return values["parameters"] != "iommu=off" and not uses_slot_0_of_a_bridge(str(topology))
    return True


def uses_slot_0_of_a_bridge(topology: str) -> bool:
    """Whether something sits in slot 0 of a PCIe-to-PCI bridge, which a PC allows and arm64's board does not.

    There the bridge's own hot-plug controller is in charge, and QEMU keeps slot 0 from it.
    """
    devices = TOPOLOGIES[topology]
    bridges = {device.name for device in devices if device.model == "pcie-pci-bridge"}
    return any(device.bus in bridges and not device.slot for device in devices)


def takes_slot_1(topology: str) -> bool:
    """Whether something sits where a virtio-iommu sits otherwise."""
    return any(device.bus == ROOT_BUS and device.slot == 1 for device in TOPOLOGIES[topology])


def cell_of(values: Mapping[str, Hashable]) -> Cell:
    """The cell of a combination."""
    platform, order = values["platform"], values["order"]
    assert isinstance(platform, Platform)
    assert isinstance(order, LoadOrder)
    topology, parameters = str(values["topology"]), str(values["parameters"])
    return Cell(
        kernel=str(values["kernel"]),
        topology=topology,
        iommu=platform.iommu,
        architecture=platform.architecture,
        firmware=platform.firmware,
        qemu=str(values["qemu"]),
        order=order,
        parameters=(parameters,) if parameters else (),
        iommu_slot=3 if platform.iommu is Iommu.VIRTIO and takes_slot_1(topology) else 1,
        steps=usual_steps(topology),
    )


def usual_steps(topology: str) -> tuple[Step, ...]:
    """What a topology is for, beyond being there."""
    return (EnableVirtualFunctions(VIRTUAL_FUNCTIONS),) if topology.startswith("sriov-") else ()


def _beside(kernel: str) -> Iterator[Mapping[str, Hashable]]:
    """Combinations of a kernel beside those of the big plan: every topology once, the platforms in turn."""
    used: Counter[Hashable] = Counter()
    plain = {"kernel": kernel, "qemu": "10", "order": LoadOrder.IOMMU_FIRST, "parameters": ""}
    for topology in DIMENSIONS["topology"]:
        fitting = [{**plain, "platform": platform, "topology": topology} for platform in PLATFORMS]
        best = min(filter(possible, fitting), key=lambda one: used[one["platform"]])
        used[best["platform"]] += 1
        yield best


def matrix() -> list[Cell]:
    """All cells of the big run, the named ones first; no name twice."""
    beside = (one for kernel in BESIDE for one in _beside(kernel))
    chosen = [cell_of(one) for one in (*pairwise(DIMENSIONS, possible, PLAIN), *beside)]
    return list({cell.name: cell for cell in [*NAMED.values(), *chosen]}.values())
