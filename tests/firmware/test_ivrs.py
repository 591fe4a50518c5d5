# SPDX-License-Identifier: GPL-2.0-or-later
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iommud.firmware.ivhd import AliasRange, RidRange
from iommud.firmware.ivrs import IvhdBlock, IvInfo, Ivrs, MemoryBlock, MemoryFlag, parse_ivrs
from tests.firmware.builders import acpi, damaged, fixture

ALL, SELECT, START, END = 0x01, 0x02, 0x03, 0x04
ALIAS, ALIAS_RANGE, EXT_SELECT, EXT_RANGE, SPECIAL = 0x42, 0x43, 0x46, 0x47, 0x48


def short(kind: int, rid: int = 0) -> bytes:
    return struct.pack("<BHB", kind, rid, 0)


def long(kind: int, rid: int, second: int = 0, *, last_byte: int = 0) -> bytes:
    return struct.pack("<BHBBHB", kind, rid, 0, 0, second, last_byte)


def hid(rid: int, name: bytes = b"AMDI0020", uid: bytes = b"") -> bytes:
    return struct.pack("<BHB8s8sBB", 0xF0, rid, 0, name, bytes(8), 2 if uid else 0, len(uid)) + uid


def ivhd(kind: int, *entries: bytes, device_id: int = 2, segment: int = 0, flags: int = 0) -> bytes:
    size = {0x10: 24}.get(kind, 40)
    content = b"".join(entries)
    head = struct.pack("<BBHHHQH", kind, flags, size + len(content), device_id, 0x40, 0xFEB80000, segment)
    return head + bytes(size - len(head)) + content


def ivmd(
    kind: int, rid: int, last: int = 0, *, flags: int = 0, segment: int = 0, base: int = 0, size: int = 0
) -> bytes:
    return struct.pack("<BBHHHH6xQQ", kind, flags, 32, rid, last, segment, base, size)


def ivrs(*blocks: bytes, info: int = 0) -> bytes:
    return acpi("IVRS", struct.pack("<I8x", info) + b"".join(blocks), revision=2)


def only_block(*entries: bytes, kind: int = 0x10) -> tuple[IvhdBlock, tuple[str, ...]]:
    found = parse_ivrs(ivrs(ivhd(kind, *entries)))
    (block,) = found.blocks
    return block, found.problems


def ranges(block: IvhdBlock) -> list[tuple[int, int]]:
    return [(item.first, item.last) for item in block.covered]


def test_a_real_table_aliases_a_conventional_bus_to_its_bridge() -> None:
    found = parse_ivrs(fixture("ivrs-alias-range.aml"))

    assert found.problems == ()
    (block,) = found.blocks_used()
    assert (block.type, block.flags, block.offset, block.segment, block.device_id) == (0x10, 0xD1, 0x30, 0, 0x0008)
    assert block.register_base == 0xFED80000
    assert block.aliases == (AliasRange(segment=0, first=0x200, last=0x2FF, alias=0x200),)
    assert RidRange(segment=0, first=0x200, last=0x2FF) in block.covered
    assert RidRange(segment=0, first=0xA0, last=0xA0) in block.covered, "the I/O APIC's own requester ID"
    assert found.highest_rid(0) == 0x2FF


@pytest.mark.parametrize(
    ("segment", "rid", "covered"),
    [
        pytest.param(0, 0x0000, True, id="host bridge"),
        pytest.param(0, 0x0008, False, id="the IOMMU itself, although an entry names it"),
        pytest.param(0, 0x0018, False, id="no entry"),
        pytest.param(0, 0x0280, True, id="within the alias range"),
        pytest.param(0, 0x0300, False, id="above the highest requester ID"),
        pytest.param(1, 0x0000, False, id="another segment"),
    ],
)
def test_a_real_table_covers_what_its_entries_name(segment: int, rid: int, covered: bool) -> None:
    assert parse_ivrs(fixture("ivrs-alias-range.aml")).covers(segment, rid) == covered


@pytest.mark.parametrize(("rid", "alias"), [(0x1FF, None), (0x200, 0x200), (0x2FF, 0x200), (0x300, None)])
def test_a_real_table_gives_each_function_of_the_bus_the_alias(rid: int, alias: int | None) -> None:
    assert parse_ivrs(fixture("ivrs-alias-range.aml")).alias_of(0, rid) == alias


