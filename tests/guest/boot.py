# SPDX-License-Identifier: GPL-2.0-or-later
"""Boot a cell and hear it out: whatever a guest does, a result comes back, its console is kept, and QEMU is ended."""

from __future__ import annotations

import contextlib
import enum
import io
import json
import os
import queue
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import IO, Any

from tests.guest.channel import Channel
from tests.guest.debian import Unavailable
from tests.guest.image import base_archives, init_archive, modules_archive
from tests.guest.machine import Cell, Files, channel_device, qemu_arguments
from tests.guest.modules import load_order
from tests.guest.plan import modules_of, steps_of
from tests.guest.steps import init_script, requests
from tests.guest.supplies import Emulator, Kernel, Supplies

SECONDS_TO_END = 10
_RUNNING: set[subprocess.Popen[bytes]] = set()
"""Every QEMU that this process has started and not yet ended."""
_NO_MORE = threading.Event()
"""Set when all are to be ended: a thread that is between two boots must not begin another."""


class Outcome(enum.StrEnum):
    """How a boot ended."""

    DONE = "done"
    HANG = "hang"
    PANIC = "panic"
    OUT_OF_MEMORY = "out-of-memory"
    QEMU_FAILED = "qemu-failed"
    UNAVAILABLE = "unavailable"
    """Its kernel or its QEMU cannot be had."""
    DAMAGED = "damaged"
    """What the guest sent did not arrive whole."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Boot:
    """What came of a boot."""

    outcome: Outcome
    seconds: float
    """Wall clock, from QEMU's start to its end."""
    channel: Channel
    console: str = ""
    words: str = ""
    """QEMU's, apt's or the kernel's own where the outcome is not ``done``."""
    kernel: str = ""
    """uname -r."""
    qemu: str = ""
    """QEMU's version."""


def boot(cell: Cell, supplies: Supplies) -> Boot:
    """Boot a cell to its end, at most ``cell.seconds``."""
    try:
        kernel, emulator = supplies.kernel(cell.kernel, cell.architecture), supplies.emulator(cell.qemu)
        base = base_archives(supplies, cell.architecture)
    except Unavailable as error:
        return Boot(outcome=Outcome.UNAVAILABLE, seconds=0, channel=Channel(), words=str(error))
    with tempfile.TemporaryDirectory(prefix="guest-") as name, terminated_as_interrupted():
        directory = Path(name)
        files = Files(
            qemu=emulator.command[cell.architecture],
            firmware=emulator.firmware,
            uefi=emulator.uefi,
            kernel=kernel.image,
            initramfs=directory / "initramfs",
            console=directory / "console.log",
            qmp=directory / "qmp",
        )
        _write_initramfs(cell, kernel, base, files.initramfs)
        return _run(cell, files, kernel, emulator)


def boot_twice(cell: Cell, supplies: Supplies) -> Boot:
    """Boot a cell, and once more if it ends as emulated guests do once in a while for no reason of the cell.

    A guest that ends so in both boots is one that does; a note tells of the first.
    """
    first = boot(cell, supplies)
    if not is_worth_another(first):
        return first
    second = boot(cell, supplies)
    second.channel.notes.insert(0, f"the first boot ended in {first.outcome}: {first.words}")
    return second


def is_worth_another(boot: Boot) -> bool:
    """Whether a busy host may be to blame: a hang, or a clock that did not tick while the kernel looked at it."""
    return boot.outcome is Outcome.HANG or (boot.outcome is Outcome.PANIC and "timer doesn't work" in boot.words)


def _write_initramfs(cell: Cell, kernel: Kernel, base: tuple[Path, ...], path: Path) -> None:
    modules = load_order(modules_of(cell), kernel.modules.depends_on)
    steps = steps_of(cell, kernel.modules.depends_on)
    with path.open("wb") as file:
        for part in base:
            with part.open("rb") as content:
                shutil.copyfileobj(content, file)
        file.write(modules_archive(kernel, modules))
        file.write(init_archive(init_script(steps, channel_device(cell))))


def _run(cell: Cell, files: Files, kernel: Kernel, emulator: Emulator) -> Boot:
    started = time.monotonic()
    environment = {**os.environ, "QEMU_MODULE_DIR": str(emulator.modules)}
    process = subprocess.Popen(
        qemu_arguments(cell, files),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment,
        start_new_session=True,
    )
    _RUNNING.add(process)
    if _NO_MORE.is_set():
        process.kill()
    channel, errors = Channel(), bytearray()
    lines: queue.Queue[bytes | None] = queue.Queue()
    assert process.stdout
    assert process.stderr
    readers = [_in_background(_lines_into(process.stdout, lines)), _in_background(_bytes_into(process.stderr, errors))]
    try:
        in_time = _hear(cell, process, channel, lines, files.qmp)
    finally:
        _end(process, readers)
    console = files.console.read_text(encoding="utf-8", errors="replace") if files.console.exists() else ""
    seconds = time.monotonic() - started
    outcome = outcome_of(channel, console, in_time=in_time, status=process.returncode)
    return Boot(
        outcome=outcome,
        seconds=round(seconds, 1),
        channel=channel,
        console=console,
        words=words_of(outcome, console, errors.decode(errors="replace"), channel.at),
        kernel=kernel.release,
        qemu=emulator.version,
    )


