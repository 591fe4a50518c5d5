# SPDX-License-Identifier: GPL-2.0-or-later
"""What the service manager is told, over both kinds of address, and what it wants to be told."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from iommud.daemon.notify import Notifier


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[socket.socket, str]]:
    """A service manager's socket, and how NOTIFY_SOCKET names it."""
    path = str(tmp_path / "notify")
    abstract = request.param == "abstract"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(f"\0{path}" if abstract else path)
        listener.settimeout(5)
        yield listener, f"@{path}" if abstract else path


def test_the_service_manager_hears_everything(manager: tuple[socket.socket, str]) -> None:
    listener, address = manager
    notifier = Notifier({"NOTIFY_SOCKET": address})
    notifier.ready("ok: nothing wrong")
    notifier.status("findings: 1\ncritical\x1b")
    notifier.alive()
    notifier.stopping()

    assert [listener.recv(1000) for _ in range(4)] == [
        b"READY=1\nSTATUS=ok: nothing wrong",
        b"STATUS=findings: 1\\ncritical\\x1b",
        b"WATCHDOG=1",
        b"STOPPING=1",
    ]


def test_a_reload_carries_the_time_that_the_manager_wants(manager: tuple[socket.socket, str]) -> None:
    listener, address = manager
    Notifier({"NOTIFY_SOCKET": address}).reloading()
    word, time = listener.recv(1000).decode().splitlines()

    assert word == "RELOADING=1"
    assert int(time.removeprefix("MONOTONIC_USEC=")) > 0


@pytest.mark.parametrize("environment", [{}, {"NOTIFY_SOCKET": "/nowhere/notify"}, {"NOTIFY_SOCKET": "@nobody"}])
def test_without_a_manager_nothing_happens(environment: dict[str, str]) -> None:
    Notifier(environment).ready("ok")


def test_a_manager_that_does_not_read_holds_nobody_up(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "notify"))
        notifier = Notifier({"NOTIFY_SOCKET": str(tmp_path / "notify")})
        for _ in range(1000):
            notifier.alive()


OURS, OTHER = str(os.getpid()), str(os.getpid() + 1)


@pytest.mark.parametrize(
    ("environment", "seconds"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "6000000"}, 6.0),
        ({"WATCHDOG_USEC": "6000000", "WATCHDOG_PID": OURS}, 6.0),
        ({"WATCHDOG_USEC": "6000000", "WATCHDOG_PID": OTHER}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
    ],
)
def test_the_watchdog_wants_signs_of_life_from_the_process_that_it_names(
    environment: dict[str, str], seconds: float | None
) -> None:
    assert Notifier(environment).watchdog == seconds
