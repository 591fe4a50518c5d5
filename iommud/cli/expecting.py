# SPDX-License-Identifier: GPL-2.0-or-later
"""``iommud check --expect``: the wanted groups, from a JSON report or a short list."""

from __future__ import annotations

import typer

from iommud.cli.reports import content_of, is_report, read_report
from iommud.errors import SourceError
from iommud.verdict.expectation import Expectation

_OPTION = "--expect"


def read_expectation(source: str) -> Expectation:
    """What a file wants; ``-`` is standard input. Raises typer.BadParameter, naming the file and the problem."""
    try:
        if is_report(source):
            return Expectation.of_state(read_report(source))
        return Expectation.of_list(content_of(source).decode(), source)
    except SourceError as error:
        raise typer.BadParameter(str(error), param_hint=_OPTION) from error
    except OSError as error:
        raise typer.BadParameter(f"{source}: {error.strerror}", param_hint=_OPTION) from error
    except UnicodeDecodeError as error:
        raise typer.BadParameter(f"{source}: neither a JSON report nor a text", param_hint=_OPTION) from error
    except ValueError as error:
        raise typer.BadParameter(f"{source}: {error}", param_hint=_OPTION) from error
