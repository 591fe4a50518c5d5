# SPDX-License-Identifier: GPL-2.0-or-later
"""The whole daemon, in a process of its own: it keeps up with the machine, and tells each change once."""

from __future__ import annotations

import signal
import ssl
import time
from pathlib import Path
from typing import Any

import pytest
import trustme

from iommud.daemon.publication import load
from tests.daemon.daemons import FOUNDING, SECOND_VICTIM, VICTIM, Capture, Daemon, Manager, daemon, eventually
from tests.daemon.serving import fetch
from tests.daemon.test_tls import client, issue

UNGROUPED = "iommud_findings{kind=ungrouped,severity=critical}"


@pytest.fixture
def capture(tmp_path: Path) -> Capture:
    return Capture(tmp_path / "machine")


def snapshots(running: Daemon) -> float:
    return sum(value for name, value in running.metrics().items() if name.startswith("iommud_snapshot_total"))


def wait_for_looks(running: Daemon, count: int = 2) -> None:
    before = snapshots(running)
    eventually(lambda: snapshots(running) >= before + count)


def findings(running: Daemon) -> list[tuple[str, str]]:
    """What the log says of findings: message and kind."""
    return [(line["msg"], line["kind"]) for line in list(running.log) if line["msg"].startswith("finding ")]


def test_a_function_that_loses_its_group_is_found_logged_and_cleared(capture: Capture) -> None:
    with daemon(capture) as running:
        eventually(running.ready)
        assert running.metrics()[UNGROUPED] == 0
        capture.ungroup(VICTIM)
        eventually(lambda: running.metrics()[UNGROUPED] == 1)
        assert f'"{VICTIM}"' in running.get("/report.json")[1]
        assert VICTIM in running.get("/report.txt")[1]
        assert VICTIM in running.get("/")[1]
        capture.regroup(VICTIM)
        eventually(lambda: running.metrics()[UNGROUPED] == 0)
        wait_for_looks(running)

    assert [one for one in findings(running) if one[1] == "ungrouped"] == [
        ("finding appeared", "ungrouped"),
        ("finding cleared", "ungrouped"),
    ]


def test_nothing_is_logged_while_nothing_changes(capture: Capture) -> None:
    with daemon(capture) as running:
        eventually(running.ready)
        wait_for_looks(running)
        before = running.messages()
        wait_for_looks(running)

        assert running.messages() == before


def test_polling_notices_what_no_event_tells_of_long_before_the_reconcile(capture: Capture) -> None:
    with daemon(capture, watch_groups=True, poll_interval=0.2, reconcile_interval=3600.0) as running:
        eventually(running.ready)
        assert running.metrics()["iommud_watch_source_up{source=groups}"] == 1
        capture.ungroup(VICTIM)
        eventually(lambda: running.metrics()[UNGROUPED] == 1)

        assert running.metrics()["iommud_snapshot_total{trigger=groups}"] >= 1
        assert running.metrics()["iommud_snapshot_total{trigger=reconcile}"] == 0


def test_a_source_that_is_no_directory_of_files_is_looked_at_by_time_alone(tmp_path: Path) -> None:
    Capture(tmp_path / "machine")
    with daemon(source=str(tmp_path / "machine"), watch_groups=True) as running:
        eventually(running.ready)
        wait_for_looks(running)

        assert not [name for name in running.metrics() if name.startswith("iommud_watch_source_up")]


def test_a_reload_looks_at_once(capture: Capture) -> None:
    with daemon(capture, reconcile_interval=3600.0) as running:
        eventually(running.ready)
        capture.ungroup(VICTIM)
        running.signal(signal.SIGHUP)
        eventually(lambda: running.metrics()[UNGROUPED] == 1)

        assert running.metrics()["iommud_snapshot_total{trigger=reload}"] == 1


def accept_file(path: Path, kind: str, function: str, expires: str = "2999-12-31") -> None:
    entry = {"kind": kind, "reason": "known since the move", "expires": expires}
    lines = [f'{name} = "{value}"' for name, value in entry.items()]
    text = "\n".join(["[[accept]]", *lines, f'addresses = ["{function}"]']).replace(f'"{expires}"', expires)
    path.write_text(text + "\n", encoding="utf-8")


