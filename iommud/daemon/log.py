# SPDX-License-Identifier: GPL-2.0-or-later
"""Log lines on standard error: logfmt or JSON, with what journald understands if it is journald that listens.

An event is a message that never varies and fields that do. All of it is made harmless: no field can end a line,
start another one, or drive a terminal.
"""

from __future__ import annotations

import contextlib
import enum
import json
import logging
import os
import re
import socket
import stat
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TextIO

from iommud.errors import visible

__all__ = ["LEVELS", "LogFormat", "log_event", "set_up_logging"]

LEVELS = ("debug", "info", "warning", "error")
_LOGGER = "iommud"
_JOURNAL = "/run/systemd/journal/socket"
_LONGEST = 2000
"""Characters of a field."""
_PRIORITIES = {logging.DEBUG: 7, logging.INFO: 6, logging.WARNING: 4, logging.ERROR: 3, logging.CRITICAL: 2}
"""sd-daemon(3)."""
_PLAIN = re.compile(r"[^\s\"=\\]+")

Field = str | int | float | bool | None


class LogFormat(enum.StrEnum):
    """How a line is written."""

    LOGFMT = "logfmt"
    JSON = "json"


def log_event(level: int, message: str, /, **fields: Field) -> None:
    """Log an event. Names of fields are lower case; a field that is None is left out."""
    kept = {name: value for name, value in fields.items() if value is not None}
    logging.getLogger(_LOGGER).log(level, message, extra={"fields": kept})


def set_up_logging(
    format_: LogFormat, level: str, *, stream: TextIO | None = None, environment: Mapping[str, str] = os.environ
) -> None:
    """Send all events from a level on to standard error.

    Where journald reads standard error (``JOURNAL_STREAM``, systemd.exec(5)) lines carry priorities and no time, and
    with logfmt, events go straight to journald, each field as one of its own.
    """
    stream = stream or sys.stderr
    to_journal = _is_journal(stream, environment)
    handler: logging.Handler = _StreamHandler(stream, format_, to_journal=to_journal)
    if to_journal and format_ is LogFormat.LOGFMT and os.path.exists(_JOURNAL):  # noqa: PTH110 - one look
        handler = _JournalHandler(handler)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger(_LOGGER).setLevel(level.upper())


def _fields(record: logging.LogRecord) -> dict[str, Field]:
    fields: dict[str, Field] = getattr(record, "fields", {})
    if record.exc_info and record.exc_info[1] is not None:
        error = record.exc_info[1]
        fields = {**fields, "error": f"{type(error).__name__}: {error}", "at": _place(record)}
    return fields


def _place(record: logging.LogRecord) -> str:
    """Where an exception came from: a traceback would be many lines."""
    trace = record.exc_info[2] if record.exc_info else None
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return "" if trace is None else f"{os.path.basename(trace.tb_frame.f_code.co_filename)}:{trace.tb_lineno}"  # noqa: PTH119 - a name, not a file


def _message(record: logging.LogRecord) -> str:
    return visible(record.getMessage())[:_LONGEST]


def _harmless(value: Field) -> Field:
    return visible(value)[:_LONGEST] if isinstance(value, str) else value


def logfmt(pairs: Mapping[str, Field]) -> str:
    """``name=value`` for each pair; values that are not one plain word are quoted as in JSON."""
    return " ".join(f"{name}={_value(value)}" for name, value in pairs.items())


def _value(value: Field) -> str:
    text = str(value).lower() if isinstance(value, bool) else str(_harmless(value))
    return text if _PLAIN.fullmatch(text) else json.dumps(text, ensure_ascii=False)


class _StreamHandler(logging.Handler):
    def __init__(self, stream: TextIO, format_: LogFormat, *, to_journal: bool) -> None:
        super().__init__()
        self._stream = stream
        self._format = format_
        self._to_journal = to_journal

    def emit(self, record: logging.LogRecord) -> None:
        """Write one line; whoever closed standard error does not stop the daemon."""
        with contextlib.suppress(OSError, ValueError):
            self._stream.write(self._line(record))
            self._stream.flush()

    def _line(self, record: logging.LogRecord) -> str:
        time = {} if self._to_journal else {"time": _time(record)}
        head = {**time, "level": record.levelname.lower(), "msg": _message(record)}
        pairs = {**head, **{name: _harmless(value) for name, value in _fields(record).items()}}
        text = logfmt(pairs) if self._format is LogFormat.LOGFMT else json.dumps(pairs, ensure_ascii=True)
        return f"{_priority(record) if self._to_journal else ''}{text}\n"


def _time(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _priority(record: logging.LogRecord) -> str:
    return f"<{_PRIORITIES.get(record.levelno, 6)}>"


class _JournalHandler(logging.Handler):
    """Sends events to journald's own socket (systemd.io, JOURNAL_NATIVE_PROTOCOL), else in the other way."""

    def __init__(self, otherwise: logging.Handler) -> None:
        super().__init__()
        self._otherwise = otherwise

    def emit(self, record: logging.LogRecord) -> None:
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
                sender.setblocking(False)
                sender.sendto(journal_entry(record), _JOURNAL)
        except OSError:
            self._otherwise.emit(record)


def journal_entry(record: logging.LogRecord) -> bytes:
    """One event in journald's format; its message repeats the fields, for whoever reads messages alone."""
    fields = {name: _harmless(value) for name, value in _fields(record).items()}
    text = _message(record) + (f": {logfmt(fields)}" if fields else "")
    pairs = {
        "MESSAGE": text,
        "PRIORITY": _PRIORITIES.get(record.levelno, 6),
        "SYSLOG_IDENTIFIER": _LOGGER,
        **{f"IOMMUD_{name.upper()}": value for name, value in fields.items()},
    }
    # No value holds a newline, so the simple form does.
    return "".join(f"{name}={value}\n" for name, value in pairs.items()).encode("utf-8", "replace")


def _is_journal(stream: TextIO, environment: Mapping[str, str]) -> bool:
    """Whether journald reads this stream: the variable survives where standard error was redirected since."""
    named = environment.get("JOURNAL_STREAM", "")
    try:
        found = os.fstat(stream.fileno())
    except (OSError, ValueError):
        return False
    return stat.S_ISSOCK(found.st_mode) and named == f"{found.st_dev}:{found.st_ino}"
