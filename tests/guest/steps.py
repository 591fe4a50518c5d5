# SPDX-License-Identifier: GPL-2.0-or-later
"""What happens in a guest, step by step, and the shell that its init runs for it.

The guest tells its host what it finds on a serial port, a marked line at a time (`tests.guest.channel` reads them).
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tests.guest.channel import MARK
from tests.guest.topology import Device


@dataclass(frozen=True, slots=True)
class Load:
    """Load modules, one after the other or at once."""

    modules: tuple[str, ...]
    together: bool = False


@dataclass(frozen=True, slots=True)
class HotAdd:
    """Plug a device into the running guest, and wait up to 15 s until the kernel has seen to it."""

    device: Device


@dataclass(frozen=True, slots=True)
class HotRemove:
    """Unplug the device of that id, and wait likewise."""

    name: str


@dataclass(frozen=True, slots=True)
class EnableVirtualFunctions:
    """Have every function with SR-IOV make some."""

    count: int


@dataclass(frozen=True, slots=True)
class Rebind:
    """Unbind a function from its driver and let it be probed again."""

    address: str


@dataclass(frozen=True, slots=True)
class Remove:
    """Remove a function, and all below it, from the kernel's sight."""

    address: str


@dataclass(frozen=True, slots=True)
class Rescan:
    """Let the kernel look for functions anew."""


@dataclass(frozen=True, slots=True)
class Settle:
    """Wait until the groups and drivers have stayed as they are for two seconds, half a minute at the most."""


@dataclass(frozen=True, slots=True)
class Look:
    """Run iommud and send what it says and what it captures."""

    label: str


@dataclass(frozen=True, slots=True)
class Serve:
    """Run the daemon until it has a report, send what it serves and what ``iommud status`` says, and end it."""

    label: str


Step = Load | HotAdd | HotRemove | EnableVirtualFunctions | Rebind | Remove | Rescan | Settle | Look | Serve

NOTHING_CAME = "the kernel saw nothing of it"
"""The note of a guest whose hot plug changed no function."""

PREAMBLE = """\
#!/bin/busybox sh
export PATH=/bin HOME=/root LC_ALL=C.UTF-8 PYTHONPATH=/opt/iommud PYTHONDONTWRITEBYTECODE=1
/bin/busybox mkdir -p /proc /sys /dev /tmp /root /run /sbin
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev 2>/dev/null
dmesg -n 1
stty -F /dev/{channel} raw -echo
exec </dev/{channel} >/dev/{channel} 2>/dev/kmsg
say() {{ echo "{mark}$*"; }}
send() {{
    say "begin $1"
    base64 "$2" | sed "s|^|{mark}data $1 |"
    say "end $1 $3 $(sha256sum "$2" | cut -c1-64)"
}}
look() {{
    python3.11 -m iommud check --format json >/run/answer 2>/run/errors
    status=$?
    send "$1/check" /run/answer $status
    send "$1/check.errors" /run/errors 0
    python3.11 -m iommud capture -o /run/capture.tar.gz >/run/errors 2>&1
    send "$1/capture" /run/capture.tar.gz $?
    dmesg >/run/log
    gzip -f /run/log
    send "$1/dmesg" /run/log.gz 0
}}
serve() {{
    # By what ldconfig prints Python finds libudev; there is no other use for it here.
    printf '#!/bin/sh\nprintf "\\tlibudev.so.1 (libc6,x86-64)\\n"\n' >/bin/ldconfig
    chmod +x /bin/ldconfig
    ln -s /bin/ldconfig /sbin/ldconfig
    mkdir -p /run/iommud
    ifconfig lo up
    python3.11 -m iommud run --web.listen-address=127.0.0.1:9798 --runtime-directory=/run/iommud 2>/run/daemon.log &
    for second in $(seq 60); do
        wget -q -O /run/served http://127.0.0.1:9798/report.json 2>/dev/null && break
        sleep 1
    done
    send "$1/served" /run/served $?
    wget -q -O /run/metrics http://127.0.0.1:9798/metrics
    send "$1/metrics" /run/metrics $?
    python3.11 -m iommud status >/run/answer 2>&1
    send "$1/status" /run/answer $?
    kill $!
    wait $!
    send "$1/daemon.log" /run/daemon.log $?
}}
picture() {{
    ls -d /sys/bus/pci/devices/* /sys/kernel/iommu_groups/*/devices/* /sys/bus/pci/devices/*/driver 2>/dev/null
}}
functions() {{ echo /sys/bus/pci/devices/*; }}
settle() {{
    quiet=0 before=
    for second in $(seq 30); do
        now=$(picture)
        [ "$now" = "$before" ] && quiet=$((quiet + 1)) || quiet=0
        [ $quiet -ge 2 ] && return
        before=$now
        sleep 1
    done
}}
ask() {{
    before=$(functions)
    say "ask $1"
    read -r answer
    say "note host: $answer"
    for second in $(seq 15); do
        [ "$(functions)" = "$before" ] || return
        sleep 1
    done
    say "note {nothing}"
}}
say "note up $(cut -d' ' -f1 /proc/uptime)"
"""
POSTSCRIPT = """\
say "note looked $(cut -d' ' -f1 /proc/uptime)"
say "done"
sleep 1
poweroff -f
"""


