# SPDX-License-Identifier: GPL-2.0-or-later
"""Captures of real guests and trees of real machines: what is known of each, written by hand."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import jsonschema
import pytest

from iommud.address import Address
from iommud.api import check_sysfs
from iommud.data import data_text
from iommud.render.json import render_json, report_document
from iommud.render.style import Style
from iommud.render.text import render_text
from iommud.verdict.report import Report

FIXTURES = Path(__file__).parent / "fixtures"
ARCHIVES = sorted([*FIXTURES.glob("captures/*.tar.gz"), *FIXTURES.glob("machines/*.tar.gz")])
NAMES = [path.name.removesuffix(".tar.gz") for path in ARCHIVES]


@cache
def report_of(name: str) -> Report:
    path = next(path for path in ARCHIVES if path.name == f"{name}.tar.gz")
    return check_sysfs(str(path))


def addresses(text: str) -> list[str]:
    return [str(Address.parse(word)) for word in text.split()]


@dataclass(frozen=True)
class Wrong:
    """A finding that is to be there: kind and severity, and the devices it is about."""

    kind: str
    severity: str
    devices: str


@dataclass(frozen=True)
class Expected:
    """What is wrong in one capture, and which functions rightly or wrongly have no group."""

    wrong: tuple[Wrong, ...] = ()
    without: str = ""
    ungrouped: str = ""
    wide: str = ""
    """A group of the kernel's that could be several, which is not wrong."""


def ungrouped(devices: str, severity: str = "critical") -> Wrong:
    return Wrong("ungrouped", severity, devices)


GUEST = "00:00.0 00:02.0 00:1f.0 00:1f.2 00:1f.3 01:00.0"
THREAD = (Wrong("isolation-split", "critical", "00:02.0 02:00.0"), ungrouped("01:00.0"))
AMD_HOST_BRIDGES = "00:00.0 00:00.2 40:00.0 40:00.2 80:00.0 80:00.2 c0:00.0 c0:00.2"
NO_DRIVER = "0000:00:00.0 0002:00:00.0 0004:00:00.0 0005:00:00.0 000c:00:00.0 000d:00:00.0"

