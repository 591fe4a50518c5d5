# SPDX-License-Identifier: GPL-2.0-or-later
"""Sources of changes as the whole daemon uses them: events, polling, and neither of them."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from iommud.daemon.settings import Settings
from iommud.daemon.sources import Sources, is_sysfs, open_tree
from iommud.errors import SourceError
from tests.daemon.daemons import VICTIM, Capture, Daemon, daemon, eventually

UNGROUPED = "iommud_findings{kind=ungrouped,severity=critical}"
FED = ("-m", "tools.bench.daemon_process")
"""The daemon with events that come over a socket."""


@pytest.fixture
def capture(tmp_path: Path) -> Capture:
    return Capture(tmp_path / "machine")


class Kernel:
    """What sends events."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)

    def tell(self, *events: str) -> None:
        for event in events:
            self._socket.sendto(event.encode(), str(self._path))

    def close(self) -> None:
        self._socket.close()


@contextmanager
def fed(capture: Capture, **settings: Any) -> Iterator[tuple[Daemon, Kernel]]:
    """A daemon that looks only when it is told to."""
    # The name of a socket has room for 107 bytes only, and the checkout may lie deep.
    place = os.open(capture.root, os.O_PATH | os.O_DIRECTORY)
    path = Path(f"/proc/{os.getpid()}/fd/{place}/events")
    known = {"reconcile_interval": 3600.0, "watch_groups": False, **settings}
    try:
        with daemon(capture, program=FED, arguments=(str(path),), **known) as running:
            kernel = Kernel(path)
            eventually(running.ready)
            try:
                yield running, kernel
            finally:
                kernel.close()
    finally:
        os.close(place)


def test_an_event_makes_it_look_and_is_counted_by_what_happened(capture: Capture) -> None:
    with fed(capture) as (running, kernel):
        assert running.metrics()["iommud_watch_source_up{source=uevents}"] == 1
        capture.ungroup(VICTIM)
        kernel.tell(f"bind {VICTIM}")
        eventually(lambda: running.metrics()[UNGROUPED] == 1)
        found = running.metrics()

    assert found["iommud_uevents_total{action=bind}"] == 1
    assert found["iommud_snapshot_total{trigger=uevent}"] == 1


def test_a_burst_of_events_is_one_look(capture: Capture) -> None:
    with fed(capture, quiet=0.3) as (running, kernel):
        kernel.tell(*(f"add 0000:{bus:02x}:00.0" for bus in range(200)))
        eventually(lambda: running.metrics()["iommud_snapshot_total{trigger=uevent}"] >= 1)
        found = running.metrics()

    assert found["iommud_uevents_total{action=add}"] == 200
    assert found["iommud_snapshot_total{trigger=uevent}"] <= 2, "one more if the machine was slow to send"


def test_events_without_end_are_looked_at_all_the_same(capture: Capture) -> None:
    with fed(capture, quiet=0.5, delay=1.0) as (running, kernel):
        capture.ungroup(VICTIM)

        def still_telling() -> bool:
            kernel.tell(f"change {VICTIM}")
            return running.metrics()[UNGROUPED] == 1

        eventually(still_telling)


def test_config_space_is_not_read_again_for_an_event(capture: Capture) -> None:
    with fed(capture) as (running, kernel):
        before = running.metrics()["iommud_config_reads_total"]
        kernel.tell("change 0000:00:1f.0")
        eventually(lambda: running.metrics()["iommud_snapshot_total{trigger=uevent}"] == 1)
        after = running.metrics()["iommud_config_reads_total"]

    assert before > 0
    assert after <= before + 1, "nothing but a volatile register of the function itself"


def test_losing_all_but_the_reconcile_is_told_everywhere_and_ends_nothing(capture: Capture) -> None:
    (capture.root / "events").mkdir()  # no socket can be made there
    known: dict[str, Any] = {"reconcile_interval": 1.0, "program": FED, "arguments": (str(capture.root / "events"),)}
    with daemon(capture, **known) as running:
        eventually(running.ready)
        assert running.metrics()["iommud_watch_source_up{source=uevents}"] == 0
        assert "the daemon is degraded: changes that uevents tell of" in running.get("/")[1]
        capture.ungroup(VICTIM)
        eventually(lambda: running.metrics()[UNGROUPED] == 1)

    (line,) = running.events("source is down")
    assert (line["level"], line["source"]) == ("warning", "uevents")
    assert "cannot listen to uevents" in line["problem"]


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    found = asyncio.new_event_loop()
    yield found
    found.close()


def made(settings: Settings, loop: asyncio.AbstractEventLoop) -> Sources:
    def never(*_: object) -> None:
        raise AssertionError("nothing was started")

    return Sources(settings, loop, on_uevents=never, on_groups=never)


@pytest.mark.parametrize(
    ("changes", "watched"),
    [
        ({}, {"uevents", "groups"}),
        ({"watch_uevents": False}, {"groups"}),
        ({"watch_groups": False}, {"uevents"}),
        ({"watch_uevents": False, "watch_groups": False}, set()),
        ({"source": "capture.tar.gz"}, set()),
        ({"sysfs": "/nowhere"}, {"groups"}),
    ],
    ids=["both", "no events", "no polling", "neither", "a capture", "a copy of sysfs"],
)
def test_each_source_can_be_switched_off_and_a_capture_has_none(
    changes: dict[str, Any], watched: set[str], loop: asyncio.AbstractEventLoop
) -> None:
    found = made(replace(Settings(), **changes), loop)

    assert set(found.up()) == watched
    assert not any(found.up().values())
    assert not found.hears_uevents
    assert {name for name in watched if found.problem(name) == "not started"} == watched


def test_a_copy_of_sysfs_is_told_from_the_kernels_own(capture: Capture, tmp_path: Path) -> None:
    (capture.sysfs / "kernel").mkdir(exist_ok=True)
    (capture.sysfs / "kernel/uevent_seqnum").write_text("1000\n")

    assert not is_sysfs(str(capture.sysfs))
    assert not is_sysfs(str(tmp_path / "nowhere"))
    assert not is_sysfs("\0")
    assert is_sysfs("/sys")


def test_sysfs_at_another_place_is_the_kernels_own(tmp_path: Path) -> None:
    if not Path("/sys/kernel/uevent_seqnum").exists():
        pytest.skip("no sysfs here")
    (tmp_path / "host").symlink_to("/sys")

    assert is_sysfs(str(tmp_path / "host"))


def test_a_capture_is_opened_as_check_opens_it(capture: Capture) -> None:
    assert open_tree(Settings(source=str(capture.root))).list("sys/bus/pci/devices") == capture.functions()
    with pytest.raises(SourceError):
        open_tree(Settings(source=str(capture.root / "nowhere")))


def test_numbers_of_events_are_those_of_the_monitor(loop: asyncio.AbstractEventLoop) -> None:
    found = made(Settings(watch_groups=False), loop)
    source: Any = found._uevents
    source.overruns, source.restarts, source.losses = 3, 4, 5
    source.events.update({"add": 2, "change": 7})

    assert (found.overruns, found.monitor_restarts, found.uevent_counts()) == (3, 4, {"add": 2, "change": 7})
    assert found.structural_changes() == source.structural_changes > 0
