# SPDX-License-Identifier: GPL-2.0-or-later
"""A program of two commands that do nothing: what starting anything made with typer costs."""

import typer

app = typer.Typer()


@app.command()
def first() -> None:
    """Do nothing."""


@app.command()
def second() -> None:
    """Do nothing either."""


if __name__ == "__main__":
    app()
