# SPDX-License-Identifier: GPL-2.0-or-later
"""Real kernels in guests: six boots that show each kind of IOMMU, hot plug, and the absence of an IOMMU."""

from __future__ import annotations

import json

import pytest

from tests.guest.boot import Outcome, boot_twice
from tests.guest.cells import EXPECTED, SMOKE
from tests.guest.debian import cache_directory
from tests.guest.judge import judge
from tests.guest.plan import END
from tests.guest.served import served_differences
from tests.guest.steps import Serve
from tests.guest.supplies import Supplies

RESULTS = cache_directory() / "results"


# Two boots, if the first one hangs.
@pytest.mark.timeout(900)
@pytest.mark.guest
@pytest.mark.parametrize("name", SMOKE)
def test_iommud_inside_the_guest_says_what_is_known_and_what_it_says_outside(name: str) -> None:
    cell = SMOKE[name]
    booted = boot_twice(cell, Supplies(cache_directory()))
    result = judge(cell, booted, RESULTS)

    assert result.outcome == Outcome.DONE, f"{result.summary}; see {RESULTS / cell.name}"
    assert not result.disagreements
    assert (result.status, result.findings) == EXPECTED[name]
    if Serve(END) in cell.steps:
        assert not served_differences(booted.channel.files, END)
    if name == "hot-add":
        added = json.loads((RESULTS / cell.name / "added.json").read_bytes())
        assert ["0000:01:00.0", "0000:02:02.0"] in added["groups"]["actual"]
        assert result.looks == ("before: model = kernel", "added: model = kernel", "end: model = kernel")
