# SPDX-License-Identifier: GPL-2.0-or-later
"""Bridges without a group: no driver matched them, or the VIOT code took their record for another function's."""

from __future__ import annotations

from collections.abc import Iterator

from iommud.address import Address
from iommud.causes.cause import CauseId
from iommud.causes.facts import Facts
from iommud.causes.hypothesis import Hypothesis, Telling, has_defect, listed
from iommud.causes.search import Proof
from iommud.causes.world import World
from iommud.pci import CLASS_PCI_BRIDGE
from iommud.snapshot import PciFunction
from iommud.verdict.findings import Finding
from iommud.verdict.survey import parameter_values

_CLASS_EVENT_COLLECTOR = 0x0807
_PORT_DRIVER = "pcieport"


def propose(facts: Facts, _finding: Finding) -> Iterator[Hypothesis]:
    """Bridges that nobody probed, and bridges that the VIOT code left out."""
    yield from _not_probed(facts)
    yield from _viot_alias(facts)


def _not_probed(facts: Facts) -> Iterator[Hypothesis]:
    left = facts.once(_unmatched)
    if left:
        yield Hypothesis(CauseId.BRIDGES_NOT_PROBED, World(unprobed=left), lambda proof: _tell_not_probed(facts, proof))


def _unmatched(facts: Facts) -> frozenset[Address]:
    """The port driver's table matches every bridge, so none is left out where the driver is there at all."""
    if not facts.order_matters or _has_port_driver(facts):
        return frozenset()
    bridges = [one for one in facts.snapshot.functions if _matches_port_driver(one) and one.driver is None]
    if any(one.address in facts.numbers for one in bridges):
        return frozenset()
    return frozenset(one.address for one in bridges if _lacks_group(facts, one.address))


def _has_port_driver(facts: Facts) -> bool:
    return any(one.driver == _PORT_DRIVER for one in facts.snapshot.functions)


def _matches_port_driver(function: PciFunction) -> bool:
    """``port_pci_ids``, drivers/pci/pcie/portdrv.c."""
    return (function.class_code or 0) >> 8 in (CLASS_PCI_BRIDGE, _CLASS_EVENT_COLLECTOR)


def _lacks_group(facts: Facts, address: Address) -> bool:
    return address not in facts.numbers and facts.should_join(address)


def _tell_not_probed(facts: Facts, proof: Proof) -> Telling:
    compat = "compat" in parameter_values(facts.cmdline, "pcie_ports")
    why = (
        "pcie_ports=compat keeps the PCIe port driver away" if compat else "this kernel has no PCIe port driver at work"
    )
    remedy = "take pcie_ports=compat off the kernel command line" if compat else "use a kernel with CONFIG_PCIEPORTBUS"
    return Telling(
        f"no driver matched {listed(proof.without)}, and before 6.15 that is what gives a bridge its group",
        (why, f"no function is bound to {_PORT_DRIVER}"),
        f"{remedy}, or run Linux 6.15 or later",
        "probe-order",
    )


def _viot_alias(facts: Facts) -> Iterator[Hypothesis]:
    left = facts.once(_left_by_viot)
    if left:
        yield Hypothesis(CauseId.VIOT_ALIAS_BUG, World(unprobed=left), lambda proof: _tell_viot(facts, proof))


def _left_by_viot(facts: Facts) -> frozenset[Address]:
    """``viot_pci_dev_iommu_init()`` before commit 47d26684185d."""
    kernel = facts.kernel
    if facts.platform.firmware.viot is None or not kernel.at_least(5, 14) or kernel.at_least(6, 4):
        return frozenset()
    return frozenset(one.address for one in facts.snapshot.functions if _is_left_by_viot(facts, one))


def _is_left_by_viot(facts: Facts, bridge: PciFunction) -> bool:
    """An alias-taking bridge without a group, below a port that has one and above a function that a driver matched.

    It was that match which wrote into the bridge's record, whatever became of the function afterwards.
    """
    if facts.model.aliases.bridge_alias(bridge) is None or not _lacks_group(facts, bridge.address):
        return False
    below = any(one.address in facts.numbers or one.driver is not None for one in _below(facts, bridge))
    above = facts.topology.above(bridge)
    return below and all(one.address in facts.numbers or _is_left_by_viot(facts, one) for one in above[:1])


def _below(facts: Facts, bridge: PciFunction) -> tuple[PciFunction, ...]:
    """The functions on the bus below a bridge."""
    bus = facts.topology.buses.get((bridge.address.domain, bridge.secondary_bus or 0))
    return tuple(bus.functions) if bus is not None and bus.bridge is not None else ()


def _tell_viot(facts: Facts, proof: Proof) -> Telling:
    bridges = facts.once(_left_by_viot).intersection(proof.without)
    left = listed(bridges)
    grouped = any(one.address in facts.numbers for bridge in bridges for one in _below(facts, facts.function(bridge)))
    around = "the port above and a function below have" if grouped else "the port above has, and a driver matched below"
    evidence = ["the VIOT table describes the IOMMU", f"{left} has no group, though {around}"]
    if has_defect(facts, "viot-alias-record") is not True:
        evidence.append(
            f"stable kernels of the {facts.kernel.version[0]}.{facts.kernel.version[1]} series have the fix "
            f"since May 2023; {facts.kernel.text} behaves as if it had not"
        )
    return Telling(
        f"the kernel wrote the aliases of what lies below {left} into the bridge's own record, and left the bridge out",
        tuple(evidence),
        "run Linux 6.4 or later, or a newer stable kernel; until then put the functions on PCIe ports of their own",
        "viot-alias-record",
    )
