# SPDX-License-Identifier: GPL-2.0-or-later
"""The made-up machines of the benchmark are right, and are read as live ones are."""

from pathlib import Path

import pytest

from iommud.address import Address
from iommud.api import read_sysfs
from iommud.verdict.findings import Kind
from iommud.verdict.pipeline import check
from iommud.verdict.report import Status
from tools.bench import causes
from tools.bench.generate import generate, write
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


BROKEN = {
    "all as it should be": set(),
    "40 functions have no group": {Kind.UNGROUPED},
    "each function has a group of its own": {Kind.ALIAS_SPLIT, Kind.ISOLATION_SPLIT},
    "each domain is one group": {Kind.MERGED},
    "no function has a group": {Kind.NO_GROUPS},
    "one class, each function in a group of its own": {Kind.ALIAS_SPLIT},
    "one class, in two groups drawn by lot": {Kind.ALIAS_SPLIT},
    "one class, every second function without a group": {Kind.UNGROUPED},
}


@pytest.mark.parametrize("number", range(len(causes.MACHINES)), ids=lambda number: causes.MACHINES[number][0])
def test_a_machine_with_something_to_explain_is_wrong_in_the_way_that_its_title_says(
    tmp_path: Path, number: int
) -> None:
    title, make, iommu, broken = causes.MACHINES[number]
    write(str(tmp_path), broken(make(300)), iommu)

    report = check(read_sysfs(sysfs=str(tmp_path / "sys"), procfs=str(tmp_path / "proc")))

    assert {one.kind for one in report.findings} == BROKEN[title]
    assert report.functions == 300
    assert report.judged


def test_a_title_stands_for_one_machine() -> None:
    assert [title for title, *_ in causes.MACHINES] == list(BROKEN)
