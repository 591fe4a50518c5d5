# SPDX-License-Identifier: GPL-2.0-or-later
"""ACS registers in another state: switched, or as parameters of the kernel set them."""

from __future__ import annotations

from dataclasses import replace

from iommud.model.acs import MPC_ACS_BIT
from iommud.pci import REQUIRED_ACS, AcsRegisters
from iommud.snapshot import PciFunction


def switched(function: PciFunction, *, on: bool) -> PciFunction:
    """The function as ``pci_std_enable_acs()`` leaves it, or with every flag off; unchanged if it has none to switch.

    Only flags that the capability implements can be set.
    """
    acs, mpc = function.config.acs, function.config.mpc
    if acs is None and mpc is None:
        return function
    if acs is not None:
        acs = replace(acs, control=acs.control | acs.capability & REQUIRED_ACS if on else 0)
    if mpc is not None:
        mpc = mpc | MPC_ACS_BIT if on else mpc & ~MPC_ACS_BIT
    return replace(function, config=replace(function.config, acs=acs, mpc=mpc))


def granted(function: PciFunction) -> PciFunction:
    """The function as if it had an ACS capability, all of whose required flags are on."""
    return replace(
        function, config=replace(function.config, acs=AcsRegisters(REQUIRED_ACS, REQUIRED_ACS), acs_known=True)
    )


def configured(function: PciFunction, needed: int, *, on: int, off: int) -> PciFunction:
    """The function with some flags set and some cleared, the others as firmware left them, which no snapshot tells.

    ``needed`` are the flags that isolation takes. If the others decide about it, its ACS is not known any more.
    """
    acs = function.config.acs
    if acs is None:
        return function
    if needed & off or not needed & ~on:
        control = acs.capability & on
        return replace(function, config=replace(function.config, acs=replace(acs, control=control)))
    return replace(function, config=replace(function.config, acs=None, acs_known=False))
