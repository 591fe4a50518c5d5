# SPDX-License-Identifier: GPL-2.0-or-later
"""Devices in other slots: which numbers they get, what comes along, and where they cannot go."""

from __future__ import annotations

import pytest

from iommud.pci import PortType
from iommud.whatif.apply import apply
from iommud.whatif.changes import ImpossibleChangeError
from iommud.whatif.imagined import Imagined
from tests.machines import ON, Machine
from tests.whatif.imagining import at, captured, change, imagined


def machine() -> Machine:
    """One of each kind of bus, with something on it; port 00:09.0 is empty."""
    found = Machine()
    found.root_port("00:01.0", to=1, acs=ON)
    found.endpoint("01:00.0")
    found.root_port("00:02.0", to=2, acs=ON)
    found.switch_upstream("02:00.0", to=3)
    found.switch_downstream("03:00.0", to=4, acs=ON)
    found.endpoint("04:00.0", mf=True)
    found.endpoint("04:00.1", mf=True)
    found.switch_downstream("03:01.0", to=5, acs=ON)
    found.root_port("00:03.0", to=6, acs=ON)
    found.pcie_to_pci("06:00.0", to=7)
    found.conventional("07:01.0")
    found.conventional("07:02.0")
    found.pci_bridge("00:04.0", to=8)
    found.conventional("08:01.0")
    found.rciep("00:05.0")
    found.endpoint("00:06.0", mf=True)
    found.root_port("00:09.0", to=9, acs=ON)
    found.root_port("00:0a.0", to=0x10, acs=ON)
    found.endpoint("10:00.0", ari_enabled=True)
    found.vf("10:01.0", of="10:00.0")
    found.vf("11:00.0", of="10:00.0")
    found.add("0001:00:01.0", PortType.ROOT_PORT, to=1, acs=ON)
    found.add("0001:00:02.0", PortType.ROOT_PORT, to=3, acs=ON)
    found.add("0001:03:00.0", 0)
    return found


def moved(text: str, start: Machine | None = None) -> dict[str, str]:
    """Where each function went, the domain left out where it is 0000."""
    after = apply(imagined(start or machine()), change(f"move {text}"))
    return {_short(str(old)): _short(str(new)) for new, old in after.origins.items()}


def _short(name: str) -> str:
    return name.removeprefix("0000:")


@pytest.mark.parametrize(
    ("text", "places"),
    [
        ("01:00.0=00:09.0", {"01:00.0": "09:00.0"}),
        ("01:00.0=00:09.0/00.0", {"01:00.0": "09:00.0"}),
        ("01:00.0=09:00.0", {"01:00.0": "09:00.0"}),
        ("01:00.0=03:01.0", {"01:00.0": "05:00.0"}),
        ("01:00.0=00:0b.0", {"01:00.0": "00:0b.0"}),
        ("01:00.0=00:06.1", {"01:00.0": "00:06.1"}),
        ("00:05.0=00:09.0", {"00:05.0": "09:00.0"}),
        ("04:00.0=00:09.0", {"04:00.0": "09:00.0", "04:00.1": "09:00.1"}),
        ("04:00.1=09:00.1", {"04:00.0": "09:00.0", "04:00.1": "09:00.1"}),
        ("04:00.0=00:0b.0", {"04:00.0": "00:0b.0", "04:00.1": "00:0b.1"}),
        ("02:00.0=00:09.0", {"02:00.0": "09:00.0"}),
        ("06:00.0=00:09.0", {"06:00.0": "09:00.0"}),
        ("06:00.0=00:0b.0", {"06:00.0": "00:0b.0"}),
        ("07:01.0=06:00.0", {}),
        ("07:01.0=06:00.0/05.0", {"07:01.0": "07:05.0"}),
        ("07:01.0=07:00.0", {"07:01.0": "07:00.0"}),
        ("07:02.0=00:04.0", {"07:02.0": "08:02.0"}),
        ("07:01.0=00:04.0", {"07:01.0": "08:02.0"}),
        ("07:01.0=08:1f.0", {"07:01.0": "08:1f.0"}),
        ("08:01.0=00:0b.0", {"08:01.0": "00:0b.0"}),
        ("03:01.0=02:00.0/05.0", {"03:01.0": "03:05.0"}),
        ("10:00.0=00:09.0", {"10:00.0": "09:00.0", "10:01.0": "09:01.0"}),
        ("01:00.0=0001:00:01.0", {"01:00.0": "0001:01:00.0"}),
    ],
)
def test_a_device_gets_the_numbers_of_its_slot(text: str, places: dict[str, str]) -> None:
    assert moved(text) == places


