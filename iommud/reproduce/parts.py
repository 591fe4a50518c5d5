# SPDX-License-Identifier: GPL-2.0-or-later
"""Vocabulary of a reproduction: what a command line is made of, and what it could not carry over."""

from __future__ import annotations

import enum
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from iommud.address import Address
from iommud.reproduce.models import Option, Version


class Architecture(enum.StrEnum):
    """What QEMU's system emulators are called after."""

    X86_64 = "x86_64"
    AARCH64 = "aarch64"


class Iommu(enum.StrEnum):
    """The IOMMUs that QEMU has."""

    INTEL = "intel"
    AMD = "amd"
    VIRTIO = "virtio"
    SMMUV3 = "smmuv3"
    NONE = "none"


class OmissionKind(enum.StrEnum):
    """What kind of fact a reproduction lacks."""

    FUNCTION = "function"
    """A function that the guest does not have."""
    PLACE = "place"
    """A function that lies elsewhere: other slot, other root bus, other domain."""
    NATURE = "nature"
    """A conventional function stands for a PCI Express one or the other way round, or another kind of port does."""
    ISOLATION = "isolation"
    """A function that is isolated in the capture and not in the guest, or the other way round."""
    COVERAGE = "coverage"
    """A function that no IOMMU serves in the capture and one does in the guest."""
    IOMMU = "iommu"
    UNKNOWN = "unknown"
    """A fact that the capture does not hold, with what was taken for it."""
    KERNEL = "kernel"
    """Words of the kernel command line that mean nothing in the guest."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Omission:
    """Something that the command line does not carry over."""

    kind: OmissionKind
    text: str
    """One sentence without the addresses."""
    functions: tuple[Address, ...] = ()
    """The captured functions that it is about."""


def word(address: Address) -> str:
    """An address as a part of QEMU's ids: without colons, and without the domain where that is 0."""
    domain = f"{address.domain:x}." if address.domain else ""
    return f"{domain}{address.bus:02x}.{address.device:02x}.{address.function}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A function of the guest, with what lies below it where it is a bridge."""

    model: str
    """QEMU's name of the device; that of the board's own function where ``on_board``."""
    device: int
    function: int
    captured: Address | None = None
    """The function that it stands for; None: the guest needs it, and the capture has none."""
    about: str = ""
    """What was captured, in a few words."""
    options: Mapping[str, Option] = field(default_factory=dict)
    exact: bool = False
    """Whether a guest reads the vendor and device that were captured."""
    on_board: bool = False
    """Whether the machine has it anyway, so that no device is to be given."""
    bridge: bool = False
    express_below: bool = True
    """For a bridge: whether its secondary bus is a PCI Express one."""
    reserves: bool = False
    """Whether the firmware can be told to keep bus numbers free below it."""
    spare: int = 0
    """Bus numbers that the captured bridge has behind its secondary bus, in use or not."""
    root_bus: int | None = None
    """For an expander (pxb-pcie): the number of the root bus that it makes."""
    virtual: tuple[Address, ...] = ()
    """The captured virtual functions of this physical one, in order."""
    below: tuple[Part, ...] = ()

    @property
    def place(self) -> tuple[int, int]:
        """Device and function number."""
        return self.device, self.function

    @property
    def name(self) -> str | None:
        """QEMU's id of what others are plugged into; None for what has no bus."""
        if self.root_bus is not None:
            return f"x{self.device:02x}.{self.function}"
        return f"p{word(self.captured)}" if self.bridge and self.captured is not None else None


def depth_first(parts: Iterable[Part]) -> Iterator[Part]:
    """Every part of a forest."""
    for part in parts:
        yield part
        yield from depth_first(part.below)


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """One ``-device`` of the command line, or a function of the board."""

    model: str
    address: Address | None
    """Where the guest will see it; None for what is no PCI function."""
    argument: str | None
    """The value of ``-device``; None: the board has it."""
    captured: Address | None
    about: str
    exact: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Reproduction:
    """A machine for QEMU, and how it differs from the captured one."""

    source: str
    kernel: str | None
    """uname -r of the captured machine."""
    functions: int
    """How many functions were captured."""
    qemu: Version
    architecture: Architecture
    device_tree: bool
    """Whether the guest learns of its hardware from a device tree; else from ACPI, which needs UEFI on aarch64."""
    iommu: Iommu
    machine: tuple[str, ...]
    """``-machine`` and ``-global`` with their values."""
    devices: tuple[Device, ...]
    """In the order of the command line, functions of the board first."""
    addresses: Mapping[Address, Address]
    """Where the guest has each function that is carried over, virtual functions included."""
    virtual_functions: Mapping[Address, int]
    """Physical functions of the guest, and how many virtual ones to enable."""
    parameters: tuple[str, ...]
    """Words for the guest's kernel command line."""
    omissions: tuple[Omission, ...]

    @property
    def binary(self) -> str:
        """The emulator to call."""
        return f"qemu-system-{self.architecture}"

    @property
    def arguments(self) -> tuple[str, ...]:
        """The machine and its devices, without anything to boot."""
        given = [part for one in self.devices if one.argument is not None for part in ("-device", one.argument)]
        return (*self.machine, *given)
