# SPDX-License-Identifier: GPL-2.0-or-later
"""The made-up machines of the benchmark are right, and are read as live ones are."""

from pathlib import Path

import pytest

from iommud.address import Address
from iommud.api import read_sysfs
from iommud.verdict.pipeline import check
from iommud.verdict.report import Status
from tools.bench.generate import generate
from tools.bench.machine import machine
from tools.bench.record import plan

# In a part of a block as much as in several domains.
SIZES = (1, 5, 47, 200)


@pytest.mark.parametrize("functions", SIZES)
def test_a_machine_of_any_size_is_in_order(tmp_path: Path, functions: int) -> None:
    generate(str(tmp_path), functions)

    report = check(read_sysfs(sysfs=str(tmp_path / "sys"), procfs=str(tmp_path / "proc")))

    assert report.status is Status.OK
    assert not report.findings
    assert report.functions == functions
    assert report.config_complete


def test_a_machine_has_every_kind_of_block() -> None:
    functions = machine(200)
    shared = {one.group for one in functions if one.group != one.address}

    assert any(one.physical is not None for one in functions)
    assert any(one.layout.acs is not None for one in functions)
    assert {one.address.domain for one in functions} == {0, 1}
    assert len(shared) >= 3


def test_bridges_come_before_what_is_below_them() -> None:
    seen: set[Address] = set()
    for one in machine(400):
        assert seen.issuperset(one.above)
        seen.add(one.address)


def test_the_plan_of_the_bare_read_names_each_dword_once(tmp_path: Path) -> None:
    generate(str(tmp_path), 100)
    sysfs, procfs = str(tmp_path / "sys"), str(tmp_path / "proc")

    directories, links, files, configs = (line.split("\t") for line in plan(sysfs, procfs).split("\n"))

    assert f"{sysfs}/bus/pci/devices" in directories
    assert sum("/bus/pci/devices/" in link for link in links) == 100
    assert f"{procfs}/version" in files
    dwords = sum(config.count(" ") for config in configs)
    assert dwords == read_sysfs(sysfs=sysfs, procfs=procfs).config_reads
