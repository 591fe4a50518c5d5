# SPDX-License-Identifier: GPL-2.0-or-later
"""Which registers of which functions the answer needs: all other config space stays unread.

Bridges decide paths and aliases. Of the rest only functions that share a slot matter: a function alone in its
slot is isolated from its siblings whatever its registers say. Virtual functions are never read: their port type
and their isolation follow from what they are.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import cache, partial
from typing import NamedTuple

from iommud.address import Address
from iommud.model.quirks import AcsRule, DeviceList, Quirks
from iommud.pci import CLASS_CARDBUS_BRIDGE, Wanted
from iommud.snapshot import PciFunction

_NOTHING_READ = frozenset({AcsRule.ALWAYS, AcsRule.MF_ENDPOINT})


def plan_reads(functions: Sequence[PciFunction], quirks: Quirks, *, thorough: bool = False) -> dict[Address, Wanted]:
    """What to read of each function; a function that is absent from the result is not read at all.

    ``thorough`` asks for the registers of every function that can have them, for people who want to see them.
    """
    members = Counter(one.address[:3] for one in functions)
    planned: dict[Address, Wanted] = {}
    of_kind = cache(partial(_wanted, quirks, thorough=thorough))
    for function in functions:
        matters = thorough or function.is_bridge or members[function.address[:3]] > 1
        wanted = of_kind(_Kind.of(function)) if matters and not function.is_virtual else None
        if wanted is not None:
            planned[function.address] = wanted
    return planned


class _Kind(NamedTuple):
    """What tells which registers of a function matter: many functions of a machine are of one kind."""

    vendor: int | None
    device: int | None
    is_bridge: bool
    is_cardbus: bool
    is_first: bool
    """Whether it is function 0 of its slot."""

    @classmethod
    def of(cls, function: PciFunction) -> _Kind:
        high = function.class_high
        is_first = function.address.function == 0
        return cls(function.vendor, function.device, function.is_bridge, high == CLASS_CARDBUS_BRIDGE, is_first)


def _wanted(quirks: Quirks, kind: _Kind, *, thorough: bool) -> Wanted | None:
    if thorough:
        return _registers(kind, quirks, every_type=True, acs=True)
    rule = _first_rule(kind, quirks)
    if kind.is_bridge:
        return _registers(kind, quirks, every_type=False, acs=rule not in _NOTHING_READ)
    if rule in _NOTHING_READ:
        return None
    if rule is AcsRule.WANGXUN_NIC:
        # The device id alone decides isolation; whether the header calls it multifunction is still open.
        return Wanted(capabilities=False, acs=False)
    return _registers(kind, quirks, every_type=False, acs=True)


def _first_rule(kind: _Kind, quirks: Quirks) -> AcsRule | None:
    if kind.vendor is None or kind.device is None:
        return None
    row = next(quirks.acs_rows(kind.vendor, kind.device), None)
    return None if row is None else row.rule


def _registers(kind: _Kind, quirks: Quirks, *, every_type: bool, acs: bool) -> Wanted:
    return Wanted(
        # Where a CardBus bridge keeps its capabilities is told by its header.
        header=every_type or kind.is_first or kind.is_cardbus,
        acs=acs,
        every_type=every_type,
        wide_acs=quirks.listed(DeviceList.INTEL_SPT_PCH_ROOT_PORT, kind.vendor, kind.device),
        mpc=quirks.listed(DeviceList.INTEL_PCH_ROOT_PORT, kind.vendor, kind.device),
    )
