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
    # From Debian 13 on promtool is a package of its own.
    packages=prometheus
    apt-cache show promtool >/dev/null 2>&1 && packages="prometheus promtool"
    # shellcheck disable=SC2086 # a list of packages
    (cd "$fresh" && apt-get -qq download $packages && for deb in *.deb; do dpkg -x "$deb" .; done && rm ./*.deb) >&2
    [ -e "$cache" ] || mv -T "$fresh" "$cache" 2>/dev/null || [ -x "$cache/usr/bin/promtool" ]
fi
echo "$cache/usr/bin"
