# SPDX-License-Identifier: GPL-2.0-or-later
"""Explanations for a terminal, written from the same data as their JSON."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from iommud.address import Address
from iommud.render.explain_data import Data, UnknownFunctionError, explain_one_data, explain_two_data
from iommud.render.style import Role, Style, mark_of, role_of
from iommud.render.view import Naming, name_of, tail_of
from iommud.render.words import plural
from iommud.snapshot import PciFunction
from iommud.verdict.findings import Severity
from iommud.verdict.report import Report

__all__ = [
    "UnknownFunctionError",
    "explain_one",
    "explain_one_data",
    "explain_two",
    "explain_two_data",
    "render_one",
    "render_two",
]

_SHOWN = 16
"""Entries of one list that are shown; the JSON holds all."""


def explain_one(report: Report, address: Address, *, style: Style, names: Naming | None = None) -> str:
    """Everything behind the group of one function, as text that ends in a newline.

    Raises UnknownFunctionError if the report knows no such function.
    """
    return render_one(explain_one_data(report, address), style=style, names=names)


def explain_two(report: Report, one: Address, other: Address, *, style: Style, names: Naming | None = None) -> str:
    """What joins two functions, or what separates them, as text that ends in a newline.

    Raises UnknownFunctionError if the report does not know both.
    """
    return render_two(explain_two_data(report, one, other), style=style, names=names)


def render_one(data: Data, *, style: Style, names: Naming | None = None) -> str:
    """The data of ``explain_one_data`` as text."""
    address = data["function"]["address"]
    shared = [f"{one['address']}  as {one['requester_id']}" for one in data["shared_with"]]
    senders = data["requester_ids"]
    lines = [*_head(data["function"], names, style), *_expected(data["function"], style), *_iommu(data, style)]
    lines += _section("Requester IDs", [_requester_id(one, address, senders[0]["iommu"]) for one in senders], style)
    lines += _section("Shared with", shared, style)
    lines += _section("Same ID at the IOMMU", [_same_id(one) for one in data["same_iommu_id"]], style)
    lines += _section("Reserved memory", [_region(one) for one in data["reserved_regions"]], style)
    lines += _section("Path to the root", [_step(one) for one in data["path"]] or ["it is on a root bus"], style)
    lines += _section("What ties it to others", _ties(data["ties"]) or ["nothing"], style)
    lines += _section("What firmware adds", [f"{one['table']}: {one['text']}" for one in data["firmware"]], style)
    lines += _findings(data, style)
    return "".join(f"{line}\n" for line in lines)


def render_two(data: Data, *, style: Style, names: Naming | None = None) -> str:
    """The data of ``explain_two_data`` as text."""
    lines = [line for facts in data["functions"] for line in _head(facts, names, style)]
    lines += ["", *style.wrapped(_answer(data))]
    shared = data["shared_requester_id"]
    if shared is not None:
        lines += style.wrapped(f"They share requester ID {shared}: each can use the other's mappings.")
    elif data["shared_iommu_id"] is not None:
        folded = "the {iommu} knows both by {id_kind} {id}: each can use the other's mappings."
        lines += style.wrapped(style.clean(f"Firmware says that {folded.format(**data['shared_iommu_id'])}"))
    lines += _section("The chain that joins them", _ties(data["chain"]), style)
    if data["because"] is not None:
        rows = [_step(step) for step in data["separated_by"]]
        lines += _section("What separates them", rows or [data["because"]], style)
    if data["unisolated"] is not None:
        text = f"Yet requests can pass between them: see finding {data['unisolated']}."
        lines += ["", *style.wrapped(text)]
    return "".join(f"{line}\n" for line in lines)


def _head(facts: Data, names: Naming | None, style: Style) -> Iterator[str]:
    address = facts["address"]
    function = _function(facts)
    name, tail = style.clean(name_of(function, names)), style.clean(tail_of(function, names))
    title = style.cut(name, used=len(address) + 2, tail=tail).lstrip()
    yield f"{style.paint(address, Role.HEADING)}  {title}".rstrip()
    yield f"  type       {style.clean(facts['type'])}"
    yield from style.wrapped(style.clean(facts["acs"]), first="  isolation  ")
    yield from style.wrapped(style.clean(_group(facts)), first="  group      ")


def _function(facts: Data) -> PciFunction:
    """What names a function, taken back from its data."""
    return PciFunction(
        address=Address.parse(facts["address"]),
        vendor=_number(facts["vendor"]),
        device=_number(facts["device"]),
        class_code=_number(facts["class"]),
        driver=facts["driver"],
        present=facts["present"],
    )


def _number(digits: str | None) -> int | None:
    return None if digits is None else int(digits, 16)


def _group(facts: Data) -> str:
    if facts["group"] is not None:
        others = [one for one in facts["group_members"] if one != facts["address"]]
        return f"{facts['group']}, {_with(others)}"
    without = facts["without"]
    if without is not None:
        return f"none, rightly: {without['reason']} (evidence: {without['evidence']})"
    return "none, but it should have one" if facts["expected"] is not None else "none"


def _with(others: Sequence[str]) -> str:
    if not others:
        return "alone"
    more = f" and {len(others) - _SHOWN} more" if len(others) > _SHOWN else ""
    return f"with {', '.join(others[:_SHOWN])}{more}"


def _expected(facts: Data, style: Style) -> Iterator[str]:
    """The expected group, and whether the kernel's is the same."""
    expected = facts["expected"]
    if expected is None:
        return
    if expected == facts["group_members"]:
        text = "the same"
    else:
        text = _with([one for one in expected if one != facts["address"]])
    doubt = "" if facts["expected_is_certain"] else ", at the least: unread facts could join more"
    yield from style.wrapped(f"{text}{doubt}", first="  expected   ")


