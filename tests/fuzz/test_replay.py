# SPDX-License-Identifier: GPL-2.0-or-later
"""What the fuzzer found worth keeping, checked again without it."""

from pathlib import Path

import pytest

from tests.fuzz.targets import CORPUS, TARGETS, seeds

KEPT = sorted(path for path in CORPUS.glob("*/*") if path.is_file())
MOST = 64 * 1024
"""Bytes of one target's corpus: it is read by people who clone the repository, and by every run of the gate."""


@pytest.mark.parametrize("path", KEPT, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_what_was_found_once_holds_still(path: Path) -> None:
    TARGETS[path.parent.name](path.read_bytes())


@pytest.mark.parametrize("name", TARGETS)
def test_real_inputs_cut_anywhere_and_with_any_byte_turned_hold(name: str) -> None:
    for seed in seeds(name):
        data = seed.read_bytes()
        for place in range(0, len(data), max(1, len(data) // 64)):
            TARGETS[name](data[:place])
            TARGETS[name](data[:place] + bytes([data[place] ^ 0xFF]) + data[place + 1 :])


@pytest.mark.parametrize("name", TARGETS)
def test_every_target_has_a_corpus_that_stays_small(name: str) -> None:
    sizes = [path.stat().st_size for path in KEPT if path.parent.name == name]

    assert sizes
    assert sum(sizes) <= MOST
