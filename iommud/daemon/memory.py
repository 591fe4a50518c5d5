# SPDX-License-Identifier: GPL-2.0-or-later
"""Read functions and remember what was read, so that a look at a machine costs only what can have changed.

*Identity* is what sysfs tells of a function without config space: place, ids, class, group, driver. But for the last
two it is fixed for as long as the kernel's object for the function lives, and so is its ``config`` file, whose *stamp*
tells one object from the next. Group and driver are links, which are compared each time. What else may change without
a new object, bus numbers and ARI, does so where functions come and go, and of that events tell.

Config space is what a snapshot costs most: each dword can be a VM exit, and reading wakes sleeping hardware. Next to
all that is read of it is fixed as identity is: capabilities, port type, header.

Two registers are not fixed: ACS Control, and the Miscellaneous Port Configuration of Intel's root ports. A reset
clears them and the kernel sets them again (``pci_restore_state()``, drivers/pci/pci.c), unless a defect has it not.
These *volatile* registers are read again, one dword each, where a reset can have come by: see ``reached_by``.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace

from iommud.address import Address
from iommud.files import ConfigFile, Stamp, Tree
from iommud.functions import FunctionReader
from iommud.pci import MPC_REGISTER, ConfigFacts, Gap, Wanted
from iommud.power import Sleep
from iommud.snapshot import PciFunction

__all__ = ["Known", "KnownConfig", "RememberingReader", "reached_by"]

_DEVICES = "sys/bus/pci/devices"
_LASTING_GAPS = frozenset({None, Gap.RESTRICTED, Gap.TRUNCATED})
"""Gaps that follow from the reader's rights and the file, so that trying again is left to full snapshots."""

