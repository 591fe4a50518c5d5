# SPDX-License-Identifier: GPL-2.0-or-later
# Read by the other scripts from the top of the checkout: whatever a tool keeps, it keeps below .cache.
# (ruff, mypy, pytest, coverage and hypothesis are told the same in pyproject.toml and tests/conftest.py.)

export PIP_CACHE_DIR="$PWD/.cache/pip"
export PIP_DISABLE_PIP_VERSION_CHECK=1
export TMPDIR="$PWD/.cache/tmp"
mkdir -p "$TMPDIR"

if [ -d "$PWD/.venv/bin" ]; then
    PATH="$PWD/.venv/bin:$PATH"
    export PATH
fi