def init_script(steps: Sequence[Step], channel: str) -> str:
    """The guest's /init. The n-th hot-plug step asks the host for request n."""
    lines = [PREAMBLE.format(channel=channel, mark=MARK, nothing=NOTHING_CAME)]
    requests = 0
    for number, step in enumerate(steps, 1):
        lines.append(f'say "at step {number} of {len(steps)}, {type(step).__name__}"\n')
        if isinstance(step, HotAdd | HotRemove):
            lines.append(f"ask {requests}\n")
            requests += 1
        else:
            lines.append(shell(step))
    return "".join([*lines, POSTSCRIPT])


def shell(step: Load | EnableVirtualFunctions | Rebind | Remove | Rescan | Settle | Look | Serve) -> str:
    """A step that the guest does by itself."""
    match step:
        case Load(modules, together):
            return _loading(modules, "&" if together else "")
        case EnableVirtualFunctions(count):
            return f"for f in /sys/bus/pci/devices/*/sriov_numvfs; do echo {count:d} >$f; done\n"
        case Rebind(address):
            device = f"/sys/bus/pci/devices/{shlex.quote(address)}"
            return f"echo {address} >{device}/driver/unbind\necho {address} >/sys/bus/pci/drivers_probe\n"
        case Remove(address):
            return f"echo 1 >/sys/bus/pci/devices/{shlex.quote(address)}/remove\n"
        case Rescan():
            return "echo 1 >/sys/bus/pci/rescan\n"
        case Settle():
            return "settle\n"
        case Look(label) | Serve(label):
            return f"{type(step).__name__.lower()} {shlex.quote(label)}\n"


def requests(steps: Iterable[Step]) -> tuple[dict[str, object], ...]:
    """What the host is asked for, in order, as QMP commands."""
    return tuple(_qmp(step) for step in steps if isinstance(step, HotAdd | HotRemove))


def added(steps: Iterable[Step]) -> tuple[Device, ...]:
    """The devices that are plugged in later."""
    return tuple(step.device for step in steps if isinstance(step, HotAdd))


def _qmp(step: HotAdd | HotRemove) -> dict[str, object]:
    if isinstance(step, HotRemove):
        return {"execute": "device_del", "arguments": {"id": step.name}}
    properties: dict[str, object] = {**step.device.properties()}
    if "multifunction" in properties:
        # On the command line QEMU reads a word; QMP has types, and this one is a boolean.
        properties["multifunction"] = properties["multifunction"] == "on"
    return {"execute": "device_add", "arguments": {"driver": step.device.model, **properties}}


def _loading(modules: tuple[str, ...], mark: str) -> str:
    lines = [f"insmod /modules/{name}.ko {mark}".rstrip() + "\n" for name in modules]
    return "".join(lines) + ("wait\n" if mark else "")
