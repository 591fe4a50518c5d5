# SPDX-License-Identifier: GPL-2.0-or-later
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iommud.firmware.iort import IdMapping, Iort, NodeKind, SmmuStream, parse_iort
from iommud.firmware.iort_nodes import MemoryRange
from tests.firmware.builders import acpi, damaged, fixture

NAMED, ROOT, SMMU, SMMU_V3, PMCG, RMR = 1, 2, 3, 4, 5, 6
FIRST = 48


def id_map(first: int, count: int, output_base: int, output: int, *, single: bool = False) -> bytes:
    """One mapping; `count` is stored as the table wants it, less one."""
    return struct.pack("<IIIII", first, count - 1, output_base, output, int(single))


def node(kind: int, *mappings: bytes, segment: int = 0, count: int | None = None, at: int | None = None) -> bytes:
    """A node of 36 bytes before its mappings, whatever its kind."""
    content = b"".join(mappings)
    count = len(mappings) if count is None else count
    head = struct.pack("<BHBIII", kind, 36 + len(content), 0, 0, count, (36 if content else 0) if at is None else at)
    return head + bytes(12) + struct.pack("<II", segment, 0) + content


def rmr(
    *memory: tuple[int, int],
    mappings: tuple[bytes, ...] = (),
    count: int | None = None,
    start: int = 28,
    flags: int = 0,
) -> bytes:
    """A reserved memory range node: its descriptors stand between its fixed part and its mappings."""
    descriptors = b"".join(struct.pack("<QQI", base, size, 0) for base, size in memory)
    at = 28 + len(descriptors)
    content = b"".join(mappings)
    head = struct.pack("<BHBIII", RMR, at + len(content), 3, 0, len(mappings), at if mappings else 0)
    number = len(memory) if count is None else count
    return head + struct.pack("<III", flags, number, start) + descriptors + content


def smmu(kind: int, base: int) -> bytes:
    return struct.pack("<BHBIIIQ12x", kind, 36, 0, 0, 0, 0, base)


def iort(*nodes: bytes, count: int | None = None, offset: int = FIRST) -> bytes:
    head = struct.pack("<III", len(nodes) if count is None else count, offset, 0)
    return acpi("IORT", head + b"".join(nodes))


def stream(found: Iort, rid: int) -> SmmuStream | None:
    return found.root_complexes[0].smmu_stream(rid)


def test_a_real_table_leads_requester_ids_to_the_smmu_and_the_rest_to_interrupts() -> None:
    found = parse_iort(fixture("iort-smmuv3.aml"))

    assert found.problems == ()
    assert [item.kind for item in found.nodes] == [
        NodeKind.ITS_GROUP,
        NodeKind.SMMU_V3,
        NodeKind.ROOT_COMPLEX,
    ]
    (root,) = found.root_complexes
    assert root.segment == 0
    assert root.mappings == (
        IdMapping(input_base=0, count=0x301, output_base=0, output_offset=72, output=NodeKind.SMMU_V3, single=False),
        IdMapping(
            input_base=0x300,
            count=0xFD00,
            output_base=0x300,
            output_offset=48,
            output=NodeKind.ITS_GROUP,
            single=False,
        ),
    )


@pytest.mark.parametrize(
    ("rid", "expected"),
    [
        pytest.param(0, 0, id="first"),
        pytest.param(0x2FF, 0x2FF, id="last that both readings of the count give to the SMMU"),
        pytest.param(0x300, None, id="end of one range and start of the next: the next one has it"),
        pytest.param(0xFFFF, None, id="interrupts only"),
    ],
)
def test_a_real_table_resolves_an_overlap_by_one_as_the_kernel_does(rid: int, expected: int | None) -> None:
    found = stream(parse_iort(fixture("iort-smmuv3.aml")), rid)

    assert (None if found is None else found.stream_id) == expected


def test_a_real_table_without_smmu_gives_no_stream() -> None:
    found = parse_iort(fixture("iort-its-only.aml"))

    assert found.problems == ()
    assert [stream(found, rid) for rid in (0, 0x100, 0xFFFF)] == [None, None, None]


