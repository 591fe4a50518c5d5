# SPDX-License-Identifier: GPL-2.0-or-later
"""From a declared guest to the command line of QEMU."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from tests.guest.cells import SMOKE
from tests.guest.machine import (
    Architecture,
    Cell,
    Files,
    Firmware,
    Iommu,
    LoadOrder,
    all_devices,
    kernel_command_line,
    memory,
    qemu_arguments,
)
from tests.guest.topology import ROOT_BUS, TOPOLOGIES, endpoint, root_port

FILES = Files(qemu=("qemu",), firmware=("firmware",), uefi="uefi.fd")


def arguments(cell: Cell) -> list[str]:
    return qemu_arguments(cell, FILES)


def after(words: list[str], option: str) -> list[str]:
    return [value for word, value in itertools.pairwise(words) if word == option]


@pytest.mark.parametrize("name", TOPOLOGIES)
def test_what_a_device_hangs_on_is_declared_before_it(name: str) -> None:
    buses = {ROOT_BUS}
    for device in TOPOLOGIES[name]:
        assert device.bus is None or device.bus in buses
        buses |= {device.name} if device.name else set()


@pytest.mark.parametrize("name", TOPOLOGIES)
def test_no_two_functions_of_a_topology_share_a_place_or_a_name(name: str) -> None:
    devices = TOPOLOGIES[name]
    places = [(one.bus, one.slot, one.function) for one in devices if one.slot is not None]
    names = [one.name for one in devices if one.name]

    assert len(set(places)) == len(places)
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("name", TOPOLOGIES)
def test_the_chassis_and_slot_of_every_port_is_its_own(name: str) -> None:
    slots = [one.options["chassis"] for one in TOPOLOGIES[name] if "chassis" in one.options]

    assert len(set(slots)) == len(slots)


def test_the_topology_of_many_functions_has_200_of_them() -> None:
    assert len(TOPOLOGIES["many-functions"]) == 200


def test_a_device_is_written_as_qemu_reads_it() -> None:
    assert root_port("rp", 2, 1, acs=False).argument() == (
        "pcie-root-port,id=rp,bus=pcie.0,addr=2.1,chassis=17,slot=17,io-reserve=0,disable-acs=on"
    )
    assert endpoint("virtio-rng-pci", "rp").argument() == "virtio-rng-pci,bus=rp,disable-legacy=on,iommu_platform=on"
    assert endpoint("e1000", slot=0x1E).argument() == "e1000,bus=pcie.0,addr=1e.0"


@pytest.mark.parametrize("iommu", [one for one in Iommu if one not in {Iommu.SMMUV3, Iommu.NONE}])
def test_an_iommu_comes_before_what_it_translates_for(iommu: Iommu) -> None:
    models = [one.model for one in all_devices(Cell(kernel="6.1", topology="founding", iommu=iommu))]

    assert "iommu" in models[0]
    assert models[1:] == ["ioh3420", "pcie-pci-bridge", "e1000"]


def test_a_virtio_iommu_sits_where_the_cell_says() -> None:
    cell = Cell(kernel="6.12", topology="founding-vga", iommu=Iommu.VIRTIO, iommu_slot=3)

    assert "virtio-iommu-pci,bus=pcie.0,addr=3.0" in after(arguments(cell), "-device")
    assert cell.name == "6.12-amd64-virtio-founding-vga-q7.2-at-3"


def test_the_smmu_is_part_of_the_board() -> None:
    cell = Cell(kernel="6.1", topology="no-port", iommu=Iommu.SMMUV3, architecture=Architecture.ARM64)

    assert after(arguments(cell), "-machine") == ["virt,gic-version=3,iommu=smmuv3"]
    assert after(arguments(cell), "-device") == []


@pytest.mark.parametrize(
    ("firmware", "bios", "forced"), [(Firmware.ACPI, ["uefi.fd"], True), (Firmware.DEVICE_TREE, [], False)]
)
def test_acpi_on_arm64_needs_uefi_and_a_word_for_the_kernel(firmware: Firmware, bios: list[str], forced: bool) -> None:
    cell = Cell(
        kernel="6.1", topology="no-port", iommu=Iommu.SMMUV3, architecture=Architecture.ARM64, firmware=firmware
    )

    assert after(arguments(cell), "-bios") == bios
    assert ("acpi=force" in kernel_command_line(cell).split()) is forced


def test_the_words_of_a_cell_end_the_kernel_command_line() -> None:
    cell = Cell(kernel="6.1", topology="no-port", iommu=Iommu.INTEL, parameters=("pcie_ports=compat",))

    assert kernel_command_line(cell).endswith("intel_iommu=on pcie_ports=compat")


def test_cells_that_differ_have_names_that_differ() -> None:
    plain: dict[str, Any] = {"kernel": "6.1", "topology": "founding", "iommu": Iommu.VIRTIO}
    cells = [
        Cell(**plain),
        Cell(**plain, qemu="10"),
        Cell(**plain, order=LoadOrder.RACING),
        Cell(**plain, parameters=("iommu=off",)),
        Cell(**plain, iommu_slot=3),
        Cell(**plain, architecture=Architecture.ARM64),
        Cell(**plain, architecture=Architecture.ARM64, firmware=Firmware.DEVICE_TREE),
        *SMOKE.values(),
    ]

    assert len({cell.name for cell in cells}) == len(cells)
    assert all("/" not in cell.name and " " not in cell.name for cell in cells)


def test_qemu_11_gets_scalable_mode_under_its_new_name() -> None:
    devices = {
        qemu: after(
            arguments(Cell(kernel="6.12", topology="no-port", iommu=Iommu.INTEL_SCALABLE, qemu=qemu)), "-device"
        )
        for qemu in ("10", "11")
    }

    assert devices["10"] == ["intel-iommu,x-scalable-mode=on"]
    assert devices["11"] == ["intel-iommu,scalable-mode=on"]


def test_qemu_11_gets_another_port_where_one_is_to_lack_acs() -> None:
    cell = Cell(kernel="6.12", topology="multifunction-ports-without-acs", iommu=Iommu.INTEL, qemu="11")

    assert after(arguments(cell), "-device")[1:4] == [
        "ioh3420,id=p0,bus=pcie.0,addr=2.0,chassis=16,slot=16,multifunction=on",
        "ioh3420,id=p1,bus=pcie.0,addr=2.1,chassis=17,slot=17",
        "pcie-root-port,id=p2,bus=pcie.0,addr=2.2,chassis=18,slot=18,io-reserve=0",
    ]


@pytest.mark.parametrize(
    ("architecture", "firmware", "asked", "mebibytes"),
    [
        (Architecture.AMD64, Firmware.ACPI, None, 512),
        (Architecture.ARM64, Firmware.DEVICE_TREE, None, 512),
        (Architecture.ARM64, Firmware.ACPI, None, 1024),
        (Architecture.ARM64, Firmware.ACPI, 128, 128),
    ],
)
def test_a_guest_has_the_memory_that_its_firmware_needs(
    architecture: Architecture, firmware: Firmware, asked: int | None, mebibytes: int
) -> None:
    cell = Cell(
        kernel="7.3",
        topology="founding",
        iommu=Iommu.VIRTIO,
        architecture=architecture,
        firmware=firmware,
        memory=asked,
    )

    assert memory(cell) == mebibytes
    assert after(arguments(cell), "-m") == [str(mebibytes)]
