# SPDX-License-Identifier: GPL-2.0-or-later
"""What can go wrong around the daemon: it says so, goes on, loses no finding and leaves no torn file."""

from __future__ import annotations

import asyncio
import os
import random
import resource
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from iommud.daemon import service
from iommud.daemon.notify import Notifier
from iommud.daemon.publication import Board, load
from iommud.daemon.settings import Settings
from iommud.daemon.state import FILE, StateError, load_state
from tests.daemon.daemons import SECOND_VICTIM, VICTIM, Capture, Daemon, Manager, daemon, eventually

UNGROUPED = "iommud_findings{kind=ungrouped,severity=critical}"
QUICK = 2.0
"""Seconds within which it ends, whatever it is at."""


@pytest.fixture
def capture(tmp_path: Path) -> Capture:
    return Capture(tmp_path / "machine")


def directories(tmp_path: Path) -> dict[str, Any]:
    for name in ("run", "state"):
        (tmp_path / name).mkdir()
    return {"runtime_directory": str(tmp_path / "run"), "state_directory": str(tmp_path / "state")}


def block(capture: Capture) -> Path:
    """Make one attribute a pipe, so that whoever reads the machine waits for ever."""
    path = capture.place(VICTIM) / "uevent"
    path.rename(path.with_name("kept"))
    os.mkfifo(path)
    return path


def unblock(path: Path) -> None:
    """Let whoever waits go on, and make the attribute what it was."""
    writer = os.open(path, os.O_RDWR | os.O_NONBLOCK)
    path.with_name("kept").replace(path)
    os.close(writer)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_ends_at_once_when_told_to(capture: Capture, number: signal.Signals) -> None:
    with daemon(capture) as running:
        eventually(running.ready)
        started = time.monotonic()
        running.signal(number)

        assert running.ended() == 0
        assert time.monotonic() - started < QUICK


def test_it_ends_at_once_before_the_first_report(capture: Capture) -> None:
    block(capture)
    with daemon(capture) as running:
        assert running.get("/-/ready")[0] == 503
        started = time.monotonic()
        running.signal(signal.SIGTERM)

        assert running.ended() == 0
        assert time.monotonic() - started < QUICK


def test_it_ends_within_two_seconds_in_the_middle_of_a_look_that_never_ends(capture: Capture) -> None:
    with daemon(capture) as running:
        eventually(running.ready)
        path = block(capture)
        running.signal(signal.SIGHUP)
        time.sleep(1.5)
        started = time.monotonic()
        running.signal(signal.SIGTERM)

        assert running.ended() == 0
        assert time.monotonic() - started < QUICK
        assert path.exists()
    assert running.messages()[-1] == "ended in the middle of a look at the machine"


def test_a_look_that_never_ends_stops_neither_the_server_nor_the_report(capture: Capture) -> None:
    capture.ungroup(VICTIM)
    with daemon(capture) as running:
        eventually(running.ready)
        path = block(capture)
        time.sleep(1.5)
        assert running.metrics()[UNGROUPED] == 1
        before = running.metrics()["iommud_snapshot_total{trigger=reconcile}"]
        unblock(path)
        eventually(lambda: running.metrics()["iommud_snapshot_total{trigger=reconcile}"] > before)


def test_the_watchdog_starves_while_a_look_does_not_end(capture: Capture, tmp_path: Path) -> None:
    manager = Manager(tmp_path / "notify")
    environment = {"NOTIFY_SOCKET": str(manager.path), "WATCHDOG_USEC": "600000"}
    with daemon(capture, environment=environment) as running:
        manager.wait_for("READY=1")
        path = block(capture)
        manager.heard(2.5)
        assert "WATCHDOG=1" not in manager.heard(1)
        assert running.get("/-/healthy")[0] == 200, "the loop itself is alive"
        unblock(path)
        manager.wait_for("WATCHDOG=1")
    manager.close()


def test_a_machine_that_cannot_be_read_any_more_keeps_its_findings(capture: Capture) -> None:
    capture.ungroup(VICTIM)
    with daemon(capture) as running:
        eventually(running.ready)
        (capture.root / "sys").rename(capture.root / "gone")
        eventually(lambda: running.metrics()["iommud_snapshot_errors_total"] >= 2)
        found = running.metrics()
        assert (found["iommud_source_up"], found[UNGROUPED]) == (0, 1)
        (capture.root / "gone").rename(capture.root / "sys")
        eventually(lambda: running.metrics()["iommud_source_up"] == 1)

    assert len(running.events("cannot read the machine")) == 1
    assert len(running.events("the machine can be read again")) == 1
    assert len(running.events("finding appeared")) == 1
    assert running.events("finding cleared") == []


