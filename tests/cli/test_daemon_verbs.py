# SPDX-License-Identifier: GPL-2.0-or-later
"""``run``, ``serve`` and ``status`` from the command line: options, the change of process, and what is printed."""

from __future__ import annotations

import re
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trustme

from iommud.daemon.publication import Board, load
from tests.cli.running import command, environment, run
from tests.daemon.daemons import FOUNDING, VICTIM, Capture, daemon, eventually
from tests.prometheus import served

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture
def capture(tmp_path: Path) -> Capture:
    return Capture(tmp_path / "machine")


@contextmanager
def started(*arguments: str, **variables: str) -> Iterator[subprocess.Popen[str]]:
    """``iommud`` in the background, ended with the block."""
    own = {**environment(), **variables}
    with subprocess.Popen(command(*arguments), cwd=ROOT, env=own, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.terminate()


def machine_options(capture: Capture) -> list[str]:
    return ["--path.sysfs", str(capture.sysfs), "--path.procfs", f"{capture.root}/proc", "--no-watch.groups"]


def test_run_becomes_the_daemon_in_its_own_process(capture: Capture, tmp_path: Path) -> None:
    where = ["--web.listen-address", f"unix:{tmp_path}/socket", "--runtime-directory", str(tmp_path)]
    with started("run", *machine_options(capture), *where, "--reconcile-interval", "2s") as process:
        eventually((tmp_path / "publication.json").exists)
        found = Path(f"/proc/{process.pid}/cmdline").read_bytes().split(b"\0")
        assert b"iommud.daemon.main" in found
        assert b"-P" in found, "modules are not looked for where it was started"
        asked = run("status", f"unix:{tmp_path}/socket")
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0

    assert (asked.returncode, asked.stderr) == (0, "")
    assert asked.stdout.startswith("ok: nothing wrong; 7 functions in 4 groups")


def test_directories_that_are_missing_are_made_with_their_modes(capture: Capture, tmp_path: Path) -> None:
    runtime, state = tmp_path / "new/run", tmp_path / "new/state"
    where = ["--runtime-directory", str(runtime), "--state-directory", str(state)]
    with started("run", "--no-web", *machine_options(capture), *where):
        eventually((runtime / "publication.json").exists)
        eventually((state / "state.json").exists)

    assert [one.stat().st_mode & 0o777 for one in (runtime, state)] == [0o755, 0o700]


def test_a_directory_that_cannot_be_made_is_told_in_one_line(capture: Capture, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    where = ["--runtime-directory", str(tmp_path / "file/run"), "--log.format", "logfmt"]
    with started("run", "--no-web", *machine_options(capture), *where) as process:
        assert process.stderr is not None
        line = next(one for one in process.stderr if "cannot write" in one)

    assert f"directory={tmp_path}/file/run" in line
    assert 'error="Not a directory"' in line


def test_options_may_come_from_the_environment(capture: Capture, tmp_path: Path) -> None:
    variables = {"IOMMUD_RUNTIME_DIRECTORY": str(tmp_path), "IOMMUD_STATE_DIRECTORY": str(tmp_path)}
    with started("run", "--no-web", *machine_options(capture), **variables):
        eventually((tmp_path / "publication.json").exists)
        eventually((tmp_path / "state.json").exists)


def test_serve_needs_nothing_of_the_machine(capture: Capture, tmp_path: Path) -> None:
    with started("run", "--no-web", *machine_options(capture), "--runtime-directory", str(tmp_path)):
        eventually((tmp_path / "publication.json").exists)
    listen = f"unix:{tmp_path}/socket"
    with started("serve", "--runtime-directory", str(tmp_path), "--web.listen-address", listen) as process:
        eventually((tmp_path / "socket").exists)
        asked = run("status", listen)
        mapped = Path(f"/proc/{process.pid}/maps").read_text(encoding="utf-8")

    assert asked.returncode == 0
    assert "libudev" not in mapped


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["run", "--reconcile-interval", "soon"], "is no duration"),
        (["run", "--reconcile-interval", "10ms"], "less than a second"),
        (["run", "--web.listen-address", "nowhere"], "is not an address"),
        (["run", "--log.format", "xml"], "none of logfmt, json"),
        (["run", "--log.level", "loud"], "none of debug, info, warning, error"),
        (["run", "--fail-on", "all"], "none of critical, warning, info, never"),
        (["serve", "--stale-after", "never"], "is no duration"),
        (["serve", "--web.listen-address", "unix:relative"], "needs an absolute path"),
        (["status", "--stale-after", "-1"], "is no duration"),
        (["status", "ftp://host"], "'ftp://host' is no URL such as"),
        (["status", "http://127.0.0.1:port"], "Port could not be cast"),
        (["status", "http://127.0.0.1:123456"], "Port out of range"),
        (["status", "--web.tls-ca-file", "x"], "are for a URL that begins with https://"),
        (["status", "http://host", "--web.client-cert-file", "x"], "are for a URL that begins with https://"),
        (["status", "https://host", "--web.client-key-file", "x"], "needs --web.client-cert-file"),
    ],
)
def test_wrong_options_are_wrong_usage_and_named(arguments: list[str], problem: str) -> None:
    done = run(*arguments)

    assert done.returncode == 2
    assert problem in re.sub(r"[\s│]+", " ", done.stderr)


