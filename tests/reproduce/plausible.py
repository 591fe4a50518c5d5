# SPDX-License-Identifier: GPL-2.0-or-later
"""Random machines of the kind that is built: every bridge where it may be, function 0 in every device."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import strategies as st

from iommud.address import Address
from iommud.pci import PortType
from tests.machines import ON, PLAIN, Machine

_DEEPEST = 3
INTEL = "8086:2021"
"""The kernel vouches for the integrated endpoints of this vendor."""
VOUCHED = "8086:1521"
"""An I350, whose functions the device table isolates."""
_ENDPOINTS = (PLAIN, INTEL, VOUCHED, "8086:10d3", "1b36:000d", "1af4:1041")


@dataclass(slots=True)
class _Builder:
    draw: st.DrawFn
    machine: Machine
    next_bus: int = 1
    left: int = 40
    roots: list[int] = field(default_factory=list)

    def number(self) -> int:
        self.next_bus += 1
        return self.next_bus - 1

    def root(self, bus: int) -> None:
        for device in self.slots(31):
            self.device(Address(0, bus, device, 0), depth=0, kinds=("port", "endpoint", "conventional", "pci"))

    def slots(self, last: int) -> list[int]:
        return sorted(self.draw(st.sets(st.integers(0, last), max_size=4)))

    def device(self, first: Address, *, depth: int, kinds: tuple[str, ...]) -> None:
        """A device of one function or of several, each of a kind that may be there."""
        others = self.draw(st.sets(st.integers(1, 7), max_size=3)) if self.draw(st.integers(0, 2)) == 0 else set()
        bit = bool(others) or self.draw(st.integers(0, 9)) == 0
        for number in [0, *sorted(others)]:
            if self.left:
                self.left -= 1
                kind = self.draw(st.sampled_from(kinds if depth < _DEEPEST else kinds[-1:]))
                self.function(first._replace(function=number), kind, depth, mf=bit and not number)

    def function(self, address: Address, kind: str, depth: int, *, mf: bool) -> None:
        acs = self.draw(st.sampled_from([ON, ON, None]))
        root = not depth
        if kind == "port":
            port = PortType.ROOT_PORT if root else PortType.DOWNSTREAM_PORT
            self.bridge(address, port, depth, ("endpoint", "pcie-pci", "switch"), acs=acs, mf=mf, link=True)
        elif kind == "switch":
            self.bridge(address, PortType.UPSTREAM_PORT, depth, ("port",), acs=None, mf=mf)
        elif kind == "pcie-pci":
            self.bridge(address, PortType.PCIE_TO_PCI_BRIDGE, depth, ("pci", "conventional"), acs=None, mf=mf)
        elif kind == "pci":
            self.bridge(address, None, depth, ("pci", "conventional"), acs=None, mf=mf)
        elif kind == "conventional":
            self.machine.add(address, None, mf=mf, ids=PLAIN)
        else:
            port = PortType.ROOT_COMPLEX_INTEGRATED_ENDPOINT if root else PortType.ENDPOINT
            self.machine.add(address, port, mf=mf, acs=acs, ids=self.draw(st.sampled_from(_ENDPOINTS)))

    def bridge(
        self,
        address: Address,
        port: PortType | None,
        depth: int,
        kinds: tuple[str, ...],
        *,
        link: bool = False,
        **facts: object,
    ) -> None:
        bus = self.number()
        self.machine.add(address, port, to=bus, class_code=0x060400, **facts)  # type: ignore[arg-type] # acs and mf
        for device in [0] if link else self.slots(31):
            if self.draw(st.booleans()):
                self.device(Address(0, bus, device, 0), depth=depth + 1, kinds=kinds)
        self.machine.change(address, subordinate_bus=self.next_bus - 1)


@st.composite
def plausible(draw: st.DrawFn) -> Machine:
    """A machine with one root bus or a few, at most 40 functions, every byte known."""
    builder = _Builder(draw, Machine())
    builder.root(0)
    for base in draw(st.sampled_from([[], [], [0x40], [0x40, 0x80]])):
        builder.next_bus = max(base, builder.next_bus)
        builder.root(builder.number())
    return builder.machine
