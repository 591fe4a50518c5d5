# SPDX-License-Identifier: GPL-2.0-or-later
"""Answers about VFIO as data for JSON, and as text written from the same data."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from iommud.address import Address
from iommud.render.style import Role, Style
from iommud.render.view import Naming, name_of, tail_of
from iommud.render.words import listing, plural
from iommud.snapshot import PciFunction
from iommud.verdict.report import Report
from iommud.verdict.vfio import Answer, Assignment, Member

SCHEMA_VERSION = 1

Data = dict[str, Any]
"""A JSON object."""

_ROLES = {Answer.YES: Role.GOOD, Answer.NO: Role.CRITICAL, Answer.UNKNOWN: Role.WARNING}


def assignment_data(report: Report, found: Assignment) -> Data:
    """The answer about one function, as a JSON object."""
    return {**_head(report), "asked": None if found.asked is None else str(found.asked), **_group(found)}


def assignments_data(report: Report, found: Sequence[Assignment]) -> Data:
    """The answers about all groups, as a JSON object."""
    return {**_head(report), "groups": [_group(one) for one in found]}


def _head(report: Report) -> Data:
    return {
        "schema_version": SCHEMA_VERSION,
        "source": report.source,
        "kernel": report.kernel.text,
        "usage": report.usage_reason,
    }


def _group(found: Assignment) -> Data:
    return {
        "group": found.number,
        "answer": str(found.answer),
        "obstacle": found.obstacle,
        "refusal": found.refusal,
        "viable": found.viable,
        "safe": found.safe,
        "members": [_member(one) for one in found.members],
        "others": list(found.others),
        "blockers": [{"address": str(one.address), "driver": one.driver} for one in found.blockers],
        "dangers": [
            {
                "hazard": str(one.hazard),
                "devices": [str(device) for device in one.devices],
                "text": one.text,
                "finding": one.finding,
            }
            for one in found.dangers
        ],
        "doubts": list(found.doubts),
        "commands": list(found.commands),
    }


def _member(one: Member) -> Data:
    return {"address": str(one.address), "driver": one.driver, "bridge": one.bridge, "blocks": one.blocks}


def render_assignment(
    data: Data, functions: Mapping[Address, PciFunction], *, style: Style, names: Naming | None = None
) -> str:
    """The data of ``assignment_data`` as text that ends in a newline; ``functions`` gives what names them."""
    asked = data["asked"]
    lines = [_titled(asked, functions, names, style), *_verdict(data, style)]
    others = [one for one in data["members"] if one["address"] != asked]
    lines += _section("Comes along", [_row(one, functions, names, style) for one in others], style)
    lines += _wrapped_section("Not safe", [_danger(one) for one in data["dangers"]], style)
    lines += _wrapped_section("Not certain", data["doubts"], style)
    settled = "" if data["answer"] == Answer.YES else ", once the above is settled"
    lines += _section(f"Commands, for root{settled}", data["commands"], style)
    return "".join(f"{line}\n" for line in lines)


def _titled(address: str, functions: Mapping[Address, PciFunction], names: Naming | None, style: Style) -> str:
    function = functions[Address.parse(address)]
    name, tail = style.clean(name_of(function, names)), style.clean(tail_of(function, names))
    return (
        f"{style.paint(address, Role.HEADING)}  {style.cut(name, used=len(address) + 2, tail=tail).lstrip()}".rstrip()
    )


def _verdict(data: Data, style: Style) -> Iterator[str]:
    answer = Answer(data["answer"])
    text = style.clean("; ".join(_why(data)))
    first, *rest = style.wrapped(f"{answer}{f': {text}' if text else ''}", first="  assignable  ", rest=" " * 14)
    yield first[:14] + style.paint(first[14:], _ROLES[answer])
    yield from rest
    if data["group"] is not None:
        others = len(data["members"]) + len(data["others"]) - 1
        company = f"with {plural(others, 'other')}" if others else "alone"
        yield f"  group       {data['group']}, {company}"


def _why(data: Data) -> Iterator[str]:
    """What the answer rests on, in half sentences."""
    if data["obstacle"] is not None:
        yield data["obstacle"]
    if data["refusal"] is not None:
        yield data["refusal"]
    if data["blockers"]:
        yield f"blocked by {_holders(data)}"
    if data["dangers"]:
        yield "not safe"
    if Answer(data["answer"]) is Answer.UNKNOWN:
        yield "facts are missing"
    if Answer(data["answer"]) is Answer.YES and data["commands"]:
        yield "after the commands below"


def _holders(data: Data) -> str:
    return listing([f"{one['address']} ({one['driver']})" for one in data["blockers"]])


def _row(one: Data, functions: Mapping[Address, PciFunction], names: Naming | None, style: Style) -> str:
    remark = ""
    if one["bridge"]:
        remark = "  bridge, left alone"
    if one["blocks"]:
        remark = "  blocks: a bridge, to be released by hand" if one["bridge"] else "  blocks until it is released"
    return _titled(one["address"], functions, names, style) + remark


def _danger(one: Data) -> str:
    return one["text"] if one["finding"] is None else f"{one['text']} (finding {one['finding']})"


def _section(title: str, rows: Sequence[str], style: Style) -> list[str]:
    """Rows that stay whole: a command cut in two is none."""
    return ["", style.paint(title, Role.HEADING), *(f"  {row}" for row in rows)] if rows else []


def _wrapped_section(title: str, rows: Sequence[str], style: Style) -> list[str]:
    if not rows:
        return []
    wrapped = (line for row in rows for line in style.wrapped(style.clean(row), first="  - ", rest="    "))
    return ["", style.paint(title, Role.HEADING), *wrapped]


def render_assignments(data: Data, *, style: Style) -> str:
    """The data of ``assignments_data`` as one line for each group, text that ends in a newline."""
    wide = max((len(str(one["group"])) for one in data["groups"]), default=1)
    lines = [_line(one, wide, style) for one in data["groups"]]
    nothing = style.wrapped(style.clean(f"no group holds anything that could be assigned: {data['usage']}"))
    return "".join(f"{line}\n" for line in lines or nothing)


def _line(one: Data, wide: int, style: Style) -> str:
    shown = [member for member in one["members"] if not member["bridge"]] or one["members"]
    members = listing([member["address"] for member in shown])
    state = style.paint(style.clean(_state(one)), _ROLES[Answer(one["answer"])])
    return f"group {one['group']:>{wide}}  {members}: {state}"


def _state(one: Data) -> str:
    states = ["refused (reserved memory)"] if one["refusal"] is not None else []
    states += [f"blocked by {_holders(one)}"] if one["blockers"] else []
    if one["dangers"]:
        states.append(f"unsafe ({listing(list(dict.fromkeys(danger['hazard'] for danger in one['dangers'])))})")
    if one["doubts"]:
        states.append("not certain")
    return ", ".join(states) or "viable"
