# SPDX-License-Identifier: GPL-2.0-or-later
"""The textfile for node_exporter, held to two readers that are not ours.

promtool is looked for on PATH and in the environment variable PROMTOOL; without it its tests are skipped.
"""

import os
import shutil
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families

from iommud.causes.cause import CauseId
from iommud.render.prometheus import FINDING_SERIES_LIMIT, METRICS, render_prometheus
from iommud.verdict.findings import Kind, Severity
from iommud.verdict.report import Failure, Report, Result
from tests.render.samples import (
    FOUNDING,
    HEALTHY,
    HOSTILE,
    NO_GROUPS,
    WORKSTATION,
    cause,
    explained,
    finding,
    hostile,
    no_iommu,
    report_of,
    unexplained,
    with_findings,
)

PROMTOOL = os.environ.get("PROMTOOL") or shutil.which("promtool")

CASES: dict[str, Sequence[Result]] = {
    "founding topology": [report_of(FOUNDING)],
    "healthy": [report_of(HEALTHY)],
    "workstation": [report_of(WORKSTATION)],
    "no groups": [report_of(NO_GROUPS)],
    "no iommu": [no_iommu()],
    "foreign strings": [hostile()],
    "several": [report_of(FOUNDING), hostile(), Failure(HOSTILE, "gone")],
    "one twice": [report_of(FOUNDING), report_of(FOUNDING), Failure("x", "gone")],
    "unreadable": [Failure("x", "gone")],
    "nothing": [],
}
cases = pytest.mark.parametrize("results", CASES.values(), ids=CASES)


def families(results: Sequence[Result]) -> dict[str, Metric]:
    return {family.name: family for family in text_string_to_metric_families(render_prometheus(results))}


def values(results: Sequence[Result], name: str) -> dict[tuple[str, ...], float]:
    """The samples of one family by the values of their labels."""
    samples = families(results)[name.removesuffix("_total")].samples
    return {tuple(sample.labels.values()): sample.value for sample in samples}


@cases
def test_the_client_librarys_parser_reads_every_line(results: Sequence[Result]) -> None:
    text = render_prometheus(results)
    samples = [sample for family in families(results).values() for sample in family.samples]

    assert len(samples) == sum(not line.startswith("#") for line in text.splitlines())


@cases
def test_no_series_appears_twice(results: Sequence[Result]) -> None:
    samples = [sample for family in families(results).values() for sample in family.samples]

    assert len({(one.name, *sorted(one.labels.items())) for one in samples}) == len(samples)


@cases
@pytest.mark.skipif(PROMTOOL is None, reason="promtool is neither on PATH nor named by PROMTOOL")
def test_promtool_finds_no_fault(results: Sequence[Result]) -> None:
    command = [str(PROMTOOL), "check", "metrics"]
    done = subprocess.run(command, input=render_prometheus(results).encode(), capture_output=True, check=False)

    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize("case", ["founding topology", "several"])
def test_the_exposition_of_a_capture_stays_as_it_is(case: str, golden: Callable[[str, str], None]) -> None:
    golden(f"render/prometheus/{case.replace(' ', '-')}.prom", render_prometheus(CASES[case]))


def test_every_kind_and_severity_is_exported_even_at_nought() -> None:
    found = values([report_of(HEALTHY)], "iommud_findings")

    assert found == {(kind, severity): 0 for kind in Kind for severity in Severity}


def test_findings_are_counted_by_kind_and_severity() -> None:
    found = values([report_of(FOUNDING)], "iommud_findings")

    assert {labels for labels, value in found.items() if value} == {
        ("isolation-split", "critical"),
        ("ungrouped", "critical"),
    }


def test_addresses_are_spelled_as_node_exporter_spells_them() -> None:
    sample = families([report_of(FOUNDING)])["iommud_finding_info"].samples[1]

    assert {name: sample.labels[name] for name in ("segment", "bus", "device", "function")} == {
        "segment": "0000",
        "bus": "02",
        "device": "00",
        "function": "0",
    }


