#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
# Prints the directory that holds `prometheus` and `promtool`: of PATH where they are installed, else of a cache.
# Without either, apt downloads Debian's package, once, and it is unpacked there; nothing is installed, no root needed.
#
# usage: tools/prometheus.sh
set -eu

if command -v promtool >/dev/null && command -v prometheus >/dev/null; then
    dirname "$(command -v promtool)"
    exit
fi
cache=${XDG_CACHE_HOME:-$HOME/.cache}/iommud/prometheus
if [ ! -x "$cache/usr/bin/promtool" ]; then
    mkdir -p "$(dirname "$cache")"
    # Several tests may come here at the same time: each unpacks its own, and the first one stays.
    fresh=$(mktemp -d "$cache.XXXXXX")
    trap 'rm -rf "$fresh"' EXIT
    trap 'exit 1' HUP INT TERM
    (cd "$fresh" && apt-get -qq download prometheus && dpkg -x prometheus_*.deb . && rm prometheus_*.deb) >&2
    [ -e "$cache" ] || mv -T "$fresh" "$cache" 2>/dev/null || [ -x "$cache/usr/bin/promtool" ]
fi
echo "$cache/usr/bin"
