#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
# Installs iommud as a service: a virtual environment in /opt/iommud, the systemd units, and their defaults.
#
# usage: install.sh [OPTION]... install|upgrade|remove [SOURCE]
#   install  puts everything in place, enables the units and starts them; over an older version, upgrades it
#   upgrade  the same, but only where iommud is installed; units that do not run stay as they are
#   remove   stops the units and takes away all that install and the services have made
# SOURCE is a wheel or a checkout; without it, the checkout that this script lies in.
#   --root DIR       below DIR instead of /, for images and tests; nothing is started
#   --python PYTHON  make the environment with this Python (3.11 or newer, with its venv module)
#   --no-start       neither enable nor start, stop or restart units
#   --no-units       the program alone, for containers
# pip finds dependencies as it is configured to: PIP_INDEX_URL, PIP_NO_INDEX and PIP_FIND_LINKS work as usual.
set -eu
umask 022

here=$(cd "$(dirname "$0")" && pwd)
root=
python=
start=yes
with_units=yes
home=/opt/iommud
units=/usr/local/lib/systemd/system
defaults=/etc/default/iommud
command=/usr/local/bin/iommud
unit_names="iommud.service iommud-web.service iommud-web.socket iommud-check.service iommud-check.timer"
enabled="iommud.service iommud-web.socket iommud-web.service"

say() {
    echo "install: $*" >&2
}

die() {
    say "$@"
    exit 1
}

usage() {
    sed -n 's/^# \{0,1\}//; /^usage:/,/^pip finds/p' "$0" >&2
    exit 2
}

suitable() {
    "$1" -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null
}

find_python() {
    # The distribution's Python first: it stays when a developer's goes.
    for candidate in ${python:-/usr/bin/python3 python3}; do
        suitable "$candidate" || continue
        command -v "$candidate"
        return
    done
    die "no Python >= 3.11 with its venv module (Debian: apt-get install python3 python3-venv)"
}

# Makes a directory and remembers each one that was not there, so that remove can take it away again.
directory() {
    [ -d "$root$1" ] && return
    directory "$(dirname "$1")"
    mkdir "$root$1"
    made="$made
$1"
}

# Where the files of a release lie: beside this script in a checkout, or in the copy that install leaves.
find_release() {
    for release in "$here/.." "$here"; do
        [ -e "$release/systemd/iommud.service" ] && return
    done
    die "$here: no unit files near this script"
}

# The new environment's Python, which must neither see nor touch the packages of whoever calls.
isolated() {
    "$stage/bin/python" -I "$@"
}

build() {
    stage=$root$home.new
    rm -rf "$stage"
    trap 'rm -rf "$stage"' EXIT
    trap 'exit 1' HUP INT TERM
    base=$(find_python)
    say "building $home with $("$base" --version)"
    "$base" -I -m venv "$stage"
    isolated -m pip --disable-pip-version-check install --quiet --no-compile "$source"
    # Nothing is to be installed into it later: an upgrade builds a new one.
    isolated -m pip --disable-pip-version-check uninstall --quiet --yes pip setuptools 2>/dev/null || true
    version=$(isolated -B -m iommud --version) || die "the new version does not start; nothing was changed"
    settle
    share
}

# The environment is built beside the old one and then takes its place; scripts in it know where they will lie.
settle() {
    grep -lI -r -F "$stage" "$stage/bin" "$stage/pyvenv.cfg" | while read -r file; do
        sed -i "s|$stage|$home|g" "$file"
    done
    isolated -m compileall -q -f -s "$stage" -p "$home" "$stage/lib" || true
}

share() {
    mkdir -p "$stage/share/iommud/systemd" "$stage/share/doc/iommud"
    cp "$release"/systemd/iommud* "$stage/share/iommud/systemd/"
    cp "$0" "$stage/share/iommud/install.sh"
    for directory in monitoring docs; do
        [ ! -d "$release/$directory" ] || cp -R "$release/$directory" "$stage/share/iommud/"
    done
    [ ! -d "$stage/share/iommud/docs" ] || cp -R "$stage/share/iommud/docs/." "$stage/share/doc/iommud/"
    rm -rf "$stage/share/iommud/docs"
}

swap() {
    rm -rf "$root$home.old"
    [ ! -e "$root$home" ] || mv "$root$home" "$root$home.old"
    mv "$stage" "$root$home"
    trap - EXIT
}

# An upgrade that was cut off between the two renames has left the old version aside.
mend() {
    [ -e "$root$home" ] || [ ! -e "$root$home.old" ] || mv "$root$home.old" "$root$home"
}

place_command() {
    directory "$(dirname "$command")"
    if [ -e "$root$command" ] && [ "$(readlink "$root$command")" != "$home/bin/iommud" ]; then
        say "$command is not ours and stays; the program is $home/bin/iommud"
        return
    fi
    ln -sfn "$home/bin/iommud" "$root$command"
}

