# SPDX-License-Identifier: GPL-2.0-or-later
"""What is wrong with the groups of a machine, as data: a closed vocabulary of kinds, each with its reasons."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from iommud.address import Address
from iommud.model.groups import Group


class Kind(enum.StrEnum):
    """What a finding means. The page of each is ``docs/findings/<kind>.md``."""

    ALIAS_SPLIT = "alias-split"
    """Functions of one expected group sit in different groups, and one can use the other's mappings."""
    ISOLATION_SPLIT = "isolation-split"
    """Functions of one expected group sit in different groups, because no ACS isolates them."""
    NO_GROUPS = "no-groups"
    """An IOMMU is in use or wanted, yet no function has a group."""
    UNGROUPED = "ungrouped"
    """An IOMMU serves the function, yet it has no group."""
    MERGED = "merged"
    """The kernel groups more than the model requires: safe, inconvenient."""
    UNISOLATED = "unisolated"
    """The kernel's rule keeps functions apart between which requests can pass."""
    INCONSISTENT = "inconsistent"
    """Sysfs contradicts itself."""
    UNDECIDABLE = "undecidable"
    """The snapshot lacks a fact that the rule needs."""
    UNEXPECTED = "unexpected"
    """The kernel's groups are not those that ``check --expect`` names."""


class Severity(enum.StrEnum):
    """How bad a finding is, worst first."""

    CRITICAL = "critical"
    WARNING = "warning"
    INFO = "info"

    @property
    def rank(self) -> int:
        """0 for the worst."""
        return list(Severity).index(self)


@dataclass(frozen=True, slots=True)
class Reason:
    """One sentence of evidence, and where the rule behind it comes from."""

    text: str
    reference: str | None = None
    """Kernel function or clause of a specification."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One defect. ``groups`` are the kernel's groups involved, ``expected`` the expected ones, by members."""

    kind: Kind
    severity: Severity
    devices: tuple[Address, ...]
    groups: tuple[Group, ...] = ()
    expected: tuple[Group, ...] = ()
    reasons: tuple[Reason, ...] = ()
    subject: str = ""
    """Tells findings of one kind about the same devices apart."""

    @property
    def id(self) -> str:
        """Stable from run to run and boot to boot: kind, lowest device, and a digest of what it is about.

        Group numbers, the order of devices and the wording play no part.
        """
        about = " ".join((self.subject, *(str(one) for one in sorted(self.devices))))
        lead = str(min(self.devices)) if self.devices else "machine"
        return f"{self.kind}:{lead}:{_digest(about):08x}"

    @property
    def calls_for_cause(self) -> bool:
        """Whether it says that the kernel did what the topology does not demand; other findings have no cause."""
        if self.kind is Kind.UNISOLATED:
            return self.subject == "override"
        if self.kind is Kind.UNDECIDABLE:
            return not self.devices
        return self.kind not in (Kind.INCONSISTENT, Kind.UNEXPECTED)


def _digest(text: str) -> int:
    """FNV-1a, 32 bits: short, stable and without a cryptographic library to load."""
    value = 0x811C9DC5
    for byte in text.encode():
        value = (value ^ byte) * 0x01000193 & 0xFFFFFFFF
    return value


def ordered(findings: list[Finding]) -> tuple[Finding, ...]:
    """Findings in the order in which a person wants them: worst first, then by kind and device."""
    kinds = list(Kind)
    return tuple(sorted(findings, key=lambda one: (one.severity.rank, kinds.index(one.kind), one.devices, one.subject)))
