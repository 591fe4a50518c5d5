# SPDX-License-Identifier: GPL-2.0-or-later
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iommud.firmware.fdt import (
    MAX_DEPTH,
    MAX_NODES,
    MAX_PATH,
    MAX_SIZE,
    Event,
    Token,
    events,
    parse_fdt,
    read_layout,
)
from tests.firmware.builders import Strings, damaged, fdt, fdt_node, fdt_property, fixture

NOP = struct.pack(">I", 4)


def paths(data: bytes) -> list[str]:
    return [node.path for node in parse_fdt(data).walk()]


def with_header_word(data: bytes, index: int, value: int) -> bytes:
    return data[: 4 * index] + struct.pack(">I", value) + data[4 * index + 4 :]


def test_a_real_tree_is_unpacked() -> None:
    tree = parse_fdt(fixture("fdt-virtio-iommu.dtb"))

    assert tree.problems == ()
    assert tree.root is not None
    assert (tree.root.name, tree.root.path, tree.root.text("compatible")) == ("", "/", "linux,dummy-virt")
    by_path = {node.path: node for node in tree.walk()}
    assert len(by_path) == 57
    assert by_path["/pcie@10000000"].properties["device_type"] == b"pci\0"
    assert by_path["/pcie@10000000/virtio_iommu@1,0"].u32("phandle") == 0x8005


def test_nodes_come_before_their_children_and_in_order() -> None:
    data = fdt(fdt_node("", fdt_node("a", fdt_node("b"), fdt_node("c")), NOP, fdt_node("d@1")))

    assert paths(data) == ["/", "/a", "/a/b", "/a/c", "/d@1"]


def test_properties_are_raw_bytes_with_readers_for_cells_and_strings() -> None:
    strings = Strings()
    root = fdt_node("", strings.prop("cells", (7, 8)), strings.prop("text", "one\0two"), strings.prop("empty", b""))

    node = parse_fdt(fdt(root, strings.block)).root

    assert node is not None
    assert node.properties == {"cells": struct.pack(">II", 7, 8), "text": b"one\0two\0", "empty": b""}
    assert [node.u32(name) for name in ("cells", "empty", "absent")] == [7, None, None]
    assert [node.text(name) for name in ("text", "empty", "absent")] == ["one", "", None]


@pytest.mark.parametrize(
    ("status", "enabled"),
    [(None, True), ("okay", True), ("ok", True), ("disabled", False), ("fail", False), (b"", False)],
)
def test_a_node_is_enabled_as_the_kernel_reads_its_status(status: str | bytes | None, enabled: bool) -> None:
    strings = Strings()
    content = b"" if status is None else strings.prop("status", status)

    node = parse_fdt(fdt(fdt_node("", content), strings.block)).root

    assert node is not None
    assert node.enabled == enabled


def test_of_two_properties_with_one_name_the_first_counts() -> None:
    strings = Strings()
    root = fdt_node("", strings.prop("x", 1), strings.prop("x", 2))

    node = parse_fdt(fdt(root, strings.block)).root

    assert node is not None
    assert node.u32("x") == 1


def test_a_blob_of_version_16_has_its_structure_up_to_the_end() -> None:
    data = fdt(fdt_node("", fdt_node("a")), version=16)

    assert paths(with_header_word(data, 9, 0)) == ["/", "/a"]


def test_a_blob_that_readers_of_version_17_can_read_is_read() -> None:
    assert paths(with_header_word(GOOD, 6, 17)) == ["/", "/a"]


def test_tokens_tell_where_they_end() -> None:
    data = fdt(fdt_node("", fdt_property(0, b"v")), b"name\0")

    assert list(events(data, read_layout(data))) == [
        Event(token=Token.BEGIN_NODE, name="", start=0x3C, end=0x3D),
        Event(token=Token.PROPERTY, name="name", start=0x4C, end=0x4D),
        Event(token=Token.END_NODE, start=0x54, end=0x54),
        Event(token=Token.END, start=0x58, end=0x58),
    ]


def test_the_root_is_the_root_whatever_its_name() -> None:
    assert paths(fdt(fdt_node("board", fdt_node("X", fdt_node("a"))))) == ["/", "/X", "/X/a"]


def test_bytes_after_the_stated_size_do_not_matter() -> None:
    assert paths(fdt(fdt_node("")) + b"tail") == ["/"]