@pytest.mark.parametrize("kind", [SMMU, SMMU_V3])
def test_both_kinds_of_smmu_end_the_way(kind: int) -> None:
    found = parse_iort(iort(node(kind), node(ROOT, id_map(0x100, 0x100, 0x4100, FIRST))))

    assert stream(found, 0x123) == SmmuStream(smmu=NodeKind(kind), smmu_offset=FIRST, stream_id=0x4123)
    assert [stream(found, rid) for rid in (0xFF, 0x200)] == [None, None]


def test_an_id_is_mapped_again_at_each_node_on_the_way() -> None:
    between = node(NAMED, id_map(0x1000, 0x1000, 0x70000, FIRST))
    root = node(ROOT, id_map(0, 0x1000, 0x1000, FIRST + 36))

    found = stream(parse_iort(iort(node(SMMU_V3), between, root)), 0x18)

    assert found is not None
    assert found.stream_id == 0x70018


def test_the_last_id_of_a_range_belongs_to_it_where_no_other_claims_it() -> None:
    found = parse_iort(iort(node(SMMU_V3), node(ROOT, id_map(0, 0x100, 0, FIRST), id_map(0x200, 8, 0, FIRST))))

    result = stream(found, 0xFF)

    assert result is not None
    assert result.stream_id == 0xFF


def test_each_range_is_tried_until_one_holds_the_id() -> None:
    root = node(ROOT, id_map(0, 0x100, 0x1000, FIRST), id_map(0x200, 8, 0x2000, FIRST))
    found = parse_iort(iort(node(SMMU_V3), root))

    ids = [result and result.stream_id for result in (stream(found, rid) for rid in (3, 0x180, 0x203))]

    assert ids == [0x1003, None, 0x2003]


def test_only_the_last_id_of_a_range_yields_to_a_range_that_begins_with_it() -> None:
    before_last = node(ROOT, id_map(0, 0x100, 0x1000, FIRST), id_map(0xFE, 8, 0x2000, FIRST))

    result = stream(parse_iort(iort(node(SMMU_V3), before_last)), 0xFE)

    assert result is not None
    assert result.stream_id == 0x10FE


def test_a_node_that_announces_mappings_without_saying_where_has_none() -> None:
    found = parse_iort(iort(node(ROOT, count=1, at=0)))

    assert found.root_complexes[0].mappings == ()
    assert found.problems == ()


def test_a_table_without_nodes_is_sound() -> None:
    assert parse_iort(iort()).problems == ()


def test_no_node_past_the_announced_count_is_looked_at() -> None:
    found = parse_iort(iort(node(SMMU_V3), node(ROOT), count=1))

    assert [item.kind for item in found.nodes] == [NodeKind.SMMU_V3]
    assert found.problems == ()


def test_nodes_know_their_offsets() -> None:
    assert [item.offset for item in parse_iort(iort(node(SMMU_V3), node(ROOT))).nodes] == [FIRST, FIRST + 36]


def short_root(length: int) -> bytes:
    return (struct.pack("<BHBIII", ROOT, length, 0, 0, 0, 0) + bytes(12) + struct.pack("<I", 7))[:length]


def test_a_root_complex_may_end_after_its_segment() -> None:
    assert parse_iort(iort(short_root(32))).root_complexes[0].segment == 7


def test_a_later_range_that_only_holds_the_end_of_an_earlier_one_does_not_take_it() -> None:
    root = node(ROOT, id_map(0, 0x100, 0x1000, FIRST), id_map(0x80, 0x100, 0x2000, FIRST))

    result = stream(parse_iort(iort(node(SMMU_V3), root)), 0xFF)

    assert result is not None
    assert result.stream_id == 0x10FF


def test_a_range_of_one_id_needs_no_second_look() -> None:
    root = node(ROOT, id_map(8, 1, 0x1000, FIRST), id_map(8, 1, 0x2000, FIRST))

    result = stream(parse_iort(iort(node(SMMU_V3), root)), 8)

    assert result is not None
    assert result.stream_id == 0x1000


