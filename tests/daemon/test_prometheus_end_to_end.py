# SPDX-License-Identifier: GPL-2.0-or-later
"""A real Prometheus with the project's own rules scrapes the real daemon over a machine that the test edits."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from tests.daemon.daemons import VICTIM, Capture, daemon, eventually
from tests.daemon.test_tls import authority, issue
from tests.prometheus import Server, prometheus_over

RULES = Path(__file__).parent.parent.parent / "monitoring" / "iommud.rules.yml"


def quick_rules(directory: Path) -> Path:
    """The rules with waiting times that a test can wait for."""
    path = directory / "rules.yml"
    path.write_text(RULES.read_text(encoding="utf-8").replace("for: 15s", "for: 3s"), encoding="utf-8")
    return path


def alerts(server: Server) -> dict[tuple[str, str], str]:
    """State of each alert by name and kind."""
    found = server.get("alerts")["alerts"]
    return {(one["labels"]["alertname"], one["labels"].get("kind", "")): one["state"] for one in found}


def test_an_alert_goes_pending_fires_and_resolves(tmp_path: Path) -> None:
    capture = Capture(tmp_path / "machine")
    ungrouped = ("IommudFindingCritical", "ungrouped")
    with daemon(capture) as running, prometheus_over([running.target], tmp_path, rules=quick_rules(tmp_path)) as server:
        eventually(lambda: server.query("iommud_source_up == 1"), within=30)
        assert alerts(server) == {}
        capture.ungroup(VICTIM)
        eventually(lambda: alerts(server).get(ungrouped) == "pending")
        eventually(lambda: alerts(server).get(ungrouped) == "firing")
        (alert,) = [one for one in server.get("alerts")["alerts"] if one["labels"].get("kind") == "ungrouped"]
        assert VICTIM in alert["annotations"]["description"]
        assert alert["annotations"]["runbook_url"].endswith("docs/findings/ungrouped.md")
        capture.regroup(VICTIM)
        eventually(lambda: ungrouped not in alerts(server))


def test_what_prometheus_stores_is_what_the_daemon_counts(tmp_path: Path) -> None:
    capture = Capture(tmp_path / "machine")
    capture.ungroup(VICTIM)
    with daemon(capture) as running, prometheus_over([running.target], tmp_path) as server:
        eventually(lambda: server.query("iommud_finding_info"), within=30)
        (series,) = server.query('iommud_finding_info{kind="ungrouped"}')
        labels = {name: series["metric"][name] for name in ("segment", "bus", "device", "function")}
        assert labels == {"segment": "0000", "bus": "02", "device": "00", "function": "0"}
        assert float(server.query("sum(iommud_functions)")[0]["value"][1]) == len(capture.functions())
        assert server.query("time() - iommud_snapshot_timestamp_seconds < 30")
        eventually(lambda: server.query("rate(iommud_snapshot_duration_seconds_count[10s]) > 0"))


@pytest.mark.parametrize(("stale_after", "alert"), [(2.0, "pending"), (3600.0, None)])
def test_data_is_stale_from_the_age_that_the_collector_was_told(
    tmp_path: Path, stale_after: float, alert: str | None
) -> None:
    runtime = tmp_path / "runtime"
    runtime.mkdir()
    with daemon(Capture(tmp_path / "machine"), serve=False, runtime_directory=str(runtime), stale_after=stale_after):
        eventually((runtime / "metrics.prom").exists)
    with (
        daemon(collect=False, runtime_directory=str(runtime)) as running,
        prometheus_over([running.target], tmp_path, rules=RULES) as server,
    ):
        eventually(lambda: server.query("time() - iommud_snapshot_timestamp_seconds > 6"), within=30)
        time.sleep(2)  # two evaluations of the rules
        assert alerts(server).get(("IommudStaleData", "")) == alert


def health(server: Server) -> list[tuple[str, str]]:
    """Health of each target, and what was wrong with the last scrape."""
    return [(one["health"], one["lastError"]) for one in server.get("targets")["activeTargets"]]


def test_only_a_prometheus_with_a_certificate_is_served_where_one_is_wanted(tmp_path: Path) -> None:
    certificate, key = issue(tmp_path)
    own, own_key = issue(tmp_path, name="prometheus")
    ca = authority(tmp_path)
    tls: dict[str, Any] = {"tls_certificate": certificate, "tls_key": key, "tls_client_ca": ca}
    scheme = f"    scheme: https\n    tls_config:\n      ca_file: {ca}\n"
    credentials = f"      cert_file: {own}\n      key_file: {own_key}\n"
    with daemon(Capture(tmp_path / "machine"), **tls) as running:
        eventually(lambda: running.events("listening"))
        with prometheus_over([running.target], tmp_path, settings=scheme + credentials) as server:
            eventually(lambda: server.query("iommud_source_up == 1"), within=30)
            assert health(server) == [("up", "")]
        with prometheus_over([running.target], tmp_path, settings=scheme) as server:
            eventually(lambda: [state for state, _ in health(server)] == ["down"], within=30)
            assert "certificate required" in health(server)[0][1]
