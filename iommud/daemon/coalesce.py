# SPDX-License-Identifier: GPL-2.0-or-later
"""Many reasons to look again become one look: bursts end in a single rebuild, and endless ones in regular rebuilds."""

from __future__ import annotations

__all__ = ["Coalescer"]


class Coalescer:
    """Decides when to act on triggers, from times that the caller passes in.

    The moment has come when no trigger arrived for ``quiet`` seconds, and at the latest ``maximum`` seconds after the
    first one. All times are seconds of one clock that never goes back, as ``time.monotonic()`` gives them. Raises
    ValueError unless 0 <= quiet <= maximum, both finite.
    """

    def __init__(self, *, quiet: float, maximum: float) -> None:
        if not 0 <= quiet <= maximum < float("inf"):
            raise ValueError(f"quiet time {quiet} s and maximum delay {maximum} s: wanted 0 <= quiet <= maximum")
        self._quiet = quiet
        self._maximum = maximum
        self._reasons: set[str] = set()
        self._first = 0.0
        self._last = 0.0

    def trigger(self, now: float, reason: str) -> None:
        """Note that there is a reason to act."""
        if not self._reasons:
            self._first = self._last = now
        self._last = max(self._last, now)
        self._reasons.add(reason)

    def next_deadline(self) -> float | None:
        """When ``due`` will give reasons unless more triggers come; None without any trigger."""
        if not self._reasons:
            return None
        return min(self._last + self._quiet, self._first + self._maximum)

    def due(self, now: float) -> frozenset[str] | None:
        """The reasons collected, which are then forgotten, if the moment has come; else None."""
        deadline = self.next_deadline()
        if deadline is None or now < deadline:
            return None
        reasons = frozenset(self._reasons)
        self._reasons.clear()
        return reasons
