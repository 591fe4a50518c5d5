# SPDX-License-Identifier: GPL-2.0-or-later
"""A cell of the lab: one guest, in the terms of the field, and the QEMU command line that makes it."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from tests.guest.steps import Step
from tests.guest.topology import TOPOLOGIES, Device, Devices


class Architecture(enum.StrEnum):
    """Debian's name of the guest's architecture."""

    AMD64 = "amd64"
    ARM64 = "arm64"


class Iommu(enum.StrEnum):
    """The IOMMU of the guest."""

    INTEL = "intel"
    INTEL_SCALABLE = "intel-scalable"
    AMD = "amd"
    VIRTIO = "virtio"
    SMMUV3 = "smmuv3"
    NONE = "none"


class Firmware(enum.StrEnum):
    """How the guest learns of its hardware."""

    ACPI = "acpi"
    DEVICE_TREE = "dt"


class LoadOrder(enum.StrEnum):
    """When the IOMMU's driver is loaded, where that is a module."""

    IOMMU_FIRST = "iommu-first"
    IOMMU_LAST = "iommu-last"
    RACING = "racing"
    NO_IOMMU_DRIVER = "no-iommu-driver"


AMD64, ARM64 = Architecture


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One guest to boot and to judge."""

    kernel: str
    """A name of `tests.guest.supplies.KERNELS`."""
    topology: str
    """A name of `tests.guest.topology.TOPOLOGIES`."""
    iommu: Iommu
    architecture: Architecture = AMD64
    qemu: str = "7.2"
    """A name of `tests.guest.supplies.QEMUS`."""
    firmware: Firmware = Firmware.ACPI
    order: LoadOrder = LoadOrder.IOMMU_FIRST
    parameters: tuple[str, ...] = ()
    """Words for the kernel command line, beside those that every guest gets."""
    iommu_slot: int = 1
    """Device number of a virtio-iommu."""
    steps: tuple[Step, ...] = ()
    """What happens after the drivers are loaded and before iommud looks."""
    story: str = ""
    """A word that tells cells with different steps apart."""
    memory: int | None = None
    """MiB. None: as much as guests of its kind need."""
    seconds: int = 300
    """A guest that is not done by then hangs. On a host with nothing else to do most take 20 seconds."""

    @property
    def name(self) -> str:
        """The cell in one word, for files and tables; two different cells have different names."""
        parts = [self.kernel, self.architecture, self.iommu, self.topology, f"q{self.qemu}"]
        if self.architecture is ARM64:
            parts.append(self.firmware)
        if self.iommu is Iommu.VIRTIO and self.iommu_slot != 1:
            parts.append(f"at-{self.iommu_slot:x}")
        if self.order is not LoadOrder.IOMMU_FIRST:
            parts.append(self.order)
        parts += [_word(parameter) for parameter in self.parameters]
        return "-".join([*parts, *filter(None, [self.story])])

    @property
    def devices(self) -> Devices:
        """The devices of the topology."""
        return TOPOLOGIES[self.topology]


@dataclass(frozen=True, slots=True, kw_only=True)
class Files:
    """What a QEMU command line refers to on this machine."""

    qemu: tuple[str, ...]
    """The emulator as it is started, loader included."""
    firmware: tuple[str, ...] = ()
    """Directories with the firmware of QEMU."""
    uefi: str | None = None
    """The UEFI firmware for arm64."""
    kernel: Path = field(default=Path("vmlinuz"))
    initramfs: Path = field(default=Path("initramfs"))
    console: Path = field(default=Path("console.log"))
    qmp: Path = field(default=Path("qmp"))


USUAL_MEMORY = 512
UEFI_MEMORY = 1024
"""With less, UEFI finds no room for the initramfs of newer kernels: ``EFI stub: ERROR: Failed to load initrd``."""
ALWAYS = ("panic=-1", "mitigations=off", "random.trust_cpu=on")
BY_ARCHITECTURE: Mapping[Architecture, tuple[str, ...]] = {
    # Under software emulation the time stamp counter is not to be trusted, and the kernel takes long to find out; on a
    # busy host the timer does not tick within the few milliseconds for which the kernel looks at it.
    AMD64: ("console=ttyS0", "nokaslr", "tsc=unstable", "no_timer_check"),
    ARM64: ("console=ttyAMA0", "quiet"),
}
BY_IOMMU: Mapping[Iommu, tuple[str, ...]] = {
    Iommu.INTEL: ("intel_iommu=on",),
    Iommu.INTEL_SCALABLE: ("intel_iommu=on,sm_on",),
}


def kernel_command_line(cell: Cell) -> str:
    """The guest's /proc/cmdline."""
    firmware = ("acpi=force",) if cell.architecture is ARM64 and cell.firmware is Firmware.ACPI else ()
    always = (*BY_ARCHITECTURE[cell.architecture], *firmware, *ALWAYS)
    return " ".join((*always, *BY_IOMMU.get(cell.iommu, ()), *cell.parameters))


def memory(cell: Cell) -> int:
    """MiB of the guest."""
    through_uefi = cell.architecture is ARM64 and cell.firmware is Firmware.ACPI
    return cell.memory or (UEFI_MEMORY if through_uefi else USUAL_MEMORY)


