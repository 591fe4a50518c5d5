# SPDX-License-Identifier: GPL-2.0-or-later
"""What comes of a boot: what the guest says, how it ended, what is judged of it."""

from __future__ import annotations

import base64
import hashlib
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.guest.boot import Boot, Outcome, _run, boot_twice, outcome_of, words_of
from tests.guest.cells import NIC_BEHIND_BRIDGE, SMOKE
from tests.guest.channel import MARK, Channel, Sent
from tests.guest.judge import Result, disagreements, facts_of, in_words, labels
from tests.guest.machine import Cell, Files, Iommu, LoadOrder
from tests.guest.modules import ModuleTree
from tests.guest.plan import loading, steps_of
from tests.guest.steps import (
    EnableVirtualFunctions,
    HotAdd,
    HotRemove,
    Load,
    Look,
    Rebind,
    Remove,
    Rescan,
    Settle,
    init_script,
    requests,
    shell,
)
from tests.guest.supplies import Emulator, Kernel, Supplies
from tests.guest.topology import endpoint, multifunction

MODULES = {"virtio_pci": ("virtio",), "virtio": (), "virtio_iommu": ("virtio",), "e1000": (), "ahci": ("libata",)} | {
    "libata": ()
}


def spoken(name: str, content: bytes, status: int = 0) -> list[str]:
    lines = base64.encodebytes(content).decode().splitlines()
    digest = hashlib.sha256(content).hexdigest()
    return [
        f"{MARK}begin {name}",
        *(f"{MARK}data {name} {line}" for line in lines),
        f"{MARK}end {name} {status} {digest}",
    ]


def heard(lines: list[str]) -> Channel:
    channel = Channel()
    for line in lines:
        channel.hear(line + "\r\n")
    return channel


@given(st.binary(max_size=300), st.integers(0, 255))
def test_a_file_arrives_as_it_was_sent(content: bytes, status: int) -> None:
    assert heard(spoken("end/check", content, status)).files == {"end/check": Sent(content, status)}


@given(st.binary(min_size=60, max_size=300), st.data())
def test_a_file_with_a_lost_line_is_named_as_damaged(content: bytes, data: st.DataObject) -> None:
    lines = spoken("end/check", content)
    lines.pop(data.draw(st.integers(1, len(lines) - 2)))
    channel = heard(lines)

    assert channel.damaged == ["end/check"]
    assert not channel.files


def test_what_the_console_says_beside_it_is_passed_over() -> None:
    lines = spoken("a", b"x" * 100)
    mixed = ["[ 1.0] e1000: up", *lines[:1], "[ 2.0] printk", *lines[1:], f"[ 3.0] {MARK}done"]
    channel = heard(mixed)

    assert channel.files["a"].content == b"x" * 100
    assert channel.done


def test_a_request_of_the_guest_is_handed_on() -> None:
    assert Channel().hear(f"{MARK}ask 1\r\n") == "1"
    assert Channel().hear(f"{MARK}note 1\r\n") is None


@pytest.mark.parametrize(
    ("done", "damaged", "console", "in_time", "status", "outcome"),
    [
        (True, [], "Out of memory: Killed process", True, 0, Outcome.DONE),
        (True, ["x"], "", True, 0, Outcome.DAMAGED),
        (False, [], "Kernel panic - not syncing: System is deadlocked on memory", True, 0, Outcome.OUT_OF_MEMORY),
        (False, [], "Kernel panic - not syncing: VFS", True, 0, Outcome.PANIC),
        (False, [], "task modprobe blocked for more than 120 seconds", False, None, Outcome.HANG),
        (False, [], "", True, 1, Outcome.QEMU_FAILED),
        (False, [], "reboot: machine restart", True, 0, Outcome.PANIC),
    ],
)
def test_the_end_of_a_boot_has_a_name(
    done: bool, damaged: list[str], console: str, in_time: bool, status: int | None, outcome: Outcome
) -> None:
    assert outcome_of(Channel(done=done, damaged=damaged), console, in_time=in_time, status=status) is outcome


def test_the_words_for_a_failure_are_those_of_whoever_failed() -> None:
    errors = "/cache/usr/bin/qemu-system-x86_64: -device foo: no such device\n\n"

    assert words_of(Outcome.QEMU_FAILED, "", errors) == "qemu-system-x86_64: -device foo: no such device"
    assert words_of(Outcome.PANIC, "[1] x\n[2] Kernel panic - y\n[3] ---\n", "") == "[2] Kernel panic - y"
    assert words_of(Outcome.HANG, "[1] last words\n", "") == "[1] last words"
    assert words_of(Outcome.DONE, "[1] x", "y") == ""
    assert words_of(Outcome.HANG, "[1] last\n", "", "step 1 of 4, Load") == "at step 1 of 4, Load: [1] last"


