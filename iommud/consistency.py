# SPDX-License-Identifier: GPL-2.0-or-later
"""Where sysfs contradicts itself: links against directories, bus numbers against places."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from iommud.address import Address
from iommud.snapshot import Complaint, Contradiction, IommuGroup, PciFunction


def contradictions(
    functions: Iterable[PciFunction], groups: Mapping[int, IommuGroup], *, groups_listed: bool
) -> tuple[Contradiction, ...]:
    """Every contradiction among the facts of one snapshot, in the order of the functions concerned."""
    by_address = {function.address: function for function in functions}
    found = [
        *(_about_groups(by_address, groups) if groups_listed else ()),
        *_about_places(by_address),
        *_about_bridges(by_address.values()),
    ]
    return tuple(sorted(found, key=lambda one: (one.devices, one.complaint)))


def _about_groups(
    functions: Mapping[Address, PciFunction], groups: Mapping[int, IommuGroup]
) -> Iterator[Contradiction]:
    listed: dict[Address, list[int]] = {}
    for group in groups.values():
        for member in group.members:
            listed.setdefault(member, []).append(group.number)
    links_shown = any(function.group is not None for function in functions.values())
    for address, numbers in listed.items():
        yield from _about_membership(address, numbers, functions.get(address), links_shown)
    for function in functions.values():
        if function.group is not None and function.group not in listed.get(function.address, ()):
            detail = f"its link names group {function.group}, whose directory does not list it"
            yield Contradiction(Complaint.LINK_WITHOUT_MEMBERSHIP, (function.address,), detail)


def _about_membership(
    address: Address, numbers: list[int], function: PciFunction | None, links_shown: bool
) -> Iterator[Contradiction]:
    if len(numbers) > 1:
        listed = " and ".join(str(number) for number in sorted(numbers))
        yield Contradiction(Complaint.IN_TWO_GROUPS, (address,), f"groups {listed} both list it")
    if function is None:
        detail = f"group {numbers[0]} lists it, the PCI bus does not"
        yield Contradiction(Complaint.MEMBER_NOT_LISTED, (address,), detail)
    elif function.group is None and links_shown:
        # A capture without any iommu_group link simply lacks them; one link missing among others contradicts.
        detail = f"group {numbers[0]} lists it, but it has no iommu_group link"
        yield Contradiction(Complaint.MEMBERSHIP_WITHOUT_LINK, (address,), detail)


def _about_places(functions: Mapping[Address, PciFunction]) -> Iterator[Contradiction]:
    below: dict[Address, list[PciFunction]] = {}
    for function in functions.values():
        if function.physfn is not None and function.physfn not in functions:
            detail = f"its physical function {function.physfn} is not on the PCI bus"
            yield Contradiction(Complaint.PHYSFN_NOT_LISTED, (function.address,), detail)
        if function.upstream is not None:
            below.setdefault(function.upstream, []).append(function)
        elif function.root is not None and not function.is_virtual:
            yield from _about_root(function, function.root)
    for upstream, children in below.items():
        yield from _about_children(upstream, functions.get(upstream), children)


def _about_children(
    upstream: Address, bridge: PciFunction | None, children: list[PciFunction]
) -> Iterator[Contradiction]:
    if bridge is None:
        detail = f"they lie below {upstream}, which is not on the PCI bus"
        yield Contradiction(Complaint.UPSTREAM_NOT_LISTED, tuple(one.address for one in children), detail)
        return
    if bridge.secondary_bus is None:
        return
    expected = (bridge.address.domain, bridge.secondary_bus)
    astray = [one.address for one in children if not one.is_virtual and one.address[:2] != expected]
    if astray:
        listed = ", ".join(str(address) for address in astray)
        detail = f"below {bridge.address} with secondary bus {bridge.secondary_bus:02x} lies {listed}"
        yield Contradiction(Complaint.BUS_NUMBER_DISAGREES, (bridge.address, *astray), detail)


def _about_root(function: PciFunction, root: tuple[int, int]) -> Iterator[Contradiction]:
    if function.address[:2] != root:
        detail = f"it lies on root bus {root[0]:04x}:{root[1]:02x}"
        yield Contradiction(Complaint.BUS_NUMBER_DISAGREES, (function.address,), detail)


def _about_bridges(functions: Iterable[PciFunction]) -> Iterator[Contradiction]:
    claimed: dict[tuple[int, int], Address] = {}
    for function in functions:
        secondary, subordinate = function.secondary_bus, function.subordinate_bus
        if not secondary:
            # Bus 0 stands for a bridge that firmware and kernel left without a bus.
            continue
        if subordinate is not None and subordinate < secondary:
            detail = f"its subordinate bus {subordinate:02x} is below its secondary bus {secondary:02x}"
            yield Contradiction(Complaint.BUS_RANGE_REVERSED, (function.address,), detail)
        other = claimed.setdefault((function.address.domain, secondary), function.address)
        if other != function.address:
            detail = f"both claim secondary bus {secondary:02x}"
            yield Contradiction(Complaint.BUS_CLAIMED_TWICE, (other, function.address), detail)
