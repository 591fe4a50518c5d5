# SPDX-License-Identifier: GPL-2.0-or-later
"""docs/kernel-matrix.md from the results: what was booted, what each cell says, and why where the kernel differs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from tests.guest.causes import cause_of
from tests.guest.judge import CANNOT_RUN, Result
from tests.guest.machine import Cell
from tests.guest.steps import NOTHING_CAME

HEAD = """\
# Kernels in guests, and the model

Made by `make guest-matrix`; [guest-lab.md](guest-lab.md) says how to run it and how to add a cell.
Each line is a guest that was booted under QEMU with software emulation.
`model = kernel` means that the kernel's groups are those of the model and no function misses one; findings that do not
touch the groups stand in brackets.
Everything else is a finding of `iommud check` inside the guest, or the reason why there is none.
In every cell the answer inside the guest and the answer outside, on its capture, are the same unless the line says so.
"""
EXPLAINED = """\
## Where the kernel differs from the model
"""
UNEXPLAINED = "**not explained yet**"


def page(cells: Sequence[Cell], results: Mapping[str, Result]) -> str:
    """The whole page."""
    rows = [(cell, results[cell.name]) for cell in cells if cell.name in results]
    return "\n".join([HEAD, *_summary(rows), *_versions(rows), *_differences(rows), *_table(rows)]) + "\n"


def _summary(rows: Sequence[tuple[Cell, Result]]) -> list[str]:
    counts = Counter(_class_of(result) for _, result in rows)
    minutes = round(sum(result.seconds for _, result in rows) / 60)
    lines = [f"- {number} x {name}" for name, number in counts.most_common()]
    return [f"{len(rows)} cells, {minutes} minutes of emulation:", "", *lines, ""]


def _class_of(result: Result) -> str:
    if result.agrees and not result.disagreements:
        return "model = kernel"
    if result.outcome in CANNOT_RUN:
        return "cannot run"
    return "finding" if result.findings else result.summary.partition(":")[0]


def _versions(rows: Iterable[tuple[Cell, Result]]) -> list[str]:
    kernels = {(cell.kernel, result.kernel) for cell, result in rows if result.kernel}
    emulators = {(cell.qemu, result.qemu) for cell, result in rows if result.qemu}
    named = [f"- kernel {name}: {release}" for name, release in sorted(kernels)]
    return ["## Versions", "", *named, *(f"- QEMU {name}: {version}" for name, version in sorted(emulators)), ""]


def _differences(rows: Iterable[tuple[Cell, Result]]) -> list[str]:
    differing = [(cell, result) for cell, result in rows if needs_a_cause(result)]
    if not differing:
        return []
    lines = [
        f"- `{result.cell}`: {result.summary}. {cause_of(cell, result) or UNEXPLAINED}" for cell, result in differing
    ]
    return [EXPLAINED, *lines, ""]


def needs_a_cause(result: Result) -> bool:
    """Whether a reader must be told why: the groups are not the model's, or there is no answer, or there are two."""
    return bool(result.disagreements) or not (
        result.agrees or result.status == "no-iommu" or result.outcome in CANNOT_RUN
    )


def unexplained(cells: Iterable[Cell], results: Mapping[str, Result]) -> list[str]:
    """The cells that need a cause and have none."""
    pairs = ((cell, results[cell.name]) for cell in cells if cell.name in results)
    return [cell.name for cell, result in pairs if needs_a_cause(result) and cause_of(cell, result) is None]


def _table(rows: Iterable[tuple[Cell, Result]]) -> list[str]:
    head = [
        "## All cells",
        "",
        "| topology | kernel | guest | IOMMU | QEMU | order, words | result |",
        "|---|---|---|---|---|---|---|",
    ]
    return [*head, *(row(cell, result) for cell, result in rows)]


def row(cell: Cell, result: Result) -> str:
    """One line of the table."""
    guest = f"{cell.architecture} {cell.firmware}" if cell.architecture == "arm64" else cell.architecture
    words = " ".join([cell.order, *(f"`{one}`" for one in cell.parameters), *filter(None, [cell.story])])
    parts = (cell.topology, cell.kernel, guest, cell.iommu, cell.qemu, words, _escaped(_answers(result)))
    return f"| {' | '.join(parts)} |"


def _answers(result: Result) -> str:
    """The summary, or every look where they are not all alike."""
    words = {look.partition(": ")[2] for look in result.looks}
    told = "; ".join(result.looks) if len(words) > 1 and not result.disagreements else result.summary
    return f"{told} (hot plug: {NOTHING_CAME})" if NOTHING_CAME in result.notes else told


def _escaped(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")