@pytest.mark.parametrize(
    ("entries", "covered", "aliases", "highest"),
    [
        pytest.param([short(ALL)], [(0, 0xFFFF)], [], 0xFFFF, id="all"),
        pytest.param([short(SELECT, 0x18)], [(0x18, 0x18)], [], 0x18, id="select"),
        pytest.param([short(SELECT, 0)], [(0, 0)], [], 0, id="select the first"),
        pytest.param([short(START, 8), short(END, 0xFFFE)], [(8, 0xFFFE)], [], 0xFFFE, id="range"),
        pytest.param([short(START, 8), short(END, 8)], [(8, 8)], [], 8, id="range of one"),
        pytest.param(
            [long(ALIAS_RANGE, 0x400, 0x3E8), short(END, 0x400)],
            [(0x3E8, 0x3E8), (0x400, 0x400)],
            [(0x400, 0x400, 0x3E8)],
            0x400,
            id="alias range of one",
        ),
        pytest.param(
            [long(ALIAS, 0x500, 0x600)],
            [(0x500, 0x500), (0x600, 0x600)],
            [(0x500, 0x500, 0x600)],
            0x500,
            id="alias: covered too, but it does not raise the highest",
        ),
        pytest.param(
            [long(ALIAS_RANGE, 0x400, 0x3E8), short(END, 0x4FF)],
            [(0x3E8, 0x3E8), (0x400, 0x4FF)],
            [(0x400, 0x4FF, 0x3E8)],
            0x4FF,
            id="alias range stays one range",
        ),
        pytest.param([long(EXT_SELECT, 0x20)], [(0x20, 0x20)], [], 0x20, id="extended select"),
        pytest.param([long(EXT_RANGE, 0x20), short(END, 0x2F)], [(0x20, 0x2F)], [], 0x2F, id="extended range"),
        pytest.param(
            [short(SELECT, 1), long(SPECIAL, 0, 0xA0, last_byte=1)],
            [(1, 1), (0xA0, 0xA0)],
            [],
            1,
            id="I/O APIC: covered, but it does not raise the highest",
        ),
        pytest.param([short(0), short(SELECT, 9)], [(9, 9)], [], 9, id="padding"),
        pytest.param([long(0x44, 7), short(SELECT, 9)], [(9, 9)], [], 9, id="unknown entry of 8 bytes"),
        pytest.param([b"\x80" + bytes(15), short(SELECT, 9)], [(9, 9)], [], 9, id="unknown entry of 16 bytes"),
        pytest.param([b"\xc0" + bytes(31), short(SELECT, 9)], [(9, 9)], [], 9, id="unknown entry of 32 bytes"),
        pytest.param([short(SELECT, 9), short(SELECT, 3)], [(9, 9), (3, 3)], [], 9, id="not in order"),
        pytest.param([short(SELECT, 9), short(ALL)], [(9, 9), (0, 0xFFFF)], [], 0xFFFF, id="all at the end"),
    ],
)
def test_each_device_entry_covers_what_the_kernel_covers(
    entries: list[bytes],
    covered: list[tuple[int, int]],
    aliases: list[tuple[int, int, int]],
    highest: int,
) -> None:
    block, problems = only_block(*entries)

    assert problems == ()
    assert ranges(block) == covered
    assert [(item.first, item.last, item.alias) for item in block.aliases] == aliases
    assert block.highest_rid == highest


def test_a_plain_range_after_an_alias_range_has_no_alias() -> None:
    block, _ = only_block(long(ALIAS_RANGE, 0x400, 0x3E8), short(END, 0x4FF), short(START, 0x500), short(END, 0x5FF))

    assert [(item.first, item.last) for item in block.aliases] == [(0x400, 0x4FF)]


@pytest.mark.parametrize(("uid", "rid"), [(b"", 0x90), (b"UID with text", 0x91)])
def test_an_acpi_device_is_covered_and_its_uid_passed_over(uid: bytes, rid: int) -> None:
    block, problems = only_block(hid(rid, uid=uid), short(SELECT, 1), kind=0x40)

    assert problems == ()
    assert ranges(block) == [(rid, rid), (1, 1)]
    assert block.highest_rid == 1