GOOD = fdt(fdt_node("", fdt_node("a")))


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        pytest.param(b"", "only 0 bytes, the header alone needs 40", id="empty"),
        pytest.param(
            GOOD[:40], f"the header states {len(GOOD)} bytes, 40 are at hand and {MAX_SIZE} allowed", id="header"
        ),
        pytest.param(
            struct.pack(">10I", 0xD00DFEED, 39, 0, 0, 0, 17, 16, 0, 0, 0),
            "a block passes the end of the blob",
            id="tiny",
        ),
        pytest.param(
            with_header_word(with_header_word(GOOD, 2, len(GOOD)), 5, 16),
            f"the structure block ends at {len(GOOD):#x} without an end token",
            id="no structure",
        ),
        pytest.param(with_header_word(GOOD, 0, 0), "magic number is 0x0", id="magic"),
        pytest.param(with_header_word(GOOD, 5, 15), "version 15 (compatible with 16) is not supported", id="too old"),
        pytest.param(with_header_word(GOOD, 6, 18), "version 17 (compatible with 18) is not supported", id="too new"),
        pytest.param(
            GOOD[:-1],
            f"the header states {len(GOOD)} bytes, {len(GOOD) - 1} are at hand and {MAX_SIZE} allowed",
            id="cut",
        ),
        pytest.param(
            with_header_word(GOOD, 1, MAX_SIZE + 1).ljust(MAX_SIZE + 1, b"\0"),
            f"the header states {MAX_SIZE + 1} bytes, {MAX_SIZE + 1} are at hand and {MAX_SIZE} allowed",
            id="too large",
        ),
        pytest.param(with_header_word(GOOD, 9, 10**6), "a block passes the end of the blob", id="structure size"),
        pytest.param(with_header_word(GOOD, 8, 10**6), "a block passes the end of the blob", id="strings size"),
        pytest.param(with_header_word(GOOD, 1, 39), "a block passes the end of the blob", id="total size"),
        pytest.param(fdt(b"", end=True), "the structure block ends at 0x38 within 0 open nodes", id="no root node"),
        pytest.param(fdt(b"\0\0\0\2"), "token at 0x38 lies outside the root node", id="end without begin"),
        pytest.param(fdt(fdt_property(0, b"")), "property name at 0x48 has no end", id="name outside strings"),
        pytest.param(
            fdt(fdt_property(0, b""), b"\0"),
            "token at 0x38 lies outside the root node",
            id="property outside",
        ),
        pytest.param(
            fdt(fdt_node("") + fdt_node("b")),
            "token at 0x44 follows the end of the root node",
            id="two roots",
        ),
    ],
)
def test_a_blob_that_cannot_be_read_is_named(data: bytes, problem: str) -> None:
    assert parse_fdt(data).problems == (f"FDT: {problem}",)


@pytest.mark.parametrize(
    ("structure", "end", "problem", "found"),
    [
        pytest.param(
            fdt_node("", fdt_node("a"))[:-4],
            True,
            "the structure block ends at 0x4c within 1 open nodes",
            ["/", "/a"],
            id="root not closed",
        ),
        pytest.param(
            fdt_node("", fdt_node("a")),
            False,
            "the structure block ends at 0x50 without an end token",
            ["/", "/a"],
            id="no end",
        ),
        pytest.param(
            fdt_node("", fdt_node("a"), b"\0\0\0\7"),
            True,
            "unknown token 0x7 at 0x4c",
            ["/", "/a"],
            id="token",
        ),
        pytest.param(
            fdt_node("", fdt_node("n" * 256)), True, "node name at 0x44 has no end", ["/"], id="name too long"
        ),
        pytest.param(
            fdt_node("", struct.pack(">III", 3, 0xFFFF, 0)),
            True,
            "property at 0x44 passes the structure block",
            ["/"],
            id="property length",
        ),
        pytest.param(
            fdt_node("", b"\0\0\0\3")[:-4],
            True,
            "property at 0x44 passes the structure block",
            ["/"],
            id="property header cut",
        ),
        pytest.param(
            fdt_node("", fdt_node("a"), fdt_property(8, b""))[:-4],
            False,
            "property name at 0x60 has no end",
            ["/", "/a"],
            id="empty property at the very end",
        ),
        pytest.param(
            fdt_node("", fdt_property(9, b"")),
            True,
            "property name at 0x9 has no end",
            ["/"],
            id="name offset",
        ),
    ],
)
def test_a_broken_structure_gives_the_nodes_before_the_fault(
    structure: bytes, end: bool, problem: str, found: list[str]
) -> None:
    data = fdt(structure, end=end)
    strings_at = len(data)
    problem = problem.replace("name at 0x9 ", f"name at {strings_at + 9:#x} ")

    assert parse_fdt(data).problems == (f"FDT: {problem}",)
    assert paths(data) == found


def nested(depth: int, name: str = "n") -> bytes:
    structure = b""
    for level in range(depth):
        structure = fdt_node("" if level == depth - 1 else name, structure)
    return fdt(structure)


def test_the_depth_is_limited_as_in_the_kernel() -> None:
    assert parse_fdt(nested(MAX_DEPTH)).problems == ()
    assert len(paths(nested(MAX_DEPTH + 1))) == MAX_DEPTH
    assert "deeper than 64 levels" in parse_fdt(nested(MAX_DEPTH + 1)).problems[0]


def test_the_length_of_a_path_is_limited() -> None:
    longest = parse_fdt(nested(3, "n" * 255))
    tree = parse_fdt(nested(4, "n" * 200))

    assert longest.problems == ()
    assert max(len(node.path) for node in longest.walk()) == MAX_PATH
    assert tree.problems == ("FDT: node at 0x1e4 has a path of 603 characters",)
    assert len(list(tree.walk())) == 3


def test_the_number_of_nodes_is_limited() -> None:
    tree = parse_fdt(fdt(fdt_node("", fdt_node("n") * MAX_NODES)))

    assert tree.problems == (f"FDT: more than {MAX_NODES} nodes",)
    assert len(list(tree.walk())) == MAX_NODES


def test_a_blob_full_of_tokens_that_say_nothing_is_read_to_its_end() -> None:
    blob = fdt(fdt_node("", NOP * 100_000, fdt_node("a")))

    assert paths(blob) == ["/", "/a"]


@given(
    st.binary(max_size=300)
    | damaged(fixture("fdt-virtio-iommu.dtb"))
    | st.binary(max_size=200).map(fdt)
    | st.lists(st.sampled_from([b"\0\0\0\1n\0\0\0", b"\0\0\0\2", NOP, fdt_property(0, b"v"), b"\0\0\0\x09"])).map(
        lambda tokens: fdt(b"".join(tokens), b"name\0")
    )
)
def test_any_bytes_give_a_result_no_larger_than_they_are(data: bytes) -> None:
    tree = parse_fdt(data)

    assert 12 * len(list(tree.walk())) <= len(data) + 8 * MAX_DEPTH
    assert (tree.root is None) <= bool(tree.problems)
