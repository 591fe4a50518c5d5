# SPDX-License-Identifier: GPL-2.0-or-later
"""Where answers go: colours, files, closed pipes, full disks, Ctrl-C. Nothing of it ends in a traceback."""

import errno
import os
import pty
import signal
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from iommud.cli import output
from iommud.cli.options import Colour
from iommud.cli.output import Output, Progress, output_style, replace_file
from iommud.errors import SourceError
from tests.cli.running import THREAD, call, command, environment, run

ESCAPE = "\x1b["
Machines = dict[str, str]

VERBS = (
    ["check", THREAD],
    ["check", THREAD, "--format", "json"],
    ["check", THREAD, "--format", "prometheus"],
    ["check", THREAD, "--format", "markdown"],
    ["tree", "--source", THREAD],
    ["groups", "--source", THREAD],
    ["explain", "--source", THREAD, "02:00.0"],
    ["capture", THREAD, "-o", "-"],
)
verbs = pytest.mark.parametrize("arguments", VERBS, ids=lambda words: " ".join(words[:1] + words[3:]))


def on_terminal(*arguments: str, **env: str) -> str:
    """What a command prints on a terminal."""
    ours, theirs = pty.openpty()
    try:
        done = subprocess.run(
            command(*arguments), stdout=theirs, stderr=subprocess.PIPE, check=False, env=environment() | env, timeout=60
        )
    finally:
        os.close(theirs)
    assert b"Traceback" not in done.stderr
    found = b""
    while piece := _piece(ours):
        found += piece
    os.close(ours)
    return found.decode().replace("\r\n", "\n")


def _piece(terminal: int) -> bytes:
    try:
        return os.read(terminal, 65536)
    except OSError:
        # That is how a terminal says that nobody writes any more.
        return b""


@verbs
def test_pipes_get_no_colour(arguments: list[str]) -> None:
    answer = subprocess.run(command(*arguments), capture_output=True, check=False, env=environment(), timeout=60)

    assert ESCAPE.encode() not in answer.stdout


def test_terminals_get_colour() -> None:
    assert ESCAPE in on_terminal("check", THREAD, TERM="xterm")


@pytest.mark.parametrize("env", [{"NO_COLOR": "1", "TERM": "xterm"}, {"TERM": "dumb"}])
def test_terminals_that_want_none_get_no_colour(env: dict[str, str]) -> None:
    assert ESCAPE not in on_terminal("check", THREAD, **env)


def test_an_empty_no_color_asks_for_nothing() -> None:
    assert ESCAPE in on_terminal("check", THREAD, TERM="xterm", NO_COLOR="")


@pytest.mark.parametrize("arguments", [["check", THREAD], ["tree", "--source", THREAD], ["groups", "--source", THREAD]])
def test_colour_can_be_forced_and_forbidden(arguments: list[str]) -> None:
    assert ESCAPE in run(*arguments, "--color", "always", env={"NO_COLOR": "1"}).stdout
    assert ESCAPE not in on_terminal(*arguments, "--color", "never", TERM="xterm")


def test_a_file_gets_no_colour_from_the_terminal_beside_it(tmp_path: Path) -> None:
    shown = on_terminal("check", THREAD, "-o", str(tmp_path / "report"), TERM="xterm")

    assert shown == ""
    assert ESCAPE not in (tmp_path / "report").read_text()
    assert run("check", THREAD, "-o", str(tmp_path / "report"), "--color", "always").returncode == 1
    assert ESCAPE in (tmp_path / "report").read_text()


def test_a_terminal_without_unicode_gets_ascii() -> None:
    plain = run("tree", "--source", THREAD, env={"PYTHONIOENCODING": "ascii"})

    assert (plain.returncode, plain.stderr) == (0, "")
    assert plain.stdout.isascii()
    assert not run("tree", "--source", THREAD, env={"PYTHONIOENCODING": "utf-8"}).stdout.isascii()


