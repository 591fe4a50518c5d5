# SPDX-License-Identifier: GPL-2.0-or-later
"""Which registers of which functions the answer needs: all other config space stays unread.

Bridges decide paths and aliases. Of the rest only functions that share a slot matter: a function alone in its
slot is isolated from its siblings whatever its registers say. Virtual functions are never read: their port type
and their isolation follow from what they are.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from iommud.address import Address
from iommud.model.quirks import AcsRule, DeviceList, Quirks
from iommud.pci import CLASS_CARDBUS_BRIDGE, Wanted
from iommud.snapshot import PciFunction

_NOTHING_READ = frozenset({AcsRule.ALWAYS, AcsRule.MF_ENDPOINT})


def plan_reads(functions: Sequence[PciFunction], quirks: Quirks, *, thorough: bool = False) -> dict[Address, Wanted]:
    """What to read of each function; a function that is absent from the result is not read at all.

    ``thorough`` asks for the registers of every function that can have them, for people who want to see them.
    """
    members = Counter((one.address[:3]) for one in functions)
    planned: dict[Address, Wanted] = {}
    for function in functions:
        wanted = _wanted(function, quirks, members[function.address[:3]] > 1, thorough)
        if wanted is not None:
            planned[function.address] = wanted
    return planned


def _wanted(function: PciFunction, quirks: Quirks, has_siblings: bool, thorough: bool) -> Wanted | None:
    if function.is_virtual:
        return None
    if thorough:
        return _registers(function, quirks, every_type=True, acs=True)
    rule = _first_rule(function, quirks)
    if function.is_bridge:
        return _registers(function, quirks, every_type=False, acs=rule not in _NOTHING_READ)
    if not has_siblings or rule in _NOTHING_READ:
        return None
    if rule is AcsRule.WANGXUN_NIC:
        # The device id alone decides isolation; whether the header calls it multifunction is still open.
        return Wanted(capabilities=False, acs=False)
    return _registers(function, quirks, every_type=False, acs=True)


def _first_rule(function: PciFunction, quirks: Quirks) -> AcsRule | None:
    if function.vendor is None or function.device is None:
        return None
    row = next(quirks.acs_rows(function.vendor, function.device), None)
    return None if row is None else row.rule


def _registers(function: PciFunction, quirks: Quirks, *, every_type: bool, acs: bool) -> Wanted:
    return Wanted(
        # Where a CardBus bridge keeps its capabilities is told by its header.
        header=every_type or function.address.function == 0 or _is_cardbus(function),
        acs=acs,
        every_type=every_type,
        wide_acs=quirks.listed(DeviceList.INTEL_SPT_PCH_ROOT_PORT, function.vendor, function.device),
        mpc=quirks.listed(DeviceList.INTEL_PCH_ROOT_PORT, function.vendor, function.device),
    )


def _is_cardbus(function: PciFunction) -> bool:
    return function.class_high == CLASS_CARDBUS_BRIDGE
