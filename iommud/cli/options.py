# SPDX-License-Identifier: GPL-2.0-or-later
"""Options that several verbs share, spelled as node_exporter spells its own where it has them."""

from __future__ import annotations

import enum
from typing import Annotated

import typer


class Colour(enum.StrEnum):
    """When to colour."""

    AUTO = "auto"
    ALWAYS = "always"
    NEVER = "never"


class ShowFormat(enum.StrEnum):
    """Formats of the verbs that show one machine."""

    TEXT = "text"
    JSON = "json"


class CheckFormat(enum.StrEnum):
    """Formats of a report."""

    TEXT = "text"
    JSON = "json"
    MARKDOWN = "markdown"
    PROMETHEUS = "prometheus"
    HTML = "html"


class GraphFormat(enum.StrEnum):
    """Formats of a picture."""

    SVG = "svg"
    DOT = "dot"
    MERMAID = "mermaid"


class DiffFormat(enum.StrEnum):
    """Formats of a comparison."""

    TEXT = "text"
    JSON = "json"
    MARKDOWN = "markdown"


SYSFS = Annotated[str, typer.Option("--path.sysfs", metavar="DIR", help="Where sysfs is mounted.")]
PROCFS = Annotated[str, typer.Option("--path.procfs", metavar="DIR", help="Where procfs is mounted.")]
PLACE = Annotated[
    str | None,
    typer.Argument(metavar="[SOURCE]", help="A directory or archive; - is stdin; default: this machine."),
]
SOURCE = Annotated[
    str | None,
    typer.Option("--source", metavar="SOURCE", help="A directory or archive instead of this machine; - is stdin."),
]
KERNEL = Annotated[
    str | None,
    typer.Option("--kernel", metavar="VERSION", help="Judge by the tables of this kernel, not the one found."),
]
WAKE = Annotated[bool, typer.Option("--wake", help="Read sleeping devices too, which wakes them.")]
OUTPUT = Annotated[
    str | None,
    typer.Option("--output", "-o", metavar="FILE", help="Write to FILE, all at once, instead of stdout."),
]
VERBOSE = Annotated[bool, typer.Option("--verbose", "-v", help="Show the evidence.")]
QUIET = Annotated[bool, typer.Option("--quiet", "-q", help="No progress, and no text for a machine that is right.")]
COLOUR = Annotated[Colour, typer.Option("--color", help="When to colour; NO_COLOR counts for auto.")]
SHOW_FORMAT = Annotated[ShowFormat, typer.Option("--format", "-f", help="Text for people or JSON for programs.")]
LISTEN = Annotated[
    list[str] | None,
    typer.Option(
        "--web.listen-address",
        metavar="ADDRESS",
        envvar="IOMMUD_LISTEN_ADDRESS",
        help="host:port, [address]:port, :port or unix:/path; may be repeated. Default: 127.0.0.1:9798.",
    ),
]
TLS_CERTIFICATE = Annotated[
    str | None, typer.Option("--web.tls-cert-file", metavar="FILE", help="Serve TLS with this certificate (PEM).")
]
TLS_KEY = Annotated[str | None, typer.Option("--web.tls-key-file", metavar="FILE", help="Its key (PEM).")]
CLIENT_CA = Annotated[
    str | None,
    typer.Option("--web.client-ca-file", metavar="FILE", help="Serve only clients certified by these authorities."),
]
ALLOW_PLAIN = Annotated[bool, typer.Option("--web.allow-plain", help="Listen beyond loopback also without TLS.")]
STALE_AFTER = Annotated[
    str | None,
    typer.Option(
        "--stale-after",
        metavar="TIME",
        help="Age at which a report is stale; default: three reconciles of its collector.",
    ),
]
RUNTIME_DIRECTORY = Annotated[
    str | None,
    typer.Option(
        "--runtime-directory", metavar="DIR", envvar="IOMMUD_RUNTIME_DIRECTORY", help="Where the newest report lies."
    ),
]
LOG_FORMAT = Annotated[str, typer.Option("--log.format", metavar="FORMAT", help="logfmt or json.")]
LOG_LEVEL = Annotated[str, typer.Option("--log.level", metavar="LEVEL", help="debug, info, warning or error.")]
