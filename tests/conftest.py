# SPDX-License-Identifier: GPL-2.0-or-later
"""What every test may ask for: golden files and the settings of hypothesis."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis.configuration import set_hypothesis_home_dir

TESTS = Path(__file__).parent

# Falsifying examples are kept beside the other caches, inside the checkout.
set_hypothesis_home_dir(TESTS.parent / ".cache" / "hypothesis")

# No deadline: below coverage, beside other workers, wall-clock time says nothing about the code.
settings.register_profile("dev", deadline=None)
# The gate must give the same answer twice, so there the examples follow from the test alone.
settings.register_profile("ci", deadline=None, derandomize=True, print_blob=True)
# A long search for what the gate's few hundred examples miss: pytest --hypothesis-profile=deep.
settings.register_profile("deep", deadline=None, max_examples=20_000)
# The mutation check runs the tests of a module thousands of times, and must come to the same result each time.
settings.register_profile("mutation", deadline=None, derandomize=True, max_examples=20)
settings.load_profile("ci" if os.environ.get("CI") else "dev")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--update-golden",
        action="store_true",
        help="write tests/golden/ anew from what the program says now; read the diff before you commit it",
    )


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Callable[[str, str], None]:
    """Compare a text with the file of that name below tests/golden/, or rewrite it under --update-golden."""
    update = bool(request.config.getoption("--update-golden"))

    def compare(name: str, text: str) -> None:
        path = TESTS / "golden" / name
        if update:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(text.encode())
        elif not path.exists():
            pytest.fail(f"no golden file tests/golden/{name}: make it with --update-golden")
        assert text == path.read_bytes().decode(), f"differs from tests/golden/{name} (--update-golden)"

    return compare