def _hear(
    cell: Cell, process: subprocess.Popen[bytes], channel: Channel, lines: queue.Queue[bytes | None], qmp: Path
) -> bool:
    """Listen until QEMU ends; False if that took too long."""
    assert process.stdin
    answers = iter(requests(cell.steps))
    end = time.monotonic() + cell.seconds
    while (left := end - time.monotonic()) > 0:
        try:
            line = lines.get(timeout=left)
        except queue.Empty:
            return False
        if line is None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(SECONDS_TO_END)
            return True
        if channel.hear(line.decode(errors="replace")) is not None:
            answer = ask_qmp(qmp, next(answers, {"execute": "query-status"}))
            with contextlib.suppress(BrokenPipeError):
                process.stdin.write(answer.encode() + b"\n")
                process.stdin.flush()
    return False


def outcome_of(channel: Channel, console: str, *, in_time: bool, status: int | None) -> Outcome:
    """How a boot ended, from what was heard and seen of it."""
    if channel.done:
        return Outcome.DAMAGED if channel.damaged else Outcome.DONE
    if "Out of memory" in console or "System is deadlocked on memory" in console:
        return Outcome.OUT_OF_MEMORY
    if "Kernel panic" in console:
        return Outcome.PANIC
    if not in_time:
        return Outcome.HANG
    # QEMU went before the guest was done: by itself, or because the guest had itself reset.
    return Outcome.QEMU_FAILED if status else Outcome.PANIC


def words_of(outcome: Outcome, console: str, errors: str, at: str = "") -> str:
    """The line that explains an outcome best, in the words of whoever wrote it."""
    if outcome is Outcome.DONE:
        return ""
    if outcome is Outcome.QEMU_FAILED:
        return last_line(re.sub(r"\S*/(?=qemu-system)", "", errors))
    telling = re.findall(r"^.*(?:Kernel panic|Out of memory|BUG:|blocked for more than).*$", console, re.MULTILINE)
    words = telling[0].strip() if telling else last_line(console)
    return f"at {at}: {words}" if at and outcome is Outcome.HANG else words


def last_line(text: str) -> str:
    """The last line that says something."""
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "")


def ask_qmp(path: Path, command: dict[str, object]) -> str:
    """Give QEMU a command; ``ok``, or its words of refusal."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(SECONDS_TO_END)
        try:
            connection.connect(str(path))
            with connection.makefile("rwb") as stream:
                stream.readline()
                _answer(stream, {"execute": "qmp_capabilities"})
                answer = _answer(stream, command)
        except (OSError, ValueError) as error:
            return f"no answer: {error}"
    return "ok" if "return" in answer else str(answer.get("error", {}).get("desc", answer))


def _answer(stream: io.BufferedRWPair, command: dict[str, object]) -> dict[str, Any]:
    """The answer to a command; events before it are passed over."""
    stream.write(json.dumps(command).encode() + b"\n")
    stream.flush()
    while True:
        found: dict[str, Any] = json.loads(stream.readline())
        if "event" not in found:
            return found


def _end(process: subprocess.Popen[bytes], readers: list[threading.Thread]) -> None:
    """End QEMU if it has not ended, and take what it said until then."""
    if process.poll() is None:
        process.kill()
    process.wait()
    _RUNNING.discard(process)
    for reader in readers:
        reader.join(SECONDS_TO_END)
    for stream in (process.stdin, process.stdout, process.stderr):
        with contextlib.suppress(OSError):
            if stream:
                stream.close()


def end_all() -> None:
    """End every QEMU that is still running, those of other threads included, and let none stay that begins now."""
    _NO_MORE.set()
    for process in tuple(_RUNNING):
        process.kill()


def _lines_into(stream: IO[bytes], lines: queue.Queue[bytes | None]) -> Callable[[], None]:
    def read() -> None:
        for line in stream:
            lines.put(line)
        lines.put(None)

    return read


def _bytes_into(stream: IO[bytes], into: bytearray) -> Callable[[], None]:
    def read() -> None:
        for line in stream:
            into.extend(line)

    return read


def _in_background(work: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


@contextlib.contextmanager
def terminated_as_interrupted() -> Iterator[None]:
    """SIGTERM unwinds like Ctrl-C, so that no QEMU stays behind."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
