# SPDX-License-Identifier: GPL-2.0-or-later
"""The flattened device tree, as /sys/firmware/fdt holds it, unpacked into nodes.

Source: Devicetree Specification 0.4, sec 5; read by the kernel in drivers/of/fdt.c.
"""

import enum
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from iommud.firmware.acpi import Problems

MAX_SIZE: Final = 2 * 1024 * 1024
"""Bytes; arm64 accepts no larger blob (MAX_FDT_SIZE)."""
MAX_DEPTH: Final = 64
"""Levels of nodes; deeper ones the kernel drops too (FDT_MAX_DEPTH)."""
MAX_NAME: Final = 255
"""Bytes of a node or property name; the specification allows 31."""
MAX_PATH: Final = 512
"""Characters of a node's path."""
MAX_NODES: Final = 65536
"""Nodes of a tree; with MAX_PATH it bounds the memory that a small hostile blob can ask for."""
HEADER: Final = struct.Struct(">10I")
_MAGIC: Final = 0xD00DFEED
_FIRST_VERSION: Final = 16
_FIRST_VERSION_WITH_STRUCTURE_SIZE: Final = 17
_WORD: Final = struct.Struct(">I")
_PROPERTY: Final = struct.Struct(">II")
_ENCODING: Final = "latin-1"
"""Every byte is a character: names that are not ASCII cannot fail."""


class FdtError(ValueError):
    """The blob breaks the format at a place from which nothing further can be found."""


class Token(enum.IntEnum):
    """Tokens of the structure block (Devicetree Specification 0.4, sec 5.4.1)."""

    BEGIN_NODE = 1
    END_NODE = 2
    PROPERTY = 3
    NOP = 4
    END = 9


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """Where the blocks of a blob lie: byte offsets, ends not included."""

    total: int
    structure_start: int
    structure_end: int
    strings_start: int
    strings_end: int
    reservations_start: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One token; `start` and `end` delimit a property's value, or the bytes after the token elsewhere."""

    token: Token
    name: str = ""
    start: int
    end: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """One node: `name` with its unit address (empty for the root), and property values as raw bytes."""

    name: str
    path: str
    properties: Mapping[str, bytes]
    children: tuple["Node", ...]

    def walk(self) -> Iterator["Node"]:
        """The node and all below it, each before its children, in the order of the blob."""
        waiting = [self]
        while waiting:
            node = waiting.pop()
            yield node
            waiting.extend(reversed(node.children))

    def u32(self, name: str) -> int | None:
        """The first cell of a property; None: absent, or shorter than a cell."""
        value = self.properties.get(name, b"")
        if len(value) < _WORD.size:
            return None
        cell: int = _WORD.unpack_from(value)[0]
        return cell

    def text(self, name: str) -> str | None:
        """The first string of a property; None: absent."""
        value = self.properties.get(name)
        return None if value is None else value.split(b"\0")[0].decode(_ENCODING)

    def texts(self, name: str) -> tuple[str, ...]:
        """All strings of a property; none where it is absent."""
        value = self.properties.get(name, b"")
        return tuple(part.decode(_ENCODING) for part in value.split(b"\0") if part)

    @property
    def enabled(self) -> bool:
        """Whether `status` lets the kernel use the node (of_device_is_available())."""
        return self.text("status") in (None, "okay", "ok")


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceTree:
    """The unpacked tree; `root` is None where not even the root node could be read."""

    root: Node | None
    problems: tuple[str, ...]

    def walk(self) -> Iterator[Node]:
        """All nodes, each before its children."""
        return iter(()) if self.root is None else self.root.walk()


@dataclass(slots=True, kw_only=True)
class _Open:
    name: str = ""
    path: str = ""
    properties: dict[str, bytes] = field(default_factory=dict)
    children: list[Node] = field(default_factory=list)

    def close(self) -> Node:
        return Node(name=self.name, path=self.path, properties=self.properties, children=tuple(self.children))


def parse_fdt(data: bytes) -> DeviceTree:
    """Unpacks a blob; a broken one gives the nodes up to the fault, and the fault's name."""
    problems = Problems("FDT")
    opened: list[_Open] = [_Open()]
    try:
        for event in events(data, read_layout(data)):
            _take(event, data, opened)
    except FdtError as error:
        problems.add(str(error))
    while len(opened) > 1:
        _close(opened)
    roots = opened[0].children
    return DeviceTree(root=roots[0] if roots else None, problems=problems.listed())


def _take(event: Event, data: bytes, opened: list[_Open]) -> None:
    if event.token is Token.BEGIN_NODE:
        opened.append(_Open(name=event.name, path=_path(opened, event)))
    elif event.token is Token.END_NODE:
        _close(opened)
    elif event.token is Token.PROPERTY:
        # Of two properties with one name of_find_property() sees the first.
        opened[-1].properties.setdefault(event.name, data[event.start : event.end])


