# SPDX-License-Identifier: GPL-2.0-or-later
"""The entry point: how each way to leave becomes an exit status."""

import runpy
import sys
from typing import NoReturn

import pytest
import typer

from iommud import cli
from tests.cli.running import THREAD, call, run


def raising(error: BaseException) -> object:
    def fail(*_arguments: object, **_options: object) -> NoReturn:
        raise error

    return fail


@pytest.mark.parametrize("error", [KeyboardInterrupt(), typer.Abort(), EOFError()])
def test_interrupts_at_work_are_130(error: BaseException, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("iommud.cli.checking.run_check", raising(error))

    assert call("check", THREAD) == 130


def test_an_interrupt_before_work_is_130(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli, "_run", raising(KeyboardInterrupt()))

    assert call("check") == 130


def test_a_fault_of_the_program_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("iommud.cli.checking.run_check", raising(ZeroDivisionError("a fault")))

    with pytest.raises(ZeroDivisionError):
        cli.main(["check", THREAD])


def test_a_status_that_typer_leaves_with_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("iommud.cli.checking.run_check", raising(SystemExit(7)))

    assert call("check", THREAD) == 7


def test_shells_can_complete_verbs() -> None:
    answer = run(env={"_IOMMUD_COMPLETE": "complete_bash", "COMP_WORDS": "iommud ch", "COMP_CWORD": "1"})

    assert (answer.returncode, answer.stdout.split()) == (0, ["check"])


def test_the_package_runs_as_a_module(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["iommud", "--version"])

    with pytest.raises(SystemExit) as left:
        runpy.run_module("iommud", run_name="__main__")

    assert left.value.code == 0
    assert capsys.readouterr().out.startswith("iommud ")
