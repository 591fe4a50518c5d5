# SPDX-License-Identifier: GPL-2.0-or-later
"""A second reader: what ACPICA's disassembler prints of the same bytes must be what the parsers give."""

from __future__ import annotations

import struct
import tarfile
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iommud.firmware.dmar import DeviceScope, parse_dmar
from iommud.firmware.iort import parse_iort
from iommud.firmware.ivrs import parse_ivrs
from iommud.firmware.mcfg import parse_mcfg
from iommud.firmware.viot import PciRange, VirtioIommuMmio, VirtioIommuPci, parse_viot
from tests.firmware.builders import FIXTURES, acpi
from tests.firmware.listing import KNOWS_VIOT, Piece, pieces, release
from tests.firmware.test_dmar import andd, dmar, drhd, flagged, rmrr, scope
from tests.firmware.test_iort import id_map
from tests.firmware.test_iort import rmr as iort_rmr
from tests.firmware.test_ivrs import (
    ALIAS,
    ALIAS_RANGE,
    ALL,
    END,
    EXT_RANGE,
    EXT_SELECT,
    SELECT,
    SPECIAL,
    START,
    hid,
    ivhd,
    ivmd,
    ivrs,
    long,
    short,
)
from tests.firmware.test_mcfg import window
from tests.firmware.test_viot import iommu_mmio, iommu_pci, mmio_endpoint, pci_range, viot

LATER = release() >= KNOWS_VIOT
"""Whether it knows VIOT, and of other tables the structures of 2021."""

pytestmark = pytest.mark.skipif(not release(), reason="iasl (acpica-tools) is not installed")
later = pytest.mark.skipif(not LATER, reason=f"iasl {release()} does not know VIOT and the structures of 2021")

_SIGNATURES = ("DMAR", "IVRS", "IORT", "VIOT", "MCFG")


def real_tables() -> Iterator[tuple[str, bytes]]:
    """Every table of the fixtures, each sequence of bytes once."""
    seen: set[bytes] = set()
    for name, data in _stored_tables():
        if data not in seen:
            seen.add(data)
            yield f"{data[:4].decode()} of {name}", data


def _stored_tables() -> Iterator[tuple[str, bytes]]:
    for path in sorted(FIXTURES.glob("*.aml")):
        yield path.name, path.read_bytes()
    for path in sorted(FIXTURES.parent.glob("captures/*.tar.gz")):
        with tarfile.open(path) as archive:
            for member in archive:
                content = archive.extractfile(member) if member.name.endswith(_SIGNATURES) else None
                if content is not None:
                    yield path.name, content.read()


REAL = list(real_tables())


@pytest.mark.parametrize("data", [data for _, data in REAL], ids=[name for name, _ in REAL])
def test_of_every_real_table_both_read_the_same(data: bytes) -> None:
    if data.startswith(b"VIOT") and not LATER:
        pytest.skip(f"iasl {release()} does not know VIOT")
    _agree(data)


def _agree(data: bytes) -> None:
    {"DMAR": _dmar, "IVRS": _ivrs, "IORT": _iort, "VIOT": _viot, "MCFG": _mcfg}[data[:4].decode()](data)


def _scopes(scopes: tuple[DeviceScope, ...]) -> list[tuple[int, int, list[str]]]:
    return [(one.kind, one.start_bus, [f"{step[0]:02X},{step[1]:02X}" for step in one.path]) for one in scopes]


def _scopes_of(piece: Piece) -> list[tuple[int, int, list[str]]]:
    found: list[tuple[int, int, list[str]]] = []
    kind = 0
    for label, value in piece.fields:
        if label == "Device Scope Type":
            kind = int(value.split()[0], 16)
        elif label == "PCI Bus Number":
            found.append((kind, int(value, 16), []))
        elif label == "PCI Path":
            found[-1][2].append(value)
    return found


def _of_kind(found: list[Piece], *kinds: int) -> list[Piece]:
    return [piece for piece in found if piece.kind in kinds and not piece.entry]


