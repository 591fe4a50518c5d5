# SPDX-License-Identifier: GPL-2.0-or-later
"""What is told of two reports of one machine: what differs by members, and nothing else."""

from __future__ import annotations

import logging
from dataclasses import replace
from datetime import date
from typing import Any

import pytest

from iommud.address import Address
from iommud.causes.cause import Basis, Cause, CauseId
from iommud.daemon.accept import AcceptRule, accept
from iommud.daemon.known import Known, what_changed
from iommud.model.groups import Group
from iommud.pci import PortType
from iommud.verdict.findings import Kind, Severity
from iommud.verdict.pipeline import check
from iommud.verdict.report import Report
from tests.render.samples import FOUNDING, config, finding, function, machine, report_of, with_findings

NAMES = [f"00:{number:02x}.0" for number in range(3, 9)]


def known(groups: str, *, functions: list[str] = NAMES, kernel: str = "6.12.95") -> Known:
    """A machine of endpoints with groups written as ``00:03.0 00:04.0 | 00:05.0``; findings left out."""
    parts = [function(name, config(PortType.ENDPOINT)) for name in functions]
    found = Known.of(check(machine(*parts, groups=groups, kernel_release=kernel)))
    return replace(found, findings={})


def told(old: Known, new: Known) -> list[tuple[str, dict[str, str | int]]]:
    return [(one.message, dict(one.fields)) for one in what_changed(old, new)]


ALONE = " | ".join(NAMES)


def test_nothing_is_told_of_a_machine_that_is_as_it_was() -> None:
    report = Known.of(report_of(FOUNDING))

    assert what_changed(report, Known.of(report_of(FOUNDING))) == ()


def test_other_group_numbers_are_no_change() -> None:
    assert told(known(ALONE), known(" | ".join(reversed(NAMES)))) == []


def test_groups_that_joined_are_told_with_the_groups_before() -> None:
    new = known("00:03.0 00:04.0 | " + " | ".join(NAMES[2:]))

    assert told(known(ALONE), new) == [
        (
            "groups changed",
            {"change": "joined", "groups": "0000:00:03.0 0000:00:04.0", "before": "0000:00:03.0 | 0000:00:04.0"},
        )
    ]


def test_a_function_that_moved_is_told_once_with_all_groups_concerned() -> None:
    old = known("00:03.0 00:04.0 | 00:05.0 | 00:06.0 | 00:07.0 | 00:08.0")
    new = known("00:03.0 | 00:04.0 00:05.0 | 00:06.0 | 00:07.0 | 00:08.0")

    assert told(old, new) == [
        (
            "groups changed",
            {
                "change": "moved",
                "groups": "0000:00:03.0 | 0000:00:04.0 0000:00:05.0",
                "before": "0000:00:03.0 0000:00:04.0 | 0000:00:05.0",
            },
        )
    ]


def test_a_function_that_came_or_went_is_told_once_and_not_as_a_change_of_its_group() -> None:
    old = known(ALONE)
    new = known("00:03.0 00:05.0 | 00:06.0 | 00:07.0 | 00:08.0 | 00:0a.0", functions=[NAMES[0], *NAMES[2:], "00:0a.0"])

    assert told(old, new)[:2] == [
        ("functions appeared", {"count": 1, "devices": "0000:00:0a.0"}),
        ("functions gone", {"count": 1, "devices": "0000:00:04.0"}),
    ]
    assert [message for message, _ in told(old, new)[2:]] == ["groups changed"]


def test_a_group_that_a_new_function_joined_is_told_beside_the_function() -> None:
    new = known("00:03.0 00:0a.0 | " + " | ".join(NAMES[1:]), functions=[*NAMES, "00:0a.0"])

    assert told(known(ALONE), new) == [
        ("functions appeared", {"count": 1, "devices": "0000:00:0a.0"}),
        ("groups changed", {"change": "grew", "groups": "0000:00:03.0 0000:00:0a.0", "before": "0000:00:03.0"}),
    ]


def test_a_function_that_lost_its_group_is_told() -> None:
    assert told(known(ALONE), known(" | ".join(NAMES[1:]))) == [
        ("functions lost their group", {"count": 1, "devices": "0000:00:03.0"})
    ]


def test_a_function_that_got_a_group_is_told() -> None:
    assert told(known(" | ".join(NAMES[1:])), known(ALONE)) == [
        ("groups changed", {"change": "appeared", "groups": "0000:00:03.0", "before": "none"})
    ]


def test_another_kernel_is_told() -> None:
    assert told(known(ALONE), known(ALONE, kernel="7.3.0")) == [
        ("kernel changed", {"kernel": "7.3.0", "before": "6.12.95"})
    ]


@pytest.mark.parametrize(
    ("old", "new", "message", "fields"),
    [
        (
            {"parameters": frozenset({"ro", "iommu=pt"})},
            {"parameters": frozenset({"ro"})},
            "command line changed",
            {"command-line": "none", "before": "iommu=pt"},
        ),
        (
            {"iommus": frozenset[tuple[str, str]]()},
            {"iommus": frozenset({("dmar0", "intel-iommu")})},
            "iommu changed",
            {"iommu": "dmar0", "before": "none"},
        ),
        (
            {"without": frozenset({Address(0, 0, 3, 0)}), "groups": frozenset[Group]()},
            {"ungrouped": frozenset({Address(0, 0, 3, 0)}), "groups": frozenset[Group]()},
            "scope changed",
            {"devices": "0000:00:03.0", "scope": "should have a group"},
        ),
        (
            {"ungrouped": frozenset({Address(0, 0, 3, 0)}), "groups": frozenset[Group]()},
            {"without": frozenset({Address(0, 0, 3, 0)}), "groups": frozenset[Group]()},
            "scope changed",
            {"devices": "0000:00:03.0", "scope": "rightly without a group"},
        ),
    ],
)
def test_what_else_changed_since_the_last_run_is_told(
    old: dict[str, Any], new: dict[str, Any], message: str, fields: dict[str, str]
) -> None:
    same = known(ALONE)

    assert told(replace(same, **old), replace(same, **new)) == [(message, fields)]


