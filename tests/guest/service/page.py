# SPDX-License-Identifier: GPL-2.0-or-later
"""docs/guest-service.md: what the checks of the service in a full guest saw, made from the results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tests.guest.service.session import COLLECTOR, SERVER, Checked

Results = tuple[Sequence[Checked], Mapping[str, Any]]
SUITE_NAMES = {"trixie": "Debian 13", "bookworm": "Debian 12"}
NOT_MEASURED = "not measured"

HEAD = """\
# The service in a full guest

This page is made by `make guest-service`; [guest-lab.md](guest-lab.md#the-service-in-a-full-guest) says how.
A Debian guest with systemd, 512 MiB, two emulated processors and a virtio-iommu gets iommud installed as
[install.md](install.md) says, and is watched from outside.
Times and shares are those of software emulation on a machine that had much other work: what takes a minute here takes a
second or two on a real one. Memory is what it is everywhere.
"""


def page(suites: Mapping[str, Results]) -> str:
    """The page for the suites that have results."""
    parts = [HEAD, _versions(suites), "## What it costs\n\n" + _costs(suites), "## The checks\n"]
    for suite, (results, _) in suites.items():
        parts.append(f"### {SUITE_NAMES[suite]}\n\n" + _checks(results))
    return "\n".join(parts)


def _versions(suites: Mapping[str, Results]) -> str:
    rows = [
        (SUITE_NAMES[suite], *(figures.get(name, "") for name in ("systemd", "python", "kernel", "load")))
        for suite, (_, figures) in suites.items()
    ]
    return _table(("guest", "systemd", "Python", "kernel", "load of the machine"), rows)


def _costs(suites: Mapping[str, Results]) -> str:
    header = ("what", *(SUITE_NAMES[suite] for suite in suites))
    rows = [
        (name, *(_figure(figures, path) for _, figures in suites.values()))
        for name, path in (
            ("`tools/install.sh`, from wheels", ("tools/install.sh in the guest, s",)),
            ("collector: start to ready, at boot", (f"{COLLECTOR} ready after, s",)),
            ("server: start to ready, at boot", (f"{SERVER} ready after, s",)),
            ("hot-add to changed metric", ("hot-add to changed metric, s",)),
            ("removal to changed metric", ("removal to changed metric, s",)),
            ("hot-add to firing alert", ("hot-add to firing alert, s",)),
            ("collector: resident memory", (f"{COLLECTOR} memory, MiB", "rss")),
            ("server: resident memory", (f"{SERVER} memory, MiB", "rss")),
            ("collector: CPU while nothing happens", ("CPU while idle, %", COLLECTOR)),
            ("server: CPU while nothing happens", ("CPU while idle, %", SERVER)),
            ("collector: ready again after SIGKILL", (f"{COLLECTOR} back after SIGKILL, s",)),
            ("server: ready again after SIGKILL", (f"{SERVER} back after SIGKILL, s",)),
            ("collector: ready again after SIGSTOP", (f"{COLLECTOR} back after SIGSTOP, s",)),
            ("server: ready again after SIGSTOP", (f"{SERVER} back after SIGSTOP, s",)),
            ("collector: `systemctl restart`", ("restart, s", COLLECTOR)),
            ("server: `systemctl restart`", ("restart, s", SERVER)),
        )
    ]
    return _table(header, rows)


def _figure(figures: Mapping[str, Any], path: Sequence[str]) -> str:
    """A figure with its unit, which the name of its place ends in."""
    found: Any = figures
    for name in path:
        if name not in found:
            return NOT_MEASURED
        found = found[name]
    unit = path[0].rpartition(", ")[2]
    if isinstance(found, list):
        ordered = sorted(found)
        return f"{ordered[len(ordered) // 2]} {unit} ({ordered[0]} to {ordered[-1]})"
    return f"{found} {unit}"


def _checks(results: Sequence[Checked]) -> str:
    rows = [(one.name, "holds" if one.ok else "**fails**", one.words.replace("|", "\\|")) for one in results]
    return _table(("check", "result", "what was seen"), rows)


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)