@pytest.mark.parametrize(
    ("entries", "kind", "covered", "problem"),
    [
        pytest.param(
            [short(SELECT, 1), hid(0x90)],
            0x11,
            [(1, 1)],
            "ACPI HID entry at 0x5c is not valid, the kernel passes over it",
            id="ACPI device in an old block",
        ),
        pytest.param(
            [short(SELECT, 1), hid(0x90, b"")],
            0x40,
            [(1, 1)],
            "ACPI HID entry at 0x5c is not valid, the kernel passes over it",
            id="ACPI device without a name",
        ),
        pytest.param(
            [short(SELECT, 1), long(SPECIAL, 0, 0xA0, last_byte=3)],
            0x10,
            [(1, 1)],
            "special device at 0x4c has unknown variety 3",
            id="special",
        ),
        pytest.param(
            [short(START, 8), short(START, 0x10), short(END, 0x1F)],
            0x10,
            [(0x10, 0x1F)],
            "IVHD range that starts before 0x4c has no end",
            id="two starts",
        ),
        pytest.param(
            [short(START, 8), short(SELECT, 1)],
            0x10,
            [(1, 1)],
            "IVHD at 0x30 ends within a range",
            id="no end",
        ),
        pytest.param([short(END, 0x1F)], 0x10, [(0, 0x1F)], "IVHD range end at 0x48 has no start", id="no start"),
        pytest.param(
            [short(START, 8), short(END, 0xF), short(END, 0x1F)],
            0x10,
            [(8, 0xF), (8, 0x1F)],
            "IVHD range end at 0x50 has no start",
            id="second end",
        ),
        pytest.param(
            [short(START, 9), short(END, 8)],
            0x10,
            [],
            "IVHD range end at 0x4c lies below its start, the range is empty",
            id="backwards",
        ),
        pytest.param(
            [long(ALIAS_RANGE, 9, 0x50), short(END, 8)],
            0x10,
            [(0x50, 0x50)],
            "IVHD range end at 0x50 lies below its start, the range is empty",
            id="alias range backwards",
        ),
        pytest.param(
            [short(SELECT, 1), b"\xf5" + bytes(40), short(SELECT, 2)],
            0x40,
            [(1, 1)],
            "device entry at 0x5c has type 0xf5 of unknown length",
            id="unknown variable length",
        ),
        pytest.param(
            [short(SELECT, 1), b"\x42\0"],
            0x10,
            [(1, 1)],
            "device entry at 0x4c passes the end of its block",
            id="cut",
        ),
        pytest.param(
            [short(SELECT, 1), hid(0x90)[:20]],
            0x40,
            [(1, 1)],
            "device entry at 0x5c passes the end of its block",
            id="ACPI device cut",
        ),
    ],
)
def test_a_broken_device_entry_is_named_and_the_rest_is_read(
    entries: list[bytes], kind: int, covered: list[tuple[int, int]], problem: str
) -> None:
    block, problems = only_block(*entries, kind=kind)

    assert problems == (f"IVRS: {problem}",)
    assert ranges(block) == covered


def used_types(*blocks: bytes) -> list[int]:
    return [block.type for block in parse_ivrs(ivrs(*blocks)).blocks_used()]


def test_of_one_iommu_described_three_times_the_last_type_counts() -> None:
    entry = short(SELECT, 1)

    assert used_types(ivhd(0x10, entry), ivhd(0x11, entry), ivhd(0x40, entry)) == [0x40]


def test_the_type_of_the_first_iommu_is_the_type_read_for_all() -> None:
    entry = short(SELECT, 1)
    blocks = [ivhd(kind, entry, device_id=rid) for kind in (0x10, 0x11) for rid in (2, 0x6002)]
    newer_elsewhere = ivhd(0x40, entry, device_id=0x6002)

    assert used_types(*blocks, newer_elsewhere) == [0x11, 0x11]


def test_memory_blocks_of_other_devices_do_not_disturb_the_choice() -> None:
    assert used_types(ivhd(0x10, short(SELECT, 1)), ivmd(0x21, 0x100), ivmd(0x20, 0)) == [0x10]


def test_a_block_of_a_later_type_ends_the_choice() -> None:
    entry = short(SELECT, 1)

    assert used_types(ivhd(0x10, entry), ivhd(0x41, entry), ivhd(0x11, entry)) == [0x10]


def test_a_chosen_type_that_describes_no_iommu_leaves_none() -> None:
    found = parse_ivrs(ivrs(ivhd(0x10, short(SELECT, 1)), ivmd(0x21, 2)))

    assert (found.used_type, found.blocks_used(), found.highest_rid(0)) == (None, (), None)
    assert found.problems == ("IVRS: the kernel chooses block type 0x21, which describes no IOMMU",)


def two_segments() -> Ivrs:
    return parse_ivrs(
        ivrs(
            ivhd(0x11, short(START, 8), short(END, 0x1FF), segment=0),
            ivhd(0x11, long(ALIAS, 0x300, 0x310), long(ALIAS, 0x300, 0x320), segment=1, device_id=2),
            ivhd(0x11, short(SELECT, 0x450), segment=1, device_id=0x4002),
        )
    )


def test_each_segment_has_its_own_highest_requester_id() -> None:
    found = two_segments()

    assert [found.highest_rid(segment) for segment in (0, 1, 2)] == [0x1FF, 0x450, None]


def test_of_two_aliases_of_one_requester_id_the_last_counts() -> None:
    found = two_segments()

    assert [found.alias_of(segment, 0x300) for segment in (0, 1)] == [None, 0x320]


def test_an_alias_is_of_its_block_s_segment() -> None:
    assert two_segments().blocks[1].aliases == (
        AliasRange(segment=1, first=0x300, last=0x300, alias=0x310),
        AliasRange(segment=1, first=0x300, last=0x300, alias=0x320),
    )


