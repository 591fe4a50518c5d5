# SPDX-License-Identifier: GPL-2.0-or-later
"""What order has to do with it: the kernel's own list, drivers that come early, and since 6.15 a race between two."""

from __future__ import annotations

from collections.abc import Iterator

from iommud.address import Address
from iommud.causes.cause import CauseId
from iommud.causes.facts import Facts
from iommud.causes.hypothesis import Hypothesis, Telling, listed, order_text
from iommud.causes.search import Proof
from iommud.causes.world import AcsThen, World
from iommud.snapshot import PciFunction
from iommud.verdict.findings import Finding, Kind

_SHOWN = 4


def propose(facts: Facts, finding: Finding) -> Iterator[Hypothesis]:
    """An order of its own, where the platform lets order matter."""
    if facts.order_matters and finding.kind is not Kind.UNISOLATED:
        yield Hypothesis(CauseId.PROBE_ORDER, World(any_order=True), lambda proof: _tell(facts, proof))
    further = facts.once(_further) if finding.kind in (Kind.ISOLATION_SPLIT, Kind.ALIAS_SPLIT) else frozenset()
    if further:
        world = World(acs=AcsThen(alone=further))
        yield Hypothesis(CauseId.LATE_MULTIFUNCTION, world, lambda proof: _tell_late_function(facts, proof, further))
    if finding.kind is Kind.UNGROUPED and facts.once(_passed_by):
        world = World(unprobed=facts.once(_passed_by))
        yield Hypothesis(CauseId.PROBE_RACE, world, lambda proof: _tell_race(facts, proof))


def never_joined(facts: Facts) -> Hypothesis:
    """What is left where the plain world gives the observed groups: the kernel's own list does not lead to the closure.

    ``pci_device_group()`` puts a function into the first group that it finds, and joins no two that exist.
    """
    return Hypothesis(CauseId.NEVER_JOINED, World(), lambda proof: _tell_never_joined(facts, proof))


def _tell_never_joined(facts: Facts, proof: Proof) -> Telling:
    evidence = [f"probed in the kernel's own order they get these groups: {order_text(facts, proof)}"]
    evidence += [*_late_aliases(facts, proof), *_silent_firsts(facts, proof)]
    return Telling(
        "in the order of the kernel's own list groups were begun that belong together, and the kernel never joins two",
        tuple(evidence),
        "take these groups for one: give all of their functions to the same user; no kernel up to 7.3 does otherwise",
        "groups-never-joined",
    )


def _late_aliases(facts: Facts, proof: Proof) -> list[str]:
    """Functions with an alias of the IVRS table, of which the kernel learns when it meets them."""
    firmware = facts.model.aliases.firmware
    return [
        f"the IVRS table has {one} send as {listed(map(one.with_devfn, sorted(firmware[one])))} too, "
        "of which the kernel learns when it meets that function"
        for one in proof.order
        if firmware.get(one)
    ][:_SHOWN]


def _silent_firsts(facts: Facts, proof: Proof) -> list[str]:
    """Functions 0 that do not say of their slot that it has more."""
    firsts = sorted({Address(one.domain, one.bus, one.device, 0) for one in proof.order if one.function})
    there = [one for one in firsts if one in facts.topology.functions]
    return [
        f"{one} does not say that its slot has more functions (Header Type, bit 7), so nobody is looked for beside it"
        for one in there
        if not facts.model.acs.multifunction(facts.function(one))
    ][:_SHOWN]


def _tell(facts: Facts, proof: Proof) -> Telling:
    evidence = [f"probed in this order they get these groups: {order_text(facts, proof)}"]
    if all(one in facts.logged for one in proof.order):
        evidence.append("the kernel log shows this order")
    elif any(one in facts.logged for one in proof.order):
        evidence.append("the order fits the kernel log and the group numbers")
    else:
        evidence.append("the order fits the group numbers; the kernel log does not tell it")
    early = _early(facts, proof)
    what = (
        f"{early[0]} was grouped before {early[1]} above it" if early else "drivers matched the functions in an order"
    )
    return Telling(
        f"{what}, and groups are never joined afterwards" if early else f"{what} that made finer groups",
        tuple(evidence),
        "load the IOMMU's driver and the PCIe port driver before the drivers of devices (build them in), "
        "or run Linux 6.15 or later",
        "probe-order",
    )