def _dmar(data: bytes) -> None:
    listed, read = pieces(data), parse_dmar(data)

    assert [(one.segment, one.register_base, one.include_all, _scopes(one.scopes)) for one in read.units] == [
        (one.one("PCI Segment Number"), one.one("Register Base Address"), bool(one.one("Flags") & 1), _scopes_of(one))
        for one in _of_kind(listed, 0)
    ]
    assert [(one.segment, one.base, one.limit, _scopes(one.scopes)) for one in read.reserved_regions] == [
        (one.one("PCI Segment Number"), one.one("Base Address"), one.one("End Address (limit)"), _scopes_of(one))
        for one in _of_kind(listed, 1)
    ]
    caches = [(one.segment, one.all_ports, _scopes(one.scopes)) for one in read.root_ports]
    caches += [(one.segment, one.required, _scopes(one.scopes)) for one in read.cached_translations]
    assert caches == [
        (one.one("PCI Segment Number"), bool(one.one("Flags") & 1), _scopes_of(one))
        for one in (*_of_kind(listed, 2), *_of_kind(listed, 5))
    ]
    assert [(one.number, f'"{one.name}"') for one in read.namespace_devices] == [
        (one.one("Device Number"), one.texts("Device Name")[0]) for one in _of_kind(listed, 4)
    ]


def _ivrs(data: bytes) -> None:
    listed, read = pieces(data), parse_ivrs(data)

    blocks = _of_kind(listed, 0x10, 0x11, 0x40)
    assert [
        (one.type, one.flags, one.offset, one.segment, one.device_id, one.register_base) for one in read.blocks
    ] == [
        (
            one.kind,
            one.one("Flags"),
            one.offset,
            one.one("PCI Segment Group"),
            one.one("DeviceId"),
            one.one("Base Address"),
        )
        for one in blocks
    ]
    for piece, block in zip(blocks, read.blocks, strict=True):
        covered, aliases = _meant(_entries(listed, piece))
        assert {rid for one in block.covered for rid in range(one.first, one.last + 1)} == covered
        assert {rid: one.alias for one in block.aliases for rid in range(one.first, one.last + 1)} == aliases
    assert [(one.first, one.base, one.size, int(one.flags), one.segment) for one in read.memory] == [
        (
            0 if one.kind == 0x20 else one.one("DeviceId"),
            one.one("Start Address"),
            one.one("Memory Length"),
            one.one("Flags"),
            one.one("Reserved") & 0xFFFF,
        )
        for one in _of_kind(listed, 0x20, 0x21, 0x22)
    ]
    assert [one.last for one in read.memory] == [
        {0x20: 0xFFFF, 0x21: one.one("DeviceId"), 0x22: one.one("Auxiliary Data")}[one.kind]
        for one in _of_kind(listed, 0x20, 0x21, 0x22)
    ]


def _entries(listed: list[Piece], block: Piece) -> list[Piece]:
    after = listed[listed.index(block) + 1 :]
    ends = next((at for at, one in enumerate(after) if not one.entry), len(after))
    return after[:ends]


def _meant(entries: list[Piece]) -> tuple[set[int], dict[int, int]]:
    """Requester IDs and aliases of well-formed entries, by the plain meaning of each."""
    covered: set[int] = set()
    aliases: dict[int, int] = {}
    start: Piece | None = None
    for one in entries:
        rids = _rids(one)
        if one.kind in (START, ALIAS_RANGE, EXT_RANGE):
            start = one
        elif one.kind == END and start is not None:
            rids = set(range(start.one("Device ID"), one.one("Device ID") + 1))
        alias = _alias(start if one.kind == END else one)
        if alias is not None and rids:
            covered.add(alias)
            aliases |= dict.fromkeys(rids, alias)
        covered |= rids
    return covered, aliases


def _rids(entry: Piece) -> set[int]:
    """What an entry names by itself."""
    if entry.kind == ALL:
        return set(range(0x10000))
    if entry.kind == SPECIAL:
        return {entry.one("Source Used Device ID")}
    return {entry.one("Device ID")} if entry.kind in (SELECT, EXT_SELECT, ALIAS, 0xF0) else set()


def _alias(entry: Piece | None) -> int | None:
    if entry is None or entry.kind not in (ALIAS, ALIAS_RANGE):
        return None
    return entry.one("Source Used Device ID")


def _iort(data: bytes) -> None:
    listed, read = pieces(data), parse_iort(data)

    assert [(one.offset, one.kind) for one in read.nodes] == [(one.offset, one.kind) for one in listed]
    for piece, node in zip(listed, read.nodes, strict=True):
        mappings = piece.each("Input base", "ID Count", "Output Base", "Output Reference", "Flags")
        assert [
            (one.input_base, one.count - 1, one.output_base, one.output_offset, int(one.single))
            for one in node.mappings
        ] == [(*numbers, flags & 1) for *numbers, flags in mappings]
        assert node.base == (piece.one("Base Address") if piece.kind in (3, 4) else None)
        memory = piece.each("Base Address of RMR", "Length of RMR") if piece.kind == 6 else []
        assert [(one.base, one.size) for one in node.memory] == memory
    assert [(one.offset, one.segment, one.ats) for one in read.root_complexes] == [
        (one.offset, one.one("PCI Segment Number"), bool(one.one("ATS Attribute") & 1)) for one in _of_kind(listed, 2)
    ]


