# SPDX-License-Identifier: GPL-2.0-or-later
"""The service in a full guest: the parts without a guest, and with ``IOMMUD_TEST_SERVICE_GUEST=1`` all of it.

The guest takes a quarter of an hour, and a few minutes more where its disk has to be made first.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from tests.guest.debian import cache_directory
from tests.guest.image import ROOT
from tests.guest.service import agent, figures
from tests.guest.service.checks import CONTROL, SANDBOX
from tests.guest.service.documented import allow_plain, block_with, socket_drop_in, without_capability
from tests.guest.service.guest import GuestError, eventually
from tests.guest.service.installed import copy_disk
from tests.guest.service.page import page
from tests.guest.service.probe import ATTEMPTS
from tests.guest.service.rootfs import merged
from tests.guest.service.run import NAMES, SUITES, run_session
from tests.guest.service.session import Checked, Session, checked, decoded, encoded, renewed
from tests.guest.supplies import Supplies

INSTALL = (ROOT / "docs" / "install.md").read_text(encoding="utf-8")
EXPOSITION = """\
# TYPE iommud_findings gauge
iommud_findings{kind="ungrouped",severity="critical"} 2
iommud_findings{kind="ungrouped",severity="warning"} 1
iommud_findings{kind="merged",severity="info"} 0
# TYPE iommud_source_up gauge
iommud_source_up 1
"""


def test_the_drop_in_for_scrapes_is_the_documents_with_the_guests_network() -> None:
    text = socket_drop_in(INSTALL)

    assert "IPAddressAllow=localhost 10.0.2.0/24\n" in text
    assert "ListenStream=9798\n" in text


def test_the_commands_that_allow_scrapes_without_tls_are_in_the_document() -> None:
    assert "systemctl restart iommud-web.socket iommud-web.service" in allow_plain(INSTALL)


def test_the_drop_in_without_the_capability_is_in_the_document() -> None:
    assert without_capability(INSTALL) == "[Service]\nCapabilityBoundingSet=\nAmbientCapabilities=\n"


def test_a_block_that_is_not_in_the_document_is_an_error() -> None:
    with pytest.raises(LookupError, match="0 blocks of sh"):
        block_with(INSTALL, "sh", "no such words")


def test_the_documented_exposures_are_those_of_the_three_services() -> None:
    found = figures.documented_exposures(INSTALL)

    assert found.keys() == {"iommud.service", "iommud-web.service", "iommud-check.service"}
    assert all(0 < figure < 2 for figure in found.values())


def test_findings_are_counted_by_kind() -> None:
    assert figures.findings(EXPOSITION) == {"ungrouped": 3}


def test_a_value_is_that_of_the_samples_with_the_labels() -> None:
    assert figures.value(EXPOSITION, "iommud_source_up") == 1
    assert figures.value(EXPOSITION, "iommud_findings", severity="critical") == 2
    assert figures.value(EXPOSITION, "iommud_findings", severity="none") is None


def test_an_exposure_is_read_from_what_is_said_in_the_end() -> None:
    said = "  PrivateNetwork= ...\n\n→ Overall exposure level for iommud.service: 0.7 SAFE :-}\n"

    assert figures.exposure(said) == 0.7
    with pytest.raises(LookupError):
        figures.exposure("no such unit")


def test_properties_may_hold_what_separates_them() -> None:
    assert figures.properties("StatusText=a=b\nMainPID=3\n") == {"StatusText": "a=b", "MainPID": "3"}


def test_memory_is_read_in_kibibytes() -> None:
    assert figures.kibibytes("Rss:               33120 kB\nPss:  1 kB\n", "Rss") == 33120
    with pytest.raises(LookupError):
        figures.kibibytes("Pss:  1 kB\n", "Rss")


def test_times_are_told_by_their_median_and_range() -> None:
    assert figures.in_milliseconds([0.5, 0.25, 1]) == "500 ms (250 to 1000 ms in 3)"


def test_what_a_probe_could_do_against_the_rule_is_named() -> None:
    wanted = {"mount": frozenset({"EPERM"}), "TCP": frozenset({"done"}), "clock": frozenset({"EPERM", "EACCES"})}

    assert figures.differences({"mount": "done", "TCP": "done"}, wanted) == [
        "mount: done instead of EPERM",
        "clock: not tried instead of EACCES or EPERM",
    ]


@pytest.mark.parametrize("unit", SANDBOX)
def test_every_attempt_of_the_probe_has_an_expected_end(unit: str) -> None:
    assert SANDBOX[unit].keys() == ATTEMPTS.keys() == CONTROL.keys()


@pytest.mark.parametrize(
    ("path", "place"),
    [
        ("./bin/sh", "usr/bin/sh"),
        ("./lib/x86_64-linux-gnu/libc.so.6", "usr/lib/x86_64-linux-gnu/libc.so.6"),
        ("./lib64/ld.so", "usr/lib64/ld.so"),
        ("./usr/bin/env", "usr/bin/env"),
        ("./lib", "lib"),
        ("./etc/", "etc"),
        ("./", "."),
    ],
)
def test_files_of_packages_lie_in_a_merged_usr(path: str, place: str) -> None:
    assert merged(path) == place


def test_a_copied_disk_has_the_same_bytes_and_no_more_blocks(tmp_path: Path) -> None:
    disk, copy = tmp_path / "disk", tmp_path / "copy"
    content = b"x" * 5000 + bytes(3 << 20) + b"end" + bytes(1 << 20)
    disk.write_bytes(content)

    copy_disk(disk, copy)

    assert copy.read_bytes() == content
    assert copy.stat().st_blocks < disk.stat().st_blocks


def test_the_agent_answers_what_a_command_prints_and_how_it_ends() -> None:
    assert agent.run({"command": "echo out; echo err >&2; exit 3", "seconds": 10}) == {
        "status": 3,
        "output": "out\nerr\n",
    }
    assert agent.run({"command": "echo first; exec sleep 20", "seconds": 0.5}) == {"status": None, "output": "first\n"}


def test_what_never_comes_is_an_error_that_says_what() -> None:
    with pytest.raises(GuestError, match="the finding"):
        eventually(lambda: None, within=0, what="the finding", every=0)


@pytest.mark.parametrize("error", [AssertionError("not so"), GuestError("not so"), OSError("not so")])
def test_whatever_goes_wrong_in_a_check_is_its_result(error: Exception) -> None:
    def check(_session: Session) -> str:
        raise error

    result = checked(None, "name", check)  # type: ignore[arg-type] # a session is not looked at here

    assert (result.ok, result.words) == (False, f"{type(error).__name__}: not so")


RESULTS: tuple[list[Checked], dict[str, Any]] = (
    [Checked("alert", True, "firing", 3.0), Checked("reboot", False, "a | b", 4.0)],
    {"systemd": "257", "hot-add to changed metric, s": [0.9, 0.3, 0.5], "CPU while idle, %": {"iommud.service": 0.1}},
)


def test_results_are_read_back_as_they_were_written() -> None:
    assert decoded(encoded(*RESULTS)) == RESULTS


def test_checks_that_are_run_again_replace_their_results_where_the_disk_is_the_same() -> None:
    again = [Checked("reboot", True, "now", 1.0), Checked("upgrade", True, "new", 1.0)]
    results, found = RESULTS

    assert renewed((results, {**found, "disk": "a"}), (again, {"disk": "a"})) == (
        [results[0], *again],
        {**found, "disk": "a"},
    )
    assert renewed((results, {"disk": "a"}), (again, {"disk": "b"})) == (again, {"disk": "b"})


def test_the_page_shows_each_check_and_the_figures_that_there_are() -> None:
    text = page({"trixie": RESULTS})

    assert "| alert | holds | firing |\n" in text
    assert "| reboot | **fails** | a \\| b |\n" in text
    assert "| hot-add to changed metric | 0.5 s (0.3 to 0.9) |\n" in text
    assert "| collector: CPU while nothing happens | 0.1 % |\n" in text
    assert "| server: CPU while nothing happens | not measured |\n" in text


@pytest.mark.parametrize("name", NAMES)
def test_the_committed_page_has_each_check_and_says_that_it_holds(name: str) -> None:
    text = (ROOT / "docs" / "guest-service.md").read_text(encoding="utf-8")

    assert text.count(f"| {name} | holds |") == text.count("\n### ")


@pytest.fixture(scope="module", params=SUITES)
def session(request: pytest.FixtureRequest) -> dict[str, Checked]:
    """All checks in one guest."""
    suite = request.param
    keep = cache_directory() / "results" / f"service-{suite}"
    results, _ = run_session(Supplies(cache_directory()), suite, keep, print)
    return {one.name: one for one in results}


@pytest.mark.skipif(
    os.environ.get("IOMMUD_TEST_SERVICE_GUEST") != "1",
    reason="set IOMMUD_TEST_SERVICE_GUEST=1 to boot a Debian guest with the service: half an hour",
)
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("name", NAMES)
def test_the_service_in_a_full_guest(session: dict[str, Checked], name: str) -> None:
    assert session[name].ok, session[name].words
