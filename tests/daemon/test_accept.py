# SPDX-License-Identifier: GPL-2.0-or-later
"""Accepted findings: what an entry covers, for how long, and what is said of a file that makes no sense."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from iommud.address import Address
from iommud.daemon.accept import AcceptError, accept, load_rules, parse_rules
from iommud.data import data_text
from iommud.render.json import report_document
from iommud.render.style import Style
from iommud.render.text import render_text
from iommud.verdict.findings import Kind, Severity
from iommud.verdict.report import Report, Status
from tests.render.samples import finding, with_findings

TODAY = date(2026, 6, 15)
MERGED = finding(Kind.MERGED, Severity.WARNING, "00:03.0", "00:04.0")
SPLIT = finding(Kind.ALIAS_SPLIT, Severity.CRITICAL, "02:01.0", "02:02.0")


def rule(**changes: object) -> str:
    entry = {"id": MERGED.id, "reason": "known", "expires": TODAY, **changes}
    lines = [f"{name} = {_toml(value)}" for name, value in entry.items() if value is not None]
    return "\n".join(["[[accept]]", *lines]) + "\n"


def _toml(value: object) -> str:
    return value.isoformat() if isinstance(value, date) else json.dumps(value)


def by_kind(*addresses: str, kind: str = "merged", **changes: object) -> str:
    return rule(id=None, kind=kind, addresses=list(addresses), **changes)


def applied(text: str, *findings: object, today: date = TODAY) -> Report:
    report = with_findings(*(findings or (MERGED, SPLIT)))  # type: ignore[arg-type] # findings, by default these two
    return accept(report, parse_rules(text), today)


def ids(report: Report) -> list[str]:
    return [one.finding.id for one in report.accepted]


@pytest.mark.parametrize(
    "text",
    [rule(), by_kind("00:03.0", "0000:00:04.0"), by_kind("00:03.0", "00:04.0", "00:05.0")],
    ids=["by its id", "by kind and functions", "by more functions than it is about"],
)
def test_a_finding_is_accepted(text: str) -> None:
    report = applied(text)

    assert ids(report) == [MERGED.id]
    assert report.findings == (SPLIT,)


@pytest.mark.parametrize(
    "text",
    [
        rule(id=SPLIT.id + "0"),
        by_kind("00:03.0"),
        by_kind("00:03.0", "00:04.0", kind="unisolated"),
        rule(expires=TODAY - timedelta(days=1)),
        rule(severity="info"),
    ],
    ids=["another id", "about a further function", "another kind", "expired", "worse than was accepted"],
)
def test_a_finding_is_not_accepted(text: str) -> None:
    assert applied(text).accepted == ()


def test_a_finding_is_accepted_to_the_end_of_its_last_day_and_comes_back_on_the_next() -> None:
    assert ids(applied(rule(), today=TODAY)) == [MERGED.id]
    assert applied(rule(), today=TODAY + timedelta(days=1)).findings == (MERGED, SPLIT)


def test_a_finding_comes_back_when_it_is_about_other_functions() -> None:
    grown = finding(Kind.MERGED, Severity.WARNING, "00:03.0", "00:04.0", "00:05.0")

    assert applied(rule(), grown).accepted == ()


def test_a_finding_about_the_machine_is_accepted_by_its_id_alone() -> None:
    machine = finding(Kind.UNDECIDABLE, Severity.WARNING, subject="machine")

    assert applied(by_kind("00:03.0", kind="undecidable"), machine).accepted == ()
    assert ids(applied(rule(id=machine.id), machine)) == [machine.id]


def test_accepted_findings_do_not_count_for_status_and_exit_status() -> None:
    everything = rule() + rule(id=SPLIT.id)

    assert (applied(rule()).status, applied(rule()).exit_status()) == (Status.FINDINGS, 1)
    assert (applied(everything).status, applied(everything).exit_status()) == (Status.OK, 0)


def test_the_first_entry_that_fits_gives_the_reason() -> None:
    report = applied(rule(reason="first") + rule(reason="second"))

    assert [one.reason for one in report.accepted] == ["first"]


def test_accepted_findings_stay_visible_in_text_and_json() -> None:
    report = applied(rule(reason="the card is not handed out"))
    text = render_text(report, style=Style())
    document = report_document(report)

    assert "Accepted findings" in text
    assert "Accepted until 2026-06-15: the card is not handed out" in text
    assert document["accepted"][0]["accepted"] == {"reason": "the card is not handed out", "until": "2026-06-15"}
    jsonschema.validate(document, json.loads(data_text("report.schema.json")))


def test_without_entries_the_report_is_the_same() -> None:
    report = with_findings(MERGED)

    assert accept(report, (), TODAY) is report


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[[accept]", "not TOML: "),
        ("[accept]\nid = 'x'", "entries are written as [[accept]]"),
        ("accept = 3", "entries are written as [[accept]]"),
        ("accept = [3]", "entries are written as [[accept]]"),
        ("[[accepted]]", "unknown key 'accepted'"),
        (rule(why="x"), "entry 1: unknown key 'why'"),
        (rule() + rule(id=None), "entry 2: either an id, or a kind with addresses"),
        (rule(kind="merged"), "entry 1: either an id, or a kind with addresses"),
        (rule(id=None, kind="merged"), "entry 1: addresses must list the functions"),
        (rule(id=None, addresses=["00:03.0"]), "entry 1: kind is none of alias-split"),
        (by_kind("00:03.0", kind="broken"), "entry 1: kind is none of alias-split"),
        (by_kind("00:03"), "entry 1: '00:03' is not a PCI address"),
        (rule(id=None, kind="merged", addresses=[3]), "entry 1: an address is a string"),
        (rule(reason=None), "entry 1: reason is missing or empty"),
        (rule(reason="  "), "entry 1: reason is missing or empty"),
        (rule(reason=3), "entry 1: reason is missing or empty"),
        (rule(expires=None), "entry 1: expires must be a date"),
        (rule(expires="2026-06-15"), "entry 1: expires must be a date"),
        (rule(expires=datetime(2026, 6, 15, tzinfo=UTC)), "entry 1: expires must be a date"),
        (rule(severity="worst"), "entry 1: severity is none of critical, warning, info"),
        (rule(severity=["info"]), "entry 1: severity is none of critical, warning, info"),
        (rule(id=""), "entry 1: id is missing or empty"),
    ],
)
def test_a_file_that_makes_no_sense_is_refused_with_the_place(tmp_path: Path, text: str, problem: str) -> None:
    path = tmp_path / "accept.toml"
    path.write_text(text, encoding="utf-8")

    with pytest.raises(AcceptError) as refused:
        load_rules(path)
    assert str(refused.value).startswith(f"{path}: {problem}")
    assert "\n" not in str(refused.value)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "latin").write_bytes(b"# \xe4")
    (tmp_path / "large").write_bytes(b"#" * ((1 << 20) + 1))

    for name, problem in {
        "missing": "No such file",
        "": "Is a directory",
        "latin": "not UTF-8 at byte 2",
        "large": "larger",
    }.items():
        with pytest.raises(AcceptError, match=problem):
            load_rules(tmp_path / name)


@given(st.text())
def test_any_text_gives_entries_or_one_line(text: str) -> None:
    said = ""
    try:
        parse_rules(text)
    except AcceptError as error:
        said = str(error)
    assert said.isprintable()


def test_a_reason_is_one_harmless_line() -> None:
    (found,) = parse_rules(rule(reason="a\n\u001b[31mb\tc").replace("\x1b", "\\u001b"))

    assert found.reason == "a \\x1b[31mb c"


def test_an_entry_by_kind_names_functions_in_any_spelling() -> None:
    (found,) = parse_rules(by_kind("00:03.0", "0000:00:04.0"))

    assert found.addresses == {Address(0, 0, 3, 0), Address(0, 0, 4, 0)}
    assert replace(found, expires=TODAY).covers(MERGED, TODAY)
