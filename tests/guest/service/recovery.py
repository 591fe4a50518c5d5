# SPDX-License-Identifier: GPL-2.0-or-later
"""What is checked of the service when something goes wrong: processes that end or hang, full disks, restarts."""

from __future__ import annotations

import time
from collections.abc import Callable

from tests.guest.service.checks import NIC, PLUGGED, UNGROUPED
from tests.guest.service.figures import findings, value
from tests.guest.service.guest import GuestError, eventually
from tests.guest.service.installed import DROP_INS, FROM_WHEELS, INSTALL_SECONDS, PLACE, WHEEL
from tests.guest.service.session import COLLECTOR, RESTART_SECONDS, SERVER, UNITS, Scraping, Session

WATCHDOG_SECONDS = 400
# What the services write to, with what is mounted there for the check. Below /run/private only root may look.
DIRECTORIES = ("/run/private/iommud", "/var/lib/private/iommud")


def killed(unit: str) -> Callable[[Session], str]:
    """A check: a process that is killed is started again, and scrapes go on meanwhile."""

    def check(session: Session) -> str:
        before, restarts = session.process(unit), session.restarts(unit)
        with Scraping(session.guest) as scraping:
            started = time.monotonic()
            session.guest.run(f"kill -KILL {before}")
            session.wait_until_up(unit, other_than=before)
            back = time.monotonic() - started
            session.wait_for_metrics(lambda text: value(text, "iommud_source_up") == 1, "it serves again")
        assert session.restarts(unit) == restarts + 1, f"restarted {session.restarts(unit) - restarts} times"
        # A connection that the killed server had taken is lost with it; with the collector nothing may be lost.
        lost = len(scraping.failures)
        assert lost <= (1 if unit == SERVER else 0), f"{lost} scrapes lost: {scraping.failures[:3]}"
        session.figures[f"{unit} back after SIGKILL, s"] = round(back, 1)
        return f"ready again after {back:.1f} s; {scraping.words()}, {lost} lost"

    return check


def stopped_processes_are_ended_by_the_watchdog(session: Session) -> str:
    """Both processes stopped at once, as if they hung: the service manager ends and restarts them."""
    before = {unit: session.process(unit) for unit in UNITS}
    marks = session.mark()
    started = time.monotonic()
    session.guest.run(f"kill -STOP {' '.join(str(one) for one in before.values())}")
    words = []
    for unit in (SERVER, COLLECTOR):
        session.wait_until_up(unit, other_than=before[unit], within=WATCHDOG_SECONDS)
        back = time.monotonic() - started
        session.figures[f"{unit} back after SIGSTOP, s"] = round(back, 1)
        words.append(f"{unit} after {back:.0f} s")
    session.wait_for_metrics(lambda text: value(text, "iommud_source_up") == 1, "they serve again")
    for unit in UNITS:
        journal = session.guest.run(f"journalctl -q -b -o cat --after-cursor='{marks}' UNIT={unit}")
        # Not the line before it, `Watchdog timeout`: journalctl 252 leaves out the first match after a cursor.
        assert "Failed with result 'watchdog'" in journal, f"{unit}: no word of the watchdog in {journal[:300]}"
    return "ready again: " + ", ".join(words)


def reload_looks_again(session: Session) -> str:
    """`systemctl reload` keeps the processes, and the collector looks at the machine again."""
    before = {unit: session.process(unit) for unit in UNITS}
    reloads = value(session.guest.metrics(), "iommud_snapshot_total", trigger="reload")
    session.guest.run(f"systemctl reload {' '.join(UNITS)}", seconds=RESTART_SECONDS)
    text = session.wait_for_metrics(
        lambda one: value(one, "iommud_snapshot_total", trigger="reload") == (reloads or 0) + 1, "one more look"
    )
    assert {unit: session.process(unit) for unit in UNITS} == before, "a process is another one"
    assert value(text, "iommud_source_up") == 1
    return "same processes, one more look at the machine"


def restarts_lose_no_scrape(session: Session) -> str:
    """`systemctl restart` of both while scrapes go on: none is refused, the last report is served meanwhile."""
    before = {unit: session.process(unit) for unit in UNITS}
    took = {}
    with Scraping(session.guest) as scraping:
        for unit in UNITS:
            started = time.monotonic()
            session.guest.run(f"systemctl restart {unit}", seconds=RESTART_SECONDS)
            session.wait_until_up(unit, other_than=before[unit])
            took[unit] = time.monotonic() - started
        time.sleep(2)
    assert not scraping.failures, f"{len(scraping.failures)} scrapes lost: {scraping.failures[:3]}"
    session.figures["restart, s"] = {unit: round(one, 1) for unit, one in took.items()}
    return "; ".join([*(f"{unit} in {one:.1f} s" for unit, one in took.items()), scraping.words()])


def full_directories_are_survived(session: Session) -> str:
    """No space left where reports and memory are written: it is said and counted, and over when there is space."""
    session.guest.run(f"systemctl stop {' '.join(UNITS)}", seconds=RESTART_SECONDS)
    for directory in DIRECTORIES:
        session.guest.run(f"mount -t tmpfs -o size=1m,mode=0755 tmpfs {directory}")
    try:
        session.guest.run(f"systemctl start {' '.join(UNITS)}", seconds=RESTART_SECONDS)
        session.wait_for_metrics(lambda text: value(text, "iommud_source_up") == 1, "they serve")
        return _filled(session)
    finally:
        session.guest.run(f"systemctl stop {' '.join(UNITS)}", seconds=RESTART_SECONDS)
        for directory in DIRECTORIES:
            session.guest.ask(f"umount {directory}")
        session.guest.run(f"systemctl start {' '.join(UNITS)}", seconds=RESTART_SECONDS)
        session.wait_for_metrics(lambda text: value(text, "iommud_source_up") == 1, "they serve again")