def test_a_single_mapping_of_a_root_complex_takes_any_id() -> None:
    found = parse_iort(iort(node(SMMU), node(ROOT, id_map(0, 1, 0x77, FIRST, single=True))))

    assert [stream(found, rid) for rid in (0, 0xFFFF)] == [
        SmmuStream(smmu=NodeKind.SMMU, smmu_offset=FIRST, stream_id=0x77)
    ] * 2


def test_a_single_mapping_of_another_node_is_skipped() -> None:
    between = node(PMCG, id_map(0, 1, 0x77, FIRST, single=True), id_map(0, 0x10000, 0, FIRST))
    root = node(ROOT, id_map(0, 0x10000, 0, FIRST + 36))

    result = stream(parse_iort(iort(node(SMMU_V3), between, root)), 5)

    assert result is not None
    assert result.stream_id == 5


def test_an_output_id_stays_within_32_bits() -> None:
    result = stream(parse_iort(iort(node(SMMU_V3), node(ROOT, id_map(0, 0x100, 0xFFFFFFFF, FIRST)))), 1)

    assert result is not None
    assert result.stream_id == 0


def test_the_first_root_complex_of_a_segment_stands_for_it() -> None:
    first, second = node(ROOT, segment=3), node(ROOT, segment=3)

    found = parse_iort(iort(node(SMMU_V3), first, second, node(ROOT, segment=4)))

    named = found.root_complex(3)
    assert named is not None
    assert named.offset == FIRST + 36
    assert found.root_complex(5) is None
    assert found.problems == (
        "IORT: the root complex nodes at 0x54 and 0x78 both stand for segment 3; the first counts",
    )


def test_an_smmu_is_told_by_where_its_registers_are() -> None:
    found = parse_iort(iort(smmu(SMMU_V3, 0x9050000), smmu(SMMU, 1 << 40), node(ROOT), smmu(SMMU, 7)[:3] + bytes(13)))

    assert [item.base for item in found.nodes[:3]] == [0x9050000, 1 << 40, None]
    assert found.node_at(FIRST + 36) == found.nodes[1]
    assert found.node_at(FIRST + 1) is None


def test_nodes_may_end_after_what_is_read_of_them() -> None:
    smallest = struct.pack("<BHBIIIQ", SMMU, 24, 0, 0, 0, 0, 0x9050000)

    found = parse_iort(iort(smallest, rmr()))

    assert (found.nodes[0].base, found.nodes[1].memory, found.problems) == (0x9050000, (), ())


def test_an_smmu_cut_before_its_registers_is_named() -> None:
    found = parse_iort(iort(struct.pack("<BHBIII", SMMU, 20, 0, 0, 0, 0) + bytes(4)))

    assert found.nodes[0].base is None
    assert found.problems == ("IORT: SMMU node at 0x30 is too short (20 bytes)",)


@pytest.mark.parametrize(("attribute", "ats"), [(0, False), (1, True), (2, False)])
def test_a_root_complex_says_whether_translations_may_be_cached_below_it(attribute: int, ats: bool) -> None:
    complex_ = struct.pack("<BHBIIIQIII", ROOT, 36, 0, 0, 0, 0, 0, attribute, 5, 0)

    (found,) = parse_iort(iort(complex_)).root_complexes

    assert (found.ats, found.segment) == (ats, 5)


def test_reserved_memory_is_of_the_streams_that_its_mappings_lead_to() -> None:
    reserved = rmr((0x1000, 0x2000), (0x8000, 0x1000), mappings=(id_map(0, 4, 0x100, FIRST, single=True),), flags=1)

    found = parse_iort(iort(smmu(SMMU_V3, 0x9050000), reserved)).nodes[1]

    assert found.memory == (
        MemoryRange(base=0x1000, size=0x2000, remappable=True),
        MemoryRange(base=0x8000, size=0x1000, remappable=True),
    )
    streams = [(FIRST, 0xFF), (FIRST, 0x100), (FIRST, 0x103), (FIRST, 0x104), (FIRST + 36, 0x100)]
    assert [found.reserves_for(*stream) for stream in streams] == [False, True, True, False, False]


