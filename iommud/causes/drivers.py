# SPDX-License-Identifier: GPL-2.0-or-later
"""No group anywhere because the IOMMU's driver is missing, waits, or gave up: told by evidence, not by replay."""

from __future__ import annotations

import re
from collections.abc import Iterator

from iommud.causes.cause import Cause, CauseId
from iommud.causes.facts import Facts
from iommud.causes.hypothesis import Telling, evident
from iommud.verdict.findings import Finding, Kind

_REFUSED = re.compile(
    # What remaps interrupts is another part of these drivers, and groups do without it.
    r"^(?!.*(?:interrupt|irq|intremap|DMAR-IR))"
    r".*(?:smmu|virtio_iommu|DMAR|AMD-Vi|riscv.iommu|dart)\b.*(?:fail|error|unable|not supported|disabl|invalid)",
    re.IGNORECASE,
)
_DEFERRED = re.compile(
    r"deferred probe pending.*(?:iommu|smmu|dart)|(?:iommu|smmu|dart).*deferred probe", re.IGNORECASE
)
_MODULES = {
    "ACPI table VIOT": ("virtio_iommu", "CONFIG_VIRTIO_IOMMU"),
    "ACPI table IORT": ("arm_smmu_v3", "CONFIG_ARM_SMMU_V3"),
}
_LINES = 3


def told(facts: Facts, finding: Finding) -> Iterator[Cause]:
    """What became of the IOMMU's driver, where no function has a group."""
    if finding.kind is not Kind.NO_GROUPS:
        return
    for name, pattern, what, remedy in (
        (CauseId.IOMMU_DRIVER_REFUSED, _REFUSED, "the IOMMU's driver met an error and gave up", _REMEDY_REFUSED),
        (
            CauseId.IOMMU_DRIVER_DEFERRED,
            _DEFERRED,
            "the IOMMU's driver still waits for something else",
            _REMEDY_DEFERRED,
        ),
    ):
        lines = tuple(dict.fromkeys(line for line in facts.log if pattern.search(line)))[:_LINES]
        if lines:
            evidence = tuple(f"kernel log: {line}" for line in lines)
            yield evident(name, Telling(what, evidence, remedy))
            return
    if facts.snapshot.iommus is not None and not facts.snapshot.iommus:
        yield evident(CauseId.IOMMU_DRIVER_MISSING, _missing(facts))


_REMEDY_REFUSED = "look up that line of the kernel log; a firmware update or a newer kernel may know better"
_REMEDY_DEFERRED = "find what it waits for in /sys/kernel/debug/devices_deferred, and load that driver"


def _missing(facts: Facts) -> Telling:
    source = facts.platform.firmware.id_mapping
    module, option = _MODULES.get(source or "", (None, None))
    evidence = [f"{facts.report.usage_reason}; /sys/class/iommu is empty"]
    if source == "ACPI table VIOT" and not facts.kernel.at_least(5, 14):
        evidence.append(f"Linux {facts.kernel} does not read the VIOT table; 5.14 is the first that does")
        return Telling(
            "this kernel is too old for the table that describes the IOMMU", tuple(evidence), "run Linux 5.14 or later"
        )
    if module is None:
        return Telling(
            "no driver took the IOMMU that firmware describes",
            tuple(evidence),
            "check that the kernel was built with the driver and that it is loaded",
        )
    loaded = facts.snapshot.modules
    if loaded is not None:
        there = module in loaded
        evidence.append(f"the module {module} is {'loaded' if there else 'not loaded'}")
    return Telling(
        f"no driver took the IOMMU that the {source} describes",
        tuple(evidence),
        f"load {module} early, or build it in ({option}=y)",
    )
