# SPDX-License-Identifier: GPL-2.0-or-later
"""Known defects of kernels and hypervisors that bear on groups, as data; which releases have them."""

from __future__ import annotations

import enum
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from iommud.causes.cause import CauseId
from iommud.data import data_names, data_text

_RELEASE = re.compile(r"(\d+)\.(\d+)(?:\.(\d+|x))?")
_DIRECTORY = "defects"


class Component(enum.StrEnum):
    """Whose defect it is."""

    KERNEL = "kernel"
    QEMU = "qemu"
    DOWNSTREAM = "downstream"
    """A distribution's own kernel: no mainline release has it."""


class Certainty(enum.StrEnum):
    """How well it is known."""

    SOURCE = "source"
    """Read in the sources of releases with and without it, or seen on a machine."""
    LIST = "list"
    """Told by mailing lists, changelogs and bug reports."""
    INFERRED = "inferred"
    """Concluded from the code, not seen."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A release that brought or ended a defect."""

    version: tuple[int, int] | None
    """None: not looked up."""
    stable: int | None = None
    """The release within its stable series; None: the mainline release itself, or see ``somewhere``."""
    somewhere: bool = False
    """Some release of the stable series, of which the number is not known."""
    commit: str | None = None
    note: str | None = None

    @property
    def in_series(self) -> bool:
        """Whether it happened within a stable series."""
        return self.somewhere or self.stable is not None

    def __str__(self) -> str:
        if self.version is None:
            return f"commit {self.commit}"
        number = ".x" if self.somewhere else "" if self.stable is None else f".{self.stable}"
        return f"{self.version[0]}.{self.version[1]}{number}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Signs:
    """What a machine shows that suffers from a defect: all that is given here must be there."""

    log: str | None = None
    """Regular expression that a line of the kernel's log meets, or of what the hypervisor said."""
    cmdline: str | None = None
    """Regular expression that the kernel's command line meets somewhere."""
    devices: tuple[str, ...] = ()
    """Vendor and device ids like ``1a03:1150``, of which one is there."""
    firmware: str | None = None
    """What maps requester IDs to IOMMUs, as ``Firmware.id_mapping`` names it."""
    drivers: tuple[str, ...] = ()
    """IOMMU drivers of which one is at work, as ``iommud.verdict.survey.Driver`` names them."""
    finding: str | None = None
    """Kind of a finding, as ``iommud.verdict.findings.Kind`` names it."""
    open_by_rule: str | None = None
    """A rule of the ACS table by which a function is not isolated, as ``iommud.model.quirks.AcsRule`` names it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Defect:
    """One known defect."""

    id: str
    title: str
    component: Component
    certainty: Certainty
    introduced: tuple[Change, ...]
    """Empty: as old as the oldest release looked at."""
    fixed: tuple[Change, ...]
    """Empty: not fixed in any release known."""
    effect: str
    recognise: str
    do: str
    references: tuple[str, ...]
    causes: tuple[CauseId, ...]
    """The causes by which a machine that suffers from it is recognised; empty: no group shows it."""
    signs: Signs = Signs()
    """What else it is recognised by: one of the causes, and all of these."""

    def affects(self, version: tuple[int, int], stable: int | None) -> bool | None:
        """Whether a release has the defect; None if the facts do not tell.

        ``stable`` None: the number within the stable series is not known.
        """
        if self.component is Component.DOWNSTREAM:
            return False
        begun = _reached(self.introduced, version, stable) if self.introduced else True
        ended = _reached(self.fixed, version, stable)
        if begun is False or ended is True:
            return False
        return None if begun is None or ended is None else True


def _reached(changes: Iterable[Change], version: tuple[int, int], stable: int | None) -> bool | None:
    """Whether a release comes after one of the changes in its own line: its stable series, and mainline before it."""
    answers = {_after(change, version, stable) for change in changes}
    if True in answers:
        return True
    return None if None in answers else False


def _after(change: Change, version: tuple[int, int], stable: int | None) -> bool | None:
    if change.version is None:
        return None
    if not change.in_series:
        return version >= change.version
    if version != change.version:
        return False
    if change.somewhere or stable is None:
        return None
    return change.stable is not None and stable >= change.stable


@cache
def defects() -> tuple[Defect, ...]:
    """All of them, by id. Raises OSError if the installation lacks them."""
    return tuple(defect(name.removesuffix(".toml")) for name in data_names(_DIRECTORY))


@cache
def defect(name: str) -> Defect:
    """The defect with this id. Raises OSError if there is none, and ValueError if its file is malformed."""
    return read_defect(tomllib.loads(data_text(f"{_DIRECTORY}/{name}.toml")))


def read_defect(fields: Mapping[str, Any]) -> Defect:
    """A defect from the keys of its file. Raises ValueError for unknown, missing or malformed ones."""
    found = dict(fields)
    try:
        read = Defect(
            introduced=_changes(found.pop("introduced", ())),
            fixed=_changes(found.pop("fixed", ())),
            component=Component(found.pop("component")),
            certainty=Certainty(found.pop("certainty")),
            causes=tuple(CauseId(one) for one in found.pop("causes")),
            references=tuple(found.pop("references")),
            signs=_signs(found.pop("signs", {})),
            **found,
        )
    except (KeyError, TypeError, re.error) as error:
        raise ValueError(f"defect {fields.get('id', 'without id')}: {error}") from error
    return read


def _signs(found: Mapping[str, Any]) -> Signs:
    for name in ("log", "cmdline"):
        re.compile(found.get(name, ""))
    plain: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in found.items()}
    return Signs(**plain)


def _changes(rows: Iterable[Mapping[str, str]]) -> tuple[Change, ...]:
    return tuple(_change(row) for row in rows)


def _change(row: Mapping[str, str]) -> Change:
    unknown = row.keys() - {"release", "commit", "note"}
    if unknown or not row.keys() & {"release", "commit"}:
        raise ValueError(f"a change has release, commit and note, not {', '.join(sorted(row)) or 'nothing'}")
    commit, note = row.get("commit"), row.get("note")
    if "release" not in row:
        return Change(version=None, commit=commit, note=note)
    match = _RELEASE.fullmatch(row["release"])
    if match is None:
        raise ValueError(f"{row['release']!r} is no release like 6.12, 6.12.75 or 6.12.x")
    return Change(
        version=(int(match[1]), int(match[2])),
        stable=None if match[3] in (None, "x") else int(match[3]),
        somewhere=match[3] == "x",
        commit=commit,
        note=note,
    )
