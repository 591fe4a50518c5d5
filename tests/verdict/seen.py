# SPDX-License-Identifier: GPL-2.0-or-later
"""What a kernel is seen to have done with a built machine: its groups, its IOMMUs, its firmware."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from iommud.address import Address
from iommud.snapshot import IommuGroup, Snapshot
from tests.machines import Machine


def seen(machine: Machine, groups: str = "", *, iommu: str | None = "dmar0", **facts: Any) -> Snapshot:
    """A snapshot in which the kernel made these groups, written ``00:02.0 | 01:00.0 02:01.0`` and numbered from 0."""
    members = [
        tuple(sorted(Address.parse(word) for word in part.split())) for part in groups.split("|") if part.strip()
    ]
    numbers = {address: number for number, group in enumerate(members) for address in group}
    snapshot = machine.snapshot()
    rooted = (
        replace(one, root=one.root or (one.address.domain, 0), group=numbers.get(one.address))
        for one in snapshot.functions
    )
    found = replace(
        snapshot,
        functions=tuple(sorted(rooted, key=lambda one: one.address)),
        groups={number: IommuGroup(number=number, members=group) for number, group in enumerate(members)},
        groups_listed=True,
        iommus={} if iommu is None else {iommu: ()},
        kernel_release=machine.kernel,
    )
    return replace(found, **facts)


def thread(port_acs: Any = None, **facts: Any) -> Machine:
    """The founding topology: root port, PCIe-to-PCI bridge, conventional NIC."""
    machine = Machine(**facts)
    machine.root_port("00:02.0", to=1, acs=port_acs, driver="pcieport", class_code=0x060400)
    machine.pcie_to_pci("01:00.0", to=2, class_code=0x060400)
    machine.conventional("02:00.0", driver="e1000", class_code=0x020000)
    return machine
