#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
# The smoke run of the guest lab: six guests with real kernels under QEMU (docs/guest-lab.md).
#
# usage: tools/guests.sh [PYTEST ARGUMENTS]
# What it lacks comes from Debian, into $XDG_CACHE_HOME/iommud/guest; what cannot be had is a failure.
# IOMMUD_SKIP_GUEST=1 says on purpose that no guest is to be booted.
set -eu
cd "$(dirname "$0")/.."
. tools/env.sh

if [ "${IOMMUD_SKIP_GUEST:-}" = 1 ]; then
    echo "guests: none booted, as IOMMUD_SKIP_GUEST=1 says" >&2
    exit 0
fi

# The name of a socket, which QEMU makes below it, has room for 107 bytes.
[ "${#TMPDIR}" -le 80 ] || TMPDIR=/tmp

# Apart from the tests, which have limits of time: how long this takes is the network's to say.
python -m tests.guest.run fetch
exec pytest -m guest --basetemp=.cache/tg "$@" tests/guest/test_smoke.py
