# SPDX-License-Identifier: GPL-2.0-or-later
"""Addresses as the kernel spells them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iommud.address import Address

ADDRESSES = st.builds(Address, st.integers(0, 0x1FFFF), st.integers(0, 255), st.integers(0, 31), st.integers(0, 7))


@given(ADDRESSES)
def test_what_is_printed_reads_back(address: Address) -> None:
    assert Address.parse(str(address)) == address
    assert Address.from_name(str(address)) == address


@given(ADDRESSES)
def test_a_requester_id_names_its_function(address: Address) -> None:
    assert Address.from_requester_id(address.domain, address.requester_id) == address
    assert address.with_devfn(address.devfn) == address


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("02:01.0", "0000:02:01.0"),
        ("0000:02:01.0", "0000:02:01.0"),
        ("10000:00:1F.7", "10000:00:1f.7"),
        (" 2:1.0 ", "0000:02:01.0"),
    ],
)
def test_short_forms_mean_domain_0(text: str, shown: str) -> None:
    assert str(Address.parse(text)) == shown


@pytest.mark.parametrize("text", ["", "2:01", "02:20.0", "02:01.8", "x2:01.0", "0000:02:01.0:0", "02:01:0"])
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a PCI address like"):
        Address.parse(text)


@pytest.mark.parametrize("name", ["02:01.0", "0000:02:01.0x", "pci0000:00", "dmar0", "0000:02:20.0", "0000:2:01.0"])
def test_other_names_in_sysfs_are_no_addresses(name: str) -> None:
    assert Address.from_name(name) is None


def test_addresses_sort_by_domain_bus_and_devfn() -> None:
    names = ["0000:00:02.0", "0000:00:1f.3", "0000:02:00.0", "0001:00:00.0", "10000:00:00.0"]

    assert [str(one) for one in sorted(Address.parse(name) for name in reversed(names))] == names
