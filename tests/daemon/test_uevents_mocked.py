# SPDX-License-Identifier: GPL-2.0-or-later
"""The watch path from end to end on a mocked machine, where functions can be plugged in and pulled out."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.daemon.mocked_machine import SCENES

ROOT = Path(__file__).parent.parent.parent
CAPTURE = ROOT / "tests/fixtures/captures/6.12-amd64-intel-switch-q7.2.tar.gz"
pytestmark = pytest.mark.skipif(shutil.which("umockdev-wrapper") is None, reason="needs umockdev (apt: umockdev)")


@pytest.mark.parametrize("scene", SCENES)
def test_what_happens_to_a_mocked_machine_is_seen(scene: str) -> None:
    command = ["umockdev-wrapper", sys.executable, "-m", "tests.daemon.mocked_machine", str(CAPTURE), scene]
    played = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)

    assert played.returncode == 0, f"{SCENES[scene].__doc__}\n{played.stderr}"
