# SPDX-License-Identifier: GPL-2.0-or-later
"""A session with a full guest: named checks in order, each with its result, and what several of them use."""

from __future__ import annotations

import contextlib
import json
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

from tests.guest.boot import ask_qmp
from tests.guest.service.figures import properties
from tests.guest.service.guest import Guest, GuestError, eventually
from tests.guest.service.installed import Installed

COLLECTOR, SERVER, SOCKET = "iommud.service", "iommud-web.service", "iommud-web.socket"
UNITS = (COLLECTOR, SERVER)
# An emulated guest on a machine with other work takes a minute for what a real one does in a second.
RESTART_SECONDS = 400
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Checked:
    """The result of a check."""

    name: str
    ok: bool
    words: str
    """What was seen; of a failed check, what went wrong."""
    seconds: float


@dataclass(slots=True)
class Session:
    """What the checks of a session share."""

    guest: Guest
    installed: Installed
    directory: Path
    """For files of the checks, gone with the session."""
    keep: Path
    """For what is to be looked at later."""
    figures: dict[str, Any] = field(default_factory=dict)

    def show(self, unit: str, *names: str) -> dict[str, str]:
        """Properties of a unit."""
        return properties(self.guest.run(f"systemctl show {unit} " + " ".join(f"-p {name}" for name in names)))

    def process(self, unit: str) -> int:
        """The main process of a unit; 0 for none."""
        return int(self.show(unit, "MainPID")["MainPID"])

    def restarts(self, unit: str) -> int:
        """How often the service manager has restarted a unit by itself."""
        return int(self.show(unit, "NRestarts")["NRestarts"])

    def is_up(self, unit: str, *, other_than: int = 0) -> bool:
        """Whether a unit is active, with another process than this one."""
        shown = self.show(unit, "MainPID", "ActiveState", "SubState")
        return shown["ActiveState"] == "active" and int(shown["MainPID"]) not in {0, other_than}

    def wait_until_up(self, unit: str, *, other_than: int = 0, within: float = RESTART_SECONDS) -> None:
        """Wait until a unit is active, with another process than this one."""
        eventually(lambda: self.is_up(unit, other_than=other_than), within=within, what=f"{unit} is active", every=0.1)

    def wait_for_metrics(self, holds: Callable[[str], bool], what: str, within: float = 60) -> str:
        """The first exposition of which something holds."""

        def ask() -> str | None:
            text = self.guest.metrics()
            return text if text and holds(text) else None

        return eventually(ask, within=within, what=what, every=0.05)

    def restart(self, *units: str) -> None:
        """Restart units and wait until they are up and serve."""
        self.guest.run(f"systemctl restart {' '.join(units)}", seconds=RESTART_SECONDS)
        self.wait_for_metrics(bool, "the metrics are served", within=RESTART_SECONDS)

    def mark(self) -> str:
        """A place in the journal."""
        shown = self.guest.run("journalctl -q -n 1 --show-cursor -o cat")
        return shown.rsplit("-- cursor: ", 1)[-1].strip()

    def journal(self, unit: str, mark: str | None = None) -> str:
        """What the journal says of a unit since a place in it."""
        after = f"--after-cursor='{mark}'" if mark else ""
        return self.guest.run(f"journalctl -q -b -o cat -u {unit} {after}")

    @contextlib.contextmanager
    def drop_in(self, unit: str, text: str) -> Iterator[None]:
        """A drop-in for a while; the unit is restarted with it and without it."""
        path = f"/run/systemd/system/{unit}.d/for-a-check.conf"
        self.guest.write(path, text)
        self.guest.run("systemctl daemon-reload")
        try:
            self.restart(unit)
            yield
        finally:
            self.guest.run(f"rm {path} && systemctl daemon-reload")
            self.restart(unit)

    def report(self) -> dict[str, Any]:
        """The report that the server hands out."""
        status, body = self.guest.fetch("/report.json", seconds=30)
        assert status == 200, f"/report.json answers {status}"
        found: dict[str, Any] = json.loads(body)
        return found

    def query(self, command: str) -> str:
        """What QEMU answers to a command that changes nothing."""
        return ask_qmp(self.guest.directory / "qmp", {"execute": command})


class Scraping:
    """Scrapes in the background, as long as a block lasts, and how each of them ended."""

    def __init__(self, guest: Guest, every: float = 0.2) -> None:
        self._guest = guest
        self._every = every
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.answered = 0
        self.failures: list[str] = []
        self.longest = 0.0

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._end.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._end.wait(self._every):
            started = time.monotonic()
            try:
                status, _ = self._guest.fetch("/metrics", seconds=60)
            except OSError as error:
                self.failures.append(str(error) or type(error).__name__)
            else:
                self.answered += status == 200
                if status != 200:
                    self.failures.append(f"status {status}")
            self.longest = max(self.longest, time.monotonic() - started)

    def words(self) -> str:
        """What became of the scrapes."""
        return f"{self.answered} scrapes answered, the longest in {self.longest:.1f} s"


Check = Callable[[Session], str]


def checked(session: Session, name: str, check: Check) -> Checked:
    """Run one check; whatever goes wrong is its result."""
    started = time.monotonic()
    try:
        ok, words = True, check(session)
    except (AssertionError, GuestError, LookupError, OSError, ValueError) as error:
        ok, words = False, f"{type(error).__name__}: {error}"
    return Checked(name, ok, " ".join(words.split())[:600], round(time.monotonic() - started, 1))


def run_checks(session: Session, checks: Iterable[tuple[str, Check]], say: Say) -> list[Checked]:
    """Run checks in order. When QEMU has ended, those that are left fail at once."""
    results = []
    for name, check in checks:
        result = checked(session, name, check)
        say(f"{'ok  ' if result.ok else 'FAIL'} {result.name} ({result.seconds:.0f} s): {result.words}")
        results.append(result)
    return results


def encoded(results: Iterable[Checked], figures: dict[str, Any]) -> str:
    """Results as JSON."""
    return json.dumps({"checks": [asdict(one) for one in results], "figures": figures}, indent=1) + "\n"


def decoded(text: str) -> Results:
    """What ``encoded`` wrote."""
    found = json.loads(text)
    return [Checked(**one) for one in found["checks"]], found["figures"]


Results = tuple[list[Checked], dict[str, Any]]


def renewed(old: Results, new: Results) -> Results:
    """Earlier results with those of some checks that were run again, if both are of one state of the disk."""
    if old[1].get("disk") != new[1].get("disk"):
        return new
    by_name = {one.name: one for one in new[0]}
    known = [by_name.pop(one.name, one) for one in old[0]]
    return [*known, *by_name.values()], {**old[1], **new[1]}


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """A directory for the files of a session."""
    with tempfile.TemporaryDirectory(prefix="guest-") as name:
        yield Path(name)
