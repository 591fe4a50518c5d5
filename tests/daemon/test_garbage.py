# SPDX-License-Identifier: GPL-2.0-or-later
"""The search for circles of garbage stands still during a rebuild, and finds in the end what there is."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator

import pytest

from iommud.daemon.garbage import GarbageKeeper


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    yield
    gc.unfreeze()
    gc.enable()


class Circle:
    """Holds itself."""

    def __init__(self) -> None:
        self.own = self


def test_nothing_is_searched_during_a_rebuild() -> None:
    with GarbageKeeper().spared():
        assert not gc.isenabled()
    assert gc.isenabled()


def test_the_search_goes_on_after_a_rebuild_that_failed() -> None:
    with pytest.raises(ValueError, match="broken"), GarbageKeeper().spared():
        raise ValueError("broken")
    assert gc.isenabled()


def test_what_a_rebuild_leaves_is_not_searched_again() -> None:
    before = gc.get_freeze_count()
    with GarbageKeeper().spared():
        kept = [[] for _ in range(1000)]  # type: ignore[var-annotated] # empty

    assert gc.get_freeze_count() >= before + len(kept)


def test_circles_that_were_made_between_rebuilds_are_found_by_the_next_one() -> None:
    keeper = GarbageKeeper()
    with keeper.spared():
        pass
    gone = weakref.ref(Circle())
    with keeper.spared():
        found = gone() is None

    assert found


def test_circles_that_were_made_during_a_rebuild_are_found_in_the_end() -> None:
    keeper = GarbageKeeper(seldom=3)
    found = []
    with keeper.spared():
        gone = weakref.ref(Circle())
    for _ in range(2):
        found.append(gone() is None)
        with keeper.spared():
            pass
    found.append(gone() is None)

    assert found == [False, False, True]


def test_many_circles_are_found_soon() -> None:
    keeper = GarbageKeeper(often=2)
    with keeper.spared():
        pass
    with keeper.spared():
        many = [Circle() for _ in range(gc.get_freeze_count())]
        gone = weakref.ref(many[0])
        del many
        found = [gone() is None]
    found.append(gone() is None)

    assert found == [False, True]
