# SPDX-License-Identifier: GPL-2.0-or-later
"""Bursts of triggers: when they lead to action, and that none is lost."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iommud.daemon.coalesce import Coalescer

seconds = st.floats(min_value=0, max_value=1000, allow_nan=False)
# The gaps between triggers, most of them about as long as the quiet times below.
gaps = st.lists(st.floats(min_value=0, max_value=3, allow_nan=False), min_size=1, max_size=60)


@st.composite
def delays(draw: st.DrawFn) -> tuple[float, float]:
    quiet = draw(st.floats(min_value=0, max_value=2))
    return quiet, quiet + draw(st.floats(min_value=0, max_value=8))


def test_a_lone_trigger_is_acted_upon_after_the_quiet_time() -> None:
    coalescer = Coalescer(quiet=0.2, maximum=2)

    coalescer.trigger(10.0, "uevent")

    assert coalescer.next_deadline() == pytest.approx(10.2)
    assert coalescer.due(10.1) is None
    assert coalescer.due(10.2) == frozenset({"uevent"})


def test_without_a_trigger_nothing_is_due() -> None:
    coalescer = Coalescer(quiet=0, maximum=0)

    assert coalescer.next_deadline() is None
    assert coalescer.due(math.inf) is None


def test_what_was_acted_upon_is_forgotten() -> None:
    coalescer = Coalescer(quiet=0, maximum=0)
    coalescer.trigger(1, "polling")

    assert coalescer.due(1) == frozenset({"polling"})
    assert coalescer.due(99) is None
    assert coalescer.next_deadline() is None


def test_triggers_that_never_pause_are_acted_upon_after_the_maximum() -> None:
    coalescer = Coalescer(quiet=1, maximum=3)

    for now in (0.0, 0.9, 1.8, 2.7):
        coalescer.trigger(now, "uevent")

    assert coalescer.next_deadline() == 3
    assert coalescer.due(2.99) is None
    assert coalescer.due(3) == frozenset({"uevent"})


def test_the_reasons_of_a_burst_come_together() -> None:
    coalescer = Coalescer(quiet=1, maximum=3)

    for now, reason in ((0, "uevent"), (0.1, "polling"), (0.2, "uevent"), (0.3, "reconcile")):
        coalescer.trigger(now, reason)

    assert coalescer.due(5) == frozenset({"uevent", "polling", "reconcile"})


@pytest.mark.parametrize(("quiet", "maximum"), [(-1, 1), (2, 1), (math.nan, 1), (0, math.nan), (0, math.inf)])
def test_delays_without_sense_are_refused(quiet: float, maximum: float) -> None:
    with pytest.raises(ValueError, match="quiet time"):
        Coalescer(quiet=quiet, maximum=maximum)


@given(delays(), seconds, gaps)
def test_action_comes_in_time_and_never_before_the_quiet_time(
    limits: tuple[float, float], start: float, pauses: list[float]
) -> None:
    quiet, maximum = limits
    coalescer = Coalescer(quiet=quiet, maximum=maximum)
    now = first = start
    for pause in pauses:
        coalescer.trigger(now, "uevent")
        deadline = coalescer.next_deadline()

        assert deadline is not None
        assert deadline == min(now + quiet, first + maximum)
        assert coalescer.due(math.nextafter(deadline, -math.inf)) is None
        now += pause
        if coalescer.due(now) is not None:
            assert now >= deadline
            first = now
        else:
            assert now < deadline


@given(delays(), st.lists(st.tuples(seconds, st.sampled_from(["uevent", "polling", "reconcile"])), max_size=60))
def test_no_reason_is_lost_and_none_is_invented(limits: tuple[float, float], triggers: list[tuple[float, str]]) -> None:
    coalescer = Coalescer(quiet=limits[0], maximum=limits[1])
    pending: set[str] = set()
    for now, reason in sorted(triggers):
        acted = coalescer.due(now)
        if acted is not None:
            assert acted == pending
            pending = set()
        coalescer.trigger(now, reason)
        pending.add(reason)

    assert (coalescer.due(math.inf) or frozenset()) == pending


@given(delays(), st.integers(min_value=1, max_value=300), st.floats(min_value=0, max_value=0.1))
def test_a_steady_storm_is_acted_upon_about_once_in_the_maximum(
    limits: tuple[float, float], count: int, gap: float
) -> None:
    quiet, maximum = limits[0] + 0.2, limits[1] + 0.2
    coalescer = Coalescer(quiet=quiet, maximum=maximum)
    acted = 0
    for index in range(count):
        coalescer.trigger(index * gap, "uevent")
        acted += coalescer.due(index * gap) is not None

    assert acted <= count * gap / maximum + 1e-6