def test_accepted_findings_leave_the_alerts_and_come_back(capture: Capture, tmp_path: Path) -> None:
    path = tmp_path / "accept.toml"
    capture.ungroup(VICTIM)
    accept_file(path, "ungrouped", VICTIM)
    accepted = "iommud_findings_accepted{kind=ungrouped,severity=critical}"
    with daemon(capture, accept_file=str(path)) as running:
        eventually(running.ready)
        assert (running.metrics()[UNGROUPED], running.metrics()[accepted]) == (0, 1)
        assert "known since the move" in running.get("/report.txt")[1]
        assert "known since the move" in running.get("/")[1]

        path.write_text("[[accept]]\nwhat = 1\n")
        running.signal(signal.SIGHUP)
        eventually(lambda: running.metrics()["iommud_accept_file_valid"] == 0)
        wait_for_looks(running)
        assert running.metrics()[accepted] == 1, "the entries read before hold"

        accept_file(path, "ungrouped", VICTIM, expires="2020-01-31")
        running.signal(signal.SIGHUP)
        eventually(lambda: running.metrics()[UNGROUPED] == 1)
        assert running.metrics()[accepted] == 0

    assert [line["error"] for line in running.events("accepted findings stay as they were")] == [
        f"{path}: entry 1: unknown key 'what'; known are addresses, expires, id, kind, reason, severity"
    ]
    assert findings(running)[-1] == ("finding changed", "ungrouped")


def test_a_file_of_accepted_findings_that_makes_no_sense_does_not_keep_the_daemon_from_starting(
    capture: Capture, tmp_path: Path
) -> None:
    with daemon(capture, accept_file=str(tmp_path / "missing")) as running:
        eventually(running.ready)

        assert running.metrics()["iommud_accept_file_valid"] == 0