# Captures that are not listed are right: no finding of warning or above, and every function has a group.
KNOWN = {
    "5.10-amd64-virtio-seed-q7.2": Expected(
        wrong=(Wrong("no-groups", "critical", f"{GUEST} 02:00.0"),),
        without="00:01.0",
        ungrouped=f"{GUEST} 02:00.0",
    ),
    "6.1-amd64-amd-seed-q7.2": Expected(without="00:01.0"),
    "6.1-arm64-smmuv3-no-port-acpi-q7.2": Expected(without="00:00.0"),
    "6.1-arm64-smmuv3-two-e1000-rp-q7.2": Expected((ungrouped("02:02.0"),), "00:00.0", "02:02.0"),
    "6.12-amd64-intel-acs-off-since-q7.2": Expected(
        wrong=(Wrong("isolation-split", "critical", "00:02.0 01:00.0 02:00.0"),),
    ),
    "6.12-arm64-smmuv3-acs-on-since-q7.2": Expected(without="00:00.0", wide="00:02.0 01:00.0 02:01.0"),
    "6.12-amd64-amd-two-e1000-rp-q7.2": Expected(without="00:01.0"),
    "6.12-amd64-intel-pxb-bypass-q7.2": Expected(without="40:00.0 41:00.0"),
    "6.12-amd64-intel-two-functions-q10": Expected((Wrong("isolation-split", "critical", "01:00.0 01:00.1"),)),
    "6.12-amd64-virtio-seed-q7.2": Expected(without="00:01.0"),
    "6.12-amd64-virtio-seed-rp-none-q7.2": Expected(
        wrong=(Wrong("no-groups", "critical", f"{GUEST} 02:00.0"),),
        without="00:01.0",
        ungrouped=f"{GUEST} 02:00.0",
    ),
    "6.12-amd64-virtio-seed-rp-parallel-q7.2": Expected(
        wrong=(Wrong("alias-split", "critical", "01:00.0 02:00.0"),), without="00:01.0"
    ),
    "6.12-amd64-virtio-seed-rp-q10.0": Expected(without="00:01.0"),
    "6.12-amd64-virtio-two-e1000-q7.2": Expected(
        (ungrouped("02:01.0"), ungrouped("02:02.0")), "00:01.0", "02:01.0 02:02.0"
    ),
    "6.12-amd64-virtio-two-e1000-rp-q10.0": Expected(
        (ungrouped("02:01.0"), ungrouped("02:02.0")), "00:01.0", "02:01.0 02:02.0"
    ),
    "6.12-amd64-virtio-vnet-bridge-q7.2": Expected(without="00:01.0"),
    "6.12-arm64-smmuv3-seed-rp-q7.2": Expected(without="00:00.0"),
    "6.12-arm64-smmuv3-two-e1000-rp-acpi-q7.2": Expected((ungrouped("02:02.0"),), "00:00.0", "02:02.0"),
    "6.12-arm64-virtio-seed-q7.2": Expected((ungrouped("02:01.0"),), "00:00.0 00:01.0", "02:01.0"),
    "6.16-amd64-virtio-two-nics-1-2-q7.2": Expected(
        wrong=(Wrong("no-groups", "critical", f"{GUEST} 02:01.0 02:02.0"),),
        without="00:01.0",
        ungrouped=f"{GUEST} 02:01.0 02:02.0",
    ),
    "6.16.3-amd64-virtio-founding-q7.2": Expected(
        wrong=(Wrong("no-groups", "critical", f"{GUEST} 02:00.0"),), without="00:01.0", ungrouped=f"{GUEST} 02:00.0"
    ),
    "6.16.3-arm64-virtio-founding-slot-1-dt-q7.2": Expected(
        (ungrouped("02:01.0"), ungrouped("00:00.0", "warning")), "00:01.0", "00:00.0 02:01.0"
    ),
    "6.1bug-amd64-virtio-at-0x3-seed-vga-builtin-q7.2": Expected(THREAD, "00:00.0 00:01.0 00:03.0", "01:00.0"),
    "6.1bug-amd64-virtio-seed-builtin-q7.2": Expected(THREAD, "00:00.0 00:01.0", "01:00.0"),
    "6.1fix-amd64-virtio-seed-builtin-q7.2": Expected(
        wrong=(Wrong("alias-split", "critical", "00:02.0 01:00.0 02:00.0"),), without="00:00.0 00:01.0"
    ),
    "6.1v-amd64-virtio-seed-rp-no-port-driver-q7.2": Expected(
        (ungrouped("01:00.0"), ungrouped("00:02.0", "warning")), "00:00.0 00:01.0", "00:02.0 01:00.0"
    ),
    "6.1v-amd64-virtio-vnet-bridge-q7.2": Expected(
        wrong=(Wrong("alias-split", "critical", "00:02.0 01:00.0 02:00.0"),), without="00:00.0 00:01.0"
    ),
    "7.2-amd64-virtio-pxb-racing-q10": Expected((ungrouped("00:1f.2", "warning"),), "00:01.0", "00:1f.2"),
    "7.3-amd64-amd-seed-q7.2": Expected(without="00:01.0"),
    "7.3-amd64-virtio-hotplug-pciebridge-q7.2": Expected((ungrouped("02:02.0"),), "00:01.0", "02:02.0"),
    "7.3-amd64-virtio-rp-config-acs-q7.2": Expected(without="00:01.0"),
    "7.3-amd64-virtio-seed-q7.2": Expected(without="00:01.0"),
    "7.3-amd64-virtio-seed-rp-q10.0": Expected(without="00:01.0"),
    "7.3-amd64-virtio-two-e1000-q7.2": Expected(
        wrong=(Wrong("no-groups", "critical", f"{GUEST} 02:01.0 02:02.0"),),
        without="00:01.0",
        ungrouped=f"{GUEST} 02:01.0 02:02.0",
    ),
    "7.3-amd64-virtio-two-e1000-rp-q10.0": Expected(
        wrong=(Wrong("no-groups", "critical", f"{GUEST} 02:01.0 02:02.0"),),
        without="00:01.0",
        ungrouped=f"{GUEST} 02:01.0 02:02.0",
    ),
    "7.3-arm64-smmuv3-two-e1000-rp-q7.2": Expected((ungrouped("02:02.0"),), "", "02:02.0"),
    "7.3-arm64-virtio-seed-q7.2": Expected(
        wrong=(Wrong("no-groups", "critical", "00:00.0 00:02.0 01:00.0 02:01.0"),),
        without="00:01.0",
        ungrouped="00:00.0 00:02.0 01:00.0 02:01.0",
    ),
    "7.3-arm64-virtio-seed-rp-acpi-q7.2": Expected(
        wrong=(Wrong("no-groups", "critical", "00:00.0 00:02.0 01:00.0 02:01.0"),),
        without="00:01.0",
        ungrouped="00:00.0 00:02.0 01:00.0 02:01.0",
    ),
    "adlink-altra-devplatform": Expected((ungrouped("0004:02:00.0"),), NO_DRIVER, "0004:02:00.0"),
    "romed8-2t": Expected(without=AMD_HOST_BRIDGES),
    "supermicrow580": Expected(without="00:02.0"),
    "x670e-aorus-xtreme": Expected(without="00:00.0 00:00.2"),
}