def test_status_prints_the_report_of_check_with_its_age_and_exit_status(tmp_path: Path) -> None:
    capture = Capture(tmp_path / "machine", FOUNDING)
    runtime = tmp_path / "run"
    runtime.mkdir()
    with daemon(capture, runtime_directory=str(runtime)) as running:
        eventually((runtime / "publication.json").exists)
        where = ["--path.sysfs", str(capture.sysfs), "--path.procfs", f"{capture.root}/proc"]
        checked = run("check", *where)
        answers = [run("status", "--runtime-directory", str(runtime)), run("status", running.url)]

    for answer in answers:
        report, _, age = answer.stdout.rstrip("\n").rpartition("\n")
        assert (answer.returncode, answer.stderr) == (checked.returncode, "") == (1, "")
        assert report == checked.stdout.rstrip("\n")
        assert re.fullmatch(r"This report is \d+ seconds? old\.", age)


def test_status_fails_as_the_daemon_was_told_to(capture: Capture, tmp_path: Path) -> None:
    capture.ungroup(VICTIM)
    with daemon(capture, runtime_directory=str(tmp_path), fail_on="never"):
        eventually((tmp_path / "publication.json").exists)

    assert run("status", "--runtime-directory", str(tmp_path)).returncode == 0


def test_a_stale_report_is_printed_and_fails(capture: Capture, tmp_path: Path) -> None:
    with daemon(capture, runtime_directory=str(tmp_path), serve=False):
        eventually((tmp_path / "publication.json").exists)
    board = Board()
    board.publish(replace(load(tmp_path), taken_at=time.time() - 1000))
    board.save(tmp_path)
    with daemon(collect=False, runtime_directory=str(tmp_path)) as running:
        eventually(running.ready)
        answers = [run("status", "--runtime-directory", str(tmp_path)), run("status", running.url)]

    for answer in answers:
        assert answer.returncode == 4
        assert answer.stdout.startswith("ok: nothing wrong")
        assert answer.stdout.count("Stale") == 1
        assert answer.stderr == "iommud: the report is stale: is the daemon running?\n"
    assert run("status", "--runtime-directory", str(tmp_path), "--stale-after", "1h").returncode == 0


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["http://127.0.0.1:9"], "http://127.0.0.1:9: Connection refused"),
        (["127.0.0.1:9"], "127.0.0.1:9: Connection refused"),
        (["unix:/nowhere"], "unix:/nowhere: No such file or directory"),
        (["--runtime-directory", "/nowhere"], "/nowhere: no report has been published here"),
    ],
)
def test_a_daemon_that_does_not_answer_is_one_line_and_status_4(arguments: list[str], problem: str) -> None:
    done = run("status", *arguments)

    assert (done.returncode, done.stdout) == (4, "")
    assert done.stderr.startswith(f"iommud: {problem}")
    assert done.stderr.count("\n") == 1


def test_status_shows_a_certificate_to_a_daemon_that_wants_one(capture: Capture, tmp_path: Path) -> None:
    authority = trustme.CA()
    files = {name: str(tmp_path / name) for name in ("ca", "server", "client", "client-key")}
    authority.cert_pem.write_to_path(files["ca"])
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(files["server"])
    mine = authority.issue_cert("scraper")
    mine.private_key_pem.write_to_path(files["client-key"])
    mine.cert_chain_pems[0].write_to_path(files["client"])
    tls: dict[str, Any] = {"tls_certificate": files["server"], "tls_key": files["server"], "tls_client_ca": files["ca"]}
    trust, shown = ["--web.tls-ca-file", files["ca"]], ["--web.client-cert-file", files["client"]]
    with daemon(capture, runtime_directory=str(tmp_path), **tls) as running:
        eventually((tmp_path / "publication.json").exists)
        url = f"https://{running.target}"
        known = run("status", url, *trust, *shown, "--web.client-key-file", files["client-key"])
        unknown = run("status", url, *trust)
        distrusted = run("status", url)
        keyless = run("status", url, *trust, *shown)

    assert (known.returncode, known.stderr) == (0, "")
    assert known.stdout.startswith("ok: nothing wrong")
    assert [one.returncode for one in (unknown, distrusted, keyless)] == [4, 4, 4]
    assert "certificate" in distrusted.stderr
    assert keyless.stderr == f"iommud: {files['client']}: no certificate with its unlocked key\n"
    assert unknown.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("option", "content", "problem"),
    [
        ("--web.tls-ca-file", None, "No such file or directory"),
        ("--web.tls-ca-file", "nothing", "holds no certificate in PEM"),
        ("--web.client-cert-file", "nothing", "no certificate with its unlocked key"),
    ],
)
def test_files_that_make_no_client_are_one_line_and_status_4(
    tmp_path: Path, option: str, content: str | None, problem: str
) -> None:
    if content is not None:
        (tmp_path / "file").write_text(content)
    done = run("status", "https://127.0.0.1:9", option, str(tmp_path / "file"))

    assert (done.returncode, done.stderr) == (4, f"iommud: {tmp_path}/file: {problem}\n")


def test_a_server_that_has_no_report_yet_is_one_line_and_status_4(tmp_path: Path) -> None:
    with daemon(collect=False, runtime_directory=str(tmp_path)) as running:
        done = run("status", running.url)

    assert done.returncode == 4
    assert "503 Service Unavailable: no report yet" in done.stderr


def test_a_server_that_is_no_iommud_is_one_line_and_status_4() -> None:

    with served({"/report.txt": "hello"}) as target:
        done = run("status", target)

    assert done.returncode == 4
    assert done.stderr == f"iommud: {target}: what answers is no iommud\n"
