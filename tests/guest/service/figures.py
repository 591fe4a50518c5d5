# SPDX-License-Identifier: GPL-2.0-or-later
"""Take figures out of what metrics, systemd and the kernel print."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from prometheus_client.parser import text_string_to_metric_families


def value(exposition: str, name: str, **labels: str) -> float | None:
    """The sum of the samples of a metric with these labels among theirs; None where there is none."""
    found = [
        sample.value
        for family in text_string_to_metric_families(exposition)
        for sample in family.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    ]
    return sum(found) if found else None


def findings(exposition: str) -> dict[str, int]:
    """How many findings there are, by kind; kinds without one are left out."""
    found: dict[str, int] = {}
    for family in text_string_to_metric_families(exposition):
        for sample in family.samples:
            if sample.name == "iommud_findings" and sample.value:
                kind = sample.labels["kind"]
                found[kind] = found.get(kind, 0) + int(sample.value)
    return found


def properties(shown: str) -> dict[str, str]:
    """What ``systemctl show`` prints."""
    return dict(line.split("=", 1) for line in shown.splitlines() if "=" in line)


def exposure(analysis: str) -> float:
    """The overall figure of ``systemd-analyze security``. Raises LookupError where it says none."""
    found = re.search(r"Overall exposure level for \S+: ([\d.]+)", analysis)
    if not found:
        raise LookupError(f"no exposure level in {analysis[-200:]!r}")
    return float(found[1])


def documented_exposures(document: str) -> dict[str, float]:
    """The figures that the table of rights in docs/install.md gives, by unit."""
    rows = re.findall(r"^\| `(iommud[\w-]*\.service)` \|.*\| ([\d.]+) \|$", document, re.MULTILINE)
    return {unit: float(figure) for unit, figure in rows}


def kibibytes(text: str, field: str) -> int:
    """A field of smaps_rollup or /proc/meminfo. Raises LookupError where it is not there."""
    found = re.search(rf"^{field}:\s+(\d+) kB$", text, re.MULTILINE)
    if not found:
        raise LookupError(f"no {field}")
    return int(found[1])


def in_milliseconds(seconds: Sequence[float]) -> str:
    """Some times in words: the median, and the range."""
    ordered = sorted(round(1000 * one) for one in seconds)
    return f"{ordered[len(ordered) // 2]} ms ({ordered[0]} to {ordered[-1]} ms in {len(ordered)})"


def differences(got: Mapping[str, str], wanted: Mapping[str, frozenset[str]]) -> list[str]:
    """What a probe could do that it must not, or could not do that it must: each in a few words."""
    return [
        f"{name}: {got.get(name, 'not tried')} instead of {' or '.join(sorted(allowed))}"
        for name, allowed in wanted.items()
        if got.get(name, "not tried") not in allowed
    ]
