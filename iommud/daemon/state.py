# SPDX-License-Identifier: GPL-2.0-or-later
"""The state directory: what was known at the last run, so that after a reboot or an upgrade it is told what changed."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from iommud.address import Address
from iommud.daemon.known import Known, KnownFinding
from iommud.errors import IommudError, visible
from iommud.model.groups import Group, canonical

__all__ = ["FILE", "StateError", "load_state", "save_state"]

FILE = "state.json"
_VERSION = 1
_LARGEST = 64 << 20


class StateError(IommudError):
    """A state that cannot be used; the message is one line that names the file."""


def load_state(directory: Path) -> Known | None:
    """What was known at the last run; None at the first one. Raises StateError if it is damaged or unreadable."""
    path = directory / FILE
    try:
        with path.open("rb") as file:
            content = file.read(_LARGEST + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StateError(f"{visible(str(path))}: {error.strerror}") from error
    try:
        if len(content) > _LARGEST:
            raise ValueError(f"larger than {_LARGEST} bytes")  # noqa: TRY301 - all that is wrong ends below
        return decode(content)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise StateError(f"{visible(str(path))}: no state of iommud: {visible(str(error))[:200]}") from error


def save_state(known: Known, directory: Path) -> None:
    """Write it so that after a crash of the machine the old one or the new one is there, whole.

    Raises OSError (disk full, read-only) and leaves the old one.
    """
    path = directory / FILE
    fresh = path.with_name(f".{FILE}.{os.getpid()}")
    try:
        with fresh.open("wb") as file:
            file.write(encode(known))
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            fresh.unlink()
        raise
    for left in directory.glob(f".{FILE}.*"):
        left.unlink(missing_ok=True)


def encode(known: Known) -> bytes:
    """As JSON."""
    document = {
        "version": _VERSION,
        "kernel": known.kernel,
        "groups": _partition(known.groups),
        "ungrouped": _addresses(known.ungrouped),
        "without": _addresses(known.without),
        "findings": {name: _finding(one) for name, one in sorted(known.findings.items())},
        "parameters": None if known.parameters is None else sorted(known.parameters),
        "iommus": None if known.iommus is None else sorted(known.iommus),
    }
    return json.dumps(document, separators=(",", ":")).encode() + b"\n"


def _finding(finding: KnownFinding) -> dict[str, Any]:
    return {
        "kind": finding.kind,
        "severity": finding.severity,
        "devices": _addresses(finding.devices),
        "groups": _partition(finding.groups),
        "accepted": finding.accepted,
    }


def _addresses(addresses: Iterable[Address]) -> list[str]:
    return [str(one) for one in sorted(addresses)]


def _partition(groups: Iterable[Group]) -> list[list[str]]:
    return [_addresses(group) for group in canonical(groups)]


def decode(content: bytes) -> Known:
    """Read what ``encode`` wrote. Raises ValueError, KeyError, TypeError or AttributeError for anything else."""
    document = json.loads(content)
    if document["version"] != _VERSION:
        raise ValueError(f"version {document['version']!r}")
    return Known(
        kernel=_text(document["kernel"]),
        groups=frozenset(map(_group, document["groups"])),
        ungrouped=_group(document["ungrouped"]),
        without=_group(document["without"]),
        findings={_text(name): _known(one) for name, one in document["findings"].items()},
        # Earlier versions wrote neither.
        parameters=_words(document.get("parameters")),
        iommus=_iommus(document.get("iommus")),
    )


def _words(found: list[object] | None) -> frozenset[str] | None:
    return None if found is None else frozenset(map(_text, found))


def _iommus(found: list[tuple[object, object]] | None) -> frozenset[tuple[str, str]] | None:
    return None if found is None else frozenset((_text(name), _text(driver)) for name, driver in found)


def _known(found: dict[str, Any]) -> KnownFinding:
    return KnownFinding(
        _text(found["kind"]),
        _text(found["severity"]),
        tuple(sorted(_group(found["devices"]))),
        canonical(map(_group, found["groups"])),
        bool(found["accepted"]),
    )


def _group(names: list[str]) -> Group:
    return frozenset(Address.parse(_text(name)) for name in names)


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no text")
    return value
