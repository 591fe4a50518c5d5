# SPDX-License-Identifier: GPL-2.0-or-later
"""Keep the search for circles of garbage away from rebuilds: it would go through all facts of a machine each time.

With 10,000 functions that is 50 ms in which nobody is served, and nothing is ever found: a report holds no circles.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["GarbageKeeper"]

_SELDOM = 500
"""Rebuilds after which everything is looked at once, for circles that others have made meanwhile."""
_OFTEN = 20
"""Rebuilds after which it is looked at if there is much more than there was."""
_MUCH = 1.5


class GarbageKeeper:
    """Switches the search off during rebuilds, and takes what they leave out of it afterwards.

    What others have made between two rebuilds is searched before the next one, which takes no time: all else is out
    of it. What they make during a rebuild stays until everything is looked at, so that is done sooner if it is much.
    """

    def __init__(self, *, seldom: int = _SELDOM, often: int = _OFTEN) -> None:
        self._seldom = seldom
        self._often = often
        self._rebuilds = 0
        self._settled: int | None = None

    @contextmanager
    def spared(self) -> Iterator[None]:
        """For the length of one rebuild."""
        gc.collect()
        gc.disable()
        try:
            yield
        finally:
            self._rebuilds += 1
            gc.freeze()
            due = self._is_due()
            if due:
                gc.unfreeze()
                gc.collect()
                gc.freeze()
            gc.enable()
            if due or self._settled is None:
                self._settled = gc.get_freeze_count()

    def _is_due(self) -> bool:
        if self._rebuilds % self._seldom == 0:
            return True
        if self._rebuilds % self._often or self._settled is None:
            return False
        return gc.get_freeze_count() > _MUCH * self._settled
