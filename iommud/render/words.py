# SPDX-License-Identifier: GPL-2.0-or-later
"""The sentences that text and Markdown share: the summary, one headline per finding, the hints."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import TypeVar

from iommud.address import Address
from iommud.causes.cause import Cause, CauseId
from iommud.errors import visible
from iommud.kernel import Kernel
from iommud.model.groups import Group
from iommud.render.view import View
from iommud.verdict.findings import Finding, Kind, Severity
from iommud.verdict.report import Report, Status

LISTED = 4
"""Addresses that a sentence names before it counts the rest."""
_LONGEST_RELEASE = 60

_STATUS_WORDS = {
    Status.UNDECIDABLE: "The expected groups cannot be decided",
    Status.NO_IOMMU: "No IOMMU is in use",
}

_Item = TypeVar("_Item")


NOT_EXPLAINED = "no cause that iommud knows gives exactly these groups"
"""What is said of a finding that has no cause though it calls for one."""


def cause_notes(cause: Cause) -> Iterator[str]:
    """Which releases a cause is bound to, what naming it rests on, and where more is written."""
    basis, *spans = _cause_bounds(cause)
    yield ", ".join((f"cause {cause.id} ({basis})", *spans))
    yield f"see {cause_page(cause.id)}"


def cause_bounds(cause: Cause) -> str:
    """What naming a cause rests on and which releases it is bound to: ``basis: replay, since Linux 5.14``."""
    return ", ".join(_cause_bounds(cause))


def _cause_bounds(cause: Cause) -> Iterator[str]:
    yield f"basis: {cause.basis}"
    spans = (("since", cause.since), ("until", cause.until))
    yield from (f"{word} {release}" for word, release in spans if release is not None)


def cause_page(name: CauseId) -> str:
    """Where a cause is explained."""
    return f"docs/causes/{name}.md"


def page(kind: Kind) -> str:
    """Where a kind of finding is explained."""
    return f"docs/findings/{kind}.md"


def plural(number: int, noun: str) -> str:
    """``1 function``, ``2 functions``."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def listing(items: Sequence[_Item], limit: int = LISTED, *, word: Callable[[_Item], str] = str) -> str:
    """``a``, ``a and b``, ``a, b and c``, ``a, b and 7 more``."""
    more = len(items) - limit
    words = [word(item) for item in (items[:limit] if more > 1 else items)]
    if more > 1:
        words.append(f"{more} more")
    if len(words) < 2:
        return "".join(words)
    return f"{', '.join(words[:-1])} and {words[-1]}"


def kernel_words(kernel: Kernel) -> str:
    """The kernel as ``uname -r`` names it."""
    if not kernel.readable:
        return "kernel unknown"
    return f"kernel {visible(kernel.text)[:_LONGEST_RELEASE]}"


def iommu_words(report: Report) -> str:
    """The IOMMUs by driver: ``intel IOMMU``, ``2 amd IOMMUs and virtio IOMMU``; empty if none is listed."""
    counts = Counter(driver for _, driver in report.iommus)
    named = [f"{driver} IOMMU" if number == 1 else f"{number} {driver} IOMMUs" for driver, number in counts.items()]
    return listing(named)


def counts_words(report: Report) -> str:
    """The findings by severity, ``2 critical, 1 info``; empty without any."""
    counts = Counter(finding.severity for finding in report.findings)
    return ", ".join(f"{counts[severity]} {severity}" for severity in Severity if counts[severity])


def machine_words(report: Report) -> str:
    """What was looked at: functions, groups, kernel, IOMMUs."""
    functions = plural(report.functions, "function")
    groups = len(report.actual.members)
    where = f" in {plural(groups, 'group')}" if groups else ""
    parts = (functions + where, kernel_words(report.kernel), iommu_words(report))
    return ", ".join(part for part in parts if part)


def summary(report: Report) -> str:
    """The one line, but for the status word that begins it."""
    counts = counts_words(report)
    if report.status is Status.NO_IOMMU:
        what = "no IOMMU is in use" + (f", {counts}" if counts else "")
    else:
        what = counts or "nothing wrong"
    return f"{what}; {machine_words(report)}"


def status_words(report: Report) -> str:
    """The verdict as a headline."""
    if report.status in _STATUS_WORDS:
        return _STATUS_WORDS[report.status]
    count = len(report.failing())
    if count:
        return f"{plural(count, 'finding')} to look at"
    if report.accepted:
        return "Nothing is wrong beyond what is accepted"
    return "Nothing is wrong" if report.findings else "All groups are as expected"


