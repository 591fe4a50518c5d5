# SPDX-License-Identifier: GPL-2.0-or-later
"""What `iommud check` prints for a person."""

import re
from collections.abc import Callable
from dataclasses import replace

import pytest

from iommud.kernel import identify
from iommud.render.style import Style
from iommud.render.text import render_failure_text, render_text
from iommud.verdict.findings import Kind, Severity
from iommud.verdict.report import Failure, Report
from tests.render.samples import (
    ALIAS_SPLIT,
    FOUNDING,
    HEALTHY,
    HOSTILE,
    NAMES,
    NO_GROUPS,
    SMMU,
    SWITCH,
    finding,
    foreign,
    hostile,
    merged,
    no_iommu,
    report_of,
    undecidable,
    with_findings,
)

WIDE = Style(width=80)


@pytest.mark.parametrize("name", [FOUNDING, ALIAS_SPLIT, NO_GROUPS, SMMU, SWITCH, HEALTHY])
def test_the_text_of_a_capture_stays_as_it_is(name: str, golden: Callable[[str, str], None]) -> None:
    golden(f"render/text/{name}.txt", render_text(report_of(name), style=WIDE, names=NAMES))


@pytest.mark.parametrize("name", [FOUNDING, NO_GROUPS])
def test_the_evidence_of_a_capture_stays_as_it_is(name: str, golden: Callable[[str, str], None]) -> None:
    golden(f"render/verbose/{name}.txt", render_text(report_of(name), style=WIDE, names=NAMES, verbose=True))


def test_a_healthy_machine_is_a_single_line() -> None:
    text = render_text(report_of(HEALTHY), style=WIDE)

    assert text == "ok: nothing wrong; 7 functions in 3 groups, kernel 6.12.95+deb12-amd64, intel IOMMU\n"


def test_every_line_keeps_to_the_width() -> None:
    text = render_text(report_of(FOUNDING), style=WIDE, names=NAMES, verbose=True)

    assert max(map(len, text.splitlines()[1:])) <= 80


def test_colour_changes_nothing_but_colour() -> None:
    coloured = render_text(report_of(FOUNDING), style=replace(WIDE, colour=True), names=NAMES, verbose=True)

    assert "\x1b[1;31m" in coloured
    assert re.sub(r"\x1b\[[0-9;]*m", "", coloured) == render_text(
        report_of(FOUNDING), style=WIDE, names=NAMES, verbose=True
    )


def test_with_several_sources_the_summary_names_its_own() -> None:
    text = render_text(report_of(HEALTHY), style=Style(), show_source=True)

    assert text.startswith(f"{HEALTHY}.tar.gz: ok: ")


def test_a_finding_names_devices_and_the_kernels_numbers_in_its_headline() -> None:
    text = render_text(report_of(FOUNDING), style=Style())

    assert "0000:00:02.0 (group 2) and 0000:02:00.0 (group 1) belong in one group: nothing isolates them" in text
    assert "0000:01:00.0 has no group; it belongs with 0000:00:02.0 (group 2) and 0000:02:00.0 (group 1)." in text


def test_devices_without_names_go_by_class_and_numbers() -> None:
    text = render_text(report_of(FOUNDING), style=Style())

    assert "group 1   0000:02:00.0  Ethernet controller [8086:100e] (e1000)" in text


def test_each_finding_points_at_its_page() -> None:
    text = render_text(report_of(FOUNDING), style=Style())

    assert text.count("see docs/findings/") == 2


def test_an_undecidable_machine_shows_the_remedy() -> None:
    text = render_text(undecidable(), style=Style())

    assert text.startswith("undecidable: 1 warning;")
    assert "run as root (CAP_SYS_ADMIN)" in text


def test_bounds_stand_in_for_groups_that_cannot_be_decided() -> None:
    text = render_text(undecidable(), style=Style(), verbose=True)

    assert "Expected groups at the least (unread facts could join more)" in text
    assert "incomplete: some bytes could not be read" in text


