# SPDX-License-Identifier: GPL-2.0-or-later
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iommud.pci import Gap, Wanted, decode_config
from iommud.redact_config import redact_config

SERIAL = bytes.fromhex("efcdabfeff005452")
VITAL = b"SN12"
LOOP = 0x40


@dataclass
class Space:
    """A config space under construction; a capability is (position, id, next)."""

    content: bytearray = field(default_factory=lambda: bytearray(4096))

    def capabilities(self, *entries: tuple[int, int, int]) -> "Space":
        self.content[0x06] = 0x10
        self.content[0x34] = entries[0][0]
        for position, capability, following in entries:
            self.content[position : position + 2] = bytes((capability, following))
        return self

    def extended(self, *entries: tuple[int, int, int]) -> "Space":
        for position, capability, following in entries:
            self.content[position : position + 4] = (capability | 1 << 16 | following << 20).to_bytes(4, "little")
        return self

    def put(self, position: int, content: bytes) -> "Space":
        self.content[position : position + len(content)] = content
        return self

    def bytes(self, size: int = 4096) -> bytes:
        return bytes(self.content[:size])


def test_the_serial_number_is_blanked_and_all_other_bytes_stay() -> None:
    space = Space().extended((0x100, 1, 0x140), (0x140, 3, 0x150), (0x150, 0x0D, 0)).put(0x110, b"AER")
    original = space.put(0x144, SERIAL).put(0x154, b"\x5f\0\x1d\0").put(0xF00, b"vendor").bytes()

    redacted = redact_config(original)

    assert redacted.content == original.replace(SERIAL, bytes(8))
    assert (redacted.serial_numbers, redacted.vital_data, redacted.cut) == (1, 0, False)


def test_the_registers_of_vital_product_data_are_blanked_and_all_other_bytes_stay() -> None:
    space = Space().capabilities((0x40, 1, 0x48), (0x48, 3, 0x60), (0x60, 0x10, 0)).put(0x80, b"vendor")
    original = space.put(0x4A, b"\x34\x92" + VITAL).bytes(256)

    redacted = redact_config(original)

    assert redacted.content == original.replace(b"\x34\x92" + VITAL, bytes(6))
    assert (redacted.serial_numbers, redacted.vital_data, redacted.cut) == (0, 1, False)


def test_the_list_of_a_cardbus_bridge_begins_elsewhere() -> None:
    space = Space().capabilities((0x80, 3, 0)).put(0x84, VITAL).put(0x34, b"\0").put(0x14, b"\x80").put(0x0E, b"\x02")

    assert VITAL not in redact_config(space.bytes(256)).content


@pytest.mark.parametrize(
    "entries",
    [
        pytest.param([(0x100, 1, 0x120), (0x120, 1, 0x100)], id="a loop"),
        pytest.param([(0x100, 1, 0x120), (0x120, 1, 0x080)], id="a pointer out of the extended space"),
        pytest.param([(0x100, 1, 0x120)], id="a pointer to zeros"),
        pytest.param([(0x100, 0xFFFF, 0xFFF)], id="a register that does not answer"),
        pytest.param([], id="no list at all"),
        pytest.param([(0x100, 3, 0x108), (0x108, 1, 0)], id="a list that runs through the serial number"),
    ],
)
def test_a_serial_number_behind_a_broken_list_is_blanked(entries: list[tuple[int, int, int]]) -> None:
    original = Space().extended(*entries).put(0x344, SERIAL).put(0x10C, b"\x77").bytes()

    redacted = redact_config(original)

    assert SERIAL not in redacted.content
    assert redacted.content[0x10C] == 0
    assert redacted.cut


@pytest.mark.parametrize(
    "entries",
    [
        pytest.param([(LOOP, 1, 0x50), (0x50, 1, LOOP)], id="a loop"),
        pytest.param([(LOOP, 1, 0x20)], id="a pointer into the header"),
        pytest.param([(LOOP, 0xFF, 0)], id="a register that does not answer"),
        pytest.param([(LOOP, 3, 0x44), (0x44, 1, 0)], id="a list that runs through the data"),
    ],
)
def test_vital_data_behind_a_broken_list_are_blanked(entries: list[tuple[int, int, int]]) -> None:
    redacted = redact_config(Space().capabilities(*entries).put(0x84, VITAL).bytes(256))

    assert VITAL not in redacted.content
    assert redacted.cut