def test_an_alias_above_the_highest_requester_id_is_not_covered() -> None:
    found = parse_ivrs(ivrs(ivhd(0x10, long(ALIAS, 0x500, 0x600))))

    assert [found.covers(0, rid) for rid in (0x500, 0x600)] == [True, False]


def test_of_two_iommus_that_name_one_requester_id_the_last_serves_it() -> None:
    found = parse_ivrs(
        ivrs(
            ivhd(0x11, short(SELECT, 8), short(START, 0x100), short(END, 0x1FF), short(SELECT, 0x100), device_id=2),
            ivhd(0x11, short(START, 0x1F0), short(END, 0x2FF), device_id=0x4002),
        )
    )

    served = [found.server(0, rid) for rid in (8, 0x100, 0x1F0, 0x2FF)]
    assert [block and block.device_id for block in served] == [2, 2, 0x4002, 0x4002]
    assert [found.server(0, rid) for rid in (9, 0x300, 2)] == [None, None, None]
    assert found.problems == ("IVRS: IVHDs at 0x30 and 0x68 both name requester ID 0x01f0; the last counts",)


def test_iommus_of_two_segments_or_of_a_type_that_is_not_read_do_not_contend() -> None:
    found = parse_ivrs(
        ivrs(
            ivhd(0x10, short(SELECT, 8)),
            ivhd(0x11, short(SELECT, 8)),
            ivhd(0x11, short(SELECT, 8), segment=1, device_id=2),
        )
    )

    assert found.problems == ()


def test_memory_that_stays_reachable_names_its_requester_ids() -> None:
    found = parse_ivrs(
        ivrs(
            ivmd(0x20, 5, 6, flags=1, base=0x1000, size=0x2000),
            ivmd(0x21, 5, 6, flags=8, segment=3),
            ivmd(0x22, 5, 6, flags=6),
            info=3,
        )
    )

    assert found.memory == (
        MemoryBlock(segment=0, first=0, last=0xFFFF, flags=MemoryFlag.UNITY, base=0x1000, size=0x2000),
        MemoryBlock(segment=3, first=5, last=5, flags=MemoryFlag.EXCLUSION, base=0, size=0),
        MemoryBlock(segment=0, first=5, last=6, flags=MemoryFlag.READ | MemoryFlag.WRITE, base=0, size=0),
    )
    assert [block.counts for block in found.memory] == [True, True, False]
    assert IvInfo(found.info) == IvInfo.FEATURES_GIVEN | IvInfo.DMA_REMAP


def test_a_memory_block_may_be_of_one_requester_id() -> None:
    assert parse_ivrs(ivrs(ivhd(0x11, short(ALL)), ivmd(0x22, 6, 6))).problems == ()


@pytest.mark.parametrize(
    ("block", "problem"),
    [
        (ivmd(0x22, 6, 5), "IVMD at 0x30 ends at 0x5, before its start 0x6"),
        (struct.pack("<BBH4x", 0x21, 0, 8), "IVMD at 0x30 is too short (8 bytes)"),
        (struct.pack("<BBH4x", 0x21, 0, 0), "structure at 0x30 has length 0"),
    ],
)
def test_a_broken_memory_block_is_named(block: bytes, problem: str) -> None:
    found = parse_ivrs(ivrs(block))

    assert any(one == f"IVRS: {problem}" for one in found.problems)


def test_a_table_that_ends_before_its_flags_has_none() -> None:
    assert parse_ivrs(acpi("IVRS", bytes(3))).info == 0


def test_a_block_that_names_nothing_is_named() -> None:
    found = parse_ivrs(ivrs(ivhd(0x10)))

    assert found.problems == ("IVRS: IVHD at 0x30 names no requester ID, the kernel gives up the table",)
    assert found.highest_rid(0) is None


def test_a_cut_block_is_named_and_left_out() -> None:
    found = parse_ivrs(ivrs(struct.pack("<BBH4x", 0x40, 0, 8)))

    assert found.blocks == ()
    assert found.problems == ("IVRS: IVHD at 0x30 is too short (8 bytes)",)


def test_an_empty_table_has_no_type_in_use() -> None:
    found = parse_ivrs(ivrs())

    assert (found.blocks, found.used_type, found.problems) == ((), None, ())


@given(
    st.binary(max_size=300)
    | damaged(fixture("ivrs-alias-range.aml"))
    | st.binary(max_size=300).map(lambda body: ivrs(ivhd(0x40, body)))
    | st.binary(max_size=300).map(ivrs)
)
def test_any_bytes_give_a_result_no_larger_than_they_are(data: bytes) -> None:
    found = parse_ivrs(data)

    assert sum(len(block.covered) + len(block.aliases) for block in found.blocks) <= len(data)
    found.covers(0, 0x100)
    found.alias_of(0, 0x100)
