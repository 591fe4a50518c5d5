# SPDX-License-Identifier: GPL-2.0-or-later
"""The kernel's own groups, as sysfs shows them: numbers are names, only membership counts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from iommud.address import Address
from iommud.model.groups import Group, canonical
from iommud.snapshot import Snapshot


@dataclass(frozen=True, slots=True)
class ActualGroups:
    """The groups of PCI functions that the kernel made; VFIO no-IOMMU groups are none."""

    number_of: Mapping[Address, int]
    members: Mapping[int, Group]

    @classmethod
    def of(cls, snapshot: Snapshot) -> ActualGroups:
        """Read the groups of a snapshot; the function's own link counts before the directory that lists it."""
        artificial = {group.number for group in snapshot.groups.values() if group.is_artificial}
        listed = {member: group.number for group in snapshot.groups.values() for member in group.members}
        numbers: dict[Address, int] = {}
        for function in snapshot.functions:
            number = listed.get(function.address) if function.group is None else function.group
            if number is not None and number not in artificial:
                numbers[function.address] = number
        members: dict[int, list[Address]] = {}
        for address, number in numbers.items():
            members.setdefault(number, []).append(address)
        return cls(numbers, {number: frozenset(found) for number, found in members.items()})

    @property
    def groups(self) -> tuple[Group, ...]:
        """The groups in canonical order."""
        return canonical(self.members.values())

    def of_members(self, addresses: Group | tuple[Address, ...]) -> tuple[Group, ...]:
        """The groups in which any of these functions is, in canonical order."""
        numbers = {self.number_of[one] for one in addresses if one in self.number_of}
        return canonical(self.members[number] for number in numbers)
