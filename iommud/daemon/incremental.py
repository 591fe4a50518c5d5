# SPDX-License-Identifier: GPL-2.0-or-later
"""Snapshots of a machine that is watched: each costs only what can have changed, and is of one consistent state.

A snapshot takes time, and the machine may change meanwhile. It is torn if it contradicts itself in a new way, if events
came in, or if the machine's lists of functions, groups and IOMMUs differ from those in it. The lists are spared where
the kernel has sent no event of any kind meanwhile: what joins a group is then told by both ends, link and directory,
and half of that is a contradiction. A torn snapshot is taken once more. The second one is kept, and says so if it is
torn again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from typing import TypeVar

from iommud.address import Address
from iommud.daemon.memory import Known, RememberingReader
from iommud.errors import SourceError
from iommud.files import Tree
from iommud.kernel import Kernel
from iommud.snapshot import Complaint, Contradiction, PciFunction, Snapshot
from iommud.sysfs import DEVICES, read_groups, read_iommus, take_snapshot, with_evidence

__all__ = ["IncrementalReader", "time_suspended"]

_TORN = Contradiction(Complaint.CHANGED_WHILE_READ, (), "the machine changed each of the two times that it was read")

_SENT = "sys/kernel/uevent_seqnum"
"""How many uevents the kernel has sent since boot, of whatever subsystem."""

_RESUMED = 0.5
"""Seconds of sleep of the whole machine that are no rounding error."""

_Fact = TypeVar("_Fact")


def time_suspended() -> float:
    """Seconds that the machine has been suspended since boot."""
    running = time.clock_gettime(time.CLOCK_MONOTONIC)
    return time.clock_gettime(time.CLOCK_BOOTTIME) - running


class IncrementalReader:
    """Takes snapshots of one machine one after the other; to be used by one thread at a time.

    ``open_tree`` gives the machine's files; each tree stands for one moment. ``changes`` gives a number that grows
    when functions come, go, are bound or unbound: ``UeventSource.structural_changes``. ``suspended`` is
    ``time_suspended``. ``kernel`` and ``wake`` are those of ``take_snapshot``.

    ``config_reads`` counts dwords of config space read, ``retakes`` snapshots that were taken a second time, and
    ``torn`` those that were still of no consistent state then.
    """

    def __init__(
        self,
        open_tree: Callable[[], Tree],
        *,
        changes: Callable[[], int] = int,
        suspended: Callable[[], float] = time_suspended,
        kernel: Kernel | None = None,
        wake: bool = False,
    ) -> None:
        self.config_reads = 0
        self.retakes = 0
        self.torn = 0
        self._open_tree = open_tree
        self._changes = changes
        self._suspended = suspended
        self._kernel = kernel
        self._wake = wake
        self._known: Mapping[Address, Known] = {}
        self._last: Snapshot | None = None
        self._slept = 0.0
        self._failed = True

    def snapshot(self, touched: Collection[Address] = (), *, full: bool = False) -> Snapshot:
        """The machine as it is now.

        ``touched`` are the functions of which events came since the last snapshot. ``full`` says that events may have
        been missed, or that none are to be had; the first snapshot, and the first one after an error or after the
        machine was suspended, is full by itself. It still reads no more of config space than ACS Control and MPC of
        the functions that have them.

        Raises SourceError if the machine cannot be read; the last snapshot is then still what is known.
        """
        slept = self._suspended()
        full = full or self._failed or slept > self._slept + _RESUMED
        self._failed, self._slept = True, slept
        taken = self._taken_whole(None if full else touched)
        self._failed = False
        self._last = taken if self._last is None else _sharing(taken, self._last)
        return self._last

    def with_evidence(self, snapshot: Snapshot) -> Snapshot:
        """A snapshot with what tells causes, as far as it may be read: the kernel log, and the loaded modules."""
        try:
            return with_evidence(self._open_tree(), snapshot)
        except SourceError:  # what can be read no more is told by the next look
            return snapshot

    def _taken_whole(self, touched: Collection[Address] | None) -> Snapshot:
        first = self._take(touched)
        accepted = () if self._last is None else self._last.contradictions
        if not first.changed and set(first.snapshot.contradictions) <= set(accepted):
            return first.snapshot
        self.retakes += 1
        second = self._take(touched, anew=True)  # what seems torn may be what was remembered
        reads = first.snapshot.config_reads + second.snapshot.config_reads
        taken = replace(second.snapshot, config_reads=reads)
        if not second.changed and set(taken.contradictions) <= set(first.snapshot.contradictions):
            return taken
        self.torn += 1
        return replace(taken, contradictions=(_TORN, *taken.contradictions))

    def _take(self, touched: Collection[Address] | None, *, anew: bool = False) -> _Take:
        changes = self._changes()
        tree = self._open_tree()
        sent = tree.text(_SENT)
        reader = RememberingReader(tree, self._known, touched, anew=anew)
        groups = None if touched is None or self._last is None else self._last.groups
        snapshot = take_snapshot(tree, kernel=self._kernel, wake=self._wake, reader=reader, known_groups=groups)
        self._known = reader.learned
        self.config_reads += snapshot.config_reads
        after = self._open_tree()
        silent = touched is not None and sent is not None and after.text(_SENT) == sent
        changed = self._changes() != changes or not (silent or _lists_equal(after, snapshot))
        return _Take(snapshot, changed)


@dataclass(frozen=True, slots=True)
class _Take:
    snapshot: Snapshot
    changed: bool
    """Whether the machine is known to have changed from the beginning to the end."""


def _lists_equal(tree: Tree, snapshot: Snapshot) -> bool:
    """Whether the machine still has those functions, in those groups and at those IOMMUs."""
    functions = {one.address for one in snapshot.functions}
    groups = snapshot.groups if snapshot.groups_listed else None
    return (
        functions == {one for name in tree.list(DEVICES) or () if (one := Address.from_name(name)) is not None}
        and groups == read_groups(tree, groups)
        and snapshot.iommus == read_iommus(tree)
    )


def _sharing(new: Snapshot, old: Snapshot) -> Snapshot:
    """The new snapshot, made of the old one's facts wherever they are equal: memory holds them once."""
    before: dict[Address, PciFunction] = {one.address: one for one in old.functions}
    return replace(
        new,
        functions=tuple(_same(one, before.get(one.address)) for one in new.functions),
        groups={number: _same(one, old.groups.get(number)) for number, one in new.groups.items()},
        tables=_same(new.tables, old.tables),
        device_tree=_same(new.device_tree, old.device_tree),
    )


def _same(new: _Fact, old: _Fact | None) -> _Fact:
    return old if old is not None and old == new else new
