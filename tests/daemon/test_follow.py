# SPDX-License-Identifier: GPL-2.0-or-later
"""The server takes up each publication once, and looks at an unchanged directory without reading it again."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

from iommud.daemon.follow import Follower
from iommud.daemon.publication import CURRENT, Board, Publication, save
from tests.daemon.serving import publication


class Counting(Board):
    """A board that counts how often it has loaded."""

    loads = 0

    def load(self, directory: Path) -> bool:
        type(self).loads += 1
        return super().load(directory)


def test_an_unchanged_directory_is_read_once_and_a_new_publication_once_more(tmp_path: Path) -> None:
    async def follow() -> tuple[int, int, Publication | None]:
        board = Counting()
        save(publication(generation=1), tmp_path)
        follower = Follower(tmp_path, board)
        await follower.start()
        follower._load()
        follower._load()
        unchanged = board.loads
        save(publication(generation=2), tmp_path)
        follower._load()
        follower._load()
        follower.stop()
        return unchanged, board.loads, board.current

    unchanged, loads, current = asyncio.run(follow())

    assert (unchanged, loads) == (1, 2)
    assert current == publication(generation=2)


def test_a_directory_that_could_not_be_read_is_read_again(tmp_path: Path) -> None:
    async def follow() -> Publication | None:
        save(publication(generation=1), tmp_path)
        place = (tmp_path / CURRENT).resolve()
        aside = place.with_name("aside")
        place.rename(aside)
        follower = Follower(tmp_path, board := Board())
        await follower.start()
        shutil.copytree(aside, place)
        follower._load()
        follower.stop()
        return board.current

    assert asyncio.run(follow()) == publication(generation=1)
