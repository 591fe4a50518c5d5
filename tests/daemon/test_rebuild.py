# SPDX-License-Identifier: GPL-2.0-or-later
"""From a look to a publication, without a process around it: what is done again, and what a clock does."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, date, datetime
from typing import Any

import pytest

from iommud.address import Address
from iommud.daemon import rebuild
from iommud.daemon.accept import AcceptRule
from iommud.daemon.activity import Activity, Tally
from iommud.daemon.publication import Board, Publication
from iommud.daemon.rebuild import Look, Rebuilder
from iommud.daemon.rendering import Renderer
from iommud.errors import SourceError
from iommud.pci import PortType
from iommud.snapshot import Snapshot
from iommud.verdict import pipeline
from iommud.verdict.findings import Kind
from tests.render.samples import config, function, machine

GOOD = machine(
    function("00:03.0", config(PortType.ENDPOINT)),
    function("00:04.0", config(PortType.ENDPOINT)),
    groups="00:03.0 | 00:04.0",
)
WORSE = machine(
    function("00:03.0", config(PortType.ENDPOINT)),
    function("00:04.0", config(PortType.ENDPOINT)),
    groups="00:03.0",
)
LOOK = Look(reasons=frozenset({"reconcile"}))


class Reader:
    """A reader of snapshots that a test names, or of none."""

    retakes = config_reads = 0

    def __init__(self) -> None:
        self.next: Snapshot | Exception = GOOD
        self.asked = 0

    def snapshot(self, _touched: object, *, full: bool) -> Snapshot:
        assert full
        if isinstance(self.next, Exception):
            raise self.next
        return self.next

    def with_evidence(self, snapshot: Snapshot) -> Snapshot:
        self.asked += 1
        return replace(snapshot, modules=("vfio",))


class Bench:
    """A rebuilder with all that it needs, and no machine."""

    def __init__(self) -> None:
        self.board, self.tally, self.reader = Board(), Tally(), Reader()
        reader: Any = self.reader
        self.rebuilder = Rebuilder(
            reader,
            Renderer(self.activity, here=False),
            self.board,
            tally=self.tally,
            activity=self.activity,
        )

    def activity(self) -> Activity:
        return Activity(started_at=0, readable=self.rebuilder.readable, snapshots={})

    def look(self, what: Snapshot | Exception = GOOD, **facts: Any) -> Publication:
        self.reader.next = what
        self.rebuilder.rebuild(replace(LOOK, **facts))
        return self.current

    @property
    def current(self) -> Publication:
        assert self.board.current is not None
        return self.board.current


@pytest.fixture
def bench() -> Bench:
    return Bench()


@pytest.fixture
def judged(monkeypatch: pytest.MonkeyPatch) -> list[Snapshot]:
    """The snapshots that were judged."""
    found: list[Snapshot] = []

    def check(snapshot: Snapshot, **named: Any) -> Any:
        found.append(snapshot)
        return pipeline.check(snapshot, **named)

    monkeypatch.setattr(rebuild, "check", check)
    return found


def test_what_did_not_change_is_neither_judged_nor_rendered_again(bench: Bench, judged: list[Snapshot]) -> None:
    first = bench.look(GOOD)
    second = bench.look(replace(GOOD, config_reads=17))

    assert len(judged) == 1
    assert (second.page, second.text, second.json) == (first.page, first.text, first.json)
    assert second.page is first.page
    assert second.generation == first.generation + 1
    assert second.taken_at > first.taken_at


def test_an_acceptance_that_is_over_is_told_once_whether_it_covers_a_finding_or_not(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[tuple[str, dict[str, Any]]] = []
    monkeypatch.setattr(rebuild, "log_event", lambda _level, message, **fields: told.append((message, fields)))
    over = AcceptRule(reason="known", expires=date(2020, 1, 31), id="merged:1")
    by_kind = replace(over, id=None, kind=Kind.MERGED, addresses=frozenset({Address(0, 0, 3, 0)}))
    holds = replace(over, expires=date(9999, 1, 1))

    for rules in ((over, by_kind, holds), (over, by_kind, holds), (holds,), (over, holds)):
        bench.look(GOOD, rules=rules)

    one = {"about": "merged:1", "expired": "2020-01-31", "reason": "known"}
    other = {**one, "about": "merged 0000:00:03.0"}
    expired = "acceptance has expired"
    assert told == [(expired, other), (expired, one), (expired, one)]


def test_evidence_of_causes_is_read_once_for_each_state_with_something_to_explain(bench: Bench) -> None:
    asked = []
    for snapshot in (GOOD, WORSE, replace(WORSE, config_reads=17), GOOD):
        bench.look(snapshot)
        asked.append(bench.reader.asked)

    assert asked == [0, 1, 1, 1]


def test_what_changed_is_judged_and_rendered(bench: Bench, judged: list[Snapshot]) -> None:
    first, second = bench.look(GOOD), bench.look(WORSE)

    assert judged == [GOOD, WORSE]
    assert (first.status, second.status) == ("ok", "findings")


def test_an_acceptance_that_expires_changes_the_report_of_a_machine_that_stays_the_same(
    bench: Bench, judged: list[Snapshot], monkeypatch: pytest.MonkeyPatch
) -> None:
    (ungrouped,) = pipeline.check(WORSE).findings
    rules = (AcceptRule(reason="known", expires=date(2026, 6, 15), id=ungrouped.id),)

    class Calendar:
        today = datetime(2026, 6, 15, 23, 59, tzinfo=UTC)

        @classmethod
        def now(cls, tz: object) -> datetime:
            assert tz is UTC
            return cls.today

    monkeypatch.setattr(rebuild, "datetime", Calendar)
    assert bench.look(WORSE, rules=rules).status == "ok"
    Calendar.today = datetime(2026, 6, 16, 0, 0, tzinfo=UTC)
    assert bench.look(WORSE, rules=rules).status == "findings"
    assert len(judged) == 1


@pytest.mark.parametrize(
    "problem", [SourceError("this machine", "gone"), ValueError("a defect"), RecursionError()], ids=type
)
def test_a_look_that_fails_leaves_the_report(bench: Bench, problem: Exception) -> None:
    bench.look(WORSE)
    after = bench.look(problem)

    assert after.status == "findings"
    assert bench.tally.snapshot_errors == 1
    assert b"iommud_source_up 0.0" in after.metrics
    assert not bench.rebuilder.readable
    assert b"iommud_source_up 1.0" in bench.look(WORSE).metrics


def test_what_the_daemon_cannot_do_stands_in_the_report(bench: Bench) -> None:
    published = bench.look(GOOD, notes=("the daemon is degraded",))

    assert b"the daemon is degraded" in published.page
    assert b"the daemon is degraded" in published.json


Clock = Callable[[float], None]


@pytest.fixture
def wall_clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Set the wall clock off by so many seconds; the other clocks go on."""
    real, off = time.time, [0.0]
    monkeypatch.setattr(time, "time", lambda: real() + off[0])

    def set_off(seconds: float) -> None:
        off[0] = seconds

    return set_off


@pytest.mark.parametrize("jump", [-86400.0, 86400.0], ids=["back", "forward"])
def test_a_report_is_as_old_as_it_is_whatever_the_wall_clock_does(bench: Bench, wall_clock: Clock, jump: float) -> None:
    bench.look(GOOD)
    wall_clock(jump)
    bench.rebuilder.publish()

    assert abs(time.time() - bench.current.taken_at) < 5


def test_durations_do_not_notice_that_the_wall_clock_jumps(bench: Bench, wall_clock: Clock) -> None:
    bench.look(GOOD)
    wall_clock(-86400)
    bench.look(GOOD)

    assert 0 <= bench.tally.durations.sum < 10


def test_a_report_that_is_published_again_keeps_its_time(bench: Bench) -> None:
    before = bench.look(GOOD).taken_at
    bench.rebuilder.publish()

    assert bench.current.taken_at == before


def test_every_reason_of_a_look_is_counted(bench: Bench) -> None:
    bench.look(GOOD, reasons=frozenset({"uevent", "groups"}))

    assert bench.tally.snapshots == {"uevent": 1, "groups": 1}
    assert sum(bench.tally.durations.counts) == 1