def _viot(data: bytes) -> None:
    listed, read = pieces(data), parse_viot(data)

    iommus = [one for one in listed if one.kind in (3, 4)]
    assert list(read.iommus) == [_iommu(one) for one in iommus]
    by_offset = {one.offset: _iommu(one) for one in iommus}
    assert list(read.pci_ranges) == [
        PciRange(
            first_segment=one.one("PCI Segment start"),
            last_segment=one.one("PCI Segment end"),
            first_rid=one.one("PCI BDF start"),
            last_rid=one.one("PCI BDF end"),
            endpoint_start=one.one("Endpoint start"),
            output_node=one.one("Output node"),
            output=by_offset.get(one.one("Output node")),
        )
        for one in listed
        if one.kind == 1
    ]
    assert [(one.endpoint, one.base, one.output_node, one.output) for one in read.mmio_endpoints] == [
        (one.one("Endpoint"), one.one("Base address"), one.one("Output node"), by_offset.get(one.one("Output node")))
        for one in listed
        if one.kind == 2
    ]


def _iommu(piece: Piece) -> VirtioIommuPci | VirtioIommuMmio:
    if piece.kind == 3:
        return VirtioIommuPci(segment=piece.one("PCI Segment"), rid=piece.one("PCI BDF number"))
    return VirtioIommuMmio(base=piece.one("Base address"))


def _mcfg(data: bytes) -> None:
    assert [(one.base, one.segment, one.first_bus, one.last_bus) for one in parse_mcfg(data).allocations] == [
        (
            one.one("Base Address"),
            one.one("Segment Group Number"),
            one.one("Start Bus Number"),
            one.one("End Bus Number"),
        )
        for one in pieces(data)
    ]


byte, rid, words, quad = (
    st.integers(0, 255),
    st.integers(0, 0xFFFF),
    st.integers(0, 0xFFFFFFFF),
    st.integers(0, 2**64 - 1),
)
segment = st.integers(0, 3)
FEW = settings(max_examples=25)


@st.composite
def dmar_tables(draw: st.DrawFn) -> bytes:
    step = st.tuples(st.integers(0, 31), st.integers(0, 7))
    scopes = st.lists(
        st.builds(
            lambda kind, bus, path: scope(kind, bus, *path),
            st.integers(1, 5),
            byte,
            st.lists(step, min_size=1, max_size=3),
        ),
        max_size=3,
    )
    # Of two units with the same registers only the first counts, so each has its own.
    bases = iter(draw(st.lists(quad.filter(bool), unique=True, min_size=4, max_size=4)))
    made = [drhd(*draw(scopes), segment=draw(segment), base=base, flags=draw(st.integers(0, 1))) for base in bases]
    made.append(rmrr(*draw(scopes), segment=draw(segment), base=draw(quad), limit=draw(quad)))
    made.append(flagged(2, *draw(scopes), flags=draw(st.integers(0, 1)), segment=draw(segment)))
    if LATER:
        made.append(flagged(5, *draw(scopes), flags=draw(st.integers(0, 1)), segment=draw(segment)))
        made.append(andd(draw(byte), b"\\_SB.DEV0\0"))
    return dmar(*draw(st.permutations(made)), flags=draw(st.integers(0, 7)))


@given(dmar_tables())
@FEW
def test_of_any_dmar_both_read_the_same(data: bytes) -> None:
    _dmar(data)


@st.composite
def entries(draw: st.DrawFn, kind: int) -> bytes:
    one, other = sorted((draw(rid), draw(rid)))
    made = [
        short(SELECT, one),
        short(START, one) + short(END, other),
        long(ALIAS, one, other),
        long(ALIAS_RANGE, one, draw(rid)) + short(END, other),
        long(EXT_SELECT, one),
        long(EXT_RANGE, one) + short(END, other),
        long(SPECIAL, 0, one, last_byte=draw(st.integers(1, 2))),
        short(ALL),
    ]
    if kind == 0x40:
        made += [hid(one), hid(one, uid=b"\\_SB.ABCD")]
    return draw(st.sampled_from(made))


