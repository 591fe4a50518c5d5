# SPDX-License-Identifier: GPL-2.0-or-later
"""Random machines for hypothesis: probable ones, and ones that only a hypervisor or a broken chip would make."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from hypothesis import strategies as st

from iommud.address import Address
from iommud.model.acs import MPC_ACS_BIT
from iommud.pci import AcsRegisters
from tests.machines import EMPTY, OFF, ON, PLAIN, Machine

MAX_FUNCTIONS = 28


class Kind(NamedTuple):
    """Port type (None: conventional) and whether a bus lies below."""

    port_type: int | None
    bridge: bool


_ODD_BRIDGES = [Kind(0, True), Kind(1, True), Kind(9, True), Kind(10, True), Kind(15, True)]
_PORTS = [Kind(4, True), Kind(5, True), Kind(6, True)]
_BRIDGES = [*_PORTS, *_PORTS, *_PORTS, Kind(7, True), Kind(7, True), Kind(8, True), Kind(None, True), Kind(None, True)]
_ENDPOINTS = [Kind(0, False), Kind(0, False), Kind(1, False), Kind(9, False), Kind(10, False), Kind(None, False)]
_ODD_ENDPOINTS = [Kind(4, False), Kind(6, False), Kind(3, False)]
KINDS = _BRIDGES + _ODD_BRIDGES + _ENDPOINTS * 2 + _ODD_ENDPOINTS

QUIRKED = [
    *("10e8:e004", "1957:8d81", "17cb:0115", "0014:7a09"),  # always, of all kernels and from 6.1 on
    *("8086:10c6", "14e4:1760"),  # mf-endpoint, likewise
    "1002:4385",  # amd-sb
    "8086:0001",  # intel-rciep
    *("8086:1c10", "8086:a110"),  # intel-pch, intel-spt-pch
    *("177d:a000", "177d:0001", "177d:a026"),  # cavium-rp, listed or not, and mf-endpoint
    "1c36:0031",  # root-port-only
    *("1d17:0710", "1d17:0001"),  # zhaoxin-ports
    *("8088:0100", "8088:5010", "8088:0001"),  # wangxun-nic
    "111d:80b5",  # acs-without-source-validation
    *("1180:e476", "6766:3d40", "1103:0642"),  # aliases of functions 0 and 1
    *("8086:2260", "8086:2954", "10b5:87b0", "9005:0285"),  # aliases elsewhere on the bus
    *("10e3:8113", "14e4:9000", "1a03:1150"),  # bridge flags
    *("11f8:8531", "1055:1001"),  # aliases in the function's memory, of all kernels and from 6.1 on
]
# Slots 1 (Adaptec), 0x10, 0x11 and 0x12 (Xeon Phi) are ones that alias masks name.
SLOTS = [0x00, 0x01, 0x02, 0x10, 0x11, 0x12]
FUNCTION_SETS = [(0,), (0,), (0, 1), (0, 1), (0, 1, 4), (0, 3), (1,), (1, 2)]

_bits = st.integers(0, 0x7F)
acs_registers = st.sampled_from([None, None, ON, ON, OFF, EMPTY]) | st.builds(AcsRegisters, _bits, _bits)
ids = st.sampled_from([PLAIN] * len(QUIRKED) + QUIRKED)


@dataclass
class Numbers:
    """Bus numbers not used yet, by domain."""

    next: dict[int, int] = field(default_factory=dict)

    def take(self, domain: int) -> int:
        number = self.next.get(domain, 0)
        self.next[domain] = number + 1
        return number


def _often(draw: st.DrawFn, times: int = 8) -> bool:
    """Mostly true; false in the example that shrinks least."""
    return draw(st.integers(0, times - 1)) < times - 1


@st.composite
def machines(draw: st.DrawFn, *, firmware_aliases: bool = False) -> Machine:
    """A machine with up to about MAX_FUNCTIONS functions, of which every fact is known."""
    machine = Machine(kernel=draw(st.sampled_from(["6.12", "5.10", "6.1", "7.3"])))
    numbers = Numbers()
    for domain in draw(st.sampled_from([(0,), (0, 0), (0, 1)])):
        _fill(draw, machine, domain, numbers.take(domain), 0, numbers)
    _give_logged_aliases(draw, machine)
    if firmware_aliases:
        _give_firmware_aliases(draw, machine)
    return machine


def _fill(draw: st.DrawFn, machine: Machine, domain: int, bus: int, depth: int, numbers: Numbers) -> None:
    """Populate one bus, and the buses below its bridges."""
    slots = draw(st.lists(st.sampled_from(SLOTS), unique=True, min_size=0 if depth else 1, max_size=3))
    # With ARI the slots of a bus are one device's functions.
    ari = depth > 0 and not _often(draw)
    for slot in slots:
        functions = draw(st.sampled_from(FUNCTION_SETS))
        for function in functions:
            if len(machine.functions) < MAX_FUNCTIONS:
                bit = (len(functions) > 1 or ari) if _often(draw) else draw(st.booleans())
                _function(draw, machine, Address(domain, bus, slot, function), depth, numbers, mf=bit, ari=ari)


def _function(
    draw: st.DrawFn, machine: Machine, address: Address, depth: int, numbers: Numbers, *, mf: bool, ari: bool
) -> None:
    kind = draw(st.sampled_from(KINDS))
    name = draw(ids)
    registers = draw(acs_registers) if kind.port_type is not None else None
    to = numbers.take(address.domain) if kind.bridge and depth < 5 else None
    subsystem = "9005:02bb" if name == "9005:0285" and _often(draw, 3) else None
    machine.add(
        address,
        kind.port_type,
        to=to,
        acs=registers,
        mf=mf,
        ids=name,
        subsystem=subsystem,
        mpc=MPC_ACS_BIT if name == "8086:1c10" and draw(st.booleans()) else 0,
        ari_enabled=ari and kind.port_type is not None,
        class_code=0x068000,
    )
    if to is not None:
        _fill(draw, machine, address.domain, to, depth + 1, numbers)
    elif kind.port_type is not None and not _often(draw, 4):
        _special(draw, machine, address, depth, numbers)


def _special(draw: st.DrawFn, machine: Machine, address: Address, depth: int, numbers: Numbers) -> None:
    """Make an endpoint the home of virtual functions or of a host bridge."""
    if depth and draw(st.booleans()):
        _give_virtual_functions(draw, machine, address, numbers)
    elif address.domain < 0x10000:
        _give_host_bridge(draw, machine, address, numbers)


def _give_virtual_functions(draw: st.DrawFn, machine: Machine, address: Address, numbers: Numbers) -> None:
    bus = address.bus if draw(st.booleans()) else numbers.take(address.domain)
    for devfn in draw(st.lists(st.sampled_from([0x04, 0x05, 0x14, 0x80, 0x9B]), unique=True, max_size=3)):
        name = Address(address.domain, bus, devfn >> 3, devfn & 7)
        if name not in machine.functions:
            machine.vf(name, of=address, **({} if _often(draw, 3) else {"ids": draw(ids)}))


def _give_host_bridge(draw: st.DrawFn, machine: Machine, address: Address, numbers: Numbers) -> None:
    """A VMD endpoint by id or by driver, or another kind of function that holds a host bridge."""
    machine.change(address, **draw(st.sampled_from(_HOSTS)))
    domain = 0x10000 + len(machine.hosts)
    machine.hosts[domain] = address
    _fill(draw, machine, domain, numbers.take(domain), 1, numbers)


_HOSTS: list[dict[str, object]] = [
    {"vendor": 0x8086, "device": 0x201D},
    {"vendor": 0x8086, "device": 0x28C1},  # from 7.3 on
    {"driver": "vmd"},
    {"driver": "hv_pci"},
]


def _give_logged_aliases(draw: st.DrawFn, machine: Machine) -> None:
    """What stands in the memory of Switchtec functions, as the log tells it."""
    aliases = machine.aliases()
    for address, function in machine.functions.items():
        if aliases.mask_unknown(function):
            machine.logged[address] = draw(_masks(machine, address))


def _give_firmware_aliases(draw: st.DrawFn, machine: Machine) -> None:
    for address in draw(st.lists(st.sampled_from(sorted(machine.functions)), unique=True, max_size=3)):
        machine.firmware[address] = draw(_masks(machine, address))


def _masks(machine: Machine, address: Address) -> st.SearchStrategy[frozenset[int]]:
    on_bus = [one.devfn for one in machine.functions if one[:2] == address[:2]]
    return st.frozensets(st.sampled_from([*on_bus, 0xF8]), max_size=2)


@st.composite
def orders(draw: st.DrawFn, machine: Machine) -> list[Address]:
    """The functions of a machine in any order."""
    found = sorted(machine.functions)
    draw(st.randoms(use_true_random=False)).shuffle(found)
    return found


@st.composite
def subsets(draw: st.DrawFn, machine: Machine) -> frozenset[Address]:
    """Some functions of a machine."""
    chance = draw(st.sampled_from([0.1, 0.3, 0.6]))
    random = draw(st.randoms(use_true_random=False))
    return frozenset(one for one in sorted(machine.functions) if random.random() < chance)