def _filled(session: Session) -> str:
    before = {unit: (session.process(unit), session.restarts(unit)) for unit in UNITS}
    mark = session.mark()
    for directory in DIRECTORIES:
        session.guest.ask(f"dd if=/dev/zero of={directory}/filler bs=4k")
        left = session.guest.run(f"df --output=avail {directory} | tail -1").strip()
        assert left == "0", f"{left} KiB left in {directory}"
    session.guest.plug(PLUGGED)
    try:
        eventually(
            lambda: session.journal(COLLECTOR, mark).count("cannot write") >= len(DIRECTORIES),
            within=RESTART_SECONDS,
            what="the collector says that it cannot write",
        )
        status, _ = session.guest.fetch("/metrics")
        assert status == 200, f"/metrics answers {status}"
        session.guest.run(f"rm {' '.join(f'{one}/filler' for one in DIRECTORIES)}")
        # Somebody has made space; nothing else happens: the collector must come back to it by itself.
        session.guest.run(f"systemctl reload {COLLECTOR}")
        text = session.wait_for_metrics(lambda one: findings(one) == UNGROUPED, "the finding is served")
        eventually(
            lambda: "writing works again" in session.journal(COLLECTOR, mark),
            within=RESTART_SECONDS,
            what="writing works again",
        )
    finally:
        session.guest.unplug("nic")
    session.wait_for_metrics(lambda one: findings(one) == {}, "the finding is gone")
    assert {unit: (session.process(unit), session.restarts(unit)) for unit in UNITS} == before, "a process has ended"
    errors = value(text, "iommud_state_write_errors_total")
    assert errors, "no error is counted"
    return f"both processes live on, {errors:.0f} failed writes counted, `writing works again` after there was space"


def a_reboot_changes_nothing(session: Session) -> str:
    """After a reboot of the same machine the services are up, and nothing is said to have changed."""
    session.wait_for_metrics(lambda text: value(text, "iommud_source_up") == 1, "they serve", within=RESTART_SECONDS)
    boot = session.guest.run("cat /proc/sys/kernel/random/boot_id")
    started = time.monotonic()
    journal = session.guest.run("journalctl -q -b --no-hostname -u 'iommud*' | tail -n 2000")
    (session.keep / "before-reboot.journal").write_text(journal, encoding="utf-8")
    session.guest.run("systemd-run -q --on-active=2s --timer-property=AccuracySec=100ms systemctl reboot")
    session.guest.wait_until_up()
    assert session.guest.run("cat /proc/sys/kernel/random/boot_id") != boot, "it did not reboot"
    session.wait_for_metrics(lambda text: value(text, "iommud_source_up") == 1, "they serve", within=RESTART_SECONDS)
    seconds = time.monotonic() - started
    said = session.journal(COLLECTOR)
    for words in ("appeared", "gone", "cleared", "changed"):
        assert words not in said, f"{words!r} is said: {said[-400:]}"
    return f"scraped {seconds:.0f} s after the reboot was asked for; no change is told"


def changes_since_the_last_boot_are_told(session: Session) -> str:
    """The machine was off, and has a NIC more now: the journal says what is new since the last boot."""
    session.wait_for_metrics(
        lambda text: findings(text) == UNGROUPED, "the finding is in the metrics", within=RESTART_SECONDS
    )
    said = session.journal(COLLECTOR)
    lines = [line for line in said.splitlines() if NIC in line]
    for words in ("finding appeared", "functions appeared"):
        if not any(words in line for line in lines):
            raise GuestError(f"{words!r} of {NIC} is not said: {said[-600:]}")
    status = session.guest.ask("iommud status")
    assert status.status == 1, f"iommud status ends with {status.status}"
    assert NIC in status.output, status.output[:300]
    return " | ".join(line.split(" reasons=")[0][:160] for line in lines[:2])


def an_upgrade_loses_no_scrape(session: Session) -> str:
    """`tools/install.sh upgrade` while scrapes go on: none is refused, and new processes run afterwards."""
    before = {unit: session.process(unit) for unit in UNITS}
    with Scraping(session.guest, every=1) as scraping:
        words = session.guest.run(f"cd {PLACE} && {FROM_WHEELS} tools/install.sh upgrade {WHEEL}", INSTALL_SECONDS)
        for unit in UNITS:
            session.wait_until_up(unit, other_than=before[unit])
    assert not scraping.failures, f"{len(scraping.failures)} scrapes lost: {scraping.failures[:3]}"
    return f"{words.strip().splitlines()[-1]}; {scraping.words()}"


def removal_leaves_what_is_documented(session: Session) -> str:
    """`install.sh remove` of the installed copy takes all away, but for the drop-ins that somebody made."""
    words = session.guest.run("/opt/iommud/share/iommud/install.sh remove", seconds=RESTART_SECONDS)
    left = session.guest.run(
        "find / -xdev -name '*iommud*' -not -path '/srv/*'; find /run -name '*iommud*'; find /opt -mindepth 1"
    ).split()
    assert set(left) == {DROP_INS}, f"left: {left}"
    assert DROP_INS in words, f"what is left is not named: {words}"
    gone = session.guest.ask("systemctl is-active iommud.service iommud-web.service iommud-web.socket").output.split()
    assert set(gone) <= {"inactive", "unknown"}, f"still there: {gone}"
    return f"nothing is left but {DROP_INS}, and that is said"