@st.composite
def ivrs_tables(draw: st.DrawFn) -> bytes:
    kinds = st.sampled_from((0x10, 0x11, 0x40) if LATER else (0x10, 0x11))
    blocks = []
    for kind in draw(st.lists(kinds, min_size=1, max_size=3)):
        content = draw(st.lists(entries(kind), min_size=1, max_size=4))
        blocks.append(ivhd(kind, *content, device_id=draw(rid), segment=draw(segment), flags=draw(byte)))
    for kind in draw(st.lists(st.sampled_from((0x20, 0x21, 0x22)), max_size=2)):
        numbers = {"flags": draw(st.integers(0, 15)), "base": draw(quad), "size": draw(quad), "segment": draw(segment)}
        blocks.append(ivmd(kind, draw(rid), draw(rid), **numbers))
    return ivrs(*blocks)


@given(ivrs_tables())
@FEW
def test_of_any_ivrs_both_read_the_same(data: bytes) -> None:
    _ivrs(data)


def _its() -> bytes:
    return struct.pack("<BHBIIIII", 0, 24, 1, 0, 0, 0, 1, 0)


def _smmu(base: int, *mappings: bytes) -> bytes:
    """One without interrupts; the lists of these would be where its offsets point."""
    head = struct.pack("<BHBIII", 3, 76 + 20 * len(mappings), 3, 0, len(mappings), 76 if mappings else 0)
    return head + struct.pack("<QQ5I2I4I", base, 4096, 1, 1, 60, 0, 76, 0, 76, 1, 2, 3, 4) + b"".join(mappings)


def _smmu_v3(base: int, *mappings: bytes) -> bytes:
    head = struct.pack("<BHBIII", 4, 68 + 20 * len(mappings), 4, 0, len(mappings), 68 if mappings else 0)
    return head + struct.pack("<QIIQ7I", base, 1, 0, 0, 0, 1, 2, 3, 4, 0, 0) + b"".join(mappings)


def _root(number: int, ats: int, *mappings: bytes) -> bytes:
    head = struct.pack("<BHBIII", 2, 36 + 20 * len(mappings), 3, 0, len(mappings), 36 if mappings else 0)
    return head + struct.pack("<QIII", 1, ats, number, 64) + b"".join(mappings)


@st.composite
def iort_tables(draw: st.DrawFn) -> bytes:
    mapping = st.builds(
        id_map, words, st.integers(1, 0x10000), words, st.sampled_from((0, 48, 72, 999)), single=st.booleans()
    )
    mappings = st.lists(mapping, max_size=3)
    made = [_smmu(draw(quad), *draw(mappings)), _smmu_v3(draw(quad), *draw(mappings))]
    made += [_root(number, draw(st.integers(0, 3)), *draw(mappings)) for number in range(draw(st.integers(0, 3)))]
    if LATER:
        memory = draw(st.lists(st.tuples(quad, quad), min_size=1, max_size=3))
        made.append(iort_rmr(*memory, mappings=tuple(draw(st.lists(mapping, min_size=1, max_size=3)))))
    nodes = [_its(), *draw(st.permutations(made))]
    return acpi("IORT", struct.pack("<III", len(nodes), 48, 0) + b"".join(nodes), revision=5 if LATER else 0)


@given(iort_tables())
@FEW
def test_of_any_iort_both_read_the_same(data: bytes) -> None:
    _iort(data)


@st.composite
def viot_tables(draw: st.DrawFn) -> bytes:
    outputs = st.sampled_from((48, 64, 0, 80))
    made = [
        pci_range(draw(rid), draw(rid), draw(outputs), segments=(draw(segment), draw(segment)), endpoint=draw(words))
        for _ in range(draw(st.integers(1, 4)))
    ]
    made += [mmio_endpoint(draw(quad), draw(words), draw(outputs)) for _ in range(draw(st.integers(0, 2)))]
    return viot(iommu_pci(draw(segment), draw(rid)), iommu_mmio(draw(quad)), *draw(st.permutations(made)))


@later
@given(viot_tables())
@FEW
def test_of_any_viot_both_read_the_same(data: bytes) -> None:
    _viot(data)


@given(st.lists(st.builds(window, quad, rid, byte, byte), min_size=1, max_size=4))
@FEW
def test_of_any_mcfg_both_read_the_same(windows: list[bytes]) -> None:
    _mcfg(acpi("MCFG", bytes(8) + b"".join(windows)))
