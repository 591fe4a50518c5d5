# SPDX-License-Identifier: GPL-2.0-or-later
"""The page's section on groups: the kernel's beside the expected ones, and the functions without any."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice

from iommud.address import Address
from iommud.model.groups import Group
from iommud.render.markup import Palette, esc
from iommud.render.view import View
from iommud.render.words import belongs, plural

OPEN_LIMIT = 24
"""Groups up to which those as expected are in sight."""
ROWS_LIMIT = 1000
"""Rows of a table at most."""
MEMBERS_LIMIT = 64
"""Members that a row names at most."""


def groups_section(view: View, palette: Palette) -> Iterator[str]:
    """The section's markup; nothing on a machine without groups where none is expected."""
    members = view.report.actual.members
    if not members and not view.expected and not view.excuses:
        return
    wrong = sorted(number for number in members if not _as_expected(view, members[number]))
    right = sorted(set(members) - set(wrong))
    yield '<section aria-labelledby="groups"><h2 id="groups">Groups</h2>'
    if wrong:
        judged = "not as expected" if view.report.expected is not None else "not certainly as expected"
        yield from _table(f"Groups {judged}", ("Group", "Functions", "Expected"), _wrong_rows(view, palette, wrong))
    if view.report.ungrouped:
        caption = f"{plural(len(view.report.ungrouped), 'function')} without a group that should have one"
        yield from _table(caption, ("Group", "Function", "Expected"), _ungrouped_rows(view))
    if right:
        title = f"{plural(len(right), 'group')} as expected"
        table = _table(title, ("Group", "Functions"), _right_rows(view, palette, right), hide_caption=True)
        yield from _folded(title, table, is_open=len(right) <= OPEN_LIMIT)
    if view.excuses:
        title = f"{plural(len(view.excuses), 'function')} rightly without a group"
        table = _table(title, ("Function", "Why"), _excused_rows(view), hide_caption=True)
        yield from _folded(title, table, is_open=False)
    yield "</section>"


def _as_expected(view: View, members: Group) -> bool:
    return view.report.in_use and view.expected.get(min(members)) == members


def _folded(title: str, content: Iterable[str], *, is_open: bool) -> Iterator[str]:
    yield f"<details{' open' if is_open else ''}><summary><b>{title}</b></summary>"
    yield from content
    yield "</details>"


def _table(title: str, heads: tuple[str, ...], rows: Iterator[str], *, hide_caption: bool = False) -> Iterator[str]:
    label = f' aria-label="{title}"' if hide_caption else ""
    yield f"<table{label}>"
    if not hide_caption:
        yield f"<caption>{title}</caption>"
    columns = "".join(f'<th scope="col">{head}</th>' for head in heads)
    yield f"<thead><tr>{columns}</tr></thead><tbody>"
    yield from islice(rows, ROWS_LIMIT)
    left = sum(1 for _ in rows)
    yield "</tbody></table>"
    if left:
        yield f"<p>And {left} more, in the JSON report.</p>"


def _right_rows(view: View, palette: Palette, numbers: Iterable[int]) -> Iterator[str]:
    for number in numbers:
        yield f"<tr>{_head(palette, number)}<td>{_members(view, sorted(view.report.actual.members[number]))}</td></tr>"


def _wrong_rows(view: View, palette: Palette, numbers: Iterable[int]) -> Iterator[str]:
    for number in numbers:
        members = sorted(view.report.actual.members[number])
        yield f"<tr>{_head(palette, number)}<td>{_members(view, members)}</td><td>{_expected(view, members)}</td></tr>"


def _ungrouped_rows(view: View) -> Iterator[str]:
    for address in view.report.ungrouped:
        yield f'<tr><th scope="row"><span class="chip gx">none</span></th><td>{_members(view, [address])}</td>'
        yield f"<td>{_expected(view, [address])}</td></tr>"


def _excused_rows(view: View) -> Iterator[str]:
    for address, excuse in view.report.without:
        yield f"<tr><td>{_members(view, [address])}</td><td>{esc(excuse.reason)}"
        yield f' <span class="soft">(evidence: {esc(excuse.evidence)})</span></td></tr>'


def _head(palette: Palette, number: int) -> str:
    return f'<th scope="row"><span class="chip {palette.of_number(number)}">{number}</span></th>'


def _members(view: View, addresses: list[Address]) -> str:
    rows = [
        f'<li><code>{one}</code> <span class="soft">{esc(_title(view, one))}</span></li>'
        for one in addresses[:MEMBERS_LIMIT]
    ]
    if len(addresses) > MEMBERS_LIMIT:
        rows.append(f"<li>and {len(addresses) - MEMBERS_LIMIT} more</li>")
    return f"<ul>{''.join(rows)}</ul>"


def _title(view: View, address: Address) -> str:
    return ", ".join(part for part in (view.type_words(address), view.title(address)) if part)


def _expected(view: View, addresses: list[Address]) -> str:
    """For each expected group that these functions belong to, which of them and with whom."""
    homes: dict[Group | None, list[Address]] = {}
    for one in addresses:
        homes.setdefault(view.expected.get(one), []).append(one)
    rows = [f"<li>{_home(view, home, here)}</li>" for home, here in islice(homes.items(), MEMBERS_LIMIT)]
    return f"<ul>{''.join(rows)}</ul>"


def _home(view: View, home: Group | None, here: list[Address]) -> str:
    who = f"<code>{here[0]}</code>" + (f" and {len(here) - 1} more" if len(here) > 1 else "")
    if home is None:
        return f"{who}: no group expected, or not decidable"
    if len(here) == len(home):
        return f"{who}: a group of their own" if len(here) > 1 else f"{who}: alone"
    return f"{who}: {esc(belongs(view, here[0]))}"
