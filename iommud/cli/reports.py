# SPDX-License-Identifier: GPL-2.0-or-later
"""JSON reports given on the command line: what is one, and what it says."""

from __future__ import annotations

import io
import json
import os
import stat
import sys

from iommud.errors import SourceError
from iommud.verdict.state import State

_LARGEST = 256 << 20
"""Bytes of a JSON report; one of 100,000 functions has about 30 million."""
_PEEKED = 64


def is_report(source: str) -> bool:
    """Whether the first byte that is no white space begins an object, as no archive does."""
    try:
        begin = _peeked() if source == "-" else _begin(source)
    except OSError as error:
        raise SourceError(source, error.strerror or str(error)) from error
    return begin.lstrip().startswith(b"{")


def _peeked() -> bytes:
    """What standard input begins with, which stays there to be read."""
    stream = sys.stdin.buffer
    return stream.peek(_PEEKED) if isinstance(stream, io.BufferedReader) else b""


def _begin(path: str) -> bytes:
    """The first bytes of a regular file, nothing of what is none: reading from a pipe would take them from it."""
    if not stat.S_ISREG(os.stat(path).st_mode):  # noqa: PTH116 - a name from the command line, used as it is
        return b""
    with open(path, "rb") as file:  # noqa: PTH123 - see above
        return file.read(_PEEKED)


def read_report(source: str) -> State:
    """The state that a JSON report describes; ``-`` is standard input. Raises SourceError."""
    try:
        return State.of_document(json.loads(content_of(source)), source)
    except OSError as error:
        raise SourceError(source, error.strerror or str(error)) from error
    except RecursionError as error:
        raise SourceError(source, "nested too deeply for a report") from error
    except UnicodeDecodeError as error:
        raise SourceError(source, "a JSON report that is no UTF-8") from error
    except json.JSONDecodeError as error:
        several = " (reports of several sources are compared one by one)" if error.msg == "Extra data" else ""
        raise SourceError(source, f"no JSON: {error}{several}") from error
    except ValueError as error:
        raise SourceError(source, str(error)) from error


def content_of(source: str) -> bytes:
    """What a file holds. Raises OSError, and ValueError for more than a report can have."""
    if source == "-":
        content = sys.stdin.buffer.read(_LARGEST + 1)
    else:
        with open(source, "rb") as file:  # noqa: PTH123 - see above
            content = file.read(_LARGEST + 1)
    if len(content) > _LARGEST:
        raise ValueError(f"larger than {_LARGEST >> 20} MiB, which no report is")
    return content
