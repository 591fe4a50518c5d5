# SPDX-License-Identifier: GPL-2.0-or-later
"""Ranges of a table that claim the same IDs: found in one sweep, so that a hostile table costs no more than a sort."""

import bisect
import heapq
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Area:
    """What an entry claims: columns `left` to `right` (IDs) of rows `top` to `bottom` (segments), all included."""

    left: int
    right: int
    top: int = 0
    bottom: int = 0


@dataclass(slots=True)
class _Sweep:
    """The areas at the line of the sweep. No two of them share a row, so that their rows are in one order."""

    areas: Sequence[Area]
    rows: list[tuple[int, int, int]] = field(default_factory=list)
    ends: list[tuple[int, int]] = field(default_factory=list)

    def leave(self, column: int) -> None:
        """Forget the areas that end before this column."""
        while self.ends and self.ends[0][0] < column:
            _, index = heapq.heappop(self.ends)
            row = (self.areas[index].top, self.areas[index].bottom, index)
            del self.rows[bisect.bisect_left(self.rows, row)]

    def meet(self, index: int) -> int | None:
        """An area that shares a row with this one; without one it joins them."""
        area = self.areas[index]
        place = bisect.bisect_left(self.rows, (area.top, area.bottom, index))
        if place < len(self.rows) and self.rows[place][0] <= area.bottom:
            return self.rows[place][2]
        if place and self.rows[place - 1][1] >= area.top:
            return self.rows[place - 1][2]
        self.rows.insert(place, (area.top, area.bottom, index))
        heapq.heappush(self.ends, (area.right, index))
        return None


def overlaps(areas: Sequence[Area]) -> Iterator[tuple[int, int]]:
    """Pairs of indices, the lower first, of areas that share a cell; empty areas share none.

    An area is named at most once as the one that is met; not every pair is told, but none only where there is none.
    """
    sweep = _Sweep(areas)
    whole = (index for index, one in enumerate(areas) if one.left <= one.right and one.top <= one.bottom)
    for index in sorted(whole, key=lambda index: areas[index].left):
        sweep.leave(areas[index].left)
        other = sweep.meet(index)
        if other is not None:
            yield min(index, other), max(index, other)


def joined(ranges: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """The same numbers as ranges that neither overlap nor touch, in order."""
    found: list[tuple[int, int]] = []
    for first, last in sorted(ranges):
        if found and first <= found[-1][1] + 1:
            found[-1] = (found[-1][0], max(found[-1][1], last))
        else:
            found.append((first, last))
    return found
