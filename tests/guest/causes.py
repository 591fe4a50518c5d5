# SPDX-License-Identifier: GPL-2.0-or-later
"""Why a guest gave no answer, where iommud had no say: it did not end, or what was plugged in did not come.

Why groups are not the model's is not told here: iommud names the cause of each finding itself. A reason is given
only where the guest's own words bear it out; whatever has none is shown as not explained.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tests.guest.boot import Outcome
from tests.guest.judge import Result
from tests.guest.machine import Cell, Iommu, memory
from tests.guest.steps import added


@dataclass(frozen=True, slots=True)
class Reason:
    """A reason, and the guests that it holds for."""

    text: Callable[[Cell], str]
    applies: Callable[[Cell, Result], bool]


def _tells(result: Result, *words: str) -> bool:
    """Whether the guest's console bears a reason out."""
    return all(any(word in line for line in result.console) for word in words)


def _came_later(cell: Cell, result: Result) -> bool:
    """Whether a function beyond the first was plugged in, and is there in the end."""
    beyond = {str(device.function) for device in added(cell.steps) if device.function}
    return bool(beyond) and beyond <= {one.rpartition(".")[2] for group in result.groups for one in group}


REASONS = (
    Reason(
        lambda cell: f"The guest has {memory(cell)} MiB, too little on purpose.",
        lambda cell, result: cell.memory is not None and _tells(result, "ut of memory"),
    ),
    Reason(
        lambda _: (
            "Before 5.13 the SMMUv3 driver does not look whether a stream has an owner: it writes the entry of the "
            "second function that sends under one stream over that of the first, and meets its own `BUG_ON()`. The "
            "task that probed the driver dies with its locks held, and whoever reads sysfs afterwards waits for ever. "
            "Since 5.13 the second function is refused instead ([smmuv3-stream-conflict](causes/"
            "smmuv3-stream-conflict.md)). `iommud defects smmuv3-stream-bug` tells more."
        ),
        lambda cell, result: (
            cell.iommu is Iommu.SMMUV3 and _tells(result, "Internal error: Oops - BUG", "arm_smmu_write_strtab_ent")
        ),
    ),
    Reason(
        lambda _: (
            "QEMU shows a guest a function beyond the first when function 0 of its slot comes: after the first hot plug"
            " there was nothing to see, after the second both were there."
        ),
        lambda cell, result: result.outcome == Outcome.DONE and _came_later(cell, result),
    ),
)


def reason_of(cell: Cell, result: Result) -> str | None:
    """Why a guest gave no answer, or None where that is not known."""
    return next((one.text(cell) for one in REASONS if one.applies(cell, result)), None)