def _early(facts: Facts, proof: Proof) -> tuple[str, str] | None:
    """A function that got its group before a bridge above it did."""
    place = {one: index for index, one in enumerate(proof.order)}
    for one in proof.order:
        for bridge in facts.topology.chain(facts.function(one)):
            if place.get(bridge.address, -1) > place[one]:
                return str(one), str(bridge.address)
    return None


def _passed_by(facts: Facts) -> frozenset[Address]:
    """Functions that a driver has and the pass over all functions left out.

    ``iommu_init_device()``, drivers/iommu/iommu.c, configures no function that has a driver, and a function has one
    from the beginning of ``really_probe()``, drivers/base/dd.c, on. With a device tree ``of_iommu_configure()`` makes
    up for it; ``acpi_iommu_configure_id()`` does not.
    """
    firmware = facts.platform.firmware
    if (
        (firmware.viot is None and firmware.iort is None)
        or not facts.kernel.readable
        or not facts.kernel.at_least(6, 15)
    ):
        return frozenset()
    return frozenset(one.address for one in facts.snapshot.functions if _is_passed_by(facts, one))


def _is_passed_by(facts: Facts, function: PciFunction) -> bool:
    """What shares a requester ID may be refused for that, and the log tells of those that once had a group."""
    address = function.address
    if function.driver is None or function.is_virtual or address in facts.numbers or not facts.should_join(address):
        return False
    alone = len(facts.model.aliases.of(function)) == 1
    return alone and all(one != address for one, _ in facts.logged_then)


def _tell_race(facts: Facts, proof: Proof) -> Telling:
    drivers = ", ".join(sorted({facts.function(one).driver or "" for one in proof.without}))
    evidence = [
        f"bound to {drivers}, and alone under its requester ID; before it was bound the kernel would have grouped it"
    ]
    if facts.logged_then:
        evidence.append(
            f"the kernel log shows the pass grouping {len(facts.logged_then)} of the others, and not this one"
        )
    return Telling(
        f"{drivers} was being bound to {listed(proof.without)} while the IOMMU registered, and the kernel's pass over "
        "all functions leaves out one that has a driver",
        tuple(evidence),
        "load the IOMMU's driver before the drivers of devices, or build it in; until then remove the function and "
        "have the bus scanned again (remove, rescan in sysfs), which groups it anew",
        "registration-race",
    )


def _further(facts: Facts) -> frozenset[Address]:
    """Functions beyond the first whose own header does not say that there are several, as far as it was read.

    ``pci_scan_slot()``, drivers/pci/probe.c, marks such a function only after ``pci_scan_single_device()`` has added
    it, and adding groups it where the IOMMU is at work already: when the device is plugged in. The log must tell of it.
    """
    return frozenset(
        one.address
        for one in facts.snapshot.functions
        if one.address.function
        and one.address in facts.logged
        and not one.is_virtual
        and one.config.multifunction_bit is not True
    )


def _tell_late_function(facts: Facts, proof: Proof, further: frozenset[Address]) -> Telling:
    about = listed(further & proof.concerned)
    return Telling(
        f"{about} was grouped when it was added, and only after that the kernel notes that its device has several "
        "functions",
        (
            f"taken for the only function of its device, {about} gets the group that it has, as the kernel log shows",
            f"in this order they get these groups: {order_text(facts, proof)}",
        ),
        "give all functions of the device to the same user; with QEMU set multifunction=on at each of its functions",
        "late-multifunction",
    )
