# SPDX-License-Identifier: GPL-2.0-or-later
"""From a cell to what its guest does: which modules it carries, and in which order they are loaded."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from tests.guest.machine import TRANSPORT, Cell, LoadOrder, device_drivers, iommu_drivers
from tests.guest.modules import load_order
from tests.guest.steps import Load, Look, Settle, Step, added

Depends = Callable[[str], Iterable[str] | None]
END = "end"
"""The label of the look at the end, which every guest takes."""


def modules_of(cell: Cell) -> tuple[str, ...]:
    """The modules that the guest may load, what they need left out."""
    return (*TRANSPORT, *iommu_drivers(cell), *device_drivers(cell, added(cell.steps)))


def steps_of(cell: Cell, depends_on: Depends) -> tuple[Step, ...]:
    """All that happens in the guest, from the loading of drivers to the last look."""
    return (*loading(cell, depends_on), Settle(), *cell.steps, Settle(), Look(END))


def loading(cell: Cell, depends_on: Depends) -> tuple[Step, ...]:
    """The modules in the order of the cell. ``depends_on`` gives None for a module that the kernel lacks."""
    iommu, drivers = iommu_drivers(cell), device_drivers(cell, added(cell.steps))
    transport = load_order(TRANSPORT, depends_on)

    def order(*wanted: str) -> tuple[str, ...]:
        return tuple(name for name in load_order(wanted, depends_on) if name not in transport)

    match cell.order:
        case LoadOrder.IOMMU_FIRST:
            return (Load((*transport, *order(*iommu, *drivers))),)
        case LoadOrder.IOMMU_LAST:
            return (Load((*transport, *order(*drivers, *iommu))),)
        case LoadOrder.NO_IOMMU_DRIVER:
            return (Load((*transport, *order(*drivers))),)
        case LoadOrder.RACING:
            racing = tuple(name for name in (*drivers, *iommu) if depends_on(name) is not None)
            needed = tuple(name for name in order(*drivers, *iommu) if name not in racing)
            return (Load((*transport, *needed)), Load(racing, together=True))
