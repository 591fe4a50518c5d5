# SPDX-License-Identifier: GPL-2.0-or-later
"""The parameters that set ACS flags: what they ask for, of whom, and what the kernel would refuse."""

from __future__ import annotations

import pytest

from iommud.pci import ACS_EC
from iommud.whatif.parameters import FlagSetting, flag_settings, pci_options
from tests.machines import ON, Machine
from tests.whatif.imagining import at

REDIR = 0x0C | ACS_EC


def settings(words: str) -> list[tuple[str, int, int]]:
    return [(one.device, one.on, one.off) for one in flag_settings(words)]


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("pci=config_acs=111x1@00:1c.0", [("00:1c.0", 0x1D, 0)]),
        ("pci=config_acs=0@00:1c.0", [("00:1c.0", 0, 1)]),
        ("pci=config_acs=1X0@pci:8086:0", [("pci:8086:0", 4, 1)]),
        ("pci=config_acs=1@00:1c.0;10@00:1d.0", [("00:1c.0", 1, 0), ("00:1d.0", 2, 1)]),
        ("pci=disable_acs_redir=00:1c.0;pci:8086:1234", [("00:1c.0", 0, REDIR), ("pci:8086:1234", 0, REDIR)]),
        ("pci=noats,config_acs=1@00:1c.0,nomsi", [("00:1c.0", 1, 0)]),
        ("pci=config_acs=1@00:1c.0 pci=config_acs=1@00:1d.0", [("00:1d.0", 1, 0)]),
        ("quiet pci=noacpi pcie_ports=compat", []),
        ("", []),
    ],
)
def test_flags_are_read_from_the_right_and_the_last_parameter_counts(
    words: str, found: list[tuple[str, int, int]]
) -> None:
    assert settings(words) == found


@pytest.mark.parametrize(
    "value",
    [
        "config_acs=",
        "config_acs=111x1",
        "config_acs=112@00:1c.0",
        "config_acs=@00:1c.0",
        "config_acs=11111111@00:1c.0",
        "config_acs=1@nowhere",
        "config_acs=1@00:1c.0/zz",
        "disable_acs_redir=",
        "disable_acs_redir=pci:8086",
    ],
)
def test_a_value_that_the_kernel_would_refuse_is_an_error(value: str) -> None:
    with pytest.raises(ValueError, match="pci="):
        flag_settings(f"pci={value}")


def test_every_option_of_every_parameter_is_listed() -> None:
    assert list(pci_options("pci=noats,config_acs=1@00:1c.0 quiet pci=nomsi")) == [
        ("noats", ""),
        ("config_acs", "1@00:1c.0"),
        ("nomsi", ""),
    ]


@pytest.mark.parametrize(
    ("device", "meant"),
    [
        ("00:02.0", ["00:02.0"]),
        ("0000:00:02.0", ["00:02.0"]),
        ("00:02.0/00.0", ["01:00.0"]),
        ("00:02.0/00.0/03.0", ["02:03.0"]),
        ("00:02.0/01.0", []),
        ("02:03.0/00.0", []),
        ("0001:00:02.0", []),
        ("nowhere", []),
        ("pci:1234:11e8", ["00:02.0", "01:00.0", "02:03.0"]),
        ("pci:8086:100e", ["02:04.0"]),
        ("pci:8086:0", ["02:04.0"]),
        ("pci:0:0", ["00:02.0", "01:00.0", "02:03.0", "02:04.0"]),
        ("pci:8086:100e:1af4:1100", ["02:04.0"]),
        ("pci:8086:100e:1af4:1101", []),
    ],
)
def test_functions_are_named_by_path_or_by_ids_of_which_zero_is_any(device: str, meant: list[str]) -> None:
    machine = Machine()
    machine.root_port("00:02.0", to=1, acs=ON)
    machine.pcie_to_pci("01:00.0", to=2)
    machine.conventional("02:03.0")
    machine.conventional("02:04.0", ids="8086:100e", subsystem="1af4:1100")
    topology = machine.topology()
    setting = FlagSetting("config_acs", device, 0, 0)

    found = [one.address for one in topology.functions.values() if setting.matches(one, topology)]
    assert found == [at(name) for name in meant]
