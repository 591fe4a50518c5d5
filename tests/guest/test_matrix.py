# SPDX-License-Identifier: GPL-2.0-or-later
"""The plan of the big run, its bookkeeping, and the page that it writes."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Hashable, Mapping
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.guest.cells import EXPECTED, FOUNDING, HOT_PLUG_ELSEWHERE, NAMED, SMOKE
from tests.guest.judge import Result
from tests.guest.machine import Architecture, Cell, Iommu, LoadOrder
from tests.guest.matrix import BESIDE, DIMENSIONS, LIST, MOST_BOOTS, matrix, possible
from tests.guest.pairwise import pairs_of, pairwise
from tests.guest.picture import picture
from tests.guest.progress import State, progress_line, run_all
from tests.guest.run import main, names
from tests.guest.steps import added
from tests.guest.supplies import KERNELS, QEMUS
from tests.guest.topology import TOPOLOGIES

SMALL = st.dictionaries(
    st.sampled_from("abcd"), st.lists(st.integers(0, 3), min_size=1, max_size=4, unique=True), min_size=2, max_size=4
)


def no_equal_neighbours(values: Mapping[str, Hashable]) -> bool:
    return all(left != right for left, right in itertools.pairwise(values.values()))


@given(SMALL)
def test_every_pair_that_is_possible_meets_and_nothing_impossible_is_chosen(dimensions: dict[str, list[int]]) -> None:
    every = [dict(zip(dimensions, one, strict=True)) for one in itertools.product(*dimensions.values())]
    wanted = {pair for one in every if no_equal_neighbours(one) for pair in pairs_of(one)}
    chosen = pairwise(dimensions, no_equal_neighbours)

    assert {pair for one in chosen for pair in pairs_of(one)} == wanted
    assert all(no_equal_neighbours(one) for one in chosen)


def test_few_combinations_hold_many_pairs() -> None:
    dimensions = {name: tuple(range(4)) for name in "abcdef"}

    assert len(pairwise(dimensions, lambda _: True)) <= 32  # of 4096; 16 is the least that could be


def test_the_matrix_is_the_one_that_is_committed() -> None:
    assert names(matrix()) == LIST.read_text(encoding="utf-8"), (
        "the plan has changed: python -m tests.guest.run list > tests/guest/matrix-cells.txt"
    )


def test_the_matrix_keeps_within_its_budget_and_has_no_cell_twice() -> None:
    cells = matrix()

    assert len(cells) <= MOST_BOOTS
    assert len({cell.name for cell in cells}) == len(cells)


def test_the_matrix_has_every_named_cell_and_every_value_of_every_dimension() -> None:
    cells = matrix()

    assert {cell.name for cell in NAMED.values()} <= {cell.name for cell in cells}
    assert {cell.kernel for cell in cells} == set(KERNELS)
    assert {cell.qemu for cell in cells} == set(QEMUS)
    assert {cell.topology for cell in cells} == set(TOPOLOGIES)
    assert {cell.topology for cell in cells if cell.kernel in BESIDE} >= set(DIMENSIONS["topology"])
    assert {cell.iommu for cell in cells} == set(Iommu)
    assert {cell.order for cell in cells} == set(LoadOrder)
    assert {(cell.kernel, cell.architecture) for cell in cells} == set(itertools.product(KERNELS, Architecture))


def test_the_smoke_run_needs_one_emulator_and_one_kernel_for_each_architecture() -> None:
    assert len(SMOKE) == 6
    assert len({cell.qemu for cell in SMOKE.values()}) == 1
    assert len({(cell.kernel, cell.architecture) for cell in SMOKE.values()}) == 2


@pytest.mark.parametrize("cell", [*NAMED.values()], ids=lambda cell: cell.name)
def test_a_named_cell_names_what_there_is(cell: Cell) -> None:
    assert cell.kernel in KERNELS
    assert cell.qemu in QEMUS
    assert cell.topology in TOPOLOGIES


def test_functions_that_are_plugged_in_keep_their_numbers() -> None:
    cell = HOT_PLUG_ELSEWHERE["6.12-amd64-intel-empty-port-q10-two-functions"]

    assert [device.argument() for device in added(cell.steps)] == [
        "e1000e,id=second,bus=rp,addr=0.1",
        "e1000e,id=first,bus=rp,addr=0.0,multifunction=on",
    ]


def test_every_smoke_cell_has_an_expected_answer() -> None:
    assert EXPECTED.keys() == SMOKE.keys()


def test_what_cannot_be_booted_is_not_planned() -> None:
    values = {name: first[0] for name, first in DIMENSIONS.items()}

    assert possible(values)
    assert not possible({**values, "order": LoadOrder.RACING})
    assert not possible({**values, "topology": "sriov-igb", "qemu": "7.2"})
    assert possible({**values, "topology": "sriov-igb", "qemu": "10"})


A, B, C = (Cell(kernel=kernel, topology="founding", iommu=Iommu.INTEL) for kernel in ("5.10", "6.1", "6.12"))


def good(cell: Cell) -> Result:
    return Result(cell=cell.name, outcome="done", seconds=10, status="ok", agrees=True, kernel="6.1.0", qemu="7.2.22")


def wrong(cell: Cell) -> Result:
    return Result(cell=cell.name, outcome="done", seconds=10, status="findings", agrees=False, findings=("split",))


def test_an_interrupted_run_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.guest.progress.end_all", lambda: None)
    state = State(tmp_path / "below" / "state.jsonl")
    ran: list[str] = []

    def run(cell: Cell) -> Result:
        ran.append(cell.name)
        if cell is B:
            raise KeyboardInterrupt
        return good(cell)

    def remembered(cell: Cell) -> Result:
        ran.append(cell.name)
        return good(cell)

    with pytest.raises(KeyboardInterrupt):
        run_all([A, B, C], state, run, jobs=1, say=lambda _: None)
    assert A.name in state.read()
    ran.clear()
    found = run_all([A, B], state, remembered, jobs=2, say=lambda _: None)

    assert ran == [B.name]
    assert found == {A.name: good(A), B.name: good(B)}


def test_a_line_cut_short_is_a_cell_to_run_again(tmp_path: Path) -> None:
    path = tmp_path / "state.jsonl"
    path.write_text(good(A).encode() + "\n" + good(B).encode()[:20], encoding="utf-8")

    assert State(path).read() == {A.name: good(A)}


def test_the_last_result_of_a_cell_counts(tmp_path: Path) -> None:
    state = State(tmp_path / "state.jsonl")
    state.add(wrong(A))
    state.add(good(A))

    assert state.read() == {A.name: good(A)}


def test_progress_says_how_far_and_how_long() -> None:
    assert progress_line(good(A), 10, 40, 600).startswith(
        "[10/40, 30 min left] 5.10-amd64-intel-founding-q7.2: model = "
    )
    assert "2 h 5 min left" in progress_line(good(A), 1, 126, 60)


def test_several_cells_run_at_a_time_and_every_result_is_kept(tmp_path: Path) -> None:
    state = State(tmp_path / "state.jsonl")
    together = threading.Barrier(2, timeout=60)

    def run(cell: Cell) -> Result:
        if cell is not C:
            together.wait()  # which needs both at once
        return good(cell)

    assert run_all([A, B, C], state, run, jobs=2, say=lambda _: None).keys() == {A.name, B.name, C.name}
    assert state.read().keys() == {A.name, B.name, C.name}


def test_the_founding_thread_is_told_in_pictures() -> None:
    result = Result(
        cell="c", outcome="done", seconds=9, groups=(("0000:00:02.0", "0000:01:00.0"),), ungrouped=("0000:02:00.0",)
    )
    lines = picture("x86", result).splitlines()

    assert lines[1:3] == ["  group: 00:02.0 01:00.0", "  no group: 02:00.0"]
    assert len(FOUNDING) == len({cell.name for cell in FOUNDING.values()})


def test_the_command_line_of_a_cell_can_be_read_without_a_guest(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", "founding-intel"]) == 0
    assert "-device ioh3420,id=rp,bus=pcie.0,addr=2.0,chassis=2" in capsys.readouterr().out


def test_an_unknown_cell_is_named() -> None:
    with pytest.raises(SystemExit, match="no cell is called 6\\.9"):
        main(["show", "6.9"])
