# SPDX-License-Identifier: GPL-2.0-or-later
"""Reads cost: which registers of which functions are asked for, and which are left alone."""

from dataclasses import replace

import pytest

from iommud.address import Address
from iommud.kernel import requested
from iommud.model.quirks import Quirks
from iommud.pci import Wanted
from iommud.plan import plan_reads
from iommud.snapshot import PciFunction

PF = Address.parse("00:04.0")
QUIRKS = Quirks.bundled(requested("7.3").version)
ALL = Wanted()
NO_HEADER = Wanted(header=False)


def function(
    name: str, ids: str | None = "1234:11e8", *, bridge: bool = False, vf: bool = False, class_code: int | None = None
) -> PciFunction:
    vendor, device = (None, None) if ids is None else (int(part, 16) for part in ids.split(":"))
    return PciFunction(
        address=Address.parse(name),
        vendor=vendor,
        device=device,
        secondary_bus=1 if bridge else None,
        physfn=PF if vf else None,
        class_code=class_code,
    )


def planned(*functions: PciFunction, thorough: bool = False) -> dict[str, Wanted]:
    plan = plan_reads(functions, QUIRKS, thorough=thorough)
    return {str(address)[5:]: wanted for address, wanted in plan.items()}


def test_a_function_alone_in_its_slot_is_not_read() -> None:
    assert planned(function("00:03.0"), function("00:04.0"), function("01:03.0")) == {}


def test_functions_of_one_slot_are_read_and_only_the_first_for_its_header() -> None:
    assert planned(function("00:03.0"), function("00:03.5")) == {"00:03.0": ALL, "00:03.5": NO_HEADER}


def test_bridges_are_always_read() -> None:
    assert planned(function("00:03.0", bridge=True)) == {"00:03.0": ALL}


def test_virtual_functions_are_never_read() -> None:
    functions = (function("00:04.0"), function("00:04.1", vf=True), function("00:04.2", vf=True))

    assert planned(*functions) == {"00:04.0": ALL}
    assert planned(*functions, thorough=True).keys() == {"00:04.0"}


def test_for_display_all_are_read_whatever_their_type() -> None:
    assert planned(function("00:03.0"), thorough=True) == {"00:03.0": Wanted(every_type=True)}


@pytest.mark.parametrize("ids", ["17cb:0400", "8086:10c6"], ids=["always", "multifunction endpoint"])
def test_what_a_table_calls_isolated_needs_no_registers(ids: str) -> None:
    assert planned(function("00:03.0", ids), function("00:03.1", ids)) == {}


def test_of_a_bridge_that_a_table_calls_isolated_the_port_type_is_still_asked() -> None:
    assert planned(function("00:03.0", "17cb:0400", bridge=True)) == {"00:03.0": Wanted(acs=False)}


def test_of_wangxun_adapters_only_the_header_is_asked() -> None:
    wanted = Wanted(capabilities=False, acs=False)

    assert planned(function("00:03.0", "8088:1001"), function("00:03.1", "8088:1001")) == {
        "00:03.0": wanted,
        "00:03.1": wanted,
    }


@pytest.mark.parametrize(
    ("ids", "wide", "mpc"), [("8086:a110", True, False), ("8086:8c10", False, True), ("8086:1237", False, False)]
)
def test_registers_that_only_some_root_ports_have_are_asked_of_those(ids: str, wide: bool, mpc: bool) -> None:
    wanted = planned(function("00:1c.0", ids, bridge=True))["00:1c.0"]

    assert (wanted.wide_acs, wanted.mpc) == (wide, mpc)


def test_a_function_of_unknown_identity_is_read_like_any_other() -> None:
    functions = (function("00:03.0", None), function("00:03.1", None), function("00:04.0", None))

    assert planned(*functions) == {"00:03.0": ALL, "00:03.1": NO_HEADER}


def test_a_vendor_alone_is_no_identity() -> None:
    functions = [replace(function(name, "8088:1001"), device=None) for name in ("00:03.0", "00:03.1")]

    assert planned(*functions) == {"00:03.0": ALL, "00:03.1": NO_HEADER}


@pytest.mark.parametrize(("class_code", "wanted"), [(0x060700, ALL), (0x060400, NO_HEADER), (None, NO_HEADER)])
def test_the_header_of_a_cardbus_bridge_is_always_asked(class_code: int | None, wanted: Wanted) -> None:
    assert planned(function("00:03.1", bridge=True, class_code=class_code)) == {"00:03.1": wanted}


def test_a_plan_is_frugal_unless_told_otherwise() -> None:
    assert plan_reads([function("00:03.0")], QUIRKS) == {}


def test_slots_of_other_domains_and_buses_are_other_slots() -> None:
    assert planned(function("00:03.0"), function("0001:00:03.1"), function("01:03.1")) == {}