def test_a_reload_ends_for_the_manager_also_if_the_machine_cannot_be_read(capture: Capture, tmp_path: Path) -> None:
    manager = Manager(tmp_path / "notify")
    with daemon(capture, reconcile_interval=3600.0, environment={"NOTIFY_SOCKET": str(manager.path)}) as running:
        manager.wait_for("READY=1")
        (capture.root / "sys").rename(capture.root / "gone")
        running.signal(signal.SIGHUP)
        manager.wait_for("RELOADING=1")
        assert "cannot read the machine; last report: ok" in manager.wait_for("READY=1")
    manager.close()


def test_a_machine_that_cannot_be_read_at_first_is_waited_for(capture: Capture, tmp_path: Path) -> None:
    (capture.root / "sys").rename(capture.root / "gone")
    manager = Manager(tmp_path / "notify")
    with daemon(capture, environment={"NOTIFY_SOCKET": str(manager.path)}) as running:
        eventually(lambda: running.metrics().get("iommud_source_up") == 0)
        assert running.metrics()["iommud_check_status{status=error}"] == 1
        assert "cannot be listed" in running.get("/report.txt")[1] or "No such file" in running.get("/report.txt")[1]
        heard = manager.heard(0.5)
        assert not [one for one in heard if "READY=1" in one]
        assert heard[0] == "STATUS=reading the machine for the first time"
        assert heard[1].startswith("STATUS=no report yet: cannot read the machine: ")
        assert heard[1].endswith("No such file or directory")
        (capture.root / "gone").rename(capture.root / "sys")
        manager.wait_for("READY=1")
        assert running.metrics()["iommud_source_up"] == 1
    manager.close()


def test_a_first_look_that_does_not_end_is_told(capture: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "_LONG_LOOK", 0.2)
    monkeypatch.setattr(service, "_TICK", 0.1)
    path = block(capture)
    told: list[tuple[str, dict[str, object]]] = []
    monkeypatch.setattr(service, "log_event", lambda _level, message, **fields: told.append((message, fields)))

    async def start() -> None:
        settings = Settings(sysfs=str(capture.sysfs), procfs=f"{capture.root}/proc", watch_groups=False)
        running = service.CollectorService(settings, Notifier({}), Board())
        running.start()
        await asyncio.sleep(1)
        unblock(path)
        running.stop()

    asyncio.run(start())

    assert [message for message, _ in told] == ["the first look at the machine does not end"]


def test_a_report_of_an_earlier_run_is_not_replaced_by_the_news_that_there_is_none(
    capture: Capture, tmp_path: Path
) -> None:
    where = directories(tmp_path)
    with daemon(capture, serve=False, **where):
        eventually((tmp_path / "run/publication.json").exists)
    (capture.root / "sys").rename(capture.root / "gone")
    with daemon(capture, serve=False, **where) as running:
        eventually(lambda: running.events("cannot read the machine"))
        time.sleep(0.5)

    assert load(tmp_path / "run").status == "ok"


def test_without_the_capability_everything_but_the_verdict_is_there(capture: Capture) -> None:
    """The kernel gives a reader without CAP_SYS_ADMIN the first 64 bytes of config space, and no error."""
    capture.hide_config()
    with daemon(capture) as running:
        eventually(running.ready)
        found = running.metrics()

    assert found["iommud_config_space_complete"] == 0
    assert found["iommud_check_status{status=undecidable}"] == 1
    assert found["iommud_findings{kind=undecidable,severity=warning}"] == 1
    assert found["iommud_groups"] == 4


def test_a_port_that_is_taken_is_named_and_ends_it(capture: Capture) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with daemon(capture, listen=(f"127.0.0.1:{port}",)) as running:
            assert running.ended() == 4
    (line,) = running.log

    assert (line["msg"], line["error"]) == ("cannot start", f"127.0.0.1:{port}: Address already in use")


