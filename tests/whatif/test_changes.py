# SPDX-License-Identifier: GPL-2.0-or-later
"""Changes are read from text, and say what they are."""

from __future__ import annotations

import pytest

from iommud.address import Address
from iommud.model.acs import Override
from iommud.whatif.changes import OverrideAcs, Slot
from tests.whatif.imagining import at, change


@pytest.mark.parametrize(
    ("text", "slot"),
    [
        ("00:1c.0", Slot(at=Address(0, 0, 0x1C, 0))),
        ("0001:02:05.3", Slot(at=Address(1, 2, 5, 3))),
        ("00:1c.0/00.0", Slot(below=Address(0, 0, 0x1C, 0), device=0, function=0)),
        ("01:00.0/1f.7", Slot(below=Address(0, 1, 0, 0), device=0x1F, function=7)),
    ],
)
def test_a_slot_is_a_bridge_a_place_below_one_or_an_address(text: str, slot: Slot) -> None:
    assert Slot.parse(text) == slot
    assert Slot.parse(str(slot)) == slot


@pytest.mark.parametrize("text", ["", "slot 3", "00:1c.0/", "00:1c.0/20.0", "00:1c.0/00.8", "/00.0", "00:1c.0/0/0"])
def test_what_is_no_slot_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is no"):
        Slot.parse(text)


def test_a_slot_without_a_place_names_its_bridge() -> None:
    assert str(Slot(below=at("00:1c.0"))) == "0000:00:1c.0"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("acs on", "ACS on wherever it exists"),
        ("acs off=00:02.0", "ACS off at 0000:00:02.0"),
        ("kernel 6.18", "kernel 6.18"),
        ("without 02:00.0", "without 0000:02:00.0"),
        ("move 02:00.0=00:1c.0", "0000:02:00.0 moved to 0000:00:1c.0"),
        ("cmdline iommu=off", "iommu=off on the kernel command line"),
        ("cmdline \x1b[2J", "\\x1b[2J on the kernel command line"),
        ("order bottom-up", "probed bottom-up"),
        ("override ", "no pcie_acs_override"),
        ("override multifunction,downstream", "a patched kernel with pcie_acs_override=downstream,multifunction"),
    ],
)
def test_a_change_says_what_it_is(text: str, words: str) -> None:
    assert str(change(text)) == words


def test_the_override_names_devices_too() -> None:
    found = OverrideAcs(frozenset({Override.DOWNSTREAM}), frozenset({(0x8086, 0x10D3)}))

    assert found.parameter == "pcie_acs_override=downstream,id:8086:10d3"
