# SPDX-License-Identifier: GPL-2.0-or-later
"""A running guest with systemd: commands in it, QEMU's monitor, and scrapes from outside."""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from tests.guest.boot import ask_qmp, terminated_as_interrupted
from tests.guest.service.machine import Machine, booting, started
from tests.guest.supplies import Supplies
from tests.guest.topology import Device

T = TypeVar("T")
BOOT_SECONDS = 240
POWEROFF_SECONDS = 90


class GuestError(Exception):
    """The guest, or QEMU, did not do what was asked."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a command printed, and how it ended."""

    status: int | None
    """None: it did not end in time."""
    output: str


class Guest:
    """A guest that is up. To be used in one thread."""

    def __init__(self, machine: Machine, directory: Path, process: subprocess.Popen[bytes]) -> None:
        self.machine = machine
        self.directory = directory
        self.process = process
        self._agent = _connected(directory / "agent", process)
        self._heard = b""
        self._asked = 0

    def wait_until_up(self, seconds: float = BOOT_SECONDS) -> None:
        """Wait for the agent's first line. Raises GuestError."""
        self._asked = 0
        self._hear(seconds)

    def ask(self, command: str, seconds: float = 60) -> Answer:
        """Run a shell command as root; it is ended after ``seconds``. Raises GuestError if the guest is silent."""
        self._asked += 1
        request = {"number": self._asked, "command": command, "seconds": seconds}
        self._agent.sendall(base64.b64encode(json.dumps(request).encode()) + b"\n")
        return self._hear(seconds + 60)

    def run(self, command: str, seconds: float = 60) -> str:
        """What a command prints. Raises GuestError if it fails."""
        answer = self.ask(command, seconds)
        if answer.status != 0:
            raise GuestError(f"{command[:200]!r} ended with {answer.status}: {answer.output.strip()[-400:]}")
        return answer.output

    def _hear(self, seconds: float) -> Answer:
        """The answer to what was asked last. One that comes late, to what was given up, is passed over."""
        end = time.monotonic() + seconds
        while True:
            found = json.loads(base64.b64decode(self._line(end)))
            if found["number"] == self._asked:
                return Answer(found["status"], found["output"])
            if found["number"] == 0:
                raise GuestError("the guest has started anew")

    def _line(self, end: float) -> bytes:
        while b"\n" not in self._heard:
            self._agent.settimeout(max(0.01, end - time.monotonic()))
            try:
                more = self._agent.recv(1 << 16)
            except TimeoutError:
                raise GuestError("no answer in time") from None
            if not more:
                raise GuestError("QEMU has ended")
            self._heard += more
        line, _, self._heard = self._heard.partition(b"\n")
        return line

    def write(self, path: str, text: str) -> None:
        """Write a file in the guest."""
        encoded = base64.b64encode(text.encode()).decode()
        self.run(f"mkdir -p {Path(path).parent} && echo {encoded} | base64 -d >{path}")

    def plug(self, device: Device) -> None:
        """Plug a device in. Raises GuestError with QEMU's words."""
        self._tell({"execute": "device_add", "arguments": {"driver": device.model, **device.properties()}})

    def unplug(self, name: str) -> None:
        """Ask the guest to let a device go. Raises GuestError with QEMU's words."""
        self._tell({"execute": "device_del", "arguments": {"id": name}})

    def _tell(self, command: dict[str, object]) -> None:
        words = ask_qmp(self.directory / "qmp", command)
        if words != "ok":
            raise GuestError(f"QEMU: {words}")

    def fetch(self, path: str, seconds: float = 10) -> tuple[int, str]:
        """Status and body that the web server answers through the forwarded port. Raises OSError."""
        assert self.machine.port is not None
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", self.machine.port, timeout=seconds)) as way:
            try:
                way.request("GET", path)
                answer = way.getresponse()
                return answer.status, answer.read().decode()
            except http.client.HTTPException as error:
                raise ConnectionError(f"no HTTP answer: {error!r}") from error

    def metrics(self) -> str:
        """The exposition; empty while nothing answers."""
        with contextlib.suppress(OSError):
            status, body = self.fetch("/metrics")
            return body if status == 200 else ""
        return ""

    def power_off(self) -> None:
        """Shut down in order, and wait for QEMU's end. Raises GuestError."""
        with contextlib.suppress(GuestError, OSError):  # it may be gone before the answer is
            self.ask("systemctl --no-block poweroff")
        try:
            self.process.wait(POWEROFF_SECONDS)
        except subprocess.TimeoutExpired:
            raise GuestError(f"the guest did not power off in {POWEROFF_SECONDS} s") from None

    @property
    def console(self) -> str:
        """What the guest has printed on its console."""
        path = self.directory / "console.log"
        return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""

    @property
    def emulator_words(self) -> str:
        """What QEMU has printed."""
        return (self.directory / "qemu.log").read_text(encoding="utf-8", errors="replace")

    def close(self) -> None:
        """End the connection."""
        self._agent.close()


@contextlib.contextmanager
def guest_of(supplies: Supplies, machine: Machine, *, keep: Path) -> Iterator[Guest]:
    """A guest that is up; QEMU is ended with the block, and the console kept in ``keep``.

    Raises GuestError if it does not come up, Unavailable if there is no kernel or QEMU.
    """
    with tempfile.TemporaryDirectory(prefix="guest-") as name, terminated_as_interrupted():
        directory = Path(name)
        process = started(supplies, machine, booting(supplies, machine), directory)
        try:
            guest = Guest(machine, directory, process)
            try:
                guest.wait_until_up()
                yield guest
            finally:
                guest.close()
        finally:
            if process.poll() is None:
                process.kill()
            process.wait()
            _keep(directory / "console.log", keep)


def _keep(console: Path, keep: Path) -> None:
    keep.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileNotFoundError):
        shutil.copyfile(console, keep)


def _connected(path: Path, process: subprocess.Popen[bytes]) -> socket.socket:
    """The agent's port, before the guest has opened it: QEMU listens as soon as it is up."""
    end = time.monotonic() + 30
    while True:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.connect(str(path))
        except OSError:
            connection.close()
            if process.poll() is not None or time.monotonic() > end:
                words = (path.parent / "qemu.log").read_text(encoding="utf-8", errors="replace").strip()
                raise GuestError(f"QEMU did not start: {words[-400:]}") from None
            time.sleep(0.1)
        else:
            return connection


def eventually(ask: Callable[[], T | None], *, within: float, what: str, every: float = 0.2) -> T:
    """The first answer that is neither None nor False. Raises GuestError after ``within`` seconds."""
    end = time.monotonic() + within
    while True:
        answer = ask()
        if answer is not None and answer is not False:
            return answer
        if time.monotonic() > end:
            raise GuestError(f"not within {within:g} s: {what}")
        time.sleep(every)
