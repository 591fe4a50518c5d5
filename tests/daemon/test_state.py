# SPDX-License-Identifier: GPL-2.0-or-later
"""What is remembered from run to run: whole, or told to be lost; never half."""

from __future__ import annotations

import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iommud.daemon.known import Known
from iommud.daemon.state import FILE, StateError, decode, encode, load_state, save_state
from tests.render.samples import FOUNDING, HEALTHY, WORKSTATION, report_of

ROOT = Path(__file__).parent.parent.parent


@pytest.mark.parametrize("name", [FOUNDING, HEALTHY, WORKSTATION])
def test_what_is_saved_is_what_is_loaded(tmp_path: Path, name: str) -> None:
    known = Known.of(report_of(name))
    save_state(known, tmp_path)

    assert load_state(tmp_path) == known
    assert [path.name for path in tmp_path.iterdir()] == [FILE]


def test_a_state_of_an_older_version_is_read_and_says_less() -> None:
    known = Known.of(report_of(FOUNDING))
    document = {key: one for key, one in json.loads(encode(known)).items() if key not in {"parameters", "iommus"}}

    assert known.parameters
    assert known.iommus
    assert decode(json.dumps(document).encode()) == replace(known, parameters=None, iommus=None)


def test_there_is_nothing_at_the_first_run(tmp_path: Path) -> None:
    assert load_state(tmp_path) is None
    assert load_state(tmp_path / "missing") is None


def test_the_same_is_written_the_same() -> None:
    assert encode(Known.of(report_of(FOUNDING))) == encode(decode(encode(Known.of(report_of(FOUNDING)))))


def test_no_group_number_is_written() -> None:
    numbers = set(map(str, report_of(FOUNDING).actual.members))
    words = json.dumps(json.loads(encode(Known.of(report_of(FOUNDING))))["groups"]).replace('"', " ").split()

    assert not numbers & set(words)


GOOD = encode(Known.of(report_of(FOUNDING)))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\0" * 100,
        GOOD[:-20],
        GOOD[20:],
        b"[]",
        b"3",
        b"{}",
        GOOD.replace(b'"version":1', b'"version":2'),
        GOOD.replace(b"0000:00:02.0", b"0000:00:02.9"),
        b"[" * 100_000,
        b"\xff",
    ],
    ids=["empty", "zeros", "short", "headless", "list", "number", "bare", "newer", "no address", "deep", "no UTF-8"],
)
def test_a_damaged_state_is_told_in_one_line_that_names_it(tmp_path: Path, content: bytes) -> None:
    (tmp_path / FILE).write_bytes(content)

    with pytest.raises(StateError) as damaged:
        load_state(tmp_path)
    assert str(damaged.value).startswith(f"{tmp_path / FILE}: ")
    assert str(damaged.value).isprintable()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=10,
)


@given(
    st.fixed_dictionaries(
        {"version": st.just(1), "kernel": JSON, "groups": JSON, "ungrouped": JSON, "without": JSON, "findings": JSON},
        optional={"parameters": JSON, "iommus": JSON},
    )
)
def test_any_document_gives_a_state_or_a_named_error(document: object) -> None:
    try:
        decode(json.dumps(document).encode())
    except (ValueError, KeyError, TypeError, AttributeError):
        return


def test_a_full_disk_leaves_the_old_state(tmp_path: Path) -> None:
    save_state(Known.of(report_of(FOUNDING)), tmp_path)
    larger = Known.of(report_of(WORKSTATION))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    previous = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (64, hard))
        with pytest.raises(OSError, match="File too large"):
            save_state(larger, tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, previous)

    assert load_state(tmp_path) == Known.of(report_of(FOUNDING))
    assert [path.name for path in tmp_path.iterdir()] == [FILE]


WRITER = """
import sys
from pathlib import Path
from iommud.daemon.known import Known
from iommud.daemon.state import save_state, decode
states = [decode(Path(name).read_bytes()) for name in sys.argv[2:]]
print("ready", flush=True)
while True:
    for state in states:
        save_state(state, Path(sys.argv[1]))
"""


def test_a_writer_killed_at_any_moment_leaves_a_whole_state(tmp_path: Path) -> None:
    """Killed twenty times, each at another moment of writing; what is found is always one of the two states."""
    states, directory = [Known.of(report_of(name)) for name in (FOUNDING, WORKSTATION)], tmp_path / "state"
    directory.mkdir()
    for number, state in enumerate(states):
        (tmp_path / str(number)).write_bytes(encode(state))
    chance = random.Random(7)  # noqa: S311 - the same moments at each run
    command = [sys.executable, "-c", WRITER, str(directory), str(tmp_path / "0"), str(tmp_path / "1")]
    for _ in range(20):
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as writer:
            assert writer.stdout is not None
            writer.stdout.readline()
            time.sleep(chance.uniform(0.001, 0.03))
            os.kill(writer.pid, signal.SIGKILL)
        assert load_state(directory) in [*states, None]
    assert load_state(directory) in states

    save_state(states[0], directory)
    assert [path.name for path in directory.iterdir()] == [FILE], "what killed writers left is taken away"