Read = tuple[int, bytes]
"""A dword as it was read: its offset, and the bytes that came."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownConfig:
    """What is remembered of a function's config space: under which conditions it holds, and the facts."""

    conditions: tuple[object, ...]
    before: PciFunction
    """The function without its config space."""
    after: PciFunction
    """The same with what was read."""
    volatile: tuple[Read, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """What is remembered of one function."""

    path: str
    stamp: Stamp
    group_link: str | None
    driver_link: str | None
    identity: PciFunction
    numbered: PciFunction | None = None
    """The same with bus numbers; None where nobody asked for them."""
    config: KnownConfig | None = None


class RememberingReader(FunctionReader):
    """Reads the functions of one tree; what ``known`` has of a function that is still the same is not read again.

    ``touched`` are functions that something happened to, None if something may have happened to any. ``anew`` has all
    identities read, whatever happened to whom. ``learned`` collects what is known after this snapshot, only of
    functions that are in it.

    A function that sleeps keeps the facts that were read while it was awake: more than a new reader would know.
    """

    def __init__(
        self, tree: Tree, known: Mapping[Address, Known], touched: Collection[Address] | None, *, anew: bool = False
    ) -> None:
        super().__init__(tree)
        self.learned: dict[Address, Known] = {}
        self._known = known
        self._touched = touched
        self._anew = anew or touched is None
        self._reached = frozenset[Address]() if touched is None else self._reached_by(touched)
        self._reads: list[Read] = []

    def identity(self, address: Address, entry: str) -> PciFunction | None:
        """As in FunctionReader."""
        known = self._known.get(address)
        if known is None or self._anew or address in self._reached or self._is_another(known):
            return super().identity(address, entry)
        self.paths[address] = known.path
        self.learned[address] = known
        return known.identity

    def _is_another(self, known: Known) -> bool:
        path, tree = known.path, self._tree
        return (
            tree.stamp(f"{path}/config") != known.stamp
            or tree.link(f"{path}/iommu_group") != known.group_link
            or tree.link(f"{path}/driver") != known.driver_link
        )

    def _identity_at(self, address: Address, path: str) -> PciFunction | None:
        # Looked at before all else, so that a function replaced meanwhile does not keep its stamp.
        stamp = self._tree.stamp(f"{path}/config")
        links = [self._tree.link(f"{path}/{name}") for name in ("iommu_group", "driver")]
        function = super()._identity_at(address, path)
        if function is None or stamp is None:
            return function
        before = self._known.get(address)
        config = before.config if before is not None and (before.path, before.stamp) == (path, stamp) else None
        self.learned[address] = Known(
            path=path, stamp=stamp, group_link=links[0], driver_link=links[1], identity=function, config=config
        )
        return function

    def with_bus_numbers(self, function: PciFunction, sleep: Sleep) -> PciFunction:
        """As in FunctionReader."""
        known = self.learned.get(function.address)
        if known is None:
            return super().with_bus_numbers(function, sleep)
        if known.numbered is not None:
            return known.numbered
        numbered = super().with_bus_numbers(function, sleep)
        self.learned[function.address] = replace(known, numbered=numbered)
        return numbered

    def with_config(self, function: PciFunction, wanted: Wanted | None, sleep: Sleep) -> PciFunction:
        """As in FunctionReader."""
        known = self.learned.get(function.address)
        if wanted is None or known is None:
            return super().with_config(function, wanted, sleep)
        conditions = (function.vendor, function.device, function.class_code, function.ari_enabled, wanted, self.whole)
        config = known.config
        if config is None or config.conditions != conditions or self._is_outdated(config, function, known.path, sleep):
            return self._learn(function, wanted, sleep, conditions)
        if config.before is function:
            return config.after
        after = config.after
        read = replace(function, vendor=after.vendor, device=after.device, config=after.config)
        self._remember(function.address, replace(config, before=function, after=read))
        return read

    def _learn(
        self, function: PciFunction, wanted: Wanted, sleep: Sleep, conditions: tuple[object, ...]
    ) -> PciFunction:
        self._reads = []
        read = super().with_config(function, wanted, sleep)
        config = None
        if read.config.gap in _LASTING_GAPS:
            volatile = tuple(_volatile(self._reads, read.config))
            config = KnownConfig(conditions=conditions, before=function, after=read, volatile=volatile)
        self._remember(function.address, config)
        return read

    def _remember(self, address: Address, config: KnownConfig | None) -> None:
        self.learned[address] = replace(self.learned[address], config=config)

    def _decode(self, function: PciFunction, wanted: Wanted, file: ConfigFile, path: str) -> PciFunction:
        return super()._decode(function, wanted, _Recorded(file, self._reads), path)

    def _is_outdated(self, known: KnownConfig, function: PciFunction, path: str, sleep: Sleep) -> bool:
        """Whether a volatile register differs from what is known, asked only where it can."""
        if self._touched is None and known.after.config.gap is not None:
            return True
        if not known.volatile or not (self._touched is None or function.address in self._reached):
            return False
        if sleep.would_wake(function.address, function.upstream):
            return False
        file = self._tree.config(f"{path}/config")
        if file is None:
            return True
        with file:
            self.config_reads += len(known.volatile)
            return any(file.read(offset, 4) != before for offset, before in known.volatile)

    def _reached_by(self, touched: Collection[Address]) -> frozenset[Address]:
        """What events at ``touched`` concern, by where functions lay at the last look and where these lie now."""
        before = {address: known.path for address, known in self._known.items()}
        found = {one: self._path(f"{_DEVICES}/{one}") for one in touched}
        moved = {one: path for one, path in found.items() if path is not None and path != before.get(one)}
        reached = reached_by(touched, before)
        return reached | reached_by(moved, {**before, **moved}) if moved else reached


def reached_by(touched: Collection[Address], paths: Mapping[Address, str]) -> frozenset[Address]:
    """The functions whose bus numbers or volatile registers an event at one of ``touched`` can stand for a change of.

    These are the function itself and all bridges above it, because error recovery and hot plug reset and restore the
    port above (``pcie_do_recovery()``, drivers/pci/pcie/err.c), and all that lies below the bridge above it, because
    a reset of that bus resets its neighbours too. ``paths`` says where the functions lie; one that lies nowhere
    reaches nothing.
    """
    here = [path for one in touched if (path := paths.get(one)) is not None]
    above = {place for path in here for place in _places(path)}
    # A root bus cannot be reset, so what lies beside a function there is not concerned.
    tops = {up if Address.from_name((up := path.rpartition("/")[0]).rpartition("/")[2]) else path for path in here}
    below = {"": False, **dict.fromkeys(tops, True)}
    return frozenset(one for one, path in paths.items() if path in above or _lies_below(path, below))


def _places(path: str) -> Iterator[str]:
    """The path and all directories above it."""
    while path:
        yield path
        path = path.rpartition("/")[0]


def _lies_below(path: str, below: dict[str, bool]) -> bool:
    """Whether a path is or lies in a directory that ``below`` says True of; what is found is noted there."""
    known = below.get(path)
    if known is None:
        known = below[path] = _lies_below(path.rpartition("/")[0], below)
    return known


def _volatile(reads: list[Read], facts: ConfigFacts) -> Iterator[Read]:
    """The reads that gave ACS Control and MPC: ``decode_config`` reads the ACS registers last of all."""
    if facts.acs is not None:
        yield reads[-1]
    if facts.mpc is not None:
        yield from {offset: piece for offset, piece in reads if offset == MPC_REGISTER}.items()


class _Recorded(ConfigFile):
    """Another config file, which notes what is read of it."""

    def __init__(self, file: ConfigFile, reads: list[Read]) -> None:
        self._file = file
        self._reads = reads

    @property
    def size(self) -> int:
        return self._file.size

    def read(self, offset: int, length: int) -> bytes:
        piece = self._file.read(offset, length)
        self._reads.append((offset, piece))
        return piece

    def close(self) -> None:
        self._file.close()
