# SPDX-License-Identifier: GPL-2.0-or-later
"""Wanted groups: what a file may say, and which of the kernel's groups deviate."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from iommud.address import Address
from iommud.api import check_sysfs
from iommud.render.json import report_document
from iommud.verdict.expectation import Expectation, with_deviations
from iommud.verdict.findings import Finding, Kind
from iommud.verdict.report import Report, Status
from iommud.verdict.state import State

CAPTURES = sorted((Path(__file__).parent.parent / "fixtures" / "captures").glob("*.tar.gz"))
NIC = Address.parse("02:00.0")
BEHIND_THE_BRIDGE = (
    "0000:02:00.0 lies below 0000:01:00.0, a PCIe-to-PCI bridge that passes its requests on as 0000:02:00.0"
)
PORT, BRIDGE = Address.parse("00:02.0"), Address.parse("01:00.0")


@pytest.fixture(scope="module")
def report() -> Report:
    """Groups {00:00.0}, {00:02.0 01:00.0 02:00.0}, {00:1f.0 00:1f.2 00:1f.3}, all as they should be."""
    return check_sysfs(str(next(path for path in CAPTURES if path.name.startswith("6.12-amd64-intel-seed-q7.2"))))


def found(report: Report, text: str) -> list[Finding]:
    return list(with_deviations(report, Expectation.of_list(text, "wanted")).findings)


def said(report: Report, text: str) -> list[str]:
    return [reason.text for one in found(report, text) for reason in one.reasons]


@pytest.mark.parametrize("path", CAPTURES, ids=lambda path: path.name.removesuffix(".tar.gz"))
def test_a_machine_is_as_its_own_report_wants_it(path: Path) -> None:
    report = check_sysfs(str(path))
    document = json.loads(json.dumps(report_document(report)))

    assert with_deviations(report, Expectation.of_state(State.of(report))) == report
    assert with_deviations(report, Expectation.of_state(State.of_document(document, "good.json"))) == report


@pytest.mark.parametrize(
    "text",
    [
        "# a comment\n\n00:00.0",
        "00:00.0",
        "02:00.0 00:02.0 01:00.0 # in any order",
        "0000:00:1f.0\t00:1f.2  00:1f.3\r\n00:00.0\n",
        "without 00:1a.0",
        "without\n00:00.0",
    ],
)
def test_a_list_that_holds_gives_no_finding_and_binds_only_what_it_names(report: Report, text: str) -> None:
    assert found(report, text) == []


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "02:00.0",
            [
                "wanted wants 0000:02:00.0 in a group of its own",
                "the kernel has in their group besides: 0000:00:02.0 0000:01:00.0",
                BEHIND_THE_BRIDGE,
            ],
        ),
        (
            "02:00.0 00:02.0 01:00.0 00:00.0",
            [
                "wanted wants one group of 0000:00:00.0 0000:00:02.0 0000:01:00.0 0000:02:00.0",
                "they are in 2 groups here",
                "no rule of the kernel's puts 0000:00:00.0 and 0000:00:02.0 into one group",
            ],
        ),
        ("0a:00.0", ["wanted wants 0000:0a:00.0 in a group of its own", "not on this machine: 0000:0a:00.0"]),
        ("without 00:00.0", ["wanted wants no group for 0000:00:00.0"]),
    ],
)
def test_a_deviation_says_what_is_wanted_what_is_there_and_why(report: Report, text: str, words: list[str]) -> None:
    assert said(report, text) == words


def test_each_deviation_is_one_finding_of_its_kind_that_fails_the_check(report: Report) -> None:
    deviating = with_deviations(report, Expectation.of_list("02:00.0\n01:00.0\n0a:00.0", "wanted"))

    assert [one.kind for one in deviating.findings] == [Kind.UNEXPECTED] * 3
    assert len({one.id for one in deviating.findings}) == 3
    assert deviating.status is Status.FINDINGS
    assert deviating.exit_status() == 1
    assert not any(one.calls_for_cause for one in deviating.findings)


def test_a_deviation_has_the_same_id_wherever_its_functions_are_now(report: Report) -> None:
    bare = check_sysfs(str(next(path for path in CAPTURES if path.name.startswith("6.12-amd64-virtio-seed-rp-none"))))

    (here,) = found(report, "02:00.0")
    (there,) = [one for one in found(bare, "02:00.0") if one.kind is Kind.UNEXPECTED]

    assert here.id == there.id
    assert [reason.text for reason in there.reasons][1] == "without a group: 0000:02:00.0"


def test_a_function_that_should_have_no_group_is_named_without_its_neighbours(report: Report) -> None:
    (one,) = found(report, "without 01:00.0")

    assert one.devices == (BRIDGE,)
    assert one.groups == (frozenset({PORT, BRIDGE, NIC}),)
    assert one.expected == ()


def test_a_report_speaks_of_the_whole_machine(report: Report) -> None:
    wanted = Expectation(source="good.json", groups=(frozenset({PORT, BRIDGE, NIC}),), whole=True)

    deviating = with_deviations(report, wanted)

    assert [one.devices[0] for one in deviating.findings] == [Address.parse("00:00.0"), Address.parse("00:1f.0")]


def test_long_lists_of_functions_are_cut(report: Report) -> None:
    text = " ".join(f"0a:{device:02x}.0" for device in range(12))

    assert said(report, text)[0].endswith("0000:0a:07.0 and 4 more")


def test_a_function_that_no_report_analysed_counts_as_present(report: Report) -> None:
    assert said(replace(report, analysis=None), "0a:00.0 02:00.0") == [
        "wanted wants one group of 0000:02:00.0 0000:0a:00.0",
        "without a group: 0000:0a:00.0",
        "the kernel has in their group besides: 0000:00:02.0 0000:01:00.0",
    ]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "names no function"),
        ("# nothing but a comment\nwithout\n", "names no function"),
        ("02:00.0\nnic", "line 2: 'nic' is not a PCI address like 0000:02:01.0"),
        ("02:00.0\n\n01:00.0 02:00.0", "line 3: 0000:02:00.0 is named twice"),
        ("02:00.0 02:00.0", "line 1: 0000:02:00.0 is named twice"),
        ("02:00.0 without 01:00.0", "line 1: 'without' is not a PCI address like 0000:02:01.0"),
        ("without 02:00.0\n02:00.0", "line 2: 0000:02:00.0 is named twice"),
    ],
)
def test_a_list_that_cannot_be_meant_is_refused_with_its_line(text: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem.replace(".", r"\.")):
        Expectation.of_list(text, "wanted")