def test_in_another_domain_buses_whose_numbers_are_taken_get_others() -> None:
    assert moved("02:00.0=0001:00:01.0") == {
        "02:00.0": "0001:01:00.0",
        "03:00.0": "0001:02:00.0",
        "03:01.0": "0001:02:01.0",
        "04:00.0": "0001:04:00.0",
        "04:00.1": "0001:04:00.1",
    }


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("05:00.0=00:09.0", "0000:05:00.0 is not on the PCI bus"),
        ("01:00.0=00:02.0", "the slot is taken by 0000:02:00.0"),
        ("01:00.0=04:00.0", "the slot is taken by 0000:04:00.0"),
        ("01:00.0=00:05.0", "the slot is taken by 0000:00:05.0"),
        ("01:00.0=00:09.0/01.0", "a PCIe link has device 0 only"),
        ("01:00.0=0a:00.0", "there is no bus 0000:0a"),
        ("01:00.0=0002:00:00.0", "there is no bus 0002:00"),
        ("01:00.0=00:05.0/00.0", "0000:00:05.0 is no bridge"),
        ("01:00.0=00:0f.0/00.0", "0000:00:0f.0 is no bridge"),
        ("01:00.0=06:00.0", "0000:01:00.0 is PCIe, and the bus below 0000:06:00.0 is conventional"),
        ("01:00.0=00:04.0", "0000:01:00.0 is PCIe, and the bus below 0000:00:04.0 is conventional"),
        ("07:01.0=00:09.0", "0000:07:01.0 is conventional, and 0000:00:09.0 takes PCIe devices only"),
        ("01:00.0=02:00.0", "within a switch, there are downstream ports only"),
        ("03:01.0=00:09.0", "there are downstream ports only"),
        ("03:01.0=00:0b.0", "is a port that needs a bridge above it"),
        ("02:00.0=00:0b.0", "is a port that needs a bridge above it"),
        ("00:09.0=03:01.0", "0000:00:09.0 cannot lie below a PCIe port"),
        ("02:00.0=03:01.0", "cannot lie below itself"),
        ("10:01.0=00:09.0", "is a virtual function: it goes where 0000:10:00.0 goes"),
        ("01:00.0=11:05.0", "the bus holds virtual functions only"),
        ("01:00.0=00:0b.1", "the kernel finds it only beside a multifunction function 0"),
        ("01:00.0=00:05.1", "the kernel finds it only beside a multifunction function 0"),
        ("04:00.0=00:0b.3", "has several functions, which keep their numbers"),
    ],
)
def test_a_device_that_does_not_fit_is_refused(text: str, said: str) -> None:
    with pytest.raises(ImpossibleChangeError, match=said):
        moved(text)


def test_no_slot_is_free_on_a_full_bus() -> None:
    full = machine()
    for number in range(32):
        if number != 1:
            full.conventional(f"08:{number:02x}.0")

    with pytest.raises(ImpossibleChangeError, match="no slot is free there"):
        moved("07:02.0=00:04.0", full)
    with pytest.raises(ImpossibleChangeError, match=r"the slot is taken by 0000:08:05\.0"):
        moved("07:02.0=08:05.0", full)


def test_a_function_beside_another_is_asked_for_where_it_is_taken() -> None:
    beside = machine()
    beside.endpoint("00:06.1", mf=True)

    with pytest.raises(ImpossibleChangeError, match=r"the slot is taken by 0000:00:06\.1"):
        moved("01:00.0=00:06.1", beside)


@pytest.mark.parametrize(
    ("hide", "text", "said"),
    [
        ("01:00.0", "01:00.0=00:09.0", "whether 0000:01:00.0 is PCIe or conventional is not known"),
        ("00:09.0", "01:00.0=00:09.0", "what kind of bridge 0000:00:09.0 is, is not known"),
    ],
)
def test_where_a_kind_was_not_read_nothing_is_guessed(hide: str, text: str, said: str) -> None:
    unread = machine()
    unread.hide_config(hide)

    with pytest.raises(ImpossibleChangeError, match=said):
        moved(text, unread)


def test_a_bridge_without_a_known_bus_can_neither_move_nor_hold_anything() -> None:
    unknown = machine()
    unknown.change("00:09.0", secondary_bus=None, class_code=0x060400)

    with pytest.raises(ImpossibleChangeError, match=r"which bus lies below 0000:00:09\.0 is not known"):
        moved("01:00.0=00:09.0", unknown)
    with pytest.raises(ImpossibleChangeError, match="which bus lies below it is not known"):
        moved("00:09.0=00:0b.0", unknown)


