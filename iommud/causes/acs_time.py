# SPDX-License-Identifier: GPL-2.0-or-later
"""ACS at grouping time against ACS now: asked for too late, overridden, or changed since."""

from __future__ import annotations

import re
from collections.abc import Iterator

from iommud.address import Address
from iommud.causes.cause import CauseId
from iommud.causes.facts import Facts
from iommud.causes.hypothesis import Hypothesis, Telling, has_defect, listed
from iommud.causes.search import reproduces
from iommud.causes.world import AcsThen, World, switched
from iommud.verdict.findings import Finding, Kind
from iommud.verdict.survey import parse_override

_SPLITS = (Kind.ALIAS_SPLIT, Kind.ISOLATION_SPLIT)
_PARAMETER = re.compile(r"\b(?:config_acs|disable_acs_redir)=\S+")
_MOST_SWITCHED = 64
"""Functions of which it is found out, one by one, whether their ACS must have been different."""


def propose(facts: Facts, finding: Finding) -> Iterator[Hypothesis]:
    """ACS that came late, an override, and ACS that was changed."""
    if finding.kind in (*_SPLITS, Kind.MERGED, Kind.UNISOLATED):
        yield from _override(facts)
    if finding.kind in (*_SPLITS, Kind.MERGED):
        yield from _late(facts)
        yield from _changed(facts, finding)


def _late(facts: Facts) -> Iterator[Hypothesis]:
    """Ports as firmware leaves them, which is off: all of them, or the one that was found before ACS was asked for."""
    by_firmware, cleared = _late_by_firmware(facts), AcsThen(cleared=True)
    telling = by_firmware or _late_by_backport(facts)
    if telling is not None:
        then = cleared if by_firmware is None else facts.once(_first_found) or cleared
        yield Hypothesis(CauseId.LATE_ACS, World(acs=then), lambda _proof: telling)


def _first_found(facts: Facts) -> AcsThen | None:
    """From 6.15 on each function is configured as it is found, and the first one asks for ACS; it alone is too early.

    ``of_iommu_configure()`` calls ``pci_request_acs()``, and ``device_add()`` brings it there. Seen with 6.16.12 and
    6.18.15.
    """
    found = [one.address for one in facts.snapshot.functions if not one.is_virtual]
    return AcsThen(off=frozenset({min(found)})) if found and facts.kernel.at_least(6, 15) else None


def _late_by_firmware(facts: Facts) -> Telling | None:
    viot = facts.platform.firmware.viot is not None
    name = "acs-late-viot" if viot else "acs-late-device-tree"
    if facts.platform.acs_before_grouping is not False or has_defect(facts, name) is False:
        return None
    source = "VIOT table" if viot else "device tree"
    return Telling(
        "ACS was off when these functions were grouped: the kernel asks for it too late on machines "
        f"whose IOMMU the {source} describes",
        (f"the {source} describes the IOMMU, and the kernel is {facts.kernel}", "with ACS off the groups are these"),
        "nothing for safety, the groups are wider than need be; for narrower ones run Linux "
        + ("6.0 or later" if viot else "7.0 or later"),
        name,
    )


def _late_by_backport(facts: Facts) -> Telling | None:
    if has_defect(facts, "acs-late-stable-backport") is not True:
        return None
    return Telling(
        f"ACS was switched on after grouping: Linux {facts.kernel} carries a change that suits later kernels only",
        (f"the kernel is {facts.kernel}", "with ACS off the groups are these, and it shows as on now"),
        "update within the stable series: 6.12.83, 6.6.135, 6.1.169, 5.15.203 and 5.10.253 took the change back",
        "acs-late-stable-backport",
    )


def _override(facts: Facts) -> Iterator[Hypothesis]:
    tokens, ids = parse_override(facts.cmdline)
    if tokens or ids:
        yield Hypothesis(CauseId.ACS_OVERRIDE, World(acs=AcsThen(override=True)), lambda _proof: _tell_override(facts))


def _tell_override(facts: Facts) -> Telling:
    parameter = next(word for word in facts.cmdline.split() if word.startswith("pcie_acs_override="))
    return Telling(
        "a patched kernel was told to take these functions for isolated, although no ACS isolates them",
        (f"{parameter} on the kernel command line", "with it the groups are these"),
        "do not give the functions to different users; take the parameter away to see the true groups",
    )


def _changed(facts: Facts, finding: Finding) -> Iterator[Hypothesis]:
    """Split now means isolated then, and merged now means open then; who exactly is found out by leaving out."""
    on = finding.kind in _SPLITS
    able = _switchable(facts, finding, on=on)
    if able:
        world = World(acs=AcsThen(on=able) if on else AcsThen(off=able))
        yield Hypothesis(
            CauseId.ACS_CHANGED_SINCE,
            world,
            lambda _proof: _tell_changed(facts, _fewest(facts, finding, able, on), on),
        )


def _switchable(facts: Facts, finding: Finding, *, on: bool) -> frozenset[Address]:
    """Functions in the finding's groups, and bridges above, whose verdict would be another with ACS switched."""
    members = {*finding.devices, *(one for group in (*finding.groups, *finding.expected) for one in group)}
    above = {bridge.address for one in members for bridge in facts.topology.chain(facts.function(one))}
    plain = facts.models(AcsThen())[0].acs
    found = sorted(members | above)
    then = AcsThen(on=frozenset(found)) if on else AcsThen(off=frozenset(found))
    other = facts.models(then)[0].acs
    functions = [facts.function(one) for one in found]
    return frozenset(
        one.address
        for one in functions
        if switched(one, on=on) is not one and plain.verdict(one).isolated is not other.verdict(one).isolated
    )


def _fewest(facts: Facts, finding: Finding, able: frozenset[Address], on: bool) -> frozenset[Address]:
    """As few of the functions as give the observed groups still, each left out in turn."""
    kept = able
    for one in sorted(able)[:_MOST_SWITCHED]:
        fewer = kept - {one}
        world = World(acs=AcsThen(on=fewer) if on else AcsThen(off=fewer))
        if fewer and reproduces(facts, finding, world) is not None:
            kept = fewer
    return kept


def _tell_changed(facts: Facts, which: frozenset[Address], on: bool) -> Telling:
    then, now = ("on", "off") if on else ("off", "on")
    evidence = [f"with ACS {then} at {listed(which)} the groups are these"]
    evidence += (f"{found[0]} on the kernel command line" for found in _PARAMETER.finditer(facts.cmdline))
    if facts.kernel.stable is None and has_defect(facts, "acs-late-stable-backport") is None:
        evidence.append(
            f"some stable kernels of {facts.kernel} switch ACS on after grouping; which one this is, is not known"
        )
    return Telling(
        f"ACS of {listed(which)} was {then} at grouping time and is {now} now: "
        "a reset, a resume or a program has changed it since, and groups are made once",
        tuple(evidence),
        "restart the machine; if it comes back, look for what writes the ACS Control register",
    )
