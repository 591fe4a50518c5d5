# SPDX-License-Identifier: GPL-2.0-or-later
"""Runs inside the guest: takes commands from the second serial port, and answers with what they print.

A line is JSON in base64. A request has ``number``, ``command`` (for the shell) and ``seconds``; the answer has the same
``number``, ``status`` (None: not in time) and ``output``. The first line after each boot is the answer to number 0,
which nobody sends, and says that the guest is there.
"""

from __future__ import annotations

import base64
import json
import os
import subprocess
import tty

PORT = "/dev/ttyS1"


def main() -> None:
    """Answer for ever."""
    port = os.open(PORT, os.O_RDWR | os.O_NOCTTY)
    tty.setraw(port)
    with open(port, "rb", buffering=0, closefd=False) as requests:
        say(port, {"number": 0, "status": 0, "output": "hello"})
        waiting = b""
        while True:
            waiting += requests.read(4096) or b""
            *lines, waiting = waiting.split(b"\n")
            for line in filter(None, lines):
                request = json.loads(base64.b64decode(line))
                say(port, {"number": request["number"], **run(request)})


def run(request: dict[str, object]) -> dict[str, object]:
    """The answer to a request."""
    command, seconds = str(request["command"]), float(str(request["seconds"]))
    try:
        done = subprocess.run(
            ["/bin/sh", "-c", command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=seconds,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        return {"status": None, "output": (error.stdout or b"").decode(errors="replace")}
    return {"status": done.returncode, "output": done.stdout.decode(errors="replace")}


def say(port: int, answer: dict[str, object]) -> None:
    """Send a line, all of it."""
    rest = base64.b64encode(json.dumps(answer).encode()) + b"\n"
    while rest:
        rest = rest[os.write(port, rest) :]


if __name__ == "__main__":
    main()
