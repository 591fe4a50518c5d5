# SPDX-License-Identifier: GPL-2.0-or-later
"""The order of probing: before 6.15 a function was grouped when a driver matched it, on machines with firmware maps."""

from __future__ import annotations

from collections.abc import Iterator

from iommud.causes.cause import CauseId
from iommud.causes.facts import Facts
from iommud.causes.hypothesis import Hypothesis, Telling, order_text
from iommud.causes.search import Proof
from iommud.causes.world import World
from iommud.verdict.findings import Finding, Kind


def propose(facts: Facts, finding: Finding) -> Iterator[Hypothesis]:
    """An order of its own, where the platform lets order matter."""
    if facts.order_matters and finding.kind is not Kind.UNISOLATED:
        yield Hypothesis(CauseId.PROBE_ORDER, World(any_order=True), lambda proof: _tell(facts, proof))


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
