# SPDX-License-Identifier: GPL-2.0-or-later
"""Durations as people write them, and settings that survive the way into the daemon's process."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iommud.daemon.settings import Settings, parse_duration


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("5m", 300),
        ("90s", 90),
        ("1h", 3600),
        ("1h30m", 5400),
        ("250ms", 0.25),
        ("1.5s", 1.5),
        ("2d", 172800),
        ("0s", 0),
        ("0", 0),
        ("3.5", 3.5),
        (" 7 ", 7),
    ],
)
def test_durations_are_read_as_prometheus_writes_them(text: str, seconds: float) -> None:
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", " ", "m", "5m3h", "-5m", "5 m", "5minutes", "1e3", "nan"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is no duration"):
        parse_duration(text)


@given(st.text(alphabet="0123456789dhms.- ", max_size=8))
def test_any_text_is_a_duration_or_refused_by_name(text: str) -> None:
    problem = repr(text)
    try:
        found = parse_duration(text)
    except ValueError as error:
        problem, found = str(error), 0.0
    assert found >= 0
    assert repr(text) in problem


@given(
    st.builds(
        Settings,
        collect=st.booleans(),
        sysfs=st.text(),
        listen=st.lists(st.text()).map(tuple),
        state_directory=st.none() | st.text(),
        reconcile_interval=st.floats(1, 1e6),
        quiet=st.floats(0, 10),
    )
)
def test_settings_arrive_as_they_were_sent(settings: Settings) -> None:
    assert Settings.from_json(settings.to_json()) == settings


def test_settings_that_nobody_knows_are_refused() -> None:
    with pytest.raises(ValueError, match="unknown settings: colour"):
        Settings.from_json('{"colour": "red"}')


@pytest.mark.parametrize(
    ("settings", "seconds"),
    [
        (Settings(), 900),
        (Settings(reconcile_interval=2), 60),
        (Settings(reconcile_interval=3600), 10800),
        (Settings(stale_after=5), 5),
    ],
)
def test_a_report_is_stale_after_three_missed_reconciles(settings: Settings, seconds: float) -> None:
    assert settings.staleness == seconds
