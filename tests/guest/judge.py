# SPDX-License-Identifier: GPL-2.0-or-later
"""Judge a boot: what iommud said inside, what it says of the captured tree outside, and whether both are one answer."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from iommud.api import check_sysfs
from iommud.render.json import report_document
from tests.guest.boot import Boot, Outcome
from tests.guest.image import source_digest
from tests.guest.machine import Cell
from tests.guest.plan import END

Document = dict[str, Any]
# Where the tree came from is the one thing that must differ.
DIFFERS_RIGHTLY = frozenset({"source"})
# A path that isolates nothing is the hardware's own doing, and the kernel's groups may well be the model's.
WITHOUT_CAUSE = frozenset({"unisolated"})
TELLING = re.compile(
    r"EFI stub: ERROR|Internal error|kernel BUG|\] pc : |\] RIP: 0010:|Kernel panic|ut of memory|blocked for more"
)
NO_WORDS = re.compile(r"\x1b\[[\d;=?]*[A-Za-z]|^\[ *[\d.]+\] ")
"""The screen commands of UEFI, and times."""
TOLD_LINES = 4
CANNOT_RUN = frozenset({Outcome.UNAVAILABLE, Outcome.QEMU_FAILED})


@dataclass(frozen=True, slots=True, kw_only=True)
class Explained:
    """A finding and one of its causes, in iommud's own words."""

    kind: str
    devices: tuple[str, ...]
    cause: str | None = None
    """Its id, which is the name of its page below docs/causes. None: iommud names none."""
    summary: str = ""
    evidence: tuple[str, ...] = ()
    since: str | None = None
    until: str | None = None
    basis: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What is known of a cell after its boot; plain values, kept as JSON between runs."""

    cell: str
    outcome: str
    """A value of Outcome."""
    seconds: float
    kernel: str = ""
    qemu: str = ""
    words: str = ""
    """Why it could not run or did not end."""
    status: str = ""
    """iommud's verdict inside the guest."""
    findings: tuple[str, ...] = ()
    """The kinds of its findings, sorted, once each time that they were found."""
    agrees: bool | None = None
    """Whether the kernel's groups are those of the model, no function missing. None: the model says none."""
    groups: tuple[tuple[str, ...], ...] = ()
    """The kernel's groups."""
    ungrouped: tuple[str, ...] = ()
    disagreements: tuple[str, ...] = ()
    """Members of the answer that are different inside and outside, with the label of the look before them."""
    looks: tuple[str, ...] = ()
    """Every look in order, with its label and what was found."""
    notes: tuple[str, ...] = ()
    """What the guest said on the way, the host's answers to its requests among it."""
    usage: str = ""
    """Why iommud says that an IOMMU is in use or is not."""
    explained: tuple[Explained, ...] = ()
    """The findings of all looks in which the kernel is not the model, each once for each of its causes."""
    console: tuple[str, ...] = ()
    """Of a guest without an answer, the lines of its console that tell most."""
    sources: str = ""
    """A digest of the iommud in the guest; the comparison with the outside was made with the same one."""
    judged_by: str = ""
    """A digest of the iommud whose answer this is: another one where a kept capture was judged again."""

    @property
    def summary(self) -> str:
        """The result in a few words: model = kernel; or what was found; or why there is nothing to compare."""
        if self.outcome in CANNOT_RUN:
            return f"cannot run: {self.words}"
        if self.outcome != Outcome.DONE:
            return f"{self.outcome}: {self.words}"
        if self.disagreements:
            return f"inside and outside differ in {', '.join(self.disagreements)}"
        return in_words(self.status, self.findings, agrees=self.agrees)

    def encode(self) -> str:
        """One line of JSON."""
        return json.dumps(asdict(self), separators=(",", ":"))

    @classmethod
    def decode(cls, line: str) -> Result:
        """The result of a line. Raises ValueError or TypeError where it is none."""
        members = json.loads(line)
        lists = ("findings", "ungrouped", "disagreements", "looks", "notes", "console")
        tuples: dict[str, Any] = {name: tuple(members.get(name, ())) for name in lists}
        tuples["groups"] = tuple(tuple(one) for one in members.get("groups", ()))
        tuples["explained"] = tuple(_explained(one) for one in members.get("explained", ()))
        return cls(**{**members, **tuples})


def judge(cell: Cell, boot: Boot, keep: Path) -> Result:
    """The result of a boot. Captures, console and log are written below ``keep``/<name of the cell>."""
    directory = keep / cell.name
    _keep(boot, directory)
    result = Result(
        cell=cell.name,
        outcome=boot.outcome.value,
        seconds=boot.seconds,
        kernel=boot.kernel,
        qemu=boot.qemu,
        words=boot.words[:300],
        notes=tuple(boot.channel.notes),
        console=() if boot.outcome is Outcome.DONE else telling_lines(boot.console),
    )
    if boot.outcome is not Outcome.DONE:
        return result
    inside = {label: _inside(boot, label) for label in labels(boot)}
    outside = {label: _outside(directory / f"{label}.tar.gz") for label in inside}
    different = [f"{one}/{name}" for one in inside for name in disagreements(inside[one], outside[one])]
    digest = source_digest()
    return with_answers(replace(result, disagreements=tuple(different), sources=digest, judged_by=digest), inside)


