# SPDX-License-Identifier: GPL-2.0-or-later
"""Machines to imagine things of, and short ways to write changes and groups."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from iommud import read_sysfs
from iommud.address import Address
from iommud.kernel import requested
from iommud.model.acs import Override
from iommud.snapshot import Snapshot
from iommud.verdict.pipeline import judge
from iommud.verdict.report import Report
from iommud.whatif.apply import apply_all
from iommud.whatif.changes import (
    AddParameters,
    BootKernel,
    Change,
    Move,
    Order,
    OverrideAcs,
    ProbeInOrder,
    Slot,
    SwitchAcs,
    TakeOut,
)
from iommud.whatif.imagined import Imagined
from iommud.whatif.prediction import Prediction, predict
from tests.machines import Machine, Partition
from tests.verdict.seen import seen

FIXTURES = Path(__file__).parent.parent / "fixtures"


def at(text: str) -> Address:
    return Address.parse(text)


def captured(name: str) -> Report:
    """The report on a capture or machine, with every register that was read."""
    path = next(FIXTURES.glob(f"*/{name}.tar.gz"))
    return judge(read_sysfs(str(path), thorough=True))


def imagined(machine: Machine, groups: str = "", **facts: Any) -> Imagined:
    """A built machine with an Intel IOMMU, unless told otherwise."""
    return Imagined.of(judge(seen(machine, groups, **facts)))


def of_snapshot(snapshot: Snapshot) -> Imagined:
    return Imagined.of(judge(snapshot))


def change(text: str) -> Change:
    """A change written as on the command line: ``acs on=00:02.0``, ``kernel 6.18``, ``without 01:00.0``."""
    name, _, value = text.partition(" ")
    match name:
        case "acs":
            state, _, where = value.partition("=")
            return SwitchAcs(state == "on", at(where) if where else None)
        case "override":
            return OverrideAcs(frozenset(Override(one) for one in value.split(",") if one))
        case "kernel":
            return BootKernel(requested(value))
        case "without":
            return TakeOut(at(value))
        case "move":
            address, _, slot = value.partition("=")
            return Move(at(address), Slot.parse(slot))
        case "cmdline":
            return AddParameters(value)
        case _:
            return ProbeInOrder(Order(value))


def after(machine: Imagined, *changes: str) -> Prediction:
    return predict(apply_all(machine, [change(text) for text in changes]))


def found(prediction: Prediction) -> Partition:
    return frozenset(prediction.groups)
