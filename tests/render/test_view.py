# SPDX-License-Identifier: GPL-2.0-or-later
"""What is known of one function, in words."""

from dataclasses import replace
from typing import Any

import pytest

from iommud.render.view import View, class_words, name_of, short_vendor, tail_of, wanted_names
from iommud.render.words import listing, plural
from tests.render.samples import FOUNDING, NAMES, at, function, report_of


@pytest.mark.parametrize(
    ("name", "short"),
    [
        ("Intel Corporation", "Intel"),
        ("Red Hat, Inc.", "Red Hat"),
        ("Advanced Micro Devices, Inc. [AMD/ATI]", "AMD/ATI"),
        ("Samsung Electronics Co Ltd", "Samsung Electronics"),
        ("Plain", "Plain"),
        ("Odd [bracket", "Odd [bracket"),
    ],
)
def test_companies_go_without_their_legal_form(name: str, short: str) -> None:
    assert short_vendor(name) == short


@pytest.mark.parametrize(
    ("facts", "name", "tail"),
    [
        ({"vendor": 0x8086, "device": 0x100E}, "Intel 82540EM Gigabit Ethernet Controller", ""),
        ({"vendor": 0x8086, "device": 0xFFFF}, "Intel Ethernet controller", " [8086:ffff]"),
        ({"vendor": 0xFFFF, "device": 1, "driver": "x"}, "Ethernet controller", " [ffff:0001] (x)"),
        ({"vendor": None, "device": None, "class_code": None}, "", ""),
        ({"vendor": 0x8086, "device": None, "class_code": None}, "Intel", ""),
    ],
)
def test_a_function_is_named_by_what_is_known(facts: dict[str, Any], name: str, tail: str) -> None:
    one = function("00:03.0", **facts)

    assert (name_of(one, NAMES), tail_of(one, NAMES, numbers=False)) == (name, tail)


@pytest.mark.parametrize(("code", "words"), [(0x020000, "Ethernet controller"), (0x123456, "class 1234")])
def test_classes_have_words_without_any_database(code: int, words: str) -> None:
    assert class_words(function("00:03.0", class_code=code), None) == words


def test_an_address_that_nobody_knows_has_no_name() -> None:
    view = View.of(report_of(FOUNDING))

    assert view.title(at("7f:00.0")) == ""
    assert view.type_words(at("7f:00.0")) == ""
    assert view.unasked(at("7f:00.0"))


def test_names_are_wanted_of_every_function_with_numbers() -> None:
    report = report_of(FOUNDING)

    assert (0x8086, 0x100E) in wanted_names([report])
    assert wanted_names([replace(report, analysis=None)]) == set()


@pytest.mark.parametrize(
    ("items", "text"),
    [("", ""), ("a", "a"), ("ab", "a and b"), ("abcde", "a, b, c, d and e"), ("abcdefg", "a, b, c, d and 3 more")],
)
def test_lists_read_like_sentences_and_never_hide_a_single_item(items: str, text: str) -> None:
    assert listing(list(items)) == text


@pytest.mark.parametrize(("number", "text"), [(0, "0 groups"), (1, "1 group"), (2, "2 groups")])
def test_one_is_singular(number: int, text: str) -> None:
    assert plural(number, "group") == text
