# SPDX-License-Identifier: GPL-2.0-or-later
"""What a hypothesis assumes of the time when groups were made; without any, all is as the snapshot shows it.

The plain world is that of the closure: every function that has a group or should have one is probed, parents
before what lies below them, with ACS as it is now.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from iommud.address import Address
from iommud.model.acs import MPC_ACS_BIT, AcsModel, AcsVerdict
from iommud.snapshot import PciFunction

_NONE: frozenset[Address] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class AcsThen:
    """ACS at grouping time, as far as it differed from now."""

    cleared: bool = False
    """No control bit was set anywhere."""
    override: bool = False
    """``pcie_acs_override`` of the command line was at work."""
    off: frozenset[Address] = _NONE
    """Functions whose ACS was off."""
    on: frozenset[Address] = _NONE
    """Functions whose ACS was on, as far as they implement it."""
    alone: frozenset[Address] = _NONE
    """Functions that the kernel did not know yet to be one of several in their slot."""


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """Assumptions; several hypotheses together assume all of theirs."""

    unprobed: frozenset[Address] = _NONE
    """Functions that the IOMMU's driver was never asked about."""
    refused: frozenset[Address] = _NONE
    """Functions that it refused."""
    stream_taken: bool = False
    """A function one of whose streams belongs to another is refused."""
    stream_twice: bool = False
    """A function that has one stream twice is refused."""
    abandons: bool = False
    """The first function that is refused ends the pass, and takes all groups away."""
    any_order: bool = False
    """Functions were probed in an order of their own."""
    acs: AcsThen = AcsThen()

    def joined(self, other: World) -> World:
        """Both sets of assumptions at once."""
        mine, its = self.acs, other.acs
        return World(
            unprobed=self.unprobed | other.unprobed,
            refused=self.refused | other.refused,
            stream_taken=self.stream_taken or other.stream_taken,
            stream_twice=self.stream_twice or other.stream_twice,
            abandons=self.abandons or other.abandons,
            any_order=self.any_order or other.any_order,
            acs=AcsThen(
                cleared=mine.cleared or its.cleared,
                override=mine.override or its.override,
                off=mine.off | its.off,
                on=mine.on | its.on,
                alone=mine.alone | its.alone,
            ),
        )


@dataclass(frozen=True)
class AcsAtGrouping(AcsModel):
    """Verdicts that take some functions for what they were when they were grouped."""

    then: dict[Address, PciFunction] = field(default_factory=dict)
    alone: frozenset[Address] = _NONE

    def multifunction(self, function: PciFunction) -> bool:
        """``pdev->multifunction`` as it was then."""
        return function.address not in self.alone and super().multifunction(function)

    def _judge(self, function: PciFunction) -> AcsVerdict:
        return super()._judge(self.then.get(function.address, function))


def switched(function: PciFunction, *, on: bool) -> PciFunction:
    """The function with all of its ACS on, or all of it off; the same object if it has none to switch."""
    acs, mpc = function.config.acs, function.config.mpc
    if acs is None and mpc is None:
        return function
    if acs is not None:
        acs = replace(acs, control=acs.capability if on else 0)
    if mpc is not None:
        mpc = mpc | MPC_ACS_BIT if on else mpc & ~MPC_ACS_BIT
    return replace(function, config=replace(function.config, acs=acs, mpc=mpc))
