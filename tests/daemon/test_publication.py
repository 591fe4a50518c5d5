# SPDX-License-Identifier: GPL-2.0-or-later
"""A publication in a directory: whole or not at all, whatever happens to its writer and its files."""

import errno
import multiprocessing
import os
import signal
import stat
import threading
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path

import pytest

from iommud.daemon import publication as module
from iommud.daemon.publication import CURRENT, FILES, META, Board, Publication, PublicationError, load, save
from tests.daemon.serving import publication

FIRST = publication()


def numbered(number: int) -> Publication:
    """A publication each form of which names its number, so that a mixture shows."""
    mark = b"%d " % number * 50
    return publication(generation=number, **dict.fromkeys(FILES, mark))


def test_what_was_saved_is_loaded_again(tmp_path: Path) -> None:
    save(FIRST, tmp_path)

    assert load(tmp_path) == FIRST


def test_a_later_publication_replaces_the_earlier_one_and_leaves_nothing_of_it(tmp_path: Path) -> None:
    save(FIRST, tmp_path)
    save(numbered(2), tmp_path)

    assert load(tmp_path) == numbered(2)
    assert len([path for path in tmp_path.iterdir() if path.is_dir() and not path.is_symlink()]) == 1


def test_every_file_is_there_under_its_own_name(tmp_path: Path) -> None:
    save(FIRST, tmp_path)

    for form, file in FILES.items():
        assert (tmp_path / file).read_bytes() == getattr(FIRST, form)
    assert b'"exit_status": 0' in (tmp_path / META).read_bytes()


def test_others_may_read_the_files_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        save(FIRST, tmp_path)
    finally:
        os.umask(before)

    assert stat.S_IMODE((tmp_path / CURRENT).stat().st_mode) == 0o755
    assert {stat.S_IMODE((tmp_path / file).stat().st_mode) for file in (*FILES.values(), META)} == {0o644}


def test_a_plain_file_in_the_way_gives_way(tmp_path: Path) -> None:
    (tmp_path / "report.json").write_text("of an older version", encoding="utf-8")
    save(FIRST, tmp_path)

    assert (tmp_path / "report.json").read_bytes() == FIRST.json


@pytest.mark.parametrize("failing", ["mkdir", "write", "rename"])
def test_a_full_disk_leaves_the_old_publication_and_no_rubbish(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    save(FIRST, tmp_path)
    before = sorted(path.name for path in tmp_path.iterdir())

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        if failing == "write":
            patch.setattr(module, "_write", full)
        else:
            patch.setattr(Path, failing, full)
        with pytest.raises(OSError, match="No space left"):
            save(numbered(2), tmp_path)

    assert load(tmp_path) == FIRST
    assert {path.name for path in tmp_path.iterdir() if not path.name.startswith(f".{CURRENT}.")} == set(before)


def _save_until_killed(directory: Path, calls: int) -> None:
    """Die by SIGKILL at the given system call of saving."""
    left = calls

    def counted(function: Callable[..., object]) -> Callable[..., object]:
        def call(*arguments: object, **named: object) -> object:
            nonlocal left
            left -= 1
            if left < 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*arguments, **named)

        return call

    for owner, name in ((os, "mkdir"), (os, "fchmod"), (os, "chmod"), (os, "symlink"), (os, "rename"), (os, "rmdir")):
        setattr(owner, name, counted(getattr(owner, name)))
    save(numbered(2), directory)


@pytest.mark.parametrize("calls", range(18))
def test_a_writer_killed_at_any_step_leaves_one_whole_publication(tmp_path: Path, calls: int) -> None:
    save(FIRST, tmp_path)
    writer = multiprocessing.get_context("fork").Process(target=_save_until_killed, args=(tmp_path, calls))
    writer.start()
    writer.join(30)

    assert load(tmp_path) in (FIRST, numbered(2))
    save(numbered(3), tmp_path)
    assert load(tmp_path) == numbered(3)
    assert sum(path.is_dir() and not path.is_symlink() for path in tmp_path.iterdir()) == 1


