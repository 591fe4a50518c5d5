# SPDX-License-Identifier: GPL-2.0-or-later
"""Log lines: one for each event, in both formats, harmless whatever they carry, and as journald wants them."""

from __future__ import annotations

import io
import json
import logging
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iommud.daemon import log
from iommud.daemon.log import LogFormat, journal_entry, log_event, logfmt, set_up_logging

HOSTILE = 'a\nlevel=error msg="fake"\x1b[31m\u202e\udcff'


@pytest.fixture(autouse=True)
def _untouched_logging() -> Iterator[None]:
    root, own = logging.getLogger(), logging.getLogger("iommud")
    before = (root.handlers[:], root.level, own.level)
    yield
    root.handlers[:], root.level, own.level = before
    logging.getLogger().setLevel(before[1])
    own.setLevel(before[2])


def logged(format_: LogFormat, level: str = "info", **fields: str | int | bool | None) -> str:
    stream = io.StringIO()
    set_up_logging(format_, level, stream=stream, environment={})
    log_event(logging.WARNING, "finding appeared", **fields)
    return stream.getvalue()


def test_an_event_is_one_line_of_logfmt() -> None:
    time, line = logged(LogFormat.LOGFMT, finding="merged:1", devices="a b", count=3, tls=True).split(" ", 1)

    assert time.startswith("time=20")
    assert time.endswith("Z")
    assert line == 'level=warning msg="finding appeared" finding=merged:1 devices="a b" count=3 tls=true\n'


def test_an_event_is_one_document_of_json() -> None:
    document = json.loads(logged(LogFormat.JSON, finding="merged:1", count=3))

    assert document.pop("time").endswith("Z")
    assert document == {"level": "warning", "msg": "finding appeared", "finding": "merged:1", "count": 3}


def test_a_field_that_is_none_is_left_out() -> None:
    assert "finding=" not in logged(LogFormat.LOGFMT, finding=None)


@pytest.mark.parametrize("format_", LogFormat)
def test_no_field_can_end_the_line_or_drive_a_terminal(format_: LogFormat) -> None:
    line = logged(format_, about=HOSTILE)

    assert line.endswith("\n")
    assert line[:-1].isprintable()
    assert line.isascii() or format_ is LogFormat.LOGFMT


@given(st.dictionaries(st.from_regex("[a-z]{1,5}", fullmatch=True), st.text(), min_size=1))
def test_values_are_one_word_or_quoted(pairs: dict[str, str]) -> None:
    line = logfmt(dict(pairs))
    decoder = json.JSONDecoder()
    found = {}
    while line:
        name, _, line = line.partition("=")
        if line.startswith('"'):
            found[name], end = decoder.raw_decode(line)
            line = line[end:].removeprefix(" ")
        else:
            found[name], _, line = line.partition(" ")

    assert found.keys() == pairs.keys()
    assert all(value.isprintable() for value in found.values())


def test_events_below_the_level_are_not_logged() -> None:
    assert logged(LogFormat.LOGFMT, level="error") == ""


def test_other_libraries_are_heard_when_they_warn() -> None:
    stream = io.StringIO()
    set_up_logging(LogFormat.LOGFMT, "debug", stream=stream, environment={})
    logging.getLogger("asyncio").info("quiet")
    logging.getLogger("asyncio").warning("loud %s", "enough")

    assert [line.partition(" ")[2] for line in stream.getvalue().splitlines()] == ['level=warning msg="loud enough"']


def test_an_exception_is_told_in_one_line_with_its_place() -> None:
    stream = io.StringIO()
    set_up_logging(LogFormat.LOGFMT, "info", stream=stream, environment={})
    try:
        json.loads("{")
    except ValueError:
        logging.getLogger("iommud").exception("cannot look")

    (line,) = stream.getvalue().splitlines()
    assert 'error="JSONDecodeError: Expecting property name' in line
    assert " at=decoder.py:" in line


def test_a_closed_standard_error_stops_nothing() -> None:
    stream = io.StringIO()
    set_up_logging(LogFormat.LOGFMT, "info", stream=stream, environment={})
    stream.close()

    log_event(logging.ERROR, "nobody listens")


class Journald:
    """Both sockets of journald: the stream that is a service's standard error, and the one for entries."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "journal"
        self.entries = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.entries.bind(str(self.path))
        self.entries.settimeout(5)
        ours, self.lines = socket.socketpair()
        self.lines.settimeout(5)
        found = os.fstat(ours.fileno())
        self.environment = {"JOURNAL_STREAM": f"{found.st_dev}:{found.st_ino}"}
        self.stream = ours.makefile("w", encoding="utf-8")
        ours.close()

    def entry(self) -> dict[str, str]:
        lines = self.entries.recv(1 << 16).decode().splitlines()
        return {name: value for name, _, value in (line.partition("=") for line in lines)}

    def close(self) -> None:
        for one in (self.entries, self.lines, self.stream):
            one.close()


@pytest.fixture
def journald(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Journald]:
    found = Journald(tmp_path)
    monkeypatch.setattr(log, "_JOURNAL", str(found.path))
    yield found
    found.close()


def test_journald_gets_entries_with_fields_of_their_own(journald: Journald) -> None:
    set_up_logging(LogFormat.LOGFMT, "info", stream=journald.stream, environment=journald.environment)
    log_event(logging.ERROR, "finding appeared", finding="merged:1", about=HOSTILE)
    entry = journald.entry()

    assert entry["PRIORITY"] == "3"
    assert entry["SYSLOG_IDENTIFIER"] == "iommud"
    assert entry["IOMMUD_FINDING"] == "merged:1"
    assert entry["MESSAGE"].startswith("finding appeared: finding=merged:1 about=")
    assert set(entry) == {"MESSAGE", "PRIORITY", "SYSLOG_IDENTIFIER", "IOMMUD_FINDING", "IOMMUD_ABOUT"}


def test_entries_that_journald_refuses_are_lines_with_a_priority(journald: Journald) -> None:
    set_up_logging(LogFormat.LOGFMT, "info", stream=journald.stream, environment=journald.environment)
    journald.path.unlink()
    log_event(logging.ERROR, "finding appeared")

    assert journald.lines.recv(1000) == b'<3>level=error msg="finding appeared"\n'


def test_journald_gets_json_as_lines_if_that_is_wanted(journald: Journald) -> None:
    set_up_logging(LogFormat.JSON, "info", stream=journald.stream, environment=journald.environment)
    log_event(logging.WARNING, "finding cleared")

    assert journald.lines.recv(1000) == b'<4>{"level": "warning", "msg": "finding cleared"}\n'


def test_a_standard_error_that_was_redirected_since_is_not_journalds(journald: Journald, tmp_path: Path) -> None:
    with (tmp_path / "file").open("w") as stream:
        set_up_logging(LogFormat.LOGFMT, "info", stream=stream, environment=journald.environment)
        log_event(logging.WARNING, "finding cleared")

    assert (tmp_path / "file").read_text().startswith("time=")


def test_an_entry_has_one_line_for_each_field() -> None:
    record = logging.makeLogRecord({"msg": HOSTILE, "levelno": logging.INFO, "fields": {"one": HOSTILE}})

    assert len(journal_entry(record).splitlines()) == 4
