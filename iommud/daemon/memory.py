# SPDX-License-Identifier: GPL-2.0-or-later
"""Read functions and remember their config space, so that it is read once in the life of a function.

Config space is what a snapshot costs most: each dword can be a VM exit, and reading wakes sleeping hardware. Next to
all that is read of it is fixed for as long as the kernel's object for the function lives: capabilities, port type,
header. A function that goes and comes back, or another one in its place, is another object.

Two registers are not fixed: ACS Control, and the Miscellaneous Port Configuration of Intel's root ports. A reset
clears them and the kernel sets them again (``pci_restore_state()``, drivers/pci/pci.c), unless a defect has it not.
These *volatile* registers are read again, one dword each, where a reset can have come by: see ``reached_by``.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace

from iommud.address import Address
from iommud.files import ConfigFile, Tree
from iommud.functions import FunctionReader
from iommud.pci import MPC_REGISTER, ConfigFacts, Gap, Wanted
from iommud.power import Sleep
from iommud.snapshot import PciFunction

__all__ = ["Known", "RememberingReader", "reached_by"]

_LASTING_GAPS = frozenset({None, Gap.RESTRICTED, Gap.TRUNCATED})
"""Gaps that follow from the reader's rights and the file, so that trying again is left to full snapshots."""

Read = tuple[int, bytes]
"""A dword as it was read: its offset, and the bytes that came."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """What is remembered of one function: under which conditions it holds, and the facts."""

    conditions: tuple[object, ...]
    vendor: int | None
    device: int | None
    config: ConfigFacts
    volatile: tuple[Read, ...]


class RememberingReader(FunctionReader):
    """Reads the functions of one tree; what ``known`` has of a function that is still the same is not read again.

    ``touched`` are functions that something happened to, None if something may have happened to any. ``learned``
    collects what is known after this snapshot, only of functions that are in it.

    A function that sleeps keeps the facts that were read while it was awake: more than a new reader would know.
    """

    def __init__(self, tree: Tree, known: Mapping[Address, Known], touched: Collection[Address] | None) -> None:
        super().__init__(tree)
        self.learned: dict[Address, Known] = {}
        self._known = known
        self._touched = touched
        self._reached: frozenset[Address] | None = None
        self._reads: list[Read] = []

    def with_config(self, function: PciFunction, wanted: Wanted | None, sleep: Sleep) -> PciFunction:
        """As in FunctionReader."""
        path = self.paths.get(function.address)
        # Looked at before the config space, so that a function replaced between the two does not keep its stamp.
        stamp = None if wanted is None or path is None else self._tree.stamp(f"{path}/config")
        if wanted is None or path is None or stamp is None:
            return super().with_config(function, wanted, sleep)
        ids = (function.vendor, function.device, function.class_code, function.ari_enabled)
        conditions = (path, stamp, *ids, wanted, self.whole)
        known = self._known.get(function.address)
        if known is None or known.conditions != conditions or self._is_outdated(known, function, path, sleep):
            return self._learn(function, wanted, sleep, conditions)
        self.learned[function.address] = known
        return replace(function, vendor=known.vendor, device=known.device, config=known.config)

    def _learn(
        self, function: PciFunction, wanted: Wanted, sleep: Sleep, conditions: tuple[object, ...]
    ) -> PciFunction:
        self._reads = []
        read = super().with_config(function, wanted, sleep)
        if read.config.gap in _LASTING_GAPS:
            self.learned[function.address] = Known(
                conditions=conditions,
                vendor=read.vendor,
                device=read.device,
                config=read.config,
                volatile=tuple(_volatile(self._reads, read.config)),
            )
        return read

    def _decode(self, function: PciFunction, wanted: Wanted, file: ConfigFile, path: str) -> PciFunction:
        return super()._decode(function, wanted, _Recorded(file, self._reads), path)

    def _is_outdated(self, known: Known, function: PciFunction, path: str, sleep: Sleep) -> bool:
        """Whether a volatile register differs from what is known, asked only where it can."""
        if self._touched is None and known.config.gap is not None:
            return True
        if not known.volatile or not self._may_have_changed(function.address):
            return False
        if sleep.would_wake(function.address, function.upstream):
            return False
        file = self._tree.config(f"{path}/config")
        if file is None:
            return True
        with file:
            self.config_reads += len(known.volatile)
            return any(file.read(offset, 4) != before for offset, before in known.volatile)

    def _may_have_changed(self, address: Address) -> bool:
        if self._touched is None:
            return True
        if self._reached is None:
            self._reached = reached_by(self._touched, self.paths)
        return address in self._reached


def reached_by(touched: Collection[Address], paths: Mapping[Address, str]) -> frozenset[Address]:
    """The functions whose volatile registers an event at one of ``touched`` can stand for a change of.

    These are the function itself and all bridges above it, because error recovery and hot plug reset and restore the
    port above (``pcie_do_recovery()``, drivers/pci/pcie/err.c), and all that lies below the bridge above it, because
    a reset of that bus resets its neighbours too. ``paths`` says where the functions lie; one that lies nowhere
    reaches nothing.
    """
    here = [path for one in touched if (path := paths.get(one)) is not None]
    above = {place for path in here for place in _places(path)}
    # A root bus cannot be reset, so what lies beside a function there is not concerned.
    tops = {up if Address.from_name((up := path.rpartition("/")[0]).rpartition("/")[2]) else path for path in here}
    return frozenset(one for one, path in paths.items() if path in above or not tops.isdisjoint(_places(path)))


def _places(path: str) -> Iterator[str]:
    """The path and all directories above it."""
    while path:
        yield path
        path = path.rpartition("/")[0]


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
