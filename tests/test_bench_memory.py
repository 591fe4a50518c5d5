# SPDX-License-Identifier: GPL-2.0-or-later
"""The daemon's memory is followed as its document says."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from tools.bench.daemon_memory import FIGURES, Sample, followed, growth, lines, samples
from tools.bench.run import DOCUMENT

STEADY = [Sample(looks, looks / 20, 40.0) for looks in range(0, 1001, 100)]
LEAKING = [Sample(looks, looks / 20, 40.0 + looks / 1024) for looks in range(0, 1001, 100)]


def test_every_look_is_waited_for_and_measured(tmp_path: Path) -> None:
    found = list(samples(tmp_path, looks=12, every=4, size=47))

    assert [one.looks for one in found] == list(range(13))
    assert all(one.resident > 10 for one in found)


@pytest.mark.parametrize(("found", "slope"), [(STEADY, 0.0), (LEAKING, 1000.0), (STEADY[:1], 0.0)])
def test_growth_is_told_for_each_thousand_looks(found: list[Sample], slope: float) -> None:
    assert growth(found) == pytest.approx(slope)


def test_growth_leaves_out_what_the_beginning_takes() -> None:
    assert growth([Sample(0, 0, 1.0), *STEADY[1:]]) == pytest.approx(0)


def test_each_sample_is_written_as_it_comes_with_the_time_that_is_left(capsys: pytest.CaptureFixture[str]) -> None:
    table = io.StringIO()

    assert followed(iter(STEADY), 2000, table) == STEADY
    assert table.getvalue().splitlines()[:3] == ["looks,seconds,resident_mib", "0,0.0,40.00", "100,5.0,40.00"]
    assert capsys.readouterr().err.splitlines()[10] == "1,000 of 2,000: 40.0 MiB, 1 min left"


def test_the_document_gets_the_memory_at_the_beginning_the_end_and_between() -> None:
    text = "\n".join(lines(LEAKING, 8))

    assert text.startswith("1,000 looks in 1 min, of which 125 found a change:")
    assert [line for line in text.splitlines() if line.startswith(("| 0 ", "| 1,000 "))] == [
        "| 0 | 40.0 MiB |",
        "| 1,000 | 41.0 MiB |",
    ]
    assert text.endswith("grows by 1000.0 KiB for each thousand looks.")


def test_the_document_has_a_place_for_the_figures() -> None:
    assert FIGURES.search(DOCUMENT.read_text(encoding="utf-8"))
