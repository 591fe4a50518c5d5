# SPDX-License-Identifier: GPL-2.0-or-later
"""Functions that the IOMMU's driver refused: SMMUv3 streams, endpoints that QEMU does not know, uncovered aliases."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from iommud.address import Address
from iommud.causes.cause import CauseId
from iommud.causes.facts import Facts
from iommud.causes.hypothesis import Hypothesis, Telling, has_defect, listed
from iommud.causes.search import Proof
from iommud.causes.streams import shared_stream
from iommud.causes.world import World
from iommud.snapshot import PciFunction
from iommud.verdict.findings import Finding, Kind
from iommud.verdict.survey import Driver

_STREAM_LINES = ("already in tree", "Aliasing StreamID")
_QEMU_BRIDGE = (0x1B36, 0x000E)


def propose(facts: Facts, finding: Finding) -> Iterator[Hypothesis]:
    """Every way in which a driver can have refused functions of this machine."""
    if finding.kind in (Kind.MERGED, Kind.UNISOLATED):
        return
    drivers = facts.platform.drivers
    if Driver.SMMUV3 in drivers and facts.kernel.at_least(5, 13):
        yield from _streams(facts)
    if Driver.VIRTIO in drivers:
        yield from _endpoint_unknown(facts)
        yield from _pass_abandoned(facts, finding)
        yield from _instance_lookup(facts, finding)
    yield from _coverage(facts)


def _streams(facts: Facts) -> Iterator[Hypothesis]:
    if has_defect(facts, "smmuv3-duplicate-stream") is not False:
        twice = World(stream_twice=True)
        yield Hypothesis(CauseId.SMMUV3_DUPLICATE_STREAM, twice, lambda proof: _tell_twice(facts, proof))
    yield Hypothesis(CauseId.SMMUV3_STREAM_CONFLICT, World(stream_taken=True), lambda proof: _tell_taken(facts, proof))


def _stream_lines(facts: Facts, addresses: tuple[Address, ...]) -> tuple[str, ...]:
    """What the log says of streams of these functions, each line once."""
    names = [str(one) for one in addresses]
    lines = (line for line in facts.log if any(text in line for text in _STREAM_LINES))
    found = (line for line in lines if any(line.partition(": ")[0].endswith(name) for name in names))
    return tuple(f"kernel log: {line}" for line in dict.fromkeys(found))


def _tell_twice(facts: Facts, proof: Proof) -> Telling:
    refused = listed(proof.without)
    masked = [one for one in proof.without if one.devfn in facts.model.aliases.mask(facts.function(one))]
    again = "among the aliases of the device itself" if masked else "from the bridge"
    told = (
        f"the kernel gives {listed(masked)} a list of aliases with its own ID in it"
        if masked
        else "the function is device 0, function 0 below a bridge that passes on its ID"
    )
    return Telling(
        f"the SMMUv3 driver refused {refused}, which has one stream twice: its own, and the same again {again}",
        _stream_lines(facts, proof.without) or (told,),
        "run Linux 6.15, 6.12.28, 6.6.90, 6.1.138 or later; or move the device from device number 0",
        "smmuv3-duplicate-stream",
    )


def _tell_taken(facts: Facts, proof: Proof) -> Telling:
    shared = [shared_stream(facts, facts.function(one), dict.fromkeys(proof.order, 0)) for one in proof.without]
    found = next((one for one in shared if one is not None), None)
    stream = "a stream of it belongs to another function"
    if found is not None:
        stream = f"stream 0x{found[0]:x}, under which its requests arrive too, belongs to {found[1]}"
    return Telling(
        f"the SMMUv3 driver refused {listed(proof.without)}: {stream}",
        _stream_lines(facts, proof.without) or ("the order in which they were probed gives exactly these groups",),
        "put each function on a PCIe port of its own; every kernel up to 7.3 refuses the second one",
        "smmuv3-shared-stream",
    )


def _unknown_endpoints(facts: Facts) -> frozenset[Address]:
    """Functions that QEMU knows by the ID of the bridge above, which is not their own.

    ``pci_device_iommu_address_space()``, hw/pci/pci.c, gives the alias to the device model.
    """
    return frozenset(
        one.address
        for one in facts.snapshot.functions
        if one.address.device and _behind_conventional(facts, one) and facts.should_join(one.address)
    )


def _behind_conventional(facts: Facts, function: PciFunction) -> bool:
    return bool(facts.model.aliases.alias_bridges(facts.topology.chain(function), unread=False))


def _endpoint_unknown(facts: Facts) -> Iterator[Hypothesis]:
    refused = facts.once(_unknown_endpoints)
    if refused:
        world = World(refused=refused)
        yield Hypothesis(CauseId.VIRTIO_ENDPOINT_UNKNOWN, world, lambda proof: _tell_unknown(facts, refused, proof))


def _tell_unknown(facts: Facts, refused: frozenset[Address], proof: Proof) -> Telling:
    about = refused & set(proof.without) or refused
    chains = [facts.topology.chain(facts.function(one)) for one in sorted(about)]
    bridges = {bridge.address for chain in chains for bridge in facts.model.aliases.alias_bridges(chain, unread=False)}
    evidence = [f"behind {listed(bridges)}, with a device number other than 0"]
    if any((facts.function(one).vendor, facts.function(one).device) == _QEMU_BRIDGE for one in bridges):
        evidence.append("the bridge is QEMU's own (1b36:000e)")
    ids = ", ".join(f"0x{one.requester_id:04x}" for one in sorted(about)[:4])
    return Telling(
        f"the hypervisor's virtio-iommu does not know the endpoint ID {ids} of {listed(about)}, "
        "only that of the bridge above, so asking for its properties fails",
        tuple(evidence),
        "give the device a PCIe port of its own, or device number 0 behind the bridge",
        "virtio-iommu-aliased-endpoint",
    )


def _pass_abandoned(facts: Facts, finding: Finding) -> Iterator[Hypothesis]:
    if finding.kind is Kind.NO_GROUPS and facts.kernel.at_least(6, 15):
        yield Hypothesis(CauseId.PASS_ABANDONED, World(abandons=True), lambda _proof: _tell_abandoned(facts))


def _tell_abandoned(facts: Facts) -> Telling:
    evidence = [
        f"/sys/class/iommu lists {', '.join(sorted(facts.snapshot.iommus or ()))}, which registered and gave up"
    ]
    if facts.logged_then:
        last = facts.logged_then[-1][0]
        evidence.append(f"the kernel log shows {len(facts.logged_then)} functions being grouped, up to {last}")
    return Telling(
        "one function that could not be probed made the kernel abandon the whole pass, and take all groups back",
        tuple(evidence),
        "remove the function that fails, which another cause names; then all the others get their groups",
        "probe-pass-abandoned",
    )


def _instance_lookup(facts: Facts, finding: Finding) -> Iterator[Hypothesis]:
    affected = has_defect(facts, "virtio-iommu-instance-lookup")
    if affected is False or not facts.kernel.readable:
        return
    left = _not_found(facts, finding)
    if left:
        tell = partial(_tell_lookup, facts, certain=affected is True, some=finding.kind is Kind.UNGROUPED)
        yield Hypothesis(CauseId.VIRTIO_INSTANCE_LOOKUP, World(unprobed=left), tell)


def _not_found(facts: Facts, finding: Finding) -> frozenset[Address]:
    """Whom the lookup fails: everybody; with a device tree those alone that no driver was bound to since.

    ``of_iommu_configure()`` asks for the IOMMU once more when a driver is bound, and then the instance is recorded.
    """
    if finding.kind is Kind.NO_GROUPS:
        return frozenset(one.address for one in facts.snapshot.functions)
    if finding.kind is not Kind.UNGROUPED or facts.platform.firmware.host_bridges is None:
        return frozenset()
    idle = (one.address for one in facts.snapshot.functions if one.driver is None and one.address not in facts.numbers)
    return frozenset(one for one in idle if facts.should_join(one))


def _tell_lookup(facts: Facts, proof: Proof, *, certain: bool, some: bool) -> Telling:
    doubt = () if certain else (f"{facts.kernel.text} does not tell its stable release: 6.16.4 has the fix",)
    whom = (
        f"so {listed(proof.without)}, to which no driver was bound since, has none" if some else "so none gets a group"
    )
    return Telling(
        f"this kernel does not find its virtio-iommu when functions ask for it, {whom}",
        (f"kernel {facts.kernel}", *doubt),
        "run Linux 6.17, or 6.16.4",
        "virtio-iommu-instance-lookup",
    )


def _coverage(facts: Facts) -> Iterator[Hypothesis]:
    gaps = facts.once(_uncovered)
    refused = frozenset(gaps)
    if refused:
        world = World(refused=refused)
        yield Hypothesis(CauseId.FIRMWARE_COVERAGE, world, lambda proof: _tell_coverage(facts, gaps, proof))


def _uncovered(facts: Facts) -> dict[Address, Address]:
    """Functions that firmware maps, each with an ID of its alias walk that firmware does not map.

    Each of these IDs is translated, and the first that fails ends the walk with an error. From 6.15 on ACPI keeps what
    was translated before, and the function is grouped all the same.
    """
    platform = facts.platform
    kept = facts.kernel.at_least(6, 15) and platform.firmware.host_bridges is None
    if platform.by_firmware is not True or kept or not platform.firmware.maps_ids:
        return {}
    functions = (one for one in facts.snapshot.functions if facts.should_join(one.address))
    return {one.address: gap for one in functions if (gap := _uncovered_alias(facts, one)) is not None}


def _uncovered_alias(facts: Facts, function: PciFunction) -> Address | None:
    """A requester ID that bridges give the function and firmware maps nowhere, although it maps its own one."""
    aliases = facts.model.aliases.of(function)
    own = aliases[0].requester_id
    others = [one.requester_id for one in aliases if one.requester_id != own]
    if not others or not covered(facts, function, own):
        return None
    return next((one for one in others if not covered(facts, function, one)), None)


def covered(facts: Facts, function: PciFunction, requester: Address) -> bool:
    """Whether firmware leads a requester ID of a function to an IOMMU."""
    firmware = facts.platform.firmware
    if firmware.viot is not None and Driver.VIRTIO in facts.platform.drivers:
        return firmware.viot.range_of(requester.domain, requester.requester_id) is not None
    if firmware.iort is not None:
        node = firmware.iort.root_complex(requester.domain)
        return node is not None and node.smmu_stream(requester.requester_id) is not None
    bridge = facts.host_bridge(function)
    return bridge is None or bridge.translate(requester.requester_id) is not None


def _tell_coverage(facts: Facts, gaps: dict[Address, Address], proof: Proof) -> Telling:
    found = [one for one in proof.without if one in gaps] or sorted(gaps)
    source = facts.platform.firmware.id_mapping or "firmware"
    return Telling(
        f"the {source} maps {listed(found)}, but not requester ID {gaps[found[0]]}, under which it sends too",
        tuple(f"{one} also sends as {gaps[one]}, which no range holds" for one in found[:4]),
        "have the firmware or the hypervisor map the whole secondary bus of the bridge; "
        "until then put the device on a PCIe port",
    )