def test_after_a_restart_only_what_changed_since_is_told(capture: Capture, tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.mkdir()
    capture.ungroup(VICTIM)
    with daemon(capture, state_directory=str(state)) as running:
        eventually(running.ready)
        eventually((state / "state.json").exists)
    assert ("finding appeared", "ungrouped") in findings(running)

    capture.ungroup(SECOND_VICTIM)
    version = capture.root / "proc/version"
    version.write_text(version.read_text().replace("6.12.95", "6.12.96"))
    with daemon(capture, state_directory=str(state)) as running:
        eventually(running.ready)
        told = [(line["msg"], line.get("devices")) for line in running.log if line["msg"] != "listening"]

    assert ("finding appeared", SECOND_VICTIM) in told
    assert ("finding appeared", VICTIM) not in told
    assert ("functions lost their group", SECOND_VICTIM) in told
    assert "kernel changed" in running.messages()


def test_certificates_are_read_again_on_reload_and_a_broken_one_is_not_taken(capture: Capture, tmp_path: Path) -> None:
    first, second = trustme.CA(), trustme.CA()
    certificate, key = issue(tmp_path, first)
    with daemon(capture, tls_certificate=certificate, tls_key=key) as running:
        host, port = eventually(lambda: running.events("listening"))[0]["addresses"].split(":")

        def trusts(ca: trustme.CA) -> bool:
            try:
                return fetch((host, int(port)), tls=client(ca)).status == 200
            except ssl.SSLCertVerificationError:
                return False

        assert (trusts(first), trusts(second)) == (True, False)
        issue(tmp_path, second)
        running.signal(signal.SIGHUP)
        eventually(lambda: trusts(second))
        Path(certificate).write_text("no certificate")
        running.signal(signal.SIGHUP)
        (line,) = eventually(lambda: running.events("certificates stay as they were"))
        assert trusts(second)

    assert certificate in line["error"]


def test_the_service_manager_is_told_of_the_first_report_and_of_reloads(capture: Capture, tmp_path: Path) -> None:
    manager = Manager(tmp_path / "notify")
    with daemon(capture, environment={"NOTIFY_SOCKET": str(manager.path)}) as running:
        assert "STATUS=ok: nothing wrong" in manager.wait_for("READY=1")
        assert running.metrics()["iommud_source_up"] == 1, "ready means that there is a report"
        running.signal(signal.SIGHUP)
        manager.wait_for("RELOADING=1")
        manager.wait_for("READY=1")
        running.signal(signal.SIGTERM)
        manager.wait_for("STOPPING=1")
        assert running.ended() == 0
    manager.close()


def test_signs_of_life_come_as_often_as_the_manager_wants(capture: Capture, tmp_path: Path) -> None:
    manager = Manager(tmp_path / "notify")
    environment = {"NOTIFY_SOCKET": str(manager.path), "WATCHDOG_USEC": "900000"}
    with daemon(capture, environment=environment) as running:
        manager.wait_for("READY=1")
        heard = manager.heard(2)
        assert 4 <= heard.count("WATCHDOG=1") <= 8
        running.signal(signal.SIGSTOP)
        manager.heard(0.3)
        assert "WATCHDOG=1" not in manager.heard(2), "a stopped process gives no sign"
        running.signal(signal.SIGCONT)
        manager.wait_for("WATCHDOG=1")
    manager.close()


def test_a_collector_writes_what_a_server_serves(capture: Capture, tmp_path: Path) -> None:
    runtime = tmp_path / "run"
    runtime.mkdir()
    with daemon(collect=False, runtime_directory=str(runtime), stale_after=2.0) as server:
        assert server.get("/metrics")[0] == 200
        assert server.get("/-/ready")[0] == 503
        with daemon(capture, serve=False, runtime_directory=str(runtime)) as collector:
            eventually(server.ready)
            assert server.metrics()[UNGROUPED] == 0
            capture.ungroup(VICTIM)
            eventually(lambda: server.metrics()[UNGROUPED] == 1)
            found = server.metrics()
            assert found["iommud_snapshot_total{trigger=start}"] == 1
            assert found["iommud_start_time_seconds"] <= time.time()
            assert found["process_resident_memory_bytes"] > 0
            assert not collector.events("listening")
            collector.process.kill()
            collector.ended()
        assert server.metrics()[UNGROUPED] == 1, "the report outlives the collector"
        eventually(lambda: "Stale" in server.get("/report.txt")[1])
        assert "Stale" in server.get("/")[1]


def test_a_server_notices_a_publication_at_once(capture: Capture, tmp_path: Path) -> None:
    runtime = tmp_path / "run"
    runtime.mkdir()
    with (
        daemon(capture, serve=False, runtime_directory=str(runtime), reconcile_interval=3600.0) as collector,
        daemon(collect=False, runtime_directory=str(runtime)) as server,
    ):
        eventually(server.ready)
        capture.ungroup(VICTIM)
        collector.signal(signal.SIGHUP)
        eventually(lambda: load(runtime).status == "findings")
        written = time.monotonic()
        eventually(lambda: server.metrics()[UNGROUPED] == 1)

        assert time.monotonic() - written < 5, "the poll comes every ten seconds"


def test_a_server_waits_for_its_directory(capture: Capture, tmp_path: Path) -> None:
    runtime = tmp_path / "later"
    with daemon(collect=False, runtime_directory=str(runtime)) as server:
        assert server.get("/-/healthy")[0] == 200
        runtime.mkdir()
        with daemon(capture, serve=False, runtime_directory=str(runtime)):
            eventually(server.ready)


def test_every_published_form_is_of_the_same_report(tmp_path: Path) -> None:
    runtime = tmp_path / "run"
    runtime.mkdir()
    with daemon(Capture(tmp_path / "machine", FOUNDING), serve=False, runtime_directory=str(runtime)):
        found: Any = eventually(lambda: (runtime / "publication.json").exists() and load(runtime))

    assert (found.status, found.exit_status) == ("findings", 1)
    assert found.text.startswith(b"findings: 2 critical")
    assert b'"status":"findings"' in found.json
    assert b'iommud_check_status{status="findings"} 1.0' in found.metrics
    assert b'iommud_snapshot_total{trigger="start"} 1.0' in found.metrics
    assert b"process_" not in found.metrics, "they are of the process that serves"
    assert found.openmetrics.endswith(b"# EOF\n")
    assert found.openmetrics.count(b"# EOF\n") == 1


def test_an_inventory_has_a_series_for_each_function(capture: Capture) -> None:
    with daemon(capture, function_groups=True) as running:
        eventually(running.ready)
        names = [name for name in running.metrics() if name.startswith("iommud_function_group{")]

    assert len(names) == sum((capture.place(one) / "iommu_group").is_symlink() for one in capture.functions())
