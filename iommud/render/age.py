# SPDX-License-Identifier: GPL-2.0-or-later
"""How old a report is, in words: the one thing on a page that changes while the report does not."""

from __future__ import annotations

AGE_TOKEN = "<!--age-->"  # noqa: S105 - no password
"""Stands in a rendered page where the age goes. No text from outside can hold it: there ``<`` is escaped."""

_UNITS = ((86400, "day"), (3600, "hour"), (60, "minute"), (1, "second"))


def age_words(seconds: float) -> str:
    """``12 seconds``, ``3 minutes``, ``2 days``: the largest unit that fits, rounded down.

    A clock that was set back gives a negative age, which is told as ``0 seconds``.
    """
    whole = max(int(seconds), 0)
    size, unit = next((one for one in _UNITS if whole >= one[0]), _UNITS[-1])
    number = whole // size
    return f"{number} {unit}" if number == 1 else f"{number} {unit}s"


def age_line(seconds: float, *, stale: bool) -> str:
    """One sentence on the age of a report, with what a stale one means."""
    if stale:
        return f"Stale: this report is {age_words(seconds)} old, and the collector has not renewed it."
    return f"This report is {age_words(seconds)} old."


def age_html(seconds: float, *, stale: bool) -> str:
    """What replaces the token: a fresh report's age in passing, a stale one's as a warning."""
    if stale:
        return f'<p class="stale" role="status">{age_line(seconds, stale=True)}</p>'
    return f'<p class="age">{age_line(seconds, stale=False)}</p>'
