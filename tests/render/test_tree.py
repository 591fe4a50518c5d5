# SPDX-License-Identifier: GPL-2.0-or-later
"""The drawing of the topology."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from iommud import check
from iommud.pci import PortType
from iommud.render.style import Style
from iommud.render.tree import render_tree
from iommud.verdict.findings import Kind, Severity
from tests.render.samples import (
    FOUNDING,
    HEALTHY,
    NAMES,
    NO_GROUPS,
    ON,
    SRIOV,
    SWITCH,
    WORKSTATION,
    at,
    config,
    finding,
    function,
    hostile,
    machine,
    no_iommu,
    report_of,
    undecidable,
    with_findings,
)


@pytest.mark.parametrize("name", [FOUNDING, NO_GROUPS, SWITCH, SRIOV, WORKSTATION])
def test_the_tree_of_a_capture_stays_as_it_is(name: str, golden: Callable[[str, str], None]) -> None:
    golden(f"render/tree/{name}.txt", render_tree(report_of(name), style=Style(width=80), names=NAMES))


def test_every_function_is_drawn_once() -> None:
    report = report_of(WORKSTATION)
    text = render_tree(report, style=Style())
    analysis = report.analysis
    assert analysis is not None

    assert [text.count(str(one.address)) for one in analysis.snapshot.functions] == [1] * report.functions


def test_ascii_is_enough() -> None:
    text = render_tree(report_of(FOUNDING), style=Style(unicode=False, width=80), names=NAMES)

    assert text.isascii()
    assert "|- 0000:00:02.0       !!     2  -no-acs    root port, Intel" in text
    assert "|  `- 0000:01:00.0    !!" in text


def test_what_is_wrong_is_marked_in_place_without_colour() -> None:
    lines = render_tree(report_of(FOUNDING), style=Style()).splitlines()
    place = next(index for index, line in enumerate(lines) if "0000:01:00.0 " in line and "!!" in line)

    assert lines[place + 1].endswith("ungrouped: expected with 0000:00:02.0 and 0000:02:00.0")


def test_colour_stands_around_marks_and_complaints() -> None:
    text = render_tree(report_of(FOUNDING), style=Style(colour=True))

    assert "\x1b[1;31m!!\x1b[0m" in text
    assert "\x1b[1;31mungrouped: expected with" in text


def test_lines_keep_to_the_width() -> None:
    text = render_tree(report_of(WORKSTATION), style=Style(width=100), names=NAMES)

    assert max(map(len, text.splitlines())) <= 100


def test_virtual_functions_hang_below_their_physical_function() -> None:
    text = render_tree(report_of(SRIOV), style=Style())

    assert "│  └─ 0000:01:00.0" in text
    assert "│     ├─ 0000:01:10.0" in text


def test_a_domain_inside_a_function_hangs_below_it() -> None:
    vmd = function("00:0e.0", config(PortType.ROOT_COMPLEX_INTEGRATED_ENDPOINT), driver="vmd")
    inside = function("10000:e1:00.0", config(PortType.ENDPOINT), root=(0x10000, 0xE1), host_parent=at("00:0e.0"))
    groups = "00:0e.0 10000:e1:00.0 10000:e1:01.0"
    beside = function("10000:e1:01.0", config(PortType.ENDPOINT), root=(0x10000, 0xE1), host_parent=at("00:0e.0"))

    lines = render_tree(check(machine(vmd, inside, beside, groups=groups)), style=Style()).splitlines()

    assert lines[3] == "   └─ pci10000:e1"
    assert [line[:20] for line in lines[4:6]] == ["      ├─ 10000:e1:00", "      └─ 10000:e1:01"]


def test_a_circle_of_bridges_is_drawn_and_ends() -> None:
    report = check(
        machine(
            function("01:00.0", config(PortType.ROOT_PORT, ON), upstream=at("02:00.0"), secondary_bus=2),
            function("02:00.0", config(PortType.ROOT_PORT, ON), upstream=at("01:00.0"), secondary_bus=1),
            groups="01:00.0 | 02:00.0",
        )
    )

    text = render_tree(report, style=Style())

    assert text.count("0000:01:00.0") >= 1
    assert text.count("─ 0000:02:00.0") == 1


def test_a_chain_without_end_does_not_grow_the_lines_without_end() -> None:
    chain = [
        function(
            f"{number:02x}:00.0",
            config(PortType.ROOT_PORT, ON),
            upstream=at(f"{number - 1:02x}:00.0") if number else None,
            secondary_bus=number + 1,
            driver="x",
        )
        for number in range(200)
    ]

    text = render_tree(check(machine(*chain, groups="00:00.0")), style=Style())

    assert text.count("00.0") >= 200
    assert max(map(len, text.splitlines())) < 300


def test_findings_about_the_whole_machine_stand_above_the_tree() -> None:
    assert render_tree(report_of(NO_GROUPS), style=Style()).startswith(
        "!! no-groups: No PCI function has a group; 7 functions should have one."
    )


def test_a_finding_without_reasons_is_still_named() -> None:
    report = with_findings(finding(Kind.INCONSISTENT, Severity.WARNING, reasons=0))

    assert render_tree(report, style=Style()).startswith("!  inconsistent: sysfs contradicts itself.\n")


def test_without_an_iommu_the_tree_says_so() -> None:
    assert render_tree(no_iommu(), style=Style()).startswith("no IOMMU is in use: ")


def test_a_bridge_that_only_paths_name_is_drawn_as_such() -> None:
    below = function("01:00.0", config(PortType.ENDPOINT), upstream=at("00:01.0"))

    text = render_tree(check(machine(below, groups="01:00.0")), style=Style())

    assert "└─ 0000:00:01.0 " in text
    assert "known from the paths of other functions only" in text


def test_what_could_not_be_read_is_a_question_mark() -> None:
    lines = render_tree(undecidable(), style=Style()).splitlines()

    assert [line.split()[1:5] for line in lines[3:5]] == [
        ["0000:01:00.0", "!", "1", "?"],
        ["0000:01:00.1", "!", "1", "?"],
    ]


def test_what_nobody_needs_to_know_is_left_blank() -> None:
    line = next(one for one in render_tree(report_of(HEALTHY), style=Style()).splitlines() if "0000:00:00.0" in one)

    assert "?" not in line


def test_foreign_strings_are_harmless() -> None:
    assert all(line.isprintable() for line in render_tree(hostile(), style=Style()).splitlines())


def test_there_is_no_tree_without_the_analysis() -> None:
    assert render_tree(replace(report_of(HEALTHY), analysis=None), style=Style()) == ""
