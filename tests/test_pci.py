# SPDX-License-Identifier: GPL-2.0-or-later
"""Decoding of configuration space, dword by dword."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iommud.pci import AcsRegisters, ConfigFacts, Gap, Oddity, PortType, Wanted, acs_names, decode_config


class Space:
    """A config space in the making; it remembers which dwords were read."""

    def __init__(self, size: int = 4096) -> None:
        self.bytes = bytearray(size)
        self.offsets: list[int] = []

    def put(self, offset: int, value: int, width: int = 4) -> "Space":
        self.bytes[offset : offset + width] = value.to_bytes(width, "little")
        return self

    def header(self, header_type: int = 0, *, multifunction: bool = False) -> "Space":
        return self.put(0x0E, header_type | (0x80 if multifunction else 0), 1)

    def capability(self, offset: int, identifier: int, following: int = 0, word: int = 0) -> "Space":
        if not self.bytes[0x06] & 0x10:
            self.put(0x06, 0x10, 2).put(0x34, offset, 1)
        return self.put(offset, identifier | following << 8 | word << 16)

    def pcie(self, port_type: int, offset: int = 0x40, following: int = 0) -> "Space":
        return self.capability(offset, 0x10, following, 0x2 | port_type << 4)

    def extended(self, offset: int, identifier: int, following: int = 0) -> "Space":
        return self.put(offset, identifier | 1 << 16 | following << 20)

    def acs(self, capability: int, control: int, offset: int = 0x100) -> "Space":
        return self.extended(offset, 0x0D).put(offset + 4, capability | control << 16)

    def read(self, offset: int) -> int | None:
        self.offsets.append(offset)
        piece = bytes(self.bytes[offset : offset + 4])
        return int.from_bytes(piece, "little") if len(piece) == 4 else None

    def decode(
        self,
        wanted: Wanted | None = None,
        *,
        function: int = 0,
        size: int | None = None,
        evidence: bool = False,
        gap: Gap = Gap.TRUNCATED,
    ) -> ConfigFacts:
        claimed = size or (256 if len(self.bytes) == 256 else 4096)
        return decode_config(
            self.read,
            wanted or Wanted(),
            size=claimed,
            function_number=function,
            extended_evidence=evidence,
            gap=gap,
        )


def port(port_type: int = PortType.ROOT_PORT) -> Space:
    return Space().header(1).pcie(port_type)


CONVENTIONAL = ConfigFacts(header_type=0, multifunction_bit=False, is_pcie=False, acs_known=True)


def test_type_and_acs_of_a_root_port() -> None:
    facts = port().acs(0x5F, 0x1D).decode()

    assert facts == ConfigFacts(
        header_type=1,
        multifunction_bit=False,
        is_pcie=True,
        port_type=PortType.ROOT_PORT,
        acs=AcsRegisters(0x5F, 0x1D),
        acs_known=True,
    )


def test_only_the_dwords_that_decide_are_read() -> None:
    space = port().acs(0x5F, 0x1D)
    space.decode()

    assert space.offsets == [0x0C, 0x04, 0x34, 0x40, 0x100, 0x104]


def test_capabilities_are_found_along_the_list() -> None:
    space = Space().header().capability(0x50, 0x01, 0x63).pcie(PortType.ENDPOINT, 0x60)
    space.header(multifunction=True).extended(0x100, 0x01, 0x143).acs(0x00, 0x00, 0x140)

    facts = space.decode()

    # The low two bits of a pointer are reserved: 0x63 leads to 0x60, 0x143 to 0x140.
    assert (facts.port_type, facts.acs) == (PortType.ENDPOINT, AcsRegisters(0, 0))


@pytest.mark.parametrize("function", [0, 3])
def test_without_a_capability_list_it_is_conventional(function: int) -> None:
    assert Space().header().decode(function=function) == CONVENTIONAL


def test_a_pointer_counts_for_nothing_where_the_status_tells_of_no_list() -> None:
    assert port().header(0).put(0x06, 0x2F8F, 2).decode() == CONVENTIONAL


def test_the_multifunction_mark_is_one_bit_of_its_dword() -> None:
    space = Space().put(0x0C, 0xFF7FFFFF)

    assert space.decode(Wanted(capabilities=False)).multifunction_bit is False


@pytest.mark.parametrize(
    "space",
    [
        Space().header().capability(0x50, 0x01),
        Space().header().capability(0x50, 0xFF, 0x60).pcie(4, 0x60),
        Space().header().capability(0x50, 0x01, 0x3C),
    ],
    ids=["the list ends", "an id of all ones ends it", "a pointer into the header ends it"],
)
def test_a_list_that_ends_without_pcie_means_conventional(space: Space) -> None:
    assert space.decode() == CONVENTIONAL


def test_a_list_that_loops_is_left_after_48_steps() -> None:
    facts = Space().header().capability(0x50, 0x01, 0x60).capability(0x60, 0x05, 0x50).decode()

    assert facts == replace(CONVENTIONAL, oddities=(Oddity.CAPABILITY_LOOP,))


def test_pcie_before_the_loop_is_still_found() -> None:
    facts = Space().header().pcie(0x4, 0x50, 0x60).capability(0x60, 0x05, 0x50).acs(1, 1).decode()

    assert (facts.port_type, facts.oddities) == (4, ())


def test_an_extended_list_that_loops_ends() -> None:
    facts = port().extended(0x100, 0x01, 0x140).extended(0x140, 0x02, 0x100).decode()

    assert (facts.acs, facts.acs_known, facts.oddities) == (None, True, (Oddity.EXTENDED_CAPABILITY_LOOP,))


@pytest.mark.parametrize("first", [0, 0xFFFFFFFF])
def test_an_empty_extended_space_has_no_acs(first: int) -> None:
    facts = port().put(0x100, first).decode()

    assert (facts.acs, facts.acs_known) == (None, True)


def test_an_extended_space_of_all_ones_is_empty_and_not_a_loop() -> None:
    space = port()
    space.bytes[0x100:] = b"\xff" * (len(space.bytes) - 0x100)

    assert (space.decode().acs_known, space.decode().oddities) == (True, ())


def test_the_extended_list_may_end_without_acs() -> None:
    facts = port().extended(0x100, 0x01, 0x0C0).decode()

    assert (facts.acs, facts.acs_known) == (None, True)


def test_a_space_of_256_bytes_has_no_acs() -> None:
    facts = Space(256).header(1).pcie(PortType.ROOT_PORT).decode()

    assert (facts.acs, facts.acs_known, facts.gap) == (None, True, None)


def test_a_space_of_256_bytes_that_must_be_longer_is_cut_off() -> None:
    facts = Space(256).header(1).pcie(PortType.ROOT_PORT).decode(evidence=True)

    assert (facts.acs_known, facts.gap, facts.oddities) == (False, Gap.TRUNCATED, (Oddity.SHORT_EXTENDED_SPACE,))


@pytest.mark.parametrize(
    ("length", "pcie", "known"),
    [
        (0, None, False),
        (4, None, False),
        (0x10, None, False),
        (64, None, False),
        (0x100, True, False),
        (0x104, True, False),
    ],
)
def test_missing_bytes_are_a_gap_and_never_a_guess(length: int, pcie: bool | None, known: bool) -> None:
    space = port().acs(0x1D, 0x1D)
    del space.bytes[length:]

    facts = space.decode(size=4096, gap=Gap.RESTRICTED)

    assert (facts.is_pcie, facts.acs_known, facts.gap) == (pcie, known, Gap.RESTRICTED)


@pytest.mark.parametrize(("data", "gap"), [(b"", Gap.RESTRICTED), (b"\xff" * 64, Gap.ALL_ONES)])
def test_a_header_that_cannot_be_read_is_a_gap_though_nothing_else_is_wanted(data: bytes, gap: Gap) -> None:
    space = Space()
    space.bytes[:] = data

    assert space.decode(Wanted(capabilities=False), size=4096, gap=Gap.RESTRICTED) == ConfigFacts(gap=gap)


def test_a_status_that_cannot_be_read_is_a_gap() -> None:
    space = Space()
    del space.bytes[4:]

    assert space.decode(Wanted(header=False), function=1, gap=Gap.RESTRICTED) == ConfigFacts(gap=Gap.RESTRICTED)


@pytest.mark.parametrize(
    ("header", "function", "read"), [(True, 0, True), (True, 1, True), (False, 0, True), (False, 1, False)]
)
def test_the_header_is_left_unread_only_where_the_number_tells_of_several_functions(
    header: bool, function: int, read: bool
) -> None:
    space = port()
    space.decode(Wanted(header=header), function=function)

    assert (0x0C in space.offsets) is read


def test_a_header_without_capabilities_is_decided_by_64_bytes() -> None:
    space = Space().header(1)
    del space.bytes[64:]

    assert space.decode(gap=Gap.RESTRICTED) == ConfigFacts(
        header_type=1, multifunction_bit=False, is_pcie=False, acs_known=True
    )


@pytest.mark.parametrize("function", [0, 1])
def test_a_function_that_answers_with_all_ones_is_a_gap(function: int) -> None:
    space = Space()
    space.bytes[:] = b"\xff" * 4096

    facts = space.decode(Wanted(header=False), function=function)

    assert (facts.gap, facts.is_pcie, facts.multifunction_bit) == (Gap.ALL_ONES, None, None)


def test_a_cardbus_bridge_keeps_its_list_elsewhere() -> None:
    space = Space().header(2).put(0x06, 0x10, 2).put(0x14, 0x80, 1).capability(0x80, 0x01)

    facts = space.decode()

    assert (facts.header_type, facts.is_pcie, facts.oddities) == (2, False, (Oddity.CARDBUS_HEADER,))
    assert 0x14 in space.offsets


def test_an_unknown_header_type_is_named() -> None:
    assert Space().header(3).decode().oddities == (Oddity.UNKNOWN_HEADER,)


@pytest.mark.parametrize(
    ("port_type", "multifunction", "function", "read"),
    [
        (PortType.ROOT_PORT, False, 0, True),
        (PortType.DOWNSTREAM_PORT, False, 0, True),
        (PortType.PCIE_TO_PCI_BRIDGE, True, 0, False),
        (PortType.PCI_TO_PCIE_BRIDGE, True, 0, False),
        (PortType.EVENT_COLLECTOR, True, 0, False),
        (PortType.ENDPOINT, False, 0, False),
        (PortType.ENDPOINT, True, 0, True),
        (PortType.ENDPOINT, False, 1, True),
        (PortType.LEGACY_ENDPOINT, False, 0, False),
        (PortType.UPSTREAM_PORT, False, 0, False),
        (PortType.UPSTREAM_PORT, True, 0, True),
        (PortType.ROOT_COMPLEX_INTEGRATED_ENDPOINT, False, 0, False),
        (0xF, False, 0, True),
    ],
)
def test_acs_is_read_where_it_can_decide(port_type: int, multifunction: bool, function: int, read: bool) -> None:
    space = Space().header(multifunction=multifunction).pcie(port_type).acs(0x1D, 0x1D)

    facts = space.decode(function=function)

    assert facts.acs_known is read
    assert (0x100 in space.offsets) is read


def test_for_display_acs_is_read_whatever_the_type() -> None:
    facts = Space().header().pcie(PortType.ENDPOINT).acs(0x1D, 0x0D).decode(Wanted(every_type=True))

    assert facts.acs == AcsRegisters(0x1D, 0x0D)


def test_acs_is_not_read_when_nobody_wants_it() -> None:
    space = port().acs(0x1D, 0x1D)

    assert space.decode(Wanted(acs=False)).acs_known is False
    assert 0x100 not in space.offsets


def test_the_header_alone_can_be_wanted() -> None:
    space = Space().header(multifunction=True).pcie(0)

    assert space.decode(Wanted(capabilities=False, acs=False)) == ConfigFacts(header_type=0, multifunction_bit=True)
    assert space.offsets == [0x0C]


def test_sunrise_point_root_ports_have_dword_registers() -> None:
    space = port().extended(0x140, 0x0D).extended(0x100, 0x01, 0x140).put(0x144, 0x1F).put(0x148, 0x1D)

    facts = space.decode(Wanted(wide_acs=True))

    assert (facts.acs, facts.acs_known) == (AcsRegisters(0x1F, 0x1D, wide=True), True)


def test_other_ports_with_such_an_id_have_word_registers() -> None:
    space = port(PortType.DOWNSTREAM_PORT).acs(0x1F, 0x1D)

    assert space.decode(Wanted(wide_acs=True)).acs == AcsRegisters(0x1F, 0x1D)


@pytest.mark.parametrize("cut", [0x144, 0x148])
def test_half_a_pair_of_dword_registers_is_a_gap(cut: int) -> None:
    space = port().extended(0x140, 0x0D).extended(0x100, 0x01, 0x140)
    del space.bytes[cut:]

    assert space.decode(Wanted(wide_acs=True)).gap is Gap.TRUNCATED


@pytest.mark.parametrize(("port_type", "value"), [(PortType.ROOT_PORT, 0x04000000), (PortType.DOWNSTREAM_PORT, None)])
def test_the_port_configuration_of_pch_root_ports_is_read(port_type: PortType, value: int | None) -> None:
    assert port(port_type).put(0xD8, 0x04000000).decode(Wanted(mpc=True)).mpc == value


def test_flags_have_names() -> None:
    assert acs_names(0x1D) == "SV|RR|CR|UF"
    assert acs_names(0) == "none"


@given(st.binary(min_size=64, max_size=512), st.integers(0, 7), st.booleans())
def test_no_bytes_can_break_the_decoder(data: bytes, function: int, wide: bool) -> None:
    space = Space()
    space.bytes[:] = data

    facts = space.decode(Wanted(wide_acs=wide, mpc=True), function=function, size=4096)

    assert facts.acs is None or facts.acs_known
    assert facts.port_type is None or facts.is_pcie