def test_a_guest_says_how_far_it_is() -> None:
    channel = heard([f"{MARK}at step 1 of 4, Load", f"{MARK}at step 2 of 4, Settle"])

    assert channel.at == "step 2 of 4, Settle"
    assert 'say "at step 2 of 2, Settle"' in init_script((Rescan(), Settle()), "ttyS1")


HANG = Boot(outcome=Outcome.HANG, seconds=150, channel=Channel(), words="at step 1")
NO_TICK = Boot(
    outcome=Outcome.PANIC,
    seconds=2,
    channel=Channel(),
    words="Kernel panic - not syncing: timer doesn't work through Interrupt-remapped IO-APIC",
)
PANIC = Boot(outcome=Outcome.PANIC, seconds=2, channel=Channel(), words="Kernel panic - not syncing: VFS")


@pytest.mark.parametrize("first", [HANG, NO_TICK])
def test_what_a_busy_host_may_have_done_is_looked_at_twice(
    first: Boot, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    done = Boot(outcome=Outcome.DONE, seconds=15, channel=Channel(notes=["up 3"]))
    boots = iter([first, done])
    monkeypatch.setattr("tests.guest.boot.boot", lambda *_: next(boots))

    assert boot_twice(cell(LoadOrder.RACING), Supplies(tmp_path)) is done
    assert done.channel.notes == [f"the first boot ended in {first.outcome}: {first.words}", "up 3"]


def test_what_a_guest_did_by_itself_is_looked_at_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    boots = iter([PANIC])
    monkeypatch.setattr("tests.guest.boot.boot", lambda *_: next(boots))

    assert boot_twice(cell(LoadOrder.RACING), Supplies(tmp_path)) is PANIC


def test_after_an_interruption_no_emulator_stays_that_a_thread_still_begins(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    ended = threading.Event()
    ended.set()
    monkeypatch.setattr("tests.guest.boot._NO_MORE", ended)
    kernel = Kernel(release="6.12", image=tmp_path, modules=ModuleTree(tmp_path))
    emulator = Emulator(version="7.2", command={}, firmware=(), uefi="", modules=tmp_path)

    booted = _run(cell(LoadOrder.RACING), Files(qemu=("sh", "-c", "exec sleep 300")), kernel, emulator)

    assert booted.outcome is Outcome.QEMU_FAILED
    assert booted.seconds < 60


def cell(order: LoadOrder) -> Cell:
    return Cell(kernel="6.12", topology="founding", iommu=Iommu.VIRTIO, order=order)


@pytest.mark.parametrize(
    ("order", "steps"),
    [
        (LoadOrder.IOMMU_FIRST, (Load(("virtio", "virtio_pci", "virtio_iommu", "libata", "ahci", "e1000")),)),
        (LoadOrder.IOMMU_LAST, (Load(("virtio", "virtio_pci", "libata", "ahci", "e1000", "virtio_iommu")),)),
        (LoadOrder.NO_IOMMU_DRIVER, (Load(("virtio", "virtio_pci", "libata", "ahci", "e1000")),)),
        (
            LoadOrder.RACING,
            (Load(("virtio", "virtio_pci", "libata")), Load(("ahci", "e1000", "virtio_iommu"), together=True)),
        ),
    ],
)
def test_drivers_are_loaded_in_the_order_of_the_cell(order: LoadOrder, steps: tuple[Load, ...]) -> None:
    assert loading(cell(order), MODULES.get) == steps


def test_every_guest_settles_and_looks_at_the_end() -> None:
    assert steps_of(SMOKE["founding-intel"], MODULES.get)[-2:] == (Settle(), Look("end"))


@pytest.mark.parametrize(
    ("step", "line"),
    [
        (Load(("a", "b")), "insmod /modules/a.ko\ninsmod /modules/b.ko\n"),
        (Load(("a", "b"), together=True), "insmod /modules/a.ko &\ninsmod /modules/b.ko &\nwait\n"),
        (EnableVirtualFunctions(4), "for f in /sys/bus/pci/devices/*/sriov_numvfs; do echo 4 >$f; done\n"),
        (Rescan(), "echo 1 >/sys/bus/pci/rescan\n"),
        (Remove("0000:02:00.0"), "echo 1 >/sys/bus/pci/devices/0000:02:00.0/remove\n"),
        (Settle(), "settle\n"),
        (Look("end"), "look end\n"),
    ],
)
def test_a_step_is_a_line_of_shell(
    step: Load | EnableVirtualFunctions | Remove | Rescan | Settle | Look, line: str
) -> None:
    assert shell(step) == line


def test_a_function_is_probed_again_after_it_was_unbound() -> None:
    unbind, probe = shell(Rebind("0000:02:00.0")).splitlines()

    assert unbind.endswith("/sys/bus/pci/devices/0000:02:00.0/driver/unbind")
    assert probe.endswith("/sys/bus/pci/drivers_probe")


def test_the_host_is_asked_for_hot_plug_in_order() -> None:
    steps = (HotAdd(NIC_BEHIND_BRIDGE), Settle(), HotRemove("nic"))
    lines = init_script(steps, "ttyS1").splitlines()

    assert lines.index("ask 0") < lines.index("settle") < lines.index("ask 1")
    assert requests(steps) == (
        {
            "execute": "device_add",
            "arguments": {"driver": "e1000", "id": "nic", "bus": "br", "addr": "2.0"},
        },
        {"execute": "device_del", "arguments": {"id": "nic"}},
    )


def test_qmp_is_given_a_boolean_where_the_command_line_has_a_word() -> None:
    (request,) = requests([HotAdd(multifunction(endpoint("e1000e", "rp", 0)))])

    assert request == {
        "execute": "device_add",
        "arguments": {"driver": "e1000e", "bus": "rp", "addr": "0.0", "multifunction": True},
    }


def test_answers_may_differ_in_where_the_tree_came_from_alone() -> None:
    assert disagreements({"source": "this machine", "groups": 1}, {"source": "x.tar.gz", "groups": 1}) == []
    assert disagreements({"groups": 1, "status": "ok"}, {"groups": 2, "error": "x"}) == ["error", "groups", "status"]


RESULTS = st.builds(
    Result,
    cell=st.text(max_size=5),
    outcome=st.sampled_from([one.value for one in Outcome]),
    seconds=st.floats(0, 100),
    findings=st.lists(st.text(max_size=3)).map(tuple),
    groups=st.lists(st.lists(st.text(max_size=3)).map(tuple)).map(tuple),
    notes=st.lists(st.text(max_size=3)).map(tuple),
)


@given(RESULTS)
def test_a_result_is_read_back_as_it_was_written(result: Result) -> None:
    assert Result.decode(result.encode()) == result
    assert "\n" not in result.encode()


@pytest.mark.parametrize(
    ("status", "findings", "agrees", "words"),
    [
        ("ok", (), True, "model = kernel"),
        ("ok", ("unisolated",), True, "model = kernel (unisolated)"),
        ("no-iommu", (), None, "no IOMMU in use"),
        ("findings", ("split", "ungrouped", "ungrouped"), False, "split, ungrouped x 2"),
        ("undecidable", (), None, "undecidable"),
    ],
)
def test_an_answer_is_summed_up_in_a_few_words(
    status: str, findings: tuple[str, ...], agrees: bool | None, words: str
) -> None:
    assert in_words(status, findings, agrees=agrees) == words


@pytest.mark.parametrize(
    ("actual", "expected", "ungrouped", "agrees"),
    [
        ([["a"]], [["a"]], [], True),
        ([["a"], ["b"]], [["a", "b"]], [], False),
        ([["a"]], [["a"]], ["b"], False),
        ([["a"]], None, [], None),
    ],
)
def test_the_kernel_agrees_where_its_groups_are_the_expected_ones_and_none_is_missing(
    actual: list[list[str]], expected: list[list[str]] | None, ungrouped: list[str], agrees: bool | None
) -> None:
    document = {"status": "ok", "groups": {"actual": actual, "expected": expected, "ungrouped": ungrouped}}

    assert facts_of(document)["agrees"] is agrees


def test_a_result_says_first_what_kept_it_from_an_answer() -> None:
    result = Result(cell="c", outcome="qemu-failed", seconds=0, words="no such device", status="ok")

    assert result.summary == "cannot run: no such device"
    assert Result(cell="c", outcome="hang", seconds=0, words="x").summary == "hang: x"
    disagreeing = Result(cell="c", outcome="done", seconds=0, status="ok", disagreements=("end/groups",))
    assert disagreeing.summary == "inside and outside differ in end/groups"


def test_the_facts_of_a_failed_answer_are_empty() -> None:
    assert facts_of({"status": "error", "groups": None, "findings": []}) == {
        "agrees": None,
        "status": "error",
        "findings": (),
        "groups": (),
        "ungrouped": (),
        "usage": "",
    }


def test_the_look_at_the_end_is_missed_where_it_is_missing() -> None:
    channel = Channel(files={"before/check": Sent(b"", 0)})

    assert labels(Boot(outcome=Outcome.DONE, seconds=1, channel=channel)) == ["before", "end"]
