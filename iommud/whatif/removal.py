# SPDX-License-Identifier: GPL-2.0-or-later
"""Take functions out of a machine, with what cannot be there without them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace

from iommud.address import Address
from iommud.snapshot import IommuGroup, PciFunction, Snapshot
from iommud.verdict.survey import is_iommu_itself
from iommud.whatif.changes import ImpossibleChangeError
from iommud.whatif.imagined import Imagined


def taken_out(machine: Imagined, address: Address) -> Imagined:
    """The machine without a function, and without what lies below it, belongs to it or is not found without it.

    Without function 0 the kernel looks for no other function of a slot (``pci_scan_slot()``). Raises
    ImpossibleChangeError if the function is not there or is the IOMMU itself.
    """
    functions = machine.snapshot.functions
    found = machine.function(address)
    first = {address}
    if not found.is_virtual and address.function == 0:
        first |= {one.address for one in in_slot(functions, found)}
    gone = with_dependants(functions, first)
    for one in functions:
        if one.address in gone and is_iommu_itself(one, machine.snapshot.iommus):
            raise ImpossibleChangeError(f"{one.address} is the IOMMU itself, without which there are no groups")
    kept = tuple(one for one in functions if one.address not in gone)
    snapshot = replace(machine.snapshot, functions=kept, groups=_remaining(machine.snapshot, gone))
    left = replace(
        machine,
        snapshot=snapshot,
        seated=machine.seated - gone,
        unprobed=machine.unprobed - gone,
        origins={new: old for new, old in machine.origins.items() if new not in gone},
    )
    return left.noted(*_goes_along(address, gone))


def in_slot(functions: Iterable[PciFunction], function: PciFunction) -> tuple[PciFunction, ...]:
    """The functions that make up one device with this one: those of its slot, with ARI those of its bus."""
    place = function.address[:2] if function.ari_enabled else function.address[:3]
    return tuple(one for one in functions if one.address[: len(place)] == place and not one.is_virtual and one.present)


def with_dependants(functions: Iterable[PciFunction], first: Collection[Address]) -> frozenset[Address]:
    """These functions, all below them, their virtual functions, and the domains inside them."""
    children: dict[Address, list[Address]] = {}
    for one in functions:
        for parent in (one.upstream, one.physfn, one.host_parent if one.upstream is None else None):
            if parent is not None:
                children.setdefault(parent, []).append(one.address)
    found: set[Address] = set()
    waiting = list(first)
    while waiting:
        one_address = waiting.pop()
        if one_address not in found:
            found.add(one_address)
            waiting += children.get(one_address, ())
    return frozenset(found)


def _remaining(snapshot: Snapshot, gone: Collection[Address]) -> Mapping[int, IommuGroup]:
    return {
        number: replace(group, members=tuple(one for one in group.members if one not in gone))
        for number, group in snapshot.groups.items()
    }


def _goes_along(address: Address, gone: frozenset[Address]) -> Iterable[str]:
    others = [str(one) for one in sorted(gone - {address})]
    if others:
        yield f"with {address} go {', '.join(others)}"
