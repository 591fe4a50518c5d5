# SPDX-License-Identifier: GPL-2.0-or-later
"""A report as renderers look at it: everything that is known of one function, by its address."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Protocol

from iommud.address import Address
from iommud.errors import visible
from iommud.model.groups import Group
from iommud.snapshot import PciFunction
from iommud.verdict.findings import Finding, Kind, Severity
from iommud.verdict.reasons import describe_type
from iommud.verdict.report import Report
from iommud.verdict.scope import Excuse

_CLASSES = {
    0x00FF: "unclassified device",
    0x0101: "IDE interface",
    0x0104: "RAID controller",
    0x0106: "SATA controller",
    0x0107: "SAS controller",
    0x0108: "NVMe controller",
    0x0200: "Ethernet controller",
    0x0207: "InfiniBand controller",
    0x0280: "network controller",
    0x0300: "VGA controller",
    0x0302: "3D controller",
    0x0403: "audio device",
    0x0500: "RAM memory",
    0x0580: "memory controller",
    0x0600: "host bridge",
    0x0601: "ISA bridge",
    0x0604: "PCI bridge",
    0x0607: "CardBus bridge",
    0x0700: "serial controller",
    0x0780: "communication controller",
    0x0806: "IOMMU",
    0x0807: "root complex event collector",
    0x0880: "system peripheral",
    0x0C03: "USB controller",
    0x0C05: "SMBus",
    0x0C80: "serial bus controller",
    0x1180: "signal processing controller",
}
"""Words for common classes (PCI Code and ID Assignment r1.11, sec 1), for machines without pci.ids."""

_COMPANY_WORDS = (" Corporation", " Corp.", ", Inc.", " Inc.", " Inc", " Co., Ltd.", " Co Ltd", " Limited", " Ltd.")

PLACED = frozenset({Kind.ALIAS_SPLIT, Kind.ISOLATION_SPLIT, Kind.UNGROUPED, Kind.MERGED})
"""Findings which say that a function is in another group than the expected one."""


class Naming(Protocol):
    """Names of the identifiers that PCI functions carry; None for one that is not known."""

    def vendor(self, vendor: int) -> str | None:
        """The name of a vendor."""

    def device(self, vendor: int, device: int) -> str | None:
        """The name of a vendor's device."""

    def class_name(self, class_code: int) -> str | None:
        """The name of a 24-bit class code."""


@dataclass(frozen=True, slots=True)
class View:
    """One report, indexed by address."""

    report: Report
    names: Naming | None
    functions: Mapping[Address, PciFunction]
    findings: Mapping[Address, tuple[Finding, ...]]
    """What is wrong with each function, worst first."""
    expected: Mapping[Address, Group]
    """The expected group of each function that has or should have one; of the finest partition if undecided."""
    excuses: Mapping[Address, Excuse]
    _titles: dict[Address, str] = field(default_factory=dict, repr=False, compare=False)
    _types: dict[Address, str] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def of(cls, report: Report, names: Naming | None = None) -> View:
        """Index a report."""
        analysis = report.analysis
        functions = analysis.explainer.model.topology.functions if analysis is not None else {}
        groups = report.expected if report.expected is not None else report.finest or ()
        expected = {address: group for group in groups for address in group}
        return cls(report, names, functions, _by_device(report.findings), expected, dict(report.without))

    def number(self, address: Address) -> int | None:
        """The kernel's number of a function's group."""
        return self.report.actual.number_of.get(address)

    def numbers(self, addresses: Iterable[Address]) -> list[int]:
        """The kernel's numbers of the groups of some functions, ascending, each once."""
        return sorted({number for one in addresses if (number := self.number(one)) is not None})

    def group_label(self, address: Address) -> str:
        """``group 7`` or ``no group``."""
        number = self.number(address)
        return "no group" if number is None else f"group {number}"

    def severity(self, address: Address) -> Severity | None:
        """How bad the worst finding about a function is."""
        found = self.findings.get(address)
        return found[0].severity if found else None

    def type_words(self, address: Address) -> str:
        """What kind of function it is; empty if nothing is known."""
        found = self._types.get(address)
        if found is None:
            found = self._types[address] = self._described(address)
        return found

    def _described(self, address: Address) -> str:
        function = self.functions.get(address)
        analysis = self.report.analysis
        if function is None or analysis is None:
            return ""
        return describe_type(analysis.explainer.model.acs, function)

    def unasked(self, address: Address) -> bool:
        """Whether nobody needed to know if a function is isolated, so that its registers were not read."""
        function = self.functions.get(address)
        if function is None or self.report.analysis is None:
            return True
        acs = self.report.analysis.explainer.model.acs
        verdict = acs.verdict(function)
        return verdict.isolated is None and verdict.gap is None and address not in acs.unknown

    def name(self, address: Address, *, kind: bool = True) -> str:
        """What ``name_of`` gives for the function at an address; empty if there is none."""
        function = self.functions.get(address)
        return "" if function is None else name_of(function, self.names, kind=kind)

    def tail(self, address: Address, *, numbers: bool = True) -> str:
        """What ``tail_of`` gives for the function at an address; empty if there is none."""
        function = self.functions.get(address)
        return "" if function is None else tail_of(function, self.names, numbers=numbers)

    def title(self, address: Address) -> str:
        """Everything that names a function, but for its address."""
        found = self._titles.get(address)
        if found is None:
            found = self._titles[address] = (self.name(address) + self.tail(address)).lstrip()
        return found


