# SPDX-License-Identifier: GPL-2.0-or-later
"""The mail thread in which iommud began, picture by picture: what it said, and the guest that shows it.

The thread is "[RFC] virtio-iommu: Take into account possible aliasing in virtio_iommu_mr()" on qemu-devel, January
2023. docs/founding-thread.md tells it on captures of these guests; ``python -m tests.guest.run founding`` boots them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from iommud.api import check_sysfs
from iommud.render.style import Style
from iommud.render.text import render_text
from iommud.render.tree import render_tree
from iommud.verdict.report import Report
from tests.guest.judge import Result
from tests.guest.machine import ARM64, Cell, Firmware, Iommu
from tests.guest.plan import END

DT, ACPI = Firmware.DEVICE_TREE, Firmware.ACPI
VIRTIO, SMMUV3 = Iommu.VIRTIO, Iommu.SMMUV3
FIXTURES = Path(__file__).parent.parent / "fixtures"


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """One picture of the thread, or the same machine with a kernel of today."""

    title: str
    said: str
    """What the thread printed or said, in its own words."""
    cell: Cell
    capture: str
    """A capture below the fixtures, without ``.tar.gz``: of this guest, or of one with the same groups and causes."""


def _x86(kernel: str, topology: str, iommu: Iommu = VIRTIO, *words: str, qemu: str = "7.2") -> Cell:
    # The thread's machine has a VGA at 00:01.0, which moves the virtio-iommu.
    slot = 3 if iommu is VIRTIO and topology == "founding-vga" else 1
    return Cell(kernel=kernel, topology=topology, iommu=iommu, iommu_slot=slot, qemu=qemu, parameters=words)


def _arm64(kernel: str, topology: str, iommu: Iommu, firmware: Firmware, qemu: str = "7.2") -> Cell:
    return Cell(kernel=kernel, topology=topology, iommu=iommu, architecture=ARM64, firmware=firmware, qemu=qemu)


WRONG = """\
wrong guest topology:
/sys/kernel/iommu_groups/2/devices/0000:00:02.0 (pcie root port)
/sys/kernel/iommu_groups/1/devices/0000:02:00.0 (E1000)
no group for 0000:01:00:0 (the pcie-to-pci bridge)"""
WITH_INTEL = """\
with intel iommu we get the following topology:
/sys/kernel/iommu_groups/2/devices/0000:02:00.0
/sys/kernel/iommu_groups/2/devices/0000:01:00.0
/sys/kernel/iommu_groups/2/devices/0000:00:02.0"""
RFC = """\
This results into the probe command failing and the devices beeing not
attached. As a result they are not associated to any iommu group."""
VIRTIO_DEVICES = """\
This trick allows to have the correct iommu group topology on guest
with virtio-pci devices."""
ON_AARCH64 = "on aarch64 we get the same using those devices:"
VIOT = "(1) The pcie-to-pci bridge doesn't get an IOMMU group. That's a bug in the\nVIOT driver"
PROBE_ORDER = """\
(2) e1000 gets a different group than the pcie-to-pci bridge, and than
other devices on that bus. This wrongly enables assigning aliased devices
to different VMs.
It's not specific to virtio-iommu, I can get the same result with SMMUv3,
both DT and ACPI"""
NO_PORT_DRIVER = """\
even if you probe in the right order, you could build a kernel without the PCIe
port driver and the aliased endpoints will still be put in different
groups."""
STREAM = """\
(3) with the SMMU, additional devices on the PCI bus can't get an IOMMU
group:
[    2.019587] e1000 0000:02:01.0: Adding to iommu group 0
[    2.389750] e1000 0000:02:02.0: stream 512 already in tree"""
ACS = """\
(4) When everything else works, on Arm ACPI the PCIe root port is put in a
separate group due to ACS being enabled, but on other platforms (including
Arm DT), the root port is in the same group."""
NO_BRIDGE_DRIVERS = ("pcie_ports=compat", "initcall_blacklist=shpcd_init")
TODAY = "(nothing: this is Linux 7.3 on QEMU 11)"

PICTURES: tuple[Picture, ...] = (
    Picture(
        title="The wrong topology: x86, virtio-iommu",
        said=WRONG,
        cell=_x86("6.1bug", "founding-vga"),
        capture="captures/6.1bug-amd64-virtio-at-0x3-seed-vga-builtin-q7.2",
    ),
    Picture(
        title="The same machine with the Intel IOMMU",
        said=WITH_INTEL,
        cell=_x86("6.1", "founding-vga", Iommu.INTEL),
        capture="founding/6.1-amd64-intel-founding-vga-q7.2",
    ),
    Picture(
        title="Problem 1 mended, problem 2 not: x86, virtio-iommu",
        said=VIOT,
        cell=_x86("6.1builtin", "founding-vga"),
        capture="captures/6.1fix-amd64-virtio-seed-builtin-q7.2",
    ),
    Picture(
        title="The wrong topology today: x86, virtio-iommu",
        said=TODAY,
        cell=_x86("7.3", "founding-vga", qemu="11"),
        capture="founding/7.3-amd64-virtio-founding-vga-q11",
    ),
    Picture(
        title="virtio-net behind the bridge, device 0",
        said=VIRTIO_DEVICES,
        cell=_x86("6.1bug", "virtio-net-behind-bridge"),
        capture="founding/6.1bug-amd64-virtio-virtio-net-behind-bridge-q7.2",
    ),
    Picture(
        title="virtio-net behind the bridge, device 0, today",
        said=TODAY,
        cell=_x86("7.3", "virtio-net-behind-bridge", qemu="11"),
        capture="captures/7.3-amd64-virtio-seed-q7.2",
    ),
    Picture(
        title="virtio-net behind the bridge, device 1: what the patch was for",
        said=RFC,
        cell=_x86("6.1bug", "virtio-net-behind-bridge-slot-1"),
        capture="founding/6.1bug-amd64-virtio-virtio-net-behind-bridge-slot-1-q7.2",
    ),
    Picture(
        title="virtio-net behind the bridge, device 1, today",
        said=TODAY,
        cell=_x86("7.3", "virtio-net-behind-bridge-slot-1", qemu="11"),
        capture="founding/7.3-amd64-virtio-virtio-net-behind-bridge-slot-1-q11",
    ),
    Picture(
        title="aarch64, virtio-iommu, ACPI",
        said=ON_AARCH64,
        cell=_arm64("6.1bug", "founding-acs-slot-1", VIRTIO, ACPI),
        capture="founding/6.1bug-arm64-virtio-founding-acs-slot-1-q7.2-acpi",
    ),
    Picture(
        title="aarch64, virtio-iommu, device tree",
        said=ON_AARCH64,
        cell=_arm64("6.1bug", "founding-acs-slot-1", VIRTIO, DT),
        capture="founding/6.1bug-arm64-virtio-founding-acs-slot-1-q7.2-dt",
    ),
    Picture(
        title="aarch64, virtio-iommu, ACPI, today",
        said=TODAY,
        cell=_arm64("7.3", "founding-acs-slot-1", VIRTIO, ACPI, "11"),
        capture="captures/7.3-arm64-virtio-seed-rp-acpi-q7.2",
    ),
    Picture(
        title="aarch64, virtio-iommu, device tree, today",
        said=TODAY,
        cell=_arm64("7.3", "founding-acs-slot-1", VIRTIO, DT, "11"),
        capture="captures/7.3-arm64-virtio-seed-q7.2",
    ),
    Picture(
        title="Problem 2 with SMMUv3, device tree",
        said=PROBE_ORDER,
        cell=_arm64("6.1builtin", "two-nics-1-2", SMMUV3, DT),
        capture="founding/6.1builtin-arm64-smmuv3-two-nics-1-2-q7.2-dt",
    ),
    Picture(
        title="Problem 2 with SMMUv3, ACPI",
        said=PROBE_ORDER,
        cell=_arm64("6.1builtin", "two-nics-1-2", SMMUV3, ACPI),
        capture="founding/6.1builtin-arm64-smmuv3-two-nics-1-2-q7.2-acpi",
    ),
    Picture(
        title="No PCIe port driver",
        said=NO_PORT_DRIVER,
        cell=_x86("6.12", "founding", VIRTIO, *NO_BRIDGE_DRIVERS),
        capture="founding/6.12-amd64-virtio-founding-without-bridge-drivers-q7.2",
    ),
    Picture(
        title="Problem 3: two NICs with SMMUv3, ACPI",
        said=STREAM,
        cell=_arm64("6.12", "two-nics-1-2", SMMUV3, ACPI),
        capture="captures/6.12-arm64-smmuv3-two-e1000-rp-acpi-q7.2",
    ),
    Picture(
        title="Problems 2 and 3 today, device tree",
        said=TODAY,
        cell=_arm64("7.3", "two-nics-1-2", SMMUV3, DT, "11"),
        capture="captures/7.3-arm64-smmuv3-two-e1000-rp-q7.2",
    ),
    Picture(
        title="Problems 2 and 3 today, ACPI",
        said=TODAY,
        cell=_arm64("7.3", "two-nics-1-2", SMMUV3, ACPI, "11"),
        capture="captures/7.3-arm64-smmuv3-two-e1000-rp-q7.2",
    ),
    Picture(
        title="Problem 4: one NIC with SMMUv3, ACPI",
        said=ACS,
        cell=_arm64("6.12", "founding-acs-slot-1", SMMUV3, ACPI),
        capture="founding/6.12-arm64-smmuv3-founding-acs-slot-1-q7.2-acpi",
    ),
    Picture(
        title="Problem 4: one NIC with SMMUv3, device tree",
        said=ACS,
        cell=_arm64("6.12", "founding-acs-slot-1", SMMUV3, DT),
        capture="captures/6.12-arm64-smmuv3-seed-rp-q7.2",
    ),
    Picture(
        title="Problem 4 today, device tree",
        said=TODAY,
        cell=_arm64("7.3", "founding-acs-slot-1", SMMUV3, DT, "11"),
        capture="founding/7.3-arm64-smmuv3-founding-acs-slot-1-q11-dt",
    ),
)


def tree_of(report: Report) -> str:
    """The topology with the groups, as ``iommud tree`` draws it where no names of devices are installed."""
    return render_tree(report, style=Style())


def verdict_of(report: Report) -> str:
    """The verdict with the causes, as ``iommud check`` prints it where no names of devices are installed."""
    return render_text(report, style=Style())


def report_of(path: Path) -> Report:
    """What iommud says of a capture, with the registers that people want to see. Raises SourceError."""
    return check_sysfs(str(path), thorough=True)


@dataclass(frozen=True, slots=True)
class Known:
    """What two boots of a guest must have in common."""

    groups: Mapping[str, int]
    """Each function that has a group, and the number of that."""
    ungrouped: tuple[str, ...]
    """Functions that wrongly have none."""
    findings: tuple[tuple[str, str], ...]
    """Each kind of finding with each of its causes."""

    @classmethod
    def of(cls, report: Report) -> Known:
        """The knowledge of a report."""
        causes = [(one.kind, cause.id) for one in report.findings for cause in report.causes.get(one.id, ())]
        unexplained = [(one.kind, "") for one in report.findings if one.id not in report.causes]
        return cls(
            groups={str(address): number for address, number in report.actual.number_of.items()},
            ungrouped=tuple(str(address) for address in report.ungrouped),
            findings=tuple(sorted((str(kind), str(cause)) for kind, cause in (*causes, *unexplained))),
        )


def shown(number: int, picture: Picture, result: Result, keep: Path) -> tuple[str, bool]:
    """A picture of a boot for people, and whether it is that of the page."""
    head = f"{number}. {picture.title}  (Linux {result.kernel or '?'}, QEMU {result.qemu or '?'})"
    lines = [head, "", "   the thread said:", *_indented(picture.said), "", "   we see:"]
    capture = keep / picture.cell.name / f"{END}.tar.gz"
    if result.outcome != "done" or not capture.exists():
        return "\n".join([*lines, *_indented(result.summary), ""]), False
    report = report_of(capture)
    same = Known.of(report) == Known.of(report_of(FIXTURES / f"{picture.capture}.tar.gz"))
    told = "as docs/founding-thread.md shows it" if same else "NOT as docs/founding-thread.md shows it"
    parts = [*_indented(tree_of(report)), "", *_indented(verdict_of(report)), "", f"   {told}", ""]
    return "\n".join([*lines, *parts]), same


def _indented(text: str) -> list[str]:
    return [f"     {line}".rstrip() for line in text.splitlines()]
