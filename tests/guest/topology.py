# SPDX-License-Identifier: GPL-2.0-or-later
"""Topologies: the PCI functions of a guest as QEMU devices, and the catalogue of those that the lab boots.

A topology is a tuple of devices in the order of QEMU's command line: what a device hangs on comes before it. The
root bus is ``pcie.0``; every bridge or port is a bus under its own name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

ROOT_BUS = "pcie.0"
Option = str | int

# As an IOMMU can only see a virtio device that asks for translation and speaks the modern interface.
MODERN_VIRTIO = {"disable-legacy": "on", "iommu_platform": "on"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """One ``-device`` of QEMU."""

    model: str
    """QEMU's name of the device: ``pcie-root-port``, ``e1000``..."""
    name: str | None = None
    """The id, which names the bus below a bridge or port. None: nothing refers to it."""
    bus: str | None = ROOT_BUS
    """What it is plugged into. None: the device takes no bus."""
    slot: int | None = None
    """Device number on its bus. None: QEMU chooses."""
    function: int = 0
    options: Mapping[str, Option] = field(default_factory=dict)

    def argument(self) -> str:
        """The value of ``-device``."""
        return ",".join([self.model, *(f"{key}={value}" for key, value in self.properties().items())])

    def properties(self) -> dict[str, Option]:
        """The properties in QEMU's spelling, also for ``device_add``."""
        address = {} if self.slot is None else {"addr": f"{self.slot:x}.{self.function:x}"}
        place = {} if self.bus is None else {"bus": self.bus}
        name = {} if self.name is None else {"id": self.name}
        return {**name, **place, **address, **self.options}


Devices = tuple[Device, ...]


def root_port(
    name: str, slot: int, function: int = 0, *, acs: bool = True, bus: str = ROOT_BUS, chassis: int | None = None
) -> Device:
    """A PCI Express root port: QEMU's generic one has an ACS capability unless that is taken away."""
    number = chassis if chassis is not None else slot * 8 + function
    options: dict[str, Option] = {"chassis": number, "slot": number, "io-reserve": 0}
    if not acs:
        options["disable-acs"] = "on"
    return Device(model="pcie-root-port", name=name, bus=bus, slot=slot, function=function, options=options)


def intel_root_port(name: str, slot: int) -> Device:
    """The root port of an Intel 5520, which has no ACS capability: the founding thread's."""
    return Device(model="ioh3420", name=name, slot=slot, options={"chassis": slot})


def multifunction(device: Device) -> Device:
    """Function 0 of a device with several functions, which must say so."""
    return replace(device, options={**device.options, "multifunction": "on"})


def pcie_to_pci_bridge(name: str, bus: str) -> Device:
    """A PCI Express to PCI bridge: requester IDs below it become its secondary bus, function 00.0."""
    return Device(model="pcie-pci-bridge", name=name, bus=bus)


def pci_bridge(name: str, bus: str, slot: int, chassis: int) -> Device:
    """A conventional PCI-to-PCI bridge."""
    return Device(model="pci-bridge", name=name, bus=bus, slot=slot, options={"chassis_nr": chassis})


def switch(name: str, bus: str, ports: int) -> Devices:
    """A switch: its upstream port, and downstream ports named ``<name>d0``, ``<name>d1``...

    QEMU's downstream ports have no ACS capability, and it has no others.
    """
    upstream = Device(model="x3130-upstream", name=name, bus=bus)
    return (
        upstream,
        *(
            Device(
                model="xio3130-downstream",
                name=f"{name}d{port}",
                bus=name,
                slot=port,
                options={"chassis": 100 + port, "slot": 100 + port},
            )
            for port in range(ports)
        ),
    )


def endpoint(model: str, bus: str = ROOT_BUS, slot: int | None = None, function: int = 0, **options: Option) -> Device:
    """An endpoint without a network or disk behind it; its driver probes it all the same."""
    extra: dict[str, Option] = dict(MODERN_VIRTIO) if model.startswith("virtio-") else {}
    if model == "nvme":
        extra["serial"] = f"{bus}-{slot or 0}-{function}"
    return Device(model=model, bus=bus, slot=slot, function=function, options={**extra, **options})


def _behind_a_bridge(port: Device, *endpoints: Device) -> Devices:
    return (port, pcie_to_pci_bridge("br", "rp"), *endpoints)


def _nics(*slots: int) -> Devices:
    """NICs behind the bridge."""
    return tuple(endpoint("e1000", "br", slot) for slot in slots)


def _with_room(port: Device) -> Device:
    """A port below which the firmware keeps bus numbers free, as a bridge that is plugged in needs them."""
    return replace(port, options={**port.options, "bus-reserve": 4})


def _many() -> Devices:
    """200 functions and more: 25 slots of 8 functions each on the root bus."""
    return tuple(
        endpoint("pci-testdev", slot=slot, function=function, **({"multifunction": "on"} if function == 0 else {}))
        for slot in range(4, 29)
        for function in range(8)
    )


