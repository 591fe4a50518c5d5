# SPDX-License-Identifier: GPL-2.0-or-later
"""What a module of causes gives: a world to replay, and the words for it once the replay has proved it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from iommud.address import Address
from iommud.causes.cause import Basis, Cause, CauseId
from iommud.causes.defects import Component, Defect, defect
from iommud.causes.facts import Facts
from iommud.causes.search import Proof
from iommud.causes.world import World

_LISTED = 8


@dataclass(frozen=True, slots=True)
class Telling:
    """The words of a cause: what happened, by what it is known, what to do, and which defect it is."""

    summary: str
    evidence: tuple[str, ...]
    remedy: str
    defect: str | None = None
    """Id of the known defect, which gives the releases that have it."""


@dataclass(frozen=True, slots=True)
class Hypothesis:
    """A cause that may be at work."""

    id: CauseId
    world: World
    tell: Callable[[Proof], Telling]


def cause_of(name: CauseId, telling: Telling, basis: Basis) -> Cause:
    """The cause in its words, with the releases of its defect."""
    since, until = (None, None) if telling.defect is None else span(defect(telling.defect))
    return Cause(
        id=name,
        summary=telling.summary,
        evidence=telling.evidence,
        since=since,
        until=until,
        remedy=telling.remedy,
        basis=basis,
    )


def evident(name: CauseId, telling: Telling) -> Cause:
    """A cause that rests on evidence alone."""
    return cause_of(name, telling, Basis.EVIDENCE)


def span(found: Defect) -> tuple[str | None, str | None]:
    """The releases that brought and ended a defect, mainline first; None where there is none."""
    name = "QEMU" if found.component is Component.QEMU else "Linux"
    since, until = (
        ", ".join(str(one) for one in changes if one.version is not None) for changes in (found.introduced, found.fixed)
    )
    return (f"{name} {since}" if since else None, f"{name} {until}" if until else None)


def has_defect(facts: Facts, name: str) -> bool | None:
    """Whether this kernel has a defect; None if its release does not tell."""
    kernel = facts.kernel
    return defect(name).affects(kernel.version, kernel.stable) if kernel.readable else None


def listed(addresses: Iterable[Address], limit: int = _LISTED) -> str:
    """Addresses in order, the rest counted."""
    found = sorted(addresses)
    more = f" and {len(found) - limit} more" if len(found) > limit else ""
    return ", ".join(str(one) for one in found[:limit]) + more


def order_text(facts: Facts, proof: Proof) -> str:
    """An order of probing with the group that each function got."""
    shown = [f"{one} (group {facts.numbers[one]})" for one in proof.order[:_LISTED]]
    more = f", and {len(proof.order) - _LISTED} more" if len(proof.order) > _LISTED else ""
    return ", ".join(shown) + more
