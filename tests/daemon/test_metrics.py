# SPDX-License-Identifier: GPL-2.0-or-later
"""What /metrics says: held to the client library's parsers, to promtool, to golden expositions, and to its document."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import date
from typing import Any

import pytest
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from iommud.daemon import families
from iommud.daemon.activity import BOUNDS, Activity, Durations
from iommud.daemon.exposition import exposition
from iommud.daemon.metrics import ActivityCollector, ProcessCollector, ReportCollector
from iommud.render.prometheus import FINDING_SERIES_LIMIT
from iommud.verdict.findings import Kind, Severity
from iommud.verdict.report import Acceptance, Failure, Report, Result
from tests.prometheus import run_promtool
from tests.render.samples import FOUNDING, HEALTHY, WORKSTATION, finding, hostile, no_iommu, report_of, with_findings
from tools import gen_metrics

TAKEN_AT = 1_700_000_000.25


def activity(**facts: Any) -> Activity:
    known: dict[str, Any] = {
        "started_at": 1_699_999_000.0,
        "readable": True,
        "snapshots": {"start": 1, "uevent": 2},
        "durations": Durations().with_one(0.02).with_one(99),
        "config_reads": 1234,
        "uevents": {"add": 3},
        "sources": {"uevents": True, "groups": False},
        "accept_file_valid": True,
    }
    return Activity(**{**known, **facts})


def exposed(result: Result, *, openmetrics: bool = False, function_groups: bool = False, **facts: Any) -> str:
    now = activity(**facts)
    report = ReportCollector(result, TAKEN_AT if isinstance(result, Report) else None, now, function_groups)
    return exposition(report, ActivityCollector(lambda: now), openmetrics=openmetrics).decode()


def parsed(text: str) -> dict[str, Family]:
    return {family.name: family for family in parse_text(text)}


def values(text: str, name: str) -> dict[tuple[str, ...], float]:
    """The samples of one name, by the values of their labels in the order of their names."""
    found = [sample for family in parse_text(text) for sample in family.samples if sample.name == name]
    return {tuple(value for _, value in sorted(sample.labels.items())): sample.value for sample in found}


def accepting() -> Report:
    report = report_of(FOUNDING)
    accepted = tuple(Acceptance(one, "known", date(2030, 1, 31)) for one in report.findings[:1])
    return replace(report, findings=report.findings[1:], accepted=accepted)


CASES: dict[str, Callable[[], Result]] = {
    "founding": lambda: report_of(FOUNDING),
    "workstation": lambda: report_of(WORKSTATION),
    "accepted": accepting,
    "no iommu": no_iommu,
    "hostile": hostile,
    "unreadable": lambda: Failure("this machine", "gone"),
}
cases = pytest.mark.parametrize("result", CASES.values(), ids=CASES)


@cases
def test_promtool_finds_no_fault(result: Callable[[], Result]) -> None:
    text = exposed(result(), function_groups=True) + exposition(ProcessCollector(), openmetrics=False).decode()
    done = run_promtool("check", "metrics", text=text)

    assert (done.returncode, done.stderr) == (0, "")


@cases
def test_both_formats_say_the_same(result: Callable[[], Result]) -> None:
    def series(family: Family) -> set[tuple[str, frozenset[tuple[str, str]], float]]:
        return {(one.name, frozenset(one.labels.items()), one.value) for one in family.samples}

    text = {one.name: series(one) for one in parse_text(exposed(result()))}
    opened = exposed(result(), openmetrics=True)

    families_again = parse_openmetrics(opened)  # type: ignore[no-untyped-call] # has no annotations
    assert {one.name: series(one) for one in families_again} == text
    assert opened.endswith("# EOF\n")


@cases
def test_no_more_than_the_documented_number_of_series(result: Callable[[], Result]) -> None:
    found = result()
    text = exposed(found, function_groups=True) + exposition(ProcessCollector(), openmetrics=False).decode()
    series = [line for line in text.splitlines() if not line.startswith("#")]
    report = found if isinstance(found, Report) else None
    most = gen_metrics.most_series(
        iommus=len(report.iommus) if report else 0,
        groups=len(report.actual.groups) if report else 0,
        concerned=sum(max(1, len(one.devices)) for one in report.findings) if report else 0,
        grouped=len(report.actual.number_of) if report else 0,
    )

    assert len(series) <= most
    if report is not None:
        assert len(series) == most, "the formula is exact for a daemon that watches all sources"


@cases
def test_every_family_is_in_the_table_with_these_labels(result: Callable[[], Result]) -> None:
    known = {one.name.removesuffix("_total"): one for one in families.ALL}

    for family in parse_text(exposed(result(), function_groups=True)):
        metric = known[family.name]
        assert (family.type, family.documentation) == (metric.type.value, metric.help)
        labels = {frozenset(one.labels) for one in family.samples if not one.name.endswith(("_sum", "_count"))}
        assert labels == {frozenset(metric.labels)}


def test_no_family_is_in_the_table_twice() -> None:
    assert len({one.name for one in families.ALL}) == len(families.ALL)


@pytest.mark.parametrize("form", ["prom", "openmetrics"])
@pytest.mark.parametrize("case", ["founding", "accepted", "unreadable"])
def test_the_exposition_stays_as_it_is(case: str, form: str, golden: Callable[[str, str], None]) -> None:
    golden(f"daemon/{case}.{form}", exposed(CASES[case](), openmetrics=form == "openmetrics", function_groups=True))


def test_the_document_is_that_of_the_program() -> None:
    assert gen_metrics.DOCUMENT.read_text(encoding="utf-8") == gen_metrics.document(), "python -m tools.gen_metrics"


def test_an_accepted_finding_is_counted_as_such_and_nowhere_else() -> None:
    text = exposed(accepting())
    kind, severity = accepting().accepted[0].finding.kind, accepting().accepted[0].finding.severity

    assert values(text, "iommud_findings_accepted")[kind, severity] == 1
    assert values(text, "iommud_findings")[kind, severity] == 0
    assert not [labels for labels in values(text, "iommud_finding_info") if kind in labels]


def test_every_kind_and_severity_of_accepted_findings_is_exported_even_at_nought() -> None:
    found = values(exposed(report_of(HEALTHY)), "iommud_findings_accepted")

    assert found == {(kind, severity): 0 for kind in Kind for severity in Severity}


def test_config_reads_are_those_since_the_start_and_not_of_one_snapshot() -> None:
    assert values(exposed(report_of(FOUNDING), config_reads=77), "iommud_config_reads_total") == {(): 77}


def test_a_machine_that_can_no_longer_be_read_keeps_its_findings_and_is_down() -> None:
    text = exposed(report_of(FOUNDING), readable=False)

    assert values(text, "iommud_source_up") == {(): 0}
    assert values(text, "iommud_findings")["ungrouped", "critical"] == 1
    assert values(text, "iommud_snapshot_timestamp_seconds") == {(): TAKEN_AT}


def test_a_machine_that_was_never_read_has_no_time_of_reading() -> None:
    text = exposed(Failure("this machine", "gone"), readable=False)

    assert not values(text, "iommud_snapshot_timestamp_seconds")
    assert values(text, "iommud_source_up") == {(): 0}


@pytest.mark.parametrize("seconds", [60.0, 10_800.0])
def test_who_reads_the_metrics_is_told_from_which_age_they_are_stale(seconds: float) -> None:
    collector = ReportCollector(report_of(HEALTHY), TAKEN_AT, activity(), stale_after=seconds)

    assert values(exposition(collector, openmetrics=False).decode(), "iommud_stale_after_seconds") == {(): seconds}


def test_a_source_that_is_switched_off_has_no_series() -> None:
    assert values(exposed(report_of(HEALTHY), sources={"groups": True}), "iommud_watch_source_up") == {("groups",): 1}


def test_functions_have_a_series_of_their_own_only_if_asked_for() -> None:
    report = report_of(HEALTHY)

    assert not values(exposed(report), "iommud_function_group")
    assert len(values(exposed(report, function_groups=True), "iommud_function_group")) == len(report.actual.number_of)


def test_findings_beyond_the_limit_are_counted() -> None:
    devices = [f"{bus:02x}:{device:02x}.0" for bus in range(10) for device in range(32)]
    text = exposed(with_findings(finding(Kind.INCONSISTENT, Severity.WARNING, *devices)))

    assert len(values(text, "iommud_finding_info")) == FINDING_SERIES_LIMIT
    assert values(text, "iommud_finding_info_omitted") == {(): 320 - FINDING_SERIES_LIMIT}


@pytest.mark.parametrize(
    ("seconds", "first"), [(0.0, "0.005"), (0.005, "0.005"), (0.0051, "0.01"), (30.0, "30.0"), (31.0, "+Inf")]
)
def test_a_duration_counts_from_the_first_bound_that_it_does_not_exceed(seconds: float, first: str) -> None:
    text = exposed(report_of(HEALTHY), durations=Durations().with_one(seconds))
    buckets = {bound: value for (bound,), value in values(text, "iommud_snapshot_duration_seconds_bucket").items()}
    bounds = [*map(str, BOUNDS), "+Inf"]

    assert [bound for bound in bounds if buckets[bound]] == bounds[bounds.index(first) :]
    assert values(text, "iommud_snapshot_duration_seconds_sum") == {(): seconds}


def test_the_process_tells_what_it_costs() -> None:
    before = time.process_time()
    text = exposition(ProcessCollector(), openmetrics=False).decode()
    measured = {name: values(text, name).get((), 0) for name in (one.name for one in families.PROCESS)}

    assert before - 0.1 <= measured["process_cpu_seconds_total"] <= time.process_time() + 0.1
    assert 1 << 20 < measured["process_resident_memory_bytes"] < measured["process_virtual_memory_bytes"]
    assert 3 <= measured["process_open_fds"] < measured["process_max_fds"]
    assert 0 <= time.time() - measured["process_start_time_seconds"] < 86400


def test_the_start_of_the_process_does_not_move(monkeypatch: pytest.MonkeyPatch) -> None:
    first = values(exposition(ProcessCollector(), openmetrics=False).decode(), "process_start_time_seconds")
    later = time.time() + 3600
    monkeypatch.setattr(time, "time", lambda: later)

    assert values(exposition(ProcessCollector(), openmetrics=False).decode(), "process_start_time_seconds") == first


def test_without_procfs_the_process_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(path: str) -> list[str]:
        raise FileNotFoundError(path)

    monkeypatch.setattr(os, "listdir", absent)

    assert exposition(ProcessCollector(), openmetrics=False) == b""
