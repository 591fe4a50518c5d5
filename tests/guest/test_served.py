# SPDX-License-Identifier: GPL-2.0-or-later
"""What the daemon in a guest served is held against what the check in it said."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.guest.channel import Sent
from tests.guest.served import served_differences
from tests.guest.steps import Serve, init_script, shell

ANSWER = {"status": "ok", "source": {"kind": "running"}, "groups": {"actual": [["0000:00:00.0"]]}, "config_space": 9}
METRICS = b'iommud_check_status{status="ok"} 1.0\niommud_check_status{status="findings"} 0.0\n'


def sent(**changes: Sent) -> dict[str, Sent]:
    """What a guest sends of a look in which all went well, but for some files."""
    answer = json.dumps(ANSWER).encode()
    files = {
        "check": Sent(answer, 0),
        "served": Sent(answer, 0),
        "metrics": Sent(METRICS, 0),
        "status": Sent(b"ok", 0),
        "daemon": Sent(b"level=info msg=listening\n", 0),
        **changes,
    }
    return {f"end/{name if name != 'daemon' else 'daemon.log'}": one for name, one in files.items()}


def answer_with(**members: Any) -> Sent:
    return Sent(json.dumps({**ANSWER, **members}).encode(), 0)


def test_nothing_differs_where_all_forms_tell_one_answer() -> None:
    assert served_differences(sent(), "end") == []


def test_how_much_of_config_space_was_read_may_differ() -> None:
    assert served_differences(sent(served=answer_with(config_space=3)), "end") == []


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"served": answer_with(groups={})}, "groups differs"),
        ({"served": answer_with(notes=["degraded"])}, "notes differs"),
        ({"served": Sent(b"", 1)}, "no JSON is served: Expecting value: line 1 column 1 (char 0); "),
        ({"status": Sent(b"", 4)}, "iommud status ends with 4, the check with 0"),
        ({"daemon": Sent(b"x\nTraceback\n", 1)}, "the daemon ended with 1: Traceback"),
        ({"daemon": Sent(b"", 2)}, "the daemon ended with 2: it said nothing"),
        ({"metrics": Sent(b"", 1)}, "the metrics tell another verdict"),
    ],
)
def test_what_differs_is_named(changes: dict[str, Sent], words: str) -> None:
    (found,) = served_differences(sent(**changes), "end")

    assert found.startswith(words)


def test_what_was_not_sent_is_named() -> None:
    files = sent()
    del files["end/metrics"]

    assert served_differences(files, "end") == ["metrics was not sent"]


def test_a_guest_that_serves_calls_the_function_of_its_script() -> None:
    assert shell(Serve("end")) == "serve end\n"
    assert "\nserve() {\n" in init_script((Serve("end"),), "ttyS1")