def name_of(function: PciFunction, names: Naming | None, *, kind: bool = True) -> str:
    """Vendor and device in words as far as they are known.

    ``kind`` gives the class where the device has no name; without it such a function goes by its vendor.
    """
    if not function.present:
        return "known from the paths of other functions only"
    device = _device_name(function, names) or (class_words(function, names) if kind else "")
    return " ".join(word for word in (_vendor_name(function, names), device) if word)


def tail_of(function: PciFunction, names: Naming | None, *, numbers: bool = True) -> str:
    """Vendor and device as numbers if these are wanted or a name is missing, then the driver in brackets."""
    numbered = ids(function) if numbers or not _device_name(function, names) else ""
    driver = f"({visible(function.driver)})" if function.driver else ""
    return "".join(f" {part}" for part in (numbered, driver) if part)


def class_words(function: PciFunction, names: Naming | None) -> str:
    """The class of a function in words; empty if it is not known."""
    code = function.class_code
    if code is None:
        return ""
    found = names.class_name(code) if names is not None else None
    return visible(found) if found else _CLASSES.get(code >> 8, f"class {code >> 8:04x}")


def _vendor_name(function: PciFunction, names: Naming | None) -> str:
    if names is None or function.vendor is None:
        return ""
    return visible(short_vendor(names.vendor(function.vendor) or ""))


def _device_name(function: PciFunction, names: Naming | None) -> str:
    if names is None or function.vendor is None or function.device is None:
        return ""
    return visible(names.device(function.vendor, function.device) or "")


def ids(function: PciFunction) -> str:
    """Vendor and device numbers as ``[8086:100e]``; empty if they are not known."""
    if function.vendor is None or function.device is None:
        return ""
    return f"[{function.vendor:04x}:{function.device:04x}]"


@lru_cache(maxsize=256)  # a machine has few vendors and many functions
def short_vendor(name: str) -> str:
    """The name of a company without its legal form; its short form, if it ends in one in brackets."""
    head, bracket, short = name.partition(" [")
    if bracket and short.endswith("]") and head:
        return short[:-1]
    for word in _COMPANY_WORDS:
        name = name.removesuffix(word)
    return name


def wanted_names(reports: Iterable[Report]) -> set[tuple[int, int]]:
    """Vendor and device numbers of every function of some reports: what a renderer may want the names of."""
    return {
        (one.vendor, one.device)
        for report in reports
        if report.analysis is not None
        for one in report.analysis.snapshot.functions
        if one.vendor is not None and one.device is not None
    }


def _by_device(findings: tuple[Finding, ...]) -> dict[Address, tuple[Finding, ...]]:
    found: dict[Address, list[Finding]] = {}
    for finding in findings:
        for address in finding.devices:
            found.setdefault(address, []).append(finding)
    return {address: tuple(sorted(these, key=lambda one: one.severity.rank)) for address, these in found.items()}