place_units() {
    directory "$units"
    directory /etc/systemd/system
    for unit in $unit_names; do
        cp "$release/systemd/$unit" "$root$units/$unit"
    done
    place_defaults
}

# A file of defaults that somebody has changed stays; the new one is put beside it.
place_defaults() {
    directory "$(dirname "$defaults")"
    new=$release/systemd/iommud.default
    old=$root$home.old/share/iommud/systemd/iommud.default
    rm -f "$root$defaults.new"
    if [ ! -e "$root$defaults" ] || cmp -s "$root$defaults" "$old"; then
        cp "$new" "$root$defaults"
    elif ! cmp -s "$root$defaults" "$new" && ! cmp -s "$old" "$new"; then
        cp "$new" "$root$defaults.new"
        say "$defaults was changed and stays; the new one is $defaults.new"
    fi
}

# Where systemd does not run (a root of its own, an image that is being built) systemctl makes and removes the links of
# enabled units, and nothing else.
control() {
    [ "$start" = yes ] && command -v systemctl >/dev/null || return 0
    case "$1:$root:$([ -d /run/systemd/system ] && echo running)" in
        enable::running | disable::running) set -- --now "$@" ;;
        *::running | enable::* | disable::*) ;;
        enable:* | disable:*) set -- --root="$root" "$@" ;;
        *) return 0 ;;
    esac
    systemctl --quiet "$@" || say "systemctl $* failed"
}

start_units() {
    control daemon-reload
    if [ "$fresh" = no ]; then
        for unit in iommud.service iommud-web.service; do
            control try-restart "$unit"
        done
        return
    fi
    for unit in $enabled; do
        control enable "$unit"
    done
}

install_all() {
    find_release
    source=${source:-$release}
    [ -e "$source" ] || die "$source: no such wheel or checkout"
    fresh=yes
    made=
    if [ -e "$root$home" ]; then
        fresh=no
        made=$(cat "$root$home/.directories" 2>/dev/null || true)
    fi
    directory "$(dirname "$home")"
    build
    swap
    place_command
    [ "$with_units" = no ] || place_units
    echo "$made" | sed '/^$/d' >"$root$home/.directories"
    rm -rf "$root$home.old"
    [ "$with_units" = no ] || start_units
    say "installed $version"
}

remove_state() {
    # Where the services keep things; with DynamicUser= the plain names are links to the private ones.
    for place in /var/lib /run; do
        rm -rf "$root$place/private/iommud"
        rmdir "$root$place/private" 2>/dev/null || true
        [ ! -L "$root$place/iommud" ] || rm "$root$place/iommud"
        rm -rf "$root$place/iommud"
    done
    rm -f "$root/var/lib/prometheus/node-exporter/iommud.prom"
}

remove_all() {
    [ -e "$root$home" ] || die "iommud is not installed in ${root:-/}"
    for unit in iommud-check.timer iommud-check.service iommud-web.socket iommud-web.service iommud.service; do
        [ ! -e "$root$units/$unit" ] || control disable "$unit"
    done
    made=$(cat "$root$home/.directories")
    for unit in $unit_names; do
        rm -f "$root$units/$unit"
    done
    rm -f "$root$defaults" "$root$defaults.new"
    [ "$(readlink "$root$command" || true)" != "$home/bin/iommud" ] || rm "$root$command"
    remove_state
    rm -rf "$root$home" "$root$home.new" "$root$home.old"
    echo "$made" | sort -r | while read -r path; do
        [ -z "$path" ] || rmdir "$root$path" 2>/dev/null || true
    done
    control daemon-reload
    for drop_in in "$root"/etc/systemd/system/iommud*.d; do
        [ ! -e "$drop_in" ] || say "left, because you made it: $drop_in"
    done
    say "removed; what the journal holds stays until it is rotated"
}

while [ $# -gt 0 ]; do
    case $1 in
        --root | --python)
            [ $# -gt 1 ] || usage
            [ "$1" = --python ] && python=$2 || root=$2
            shift
            ;;
        --no-start) start=no ;;
        --no-units) with_units=no ;;
        -*) usage ;;
        *) break ;;
    esac
    shift
done
case $# in
    1 | 2) ;;
    *) usage ;;
esac
verb=$1
source=${2:-}
if [ -n "$root" ]; then
    mkdir -p "$root"
    root=$(cd "$root" && pwd)
    root=${root%/}
fi
[ -n "$root" ] || [ "$(id -u)" -eq 0 ] || die "only root can install into /; see --root"
mend
case $verb in
    install) action=install_all ;;
    upgrade)
        [ -e "$root$home" ] || die "iommud is not installed in ${root:-/}; say install"
        action=install_all
        ;;
    remove) action=remove_all ;;
    *) usage ;;
esac
$action
