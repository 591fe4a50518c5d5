# SPDX-License-Identifier: GPL-2.0-or-later
"""The page's words on why: the causes of a finding with evidence and remedy, and what each cause means."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from iommud.causes.cause import Cause, CauseId
from iommud.render.markup import esc
from iommud.render.view import View
from iommud.render.words import NOT_EXPLAINED, cause_bounds, cause_page, plural
from iommud.verdict.findings import Finding

CAUSE_MEANINGS: Mapping[CauseId, str] = {
    CauseId.NEVER_JOINED: (
        "The kernel puts a function into the first group that it finds, and never joins two groups. In the order in "
        "which it met these functions, that left apart what belongs together."
    ),
    CauseId.BRIDGES_NOT_PROBED: (
        "The kernel gives a function its group when a driver first matches it. Nothing matched these bridges, so they "
        "have none, and what lies below them was grouped as if they were not there."
    ),
    CauseId.VIOT_ALIAS_BUG: (
        "The kernel wrote the requester IDs that a bridge adds into the bridge's record instead of that of the "
        "function below. The bridge then gets no group, and the function lacks an ID under which its requests arrive."
    ),
    CauseId.FIRMWARE_COVERAGE: (
        "A function sends under more than one requester ID. The firmware's tables map one of them to an IOMMU and "
        "leave another out, and the kernel gives up on the function."
    ),
    CauseId.SMMUV3_DUPLICATE_STREAM: (
        "A function has one stream ID twice, its own and the one that the bridge above takes. The SMMUv3 driver took "
        "that for a conflict and refused the function."
    ),
    CauseId.SMMUV3_STREAM_CONFLICT: (
        "The SMMUv3 driver gives each stream to one function. Functions behind a conventional bridge share one: the "
        "first that was probed has it, and the others were refused."
    ),
    CauseId.VIRTIO_ENDPOINT_UNKNOWN: (
        "The hypervisor knows a function behind a conventional bridge by the bridge's ID only. The guest asks for the "
        "function's own, and is told that there is no such endpoint."
    ),
    CauseId.VIRTIO_INSTANCE_LOOKUP: (
        "The kernel looks its virtio-iommu up before the driver has recorded it, so that no function gets a group."
    ),
    CauseId.PASS_ABANDONED: (
        "While an IOMMU registers, the kernel walks over all functions. The failure of one ended the walk, and the "
        "groups made until then were taken back."
    ),
    CauseId.LATE_ACS: (
        "Groups are made once. ACS was switched on only afterwards, so they are as wide as they would be without it."
    ),
    CauseId.ACS_OVERRIDE: (
        "The kernel's command line made it take functions for isolated that have no ACS. It is a promise, not a "
        "protection: requests can pass between them."
    ),
    CauseId.PROBE_ORDER: (
        "A function's driver came before that of the bridges above it, so there was no group to join and it got one "
        "of its own. Groups are never joined afterwards."
    ),
    CauseId.PROBE_RACE: (
        "When an IOMMU registers, the kernel walks over all functions. It passed by one to which a driver was just "
        "being bound, and the driver works without the IOMMU."
    ),
    CauseId.LATE_MULTIFUNCTION: (
        "The functions of a device that is plugged in are grouped one by one as they are found, and the kernel notes "
        "only afterwards that a further one belongs to a device with several. So it did not look at the others."
    ),
    CauseId.ACS_CHANGED_SINCE: (
        "A reset, a resume, a program or firmware changed the ACS registers after the groups had been made. The groups "
        "show what the registers held then."
    ),
    CauseId.IOMMU_DRIVER_REFUSED: "The IOMMU's driver ran, met an error and gave up.",
    CauseId.IOMMU_DRIVER_DEFERRED: (
        "The IOMMU's driver waits for something else, such as a clock or a power domain, which has not come."
    ),
    CauseId.IOMMU_DRIVER_MISSING: (
        "Firmware describes an IOMMU, and no driver has taken it: there is none for it in this kernel, or it is not "
        "loaded."
    ),
    CauseId.VFIO_NOIOMMU: (
        "VFIO made this group itself, for a function without an IOMMU. It isolates nothing: whoever has the function "
        "can reach all memory."
    ),
    CauseId.DOWNSTREAM_KERNEL: (
        "This distribution's kernel computes groups by another algorithm than Linux as it is released, and is not "
        "judged by its rules."
    ),
    CauseId.FOREIGN_DRIVER: (
        "The IOMMU's driver or the architecture forms groups by rules of its own, which are not those for PCI."
    ),
}
"""Each cause in two sentences; its own page in the documentation tells the rest."""

_EVIDENCE_SHOWN = 6


def causes_block(view: View, finding: Finding, url: str, suffix: str) -> Iterator[str]:
    """Why it is so: each cause of a finding, or that it is not explained; nothing for findings that have no cause.

    ``url`` and ``suffix`` stand around the cause in the address of its page; without them the page explains it itself.
    """
    causes = view.report.causes.get(finding.id, ())
    if not causes and finding.calls_for_cause:
        yield f'<p class="cause"><b>Not explained:</b> {NOT_EXPLAINED}.</p>'
    for cause in causes:
        yield '<div class="cause">'
        yield f"<p><b>Because</b> {esc(cause.summary)}.</p>"
        yield from _evidence(cause)
        yield f"<p><b>What to do:</b> {esc(cause.remedy)}.</p>"
        target = f"{url}{cause.id}{suffix}" if url else f"#cause-{cause.id}"
        yield f'<p class="soft">Cause <a href="{esc(target)}">{cause.id}</a> ({esc(cause_bounds(cause))})</p></div>'


def _evidence(cause: Cause) -> Iterator[str]:
    if not cause.evidence:
        return
    yield "<ul>"
    yield from (f"<li>{esc(line)}</li>" for line in cause.evidence[:_EVIDENCE_SHOWN])
    if len(cause.evidence) > _EVIDENCE_SHOWN:
        yield f"<li>and {plural(len(cause.evidence) - _EVIDENCE_SHOWN, 'further line')}, in the JSON report</li>"
    yield "</ul>"


def causes_section(view: View) -> Iterator[str]:
    """What each cause on the page means; nothing without any."""
    shown = {*view.report.findings, *(one.finding for one in view.report.accepted)}
    named = {cause.id for one in shown for cause in view.report.causes.get(one.id, ())}
    if not named:
        return
    yield '<section aria-labelledby="causes"><h2 id="causes">What these causes mean</h2><dl class="meanings">'
    for name in sorted(named, key=lambda one: one.rank):
        yield f'<dt id="cause-{name}">{name}</dt><dd>{CAUSE_MEANINGS[name]} '
        yield f'<span class="soft">More in {cause_page(name)}.</span></dd>'
    yield "</dl></section>"
