# SPDX-License-Identifier: GPL-2.0-or-later
"""The package of the parsers: its names are loaded when they are first used."""

import pytest

from iommud import firmware


@pytest.mark.parametrize("name", firmware.__all__)
def test_every_name_is_found_in_the_module_that_defines_it(name: str) -> None:
    found = getattr(firmware, name)

    assert found.__name__ == name
    assert found.__module__ == f"iommud.firmware.{firmware._HOMES[name]}"


def test_a_name_that_no_module_defines_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match=r"module 'iommud\.firmware' has no attribute 'parse_ssdt'"):
        _ = firmware.parse_ssdt
