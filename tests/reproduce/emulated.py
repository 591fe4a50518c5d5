# SPDX-License-Identifier: GPL-2.0-or-later
"""What a guest of QEMU sees: from ``-device`` arguments to a machine, without QEMU.

Bus numbers are given as SeaBIOS gives them: a number for each bridge in the order in which a walk comes to it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from iommud.address import Address
from iommud.pci import AcsRegisters, PortType
from iommud.reproduce.models import MODELS, Nature
from iommud.reproduce.parts import Architecture, Reproduction
from tests.machines import ON, Machine

ROOT = "pcie.0"
Options = dict[str, str]
BRIDGES: dict[str, tuple[PortType | None, str, AcsRegisters | None]] = {
    "pcie-root-port": (PortType.ROOT_PORT, "1b36:000c", ON),
    "ioh3420": (PortType.ROOT_PORT, "8086:3420", None),
    "x3130-upstream": (PortType.UPSTREAM_PORT, "104c:8232", None),
    "xio3130-downstream": (PortType.DOWNSTREAM_PORT, "104c:8233", None),
    "pcie-pci-bridge": (PortType.PCIE_TO_PCI_BRIDGE, "1b36:000e", None),
    "pci-bridge": (None, "1b36:0001", None),
    "i82801b11-bridge": (None, "8086:244e", None),
}
EXPRESS_BELOW = {"pcie-root-port", "ioh3420", "x3130-upstream", "xio3130-downstream"}
Q35 = ("00:00.0 8086:29c0 0600", "00:1f.0 8086:2918 0601", "00:1f.2 8086:2922 0106", "00:1f.3 8086:2930 0c05")
VIRT = ("00:00.0 1b36:0008 0600",)
LONE_FUNCTION = "pci-testdev"


@dataclass(slots=True)
class Plugged:
    """One device on the command line."""

    model: str
    options: Options
    place: tuple[int, int] = (0, 0)
    below: list[Plugged] = field(default_factory=list)

    @property
    def shape(self) -> tuple[Any, ...]:
        """Model, place, what tells it apart, and everything below: equal for equal trees."""
        kept = ("bus_nr", "multifunction", "disable-acs", "bypass_iommu", "sriov_max_vfs")
        told = tuple((name, self.options[name]) for name in kept if name in self.options)
        return (self.model, self.place, told, tuple(sorted(one.shape for one in self.below)))


def parsed(argument: str) -> Plugged:
    """The value of a ``-device``."""
    model, *pairs = argument.split(",")
    options = dict(pair.split("=", 1) for pair in pairs)
    device, _, function = options.get("addr", "0").partition(".")
    return Plugged(model, options, (int(device, 16), int(function or "0", 16)))


def plugged(arguments: Iterable[str]) -> list[Plugged]:
    """The devices of the root bus with all below; what QEMU places by itself comes into the lowest free slot."""
    buses: dict[str, list[Plugged]] = {ROOT: []}
    for argument in arguments:
        one = parsed(argument)
        if one.model == "amd-iommu":
            one.options["bus"] = ROOT
        if "bus" not in one.options:
            continue
        siblings = buses[one.options["bus"]]
        if "addr" not in one.options:
            taken = {other.place[0] for other in siblings} | ({0, 0x1F} if siblings is buses[ROOT] else set())
            one.place = (min(set(range(32)) - taken), 0)
        assert one.place not in [other.place for other in siblings], f"{argument}: that place is taken"
        siblings.append(one)
        if "id" in one.options:
            assert one.options["id"] not in buses
            buses[one.options["id"]] = one.below
    return buses[ROOT]


@dataclass(slots=True)
class Guest:
    """Numbers buses and makes functions."""

    machine: Machine
    keeps_numbers: bool
    last: int = 0

    def bus(self, devices: Iterable[Plugged], number: int, *, express: bool, root: bool) -> None:
        self.last = max(self.last, number)
        for one in sorted(devices, key=lambda other: other.place):
            address = Address(0, number, *one.place)
            multifunction = one.options.get("multifunction") == "on"
            if one.model in BRIDGES:
                self._bridge(one, address, mf=multifunction)
            elif one.model == "pxb-pcie":
                self.machine.add(address, None, ids="1b36:000b", mf=multifunction, class_code=0x060000)
            elif one.model == "amd-iommu":
                self.machine.add(address, None, ids="1022:0008", class_code=0x080600)
            elif one.model == "virtio-iommu-pci":
                self.machine.add(address, PortType.ROOT_COMPLEX_INTEGRATED_ENDPOINT, ids="1af4:1057")
            else:
                self._endpoint(one, address, express=express, root=root, mf=multifunction)

    def _bridge(self, one: Plugged, address: Address, *, mf: bool) -> None:
        port_type, ids, acs = BRIDGES[one.model]
        if one.options.get("disable-acs") == "on":
            acs = None
        secondary = self.last + 1
        self.machine.add(address, port_type, to=secondary, acs=acs, ids=ids, mf=mf, class_code=0x060400)
        if one.model in ("pcie-root-port", "ioh3420", "xio3130-downstream"):
            assert all(other.place[0] == 0 for other in one.below), "below a port only device 0 answers"
        self.bus(one.below, secondary, express=one.model in EXPRESS_BELOW, root=False)
        if self.keeps_numbers:
            self.last = max(self.last, secondary + int(one.options.get("bus-reserve", "0")))
        self.machine.change(address, subordinate_bus=self.last)

    def _endpoint(self, one: Plugged, address: Address, *, express: bool, root: bool, mf: bool) -> None:
        model = next(other for other in MODELS if other.name == one.model)
        assert express or model.nature is not Nature.EXPRESS, f"{one.model} takes no conventional bus"
        pcie = PortType.ROOT_COMPLEX_INTEGRATED_ENDPOINT if root else PortType.ENDPOINT
        port_type = pcie if express and model.nature is not Nature.CONVENTIONAL else None
        ids = f"{model.ids[0]:04x}:{model.ids[1]:04x}"
        self.machine.add(address, port_type, ids=ids, mf=mf, class_code=model.class_high << 8)


def guest(
    arguments: Iterable[str], architecture: Architecture = Architecture.X86_64, *, kernel: str = "6.12"
) -> Machine:
    """The machine that a guest with these devices is."""
    x86 = architecture is Architecture.X86_64
    made = Guest(Machine(kernel=kernel), keeps_numbers=x86)
    for line in Q35 if x86 else VIRT:
        address, ids, class_high = line.split()
        made.machine.add(address, None, ids=ids, class_code=int(class_high, 16) << 8, mf=address == "00:1f.0")
    devices = plugged(arguments)
    made.bus(devices, 0, express=True, root=True)
    for one in sorted(
        (one for one in devices if one.model == "pxb-pcie"), key=lambda other: int(other.options["bus_nr"])
    ):
        number = int(one.options["bus_nr"])
        assert number > made.last, "a root bus begins among the buses of another"
        assert all(other.model in BRIDGES for other in one.below), "pxb-pcie takes bridges only"
        made.bus(one.below, number, express=True, root=True)
    assert made.last <= 0xFF
    return made.machine


def guest_of(found: Reproduction, *, kernel: str = "6.12") -> Machine:
    """The guest of a reproduction, its virtual functions enabled."""
    machine = guest([one.argument for one in found.devices if one.argument], found.architecture, kernel=kernel)
    for captured, address in found.addresses.items():
        if address not in machine.functions:
            physical = [one for one in found.virtual_functions if one[:2] == address[:2]]
            assert physical, f"{captured} is said to be at {address}, where nothing is"
            machine.vf(address, of=physical[0])
    return machine


def shapes(arguments: Iterable[str]) -> list[tuple[Any, ...]]:
    """The forest of a command line, comparable."""
    return sorted(one.shape for one in plugged(arguments))
