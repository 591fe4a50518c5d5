# SPDX-License-Identifier: GPL-2.0-or-later
"""Judge what the daemon in a guest served: the same answer as that of the check, in every form."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from tests.guest.channel import Sent

# The daemon reads config space when it meets a function, a check each time that it runs.
DIFFERS_RIGHTLY = frozenset({"config_space"})


def served_differences(files: Mapping[str, Sent], label: str) -> list[str]:
    """What the daemon served that is not what the check of that look said, in a few words each."""
    missing = [
        name for name in ("check", "served", "metrics", "status", "daemon.log") if f"{label}/{name}" not in files
    ]
    if missing:
        return [f"{name} was not sent" for name in missing]
    check, served = files[f"{label}/check"], files[f"{label}/served"]
    status, daemon = files[f"{label}/status"], files[f"{label}/daemon.log"]
    try:
        asked, answered = json.loads(check.content), json.loads(served.content)
    except ValueError as error:
        return [f"no JSON is served: {error}; {_last(daemon)}"]
    found = [f"{name} differs" for name in different_members(asked, answered)]
    if status.status != check.status:
        found.append(f"iommud status ends with {status.status}, the check with {check.status}")
    if daemon.status:
        found.append(f"the daemon ended with {daemon.status}: {_last(daemon)}")
    if f'iommud_check_status{{status="{asked["status"]}"}} 1' not in files[f"{label}/metrics"].content.decode():
        found.append("the metrics tell another verdict")
    return found


def different_members(asked: Mapping[str, Any], answered: Mapping[str, Any]) -> list[str]:
    """The members of two answers that differ, save where they differ rightly."""
    names = sorted((asked.keys() | answered.keys()) - DIFFERS_RIGHTLY)
    return [name for name in names if asked.get(name) != answered.get(name)]


def _last(sent: Sent) -> str:
    lines = sent.content.decode(errors="replace").strip().splitlines()
    return lines[-1] if lines else "it said nothing"
