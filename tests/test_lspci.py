# SPDX-License-Identifier: GPL-2.0-or-later
"""A second opinion on the decoding: lspci reads the same bytes and names the same port types and ACS flags."""

import functools
import re
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from iommud import read_sysfs
from iommud.address import Address
from iommud.pci import Acs, PortType
from iommud.snapshot import PciFunction

FIXTURES = Path(__file__).parent / "fixtures"
ARCHIVES = sorted([*FIXTURES.glob("captures/*.tar.gz"), *FIXTURES.glob("machines/*.tar.gz")])
LSPCI = shutil.which("lspci") or shutil.which("lspci", path="/usr/sbin:/sbin")

needs_lspci = pytest.mark.skipif(LSPCI is None, reason="lspci is not installed (Debian package pciutils)")

WORDS = {
    "Endpoint": PortType.ENDPOINT,
    "Legacy Endpoint": PortType.LEGACY_ENDPOINT,
    "Root Port": PortType.ROOT_PORT,
    "Upstream Port": PortType.UPSTREAM_PORT,
    "Downstream Port": PortType.DOWNSTREAM_PORT,
    "PCI-Express to PCI/PCI-X Bridge": PortType.PCIE_TO_PCI_BRIDGE,
    "PCI/PCI-X to PCI-Express Bridge": PortType.PCI_TO_PCIE_BRIDGE,
    "Root Complex Integrated Endpoint": PortType.ROOT_COMPLEX_INTEGRATED_ENDPOINT,
    "Root Complex Event Collector": PortType.EVENT_COLLECTOR,
}
FLAGS = {
    "SrcValid": Acs.SV,
    "TransBlk": Acs.TB,
    "ReqRedir": Acs.RR,
    "CmpltRedir": Acs.CR,
    "UpstreamFwd": Acs.UF,
    "EgressCtrl": Acs.EC,
    "DirectTrans": Acs.DT,
}
EVERY_FLAG = 0x7F


@dataclass(frozen=True)
class Decoded:
    """What both readers tell: port type (None: not PCIe), ACS capability and control (None: no ACS)."""

    port_type: int | None
    acs: tuple[int, int] | None


def config_spaces(archive: Path) -> Iterator[tuple[str, bytes]]:
    with tarfile.open(archive) as tar:
        for member in tar:
            *_, parent, name = ("", "", *member.name.split("/"))
            if name == "config" and member.isfile() and Address.from_name(parent) is not None:
                file = tar.extractfile(member)
                assert file is not None
                yield parent, file.read()


def dump(name: str, config: bytes) -> str:
    """One function as ``lspci -xxxx`` prints it, which ``lspci -F`` reads."""
    lines = (f"{at:02x}: {config[at : at + 16].hex(' ')}" for at in range(0, len(config), 16))
    return "\n".join((f"{name} Device", *lines, "", ""))


@functools.cache
def by_lspci(archive: Path) -> dict[str, Decoded]:
    assert LSPCI is not None
    text = "".join(dump(name, config) for name, config in config_spaces(archive))
    path = Path("/dev/stdin")
    answer = subprocess.run(
        [LSPCI, "-F", str(path), "-vvv", "-D", "-n"], input=text, capture_output=True, text=True, check=True
    )
    blocks = answer.stdout.strip().split("\n\n")
    return {block.partition(" ")[0]: decoded(block) for block in blocks}


def decoded(block: str) -> Decoded:
    words = "|".join(map(re.escape, WORDS))
    express = re.search(rf"Capabilities: \[[^]]*\] Express \(v\d\) ({words})(?: \(Slot|,| )", block)
    capability, control = (flags(block, name) for name in ("ACSCap", "ACSCtl"))
    return Decoded(
        port_type=None if express is None else WORDS[express[1]],
        acs=None if capability is None or control is None else (capability, control),
    )


def flags(block: str, register: str) -> int | None:
    line = re.search(rf"{register}:\t(.*)", block)
    if line is None:
        return None
    shown = dict(re.findall(r"(\w+)([+-])", line[1]))
    assert shown.keys() == FLAGS.keys()
    return sum(FLAGS[name] for name, sign in shown.items() if sign == "+")


def functions(archive: Path) -> dict[str, PciFunction]:
    return {str(one.address): one for one in read_sysfs(str(archive), thorough=True).functions}


def as_decoded(function: PciFunction) -> Decoded:
    registers = function.config.acs
    if registers is None:
        return Decoded(function.config.port_type, None)
    return Decoded(function.config.port_type, (registers.capability & EVERY_FLAG, registers.control & EVERY_FLAG))


@needs_lspci
@pytest.mark.parametrize("archive", ARCHIVES, ids=lambda path: path.name.removesuffix(".tar.gz"))
def test_lspci_reads_the_same_port_types_and_acs_flags(archive: Path) -> None:
    expected = by_lspci(archive)
    read = functions(archive)
    ours = {name: as_decoded(one) for name, one in read.items() if not one.is_virtual}

    # The config space of a virtual function is never asked: what it is follows from its physical one.
    assert ours == {name: found for name, found in expected.items() if not read[name].is_virtual}


@needs_lspci
def test_the_fixtures_show_lspci_enough() -> None:
    found = [one for archive in ARCHIVES for one in by_lspci(archive).values()]

    assert {one.port_type for one in found} >= {
        None,
        PortType.ENDPOINT,
        PortType.LEGACY_ENDPOINT,
        PortType.ROOT_PORT,
        PortType.UPSTREAM_PORT,
        PortType.DOWNSTREAM_PORT,
        PortType.PCIE_TO_PCI_BRIDGE,
        PortType.ROOT_COMPLEX_INTEGRATED_ENDPOINT,
    }
    assert sum(one.acs is not None and one.acs[1] != 0 for one in found) > 50
    assert sum(one.acs is None for one in found) > 50