@pytest.mark.parametrize(
    ("report", "label"),
    [
        (explained(cause(CauseId.LATE_ACS), cause(CauseId.PROBE_ORDER)), "late-acs"),
        (unexplained(), "unexplained"),
        (with_findings(finding(Kind.INCONSISTENT, Severity.WARNING, "00:1f.0")), ""),
    ],
    ids=["explained", "unexplained", "of a sort without causes"],
)
def test_a_finding_carries_the_cause_that_assumes_least(report: Report, label: str) -> None:
    samples = families([report])["iommud_finding_info"].samples

    assert samples
    assert {sample.labels["cause"] for sample in samples} == {label}


def test_functions_are_counted_by_state() -> None:
    assert values([report_of(FOUNDING)], "iommud_functions") == {("grouped",): 5, ("ungrouped",): 1, ("without",): 3}


def test_groups_go_by_their_lowest_member() -> None:
    assert values([report_of(FOUNDING)], "iommud_group_functions") == {
        ("0000:00:02.0",): 1,
        ("0000:00:1f.0",): 3,
        ("0000:02:00.0",): 1,
    }


def test_the_number_of_finding_series_is_bounded_and_the_rest_counted() -> None:
    devices = [f"{bus:02x}:{device:02x}.0" for bus in range(10) for device in range(32)]
    report = with_findings(finding(Kind.INCONSISTENT, Severity.WARNING, *devices))

    assert len(values([report], "iommud_finding_info")) == FINDING_SERIES_LIMIT
    assert values([report], "iommud_finding_info_omitted") == {(): 320 - FINDING_SERIES_LIMIT}


def test_a_finding_about_the_machine_has_a_series_without_an_address() -> None:
    report = with_findings(finding(Kind.UNDECIDABLE, Severity.WARNING, subject="machine"))

    ((_, kind, severity, _, *address),) = values([report], "iommud_finding_info")
    assert (kind, severity, address) == ("undecidable", "warning", ["", "", "", ""])


def test_what_is_said_twice_is_one_series() -> None:
    one = finding(Kind.INCONSISTENT, Severity.WARNING, "00:01.0")
    report = with_findings(one, replace(one, reasons=()))

    assert len(values([report], "iommud_finding_info")) == 1
    assert values([report], "iommud_findings")["inconsistent", "warning"] == 2


def test_a_single_source_has_no_source_label() -> None:
    assert "source=" not in render_prometheus([report_of(FOUNDING)])


def test_several_sources_are_told_apart_even_if_named_alike() -> None:
    results = [Failure("a", "gone"), Failure("a", "gone"), Failure("b", "gone")]

    assert values(results, "iommud_source_up") == {("a",): 0, ("a (2)",): 0, ("b",): 0}


def test_an_unreadable_source_is_down_and_says_nothing_else() -> None:
    results = [Failure("a", "gone")]

    assert values(results, "iommud_source_up") == {(): 0}
    assert values(results, "iommud_check_status")["error",] == 1
    assert set(families(results)) == {"iommud_build_info", "iommud_source_up", "iommud_check_status"}


def test_exactly_one_status_is_set() -> None:
    assert [status for (status,), value in values([no_iommu()], "iommud_check_status").items() if value] == ["no-iommu"]


def test_families_are_written_in_the_order_in_which_they_are_declared() -> None:
    text = render_prometheus([report_of(FOUNDING)])
    written = [line.split()[2] for line in text.splitlines() if line.startswith("# TYPE")]

    assert written == [metric.name for metric in METRICS]


def test_foreign_strings_arrive_as_they_are_shown_elsewhere() -> None:
    names = [labels[0] for labels in values([hostile()], "iommud_iommu_info")]

    assert names[0].startswith("\\x1b[31mred\\n")
    assert '"quoted"' in names[0]
