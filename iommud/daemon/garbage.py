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
"""Rebuilds after which everything is looked at once, for circles that others have made."""


class GarbageKeeper:
    """Switches the search off during rebuilds, and takes what they leave out of it afterwards."""

    def __init__(self, *, seldom: int = _SELDOM) -> None:
        self._seldom = seldom
        self._rebuilds = 0

    @contextmanager
    def spared(self) -> Iterator[None]:
        """For the length of one rebuild."""
        gc.disable()
        try:
            yield
        finally:
            self._rebuilds += 1
            if self._rebuilds % self._seldom == 0:
                gc.unfreeze()
                gc.collect()
            gc.freeze()
            gc.enable()
