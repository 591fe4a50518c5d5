# SPDX-License-Identifier: GPL-2.0-or-later
"""``iommud defects``: what is known of kernels and hypervisors, all of it, or what bears on a release or a machine."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import typer

from iommud.api import check_sysfs
from iommud.causes.defects import Certainty, Change, Component, Defect, defects
from iommud.causes.recognise import shown, told
from iommud.cli.options import Colour, ShowFormat
from iommud.cli.output import emit, output_style
from iommud.cli.showing import print_json
from iommud.errors import SourceError
from iommud.kernel import parse_release
from iommud.render.style import Style

_CERTAINTIES = {
    Certainty.SOURCE: "read in the sources, or seen on machines",
    Certainty.LIST: "told by mailing lists and changelogs",
    Certainty.INFERRED: "concluded from the code, not seen",
}
_Release = tuple[tuple[int, int], int | None]


def show_defects(
    name: str | None,
    affecting: str | None,
    qemu: str | None,
    format_: ShowFormat,
    *,
    seen: str | None = None,
    log: str | None = None,
) -> int:
    """Print one defect, all, those of a kernel and a QEMU, or those that a machine or a log shows.

    Raises typer.BadParameter for what is not known, and SourceError for what cannot be read.
    """
    asked = (name is not None, bool(affecting or qemu), seen is not None or log is not None)
    if sum(asked) > 1:
        raise typer.BadParameter("a defect is shown, those that affect a release, or those that are seen: one of these")
    if asked[2]:
        return _show_seen(seen, log, format_)
    releases = {
        Component.KERNEL: _release(affecting, "--affecting"),
        Component.QEMU: _release(qemu, "--qemu"),
    }
    wanted = any(releases.values())
    found = [(one, True) for one in _named(name)] if not wanted else list(_affecting(releases))
    if format_ is ShowFormat.JSON:
        return print_json([{**_data(one), "affects": affects} if wanted else _data(one) for one, affects in found])
    if name is not None:
        lines = list(_whole(found[0][0], output_style(Colour.AUTO)))
    else:
        lines = [line for one, affects in found for line in _short(one, certain=affects is True)]
    emit("".join(f"{line}\n" for line in lines))
    return 0


def _show_seen(seen: str | None, log: str | None, format_: ShowFormat) -> int:
    """Those that a machine shows, and those that lines of a log tell of."""
    found = {one.id: one for one in (*_shown_by(seen), *_told_by(log))}
    if format_ is ShowFormat.JSON:
        return print_json([_data(one) for _, one in sorted(found.items())])
    lines = [line for _, one in sorted(found.items()) for line in _short(one, certain=True)]
    emit("".join(f"{line}\n" for line in lines or ["no known defect is recognised"]))
    return 0


def _shown_by(source: str | None) -> tuple[Defect, ...]:
    return () if source is None else shown(check_sysfs(source))


def _told_by(path: str | None) -> tuple[Defect, ...]:
    if path is None:
        return ()
    try:
        with open(path, encoding="utf-8", errors="replace") as file:  # noqa: PTH123 - a name from the command line
            return told(file)
    except OSError as error:
        raise SourceError(path, error.strerror or str(error)) from error


def _release(text: str | None, option: str) -> _Release | None:
    if text is None:
        return None
    kernel = parse_release(text)
    if kernel is None:
        raise typer.BadParameter(f"{text!r} is no release like 6.12.80", param_hint=option)
    return kernel.version, kernel.stable


def _named(name: str | None) -> list[Defect]:
    found = [one for one in defects() if name in (None, one.id)]
    if not found:
        raise typer.BadParameter(f"{name!r} is none of {', '.join(one.id for one in defects())}")
    return found


def _affecting(releases: dict[Component, _Release | None]) -> Iterator[tuple[Defect, bool | None]]:
    """Defects that a release has, or may have: what is not known is not left out."""
    for one in defects():
        release = releases.get(one.component)
        affects = one.affects(*release) if release is not None else False
        if affects is not False:
            yield one, affects


def _short(found: Defect, *, certain: bool) -> Iterator[str]:
    doubt = "" if certain else " (perhaps: the release or the fix is not known exactly)"
    yield f"{found.id}{doubt}"
    yield f"  {found.title}"


def _whole(found: Defect, style: Style) -> Iterator[str]:
    yield found.title
    yield f"id: {found.id}; component: {found.component}; {_CERTAINTIES[found.certainty]}"
    yield f"introduced: {_releases(found.introduced) or 'before the oldest release looked at'}"
    yield f"fixed: {_releases(found.fixed) or 'in no release known'}"
    for heading, text in (("effect", found.effect), ("recognise", found.recognise), ("do", found.do)):
        yield ""
        yield from style.wrapped(f"{heading}: {text}")
    yield ""
    yield from (line for one in found.references for line in style.wrapped(one, first="- "))
    yield from (f"see docs/causes/{one}.md" for one in found.causes)


def _releases(changes: tuple[Change, ...]) -> str:
    return ", ".join(
        str(one) + (f" ({one.commit})" if one.commit and one.version else "") + (f" [{one.note}]" if one.note else "")
        for one in changes
    )


def _data(found: Defect) -> dict[str, Any]:
    return {
        "id": found.id,
        "title": found.title,
        "component": found.component.value,
        "certainty": found.certainty.value,
        "introduced": [_change(one) for one in found.introduced],
        "fixed": [_change(one) for one in found.fixed],
        "effect": found.effect,
        "recognise": found.recognise,
        "do": found.do,
        "references": list(found.references),
        "causes": [one.value for one in found.causes],
    }


def _change(change: Change) -> dict[str, str | None]:
    release = None if change.version is None else str(change)
    return {"release": release, "commit": change.commit, "note": change.note}
