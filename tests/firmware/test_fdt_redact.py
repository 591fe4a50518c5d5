# SPDX-License-Identifier: GPL-2.0-or-later
import pytest
from hypothesis import given
from hypothesis import strategies as st

from iommud.firmware.fdt import parse_fdt
from iommud.firmware.fdt_pci import host_bridges
from iommud.firmware.fdt_redact import is_personal, redact_fdt
from tests.firmware.builders import Strings, damaged, fdt, fdt_node, fixture

SECRET = b"SECRET42"


def with_reservations_at(data: bytes, offset: int) -> bytes:
    return data[:16] + offset.to_bytes(4, "big") + data[20:]


def with_property(name: str) -> bytes:
    strings = Strings()
    root = fdt_node("", strings.prop("model", "board"), fdt_node("sub", strings.prop(name, SECRET)))
    return fdt(root, strings.block)


@pytest.mark.parametrize(
    "name",
    [
        *("serial-number", "board-serial-number", "mac-address", "local-mac-address", "mac-address-wifi0"),
        *("bootargs", "bootargs-ext", "kaslr-seed", "rng-seed", "password", "wifi-password", "system-uuid"),
        *("asset-tag", "chassis-asset-tag", "linux,serial", "host-serial", "system-id", "local-bd-address"),
        *("Serial-Number", "UUID"),
    ],
)
def test_a_personal_property_is_blanked_in_place(name: str) -> None:
    data = with_property(name)

    redacted = redact_fdt(data)

    assert SECRET not in redacted
    assert redacted == data.replace(SECRET, bytes(len(SECRET)))


@pytest.mark.parametrize("name", ["compatible", "iommu-map", "serial0", "bootarg", "stdout-path", "reg"])
def test_any_other_property_stays(name: str) -> None:
    assert not is_personal(name)
    assert redact_fdt(with_property(name)) == with_property(name)


@pytest.mark.parametrize("name", ["fdt-virtio-iommu.dtb", "fdt-smmuv3.dtb", "fdt-acpi-stub.dtb"])
def test_a_real_tree_loses_its_command_line_and_nothing_that_grouping_needs(name: str) -> None:
    data = fixture(name)

    redacted = redact_fdt(data)

    before, after = parse_fdt(data), parse_fdt(redacted)
    assert len(redacted) == len(data)
    assert b"panic=-1" in data
    assert b"panic=-1" not in redacted
    assert [node.path for node in after.walk()] == [node.path for node in before.walk()]
    assert host_bridges(after) == host_bridges(before)
    chosen = next(node for node in after.walk() if node.path == "/chosen")
    assert chosen.text("bootargs") == ""


def test_remains_of_edits_outside_the_blocks_are_blanked() -> None:
    data = fdt(fdt_node(""), slack=SECRET)
    after_end = fdt(fdt_node("") + b"\0\0\0\x09" + SECRET)

    assert SECRET not in redact_fdt(data)
    assert SECRET not in redact_fdt(after_end)
    assert SECRET not in redact_fdt(data + SECRET)


def test_memory_reservations_are_kept() -> None:
    entry = bytes(range(1, 17))
    data = fdt(fdt_node(""), slack=entry + bytes(16))
    moved = with_reservations_at(data, len(data) - 32)

    assert redact_fdt(moved) == moved


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        pytest.param(b"", "only 0 bytes", id="empty"),
        pytest.param(fdt(fdt_node("")[:-4]), "within 1 open nodes", id="not closed"),
        pytest.param(
            with_reservations_at(fdt(fdt_node("")), 0xFFFF),
            "the memory reservations at 0xffff have no end",
            id="reservations",
        ),
        pytest.param(
            with_reservations_at(fdt(fdt_node("")), len(fdt(fdt_node(""))) - 8),
            "the memory reservations at 0x40 have no end",
            id="reservations cut",
        ),
    ],
)
def test_a_blob_that_cannot_be_walked_is_refused(data: bytes, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        redact_fdt(data)


@given(damaged(fixture("fdt-virtio-iommu.dtb")) | st.binary(max_size=200))
def test_any_bytes_are_redacted_to_the_same_size_or_refused(data: bytes) -> None:
    try:
        redacted = redact_fdt(data)
    except ValueError:
        return

    assert len(redacted) == len(data)
    for node in parse_fdt(redacted).walk():
        assert not any(any(value) for name, value in node.properties.items() if is_personal(name))


def test_redacting_twice_changes_nothing() -> None:
    once = redact_fdt(fixture("fdt-smmuv3.dtb"))

    assert redact_fdt(once) == once
