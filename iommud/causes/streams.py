# SPDX-License-Identifier: GPL-2.0-or-later
"""SMMUv3 streams: which a function sends under, and whom the driver refuses because of them.

``arm_smmu_insert_master()``, drivers/iommu/arm/arm-smmu-v3/arm-smmu-v3.c: a stream belongs to the first function
that claims it. There is a stream for every requester ID of the alias walk.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from iommud.address import Address
from iommud.causes.facts import Facts, StreamId
from iommud.causes.world import World
from iommud.firmware import Iort
from iommud.snapshot import PciFunction


@dataclass(frozen=True, slots=True)
class Streams:
    """The streams of one machine, and who has claimed them so far."""

    facts: Facts
    world: World
    owners: dict[StreamId, Address] = field(default_factory=dict)

    def refuses(self, function: PciFunction) -> bool:
        """Whether the driver would refuse this function now."""
        if not (self.world.stream_taken or self.world.stream_twice):
            return False
        streams = streams_of(self.facts, function)
        if self.world.stream_twice and max(Counter(streams).values()) > 1:
            return True
        return self.world.stream_taken and any(one in self.owners for one in streams)

    def claim(self, function: PciFunction) -> None:
        """Give a function its streams."""
        if self.world.stream_taken:
            for one in streams_of(self.facts, function):
                self.owners.setdefault(one, function.address)

    def release(self, function: PciFunction) -> None:
        """Take a function's streams away again."""
        for one in streams_of(self.facts, function) if self.world.stream_taken else ():
            if self.owners.get(one) == function.address:
                del self.owners[one]


def streams_of(facts: Facts, function: PciFunction) -> tuple[StreamId, ...]:
    """The streams of a function, one for each step of the walk; the ID itself where firmware's map is not at hand."""
    return tuple(_stream(facts, function, alias.requester_id) for alias in facts.model.aliases.walked(function))


def _stream(facts: Facts, function: PciFunction, requester: Address) -> StreamId:
    firmware = facts.platform.firmware
    if firmware.iort is not None:
        return _by_iort(firmware.iort, requester)
    bridge = facts.host_bridge(function)
    found = bridge.translate(requester.requester_id) if bridge is not None else None
    if found is None:
        return (requester.domain, requester.requester_id)
    return (found.entry.phandle, found.iommu_id)


def _by_iort(iort: Iort, requester: Address) -> StreamId:
    node = iort.root_complex(requester.domain)
    found = node.smmu_stream(requester.requester_id) if node is not None else None
    if found is None:
        return (requester.domain, requester.requester_id)
    return (f"IORT {found.smmu_offset}", found.stream_id)


def shared_stream(facts: Facts, function: PciFunction, others: Mapping[Address, int]) -> tuple[int, Address] | None:
    """A stream of this function that another one with a group has too, and that one; None without one."""
    mine = dict.fromkeys(streams_of(facts, function))
    for address in sorted(others):
        if address != function.address:
            common = [one for one in streams_of(facts, facts.function(address)) if one in mine]
            if common:
                return common[0][1], address
    return None
