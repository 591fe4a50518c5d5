# SPDX-License-Identifier: GPL-2.0-or-later
"""What differs around the groups of two states, and may explain why they do: kernel, firmware, drivers, registers."""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

from iommud.address import Address
from iommud.model.groups import Group
from iommud.pci import Acs
from iommud.snapshot import PciFunction
from iommud.verdict.state import State

__all__ = ["Circumstance", "Subject", "circumstances"]


class Subject(enum.StrEnum):
    """What a circumstance is about, in the order in which they are told."""

    KERNEL = "kernel"
    COMMAND_LINE = "command-line"
    IOMMU = "iommu"
    FIRMWARE = "firmware"
    SCOPE = "scope"
    """Whether a function should have a group at all."""
    DEVICE = "device"
    """Another device at the same address."""
    DRIVER = "driver"
    ACS = "acs"


@dataclass(frozen=True, slots=True)
class Circumstance:
    """One thing that differs and is no group."""

    subject: Subject
    text: str
    """One sentence, without a full stop."""
    before: str | None
    after: str | None
    """None in either: there was nothing."""
    devices: tuple[Address, ...] = ()
    """Empty: it concerns the machine as a whole."""
    bears: bool = False
    """Whether it may explain a changed group: it concerns the whole machine, or the way to a function in that group."""


_Told = Iterator[Circumstance]


def circumstances(before: State, after: State, touched: Group) -> tuple[Circumstance, ...]:
    """What differs but for groups; ``touched`` are the functions in changed groups. What may explain it comes first."""
    way = _way(before, touched) | _way(after, touched)
    found = [
        replace(one, bears=bool(touched) and (not one.devices or not way.isdisjoint(one.devices)))
        for one in _differing(before, after)
    ]
    return tuple(sorted(found, key=lambda one: not one.bears))


def _way(state: State, touched: Group) -> frozenset[Address]:
    """The functions, the bridges above them, and the rest of each slot: whose ACS decides about these functions."""
    if state.machine is None:
        return touched
    functions = state.machine.functions
    found: set[Address] = set()
    for address in touched:
        here: Address | None = address
        while here is not None and here not in found:
            found.add(here)
            here = functions[here].upstream if here in functions else None
    slots = {one[:3] for one in found}
    return frozenset(found.union(one for one in functions if one[:3] in slots))


def _differing(before: State, after: State) -> _Told:
    if before.kernel != after.kernel:
        old, new = before.kernel or "unknown", after.kernel or "unknown"
        yield Circumstance(Subject.KERNEL, f"the kernel is {new}, and was {old}", before.kernel, after.kernel)
    yield from _command_line(before, after)
    yield from _iommus(before, after)
    yield from _firmware(before, after)
    yield from _scope(before, after)
    yield from _functions(before, after)


def _command_line(before: State, after: State) -> _Told:
    if before.machine is None or after.machine is None:
        return
    old, new = before.machine.parameters, after.machine.parameters
    if old is None or new is None:
        return
    for word in sorted(new - old):
        yield Circumstance(Subject.COMMAND_LINE, f"the kernel command line has {word}, and had not", None, word)
    for word in sorted(old - new):
        yield Circumstance(Subject.COMMAND_LINE, f"the kernel command line has {word} no more", word, None)


def _iommus(before: State, after: State) -> _Told:
    for name, driver in sorted(after.iommus - before.iommus):
        yield Circumstance(Subject.IOMMU, f"{name} ({driver}) is a new IOMMU", None, name)
    for name, driver in sorted(before.iommus - after.iommus):
        yield Circumstance(Subject.IOMMU, f"{name} ({driver}) is no IOMMU any more", name, None)


def _firmware(before: State, after: State) -> _Told:
    if before.machine is None or after.machine is None:
        return
    old, new = before.machine.firmware, after.machine.firmware
    for name in sorted(old.keys() & new.keys()):
        if old[name] != new[name]:
            was, now = ("none" if one[name] is None else "present" for one in (old, new))
            what = {("none", "present"): "is new", ("present", "none"): "has gone"}.get((was, now), "says other things")
            yield Circumstance(Subject.FIRMWARE, f"{name}, as far as it describes IOMMUs, {what}", was, now)


def _scope(before: State, after: State) -> _Told:
    """Functions in both states of which another thing is said about why they have no group."""
    for address in sorted((before.without.keys() | after.without.keys()) & before.functions & after.functions):
        old, new = before.without.get(address), after.without.get(address)
        if old != new:
            text = f"{address} should have a group now" if new is None else f"{address} rightly has no group: {new}"
            yield Circumstance(Subject.SCOPE, text, old, new, (address,))


def _functions(before: State, after: State) -> _Told:
    if before.machine is None or after.machine is None:
        return
    old, new = before.machine.functions, after.machine.functions
    for subject, name, value in _FACTS:
        yield from _facts(old, new, subject, name, value)


def _facts(
    old: Mapping[Address, PciFunction],
    new: Mapping[Address, PciFunction],
    subject: Subject,
    name: str,
    value: Callable[[PciFunction], str | None],
) -> _Told:
    """One fact of the functions in both states; None where it is not known, which is no difference."""
    for address in sorted(old.keys() & new.keys()):
        was, now = value(old[address]), value(new[address])
        if was is not None and now is not None and was != now:
            yield Circumstance(subject, f"{name} of {address} is {now}, and was {was}", was, now, (address,))


def _ids(function: PciFunction) -> str | None:
    if function.vendor is None or function.device is None:
        return None
    return f"{function.vendor:04x}:{function.device:04x}"


def _driver(function: PciFunction) -> str:
    return function.driver or "none"


def _acs(function: PciFunction) -> str | None:
    config = function.config
    if not config.acs_known:
        return None
    return "absent" if config.acs is None else _flags(config.acs.control)


def _flags(control: int) -> str:
    """The bits of the ACS Control register by their names (PCIe r3.1, sec 7.16.3)."""
    names = [flag.name for flag in Acs if control & flag and flag.name is not None]
    return "+".join(names) or "all off"


_FACTS: tuple[tuple[Subject, str, Callable[[PciFunction], str | None]], ...] = (
    (Subject.DEVICE, "the device", _ids),
    (Subject.DRIVER, "the driver", _driver),
    (Subject.ACS, "ACS control", _acs),
)