def _iommu(data: Data, style: Style) -> Iterator[str]:
    """Who serves the function's own requester ID, or why nothing does; nothing where neither table nor sysfs tells."""
    own, instance = data["requester_ids"][0], data["iommu_instance"]
    if own["iommu"] is not None:
        text = f"{_unit(own['iommu'])} ({own['iommu']['table']}: {own['firmware']})"
    elif instance is not None:
        # No table is at hand, or it says nothing of this function, which the driver serves all the same.
        text = f"{instance} (sysfs lists the function below it)"
    elif own["firmware"] is not None:
        text = f"none: {own['firmware']}"
    else:
        return
    yield from style.wrapped(style.clean(text), first="  iommu      ")


def _unit(iommu: Data) -> str:
    instance = iommu["instance"]
    return iommu["name"] if instance in {None, iommu["name"]} else f"{instance}, {iommu['name']}"


def _requester_id(one: Data, address: str, usual: Data | None) -> str:
    if one["source"] != "topology":
        how = f"by the {one['source']} table"
    elif one["taken_by"] == address:
        how = "its own" if one["requester_id"] == address else "an alias of its own"
    elif one["taken_by"] == one["requester_id"]:
        how = "of the function that takes its requests"
    else:
        how = f"given by {one['taken_by']}"
    return f"{one['requester_id']}  {how}{_at_iommu(one, usual)}"


def _at_iommu(one: Data, usual: Data | None) -> str:
    """The ID at the IOMMU; which one that is, only if it is not the one that serves the function's own ID."""
    if one["iommu"] is not None:
        where = "" if one["iommu"] == usual else f" at {_unit(one['iommu'])}"
        return f", {one['id_kind']} {one['id']}{where}"
    return "" if one["firmware"] is None or usual is None else f", no IOMMU: {one['firmware']}"


def _same_id(one: Data) -> str:
    return f"{one['address']}  {one['id_kind']} {one['id']}, as {one['requester_id']}"


def _region(one: Data) -> str:
    return f"{one['first']} to {one['last']}  {one['what']} ({one['table']})"


def _step(one: Data) -> str:
    kind = "" if one["type"] in one["acs"] else f"{one['type']}, "
    return f"{one['address']}  {kind}{one['acs']}"


def _ties(ties: Iterable[Data]) -> list[str]:
    return [f"{tie['reason']} [{tie['reference']}]" if tie["reference"] else tie["reason"] for tie in ties]


def _section(title: str, rows: Sequence[str], style: Style) -> list[str]:
    if not rows:
        return []
    lines = ["", style.paint(title, Role.HEADING)]
    for row in rows[:_SHOWN]:
        lines += style.wrapped(style.clean(row), first="  ", rest="    ")
    if len(rows) > _SHOWN:
        lines.append(f"  and {len(rows) - _SHOWN} more (--format json)")
    return lines


def _findings(data: Data, style: Style) -> list[str]:
    if not data["findings"]:
        return []
    lines = ["", style.paint(f"{plural(len(data['findings']), 'finding')}", Role.HEADING)]
    for one in data["findings"]:
        severity = Severity(one["severity"])
        text = f"{mark_of(severity):<2} {one['kind']}  {one['id']}"
        lines.append("  " + style.paint(text, role_of(severity)))
    return lines


def _answer(data: Data) -> str:
    """Two half sentences: what the model says of two functions, and what the kernel did."""
    one, other = (facts["address"] for facts in data["functions"])
    excused = [facts["address"] for facts in data["functions"] if facts["without"] is not None]
    if excused:
        return f"{' and '.join(excused)} rightly {'has' if len(excused) == 1 else 'have'} no group."
    if data["joined"] is None:
        unsure = "cannot be judged from this snapshot" if data["judged"] else "are not judged"
        return f"{one} and {other} {unsure}; {_actual(data)}."
    belong = "belong in one group" if data["joined"] else "belong in different groups"
    link = "and" if data["joined"] == data["same_group"] else "but"
    return f"{one} and {other} {belong}, {link} {_actual(data)}."


def _actual(data: Data) -> str:
    if data["same_group"] is not None:
        return "the kernel has them in one" if data["same_group"] else "the kernel has them in different ones"
    ungrouped = [facts["address"] for facts in data["functions"] if facts["group"] is None]
    return f"{' and '.join(ungrouped)} {'has' if len(ungrouped) == 1 else 'have'} none"
