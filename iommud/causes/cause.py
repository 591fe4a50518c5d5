# SPDX-License-Identifier: GPL-2.0-or-later
"""What a cause is: a closed vocabulary, and for each the sentence, the evidence and the remedy."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class CauseId(enum.StrEnum):
    """Causes, the ones that assume least first. The page of each is ``docs/causes/<id>.md``."""

    NEVER_JOINED = "never-joined"
    """In the kernel's own order, parents first, groups were made that belong together; it never joins two."""
    BRIDGES_NOT_PROBED = "bridges-not-probed"
    """No port driver matched the bridges, so nothing configured their DMA."""
    VIOT_ALIAS_BUG = "viot-alias-bug"
    """The kernel put the aliases of a function into the record of the bridge above."""
    FIRMWARE_COVERAGE = "firmware-coverage"
    """Firmware maps a function's own requester ID, yet not an ID that a bridge gives it."""
    SMMUV3_DUPLICATE_STREAM = "smmuv3-duplicate-stream"
    """The SMMUv3 driver refused a function that has the same stream twice."""
    SMMUV3_STREAM_CONFLICT = "smmuv3-stream-conflict"
    """The SMMUv3 driver refused a function whose stream belongs to another one."""
    VIRTIO_ENDPOINT_UNKNOWN = "virtio-endpoint-unknown"
    """The hypervisor does not know the endpoint ID of a function behind a conventional bridge."""
    VIRTIO_INSTANCE_LOOKUP = "virtio-instance-lookup"
    """The kernel did not find its virtio-iommu when functions asked for it."""
    PASS_ABANDONED = "pass-abandoned"  # noqa: S105 - a pass over the bus, no password
    """One function's failure made the kernel give up on all of them."""
    LATE_ACS = "late-acs"
    """ACS was switched on after the functions had been grouped."""
    ACS_OVERRIDE = "acs-override"
    """``pcie_acs_override`` vouched for functions that no hardware isolates."""
    PROBE_ORDER = "probe-order"
    """Functions were grouped before the bridges above them."""
    PROBE_RACE = "probe-race"
    """A driver was binding to a function while the IOMMU registered, and the pass over all functions left it out."""
    LATE_MULTIFUNCTION = "late-multifunction"
    """A function was grouped before the kernel had noted that it is one of several."""
    ACS_CHANGED_SINCE = "acs-changed-since"
    """Something changed ACS after the functions had been grouped."""
    IOMMU_DRIVER_REFUSED = "iommu-driver-refused"
    """The IOMMU's driver was there and gave up."""
    IOMMU_DRIVER_DEFERRED = "iommu-driver-deferred"
    """The IOMMU's driver still waits for something."""
    IOMMU_DRIVER_MISSING = "iommu-driver-missing"
    """The kernel has no driver for the IOMMU that firmware describes, or has not loaded it."""
    VFIO_NOIOMMU = "vfio-noiommu"
    """The group that shows is VFIO's stand-in, without an IOMMU behind it."""
    DOWNSTREAM_KERNEL = "downstream-kernel"
    """A distribution's kernel groups by another algorithm."""
    FOREIGN_DRIVER = "foreign-driver"
    """The IOMMU's driver or the architecture groups by rules of its own."""

    @property
    def rank(self) -> int:
        """Place in the order of parsimony, 0 for the cause that assumes least."""
        return list(CauseId).index(self)


class Basis(enum.StrEnum):
    """What naming a cause rests on."""

    REPLAY = "replay"
    """Replaying it gives exactly what was observed of the functions concerned."""
    EVIDENCE = "evidence"
    """A log line, a missing driver, a name: nothing was replayed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cause:
    """One cause of one finding."""

    id: CauseId
    summary: str
    """What happened, to be read after "because": no capital letter, no full stop."""
    evidence: tuple[str, ...]
    since: str | None
    """The first release that does this, as ``Linux 5.14``; None: it is not bound to a release."""
    until: str | None
    """The first release that no longer does; None: none is known, or it is not bound to a release."""
    remedy: str
    """What to do now."""
    basis: Basis
