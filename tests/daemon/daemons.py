# SPDX-License-Identifier: GPL-2.0-or-later
"""Real daemons in processes of their own, on a captured machine that a test unpacks and edits."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from prometheus_client.parser import text_string_to_metric_families

from iommud.daemon.settings import Settings
from tests.unpacking import unpack

ROOT = Path(__file__).parent.parent.parent
FIXTURES = ROOT / "tests" / "fixtures" / "captures"
HEALTHY = "6.12-amd64-intel-seed-rp-q7.2"
VICTIM, SECOND_VICTIM = "0000:02:00.0", "0000:01:00.0"
"""Functions of it of which it is critical that they have a group."""
T = TypeVar("T")
FOUNDING = "6.1bug-amd64-virtio-at-0x3-seed-vga-builtin-q7.2"


class Capture:
    """A captured machine on disk, to be changed while it is watched."""

    def __init__(self, directory: Path, name: str = HEALTHY) -> None:
        self.root = directory
        directory.mkdir()
        unpack(FIXTURES / f"{name}.tar.gz", directory)
        self._ungrouped: dict[str, tuple[str, Path]] = {}

    @property
    def sysfs(self) -> Path:
        return self.root / "sys"

    def functions(self) -> list[str]:
        return sorted(path.name for path in (self.sysfs / "bus/pci/devices").iterdir())

    def place(self, function: str) -> Path:
        return (self.sysfs / "bus/pci/devices" / function).resolve()

    def ungroup(self, function: str) -> None:
        """Take a function out of its group."""
        link = self.place(function) / "iommu_group"
        group = link.resolve()
        (group / "devices" / function).unlink()
        self._ungrouped[function] = (os.readlink(link), group)  # noqa: PTH115 - as it is written
        link.unlink()

    def regroup(self, function: str) -> None:
        """Put it back."""
        target, group = self._ungrouped.pop(function)
        (self.place(function) / "iommu_group").symlink_to(target)
        (group / "devices" / function).symlink_to(os.path.relpath(self.place(function), group / "devices"))

    def join(self, function: str, other: str) -> None:
        """Move a function into the group of another."""
        self.ungroup(function)
        group = (self.place(other) / "iommu_group").resolve()
        (self.place(function) / "iommu_group").symlink_to(os.path.relpath(group, self.place(function)))
        (group / "devices" / function).symlink_to(os.path.relpath(self.place(function), group / "devices"))

    def hide_config(self) -> None:
        """Leave what a reader without CAP_SYS_ADMIN gets of every config space."""
        for function in self.functions():
            path = self.place(function) / "config"
            path.write_bytes(path.read_bytes()[:64])


class Manager:
    """A service manager that only listens."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))

    def heard(self, seconds: float) -> list[str]:
        """Every message that comes within so many seconds."""
        found = []
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            self._socket.settimeout(left)
            try:
                found.append(self._socket.recv(4096).decode())
            except TimeoutError:
                break
        return found

    def wait_for(self, word: str, seconds: float = 20) -> str:
        """The first message with a word, others thrown away."""
        self._socket.settimeout(seconds)
        while word not in (message := self._socket.recv(4096).decode()):
            pass
        return message

    def close(self) -> None:
        self._socket.close()


class Daemon:
    """A daemon that runs."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.log: list[dict[str, Any]] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            try:
                self.log.append(json.loads(line))
            except ValueError:
                self.log.append({"msg": line.rstrip("\n"), "level": "none"})

    def ended(self, seconds: float = 10) -> int:
        """The exit status, when the process has ended and its log is read."""
        status = self.process.wait(seconds)
        self._reader.join(5)
        return status

    def messages(self) -> list[str]:
        return [str(line["msg"]) for line in self.log]

    def events(self, message: str) -> list[dict[str, Any]]:
        return [line for line in list(self.log) if line["msg"] == message]

    @property
    def url(self) -> str:
        """Where it serves, once it says so."""
        return f"http://{eventually(lambda: next(iter(self.events('listening')), None))['addresses']}"

    @property
    def target(self) -> str:
        return self.url.removeprefix("http://")

    def get(self, path: str) -> tuple[int, str]:
        try:
            with urllib.request.urlopen(f"{self.url}{path}", timeout=10) as answer:  # noqa: S310 - http
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    def metrics(self) -> dict[str, float]:
        """Every series of /metrics, as ``name{label="value",…}``."""
        return series(self.get("/metrics")[1])

    def ready(self) -> bool:
        return self.get("/-/ready")[0] == 200

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)


def series(text: str) -> dict[str, float]:
    """The series of an exposition by name and labels; a label that is empty is left out."""
    found = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = ",".join(f"{name}={value}" for name, value in sorted(sample.labels.items()) if value)
            found[f"{sample.name}{{{labels}}}" if labels else sample.name] = sample.value
    return found


def eventually(ask: Callable[[], T | None], within: float = 20) -> T:
    """The first answer that is true, or not empty."""
    deadline = time.monotonic() + within
    while True:
        answer = ask()
        if answer:
            return answer
        assert time.monotonic() < deadline, f"not within {within} s"
        time.sleep(0.02)


@contextmanager
def daemon(
    capture: Capture | None = None,
    *,
    environment: Mapping[str, str] | None = None,
    program: tuple[str, ...] = ("-m", "iommud.daemon.main"),
    arguments: tuple[str, ...] = (),
    **settings: Any,
) -> Iterator[Daemon]:
    """Run a daemon on a captured machine, looking at it every second, until the block ends.

    ``program`` is another one that takes the same settings, and ``arguments`` more of its own.
    """
    where: dict[str, Any] = {}
    if capture is not None:
        where = {"sysfs": str(capture.sysfs), "procfs": str(capture.root / "proc")}
    known = {
        "reconcile_interval": 1.0,
        "quiet": 0.05,
        "watch_groups": False,
        "listen": ("127.0.0.1:0",),
        "log_format": "json",
        **where,
        **settings,
    }
    command = [sys.executable, "-W", "error", *program, Settings(**known).to_json(), *arguments]
    own = {name: value for name, value in os.environ.items() if name not in ("NOTIFY_SOCKET", "JOURNAL_STREAM")}
    with subprocess.Popen(
        command, cwd=ROOT, stderr=subprocess.PIPE, text=True, env={**own, **(environment or {})}
    ) as process:
        running = Daemon(process)
        try:
            yield running
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGCONT)
                process.terminate()
            try:
                running.ended()
            except subprocess.TimeoutExpired:
                process.kill()
                raise
