#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
# The one gate, the same for people and for CI. Every step runs, so that one call shows all there is to mend.
#
# usage: tools/gate.sh [PYTEST ARGUMENTS]
# The tools come from .venv where there is one, else from PATH.
set -u
cd "$(dirname "$0")/.."
. tools/env.sh

# promtool and Prometheus, where setup found them.
if prometheus=$(tools/prometheus.sh 2>/dev/null); then
    PATH="$PATH:$prometheus"
    export PATH
fi

failed=
step() {
    name=$1
    shift
    echo "== $name"
    "$@" || failed="$failed, $name"
}

step "ruff format" ruff format --check --quiet .
step "ruff check" ruff check --quiet .
step "mypy" mypy
# A short place for temporary files: the names of sockets have room for 107 bytes only.
step "pytest" pytest -n auto --basetemp=.cache/t --cov --cov-report=term "$@"
# Says nothing where all is well, so that pytest has the last word.
python tools/pure_coverage.py || failed="$failed, coverage of the pure modules"

[ -z "$failed" ] || {
    echo "gate: failed: ${failed#, }" >&2
    exit 1
}