def test_a_function_that_does_not_answer_is_left_as_it_is() -> None:
    assert redact_config(b"\xff" * 4096).content == b"\xff" * 4096


def test_registers_of_an_old_function_without_capabilities_are_kept() -> None:
    original = Space().put(0x40, b"chipset").bytes(256)

    assert redact_config(original).content == original


def test_the_control_register_of_an_intel_root_port_is_kept_even_where_vital_data_should_lie() -> None:
    space = Space().put(0, b"\x86\x80").capabilities((0x40, 0x10, 0xD4), (0xD4, 3, 0)).put(0x42, b"\x42\0")

    assert redact_config(space.put(0xD8, b"\0\0\0\x04").bytes(256)).content[0xD8:0xDC] == b"\0\0\0\x04"


@pytest.mark.parametrize("size", [0, 1, 7, 63, 64, 128, 255, 257, 0x147, 0x148, 4095])
def test_a_space_of_any_length_keeps_its_length_and_gives_no_serial_number_away(size: int) -> None:
    original = Space().extended((0x100, 1, 0x140), (0x140, 3, 0)).put(0x144, SERIAL).bytes(size)

    redacted = redact_config(original)

    assert len(redacted.content) == size
    assert not any(redacted.content[0x144:0x14C])


IDS = st.sampled_from([0x00, 0x01, 0x03, 0x09, 0x10, 0x11, 0xFF])
POSITIONS = st.integers(0x30, 0xFF)
EXTENDED_IDS = st.sampled_from([0x0000, 0x0001, 0x0003, 0x000B, 0x000D, 0xFFFF])
EXTENDED_POSITIONS = st.integers(0x20, 0x3FF).map(lambda index: index * 4)
NEAR = st.integers(0x40, 0x50).map(lambda index: index * 4)


@st.composite
def spaces(draw: st.DrawFn) -> bytes:
    """Config spaces with lists that are whole, looped, overlapping or cut, over random bytes."""
    space = Space(bytearray(draw(st.binary(min_size=64, max_size=64)) * 64))
    space.put(0, draw(st.sampled_from([b"\x86\x80", b"\xde\x10"])))
    space.put(0x06, draw(st.sampled_from([b"\x10", b"\x00"]))).put(
        0x0E, draw(st.sampled_from([b"\0", b"\x81", b"\x02"]))
    )
    space.put(0x14, bytes((draw(POSITIONS),))).put(0x34, bytes((draw(POSITIONS),)))
    for position, capability, following in draw(st.lists(st.tuples(POSITIONS, IDS, POSITIONS), max_size=8)):
        space.put(position & 0xFC, bytes((capability, draw(st.sampled_from([following, 0])))))
    places = EXTENDED_POSITIONS | NEAR
    for position, capability, following in draw(st.lists(st.tuples(places, EXTENDED_IDS, places), max_size=8)):
        space.extended((position & 0xFFC, capability, draw(st.sampled_from([following, 0]))))
    space.extended((0x100, draw(EXTENDED_IDS), draw(places)))
    return space.bytes(draw(st.sampled_from([64, 128, 255, 256, 257, 300, 4096])))


@given(
    original=spaces(),
    header=st.booleans(),
    every_type=st.booleans(),
    wide=st.booleans(),
    function=st.integers(0, 7),
    mpc=st.booleans(),
)
def test_what_is_decoded_stays_the_same(
    original: bytes, header: bool, every_type: bool, wide: bool, function: int, mpc: bool
) -> None:
    # No kernel table and so no plan asks for that register of functions that are not Intel's.
    # Without its header type a CardBus bridge cannot be told from other functions, so that is asked for too.
    header = header or original[0x0E] == 2
    wanted = Wanted(header=header, every_type=every_type, wide_acs=wide, mpc=mpc and original[:2] == b"\x86\x80")

    def decoded(content: bytes) -> object:
        def read(offset: int) -> int | None:
            piece = content[offset : offset + 4]
            return int.from_bytes(piece, "little") if len(piece) == 4 else None

        return decode_config(
            read,
            wanted,
            size=len(content) if len(content) == 256 else 4096,
            function_number=function,
            extended_evidence=False,
            gap=Gap.TRUNCATED,
        )

    redacted = redact_config(original)

    assert len(redacted.content) == len(original)
    assert decoded(redacted.content) == decoded(original)
    assert redact_config(redacted.content).content == redacted.content
