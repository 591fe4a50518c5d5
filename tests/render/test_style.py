# SPDX-License-Identifier: GPL-2.0-or-later
"""Text as a terminal can show it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iommud.render.style import Role, Style, mark_of, role_of
from iommud.verdict.findings import Severity

words = st.text(st.characters(codec="utf-8", categories=["L", "N", "P"]), min_size=1, max_size=30)


def test_colour_is_off_unless_asked_for() -> None:
    assert Style().paint("text", Role.CRITICAL) == "text"


def test_colour_surrounds_the_text_and_ends_with_it() -> None:
    assert Style(colour=True).paint("text", Role.CRITICAL) == "\x1b[1;31mtext\x1b[0m"


@pytest.mark.parametrize(("text", "role"), [("", Role.GOOD), ("text", None)])
def test_what_has_no_role_or_no_text_gets_no_escapes(text: str, role: Role | None) -> None:
    assert Style(colour=True).paint(text, role) == text


def test_each_severity_has_a_mark_and_a_role_of_its_own() -> None:
    assert len({mark_of(severity) for severity in Severity}) == 3
    assert len({role_of(severity) for severity in Severity}) == 3


@given(st.text())
def test_no_string_drives_the_terminal(text: str) -> None:
    assert Style().clean(text).isprintable()


@given(st.text())
def test_a_terminal_without_unicode_gets_ascii(text: str) -> None:
    assert Style(unicode=False).clean(text).isascii()


@given(st.lists(words, min_size=1, max_size=30), st.integers(30, 120))
def test_wrapping_loses_no_word_and_keeps_to_the_width(text: list[str], width: int) -> None:
    lines = list(Style(width=width).wrapped(" ".join(text), first="  - "))

    assert " ".join(line[4:] for line in lines) == " ".join(text)
    assert all(len(line) <= max(width, 34) for line in lines)
    assert all(line.startswith("    ") for line in lines[1:])


def test_without_a_width_nothing_is_wrapped_or_cut() -> None:
    text = "word " * 100

    assert list(Style().wrapped(text, first="- ")) == [f"- {text}"]
    assert Style().cut(text) == text


@pytest.mark.parametrize(
    ("style", "wanted"),
    [(Style(width=20), "a rather lon… (tail)"), (Style(width=20, unicode=False), "a rather l... (tail)")],
)
def test_a_long_name_is_cut_before_its_tail(style: Style, wanted: str) -> None:
    assert style.cut("a rather long name", used=0, tail=" (tail)") == wanted


def test_a_narrow_terminal_still_gets_something() -> None:
    assert Style(width=10).cut("a rather long name", used=9) == "a rather lo…"


def test_what_fits_is_not_cut() -> None:
    assert Style(width=10).cut("0123456789") == "0123456789"
