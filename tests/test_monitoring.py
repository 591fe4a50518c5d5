# SPDX-License-Identifier: GPL-2.0-or-later
"""Alerting rules: each does what it says, on a real Prometheus, with metrics that iommud exports."""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from iommud.daemon import families
from iommud.render.prometheus import Metric, Type
from iommud.verdict.findings import Kind, Severity
from tests.prometheus import Server, eventually, prometheus_over, run_promtool, served
from tests.test_dashboard import EXPORTED, metrics_in
from tools.fleet_bench import BROKEN, GUEST, HOST, Machine, exposition, series

ROOT = Path(__file__).parent.parent
MONITORING = ROOT / "monitoring"
RULES = MONITORING / "iommud.rules.yml"
RULE_TESTS = MONITORING / "iommud.rules.test.yml"
DOCUMENTS = "https://iommud.invalid/"

OF_NODE_EXPORTER = {"node_textfile_mtime_seconds"}


def rules() -> list[dict[str, Any]]:
    groups = yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"]
    return [rule for group in groups for rule in group["rules"]]


RULE_NAMES = [rule["alert"] for rule in rules()]
by_rule = pytest.mark.parametrize("rule", rules(), ids=RULE_NAMES)


def test_promtool_accepts_the_rules() -> None:
    done = run_promtool("check", "rules", RULES)

    assert done.returncode == 0, done.stderr
    assert f"{len(RULE_NAMES)} rules found" in done.stdout


def test_every_rule_fires_when_it_should_and_stays_silent_when_it_should() -> None:
    done = run_promtool("test", "rules", RULE_TESTS)

    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("alert", "what", "with_"),
    [
        ("IommudFindingCritical", 'severity="critical"} > 0', 'severity="critical"} > 5'),
        ("IommudFindingCritical", "for: 15s", "for: 0s"),
        ("IommudNoData", "offset 1d)", "offset 1h)"),
        ("IommudStaleData", "> iommud_stale_after_seconds)", "> 900)"),
        ("IommudStaleData", "> 900)\n", "> 9000)\n"),
        (
            "IommudRestarting",
            "changes(iommud_start_time_seconds[1h]) > 3",
            "changes(iommud_start_time_seconds[1h]) > 1",
        ),
        ("IommudRestarting", "and on (job, instance) iommud_start_time_seconds", ""),
        ("IommudConfigSpaceIncomplete", "iommud_config_space_complete == 0", "iommud_config_space_complete >= 0"),
    ],
)
def test_a_rule_that_is_changed_fails_its_test(tmp_path: Path, alert: str, what: str, with_: str) -> None:
    text = RULES.read_text(encoding="utf-8")
    tests = yaml.safe_load(RULE_TESTS.read_text(encoding="utf-8"))
    tests["tests"] = [one for one in tests["tests"] if alert in str(one["alert_rule_test"])]
    (tmp_path / "tests.yml").write_text(yaml.safe_dump(tests), encoding="utf-8")
    assert what in text
    (tmp_path / RULES.name).write_text(text.replace(what, with_, 1), encoding="utf-8")

    assert run_promtool("test", "rules", tmp_path / "tests.yml").returncode == 1


def test_no_rule_goes_untested() -> None:
    tests = yaml.safe_load(RULE_TESTS.read_text(encoding="utf-8"))["tests"]
    cases = [case for test in tests for case in test["alert_rule_test"]]
    fires = {case["alertname"] for case in cases if case["exp_alerts"]}
    silent = {case["alertname"] for case in cases if not case["exp_alerts"]}

    assert fires == silent == set(RULE_NAMES)


@by_rule
def test_a_rule_says_what_is_wrong_what_it_means_and_where_to_read_on(rule: dict[str, Any]) -> None:
    assert set(rule["annotations"]) == {"summary", "description", "runbook_url"}
    assert rule["annotations"]["summary"].startswith("{{ $labels.instance }}: ")
    assert rule["labels"]["severity"] in set(Severity)


@by_rule
def test_the_runbook_of_a_rule_exists(rule: dict[str, Any]) -> None:
    url = rule["annotations"]["runbook_url"]
    assert url.startswith(DOCUMENTS)
    kinds = Kind if "$labels.kind" in url else [Kind.UNDECIDABLE]
    for kind in kinds:
        path, _, anchor = url.removeprefix(DOCUMENTS).replace("{{ $labels.kind }}", kind).partition("#")
        text = (ROOT / path).read_text(encoding="utf-8")
        assert not anchor or anchor in [heading.lower() for heading in re.findall(r"^#+ (.+)$", text, re.MULTILINE)]