@pytest.mark.parametrize("name", NAMES)
def test_the_findings_are_those_known_of_the_machine(name: str) -> None:
    known = KNOWN.get(name, Expected())
    found = {
        (one.kind.value, one.severity.value, tuple(str(device) for device in one.devices))
        for one in report_of(name).findings
        if one.severity != "info"
    }

    assert found == {(one.kind, one.severity, tuple(addresses(one.devices))) for one in known.wrong}


@pytest.mark.parametrize("name", NAMES)
def test_the_status_says_whether_anything_is_wrong(name: str) -> None:
    wrong = KNOWN.get(name, Expected()).wrong

    assert report_of(name).status == ("findings" if wrong else "ok")
    assert report_of(name).exit_status() == (1 if wrong else 0)


@pytest.mark.parametrize("name", NAMES)
def test_functions_without_a_group_are_told_apart(name: str) -> None:
    known = KNOWN.get(name, Expected())
    report = report_of(name)

    assert [str(address) for address in report.ungrouped] == sorted(addresses(known.ungrouped))
    assert [str(address) for address, _ in report.without] == sorted(addresses(known.without))


RIGHT = [name for name in NAMES if not (KNOWN.get(name, Expected()).wrong or KNOWN.get(name, Expected()).wide)]


@pytest.mark.parametrize("name", NAMES)
def test_groups_that_could_be_several_are_those_known(name: str) -> None:
    merged = [one for one in report_of(name).findings if one.kind == "merged"]

    assert [" ".join(map(str, one.devices)) for one in merged] == [
        " ".join(addresses(group)) for group in [KNOWN.get(name, Expected()).wide] if group
    ]


@pytest.mark.parametrize("name", RIGHT)
def test_where_nothing_is_wrong_the_kernel_groups_as_expected(name: str) -> None:
    report = report_of(name)

    assert report.expected == report.actual.groups


@pytest.mark.parametrize("name", NAMES)
def test_the_json_report_is_the_golden_one_and_meets_the_schema(name: str, golden: Callable[[str, str], None]) -> None:
    report = report_of(name)
    jsonschema.validate(report_document(report), json.loads(data_text("report.schema.json")))

    relative = render_json(report).replace(str(FIXTURES) + "/", "")
    golden(f"json/{name}.json", json.dumps(json.loads(relative), indent=1) + "\n")


@pytest.mark.parametrize("name", NAMES)
def test_the_text_report_is_the_golden_one(name: str, golden: Callable[[str, str], None]) -> None:
    golden(f"text/{name}.txt", render_text(report_of(name), style=Style(), verbose=True))


def test_the_thread_has_exactly_two_findings() -> None:
    report = report_of("6.1bug-amd64-virtio-at-0x3-seed-vga-builtin-q7.2")

    assert [(one.kind.value, one.severity.value) for one in report.findings] == [
        ("isolation-split", "critical"),
        ("ungrouped", "critical"),
    ]
    assert [sorted(str(one) for one in group) for group in report.expected or ()] == [
        ["0000:00:02.0", "0000:01:00.0", "0000:02:00.0"],
        ["0000:00:1f.0", "0000:00:1f.2", "0000:00:1f.3"],
    ]