def judge_again(result: Result, keep: Path) -> Result:
    """The result of a boot of earlier, its captures judged by the iommud of today. Nothing is booted.

    Whether inside and outside were one answer stays as it was found, with one iommud, after the boot.
    """
    if result.outcome != Outcome.DONE:
        console = keep / result.cell / "console.log"
        text = console.read_text(encoding="utf-8", errors="replace") if console.exists() else ""
        return replace(result, console=telling_lines(text))
    shown = list(dict.fromkeys([*(look.partition(": ")[0] for look in result.looks), END]))
    answers = {label: _outside(keep / result.cell / f"{label}.tar.gz") for label in shown}
    return with_answers(replace(result, judged_by=source_digest()), answers)


def telling_lines(console: str) -> tuple[str, ...]:
    """The first lines of a console that tell of trouble, without their times."""
    found = (NO_WORDS.sub("", line).strip() for line in console.splitlines() if TELLING.search(line))
    return tuple(dict.fromkeys(found))[:TOLD_LINES]


def with_answers(result: Result, answers: Mapping[str, Document]) -> Result:
    """The result with what iommud says of each look; that at the end is the one which counts."""
    facts = {label: facts_of(document) for label, document in answers.items()}
    looks = tuple(f"{one}: {_look_in_words(found)}" for one, found in facts.items())
    explained = dict.fromkeys(one for document in answers.values() for one in explained_in(document))
    return replace(result, **facts[END], looks=looks, explained=tuple(explained))


def labels(boot: Boot) -> list[str]:
    """The looks that the guest took, in order; the one at the end is always among them."""
    looked = (name.removesuffix("/check") for name in boot.channel.files if name.endswith("/check"))
    return list(dict.fromkeys([*looked, END]))


def in_words(status: str, findings: Iterable[str], *, agrees: bool | None) -> str:
    """An answer in a few words: ``model = kernel`` where that is so, and every kind of finding."""
    if status == "no-iommu":
        return "no IOMMU in use"
    kinds = ", ".join(_counted(findings))
    if agrees:
        return f"model = kernel ({kinds})" if kinds else "model = kernel"
    return kinds or status


def disagreements(inside: Mapping[str, Any], outside: Mapping[str, Any]) -> list[str]:
    """The members of two answers that differ, save where they differ rightly."""
    names = sorted((inside.keys() | outside.keys()) - DIFFERS_RIGHTLY)
    return [name for name in names if inside.get(name) != outside.get(name)]


def facts_of(document: Mapping[str, Any]) -> dict[str, Any]:
    """What a result keeps of an answer."""
    groups = document.get("groups") or {}
    expected = groups.get("expected")
    agrees = None if expected is None else groups["actual"] == expected and not groups["ungrouped"]
    return {
        "agrees": agrees,
        "status": document.get("status", ""),
        "findings": tuple(sorted(one["kind"] for one in document.get("findings", ()))),
        "groups": tuple(tuple(group) for group in groups.get("actual") or ()),
        "ungrouped": tuple(groups.get("ungrouped") or ()),
        "usage": (document.get("iommu") or {}).get("reason", ""),
    }


def explained_in(document: Mapping[str, Any]) -> Iterator[Explained]:
    """The findings of an answer that say that the kernel is not the model, each with its causes."""
    for finding in document.get("findings", ()):
        kind, devices = finding["kind"], tuple(finding["devices"])
        causes = finding.get("causes", ())
        if not causes and kind not in WITHOUT_CAUSE:
            yield Explained(kind=kind, devices=devices)
        yield from (_explained({**_told(one), "kind": kind, "devices": devices}) for one in causes)


def _told(cause: Mapping[str, Any]) -> dict[str, Any]:
    kept = ("summary", "evidence", "since", "until", "basis")
    return {"cause": cause["id"], **{name: cause[name] for name in kept}}


def _explained(members: Mapping[str, Any]) -> Explained:
    return Explained(**{**members, "devices": tuple(members["devices"]), "evidence": tuple(members["evidence"])})


def _inside(boot: Boot, label: str) -> Document:
    sent = boot.channel.files.get(f"{label}/check")
    errors = boot.channel.files.get(f"{label}/check.errors")
    try:
        found: Document = json.loads(sent.content) if sent else {}
    except ValueError:
        found = {}
    words = errors.content.decode(errors="replace").strip() if errors else "nothing was sent"
    return found or {"status": "error", "error": words}


def _outside(capture: Path) -> Document:
    try:
        return json.loads(json.dumps(report_document(check_sysfs(str(capture)))))  # type: ignore[no-any-return]
    except Exception as error:  # noqa: BLE001 - whatever goes wrong here is a result of the lab
        return {"status": "error", "error": str(error)}


def _keep(boot: Boot, directory: Path) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "console.log").write_text(boot.console, encoding="utf-8")
    suffixes = {"check": "json", "check.errors": "errors", "capture": "tar.gz", "dmesg": "dmesg.gz"}
    for name, sent in boot.channel.files.items():
        label, _, kind = name.partition("/")
        (directory / f"{label}.{suffixes.get(kind, kind)}").write_bytes(sent.content)


def _look_in_words(facts: Mapping[str, Any]) -> str:
    return in_words(facts["status"], facts["findings"], agrees=facts["agrees"])


def _counted(kinds: Iterable[str]) -> list[str]:
    return [kind if number == 1 else f"{kind} x {number}" for kind, number in sorted(Counter(kinds).items())]
