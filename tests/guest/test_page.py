# SPDX-License-Identifier: GPL-2.0-or-later
"""The page of the big run: what it counts, whom it explains, and that it can be made again from what is kept."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from tests.guest import run
from tests.guest.boot import Boot, Outcome
from tests.guest.cells import HOT_PLUG_ELSEWHERE
from tests.guest.channel import Channel, Sent
from tests.guest.differences import UNEXPLAINED, is_explained, unexplained
from tests.guest.image import source_digest
from tests.guest.judge import Explained, Result, explained_in, judge, judge_again, telling_lines
from tests.guest.machine import Cell, Iommu
from tests.guest.matrix import LIST
from tests.guest.page import class_of, page, row
from tests.guest.progress import State
from tests.guest.steps import NOTHING_CAME

FIXTURES = Path(__file__).parent.parent / "fixtures" / "captures"
A, B, C = (Cell(kernel=kernel, topology="founding", iommu=Iommu.INTEL) for kernel in ("5.10", "6.1", "6.12"))
SMMU = Cell(kernel="5.10", topology="two-nics-1-2", iommu=Iommu.SMMUV3)
TWO = HOT_PLUG_ELSEWHERE["6.12-amd64-intel-empty-port-q10-two-functions"]
SMALL = Cell(kernel="6.12", topology="founding", iommu=Iommu.INTEL, memory=128)
ORDER = Explained(
    kind="split",
    devices=("0000:02:00.0",),
    cause="probe-order",
    summary="02:00.0 was grouped before 01:00.0 above it",
    evidence=("the kernel log shows this order", "b", "c", "d"),
    until="Linux 6.15",
    basis="replay",
)


def good(cell: Cell) -> Result:
    return Result(cell=cell.name, outcome="done", seconds=10, status="ok", agrees=True, kernel="6.1.0", qemu="7.2.22")


def wrong(cell: Cell, *explained: Explained) -> Result:
    kinds = tuple(one.kind for one in explained)
    return replace(good(cell), status="findings", agrees=False, findings=kinds, explained=explained)


def ended(cell: Cell, outcome: str, *console: str) -> Result:
    return Result(cell=cell.name, outcome=outcome, seconds=5, words="the last words", console=console)


def test_a_difference_is_told_with_the_cause_its_evidence_and_its_releases() -> None:
    text = page([A, B], {A.name: good(A), B.name: wrong(B, ORDER)})

    assert "### [probe-order](causes/probe-order.md)" in text
    assert "1 guest, with Linux 6.1. In every release that was booted; mended in Linux 6.15." in text
    assert (
        f"- `{B.name}`: split (02:00.0): 02:00.0 was grouped before 01:00.0 above it. "
        "*Replay: the kernel log shows this order; b; c; 1 more like these.*"
    ) in text
    assert text.count(A.name) == 0
    assert unexplained([A, B], {A.name: good(A), B.name: wrong(B, ORDER)}) == []


def test_findings_with_one_explanation_are_told_together() -> None:
    other = replace(ORDER, devices=("0000:02:01.0",))

    assert "split (02:00.0, 02:01.0): " in page([B], {B.name: wrong(B, ORDER, other)})


def test_guests_of_which_the_same_is_told_share_a_line() -> None:
    nothing = replace(ORDER, kind="no-groups", devices=("a",))
    results = {A.name: wrong(A, nothing), B.name: wrong(B, replace(nothing, devices=("a", "b")))}

    assert f"- `{A.name}`, `{B.name}`: no-groups: 02:00.0 was grouped before" in page([A, B], results)


def test_a_finding_without_a_cause_is_shown_as_such_although_another_one_has_a_cause() -> None:
    result = wrong(B, ORDER, Explained(kind="merged", devices=("0000:00:02.0",)))
    text = page([B], {B.name: result})

    assert f"`{B.name}`: merged (00:02.0): {UNEXPLAINED}" in text
    assert unexplained([B], {B.name: result}) == [B.name]


BUG = "Internal error: Oops - BUG: 00000000f2000800 [#1] SMP"


@pytest.mark.parametrize(
    ("cell", "result", "told"),
    [
        (A, good(A), True),
        (A, wrong(A, ORDER), True),
        (A, replace(wrong(A, ORDER), disagreements=("end/notes",)), False),
        (A, replace(good(A), status="undecidable", agrees=None), False),
        (A, replace(good(A), status="no-iommu", agrees=None), True),
        (A, ended(A, "qemu-failed"), True),
        (A, ended(A, "hang"), False),
        (SMMU, ended(SMMU, "hang", BUG, "pc : arm_smmu_write_strtab_ent+0x360/0x3cc"), True),
        (SMMU, ended(SMMU, "hang", BUG, "pc : something_else+0x360/0x3cc"), False),
        (A, ended(A, "hang", BUG, "pc : arm_smmu_write_strtab_ent+0x360/0x3cc"), False),
        (SMALL, ended(SMALL, "out-of-memory", "Out of memory and no killable processes..."), True),
        (A, ended(A, "out-of-memory", "Out of memory and no killable processes..."), False),
        (SMALL, ended(SMALL, "hang"), False),
        (A, replace(good(A), notes=("host: ok", NOTHING_CAME)), False),
        (TWO, replace(good(TWO), notes=("host: ok", NOTHING_CAME), groups=(("0000:01:00.0", "0000:01:00.1"),)), True),
        (TWO, replace(good(TWO), notes=("host: ok", NOTHING_CAME), groups=(("0000:01:00.0",),)), False),
        (A, replace(good(A), notes=("host: Bus 'pcie.0' does not support hotplugging", NOTHING_CAME)), True),
    ],
)
def test_whatever_is_no_agreement_needs_a_reason_that_the_guest_bears_out(
    cell: Cell, result: Result, told: bool
) -> None:
    assert is_explained(cell, result) is told


@pytest.mark.parametrize(
    ("result", "counts_as"),
    [
        (good(A), "model = kernel"),
        (wrong(A, ORDER), "the kernel differs from the model"),
        (replace(good(A), explained=(ORDER,)), "the kernel differs from the model"),
        (replace(good(A), notes=(NOTHING_CAME,)), "hot plug without effect"),
        (replace(good(A), notes=("host: no",)), "hot plug without effect"),
        (replace(good(A), status="no-iommu", agrees=None), "no IOMMU in use"),
        (replace(good(A), status="no-iommu", agrees=True), "no IOMMU in use"),
        (replace(good(A), disagreements=("end/x",)), "inside and outside differ"),
        (ended(A, "unavailable"), "cannot run"),
        (ended(A, "panic"), "gave no answer"),
    ],
)
def test_a_result_counts_once(result: Result, counts_as: str) -> None:
    assert class_of(result) == counts_as


def test_a_page_counts_what_it_shows() -> None:
    text = page([A, B, C], {A.name: good(A), B.name: wrong(B, ORDER), C.name: good(C)})

    assert "- 2 x model = kernel" in text
    assert "- 1 x the kernel differs from the model" in text
    assert "- kernel 5.10: 6.1.0" in text


def test_a_row_keeps_its_columns_whatever_the_words_are() -> None:
    result = Result(cell=A.name, outcome="qemu-failed", seconds=0, words="a | b <c>")

    assert row(A, result).replace("\\|", "").count("|") == 8


def test_looks_that_differ_are_all_told() -> None:
    assert row(A, replace(good(A), looks=("a: x", "end: x"))).endswith("| model = kernel |")
    assert row(A, replace(good(A), looks=("a: x", "end: y"))).endswith("| a: x; end: y |")


def test_a_hot_plug_without_effect_is_no_agreement_in_disguise() -> None:
    refused = replace(good(A), notes=("up 3", "host: no such bus", NOTHING_CAME))

    assert row(A, replace(good(A), notes=("up 3", NOTHING_CAME))).endswith(
        "| model = kernel (hot plug: the kernel saw nothing of it) |"
    )
    assert row(A, refused).endswith("| model = kernel (hot plug: no such bus) |")
    assert f"## Hot plug without effect\n\n- `{A.name}`: no such bus\n" in page([A], {A.name: refused})


def test_the_reason_why_no_iommu_is_in_use_is_told() -> None:
    off = replace(good(A), status="no-iommu", agrees=None, usage="iommu=off")

    assert row(A, off).endswith("| no IOMMU in use: iommu=off |")


def test_the_console_is_searched_for_lines_that_tell_of_trouble() -> None:
    console = (
        "\x1b[2J\x1b[01;01HEFI stub: ERROR: Failed to load initrd: 0x8000000000000009\r\n"
        "[    1.7] /dev/root: Can't lookup blockdev\n"
        "[    1.730119] Kernel panic - not syncing: VFS: Unable to mount root fs\n"
        "[    1.731119] Kernel panic - not syncing: VFS: Unable to mount root fs\n"
    )

    assert telling_lines(console) == (
        "EFI stub: ERROR: Failed to load initrd: 0x8000000000000009",
        "Kernel panic - not syncing: VFS: Unable to mount root fs",
    )


def test_only_what_the_kernel_did_calls_for_a_cause() -> None:
    finding = {"devices": ["a"], "causes": []}
    document = {"findings": [{**finding, "kind": "unisolated"}, {**finding, "kind": "split"}]}

    assert list(explained_in(document)) == [Explained(kind="split", devices=("a",))]


def booted(name: str, answer: bytes) -> Boot:
    capture = (FIXTURES / f"{name}.tar.gz").read_bytes()
    channel = Channel(files={"end/check": Sent(answer, 1), "end/capture": Sent(capture, 0)}, done=True)
    return Boot(outcome=Outcome.DONE, seconds=1, channel=channel)


SPLIT = "6.12-amd64-virtio-seed-rp-parallel-q7.2"


def test_a_kept_capture_is_judged_again_without_a_boot(tmp_path: Path) -> None:
    document = json.dumps({"status": "ok", "groups": {"actual": [], "expected": [], "ungrouped": []}})
    first = judge(A, booted(SPLIT, document.encode()), tmp_path)
    again = judge_again(replace(first, sources="of an earlier iommud"), tmp_path)

    assert (first.status, first.sources) == ("ok", source_digest())
    assert (again.status, again.findings) == ("findings", ("alias-split",))
    assert {one.cause for one in again.explained} == {"probe-order"}
    assert (again.sources, again.judged_by) == ("of an earlier iommud", source_digest())
    assert again.disagreements == first.disagreements != ()
    assert "Of 1 cells of 1 a later iommud judged the capture again" in page([A], {A.name: again})


def test_the_console_of_a_guest_without_an_answer_is_read_again(tmp_path: Path) -> None:
    (tmp_path / A.name).mkdir()
    (tmp_path / A.name / "console.log").write_text("[1.0] Kernel panic - x\n")

    assert judge_again(ended(A, "panic"), tmp_path).console == ("Kernel panic - x",)


def test_the_page_is_made_anew_from_what_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(run, "PAGE", tmp_path / "page.md")
    monkeypatch.setattr(run, "matrix", lambda: [A, B])
    results = tmp_path / "iommud" / "guest" / "results"
    kept = judge(A, booted(SPLIT, b"{}"), results)
    State(results / "matrix.jsonl").add(replace(kept, disagreements=(), sources="x"))

    assert run.main(["matrix", "--judge"]) == 0
    assert "### [probe-order](causes/probe-order.md)" in (tmp_path / "page.md").read_text()
    assert f"1 of 2 cells judged; not booted: {B.name}" in capsys.readouterr().err
    assert State(results / "matrix.jsonl").read()[A.name].findings == ("alias-split",)


def test_the_committed_page_has_every_cell_and_explains_each() -> None:
    text = run.PAGE.read_text(encoding="utf-8")
    table = text.partition("## All cells")[2]

    assert UNEXPLAINED not in text
    assert len([line for line in table.splitlines() if line.startswith("| ")]) - 1 == len(
        LIST.read_text(encoding="utf-8").split()
    )
