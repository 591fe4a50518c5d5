# SPDX-License-Identifier: GPL-2.0-or-later
"""What is checked of the service in a full guest: that it runs, what it may do, and what it tells of the machine."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from tests.guest.image import ROOT
from tests.guest.service import probe
from tests.guest.service.documented import without_capability
from tests.guest.service.figures import (
    differences,
    documented_exposures,
    exposure,
    findings,
    in_milliseconds,
    kibibytes,
    value,
)
from tests.guest.service.guest import eventually
from tests.guest.service.installed import MODULE, PLACE
from tests.guest.service.session import COLLECTOR, RESTART_SECONDS, SERVER, SOCKET, UNITS, Session
from tests.guest.topology import Device
from tests.prometheus import Server, prometheus_over

NIC = "0000:02:02.0"
"""The function that is plugged in behind the conventional bridge."""
PLUGGED = Device(model="e1000", name="nic", bus="br", slot=2)
UNGROUPED = {"ungrouped": 1}
ROUNDS = 5
RULES = ROOT / "monitoring" / "iommud.rules.yml"
ALERT_SECONDS = 90
IDLE_SECONDS = 60
INSTALL_PAGE = ROOT / "docs" / "install.md"


def services_are_up(session: Session) -> str:
    """Both services active, ready and never restarted; nothing else of the system failed."""
    session.figures["kernel"] = session.guest.run("uname -r").strip()
    state = session.guest.ask("systemctl is-system-running --wait", seconds=180).output.strip()
    failed = session.guest.run("systemctl --failed --no-legend --plain").strip()
    assert state == "running", f"the system is {state}: {failed}"
    for unit in (*UNITS, SOCKET):
        assert session.guest.run(f"systemctl is-active {unit}; systemctl is-enabled {unit}").split() == [
            "active",
            "enabled",
        ], unit
    words = []
    for unit in UNITS:
        shown = session.show(
            unit, "NRestarts", "StatusText", "ExecMainStartTimestampMonotonic", "ActiveEnterTimestampMonotonic"
        )
        assert shown["NRestarts"] == "0", f"{unit} was restarted {shown['NRestarts']} times"
        ready = int(shown["ActiveEnterTimestampMonotonic"]) - int(shown["ExecMainStartTimestampMonotonic"])
        session.figures[f"{unit} ready after, s"] = round(ready / 1e6, 1)
        words.append(f"{unit} ready in {ready / 1e6:.1f} s ({shown['StatusText']})")
    return "; ".join(words)


def exposures(session: Session) -> str:
    """What systemd-analyze says of the units as they are loaded is what docs/install.md says."""
    wanted = documented_exposures(INSTALL_PAGE.read_text(encoding="utf-8"))
    found = {unit: exposure(session.guest.run(f"systemd-analyze security --no-pager {unit}", 120)) for unit in wanted}
    session.figures["exposure"] = found
    assert found == wanted, f"{found}, and the documentation says {wanted}"
    return ", ".join(f"{unit} {figure}" for unit, figure in found.items())


REFUSED = frozenset({"EPERM", "EACCES", "EROFS", "ENOENT"})
NO_FAMILY = frozenset({"EAFNOSUPPORT"})
DONE = frozenset({"done"})
# What neither service may do. `see other processes`: of a process that is hidden there is no directory.
NEVER = {
    **dict.fromkeys(
        ("write to sysfs", "mount of sysfs", "write config space", "write /proc/sys", "load a module", "see /home"),
        REFUSED,
    ),
    **dict.fromkeys(("see /root", "read /etc/shadow", "write /etc", "write /opt/iommud", "write /srv"), REFUSED),
    **dict.fromkeys(("see disks", "read the kernel log", "see other processes", "signal other processes"), REFUSED),
    **dict.fromkeys(("mount", "make a namespace", "set the clock", "set the host's name"), REFUSED),
    **dict.fromkeys(("memory to write and execute", "become root"), REFUSED),
    **dict.fromkeys(("TCP", "TCP over IPv6", "raw packets"), NO_FAMILY),
    "see network interfaces": frozenset({"ENODEV"}),
}
SANDBOX = {
    COLLECTOR: {**NEVER, "read all config space": DONE, "netlink": DONE},
    SERVER: {**NEVER, "read all config space": frozenset({"EPERM"}), "netlink": NO_FAMILY},
}
CAPABILITIES = {COLLECTOR: "0000000000200000", SERVER: "0000000000000000"}
# As root and outside, each attempt works: what fails inside fails because of the unit. A running kernel's own IPv6
# and raw sockets are no matter of the service.
CONTROL = dict.fromkeys(probe.ATTEMPTS, DONE)


def probe_can_do_everything_outside(session: Session) -> str:
    """The control: as root, what the probe tries works."""
    _bring_probe(session)
    session.guest.run("mkdir -p /home/somebody && touch ~root/file")
    found = _probed(session.guest.run(f"/usr/bin/python3 {PLACE}/probe.py"))
    session.guest.run(f"rmmod {Path(MODULE).stem} && umount /mnt")
    wrong = differences(found, CONTROL)
    assert not wrong, "; ".join(wrong)
    return f"{len(CONTROL)} attempts, all of them work"


def sandbox_of(unit: str) -> Callable[[Session], str]:
    """A check: what a unit must not do fails, tried by a command of that unit itself."""

    def check(session: Session) -> str:
        _bring_probe(session)
        mark = session.mark()
        with session.drop_in(unit, f"[Service]\nExecStartPre=/usr/bin/python3 {PLACE}/probe.py\n"):
            found = _probed(session.journal(unit, mark))
        status = found.pop("status")
        session.figures[f"{unit} probe"] = found
        wrong = differences(found, SANDBOX[unit])
        assert not wrong, "; ".join(wrong)
        assert (status["CapEff"], status["NoNewPrivs"], status["Seccomp"]) == (CAPABILITIES[unit], "1", "2"), status
        assert "0" not in status["Uid"].split(), f"runs as root: {status}"
        refused = sum(allowed != DONE for allowed in SANDBOX[unit].values())
        return f"{refused} attempts refused; capabilities {status['CapEff']}, seccomp and no_new_privs in force"

    return check


def _bring_probe(session: Session) -> None:
    session.guest.write(f"{PLACE}/probe.py", Path(probe.__file__).read_text(encoding="utf-8"))


def _probed(printed: str) -> dict[str, Any]:
    lines = [line.removeprefix("PROBE ") for line in printed.splitlines() if line.startswith("PROBE ")]
    assert lines, f"the probe said nothing: {printed[-300:]}"
    found: dict[str, Any] = json.loads(lines[-1])
    return found


def scraped_by_prometheus(session: Session) -> str:
    """A real Prometheus scrapes through the forwarded port."""
    with _prometheus(session) as server:
        eventually(lambda: server.query("up == 1") or None, within=60, what="the target is up")
        eventually(lambda: server.query("iommud_source_up == 1") or None, within=30, what="iommud_source_up is 1")
        assert server.query("iommud_config_space_complete == 1"), "config space is not complete"
        series = server.query("count({job='iommud'})")[0]["value"][1]
        took = eventually(
            lambda: server.query("scrape_duration_seconds") or None, within=30, what="a scrape took some time"
        )
        return f"{series} series, a scrape takes {float(took[0]['value'][1]) * 1000:.0f} ms"


def status_equals_check(session: Session) -> str:
    """``iommud status`` and the served report say what ``iommud check`` says at this moment."""
    answer = session.guest.ask("iommud check --format json", seconds=120)
    document = json.loads(answer.output)
    served = session.report()
    different = [name for name in document.keys() | served.keys() if document.get(name) != served.get(name)]
    # A check reads config space once, the daemon has read it before: its numbers and its source are its own.
    different = sorted(set(different) - {"source", "config_space", "daemon"})
    assert not different, f"check and daemon differ in {different}"
    status = session.guest.ask("iommud status", seconds=60)
    assert status.status == answer.status, f"status ends with {status.status}, check with {answer.status}"
    return f"both end with {answer.status}: {document['status']}"


def hot_plug_is_seen(session: Session) -> str:
    """A NIC behind the conventional bridge becomes a finding at once, and no finding when it goes."""
    assert findings(session.guest.metrics()) == {}, f"before: {findings(session.guest.metrics())}"
    added, removed = [], []
    for _ in range(ROUNDS):
        started = time.monotonic()
        session.guest.plug(PLUGGED)
        session.wait_for_metrics(lambda text: findings(text) == UNGROUPED, "the finding is in the metrics")
        added.append(time.monotonic() - started)
        time.sleep(3)  # until the driver is bound; QEMU refuses to take away what is not yet there
        started = time.monotonic()
        session.guest.unplug("nic")
        session.wait_for_metrics(lambda text: findings(text) == {}, "the finding is gone from the metrics")
        removed.append(time.monotonic() - started)
        time.sleep(2)
    session.figures["hot-add to changed metric, s"] = [round(one, 3) for one in added]
    session.figures["removal to changed metric, s"] = [round(one, 3) for one in removed]
    return f"from hot-add to changed metric {in_milliseconds(added)}, from removal {in_milliseconds(removed)}"


def alert_fires_and_resolves(session: Session) -> str:
    """With the rules as they are, the alert about the new finding fires, names the function, and resolves."""
    with _prometheus(session) as server:
        eventually(lambda: server.query("iommud_source_up == 1") or None, within=60, what="scraped")
        started = time.monotonic()
        session.guest.plug(PLUGGED)
        alert = eventually(lambda: _firing(server), within=ALERT_SECONDS, what="the alert fires")
        fired = time.monotonic() - started
        assert NIC in alert["annotations"]["description"], alert["annotations"]["description"]
        started = time.monotonic()
        session.guest.unplug("nic")
        eventually(lambda: _firing(server) is None, within=ALERT_SECONDS, what="the alert resolves")
        resolved = time.monotonic() - started
    session.figures["hot-add to firing alert, s"] = round(fired, 1)
    return f"firing {fired:.0f} s after the hot-add (15 s are the rule's), resolved {resolved:.0f} s after the removal"


def _prometheus(session: Session) -> AbstractContextManager[Server]:
    place = session.directory / f"prometheus-{time.monotonic_ns()}"
    place.mkdir()
    return prometheus_over([f"127.0.0.1:{session.guest.machine.port}"], place, rules=RULES)


def _firing(server: Server) -> dict[str, Any] | None:
    for alert in server.get("alerts")["alerts"]:
        labels = alert["labels"]
        if (labels["alertname"], labels.get("kind"), alert["state"]) == (
            "IommudFindingCritical",
            "ungrouped",
            "firing",
        ):
            found: dict[str, Any] = alert
            return found
    return None


def nothing_is_claimed_without_the_capability(session: Session) -> str:
    """Without CAP_SYS_ADMIN: undecidable, incomplete, and no finding that is not found with it."""
    whole = session.report()
    assert whole["status"] == "ok", whole["status"]
    text = without_capability(INSTALL_PAGE.read_text(encoding="utf-8"))
    with session.drop_in(COLLECTOR, text):
        session.wait_for_metrics(
            lambda one: value(one, "iommud_config_space_complete") == 0, "config space is incomplete"
        )
        poor = session.report()
        kinds = {one["kind"] for one in poor["findings"]}
        assert kinds == {"undecidable"}, f"kinds {kinds}"
        assert poor["status"] == "undecidable", poor["status"]
        session.guest.plug(PLUGGED)
        try:
            session.wait_for_metrics(
                lambda one: value(one, "iommud_functions", state="ungrouped") == 1, "the NIC is seen"
            )
            more = set(findings(session.guest.metrics()))
        finally:
            session.guest.unplug("nic")
            session.wait_for_metrics(
                lambda one: value(one, "iommud_functions", state="ungrouped") == 0, "the NIC is gone"
            )
        assert more <= {"undecidable", "ungrouped"}, f"kinds {more} with the NIC"
    session.wait_for_metrics(
        lambda one: value(one, "iommud_config_space_complete") == 1, "config space is complete again"
    )
    assert session.report()["findings"] == []
    undecided = sum(one["kind"] == "undecidable" for one in poor["findings"])
    return f"{undecided} undecidable, iommud_config_space_complete 0; with the NIC: {', '.join(sorted(more))}"


def check_as_different_users(session: Session) -> str:
    """``iommud check`` as root, as a user with the capability, and as one without."""
    run = "systemd-run -q --pipe --wait -p Type=exec"
    with_it = "-p DynamicUser=yes -p AmbientCapabilities=CAP_SYS_ADMIN -p CapabilityBoundingSet=CAP_SYS_ADMIN"
    ways = {
        "root": f"{run} iommud check --format json",
        "a user with the capability": f"{run} {with_it} iommud check --format json",
        "a user without": f"{run} -p DynamicUser=yes iommud check --format json",
        "root without": f"{run} -p CapabilityBoundingSet= iommud check --format json",
    }
    answers = {
        name: session.guest.ask(command.replace(" iommud ", " /usr/local/bin/iommud "), 120)
        for name, command in ways.items()
    }
    statuses = {name: (answer.status, json.loads(answer.output)["status"]) for name, answer in answers.items()}
    wanted = {
        "root": (0, "ok"),
        "a user with the capability": (0, "ok"),
        "a user without": (3, "undecidable"),
        "root without": (3, "undecidable"),
    }
    assert statuses == wanted, str(statuses)
    return "; ".join(f"{name}: {status}" for name, (_, status) in statuses.items())


def daemon_as_root(session: Session) -> str:
    """`iommud run` as root, without units and sandbox, serves the same report."""
    port = "127.0.0.1:9799"
    options = f"--web.listen-address={port} --runtime-directory=/run/iommud-by-hand --state-directory=/var/tmp"
    start = f"systemd-run -q --unit=by-hand -p Type=notify /usr/local/bin/iommud run {options}"
    session.guest.run(start, seconds=RESTART_SECONDS)
    try:
        found = json.loads(session.guest.run(f"curl --silent --fail http://{port}/report.json"))
        status = session.guest.ask(f"iommud status http://{port}")
    finally:
        session.guest.run("systemctl stop by-hand")
    served = session.report()
    different = [name for name in served.keys() | found.keys() if found.get(name) != served.get(name)]
    different = sorted(set(different) - {"config_space"})
    assert not different, f"the two differ in {different}"
    return f"{found['status']}, and `iommud status` ends with {status.status}"


def costs(session: Session) -> str:
    """Memory and CPU of each process, idle and being scraped, in a guest of this size."""
    words = []
    for unit in UNITS:
        process = session.process(unit)
        rollup = session.guest.run(f"cat /proc/{process}/smaps_rollup")
        rss, pss = kibibytes(rollup, "Rss") / 1024, kibibytes(rollup, "Pss") / 1024
        group = int(session.show(unit, "MemoryCurrent")["MemoryCurrent"]) / (1 << 20)
        session.figures[f"{unit} memory, MiB"] = {"rss": round(rss, 1), "pss": round(pss, 1), "cgroup": round(group, 1)}
        words.append(f"{unit} {rss:.0f} MiB resident ({pss:.0f} proportional, {group:.0f} with caches)")
    idle = _cpu(session, IDLE_SECONDS)
    session.figures["CPU while idle, %"] = idle
    words += [f"{unit} {share:.2f} % of a processor while idle" for unit, share in idle.items()]
    memory = session.guest.run("cat /proc/meminfo")
    session.figures["MemTotal, MiB"] = kibibytes(memory, "MemTotal") // 1024
    session.figures["MemAvailable, MiB"] = kibibytes(memory, "MemAvailable") // 1024
    return "; ".join(words) + f"; {kibibytes(memory, 'MemAvailable') // 1024} MiB of the guest's memory available"


def _cpu(session: Session, seconds: float) -> dict[str, float]:
    def used() -> dict[str, int]:
        return {unit: int(session.show(unit, "CPUUsageNSec")["CPUUsageNSec"]) for unit in UNITS}

    before, started = used(), time.monotonic()
    time.sleep(seconds)
    after, passed = used(), time.monotonic() - started
    return {unit: round((after[unit] - before[unit]) / passed / 1e7, 2) for unit in UNITS}
