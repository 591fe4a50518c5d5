# SPDX-License-Identifier: GPL-2.0-or-later
"""Reports to render: of captures, of machines built in code, and of findings that no machine here shows."""

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from iommud import check, read_sysfs
from iommud.address import Address
from iommud.causes.cause import Basis, Cause, CauseId
from iommud.names import Names
from iommud.pci import NOT_READ, AcsRegisters, ConfigFacts, Gap, PortType
from iommud.snapshot import IommuGroup, PciFunction, Snapshot
from iommud.verdict.findings import Finding, Kind, Reason, Severity
from iommud.verdict.report import Report

FIXTURES = Path(__file__).parent.parent / "fixtures"
FOUNDING = "6.1bug-amd64-virtio-at-0x3-seed-vga-builtin-q7.2"
ALIAS_SPLIT = "6.1fix-amd64-virtio-seed-builtin-q7.2"
NO_GROUPS = "5.10-amd64-virtio-seed-q7.2"
SWITCH = "6.12-amd64-intel-switch-q7.2"
SRIOV = "6.12-amd64-intel-sriov-igb-q10.0"
SMMU = "6.1-arm64-smmuv3-two-e1000-rp-q7.2"
HEALTHY = "6.12-amd64-intel-seed-q7.2"
WORKSTATION = "x670e-aorus-xtreme"

PCI_IDS = b"""\
# a few lines in the format of pci.ids
1b36  Red Hat, Inc.
\t000c  QEMU PCIe Root port
\t\t1af4 0000  a subsystem
\t000e  QEMU PCIe-to-PCI bridge
8086  Intel Corporation
\t100e  82540EM Gigabit Ethernet Controller
\t10c9  82576 Gigabit Network Connection
\t3420  7500/5520/5500/X58 I/O Hub PCI Express Root Port 0
C 02  Network controller
\t00  Ethernet controller
C 06  Bridge
\t00  Host bridge
\t01  ISA bridge
\t04  PCI bridge
\t\t00  Normal decode
"""
WANTED = {
    (0x1B36, 0x000C),
    (0x1B36, 0x000E),
    (0x8086, 0x100E),
    (0x8086, 0x10C9),
    (0x8086, 0x3420),
    (0x1002, 0x0001),
}
NAMES = Names.parse(PCI_IDS, WANTED)

ON = AcsRegisters(0x5F, 0x1D)


@cache
def report_of(name: str) -> Report:
    """The report on a capture, the same wherever the checkout lies."""
    path = next(FIXTURES.glob(f"*/{name}.tar.gz"))
    return replace(check(read_sysfs(str(path))), source=f"{name}.tar.gz")


def at(text: str) -> Address:
    return Address.parse(text)


def config(port_type: int | None, acs: AcsRegisters | None = None, *, multifunction: bool = False) -> ConfigFacts:
    return ConfigFacts(
        header_type=0,
        multifunction_bit=multifunction,
        is_pcie=port_type is not None,
        port_type=port_type,
        acs=acs,
        acs_known=True,
    )


def function(name: str, facts: ConfigFacts = NOT_READ, **more: Any) -> PciFunction:
    """A function on root bus 0000:00 unless told otherwise."""
    known: dict[str, Any] = {
        "address": at(name),
        "vendor": 0x1234,
        "device": 0x11E8,
        "class_code": 0x020000,
        "root": (0, 0),
        "config": facts,
    }
    return PciFunction(**{**known, **more})


def machine(*functions: PciFunction, groups: str = "", iommus: tuple[str, ...] = ("dmar0",), **more: Any) -> Snapshot:
    """A snapshot with the kernel's groups written as ``00:02.0 01:00.0 | 02:00.0``, numbered from 0."""
    parts = [part.split() for part in groups.split("|") if part.strip()]
    numbered = {at(one): number for number, part in enumerate(parts) for one in part}
    known: dict[str, Any] = {
        "source": "built",
        "functions": tuple(replace(one, group=numbered.get(one.address)) for one in functions),
        "groups": {
            number: IommuGroup(number=number, members=tuple(map(at, part))) for number, part in enumerate(parts)
        },
        "groups_listed": True,
        "iommus": dict.fromkeys(iommus, ()),
        "kernel_release": "6.12.95",
        "table_names": frozenset({"DMAR"}),
        "cmdline": "quiet",
    }
    return Snapshot(**{**known, **more})


def undecidable() -> Report:
    """Two functions of one device behind a port, whose registers nobody could read."""
    hidden = ConfigFacts(header_type=0, multifunction_bit=True, gap=Gap.RESTRICTED)
    return check(
        machine(
            function("00:01.0", config(PortType.ROOT_PORT, ON), secondary_bus=1, class_code=0x060400),
            function("01:00.0", hidden, upstream=at("00:01.0"), has_link=True),
            function("01:00.1", hidden, upstream=at("00:01.0"), has_link=True),
            groups="00:01.0 | 01:00.0 01:00.1",
        )
    )


def merged() -> Report:
    """Two endpoints on the root bus that the kernel has in one group."""
    return check(
        machine(
            function("00:03.0", config(PortType.ENDPOINT)),
            function("00:04.0", config(PortType.ENDPOINT)),
            groups="00:03.0 00:04.0",
        )
    )


def no_iommu(**more: Any) -> Report:
    return check(machine(function("00:03.0", config(PortType.ENDPOINT)), iommus=(), **more))


def foreign() -> Report:
    """A machine that is not judged: another algorithm grouped it."""
    functions = (function("00:03.0", config(PortType.ENDPOINT)), function("00:04.0", config(PortType.ENDPOINT)))
    return check(machine(*functions, groups="00:03.0", iommus=("s390-iommu.1",)))


HOSTILE = '\x1b[31mred\n<script>|`@user` #1 _x_ \\ "quoted" \u202eevil'


def hostile() -> Report:
    """Foreign strings wherever a machine can put some."""
    return check(
        machine(
            function("00:03.0", config(PortType.ENDPOINT), driver=HOSTILE),
            groups="00:03.0",
            iommus=("dmar0", HOSTILE),
            kernel_release=f"6.12{HOSTILE}",
            source=HOSTILE,
        )
    )


def with_findings(*findings: Finding) -> Report:
    """The healthy capture with findings that it does not have."""
    return replace(report_of(HEALTHY), findings=findings)


def unexplained() -> Report:
    """Two functions that share a requester ID, in groups of their own, and nothing that could have done it."""
    split = finding(Kind.ALIAS_SPLIT, Severity.CRITICAL, "00:1f.0", "00:02.0")
    return with_findings(split)


def cause(name: CauseId = CauseId.PROBE_ORDER, **more: Any) -> Cause:
    """A cause that no machine has."""
    known: dict[str, Any] = {
        "id": name,
        "summary": f"something happened {HOSTILE}",
        "evidence": tuple(f"line {number} {HOSTILE}" for number in range(1, 10)),
        "since": "Linux 5.14",
        "until": None,
        "remedy": f"do something {HOSTILE}",
        "basis": Basis.EVIDENCE,
    }
    return Cause(**{**known, **more})


def explained(*causes: Cause) -> Report:
    """The same two functions, and why."""
    report = unexplained()
    return replace(report, causes={report.findings[0].id: causes})


def finding(kind: Kind, severity: Severity, *devices: str, reasons: int = 1, **more: Any) -> Finding:
    texts = tuple(Reason(f"reason {number}", "some_function()") for number in range(1, reasons + 1))
    known: dict[str, Any] = {
        "kind": kind,
        "severity": severity,
        "devices": tuple(map(at, devices)),
        "reasons": texts,
    }
    return Finding(**{**known, **more})
