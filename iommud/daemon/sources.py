# SPDX-License-Identifier: GPL-2.0-or-later
"""What the daemon watches, as one thing: uevents and groups, each of which can be switched off or fail."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from iommud.daemon.settings import Settings
from iommud.daemon.uevents import Uevent, UeventSource
from iommud.files import Tree
from iommud.tree import open_live

if TYPE_CHECKING:
    from iommud.daemon.polling import PollingSource

__all__ = ["Sources", "open_tree"]

UEVENTS, GROUPS = "uevents", "groups"
_ATTRIBUTE_SIZE = 4096
"""Bytes that sysfs claims of every attribute, whatever it holds: one page (sysfs_add_file_mode_ns())."""


def open_tree(settings: Settings) -> Tree:
    """The files of the machine that is to be read, as they are now. Raises SourceError."""
    if settings.source is None:
        return open_live(settings.sysfs, settings.procfs)
    from iommud.archive import open_source  # noqa: PLC0415 - the daemon of a machine needs no readers of archives

    return open_source(settings.source)


class Sources:
    """The sources that are switched on; to be used in the loop's thread, but for numbers, which any may read."""

    def __init__(
        self,
        settings: Settings,
        loop: asyncio.AbstractEventLoop,
        *,
        on_uevents: Callable[[Sequence[Uevent], bool], None],
        on_groups: Callable[[], None],
    ) -> None:
        self._loop = loop
        self._on_uevents = on_uevents
        self._on_groups = on_groups
        self._uevents: UeventSource | None = None
        self._groups: PollingSource | None = None
        # The kernel's events say nothing of a machine that lies in a directory.
        if settings.watch_uevents and settings.source is None and is_sysfs(settings.sysfs):
            self._uevents = UeventSource()
        if settings.watch_groups and settings.source is None:
            from iommud.daemon.polling import PollingSource  # noqa: PLC0415 - loads watchdog

            self._groups = PollingSource(self._from_thread, sysfs=settings.sysfs, interval=settings.poll_interval)

    def start(self) -> None:
        """Begin to watch."""
        if self._uevents is not None:
            self._uevents.watch(self._loop, self._on_uevents)
        if self._groups is not None:
            self._groups.start()

    def stop(self) -> None:
        """End, but for threads that may be stuck: they do not keep a process from ending."""
        if self._uevents is not None:
            self._uevents.close()

    def check(self) -> None:
        """Start anew what has died."""
        if self._groups is not None:
            self._groups.check()

    def up(self) -> Mapping[str, bool]:
        """Whether each source is up."""
        watched = {UEVENTS: self._uevents, GROUPS: self._groups}
        return {name: source.up for name, source in watched.items() if source is not None}

    def problem(self, name: str) -> str | None:
        """Why a source is not up."""
        source = self._uevents if name == UEVENTS else self._groups
        return None if source is None else source.problem

    @property
    def hears_uevents(self) -> bool:
        """Whether what happens to a function is told; if not, anything may have happened to any."""
        return self._uevents is not None and self._uevents.up

    def structural_changes(self) -> int:
        """See UeventSource."""
        return 0 if self._uevents is None else self._uevents.structural_changes

    def uevent_counts(self) -> Mapping[str, int]:
        """Events by action."""
        return {} if self._uevents is None else dict(self._uevents.events)

    @property
    def overruns(self) -> int:
        """Times that the kernel dropped events."""
        return 0 if self._uevents is None else self._uevents.overruns

    @property
    def monitor_restarts(self) -> int:
        """Times that the uevent monitor was replaced."""
        return 0 if self._uevents is None else self._uevents.restarts

    def _from_thread(self) -> None:
        with suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(self._on_groups)


def is_sysfs(path: str) -> bool:
    """Whether the running kernel's sysfs lies there, and not a copy: its attributes claim a page and fill no block."""
    if path.rstrip("/") == "/sys":
        return True
    try:
        found = os.stat(f"{path}/kernel/uevent_seqnum")  # noqa: PTH116 - a string, as everywhere here
    except (OSError, ValueError):
        return False
    return found.st_size == _ATTRIBUTE_SIZE and found.st_blocks == 0