def test_a_reader_never_sees_a_mixture_while_a_writer_goes_on(tmp_path: Path) -> None:
    save(numbered(0), tmp_path)
    ended = threading.Event()

    def write() -> None:
        for number in range(1, 200):
            save(numbered(number), tmp_path)
        ended.set()

    writer = threading.Thread(target=write)
    writer.start()
    seen: set[int] = set()
    while not ended.is_set():
        found = load(tmp_path)
        assert found == numbered(found.generation)
        seen.add(found.generation)
    writer.join()

    assert len(seen) > 1


def test_a_directory_without_a_publication_says_so(tmp_path: Path) -> None:
    with pytest.raises(PublicationError, match=f"^{tmp_path}: no report has been published here$"):
        load(tmp_path)


def test_a_publication_that_lost_its_files_says_so(tmp_path: Path) -> None:
    save(FIRST, tmp_path)
    (tmp_path / "page.html").resolve().unlink()

    with pytest.raises(PublicationError, match="no report"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "is not JSON"),
        (b"\xff", "is not JSON"),
        (b"[" * 100_000, "is not JSON"),
        (b"[]", "is not a JSON object"),
        (b"{}", "'generation' is missing or not a number"),
        (b'{"generation": true, "taken_at": 1, "status": "ok", "exit_status": 0}', "'generation' is missing"),
        (b'{"generation": 1, "taken_at": NaN, "status": "ok", "exit_status": 0}', "'taken_at' is missing"),
        (b'{"generation": 1, "taken_at": 1, "status": 7, "exit_status": 0}', "'status' is missing or not text"),
        (b'{"generation": 1, "taken_at": 1, "status": "ok", "exit_status": "0"}', "'exit_status' is missing"),
    ],
)
def test_a_damaged_description_is_one_line_that_names_it(tmp_path: Path, content: bytes, problem: str) -> None:
    save(FIRST, tmp_path)
    (tmp_path / META).write_bytes(content)

    with pytest.raises(PublicationError) as caught:
        load(tmp_path)
    assert str(caught.value).startswith(f"{tmp_path / META}: {problem}")


def test_a_link_or_a_fifo_inside_is_not_followed_or_waited_for(tmp_path: Path) -> None:
    save(FIRST, tmp_path)
    target = (tmp_path / "report.txt").resolve()
    target.unlink()
    target.symlink_to("/etc/hostname")
    with pytest.raises(PublicationError, match="is a link inside the publication"):
        load(tmp_path)

    target.unlink()
    os.mkfifo(target)
    assert load(tmp_path).text == b""


def test_a_file_beyond_all_reason_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(FIRST, tmp_path)
    monkeypatch.setattr(module, "_LARGEST", 10)

    with pytest.raises(PublicationError, match="is larger than 10 bytes"):
        load(tmp_path)


def test_a_directory_that_cannot_be_entered_says_why(tmp_path: Path) -> None:
    (tmp_path / CURRENT).write_text("no directory", encoding="utf-8")

    with pytest.raises(PublicationError, match="Not a directory"):
        load(tmp_path)


def test_the_board_hangs_what_a_directory_holds_and_tells_whether_it_is_new(tmp_path: Path) -> None:
    collector, web = Board(), Board()
    collector.save(tmp_path)
    collector.publish(FIRST)
    collector.save(tmp_path)

    assert (web.load(tmp_path), web.load(tmp_path), web.current) == (True, False, FIRST)


def test_a_board_keeps_its_publication_when_the_directory_is_gone(tmp_path: Path) -> None:
    board = Board()
    board.publish(FIRST)

    with pytest.raises(PublicationError):
        board.load(tmp_path / "gone")
    assert board.current is FIRST


def test_what_is_prepared_is_made_by_whoever_publishes() -> None:
    board = Board()
    makers: list[str] = []

    def prepare(found: Publication) -> str:
        makers.append(threading.current_thread().name)
        return found.status

    board.prepare_with(prepare)
    assert (board.current, board.prepared) == (None, None)
    worker = threading.Thread(target=board.publish, args=(FIRST,), name="worker")
    worker.start()
    worker.join()

    assert (board.prepared, makers) == ("ok", ["worker"])


def test_what_hangs_already_is_prepared_too() -> None:
    board = Board()
    board.publish(FIRST)
    board.prepare_with(lambda found: found.status)

    assert board.prepared == "ok"


def test_every_form_has_its_file() -> None:
    assert {field.name for field in fields(Publication) if field.type == "bytes"} == set(FILES)
    assert replace(FIRST, generation=2) != FIRST