def iommu_device(cell: Cell) -> Device | None:
    """The IOMMU as a device, or None where it is part of the board or absent."""
    match cell.iommu:
        case Iommu.INTEL:
            return Device(model="intel-iommu", bus=None)
        case Iommu.INTEL_SCALABLE:
            return Device(model="intel-iommu", bus=None, options={"x-scalable-mode": "on"})
        case Iommu.AMD:
            return Device(model="amd-iommu", bus=None)
        case Iommu.VIRTIO:
            return Device(model="virtio-iommu-pci", slot=cell.iommu_slot)
        case Iommu.SMMUV3 | Iommu.NONE:
            return None


def all_devices(cell: Cell) -> Devices:
    """The devices in the order of the command line: an IOMMU must come before what it translates for."""
    iommu = iommu_device(cell)
    devices = cell.devices if iommu is None else (iommu, *cell.devices)
    return tuple(map(as_qemu_11_has_it, devices)) if cell.qemu == "11" else devices


def as_qemu_11_has_it(device: Device) -> Device:
    """The device as QEMU 11 can make it: scalable mode has another name, and a port without ACS is another model."""
    options = dict(device.options)
    if "x-scalable-mode" in options:
        options["scalable-mode"] = options.pop("x-scalable-mode")
    if options.pop("disable-acs", None):
        kept = {name: value for name, value in options.items() if name in {"chassis", "slot", "multifunction"}}
        return replace(device, model="ioh3420", options=kept)
    return replace(device, options=options)


def qemu_arguments(cell: Cell, files: Files) -> list[str]:
    """The whole command line. The guest's channel is QEMU's standard input and output."""
    directories = [part for directory in files.firmware for part in ("-L", directory)]
    devices = [part for device in all_devices(cell) for part in ("-device", device.argument())]
    return [
        *files.qemu,
        *directories,
        *_board(cell, files),
        *("-accel", "tcg,thread=multi,tb-size=128", "-smp", "2", "-m", str(memory(cell))),
        *("-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"),
        *("-qmp", f"unix:{files.qmp},server=on,wait=off"),
        *_channels(cell, files),
        *("-kernel", str(files.kernel), "-initrd", str(files.initramfs)),
        *("-append", kernel_command_line(cell)),
        *devices,
    ]


def _board(cell: Cell, files: Files) -> list[str]:
    if cell.architecture is AMD64:
        # The intel-iommu needs a split interrupt controller for nothing that a group depends on.
        return ["-machine", "q35", "-cpu", "max,la57=off"]
    smmu = ",iommu=smmuv3" if cell.iommu is Iommu.SMMUV3 else ""
    uefi = ["-bios", files.uefi] if cell.firmware is Firmware.ACPI and files.uefi else []
    return ["-machine", f"virt,gic-version=3{smmu}", "-cpu", "cortex-a72", *uefi]


def _channels(cell: Cell, files: Files) -> list[str]:
    """The console and the channel: two serial ports on a PC; the one of arm64's board is both."""
    if cell.architecture is AMD64:
        return [
            "-serial",
            f"file:{files.console}",
            "-chardev",
            "stdio,id=channel,signal=off",
            "-serial",
            "chardev:channel",
        ]
    return ["-chardev", f"stdio,id=channel,signal=off,logfile={files.console}", "-serial", "chardev:channel"]


def channel_device(cell: Cell) -> str:
    """The channel as the guest names it."""
    return "ttyS1" if cell.architecture is AMD64 else "ttyAMA0"


DRIVERS: Mapping[str, tuple[str, ...]] = {
    "e1000": ("e1000",),
    "e1000e": ("e1000e",),
    "igb": ("igb", "igbvf"),
    "nvme": ("nvme",),
    "qemu-xhci": ("xhci_pci",),
    "virtio-net-pci": ("virtio_net",),
    "virtio-rng-pci": ("virtio_rng",),
    "virtio-scsi-pci": ("virtio_scsi",),
    "rtl8139": ("8139cp",),
}
ON_THE_BOARD: Mapping[Architecture, tuple[str, ...]] = {AMD64: ("ahci", "lpc_ich", "i2c_i801"), ARM64: ()}
TRANSPORT = ("virtio_pci",)
IOMMU_DRIVERS: Mapping[Iommu, tuple[str, ...]] = {Iommu.VIRTIO: ("virtio_iommu",), Iommu.SMMUV3: ("arm_smmu_v3",)}


def iommu_drivers(cell: Cell) -> tuple[str, ...]:
    """The modules of the IOMMU's driver; those that are built in are no modules and are passed over later."""
    return IOMMU_DRIVERS.get(cell.iommu, ())


def device_drivers(cell: Cell, added: Devices = ()) -> tuple[str, ...]:
    """The modules that drive the guest's functions, those that are added later included."""
    models = dict.fromkeys(device.model for device in (*cell.devices, *added))
    found = [name for model in models for name in DRIVERS.get(model, ())]
    return tuple(dict.fromkeys([*ON_THE_BOARD[cell.architecture], *found]))


def _word(parameter: str) -> str:
    """A word of the command line as a part of a file name."""
    return "".join(letter if letter.isalnum() or letter in "=_" else "." for letter in parameter)
