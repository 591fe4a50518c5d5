# SPDX-License-Identifier: GPL-2.0-or-later
"""Guests are booted only when asked for: ``pytest -m guest``, which ``make guest`` does."""

import pytest


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "guest: boots a guest under QEMU (make guest)")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if "guest" in config.option.markexpr:
        return
    boots = [item for item in items if item.get_closest_marker("guest")]
    if boots:
        config.hook.pytest_deselected(items=boots)
        items[:] = [item for item in items if item not in boots]
