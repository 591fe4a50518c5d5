# SPDX-License-Identifier: GPL-2.0-or-later
"""What the page tells of the guests whose kernel is not the model, or which gave no answer, and of the reasons."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence

from tests.guest.boot import Outcome
from tests.guest.causes import reason_of
from tests.guest.judge import CANNOT_RUN, Explained, Result
from tests.guest.machine import Cell
from tests.guest.steps import NOTHING_CAME

Row = tuple[Cell, Result]
UNEXPLAINED = "**not explained yet**"
HOST = "host: "
EVIDENCE_SHOWN = 3
NOTES = {
    "iommu-driver-missing": (
        "Debian's kernels before 6.12 are built without `CONFIG_VIRTIO_IOMMU`; a newer one has it as a module, which "
        "was left out on purpose where the cell is called `no-iommu-driver`."
    ),
}
"""What the lab knows beyond iommud, by cause."""
OF_ALL = "no-groups"
"""The finding that is about all functions, so that they need not be listed."""


def differs(result: Result) -> bool:
    """Whether the kernel's groups are not the model's in some look."""
    if result.outcome != Outcome.DONE:
        return False
    return bool(result.explained) or not (result.agrees or result.status == "no-iommu")


def gave_no_answer(result: Result) -> bool:
    """Whether a guest ran and did not come to its end."""
    return result.outcome != Outcome.DONE and result.outcome not in CANNOT_RUN


def refusals(result: Result) -> list[str]:
    """QEMU's words to what it did not do for a guest."""
    answers = (note.removeprefix(HOST) for note in result.notes if note.startswith(HOST))
    return [answer for answer in answers if answer != "ok"]


def hot_plug_failed(result: Result) -> bool:
    """Whether something was to be plugged in or taken out, and the kernel's functions stayed as they were."""
    return NOTHING_CAME in result.notes or bool(refusals(result))


def is_explained(cell: Cell, result: Result) -> bool:
    """Whether a reader is told why, wherever there is something to tell."""
    if result.disagreements:
        return False
    if gave_no_answer(result) or (hot_plug_failed(result) and not refusals(result)):
        return reason_of(cell, result) is not None
    if not differs(result):
        return True
    return bool(result.explained) and all(one.cause is not None for one in result.explained)


def differences(rows: Sequence[Row]) -> Iterator[str]:
    """The guests whose kernel differs from the model, by cause."""
    by_cause: dict[str, list[tuple[Row, list[Explained]]]] = defaultdict(list)
    for cell, result in rows:
        if not differs(result):
            continue
        told = result.explained or (Explained(kind=result.status, devices=()),)
        for cause in dict.fromkeys(one.cause or "" for one in told):
            by_cause[cause].append(((cell, result), [one for one in told if (one.cause or "") == cause]))
    for cause, cells in sorted(by_cause.items(), key=lambda one: (one[0] != "", -len(one[1]), one[0])):
        yield from _heading(cause, cells)
        alike: dict[str, list[str]] = defaultdict(list)
        for (_, result), theirs in cells:
            alike[_difference(theirs)].append(f"`{result.cell}`")
        yield from (f"- {', '.join(names)}: {text}" for text, names in alike.items())
        yield ""


def _heading(cause: str, cells: Sequence[tuple[Row, list[Explained]]]) -> Iterator[str]:
    if not cause:
        yield from ("### Not explained yet", "")
        return
    first = cells[0][1][0]
    kernels = ", ".join(dict.fromkeys(sorted((cell.kernel for (cell, _), _ in cells), key=release_order)))
    since = f"since {first.since}" if first.since else "in every release that was booted"
    until = f"mended in {first.until}" if first.until else "no release is known that mends it"
    bound = first.since or first.until
    yield f"### [{cause}](causes/{cause}.md)"
    yield ""
    releases = f"{since}; {until}" if bound else "not bound to a release"
    number = f"{len(cells)} {'guest' if len(cells) == 1 else 'guests'}"
    yield f"{number}, with Linux {kernels}. {releases[0].upper()}{releases[1:]}."
    if cause in NOTES:
        yield NOTES[cause]
    yield ""


def release_order(name: str) -> tuple[int, ...]:
    """The numbers of a release, to order by."""
    return tuple(int(part) for part in name.split("."))


def _difference(told: Iterable[Explained]) -> str:
    """What is told of one guest: the findings that one sentence explains are told together."""
    about: dict[tuple[str, str, tuple[str, ...], str], list[str]] = defaultdict(list)
    for one in told:
        about[one.kind, one.summary, one.evidence, one.basis] += one.devices
    parts = [_sentence(*key, list(dict.fromkeys(devices))) for key, devices in about.items()]
    return " ".join(parts)


def _sentence(kind: str, summary: str, evidence: tuple[str, ...], basis: str, devices: Sequence[str]) -> str:
    about = f"{kind} ({_short(devices)})" if devices and kind != OF_ALL else kind
    if not summary:
        return f"{about}: {UNEXPLAINED}."
    more = f"; {len(evidence) - EVIDENCE_SHOWN} more like these" if len(evidence) > EVIDENCE_SHOWN else ""
    return f"{about}: {summary}. *{basis.capitalize()}: {'; '.join(evidence[:EVIDENCE_SHOWN])}{more}.*"


def _short(devices: Sequence[str]) -> str:
    shown = ", ".join(one.removeprefix("0000:") for one in devices[:4])
    return shown if len(devices) <= 4 else f"{shown} and {len(devices) - 4} more"


def without_answer(rows: Sequence[Row]) -> list[str]:
    """The guests that did not come to their end, each with its words and the reason."""
    return [
        f"- `{result.cell}`: {result.summary}. {reason_of(cell, result) or UNEXPLAINED} {_console(result)}".rstrip()
        for cell, result in rows
        if gave_no_answer(result)
    ]


def _console(result: Result) -> str:
    return f"*Console: {'; '.join(f'`{line}`' for line in result.console)}.*" if result.console else ""


def hot_plug_without_effect(rows: Sequence[Row]) -> list[str]:
    """The guests in which nothing came of a hot plug, each with QEMU's words or the reason."""
    return [
        f"- `{result.cell}`: {'; '.join(refusals(result)) or reason_of(cell, result) or UNEXPLAINED}"
        for cell, result in rows
        if hot_plug_failed(result)
    ]


def cannot_run(rows: Sequence[Row]) -> list[str]:
    """The cells that cannot be booted, each with the words of whoever said so."""
    return [f"- `{result.cell}`: {result.words}" for _, result in rows if result.outcome in CANNOT_RUN]


def told_twice(rows: Sequence[Row]) -> list[str]:
    """The guests in which the answers inside and outside were not the same."""
    return [f"- `{result.cell}`: {result.summary}" for _, result in rows if result.disagreements]


def unexplained(cells: Iterable[Cell], results: Mapping[str, Result]) -> list[str]:
    """The cells that a reader is not told enough of."""
    pairs = ((cell, results[cell.name]) for cell in cells if cell.name in results)
    return [cell.name for cell, result in pairs if not is_explained(cell, result)]
