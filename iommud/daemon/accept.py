# SPDX-License-Identifier: GPL-2.0-or-later
"""Findings that somebody has looked at and accepted, written in a TOML file: each with a reason and a last day.

An accepted finding is still shown; it no longer counts and no longer alerts. It comes back on the day after its last
one, when it gets worse than it was accepted for, and when it changes what it is about: an id holds a digest of the
functions concerned, and an entry by kind and addresses covers no finding about a function that it does not name.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime
from pathlib import Path
from typing import Any

from iommud.address import Address
from iommud.errors import IommudError, visible
from iommud.verdict.findings import Finding, Kind, Severity
from iommud.verdict.report import Acceptance, Report

_LARGEST = 1 << 20
_LONGEST_REASON = 500
_KEYS = frozenset({"id", "kind", "addresses", "reason", "expires", "severity"})


class AcceptError(IommudError):
    """A file of accepted findings that cannot be used; the message is one line that names the file and the entry."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AcceptRule:
    """One entry of the file: a finding by its id, or findings of one kind about nothing but some functions."""

    reason: str
    expires: date
    """The last day, in UTC, on which it holds."""
    id: str | None = None
    kind: Kind | None = None
    addresses: frozenset[Address] = frozenset()
    severity: Severity = Severity.CRITICAL
    """The worst that is accepted."""

    @property
    def about(self) -> str:
        """What it accepts, in one line: an id, or a kind with its functions."""
        if self.id is not None:
            return self.id
        return " ".join((str(self.kind), *map(str, sorted(self.addresses))))

    def covers(self, finding: Finding, today: date) -> bool:
        """Whether the finding is accepted by this entry on that day."""
        if today > self.expires or finding.severity.rank < self.severity.rank:
            return False
        if self.id is not None:
            return finding.id == self.id
        return finding.kind is self.kind and bool(finding.devices) and self.addresses.issuperset(finding.devices)


def accept(report: Report, rules: Sequence[AcceptRule], today: date) -> Report:
    """The report with the findings that are accepted on a day taken aside; status and exit status follow."""
    remaining: list[Finding] = []
    accepted: list[Acceptance] = []
    for finding in report.findings:
        rule = next((one for one in rules if one.covers(finding, today)), None)
        if rule is None:
            remaining.append(finding)
        else:
            accepted.append(Acceptance(finding, rule.reason, rule.expires))
    return replace(report, findings=tuple(remaining), accepted=tuple(accepted)) if accepted else report


def load_rules(path: Path) -> tuple[AcceptRule, ...]:
    """Read a file of accepted findings. Raises AcceptError if it cannot be read or an entry makes no sense."""
    name = visible(str(path))
    try:
        with path.open("rb") as file:
            content = file.read(_LARGEST + 1)
    except (OSError, ValueError) as error:
        raise AcceptError(f"{name}: {getattr(error, 'strerror', None) or error}") from error
    if len(content) > _LARGEST:
        raise AcceptError(f"{name}: larger than {_LARGEST} bytes")
    try:
        return parse_rules(content.decode())
    except UnicodeDecodeError as error:
        raise AcceptError(f"{name}: not UTF-8 at byte {error.start}") from error
    except AcceptError as error:
        raise AcceptError(f"{name}: {error}") from error


def parse_rules(text: str) -> tuple[AcceptRule, ...]:
    """Read the text of such a file. Raises AcceptError."""
    import tomllib  # noqa: PLC0415 - most machines have no such file

    try:
        document = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise AcceptError(f"not TOML: {visible(str(error))}") from error
    unknown = sorted(document.keys() - {"accept"})
    if unknown:
        raise AcceptError(f"unknown key {visible(unknown[0])!r}: entries are written as [[accept]]")
    entries = document.get("accept", [])
    if not isinstance(entries, list) or not all(isinstance(one, dict) for one in entries):
        raise AcceptError("entries are written as [[accept]]")
    return tuple(_rule(f"entry {number}", entry) for number, entry in enumerate(entries, 1))


def _rule(where: str, entry: Mapping[str, Any]) -> AcceptRule:
    unknown = sorted(entry.keys() - _KEYS)
    if unknown:
        raise AcceptError(f"{where}: unknown key {visible(unknown[0])!r}; known are {', '.join(sorted(_KEYS))}")
    by_id, by_kind = "id" in entry, "kind" in entry or "addresses" in entry
    if by_id == by_kind:
        raise AcceptError(f"{where}: either an id, or a kind with addresses")
    what = {"id": _text(where, entry, "id")} if by_id else _kind_and_addresses(where, entry)
    severity = _choice(where, "severity", entry.get("severity", "critical"), Severity)
    reason = _text(where, entry, "reason")[:_LONGEST_REASON]
    return AcceptRule(reason=reason, expires=_day(where, entry), severity=Severity(severity), **what)


def _kind_and_addresses(where: str, entry: Mapping[str, Any]) -> dict[str, Any]:
    addresses = entry.get("addresses")
    if not isinstance(addresses, list) or not addresses:
        raise AcceptError(f"{where}: addresses must list the functions, as ['0000:02:01.0']")
    return {
        "kind": Kind(_choice(where, "kind", entry.get("kind"), Kind)),
        "addresses": frozenset(_address(where, one) for one in addresses),
    }


def _address(where: str, text: object) -> Address:
    try:
        if not isinstance(text, str):
            raise ValueError("an address is a string such as '0000:02:01.0'")  # noqa: TRY004, TRY301 - see below
        return Address.parse(text)
    except ValueError as error:
        raise AcceptError(f"{where}: {visible(str(error))}") from error


def _choice(where: str, name: str, value: object, choices: Iterable[str]) -> str:
    if not isinstance(value, str) or value not in set(choices):
        raise AcceptError(f"{where}: {name} is none of {', '.join(choices)}")
    return value


def _text(where: str, entry: Mapping[str, Any], name: str) -> str:
    value = entry.get(name)
    if not isinstance(value, str) or not value.strip():
        raise AcceptError(f"{where}: {name} is missing or empty")
    return visible(" ".join(value.split()))


def _day(where: str, entry: Mapping[str, Any]) -> date:
    value = entry.get("expires")
    if isinstance(value, datetime) or not isinstance(value, date):
        raise AcceptError(f"{where}: expires must be a date without quotes, as expires = 2027-01-31")
    return value