def test_the_documented_command_leaves_no_runbook_at_the_place_that_does_not_exist(tmp_path: Path) -> None:
    (command,) = re.findall(r"sed '(.+)' monitoring/", (ROOT / "docs/monitoring.md").read_text(encoding="utf-8"))
    text = subprocess.run(["sed", command, RULES], capture_output=True, text=True, check=True).stdout
    (tmp_path / RULES.name).write_text(text, encoding="utf-8")
    urls = [rule["annotations"]["runbook_url"] for group in yaml.safe_load(text)["groups"] for rule in group["rules"]]

    assert "iommud.invalid" not in text
    assert len(urls) == len(RULE_NAMES)
    assert all(url.startswith("https://wiki.example.org/iommud/docs/") for url in urls)
    assert run_promtool("check", "rules", tmp_path / RULES.name).returncode == 0


def test_each_severity_has_a_rule() -> None:
    watched = {match for rule in rules() for match in re.findall(r'iommud_findings\{severity="(\w+)"\}', rule["expr"])}

    assert watched == set(Severity)


@by_rule
def test_a_rule_names_metrics_that_are_exported(rule: dict[str, Any]) -> None:
    described = set(re.findall(r"\biommud_\w+", rule["annotations"]["description"]))

    assert metrics_in(rule["expr"])
    assert (metrics_in(rule["expr"]) | described) - EXPORTED - OF_NODE_EXPORTER == set()


def test_the_page_on_monitoring_explains_every_alert() -> None:
    headings = re.findall(r"^### (Iommud\w+)$", (ROOT / "docs/monitoring.md").read_text(encoding="utf-8"), re.MULTILINE)

    assert headings == RULE_NAMES


def test_the_simulated_machines_export_what_the_daemon_exports() -> None:
    text = exposition(BROKEN, time.time(), time.time() - 1000)
    types = dict(re.findall(r"^# TYPE (\S+) (\S+)$", text, re.MULTILINE))
    optional = {families.FUNCTION_GROUP.name}

    assert run_promtool("check", "metrics", text=text).returncode == 0
    assert types == {metric.name: metric.type for metric in families.ALL if metric.name not in optional}


@pytest.mark.parametrize("metric", [metric for metric in families.ALL if metric is not families.FUNCTION_GROUP])
def test_the_simulated_series_have_the_labels_of_the_daemons(metric: Metric) -> None:
    text = exposition(BROKEN, time.time(), time.time() - 1000)
    suffix = "_bucket" if metric.type is Type.HISTOGRAM else ""
    samples = re.findall(rf"^{metric.name}{suffix}(?:\{{(.*)\}})? ", text, re.MULTILINE)

    assert samples
    assert {tuple(re.findall(r'(\w+)="', labels)) for labels in samples} == {metric.labels}


@pytest.mark.parametrize(("name", "one"), [("guest", GUEST), ("host", HOST), ("guest with a finding", BROKEN)])
def test_the_document_gives_the_size_of_each_machine(name: str, one: Machine) -> None:
    row = re.search(rf"^\| {name}.*\|$", (ROOT / "docs/fleet.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert row
    _, functions, groups, samples, size = (cell.strip().replace(",", "") for cell in row[0].strip("|").split("|"))
    text = exposition(one, time.time(), time.time() - 1000)

    assert (int(functions), int(groups), int(samples)) == (one.functions, one.groups, series(text))
    assert int(size) == pytest.approx(len(text), abs=100)


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A Prometheus that has scraped a machine with a finding a few times, and has the rules loaded."""
    pages = {"/metrics": exposition(BROKEN, time.time(), time.time() - 1000)}
    directory = tmp_path_factory.mktemp("prometheus")
    with served(pages) as target, prometheus_over([target], directory, rules=RULES) as server:
        eventually(lambda: server.query("count_over_time(up[1m]) >= 3 and up == 1") or None)
        yield server


def test_a_finding_is_pending_within_a_scrape_and_then_fires(fleet: Server) -> None:
    def alert() -> dict[str, Any] | None:
        alerts = [one for one in fleet.get("alerts")["alerts"] if one["labels"]["alertname"] == "IommudFindingCritical"]
        return alerts[0] if alerts else None

    pending = eventually(alert)

    assert pending["labels"]["kind"] == "alias-split"
    assert pending["annotations"]["description"].endswith("0000:02:05.0 (probe-order)")
    eventually(lambda: (found := alert()) and (found["state"] == "firing" or None), within=40)


def test_a_machine_without_findings_raises_no_alert(tmp_path: Path) -> None:
    pages = {"/metrics": exposition(GUEST, time.time(), time.time() - 1000)}
    with served(pages) as target, prometheus_over([target], tmp_path, rules=RULES) as server:
        eventually(lambda: server.query("count_over_time(up[1m]) >= 3 and up == 1") or None)

        assert server.get("alerts")["alerts"] == []