TOPOLOGIES: Mapping[str, Devices] = {
    "no-port": (),
    "founding": _behind_a_bridge(intel_root_port("rp", 2), *_nics(0)),
    "founding-acs": _behind_a_bridge(root_port("rp", 2), *_nics(0)),
    "founding-slot-1": _behind_a_bridge(intel_root_port("rp", 2), *_nics(1)),
    "founding-acs-slot-1": _behind_a_bridge(root_port("rp", 2), *_nics(1)),
    "founding-vga": (Device(model="VGA", slot=1), *_behind_a_bridge(intel_root_port("rp", 2), *_nics(0))),
    "two-nics-0-1": _behind_a_bridge(root_port("rp", 2), *_nics(0, 1)),
    "two-nics-1-2": _behind_a_bridge(root_port("rp", 2), *_nics(1, 2)),
    "virtio-net-behind-bridge": _behind_a_bridge(intel_root_port("rp", 2), endpoint("virtio-net-pci", "br", 0)),
    "virtio-net-behind-bridge-slot-1": _behind_a_bridge(intel_root_port("rp", 2), endpoint("virtio-net-pci", "br", 1)),
    "nested-bridges": (
        pci_bridge("b1", ROOT_BUS, 3, 1),
        endpoint("e1000", "b1", 1),
        pci_bridge("b2", "b1", 4, 2),
        endpoint("e1000", "b2", 1),
        pci_bridge("b3", "b2", 5, 3),
        endpoint("virtio-rng-pci", "b3", 1),
    ),
    "dmi-bridge": (
        Device(model="i82801b11-bridge", name="dmi", slot=0x1E),
        pci_bridge("b1", "dmi", 1, 1),
        endpoint("e1000", "b1", 1),
        endpoint("e1000", "b1", 2),
        endpoint("pci-testdev", "dmi", 2),
    ),
    "switch": (
        root_port("rp", 2),
        *switch("up", "rp", 3),
        endpoint("e1000e", "upd0"),
        endpoint("e1000e", "upd1"),
    ),
    "switch-below-port-without-acs": (
        root_port("rp", 2, acs=False),
        *switch("up", "rp", 3),
        endpoint("e1000e", "upd0"),
        endpoint("e1000e", "upd1"),
    ),
    "multifunction-ports": (
        multifunction(root_port("p0", 2, 0)),
        root_port("p1", 2, 1),
        root_port("p2", 2, 2),
        endpoint("e1000e", "p0"),
        endpoint("e1000e", "p1"),
    ),
    "multifunction-ports-without-acs": (
        multifunction(root_port("p0", 2, 0, acs=False)),
        root_port("p1", 2, 1, acs=False),
        root_port("p2", 2, 2),
        endpoint("e1000e", "p0"),
        endpoint("e1000e", "p1"),
        endpoint("e1000e", "p2"),
    ),
    "multifunction-endpoints": (
        endpoint("e1000e", slot=3, multifunction="on"),
        endpoint("e1000e", slot=3, function=1),
        endpoint("e1000", slot=4, multifunction="on"),
        endpoint("pci-testdev", slot=4, function=7),
        root_port("rp", 5),
        endpoint("e1000e", "rp", 0, multifunction="on"),
        endpoint("e1000e", "rp", 0, 3),
    ),
    # The igb has no ACS capability either; the kernel knows from its own list that its functions are isolated.
    "multifunction-endpoints-with-acs": (
        root_port("rp", 2),
        # An igb speaks of no further function unless told to, and a port that forwards ARI asks for the next one.
        multifunction(Device(model="igb", bus="rp", slot=0, options={"x-pcie-ari-nextfn-1": "on"})),
        endpoint("igb", "rp", 0, 1),
    ),
    # QEMU's switches have no ACS; its root ports have, and it lets them hang below an upstream port.
    "root-ports-below-switch": (
        root_port("rp", 2),
        Device(model="x3130-upstream", name="up", bus="rp"),
        root_port("d0", 0, bus="up", chassis=100),
        root_port("d1", 1, bus="up", chassis=101),
        endpoint("e1000e", "d0"),
        endpoint("e1000e", "d1"),
    ),
    "sriov-igb": (
        root_port("p0", 2),
        endpoint("igb", "p0"),
        root_port("p1", 3, acs=False),
        endpoint("igb", "p1"),
    ),
    "sriov-nvme": (
        Device(model="nvme-subsys", name="sub0", bus=None, options={"nqn": "s0"}),
        root_port("p0", 2),
        endpoint(
            "nvme",
            "p0",
            subsys="sub0",
            sriov_max_vfs=4,
            sriov_vq_flexible=8,
            sriov_vi_flexible=4,
            max_ioqpairs=16,
            msix_qsize=16,
        ),
    ),
    # Its virtual functions would begin 0x80 after 00:1d.0, which is on the next bus.
    "sriov-next-bus": (endpoint("igb", slot=0x1D),),
    "pxb": (
        Device(model="pxb-pcie", name="px", slot=8, options={"bus_nr": 0x40}),
        root_port("p0", 2),
        endpoint("e1000e", "p0"),
        root_port("p1", 0, bus="px", chassis=2),
        endpoint("e1000e", "p1"),
    ),
    "pxb-bypass": (
        Device(model="pxb-pcie", name="px", slot=8, options={"bus_nr": 0x40, "bypass_iommu": "true"}),
        root_port("p0", 2),
        endpoint("e1000e", "p0"),
        root_port("p1", 0, bus="px", chassis=2),
        endpoint("e1000e", "p1"),
    ),
    "empty-port": (_with_room(root_port("rp", 2)),),
    "empty-bridge": _behind_a_bridge(root_port("rp", 2)),
    "empty-switch": (root_port("rp", 2), *switch("up", "rp", 2)),
    "empty-nested": (*_behind_a_bridge(root_port("rp", 2)), pci_bridge("b2", "br", 3, 1)),
    "empty-pxb": (
        Device(model="pxb-pcie", name="px", slot=8, options={"bus_nr": 0x40}),
        root_port("p1", 0, bus="px", chassis=2),
    ),
    "many-functions": _many(),
}