@pytest.mark.parametrize("forgotten", [{"parameters": None}, {"iommus": None}])
def test_what_an_older_version_did_not_write_down_is_no_change(forgotten: dict[str, Any]) -> None:
    new = replace(known(ALONE), parameters=frozenset({"ro"}), iommus=frozenset({("dmar0", "intel-iommu")}))

    assert told(replace(new, **forgotten), new) == []


def test_many_other_facts_are_told_in_few_lines() -> None:
    new = replace(known(ALONE), parameters=frozenset(f"word{number}" for number in range(50)))
    changes = told(replace(new, parameters=frozenset()), new)

    assert len(changes) == 17
    assert changes[-1] == ("more facts changed", {"count": 34})


def test_a_function_between_many_groups_is_told_in_one_line_of_bounded_length() -> None:
    many = [f"00:{device:02x}.{function}" for device in range(16) for function in range(8)]
    (change,) = told(known(" | ".join(many), functions=many), known(" ".join(many), functions=many))

    assert str(change[1]["groups"]).endswith(" and 120 more")
    assert str(change[1]["before"]).endswith(" | and 120 more")


def test_a_change_of_everything_is_told_in_few_lines() -> None:
    many = [f"{bus:02x}:{device:02x}.0" for bus in range(4) for device in range(32)]
    pairs = " | ".join(f"{one} {other}" for one, other in zip(many[::2], many[1::2], strict=True))
    changes = told(known(" | ".join(many), functions=many), known(pairs, functions=many))

    assert len(changes) < 20
    assert changes[-1] == ("more groups changed", {"count": 64 - (len(changes) - 1)})


WARNING = finding(Kind.MERGED, Severity.WARNING, "00:03.0", "00:04.0")


def changes(old: Report, new: Report) -> list[tuple[int, str, dict[str, str | int]]]:
    return [(one.level, one.message, dict(one.fields)) for one in what_changed(Known.of(old), Known.of(new))]


@pytest.mark.parametrize(
    ("severity", "level"),
    [(Severity.CRITICAL, logging.ERROR), (Severity.WARNING, logging.WARNING), (Severity.INFO, logging.INFO)],
)
def test_a_finding_that_appears_is_as_loud_as_it_is_bad(severity: Severity, level: int) -> None:
    one = replace(WARNING, severity=severity)

    assert changes(with_findings(), with_findings(one)) == [
        (
            level,
            "finding appeared",
            {
                "finding": one.id,
                "kind": "merged",
                "severity": str(severity),
                "devices": "0000:00:03.0 0000:00:04.0",
            },
        )
    ]


def test_a_finding_is_told_with_its_first_cause() -> None:
    cause = Cause(
        id=CauseId.PROBE_ORDER,
        summary="it was grouped first",
        evidence=(),
        since=None,
        until=None,
        remedy="reboot",
        basis=Basis.REPLAY,
    )
    other = replace(cause, id=CauseId.FOREIGN_DRIVER)
    report = replace(with_findings(WARNING), causes={WARNING.id: (cause, other)})
    ((_, _, fields),) = changes(with_findings(), report)

    assert (fields["cause"], fields["because"]) == ("probe-order", "it was grouped first")
    assert changes(with_findings(WARNING), report) == [], "another cause of the same is no change"


def test_a_finding_that_clears_is_told() -> None:
    ((level, message, fields),) = changes(with_findings(WARNING), with_findings())

    assert (level, message, fields["finding"]) == (logging.INFO, "finding cleared", WARNING.id)


def test_a_finding_that_gets_worse_is_told_as_changed() -> None:
    ((level, message, fields),) = changes(
        with_findings(WARNING), with_findings(replace(WARNING, severity=Severity.CRITICAL))
    )

    assert (level, message, fields["severity"], fields["was"]) == (
        logging.ERROR,
        "finding changed",
        "critical",
        "warning",
    )


def test_a_finding_whose_groups_changed_is_told_by_members() -> None:
    before = replace(WARNING, groups=(frozenset({Address(0, 0, 3, 0)}),))
    after = replace(WARNING, groups=(frozenset({Address(0, 0, 3, 0), Address(0, 0, 4, 0)}),))
    ((_, message, fields),) = changes(with_findings(before), with_findings(after))

    assert message == "finding changed"
    assert (fields["groups_before"], fields["groups"]) == ("0000:00:03.0", "0000:00:03.0 0000:00:04.0")


def test_other_words_for_the_same_are_no_change() -> None:
    assert changes(with_findings(WARNING), with_findings(replace(WARNING, reasons=()))) == []


def test_a_finding_that_is_accepted_or_no_longer_accepted_is_told() -> None:
    rule = AcceptRule(reason="known", expires=date(2026, 1, 31), id=WARNING.id)
    report = with_findings(WARNING)
    accepted, expired = accept(report, [rule], date(2026, 1, 31)), accept(report, [rule], date(2026, 2, 1))

    ((_, message, fields),) = changes(report, accepted)
    assert (message, fields["accepted"]) == ("finding changed", "yes")
    ((level, message, fields),) = changes(accepted, expired)
    assert (level, message, fields["accepted"]) == (logging.WARNING, "finding changed", "no longer")
