# SPDX-License-Identifier: GPL-2.0-or-later
"""Ranges that claim the same IDs, held to the plain comparison of every pair."""

import itertools
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iommud.firmware.overlap import Area, joined, overlaps

small = st.integers(0, 12)
areas = st.lists(st.builds(Area, small, small, small, small), max_size=12)


def share(one: Area, other: Area) -> bool:
    rows = max(one.top, other.top) <= min(one.bottom, other.bottom)
    return rows and max(one.left, other.left) <= min(one.right, other.right)


@pytest.mark.parametrize(
    ("found", "pairs"),
    [
        ([], []),
        ([Area(1, 5, 0, 0), Area(6, 9, 0, 0)], []),
        ([Area(1, 5, 0, 0), Area(5, 9, 0, 0)], [(0, 1)]),
        ([Area(5, 9, 0, 0), Area(1, 5, 0, 0)], [(0, 1)]),
        ([Area(1, 5, 0, 0), Area(1, 5, 1, 1)], []),
        ([Area(1, 5, 0, 1), Area(3, 4, 1, 2), Area(1, 2, 2, 2)], [(0, 1)]),
        ([Area(1, 5, 2, 3), Area(3, 4, 0, 2)], [(0, 1)]),
        ([Area(5, 1, 0, 0), Area(0, 9, 0, 0)], []),
        ([Area(0, 1, 0, 0), Area(2, 3, 0, 0), Area(3, 4, 0, 0), Area(4, 5, 0, 0)], [(1, 2)]),
    ],
)
def test_areas_that_share_a_cell_are_told_in_pairs(found: list[Area], pairs: list[tuple[int, int]]) -> None:
    assert list(overlaps(found)) == pairs


@given(areas)
def test_pairs_are_told_only_of_areas_that_share_and_some_where_any_do(found: list[Area]) -> None:
    told = list(overlaps(found))

    assert all(one < other and share(found[one], found[other]) for one, other in told)
    assert bool(told) == any(share(one, other) for one, other in itertools.combinations(found, 2))


def test_many_areas_cost_little_more_than_a_sort() -> None:
    found = [Area(number, 1 << 20, number % 7, number % 7) for number in range(50_000)]
    start = time.process_time()

    assert len(list(overlaps(found))) == len(found) - 7
    assert time.process_time() - start < 5


@given(st.lists(st.tuples(small, small)))
def test_joined_ranges_hold_the_same_numbers_in_order_and_apart(ranges: list[tuple[int, int]]) -> None:
    upright = [(min(pair), max(pair)) for pair in ranges]
    found = joined(upright)

    assert {n for first, last in found for n in range(first, last + 1)} == {
        n for first, last in upright for n in range(first, last + 1)
    }
    assert all(one[1] + 1 < other[0] for one, other in itertools.pairwise(found))
