# SPDX-License-Identifier: GPL-2.0-or-later
"""``iommud run`` and ``iommud serve``: turn options into settings, and let the daemon take this process over."""

from __future__ import annotations

import os
import sys
import sysconfig
from pathlib import Path

import typer

from iommud.daemon.log import LEVELS, LogFormat
from iommud.daemon.settings import Settings, parse_duration
from iommud.errors import SourceError
from iommud.verdict.report import FailOn

__all__ = ["duration", "one_of", "start"]


def duration(text: str, option: str) -> float:
    """Seconds. Raises typer.BadParameter."""
    try:
        return parse_duration(text)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint=option) from error


def one_of(text: str, choices: tuple[str, ...], option: str) -> str:
    """The text, if it is one of the choices. Raises typer.BadParameter."""
    if text not in choices:
        raise typer.BadParameter(f"{text!r} is none of {', '.join(choices)}", param_hint=option)
    return text


def start(settings: Settings) -> int:
    """Check what can be checked without side effects, and become the daemon. Raises typer.BadParameter."""
    _check(settings)
    sys.stdout.flush()
    command = [sys.executable, "-P", "-m", "iommud.daemon.main", settings.to_json()]
    try:
        os.execve(sys.executable, command, _environment())  # noqa: S606 - this very program, without a shell
    except OSError as error:
        raise SourceError(sys.executable, f"cannot be started again: {error.strerror}") from error


def _check(settings: Settings) -> None:
    from iommud.daemon.listen import ListenError, parse_address

    one_of(settings.log_level, LEVELS, "--log.level")
    one_of(settings.log_format, tuple(LogFormat), "--log.format")
    one_of(settings.fail_on, tuple(FailOn), "--fail-on")
    if settings.reconcile_interval < 1 or settings.poll_interval < 1:
        raise typer.BadParameter("an interval of less than a second leaves no time for anything else")
    try:
        for address in settings.listen:
            parse_address(address)
    except ListenError as error:
        raise typer.BadParameter(str(error)) from error


def _environment() -> dict[str, str]:
    """This environment; where iommud runs from a checkout, the way back to it.

    The current directory is no place to look for modules (``-P``), for a daemon may be started in anybody's.
    """
    environment = dict(os.environ)
    home = str(Path(__file__).resolve().parents[2])
    if home != sysconfig.get_path("purelib"):
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, (home, environment.get("PYTHONPATH"))))
    return environment
