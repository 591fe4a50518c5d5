# SPDX-License-Identifier: GPL-2.0-or-later
"""The list of groups."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from iommud.render.groups import render_groups
from iommud.render.style import Style
from iommud.verdict.findings import Kind
from tests.render.samples import FOUNDING, HEALTHY, NAMES, NO_GROUPS, SRIOV, WORKSTATION, foreign, hostile, report_of


@pytest.mark.parametrize("name", [FOUNDING, NO_GROUPS, SRIOV])
def test_the_groups_of_a_capture_stay_as_they_are(name: str, golden: Callable[[str, str], None]) -> None:
    golden(f"render/groups/{name}.txt", render_groups(report_of(name), style=Style(width=100), names=NAMES))


def test_groups_are_sorted_by_number_and_complete() -> None:
    report = report_of(WORKSTATION)
    lines = [line for line in render_groups(report, style=Style()).splitlines() if line.startswith("IOMMU Group")]

    assert len(lines) == report.functions
    assert [line[12:14].strip() for line in lines] == [
        *(str(number) for number in sorted(report.actual.number_of.values())),
        *("-" for _ in report.without),
    ]


def test_a_function_is_written_as_lspci_writes_it() -> None:
    text = render_groups(report_of(FOUNDING), style=Style(), names=NAMES)

    assert (
        "IOMMU Group 1 !! 0000:02:00.0 Ethernet controller [0200]: "
        "Intel 82540EM Gigabit Ethernet Controller [8086:100e] (e1000)\n" in text
    )


def test_functions_without_a_group_say_whether_that_is_right() -> None:
    text = render_groups(report_of(FOUNDING), style=Style())

    assert "ungrouped: expected with 0000:00:02.0 and 0000:02:00.0\n" in text
    assert "rightly none: it is the IOMMU itself (evidence: VIOT)\n" in text


def test_an_ignored_finding_leaves_the_fact() -> None:
    report = report_of(FOUNDING).filtered(ignored=[(Kind.UNGROUPED, None)])

    assert "should have one: expected with 0000:00:02.0 and 0000:02:00.0" in render_groups(report, style=Style())


def test_where_nothing_is_judged_functions_are_listed_all_the_same() -> None:
    assert "IOMMU Group -    0000:00:04.0" in render_groups(foreign(), style=Style())
    assert "not judged" in render_groups(foreign(), style=Style())


def test_foreign_strings_are_harmless() -> None:
    assert all(line.isprintable() for line in render_groups(hostile(), style=Style()).splitlines())


def test_a_report_without_its_analysis_lists_addresses() -> None:
    bare = replace(report_of(HEALTHY), analysis=None)

    assert render_groups(bare, style=Style()).startswith("IOMMU Group 0    0000:00:00.0\n")