def no_iommu_lines(report: Report) -> Iterator[str]:
    """Why no IOMMU is in use, and what to do where the reason itself does not tell."""
    yield f"{report.usage_reason}."
    snapshot = report.analysis.snapshot if report.analysis is not None else None
    if snapshot is not None and not {"DMAR", "IVRS"} & (set(snapshot.tables) | (snapshot.table_names or frozenset())):
        yield (
            "If the machine has one, switch it on in the firmware's setup (VT-d, AMD-Vi, SMMU); "
            "if it is a guest, give it one."
        )


def kernel_note(report: Report) -> str | None:
    """The note that the kernel could not be read, which is always said; None if it could."""
    return report.notes[0] if not report.kernel.readable and report.notes else None


def firmware_notes(report: Report) -> tuple[str, ...]:
    """What is broken in the firmware's tables."""
    return report.notes if report.kernel.readable else report.notes[1:]


def headline(view: View, finding: Finding) -> str:
    """One sentence about the devices of a finding, with the group numbers that the kernel gave them."""
    return _HEADLINES[finding.kind](view, finding)


def _split(view: View, finding: Finding, why: str) -> str:
    places = _places(view, finding.devices)
    return f"{places} belong in one group: {why}."


def _alias_split(view: View, finding: Finding) -> str:
    return _split(view, finding, "one can use the DMA mappings of another")


def _isolation_split(view: View, finding: Finding) -> str:
    return _split(view, finding, "nothing isolates them from each other")


def _no_groups(_view: View, finding: Finding) -> str:
    number = plural(len(finding.devices), "function")
    return f"No PCI function has a group; {number} should have one."


def _ungrouped(view: View, finding: Finding) -> str:
    partners = [one for group in finding.expected for one in _in_order(group) if one not in finding.devices]
    has = f"{listing(finding.devices)} has no group"
    if not partners:
        return f"{has}; it should have one of its own."
    return f"{has}; it belongs with {_places(view, partners)}."


def _merged(view: View, finding: Finding) -> str:
    numbers = listing(view.numbers(finding.devices))
    functions, parts = plural(len(finding.devices), "function"), plural(len(finding.expected), "group")
    return f"Group {numbers} holds {functions} that could be in {parts}: safe, but inconvenient."


def _unisolated(view: View, finding: Finding) -> str:
    numbers = view.numbers(finding.devices)
    where = f"groups {listing(numbers, 8)}" if len(numbers) > 1 else "different groups"
    return (
        f"{listing(finding.devices)} are in {where}, as the kernel's rule has it, yet requests can pass between them."
    )


def _inconsistent(_view: View, finding: Finding) -> str:
    about = f" about {listing(finding.devices)}" if finding.devices else ""
    return f"sysfs contradicts itself{about}."


def _undecidable(_view: View, finding: Finding) -> str:
    if not finding.devices:
        return "The groups of this machine could not be judged."
    number = plural(len(finding.devices), "function")
    return f"The expected groups hinge on facts about {number} that could not be read."


def _unexpected(view: View, finding: Finding) -> str:
    if not finding.devices:
        return "No function of a wanted group is on this machine."
    verb = "is" if len(finding.devices) == 1 else "are"
    return f"{_places(view, finding.devices)} {verb} not grouped as wanted."


_HEADLINES: dict[Kind, Callable[[View, Finding], str]] = {
    Kind.ALIAS_SPLIT: _alias_split,
    Kind.ISOLATION_SPLIT: _isolation_split,
    Kind.NO_GROUPS: _no_groups,
    Kind.UNGROUPED: _ungrouped,
    Kind.MERGED: _merged,
    Kind.UNISOLATED: _unisolated,
    Kind.INCONSISTENT: _inconsistent,
    Kind.UNDECIDABLE: _undecidable,
    Kind.UNEXPECTED: _unexpected,
}


def _places(view: View, addresses: Sequence[Address]) -> str:
    return listing(addresses, word=lambda one: located(view, one))


# Each member of a large class has a finding of its own, and each names the class.
@lru_cache(maxsize=16)
def _in_order(group: Group) -> tuple[Address, ...]:
    return tuple(sorted(group))


def located(view: View, address: Address) -> str:
    """A function with its group: ``0000:02:00.0 (group 1)``."""
    return f"{address} ({view.group_label(address)})"


def belongs(view: View, address: Address) -> str:
    """Where a function should be: ``alone``, or ``with`` the others of its expected group."""
    partners = sorted(view.expected.get(address, frozenset()) - {address})
    return f"with {listing(partners)}" if partners else "alone"