def _path(opened: list[_Open], event: Event) -> str:
    parent = opened[-1].path
    path = "/" if len(opened) == 1 else f"{parent.rstrip('/')}/{event.name}"
    if len(path) > MAX_PATH:
        raise FdtError(f"node at {event.start:#x} has a path of {len(path)} characters")
    return path


def _close(opened: list[_Open]) -> None:
    node = opened.pop().close()
    opened[-1].children.append(node)


def read_layout(data: bytes) -> Layout:
    """Checks the header; FdtError where the blocks it describes are not all inside the blob."""
    if len(data) < HEADER.size:
        raise FdtError(f"only {len(data)} bytes, the header alone needs {HEADER.size}")
    magic, total, structure, strings, reservations, version, compatible, _, strings_size, structure_size = (
        HEADER.unpack_from(data)
    )
    if magic != _MAGIC:
        raise FdtError(f"magic number is {magic:#x}")
    if version < _FIRST_VERSION or compatible > _FIRST_VERSION_WITH_STRUCTURE_SIZE:
        raise FdtError(f"version {version} (compatible with {compatible}) is not supported")
    if version < _FIRST_VERSION_WITH_STRUCTURE_SIZE:
        structure_size = total - structure
    if total > min(len(data), MAX_SIZE):
        raise FdtError(f"the header states {total} bytes, {len(data)} are at hand and {MAX_SIZE} allowed")
    layout = Layout(
        total=total,
        structure_start=structure,
        structure_end=structure + structure_size,
        strings_start=strings,
        strings_end=strings + strings_size,
        reservations_start=reservations,
    )
    if max(layout.structure_end, layout.strings_end, HEADER.size) > total:
        raise FdtError("a block passes the end of the blob")
    return layout


def events(data: bytes, layout: Layout) -> Iterator[Event]:
    """Yields the tokens of the structure block but NOP, with balanced nodes; FdtError at the first fault."""
    depth, nodes, ended_root = 0, 0, False
    offset = layout.structure_start
    while True:
        event = _event(data, offset, layout)
        if event.token is Token.END:
            _check_end(depth, ended_root, offset)
            yield event
            return
        if event.token is not Token.NOP:
            if ended_root:
                raise FdtError(f"token at {offset:#x} follows the end of the root node")
            depth = _depth_after(event, depth, offset)
            nodes += event.token is Token.BEGIN_NODE
            if nodes > MAX_NODES:
                raise FdtError(f"more than {MAX_NODES} nodes")
            ended_root = depth == 0
            yield event
        offset = _aligned(event.end, layout)


def _check_end(depth: int, ended_root: bool, offset: int) -> None:
    if depth or not ended_root:
        raise FdtError(f"the structure block ends at {offset:#x} within {depth} open nodes")


def _depth_after(event: Event, depth: int, offset: int) -> int:
    if event.token is Token.BEGIN_NODE:
        if depth == MAX_DEPTH:
            raise FdtError(f"node at {offset:#x} lies deeper than {MAX_DEPTH} levels")
        return depth + 1
    if depth == 0:
        raise FdtError(f"token at {offset:#x} lies outside the root node")
    return depth - 1 if event.token is Token.END_NODE else depth


def _event(data: bytes, offset: int, layout: Layout) -> Event:
    if offset + _WORD.size > layout.structure_end:
        raise FdtError(f"the structure block ends at {layout.structure_end:#x} without an end token")
    number = _WORD.unpack_from(data, offset)[0]
    after = offset + _WORD.size
    if number == Token.BEGIN_NODE:
        name, end = _string(data, after, layout.structure_end, "node name")
        return Event(token=Token.BEGIN_NODE, name=name, start=after, end=end)
    if number == Token.PROPERTY:
        return _property(data, after, layout)
    if number not in (Token.END_NODE, Token.NOP, Token.END):
        raise FdtError(f"unknown token {number:#x} at {offset:#x}")
    return Event(token=Token(number), start=after, end=after)


def _property(data: bytes, offset: int, layout: Layout) -> Event:
    start = offset + _PROPERTY.size
    if start > layout.structure_end:
        raise FdtError(f"property at {offset:#x} passes the structure block")
    length, name_offset = _PROPERTY.unpack_from(data, offset)
    if start + length > layout.structure_end:
        raise FdtError(f"property at {offset:#x} passes the structure block")
    name, _ = _string(data, layout.strings_start + name_offset, layout.strings_end, "property name")
    return Event(token=Token.PROPERTY, name=name, start=start, end=start + length)


def _string(data: bytes, start: int, limit: int, what: str) -> tuple[str, int]:
    """A string and the offset after its NUL."""
    end = data.find(b"\0", start, min(limit, start + MAX_NAME + 1))
    if end == -1:
        raise FdtError(f"{what} at {start:#x} has no end")
    return data[start:end].decode(_ENCODING), end + 1


def _aligned(offset: int, layout: Layout) -> int:
    # Alignment counts from the start of the structure block, which itself is aligned in any sound blob.
    return offset + (layout.structure_start - offset) % _WORD.size
