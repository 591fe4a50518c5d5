# SPDX-License-Identifier: GPL-2.0-or-later
"""The command lines of captures: text that people read, values that programs read, and what the page shows."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from iommud.api import check_sysfs, read_sysfs
from iommud.render.reproduce import render_reproduction, reproduction_data
from iommud.reproduce.models import USUAL, Version
from iommud.reproduce.parts import Reproduction
from iommud.reproduce.plan import reproduce
from tests.guest.reproduced import TRIALS, Trial, plan_of
from tests.reproduce.emulated import guest_of

ROOT = Path(__file__).parent.parent.parent
FIXTURES = ROOT / "tests" / "fixtures"
PAGE = ROOT / "docs" / "reproduce.md"
SHOWN = re.compile(r"<!-- output: reproduce (\S+) -->\n```text\n(.*?)```\n<!-- end -->", re.DOTALL)
GOLDEN = [
    ("captures/6.12-amd64-intel-random-2-q7.2", USUAL),
    ("captures/6.12-amd64-intel-sriov-igb-q10.0", USUAL),
    ("captures/6.12-amd64-intel-sriov-nvme-q7.2", (7, 2)),
    ("captures/6.12-amd64-intel-pxb-bypass-q7.2", USUAL),
    ("captures/6.12-amd64-intel-rp-multi-noacs-q7.2", (11, 1)),
    ("captures/6.12-amd64-amd-two-e1000-rp-q7.2", USUAL),
    ("captures/6.1bug-amd64-virtio-at-0x3-seed-vga-builtin-q7.2", USUAL),
    ("captures/6.12-arm64-smmuv3-seed-rp-q7.2", USUAL),
    ("captures/6.12-arm64-virtio-seed-q7.2", USUAL),
    ("machines/supermicrow580", USUAL),
    ("machines/x670e-aorus-xtreme", USUAL),
    ("machines/adlink-altra-devplatform", USUAL),
]


def found(name: str, qemu: Version = USUAL) -> Reproduction:
    report = check_sysfs(str(FIXTURES / f"{name}.tar.gz"), thorough=True)
    return reproduce(report, qemu)


@pytest.mark.parametrize(("name", "qemu"), GOLDEN, ids=[name.rpartition("/")[2] for name, _ in GOLDEN])
def test_a_capture_is_rebuilt_as_it_was(name: str, qemu: Version, golden: Callable[[str, str], None]) -> None:
    reproduction = found(name, qemu)
    text = render_reproduction(reproduction).replace(str(FIXTURES), "fixtures")
    data = {**reproduction_data(reproduction), "source": "fixtures"}

    golden(f"reproduce/{name.rpartition('/')[2]}.txt", text)
    golden(f"reproduce/{name.rpartition('/')[2]}.json", json.dumps(data, indent=1) + "\n")


@pytest.mark.parametrize("trial", TRIALS, ids=[one.fixture for one in TRIALS])
def test_a_capture_has_its_functions_where_the_table_says(trial: Trial) -> None:
    reproduction = plan_of(trial)
    functions = guest_of(reproduction).functions
    told = {one for omission in reproduction.omissions for one in omission.functions}
    captured = {one.address for one in read_sysfs(str(trial.path)).functions}

    assert set(reproduction.addresses.values()) <= set(functions)
    assert captured <= set(reproduction.addresses) | told


@pytest.mark.parametrize(("name", "qemu"), GOLDEN, ids=[name.rpartition("/")[2] for name, _ in GOLDEN])
def test_what_is_printed_is_one_command_for_the_shell(name: str, qemu: Version) -> None:
    reproduction = found(name, qemu)
    script = render_reproduction(reproduction).replace(reproduction.binary, "printf '%s\\n'")
    printed = subprocess.run(["sh", "-c", script, "sh", "-kernel"], capture_output=True, text=True, check=True).stdout

    assert printed.splitlines()[-len(reproduction.arguments) - 1 :] == [*reproduction.arguments, "-kernel"]


def test_the_page_shows_what_is_printed(request: pytest.FixtureRequest) -> None:
    text = PAGE.read_text(encoding="utf-8")
    shown = SHOWN.search(text)
    assert shown is not None
    report = check_sysfs(str(ROOT / shown[1]), thorough=True)
    printed = render_reproduction(reproduce(report, USUAL)).replace(f"{ROOT}/", "")

    if request.config.getoption("--update-golden"):
        PAGE.write_text(text[: shown.start(2)] + printed + text[shown.end(2) :], encoding="utf-8")
    else:
        assert shown[2] == printed