def without_reader(arguments: list[str], **env: str) -> tuple[int, str]:
    """Exit status and standard error of a command whose reader leaves before the first byte."""
    with subprocess.Popen(
        command(*arguments), stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment() | env
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        complaint = process.stderr.read().decode()
        return process.wait(60), complaint


@verbs
@pytest.mark.parametrize("env", [{}, {"PYTHONUNBUFFERED": "1"}], ids=["at the end", "while writing"])
def test_a_reader_that_leaves_is_no_trouble(arguments: list[str], env: dict[str, str]) -> None:
    status, complaint = without_reader(arguments, **env)

    assert status == 141
    assert "Traceback" not in complaint
    assert "rror" not in complaint


def test_a_reader_that_leaves_in_the_midst_of_work_is_no_trouble() -> None:
    assert without_reader(["check", "--jobs", "4", "--verbose", *[THREAD] * 40]) == (141, "")


@verbs
def test_a_full_disk_is_one_line(arguments: list[str]) -> None:
    with Path("/dev/full").open("w") as full:
        answer = run(*arguments, stdout=full)

    assert answer.returncode == 4
    assert answer.stderr.startswith("iommud: ")
    assert answer.stderr.endswith("No space left on device\n")
    assert answer.stderr.count("\n") == 1


@pytest.mark.parametrize("arguments", [["check", THREAD], ["capture", THREAD]])
def test_a_full_device_named_as_output_is_one_line_and_stays_a_device(arguments: list[str]) -> None:
    answer = run(*arguments, "-o", "/dev/full")

    assert answer.returncode == 4
    assert answer.stderr == "iommud: /dev/full: cannot be written: No space left on device\n"
    assert stat.S_ISCHR(Path("/dev/full").stat().st_mode)


@pytest.mark.parametrize("arguments", [["check", THREAD, "--format", "json"], ["capture", THREAD, "--quiet"]])
def test_dev_stdout_is_standard_output(arguments: list[str]) -> None:
    named = subprocess.run(command(*arguments, "-o", "/dev/stdout"), capture_output=True, check=False, timeout=60)
    plain = subprocess.run(command(*arguments, "-o", "-"), capture_output=True, check=False, timeout=60)

    assert named.stderr == b""
    assert named.stdout == plain.stdout != b""


@pytest.mark.parametrize(("stream", "status"), [("stdout", 1), ("stderr", 1), ("stdin", 1)])
def test_closed_streams_are_no_trouble(stream: str, status: int) -> None:
    number = {"stdin": 0, "stdout": 1, "stderr": 2}[stream]
    script = f"exec {number}{'<' if number == 0 else '>'}&-; exec {' '.join(command('check', THREAD))}"

    answer = subprocess.run(["/bin/sh", "-c", script], capture_output=True, text=True, check=False, timeout=60)

    assert answer.returncode == status
    assert "Traceback" not in answer.stderr
    assert (answer.stdout == "") is (stream == "stdout")


def test_an_answer_in_a_file_is_there_whole(tmp_path: Path, machines: Machines) -> None:
    target = tmp_path / "iommud.prom"
    target.write_text("old")

    assert call("check", machines["split"], "--format", "prometheus", "--output", str(target)) == 1

    assert target.read_text().startswith("# HELP ")
    assert [one.name for one in tmp_path.iterdir()] == ["iommud.prom"]


def test_a_link_to_the_file_stays_a_link(tmp_path: Path, machines: Machines) -> None:
    (tmp_path / "real").write_text("old")
    (tmp_path / "link").symlink_to("real")

    call("check", machines["split"], "-o", str(tmp_path / "link"))

    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_text().startswith("findings: ")


@pytest.mark.parametrize("target", ["missing/report", "."])
def test_a_file_that_cannot_be_written_is_one_line(
    target: str, tmp_path: Path, machines: Machines, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("check", machines["split"], "-o", str(tmp_path / target)) == 4

    answer = capsys.readouterr()
    assert answer.out == ""
    assert answer.err.startswith(f"iommud: {tmp_path / target}: cannot be written: ")
    assert answer.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_failure_on_the_way_leaves_the_old_file(tmp_path: Path) -> None:
    target = tmp_path / "report"
    target.write_text("old")

    def fail() -> None:
        with Output(str(target)) as out:
            out.write("half an answer")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()

    assert [(one.name, one.read_text()) for one in tmp_path.iterdir()] == [("report", "old")]


def test_a_disk_that_fills_up_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "report"
    target.write_text("old")

    def full(*_paths: str) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.replace", full)

    with pytest.raises(SourceError, match="report: cannot be written: No space left on device"):
        replace_file(str(target), b"new")

    assert [(one.name, one.read_text()) for one in tmp_path.iterdir()] == [("report", "old")]


@pytest.mark.timeout(60)
def test_a_named_pipe_is_written_to_and_stays_one(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    with subprocess.Popen(command("check", THREAD, "-o", str(fifo)), env=environment()) as process:
        answer = fifo.read_text()
        assert process.wait(60) == 1

    assert answer.startswith("findings: ")
    assert fifo.is_fifo()


def test_a_named_pipe_whose_reader_leaves_is_a_closed_pipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)

    def leave(*_write: object) -> None:
        raise BrokenPipeError

    monkeypatch.setattr(output, "_write", leave)

    with pytest.raises(BrokenPipeError):
        replace_file(str(fifo), b"answer")


def interrupted(arguments: list[str], *, lines: int) -> tuple[int, str, str]:
    """Interrupt a command, its children too, as soon as it has complained so often; status and both outputs."""
    with subprocess.Popen(
        command(*arguments),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        env=environment(),
        text=True,
    ) as process:
        assert process.stderr is not None
        assert process.stdout is not None
        for _ in range(lines):
            process.stderr.readline()
        os.killpg(process.pid, signal.SIGINT)
        return process.wait(60), process.stdout.read(), process.stderr.read()


@pytest.mark.parametrize("jobs", ["1", "4"])
def test_ctrl_c_ends_work_without_a_word(jobs: str, machines: Machines) -> None:
    # The complaint about the first source tells that work has begun; standard input keeps it waiting.
    sources = [machines["unreadable"], "-", *[THREAD] * 30]

    status, out, err = interrupted(["check", "--jobs", jobs, *sources], lines=1)

    assert (status, out, err) == (130, "", "")


LOSING = """
import signal, sys, time, weakref
from iommud import cli

class Thing:
    pass

def callback(_):
    signal.raise_signal(signal.SIGINT)

def run(_):
    thing = Thing()
    reference = weakref.ref(thing, callback)
    del thing
    time.sleep(30)

cli._run = run
cli.main([])
"""


def test_ctrl_c_is_not_lost_in_a_callback_that_nothing_can_leave() -> None:
    done = subprocess.run([sys.executable, "-c", LOSING], capture_output=True, text=True, check=False, timeout=20)

    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


def test_ctrl_c_leaves_no_output_file_behind(tmp_path: Path, machines: Machines) -> None:
    arguments = ["check", machines["unreadable"], "-", "-o", str(tmp_path / "report")]

    assert interrupted(arguments, lines=1)[0] == 130
    assert list(tmp_path.iterdir()) == []


class Terminal:
    """A standard error that says that it is a terminal, and keeps what it shows."""

    def __init__(self) -> None:
        self.shown = ""

    def write(self, text: str) -> int:
        self.shown += text
        return len(text)

    def flush(self) -> None:
        """Nothing waits."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def attach(monkeypatch: pytest.MonkeyPatch) -> Callable[[], Terminal]:
    """Make standard error a terminal; pytest puts its own in place before each test begins."""

    def attached() -> Terminal:
        found = Terminal()
        monkeypatch.setattr(sys, "stderr", found)
        return found

    return attached


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    now = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])

    def advance(seconds: float) -> None:
        now[0] += seconds

    return advance


def test_long_work_shows_its_progress_and_wipes_it(
    attach: Callable[[], Terminal], clock: Callable[[float], None]
) -> None:
    terminal = attach()
    progress = Progress("checking", quiet=False)
    progress.step(1, 9)
    assert terminal.shown == ""

    clock(0.6)
    progress.step(2, 9)
    progress.step(3, 9)
    assert terminal.shown == "\rchecking: 2 of 9\x1b[K"

    progress.done()
    assert terminal.shown.endswith("\r\x1b[K")


def test_short_work_shows_nothing(attach: Callable[[], Terminal]) -> None:
    terminal = attach()
    progress = Progress("checking", quiet=False)
    progress.step(1, 9)
    progress.done()

    assert terminal.shown == ""


def test_quiet_work_shows_nothing(attach: Callable[[], Terminal], clock: Callable[[float], None]) -> None:
    terminal = attach()
    progress = Progress("checking", quiet=True)
    clock(9)
    progress.step(1, 9)
    progress.done()

    assert terminal.shown == ""


def test_the_width_is_that_of_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", Terminal())
    monkeypatch.setattr(output, "speaks_unicode", lambda: True)
    monkeypatch.setenv("COLUMNS", "72")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)

    style = output_style(Colour.AUTO)

    assert (style.width, style.colour) == (72, True)
    assert output_style(Colour.AUTO, "file").width is None
