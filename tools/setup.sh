#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
# Makes .venv in the checkout, and has apt install what is missing for it.
#
# usage: tools/setup.sh [run|dev]
#   run  what `iommud` needs
#   dev  that, and what the gate needs (default)
#
# $PYTHON names the Python to use, instead of the first suitable one.
# A second call with nothing changed does nothing.
set -eu
cd "$(dirname "$0")/.."
. tools/env.sh

say() {
    echo "setup: $*" >&2
}

die() {
    say "$@"
    exit 1
}

# A Debian Python without python3-venv has venv, but not the ensurepip that it calls.
suitable() {
    "$1" -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null
}

find_python() {
    for candidate in ${PYTHON:-python3 /usr/bin/python3}; do
        if suitable "$candidate"; then
            command -v "$candidate"
            return
        fi
    done
    return 1
}

python_here() {
    command -v python3 >/dev/null && python3 --version || echo none
}

apt_install() {
    command -v apt-get >/dev/null || return 1
    if [ "$(id -u)" -eq 0 ]; then
        as_root=
    elif command -v sudo >/dev/null; then
        as_root=sudo
    else
        say "not root and no sudo: cannot install $*"
        return 1
    fi
    say "apt installs $*"
    $as_root apt-get -qq update >&2 || say "apt-get update failed, going on with the package lists that are here"
    $as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq -o Dpkg::Use-Pty=0 \
        install --yes --no-install-recommends "$@" >.cache/apt.log 2>&1 || {
        cat .cache/apt.log >&2
        return 1
    }
}

need_python() {
    python=$(find_python) && return
    # Debian's Python is the one that apt can complete; ensurepip's pip trusts Debian's certificates.
    apt_install python3 python3-venv ca-certificates || true
    PYTHON=/usr/bin/python3
    python=$(find_python) || die "no Python >= 3.11 with its venv module" \
        "(Debian 12 and later: apt-get install python3 python3-venv; found: $(python_here))"
}

# What some tests ask or drive: lspci for config space, iasl for firmware tables, a mocked udev, systemd's own judgement
# of units, a browser for the page.
need_oracles() {
    missing=
    for pair in lspci:pciutils iasl:acpica-tools umockdev-wrapper:umockdev systemd-analyze:systemd chromium:chromium; do
        command -v "${pair%%:*}" >/dev/null || missing="$missing ${pair#*:}"
    done
    # shellcheck disable=SC2086 # a list of packages
    [ -z "$missing" ] || apt_install $missing || say "going on without$missing; the tests that ask them will say so"
    tools/prometheus.sh >/dev/null || say "going on without Prometheus; the tests that ask it will say so"
}

# A virtual environment knows its own place, so a moved checkout needs a new one.
wanted_state() {
    { pwd && cat pyproject.toml && grep '^__version__' iommud/__init__.py; } | sha256sum
}

made() {
    [ "$(cat ".venv/.made-$1" 2>/dev/null)" = "$(wanted_state)" ] && .venv/bin/python -c ''
}

make_venv() {
    need_python
    say "installing iommud with its $1 dependencies into .venv ($("$python" --version))"
    "$python" -m venv --clear .venv
    case $1 in
        run) .venv/bin/python -m pip install --quiet --editable . >&2 ;;
        dev) .venv/bin/python -m pip install --quiet --editable '.[dev]' >&2 ;;
    esac
    wanted_state >.venv/.made-run
    [ "$1" = run ] || wanted_state >.venv/.made-dev
}

mode=${1:-dev}
case $mode in
    run | dev) ;;
    *) die "usage: tools/setup.sh [run|dev]" ;;
esac
[ "$mode" = run ] || need_oracles
made "$mode" || make_venv "$mode"
