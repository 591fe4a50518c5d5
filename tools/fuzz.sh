#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
# Searches with a coverage-guided fuzzer for bytes that a reader does not withstand (docs/fuzzing.md).
#
# usage: tools/fuzz.sh [TARGET...]     (default: all of tests/fuzz/targets.py)
#
#   SECONDS_EACH=60   how long each target is searched
#   KEEP=1            take what was found worth keeping into tests/fixtures/fuzz
#   PYTHON=...        the Python to use, 3.11 to 3.13; atheris comes as wheels for these
#
# atheris has an environment of its own: no one else needs it, and it is not for every Python.
# All that is written is below .cache/fuzz. Exit status 1 if any target fell.
set -u
cd "$(dirname "$0")/.."
. tools/env.sh

venv=.cache/fuzz/venv
if [ ! -e "$venv/.made" ]; then
    for python in ${PYTHON:-python3.13 python3.12 python3.11 python3}; do
        "$python" -c 'import ensurepip, sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null && break
        python=
    done
    [ -n "$python" ] || {
        echo "fuzz: no Python 3.11 to 3.13 with its venv module" >&2
        exit 1
    }
    "$python" -m venv --clear "$venv" && "$venv/bin/python" -m pip install --quiet 'atheris>=3.0' || exit 1
    touch "$venv/.made"
fi

[ $# -gt 0 ] || set -- dmar ivrs iort viot mcfg fdt tar config

failed=
for target in "$@"; do
    work=.cache/fuzz/$target
    log=$work/log
    mkdir -p "$work/corpus" "$work/seeds"
    cp tests/fixtures/firmware/"$target"*.aml tests/fixtures/firmware/"$target"*.dtb "$work/seeds" 2>/dev/null
    if "$venv/bin/python" -m tests.fuzz.run "$target" -max_total_time="${SECONDS_EACH:-60}" -max_len=8192 -timeout=20 \
        -rss_limit_mb=2048 -artifact_prefix="$work/" "$work/corpus" "tests/fixtures/fuzz/$target" "$work/seeds" \
        >"$log" 2>&1; then
        echo "$target: $(tail -n 1 "$log"), $(grep -o 'cov: [0-9]*' "$log" | tail -n 1)"
        [ -z "${KEEP:-}" ] || "$venv/bin/python" -m tests.fuzz.keep "$target" "$work/corpus" || failed="$failed $target"
    else
        failed="$failed $target"
        grep -v '^#' "$log" | tail -n 20
    fi
done

[ -z "$failed" ] || {
    echo "fuzz: fell:$failed (the bytes are below .cache/fuzz)" >&2
    exit 1
}
