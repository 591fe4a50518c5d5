# SPDX-License-Identifier: GPL-2.0-or-later
"""Reports for bug trackers."""

import itertools
import re
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iommud.kernel import identify
from iommud.render.markdown import escaped, render_failure_markdown, render_markdown
from iommud.verdict.findings import Kind, Severity
from iommud.verdict.report import Failure
from tests.render.samples import (
    FOUNDING,
    HEALTHY,
    HOSTILE,
    NAMES,
    NO_GROUPS,
    cause,
    explained,
    finding,
    foreign,
    hostile,
    no_iommu,
    report_of,
    undecidable,
    unexplained,
    with_findings,
)


@pytest.mark.parametrize("name", [FOUNDING, NO_GROUPS, HEALTHY])
def test_the_markdown_of_a_capture_stays_as_it_is(name: str, golden: Callable[[str, str], None]) -> None:
    golden(f"render/markdown/{name}.md", render_markdown(report_of(name), names=NAMES))


@given(st.text())
def test_an_escaped_string_stays_on_one_line(text: str) -> None:
    assert escaped(text).isprintable()


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("<b>&", "&#60;b&#62;&#38;"),
        ("a|b", "a\\|b"),
        ("`code`", "\\`code\\`"),
        ("[8086:100e]", "\\[8086:100e\\]"),
        ("snd_hda_intel", "snd_hda_intel"),
        ("_emphasis_", "\\_emphasis\\_"),
        ("@user #1", "&#64;user &#35;1"),
        ("http://x www.x.org", "http:&#47;&#47;x www&#46;x.org"),
        ("a\\b", "a\\\\b"),
        ("\x1b[0m", "\\\\x1b\\[0m"),
    ],
)
def test_what_markdown_would_take_for_its_own_is_escaped(text: str, written: str) -> None:
    assert escaped(text) == written


def test_foreign_strings_break_no_table_and_open_no_element() -> None:
    text = render_markdown(hostile())
    widths = {line.count(" | ") for line in text.splitlines() if line.startswith("| ") and "`" in line}

    assert "<script" not in text
    assert "\x1b" not in text
    assert "@user" not in text
    assert widths <= {0, 1, 2, 3, 4}
    assert "<code>" in text


def test_every_table_has_as_many_cells_in_each_row_as_in_its_head() -> None:
    for table in re.findall(r"(?:^\|.*\n)+", render_markdown(report_of(FOUNDING), names=NAMES), re.MULTILINE):
        assert len({row.count(" | ") for row in table.splitlines()}) == 1


def test_long_lists_are_cut_and_counted() -> None:
    devices = [f"{bus:02x}:{device:02x}.0" for bus in range(10) for device in range(32)]
    report = with_findings(finding(Kind.INCONSISTENT, Severity.WARNING, *devices))

    assert "\nand 120 more.\n" in render_markdown(report)


def test_an_unreadable_kernel_is_said_aloud_and_broken_firmware_as_evidence() -> None:
    report = replace(report_of(HEALTHY), kernel=identify(None, None), notes=("no kernel", "DMAR is cut off"))

    text = render_markdown(report)

    assert "\nNote: no kernel.\n" in text
    assert "- firmware: DMAR is cut off\n" in text


def test_without_an_iommu_the_report_says_why() -> None:
    assert "the kernel was not asked to use them" in render_markdown(no_iommu())


def test_bounds_are_shown_where_the_groups_cannot_be_decided() -> None:
    text = render_markdown(undecidable())

    assert "| at the least expected |" in text
    assert "incomplete" in text


def test_what_is_not_judged_is_not_called_right_or_wrong() -> None:
    assert "| 0 | `0000:00:03.0` |  |" in render_markdown(foreign())


def test_a_finding_says_why_by_which_evidence_and_what_to_do() -> None:
    report = report_of(FOUNDING)
    text = render_markdown(report)

    for one in itertools.chain.from_iterable(report.causes.values()):
        assert f"**Because** {escaped(one.summary)}." in text
        assert all(f"\n- {escaped(line)}\n" in text for line in one.evidence)
        assert f"**What to do:** {escaped(one.remedy)}." in text
        assert f"`docs/causes/{one.id}.md`" in text
    assert "(basis: replay, since Linux 5.14, until Linux 6.4," in text


def test_foreign_strings_in_a_cause_stay_text() -> None:
    text = render_markdown(explained(cause()))

    assert "something happened" in text
    assert "<script" not in text
    assert "@user" not in text


def test_a_finding_that_should_have_a_cause_and_has_none_says_so() -> None:
    assert "**Unexplained:** no cause that iommud knows gives exactly these groups." in render_markdown(unexplained())
    assert "Unexplained" not in render_markdown(report_of(FOUNDING))
    assert "Unexplained" not in render_markdown(undecidable().filtered(only=[Kind.INCONSISTENT]))
    assert "Unexplained" not in render_markdown(with_findings(finding(Kind.INCONSISTENT, Severity.INFO, "00:1f.0")))


def test_a_source_that_cannot_be_read_is_a_section() -> None:
    text = render_failure_markdown(Failure("x", HOSTILE))

    assert text.startswith("## IOMMU groups: error\n")
    assert "<script" not in text