@pytest.mark.parametrize(
    ("report", "hint"),
    [
        (no_iommu(), "(intel_iommu=on)"),
        (no_iommu(cmdline="intel_iommu=off"), "the kernel command line switches the IOMMU off"),
        (no_iommu(table_names=frozenset()), "If the machine has one, switch it on in the firmware's setup"),
    ],
    ids=["not asked for", "switched off", "none described"],
)
def test_without_an_iommu_the_text_says_why_and_what_to_do(report: Report, hint: str) -> None:
    text = render_text(report, style=Style())

    assert text.startswith("no-iommu: no IOMMU is in use; 1 function, kernel 6.12.95\n")
    assert hint in text


def test_findings_without_an_iommu_are_counted() -> None:
    report = replace(no_iommu(), findings=(finding(Kind.UNISOLATED, Severity.INFO, "00:03.0"),))

    assert render_text(report, style=Style()).startswith("no-iommu: no IOMMU is in use, 1 info;")


def test_a_report_without_its_analysis_can_still_be_printed() -> None:
    bare = replace(report_of(FOUNDING), analysis=None)

    text = render_text(bare, style=Style(), verbose=True)

    assert "    group 1   0000:02:00.0\n" in text
    assert render_text(replace(no_iommu(), analysis=None), style=Style()).count("\n") == 2


def test_an_unreadable_kernel_is_said_aloud() -> None:
    unknown = identify(None, None)
    report = replace(report_of(HEALTHY), kernel=unknown, notes=("the snapshot names no kernel", "DMAR is cut off"))

    assert render_text(report, style=Style()).splitlines()[1:] == ["  note: the snapshot names no kernel"]


def test_problems_of_the_firmware_are_told_on_request() -> None:
    report = replace(report_of(HEALTHY), notes=("DMAR is cut off",))

    assert "DMAR" not in render_text(report, style=Style())
    assert "Firmware problems\n  DMAR is cut off\n" in render_text(report, style=Style(), verbose=True)


def test_a_machine_that_is_not_judged_says_so() -> None:
    text = render_text(foreign(), style=Style())

    assert text.startswith("undecidable: ")
    assert "The groups of this machine could not be judged." in text
    assert "not judged: the s390 driver" in text


def test_a_merged_group_says_that_it_is_safe() -> None:
    assert "Group 0 holds 2 functions that could be in 2 groups: safe, but inconvenient." in render_text(
        merged(), style=Style()
    )


@pytest.mark.parametrize(
    ("kind", "severity", "devices", "sentence"),
    [
        (Kind.UNGROUPED, Severity.WARNING, "00:1f.0", "0000:00:1f.0 has no group; it should have one of its own."),
        (Kind.INCONSISTENT, Severity.WARNING, "00:1f.0", "sysfs contradicts itself about 0000:00:1f.0."),
        (Kind.INCONSISTENT, Severity.WARNING, "", "sysfs contradicts itself."),
        (Kind.UNISOLATED, Severity.INFO, "07:00.0 07:01.0", "0000:07:00.0 and 0000:07:01.0 are in different groups"),
    ],
)
def test_each_kind_has_its_headline(kind: Kind, severity: Severity, devices: str, sentence: str) -> None:
    assert sentence in render_text(with_findings(finding(kind, severity, *devices.split())), style=Style())


def test_long_findings_are_cut_short_unless_asked_for() -> None:
    devices = [f"00:{number:02x}.0" for number in range(16)]
    report = with_findings(finding(Kind.UNISOLATED, Severity.INFO, *devices, reasons=5))

    short, long = (render_text(report, style=Style(), verbose=verbose) for verbose in (False, True))

    assert "    and 8 more (--verbose)\n" in short
    assert "  - and 3 further reasons (--verbose)\n" in short
    assert "--verbose" not in long
    assert "  - reason 5\n    some_function()\n" in long


def test_foreign_strings_are_harmless() -> None:
    text = render_text(hostile(), style=Style(), verbose=True, show_source=True)

    assert all(line.isprintable() for line in text.splitlines())
    assert "\\x1b[31mred\\n" in text


def test_a_source_that_cannot_be_read_is_one_harmless_line() -> None:
    text = render_failure_text(Failure("x", f"x: {HOSTILE}"), style=Style())

    assert text.startswith("error: x: \\x1b[31mred")
    assert text.count("\n") == 1
