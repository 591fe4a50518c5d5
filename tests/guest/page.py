# SPDX-License-Identifier: GPL-2.0-or-later
"""docs/kernel-matrix.md from the results: what was booted, what each cell says, and why where the kernel differs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence

from tests.guest import differences as told
from tests.guest.judge import CANNOT_RUN, Result
from tests.guest.machine import Cell
from tests.guest.steps import NOTHING_CAME

HEAD = """\
# Kernels in guests, and the model

Made by `make guest-matrix`; [guest-lab.md](guest-lab.md) says how to run it and how to add a cell.
Each line is a guest that was booted under QEMU with software emulation.
`model = kernel` means that the kernel's groups are those of the model and no function misses one; findings that do not
touch the groups stand in brackets.
Where the kernel's groups are not the model's, the cause is the one that iommud names by itself, with its evidence and
with the releases that have it; [causes/README.md](causes/README.md) tells what a cause rests on.
"""
OUT_OF_REACH = """\
## Out of reach

- Linux 6.6: no suite that can be reached has it. Looked through on 2026-11-22, with their security updates where there
  are any: bullseye (5.10, 6.1), bookworm (6.1, 6.12), bookworm-backports (6.12), trixie (6.12), trixie-backports (6.16
  to 7.3), forky and sid (7.2), experimental (7.3); the proposed updates of bookworm have no kernel. Nothing answers for
  bullseye-backports, trixie-proposed-updates, the sloppy backports, archive.debian.org and snapshot.debian.org.
- Linux 6.12.75 to 6.12.82, 6.1.165 to 6.1.168 and 5.10.252, which switch ACS on too late on every machine: Debian went
  from 6.12.74 to 6.12.85, from before 6.1.165 to 6.1.170, and from 5.10.251 to 5.10.257.
- Switches with ACS: `xio3130-downstream`, QEMU's only downstream port beside that of CXL, has no ACS capability in
  QEMU 7.2, 10 and 11. The topology `root-ports-below-switch` puts root ports, which have one, in their place.
- Endpoints with an ACS capability: QEMU has none; `multifunction-endpoints-with-acs` has functions that the kernel
  knows to be isolated without one.
- Virtual functions on the next bus: QEMU makes none, and says `VF addr overflows` (`sriov-next-bus`).
- Root ports without ACS in QEMU 11: it took the property `disable-acs` away; an `ioh3420` stands for them there.
"""
PARTS = (
    ("Inside and outside differ", told.told_twice),
    ("Where the kernel differs from the model", told.differences),
    ("Guests that gave no answer", told.without_answer),
    ("Hot plug without effect", told.hot_plug_without_effect),
    ("Cells that cannot run", told.cannot_run),
)


def page(cells: Sequence[Cell], results: Mapping[str, Result]) -> str:
    """The whole page."""
    rows = [(cell, results[cell.name]) for cell in cells if cell.name in results]
    lines = [HEAD, *_summary(rows), *_same_iommud(rows), *_versions(rows), OUT_OF_REACH]
    for title, part in PARTS:
        found = list(part(rows))
        lines += [f"## {title}", "", *found, ""] if found else []
    return "\n".join([*lines, *_table(rows)]).replace("\n\n\n", "\n\n") + "\n"


def _summary(rows: Sequence[tuple[Cell, Result]]) -> list[str]:
    counts = Counter(class_of(result) for _, result in rows)
    minutes = round(sum(result.seconds for _, result in rows) / 60)
    lines = [f"- {number} x {name}" for name, number in counts.most_common()]
    return [f"{len(rows)} cells, {minutes} minutes of emulation:", "", *lines, ""]


def class_of(result: Result) -> str:
    """What a result counts as. A hot plug without effect shows nothing, so it is no agreement."""
    if result.disagreements:
        return "inside and outside differ"
    if result.outcome in CANNOT_RUN:
        return "cannot run"
    if told.gave_no_answer(result):
        return "gave no answer"
    if result.status == "no-iommu":
        return "no IOMMU in use"
    if told.differs(result):
        return "the kernel differs from the model"
    if told.hot_plug_failed(result):
        return "hot plug without effect"
    return "model = kernel"


def _same_iommud(rows: Iterable[tuple[Cell, Result]]) -> Iterator[str]:
    """With which iommud the answers were compared."""
    done = [result for _, result in rows if result.status]
    again = [result for result in done if result.sources != result.judged_by]
    yield "In every cell the answer inside the guest and the answer outside, on its capture, were given by one iommud."
    yield "They are the same unless the page says so."
    if again:
        yield f"Of {len(again)} cells of {len(done)} a later iommud judged the capture again; its answer is shown."
    yield ""


def _versions(rows: Iterable[tuple[Cell, Result]]) -> list[str]:
    rows = list(rows)
    kernels = {(cell.kernel, result.kernel) for cell, result in rows if result.kernel}
    emulators = {(cell.qemu, result.qemu) for cell, result in rows if result.qemu}

    def order(named: tuple[str, str]) -> tuple[tuple[int, ...], str]:
        return told.release_order(named[0]), named[1]

    named = [f"- kernel {name}: {release}" for name, release in sorted(kernels, key=order)]
    return [
        "## Versions",
        "",
        *named,
        *(f"- QEMU {name}: {version}" for name, version in sorted(emulators, key=order)),
        "",
    ]


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
    """The summary, or every look where they are not all alike; the causes behind it."""
    words = {look.partition(": ")[2] for look in result.looks}
    text = "; ".join(result.looks) if len(words) > 1 and not result.disagreements else result.summary
    causes = ", ".join(dict.fromkeys(one.cause for one in result.explained if one.cause))
    if causes:
        text = f"{text}: {causes}"
    if result.status == "no-iommu" and not result.disagreements and result.usage:
        text = f"{text}: {result.usage}"
    if refused := told.refusals(result):
        return f"{text} (hot plug: {'; '.join(refused)})"
    return f"{text} (hot plug: {NOTHING_CAME})" if NOTHING_CAME in result.notes else text


def _escaped(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")
