# SPDX-License-Identifier: GPL-2.0-or-later
"""QEMU's device models, as far as grouping tells them apart: identity, nature, isolation, I/O ports.

Identities are those of QEMU's sources (include/hw/pci/pci_ids.h, docs/specs/pci-ids.rst) and were seen in guests.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

Version = tuple[int, int]
Option = str | int

OLDEST: Version = (7, 2)
"""The oldest QEMU whose models are known here."""
USUAL: Version = (10, 0)
"""The QEMU that is meant where nobody says which."""
IGB_SINCE: Version = (8, 0)
INTEL = 0x8086


class Nature(enum.Enum):
    """Whether a model has a PCI Express capability."""

    CONVENTIONAL = "never"
    EITHER = "on PCI Express buses"
    EXPRESS = "always; it takes no conventional bus"


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """One device model of QEMU that is no bridge."""

    name: str
    ids: tuple[int, int]
    """Vendor and device as the guest reads them."""
    class_high: int
    nature: Nature = Nature.CONVENTIONAL
    io: bool = False
    """Whether it has an I/O BAR, which costs the bridges above it a window."""
    options: Mapping[str, Option] = field(default_factory=dict)
    since: Version = OLDEST

    def is_pcie(self, *, express_bus: bool) -> bool:
        """Whether it is a PCI Express function on such a bus."""
        return express_bus and self.nature is not Nature.CONVENTIONAL

    def exists(self, qemu: Version, express_bus: bool) -> bool:
        """Whether this QEMU has it, and lets it be plugged into such a bus."""
        return qemu >= self.since and (express_bus or self.nature is not Nature.EXPRESS)

    def isolated(self, *, root_bus: bool) -> bool:
        """Whether the kernel isolates it from other functions of its device: only by its device table.

        None of these has an ACS capability. ``pci_quirk_rciep_acs()`` vouches for Intel's integrated endpoints,
        which QEMU's express models become on a root bus, ``pci_quirk_mf_endpoint_acs()`` for the 82576.
        """
        if self.nature is Nature.EXPRESS and root_bus and self.ids[0] == INTEL:
            return True
        return self.name == "igb"


# Firmware would run an option ROM for each network card, and needs memory windows for it.
_NO_ROM = {"romfile": ""}
# As an IOMMU can only see a virtio device that asks for translation and speaks the modern interface.
_MODERN: Mapping[str, Option] = {"disable-legacy": "on", "iommu_platform": "on"}

_NETWORK, _SCSI, _RAID, _SATA, _NVME = 0x0200, 0x0100, 0x0104, 0x0106, 0x0108
_VGA, _DISPLAY, _AUDIO, _USB, _SERIAL, _OTHER = 0x0300, 0x0380, 0x0403, 0x0C03, 0x0700, 0x00FF
_SD_HOST = 0x0805

E1000 = Model(name="e1000", ids=(INTEL, 0x100E), class_high=_NETWORK, io=True, options=_NO_ROM)
E1000E = Model(name="e1000e", ids=(INTEL, 0x10D3), class_high=_NETWORK, nature=Nature.EXPRESS, io=True, options=_NO_ROM)
IGB = Model(
    name="igb",
    ids=(INTEL, 0x10C9),
    class_high=_NETWORK,
    nature=Nature.EXPRESS,
    io=True,
    options=_NO_ROM,
    since=IGB_SINCE,
)
NVME = Model(name="nvme", ids=(0x1B36, 0x0010), class_high=_NVME, nature=Nature.EXPRESS)
XHCI = Model(name="qemu-xhci", ids=(0x1B36, 0x000D), class_high=_USB, nature=Nature.EITHER)
TESTDEV = Model(name="pci-testdev", ids=(0x1B36, 0x0005), class_high=_OTHER, io=True)
SDHCI = Model(name="sdhci-pci", ids=(0x1B36, 0x0007), class_high=_SD_HOST)
"""Conventional, and without I/O ports."""


def _virtio(kind: str, number: int, class_high: int, *, options: Mapping[str, Option] | None = None) -> Model:
    """A virtio device; its identity is that of the modern interface (virtio 1.2, sec 4.1.2.1)."""
    both = {**_MODERN, **(options or {})}
    return Model(
        name=f"virtio-{kind}-pci",
        ids=(0x1AF4, 0x1040 + number),
        class_high=class_high,
        nature=Nature.EITHER,
        options=both,
    )


VIRTIO_NET = _virtio("net", 1, _NETWORK, options=_NO_ROM)
VIRTIO_SCSI = _virtio("scsi", 8, _SCSI)
VIRTIO_RNG = _virtio("rng", 4, _OTHER)

MODELS: tuple[Model, ...] = (
    E1000,
    E1000E,
    IGB,
    NVME,
    XHCI,
    TESTDEV,
    SDHCI,
    VIRTIO_NET,
    VIRTIO_SCSI,
    VIRTIO_RNG,
    _virtio("balloon", 5, _OTHER),
    _virtio("serial", 3, 0x0780),
    _virtio("gpu", 16, _DISPLAY),
    _virtio("keyboard", 18, 0x0980),
    Model(name="nec-usb-xhci", ids=(0x1033, 0x0194), class_high=_USB, nature=Nature.EITHER),
    Model(name="VGA", ids=(0x1234, 0x1111), class_high=_VGA),
    Model(name="bochs-display", ids=(0x1234, 0x1111), class_high=_DISPLAY, nature=Nature.EITHER),
    Model(name="secondary-vga", ids=(0x1234, 0x1111), class_high=_DISPLAY),
    Model(name="rtl8139", ids=(0x10EC, 0x8139), class_high=_NETWORK, io=True, options=_NO_ROM),
    Model(name="ich9-ahci", ids=(INTEL, 0x2922), class_high=_SATA, io=True),
    Model(name="lsi53c895a", ids=(0x1000, 0x0012), class_high=_SCSI, io=True),
    Model(name="megasas", ids=(0x1000, 0x0060), class_high=_RAID, io=True),
    Model(name="ich9-intel-hda", ids=(INTEL, 0x293E), class_high=_AUDIO),
    Model(name="intel-hda", ids=(INTEL, 0x2668), class_high=_AUDIO),
    Model(name="usb-ehci", ids=(INTEL, 0x24CD), class_high=_USB),
    Model(name="ich9-usb-ehci1", ids=(INTEL, 0x293A), class_high=_USB),
    Model(name="piix3-usb-uhci", ids=(INTEL, 0x7020), class_high=_USB, io=True),
    Model(name="ich9-usb-uhci1", ids=(INTEL, 0x2934), class_high=_USB, io=True),
    Model(name="ich9-usb-uhci2", ids=(INTEL, 0x2935), class_high=_USB, io=True),
    Model(name="ich9-usb-uhci3", ids=(INTEL, 0x2936), class_high=_USB, io=True),
    Model(name="pci-serial", ids=(0x1B36, 0x0002), class_high=_SERIAL, io=True),
    Model(name="edu", ids=(0x1234, 0x11E8), class_high=_OTHER),
)

_LEGACY_VIRTIO = {0x1000: 0x1041, 0x1002: 0x1045, 0x1003: 0x1043, 0x1004: 0x1048, 0x1005: 0x1044}
_VIRTIO_DISKS = (0x1001, 0x1042)


def identical(ids: tuple[int | None, int | None], class_high: int | None) -> Iterator[Model]:
    """The models that a guest cannot tell from a captured function; for virtio the old interface counts as the new."""
    vendor, device = ids
    if vendor == 0x1AF4 and device in _LEGACY_VIRTIO:
        ids = (vendor, _LEGACY_VIRTIO[device])
    same = [one for one in MODELS if one.ids == ids]
    yield from sorted(same, key=lambda one: one.class_high != class_high)


_SIMILAR: Mapping[int, tuple[Model, ...]] = {
    _NETWORK: (E1000E, VIRTIO_NET, E1000),
    0x0280: (E1000E, VIRTIO_NET, E1000),
    _NVME: (NVME,),
}


def similar(ids: tuple[int | None, int | None], class_high: int | None, *, pcie: bool, lean: bool) -> Iterator[Model]:
    """Models of the same class, and those that serve for any. ``lean``: those with I/O ports come last."""
    if ids[0] == 0x1AF4 and ids[1] in _VIRTIO_DISKS:
        # virtio-blk does not start without a disk.
        yield VIRTIO_SCSI
    first = _SIMILAR.get(class_high or -1, ())
    same_class = [one for one in MODELS if one.class_high == class_high and one not in (*first, TESTDEV, IGB)]
    any_class = (XHCI, E1000E, TESTDEV, SDHCI) if pcie else (TESTDEV, SDHCI, E1000E)
    yield from sorted((*first, *same_class, *any_class), key=lambda one: lean and one.io)