@pytest.mark.parametrize("listen", ["0.0.0.0:0", "[::]:0"])
def test_serving_everybody_without_tls_is_wrong_usage(capture: Capture, listen: str) -> None:
    with daemon(capture, listen=(listen,)) as running:
        assert running.ended() == 2

    assert "needs TLS" in running.log[0]["error"]


def fill_the_disk(running: Daemon) -> Callable[[], None]:
    """Let it write no file of more than a few bytes, as on a full disk; gives what ends that."""
    hard = resource.prlimit(running.process.pid, resource.RLIMIT_FSIZE)[1]

    def limit(size: int) -> None:
        resource.prlimit(running.process.pid, resource.RLIMIT_FSIZE, (size, hard))

    limit(10)
    return lambda: limit(hard)


def test_a_full_disk_costs_a_warning_and_a_metric_and_not_the_service(capture: Capture, tmp_path: Path) -> None:
    where = directories(tmp_path)
    with daemon(capture, **where) as running:
        eventually((tmp_path / "state" / FILE).exists)
        free = fill_the_disk(running)
        capture.ungroup(VICTIM)
        eventually(lambda: running.metrics()["iommud_state_write_errors_total"] >= 4)
        assert running.metrics()[UNGROUPED] == 1
        assert load(tmp_path / "run").status == "ok", "the last one that was written whole"
        assert load_state(tmp_path / "state") is not None
        free()
        eventually(lambda: load(tmp_path / "run").status == "findings")
        eventually(lambda: len(running.events("writing works again")) == 2)

    assert sorted(line["directory"] for line in running.events("cannot write")) == sorted(where.values())


def test_directories_that_cannot_be_made_cost_a_warning_and_a_metric(capture: Capture, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    no = str(tmp_path / "file/no")
    with daemon(capture, runtime_directory=no, state_directory=no) as running:
        eventually(running.ready)
        assert running.metrics()["iommud_state_write_errors_total"] >= 1

    assert running.events("cannot write")[0]["error"] == "Not a directory"


def test_a_torn_state_of_another_program_costs_a_warning(capture: Capture, tmp_path: Path) -> None:
    where = directories(tmp_path)
    (tmp_path / "state" / FILE).write_bytes(b'{"version":1,"kern')
    with daemon(capture, **where) as running:
        eventually(running.ready)
        eventually(lambda: load_state_or_none(tmp_path / "state"))

    assert len(running.events("what was known before is lost")) == 1


def load_state_or_none(directory: Path) -> object:
    try:
        return load_state(directory)
    except StateError:
        return None


def test_killed_at_any_moment_it_leaves_whole_files_and_no_finding_is_lost(capture: Capture, tmp_path: Path) -> None:
    where = directories(tmp_path)
    capture.ungroup(VICTIM)
    chance = random.Random(11)  # noqa: S311 - the same moments at each run
    whole = 0
    for turn in range(12):
        with daemon(capture, serve=False, **where) as running:
            if turn % 2:
                eventually(lambda: running.log or (tmp_path / "run/current").is_symlink(), 20)
            time.sleep(chance.uniform(0.15, 0.6))
            running.process.kill()
            running.ended()
        load_state(tmp_path / "state")
        if (tmp_path / "run/current").is_symlink():
            found = load(tmp_path / "run")
            assert (found.status, found.exit_status) == ("findings", 1)
            assert VICTIM.encode() in found.json
            whole += 1
    assert whole > 0

    with daemon(capture, serve=False, **where):
        eventually(lambda: len(list((tmp_path / "run").glob("publication-*"))) == 1)
    assert not list((tmp_path / "state").glob(".*")), "what killed writers left is taken away"


def test_a_hang_up_before_the_first_report_does_not_end_it(capture: Capture) -> None:
    path = block(capture)
    with daemon(capture) as running:
        assert running.get("/-/healthy")[0] == 200
        running.signal(signal.SIGHUP)
        time.sleep(0.3)
        assert running.process.poll() is None
        unblock(path)
        eventually(running.ready)


def test_two_functions_that_change_while_it_is_stopped_are_both_found(capture: Capture) -> None:
    with daemon(capture) as running:
        eventually(running.ready)
        running.signal(signal.SIGSTOP)
        capture.ungroup(VICTIM)
        capture.ungroup(SECOND_VICTIM)
        time.sleep(1.5)
        running.signal(signal.SIGCONT)
        eventually(lambda: {VICTIM, SECOND_VICTIM} <= set(running.get("/report.txt")[1].split()))
