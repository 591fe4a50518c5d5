# SPDX-License-Identifier: GPL-2.0-or-later
"""Parameters of the kernel that change the ACS flags of single functions (Documentation/admin-guide)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from iommud.address import Address
from iommud.model.topology import Topology
from iommud.pci import Acs
from iommud.snapshot import PciFunction

REDIRECTION = Acs.RR | Acs.CR | Acs.EC
"""What ``disable_acs_redir=`` takes away."""

FLAG_OPTIONS = frozenset({"config_acs", "disable_acs_redir"})

_IDS = re.compile(r"pci:([0-9a-fA-F]{1,4}):([0-9a-fA-F]{1,4})(?::([0-9a-fA-F]{1,4}):([0-9a-fA-F]{1,4}))?")
_STEP = re.compile(r"([0-9a-fA-F]{1,2})\.([0-7])")
_FLAGS = re.compile(r"[01xX]{1,7}")


@dataclass(frozen=True, slots=True)
class FlagSetting:
    """Flags of the ACS Control register that a parameter sets and clears at the functions it names."""

    option: str
    """``config_acs`` or ``disable_acs_redir``."""
    device: str
    """How the parameter names the functions."""
    on: int
    off: int

    def matches(self, function: PciFunction, topology: Topology) -> bool:
        """Whether it means this function (``pci_dev_str_match()``, drivers/pci/pci.c)."""
        ids = _IDS.fullmatch(self.device)
        if ids is None:
            return _at_path(self.device, topology) == function.address
        wanted = [int(part or "0", 16) for part in ids.groups()]
        found = (function.vendor, function.device, function.subsystem_vendor, function.subsystem_device)
        return all(want in (0, have) for want, have in zip(wanted, found, strict=True))


def _at_path(text: str, topology: Topology) -> Address | None:
    """The function at the end of a path like ``00:1c.0/00.0``; None if it leads nowhere."""
    first, *steps = text.split("/")
    try:
        address = Address.parse(first)
    except ValueError:
        return None
    for step in steps:
        match = _STEP.fullmatch(step)
        bridge = topology.functions.get(address)
        if match is None or bridge is None or bridge.secondary_bus is None:
            return None
        address = Address(address.domain, bridge.secondary_bus, int(match[1], 16), int(match[2]))
    return address


def flag_settings(words: str) -> tuple[FlagSetting, ...]:
    """The settings that words of a command line ask for; of each option the last one counts.

    Raises ValueError, with the problem in one line, for a value that the kernel would refuse.
    """
    last = {option: value for option, value in pci_options(words) if option in FLAG_OPTIONS}
    return tuple(one for option, value in last.items() for one in _settings(option, value))


def pci_options(words: str) -> Iterator[tuple[str, str]]:
    """Name and value of every option of every ``pci=`` parameter; the value is empty where there is none."""
    for word in words.split():
        name, _, values = word.partition("=")
        if name == "pci":
            for option in values.split(","):
                key, _, value = option.partition("=")
                yield key, value


def _settings(option: str, value: str) -> Iterator[FlagSetting]:
    for part in value.split(";"):
        if option == "disable_acs_redir":
            yield FlagSetting(option, _device(part, option), 0, REDIRECTION)
            continue
        flags, at, device = part.partition("@")
        if not at or _FLAGS.fullmatch(flags) is None:
            raise ValueError(f"{part!r} is no setting like 111x1@0000:00:1c.0 for pci=config_acs=")
        bits = list(enumerate(reversed(flags)))
        on, off = (sum(1 << place for place, flag in bits if flag == wanted) for wanted in "10")
        yield FlagSetting(option, _device(device, option), on, off)


def _device(text: str, option: str) -> str:
    first, *steps = text.split("/")
    try:
        if _IDS.fullmatch(text) is None:
            Address.parse(first)
    except ValueError:
        raise ValueError(f"{text!r} names no function for pci={option}=") from None
    if any(_STEP.fullmatch(step) is None for step in steps):
        raise ValueError(f"{text!r} names no function for pci={option}=")
    return text