def test_only_a_node_of_reserved_memory_reserves_any() -> None:
    found = parse_iort(iort(node(SMMU_V3), node(ROOT, id_map(0, 8, 0, FIRST)))).nodes[1]

    assert (found.memory, found.reserves_for(FIRST, 0)) == ((), False)


@pytest.mark.parametrize(
    ("reserved", "kept", "problem"),
    [
        (rmr((1, 2), count=9), 1, "RMR node at 0x30 announces 9 memory ranges, 1 are there"),
        (rmr((1, 2), start=0xFFFFFFFF), 0, "RMR node at 0x30 announces 1 memory ranges, 0 are there"),
        (rmr((1, 2), start=0), 0, "RMR node at 0x30 announces 1 memory ranges, 0 are there"),
        (struct.pack("<BHBIIIII", RMR, 24, 3, 0, 0, 0, 0, 0), 0, "RMR node at 0x30 is too short (24 bytes)"),
    ],
)
def test_broken_reserved_memory_is_named_and_what_is_there_is_kept(reserved: bytes, kept: int, problem: str) -> None:
    found = parse_iort(iort(reserved))

    assert len(found.nodes[0].memory) == kept
    assert found.problems == (f"IORT: {problem}",)


def test_reserved_memory_that_is_remappable_says_so() -> None:
    (found,) = parse_iort(iort(rmr((1, 2)))).nodes[0].memory

    assert not found.remappable


@pytest.mark.parametrize(
    ("mappings", "problem"),
    [
        ((id_map(0, 0x101, 0, FIRST), id_map(0x100, 8, 0, FIRST)), None),
        ((id_map(0, 0x102, 0, FIRST), id_map(0x100, 8, 0, FIRST)), 0x100),
        ((id_map(0x100, 1, 0, FIRST), id_map(0x100, 1, 0, FIRST)), 0x100),
        ((id_map(0x100, 1, 0, FIRST), id_map(0x101, 1, 0, FIRST)), None),
        ((id_map(0, 8, 0, FIRST, single=True), id_map(0, 8, 0, FIRST, single=True)), None),
    ],
)
def test_mappings_that_hold_an_id_twice_are_named_but_for_the_end_of_a_range(
    mappings: tuple[bytes, ...], problem: int | None
) -> None:
    found = parse_iort(iort(node(SMMU_V3), node(ROOT, *mappings))).problems

    text = f"IORT: two ID mappings of the node at 0x54 hold ID {problem or 0:#x}; the first counts"
    assert found == (() if problem is None else (text,))


def test_streams_of_reserved_memory_may_share_their_input_ids() -> None:
    reserved = rmr((1, 2), mappings=(id_map(0, 8, 0, FIRST), id_map(0, 8, 8, FIRST)))

    assert parse_iort(iort(node(SMMU_V3), reserved)).problems == ()
    twice = node(ROOT, id_map(0, 8, 0, FIRST), id_map(0, 8, 0, FIRST))
    assert len(parse_iort(iort(node(SMMU_V3), reserved, twice)).problems) == 1


@pytest.mark.parametrize(
    ("target", "problem"),
    [
        pytest.param(0x20, "ID mapping at 0x54 refers to 0x20, where no node starts", id="into the header"),
        pytest.param(0xFFFF, "ID mapping at 0x54 refers to 0xffff, where no node starts", id="past the end"),
        pytest.param(0, "ID mapping at 0x54 refers to 0x0, where no node starts", id="null"),
    ],
)
def test_a_dangling_reference_is_named_and_leads_nowhere(target: int, problem: str) -> None:
    found = parse_iort(iort(node(ROOT, id_map(0, 0x100, 0, target))))

    assert found.problems == (f"IORT: {problem}",)
    assert found.root_complexes[0].mappings[0].output is None
    assert stream(found, 8) is None


def test_a_null_reference_in_the_first_mapping_spoils_the_others() -> None:
    root = node(ROOT, id_map(0, 8, 0, 0), id_map(8, 0x100, 0, FIRST))

    assert stream(parse_iort(iort(node(SMMU_V3), root)), 0x10) is None


