# SPDX-License-Identifier: GPL-2.0-or-later
"""Names from pci.ids."""

import gzip
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iommud.names import PATHS, Names

IDS = b"""\
# comment
0001  First
\t00aa  First device
# a comment in between
\t\t0001 0002  Subsystem that looks like 00bb
\t00bb  Second device

8086  Intel Corporation
\t100e  82540EM
ffff  Illegal Vendor ID

# List of known device classes
C 02  Network controller
\t00  Ethernet controller
\t\t01  An interface
C ff  Unassigned class
"""


@pytest.mark.parametrize(
    ("vendor", "device", "name"),
    [
        (0x0001, 0x00AA, "First device"),
        (0x0001, 0x00BB, "Second device"),
        (0x8086, 0x100E, "82540EM"),
        (0x8086, 0x00BB, None),
        (0x0002, 0x00AA, None),
    ],
)
def test_devices_are_looked_up_below_their_vendor(vendor: int, device: int, name: str | None) -> None:
    assert Names.parse(IDS, {(vendor, device)}).device(vendor, device) == name


def test_vendors_are_named_even_if_the_device_is_not() -> None:
    names = Names.parse(IDS, {(0x8086, 0x9999), (0xFFFF, 1), (0xABCD, 1)})

    assert [names.vendor(number) for number in (0x8086, 0xFFFF, 0xABCD)] == [
        "Intel Corporation",
        "Illegal Vendor ID",
        None,
    ]


@pytest.mark.parametrize(
    ("code", "name"),
    [
        (0x020000, "Ethernet controller"),
        (0x02FF00, "Network controller"),
        (0xFF0000, "Unassigned class"),
        (0x120000, None),
    ],
)
def test_a_class_goes_by_its_subclass_or_else_by_its_base_class(code: int, name: str | None) -> None:
    assert Names.parse(IDS, ()).class_name(code) == name


def test_the_first_database_that_can_be_read_is_taken(tmp_path: Path) -> None:
    packed, plain = tmp_path / "pci.ids.gz", tmp_path / "pci.ids"
    packed.write_bytes(gzip.compress(IDS))
    plain.write_bytes(IDS.replace(b"82540EM", b"another"))

    names = Names.load({(0x8086, 0x100E)}, (tmp_path / "missing", packed, plain))

    assert names is not None
    assert names.device(0x8086, 0x100E) == "82540EM"


@pytest.mark.parametrize(
    "content",
    [b"no gzip", gzip.compress(IDS, mtime=0)[:-20], gzip.compress(IDS, mtime=0)[:15] + b"\xff" * 40],
    ids=["no gzip", "cut", "broken"],
)
def test_a_damaged_database_is_none(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "pci.ids.gz").write_bytes(content)

    assert Names.load((), (tmp_path / "pci.ids.gz",)) is None


def test_without_a_database_there_are_no_names(tmp_path: Path) -> None:
    assert Names.load({(1, 2)}, (tmp_path / "pci.ids", tmp_path)) is None


@given(st.binary(), st.sets(st.tuples(st.integers(0, 0xFFFF), st.integers(0, 0xFFFF)), max_size=3))
def test_no_content_breaks_the_reader(data: bytes, wanted: set[tuple[int, int]]) -> None:
    names = Names.parse(data, wanted)

    assert all("\n" not in name for name in names.vendors.values())


def test_looking_up_is_fast_in_a_database_of_the_usual_size() -> None:
    lines = [
        b"%04x  Vendor\n" % vendor + b"".join(b"\t%04x  Device with a name\n" % one for one in range(12))
        for vendor in range(0, 0xF000, 16)
    ]
    data = b"".join(lines) + IDS
    wanted = {(vendor, 3) for vendor in range(0, 0x1000, 64)}

    start = time.perf_counter()
    names = Names.parse(data, wanted)

    assert time.perf_counter() - start < 1
    assert len(names.devices) == len(wanted)


@pytest.mark.skipif(not any(path.exists() for path in PATHS), reason="this system has no pci.ids")
def test_the_systems_own_database_is_understood() -> None:
    names = Names.load({(0x8086, 0x100E)})

    assert names is not None
    assert names.vendor(0x8086) == "Intel Corporation"
    assert "82540EM" in (names.device(0x8086, 0x100E) or "")
    assert names.class_name(0x060400) == "PCI bridge"
