# SPDX-License-Identifier: GPL-2.0-or-later
"""Groups by other rules than ``pci_device_group()``: told by who made them, not by replay."""

from __future__ import annotations

from collections.abc import Iterator

from iommud.causes.cause import Cause, CauseId
from iommud.causes.facts import Facts
from iommud.causes.hypothesis import Telling, evident, listed
from iommud.verdict.findings import Finding, Kind
from iommud.verdict.survey import Driver

_OWN_RULES = {
    Driver.SMMU: "arm-smmu puts functions that share a stream map entry into one group",
    Driver.APPLE_DART: "apple-dart puts functions that share a stream of a DART into one group",
    Driver.OTHER: "its driver may choose groups by the firmware's IDs",
}


def told(facts: Facts, finding: Finding) -> Iterator[Cause]:
    """Downstream kernels, foreign drivers, and VFIO's stand-in groups."""
    if finding.kind is Kind.UNDECIDABLE and facts.platform.foreign is not None and not finding.devices:
        yield _not_judged(facts)
    elif finding.kind is Kind.MERGED:
        yield from _folded(facts)
    elif finding.kind in (Kind.UNGROUPED, Kind.NO_GROUPS):
        yield from _artificial(facts, finding)


def _not_judged(facts: Facts) -> Cause:
    foreign = str(facts.platform.foreign)
    if facts.kernel.downstream is not None:
        return evident(
            CauseId.DOWNSTREAM_KERNEL,
            Telling(
                foreign,
                (f"the kernel calls itself {facts.kernel.text}",),
                "compare with the groups of a mainline kernel on this machine",
                "nvidia-reachability-groups",
            ),
        )
    evidence = f"IOMMUs: {', '.join(sorted(facts.snapshot.iommus or ())) or 'told by the names of groups'}"
    return evident(
        CauseId.FOREIGN_DRIVER, Telling(foreign, (evidence,), "nothing: iommud does not know this machine's rules")
    )


def _folded(facts: Facts) -> Iterator[Cause]:
    for driver in sorted(facts.platform.drivers & _OWN_RULES.keys()):
        evidence = (f"IOMMUs: {', '.join(sorted(facts.snapshot.iommus or ()))}",)
        remedy = "nothing for safety; narrower groups need firmware that gives each function an ID of its own"
        yield evident(CauseId.FOREIGN_DRIVER, Telling(_OWN_RULES[driver], evidence, remedy))


def _artificial(facts: Facts, finding: Finding) -> Iterator[Cause]:
    groups = [one for one in facts.snapshot.groups.values() if one.is_artificial]
    members = {member for group in groups for member in group.members} & set(finding.devices)
    if members:
        evidence = f"{listed(members)}: group named vfio-noiommu"
        remedy = "unbind it from vfio-pci, or give it a group that an IOMMU stands behind; its DMA reaches all memory"
        what = f"VFIO made a group for {listed(members)} without an IOMMU (enable_unsafe_noiommu_mode)"
        yield evident(CauseId.VFIO_NOIOMMU, Telling(what, (evidence,), remedy))