def test_a_loop_is_named_and_left() -> None:
    second = FIRST + 36 + 20
    nodes = (
        node(ROOT, id_map(0, 0x100, 0, second)),
        node(NAMED, id_map(0, 0x100, 0, FIRST)),
        node(ROOT, id_map(0, 0x100, 0, second), segment=1),
        node(SMMU_V3),
    )

    found = parse_iort(iort(*nodes))

    assert [item.smmu_stream(1) for item in found.root_complexes] == [None, None]
    assert found.problems == tuple(
        f"IORT: the references of the node at {offset:#x} lead into a loop" for offset in (FIRST, second, second + 56)
    )


def test_nodes_that_share_a_target_are_no_loop() -> None:
    smmu, between = FIRST + 36, FIRST + 36 + 56
    nodes = (
        node(0),
        node(SMMU_V3, id_map(0, 8, 0, FIRST)),
        node(NAMED, id_map(0, 8, 0, smmu), id_map(8, 8, 0, FIRST)),
        node(ROOT, id_map(0, 8, 0, smmu), id_map(8, 8, 0, between)),
        node(ROOT, id_map(0, 8, 0, between), id_map(8, 8, 0, smmu), segment=1),
    )

    assert parse_iort(iort(*nodes)).problems == ()


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        pytest.param(acpi("IORT", bytes(4)), "only 40 bytes, the fixed part needs 48", id="fixed part cut"),
        pytest.param(iort(node(ROOT), count=7), "7 nodes announced, 1 found", id="count"),
        pytest.param(iort(node(ROOT), offset=0x1000), "1 nodes announced, 0 found", id="offset"),
        pytest.param(iort(bytes(16)), "structure at 0x30 has length 0", id="length 0"),
        pytest.param(
            iort(struct.pack("<BHBIII", 2, 16, 0, 0, 0, 0)),
            "root complex node at 0x30 is too short (16 bytes)",
            id="root complex",
        ),
        pytest.param(
            iort(short_root(30)), "root complex node at 0x30 is too short (30 bytes)", id="root complex without segment"
        ),
        pytest.param(
            iort(node(ROOT, id_map(0, 8, 0, FIRST), count=0xFFFFFFFF)),
            "node at 0x30 announces 4294967295 ID mappings, 1 are there",
            id="mapping count",
        ),
        pytest.param(
            iort(node(ROOT, count=1, at=0xFFFFFFFF)),
            "node at 0x30 announces 1 ID mappings, 0 are there",
            id="mapping offset",
        ),
    ],
)
def test_a_broken_table_is_named(data: bytes, problem: str) -> None:
    assert f"IORT: {problem}" in parse_iort(data).problems


def test_a_node_cut_within_its_header_is_left_out() -> None:
    found = parse_iort(iort(node(SMMU_V3), node(ROOT)[:10]))

    assert [item.kind for item in found.nodes] == [NodeKind.SMMU_V3]


def test_a_node_of_a_later_type_is_kept_without_a_kind() -> None:
    found = parse_iort(iort(node(0x20), node(ROOT, id_map(0, 0x100, 0, FIRST))))

    assert [item.kind for item in found.nodes] == [None, NodeKind.ROOT_COMPLEX]
    assert stream(found, 8) is None


def test_another_table_gives_no_nodes() -> None:
    found = parse_iort(acpi("FACP", bytes(40)))

    assert (found.nodes, found.problems) == ((), ("IORT: signature is b'FACP'",))


def test_nodes_that_share_their_mappings_cannot_multiply_them() -> None:
    crowd = [node(NAMED, count=50, at=36) for _ in range(50)]

    found = parse_iort(iort(*crowd))

    assert sum(len(item.mappings) for item in found.nodes) <= len(iort(*crowd)) // 20


@given(
    st.binary(max_size=300)
    | damaged(fixture("iort-smmuv3.aml"))
    | st.binary(max_size=300).map(lambda body: iort(body, count=0xFFFFFFFF)),
    st.integers(0, 0xFFFF),
)
def test_any_bytes_give_a_result_no_larger_than_they_are(data: bytes, rid: int) -> None:
    found = parse_iort(data)

    assert 16 * len(found.nodes) <= len(data)
    for root in found.root_complexes:
        root.smmu_stream(rid)