def after(text: str) -> Imagined:
    return apply(imagined(machine()), change(f"move {text}"))


@pytest.mark.parametrize(
    ("text", "name", "port_type"),
    [
        ("01:00.0=00:0b.0", "00:0b.0", PortType.ROOT_COMPLEX_INTEGRATED_ENDPOINT),
        ("00:05.0=00:09.0", "09:00.0", PortType.ENDPOINT),
        ("01:00.0=00:09.0", "09:00.0", PortType.ENDPOINT),
        ("06:00.0=00:0b.0", "00:0b.0", PortType.PCIE_TO_PCI_BRIDGE),
        ("00:06.0=00:0b.0", "00:0b.0", PortType.ENDPOINT),
    ],
)
def test_an_endpoint_on_a_root_bus_is_integrated_and_below_a_port_it_is_not(
    text: str, name: str, port_type: PortType
) -> None:
    assert after(text).function(at(name)).config.port_type == port_type


def test_what_only_a_hypervisor_can_do_is_said() -> None:
    assert "from where only a hypervisor can move it" in " ".join(after("00:05.0=00:09.0").notes)
    assert "is put on a root bus, which only a hypervisor can do" in " ".join(after("01:00.0=00:0b.0").notes)
    assert "hypervisor" not in " ".join(after("01:00.0=00:09.0").notes)


def test_a_function_takes_over_the_root_of_its_place() -> None:
    one = after("01:00.0=0001:00:01.0").function(at("0001:01:00.0"))

    assert (one.root, one.upstream) == ((1, 0), at("0001:00:01.0"))


def test_virtual_functions_on_a_bus_of_their_own_keep_it_within_the_domain() -> None:
    found = after("10:00.0=00:09.0")

    assert found.function(at("11:00.0")).physfn == at("09:00.0")
    assert found.function(at("09:01.0")).physfn == at("09:00.0")


def test_two_devices_can_change_places_through_a_free_slot() -> None:
    changes = ["move 01:00.0=00:09.0", "move 04:00.0=00:01.0", "move 09:00.0=03:00.0"]
    found = imagined(machine())
    for text in changes:
        found = apply(found, change(text))

    assert {str(new): str(old) for new, old in found.origins.items()} == {
        "0000:04:00.0": "0000:01:00.0",
        "0000:01:00.0": "0000:04:00.0",
        "0000:01:00.1": "0000:04:00.1",
    }


def test_a_device_with_a_vmd_domain_inside_takes_it_along() -> None:
    host = machine()
    host.change("01:00.0", vendor=0x8086, device=0x201D)
    host.hosts[0x10000] = at("01:00.0")
    host.add(at("10000:00:00.0"), 4, to=1)
    host.add(at("10000:01:00.0"), 0)
    found = apply(imagined(host), change("move 01:00.0=00:09.0"))

    assert found.function(at("10000:01:00.0")).host_parent == at("09:00.0")
    assert found.function(at("10000:00:00.0")).secondary_bus == 1


def test_there_is_no_room_for_virtual_functions_where_others_have_their_numbers() -> None:
    with pytest.raises(ImpossibleChangeError, match="there is no room"):
        moved("10:00.0=00:08.0")


def test_a_domain_without_bus_numbers_takes_no_bridge() -> None:
    crowded = machine()
    for number in range(0x11, 0xFF):
        crowded.buses[1, number] = at("0001:00:03.0")
        crowded.add(f"0001:{number:02x}:00.0", 0, upstream=None)
    for number in (*range(4, 0x11), 2, 0xFF):
        crowded.add(f"0001:{number:02x}:00.0", 0, upstream=None)

    with pytest.raises(ImpossibleChangeError, match="domain 0001 has no bus number left"):
        moved("02:00.0=0001:00:01.0", crowded)


def test_a_device_that_goes_to_its_own_root_bus_keeps_being_served_although_old_tables_do_not_name_the_slot() -> None:
    start = Imagined.of(captured("6.12-amd64-intel-seed-q7.2"))
    after = apply(start, change("move 02:00.0=00:01.0"))

    assert after.joins(after.topology())(at("00:01.0"))
    assert "the hypervisor's tables are taken to serve 0000:00:01.0, which they do not name today" in after.notes
