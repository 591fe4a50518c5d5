# SPDX-License-Identifier: GPL-2.0-or-later
"""Where the daemon listens: TCP addresses, Unix sockets, and sockets that systemd hands over."""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import os
import re
import socket
import stat
from collections.abc import Iterable, MutableMapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from iommud.errors import IommudError, visible

DEFAULT_PORT = 9798
DEFAULT_ADDRESS = f"127.0.0.1:{DEFAULT_PORT}"
BACKLOG = 1024
"""Connections that wait in the kernel while a crowd is turned away; the kernel drops what comes on top for a second."""
UNIX_MODE = 0o660
"""Of a Unix socket: the user and group of the daemon."""

_FIRST_INHERITED = 3
"""``SD_LISTEN_FDS_START``, sd_listen_fds(3)."""
_TCP = re.compile(r"(?:\[([:.%\w]+)\]|([^\[\]:\s]*)):(\d{1,5})", re.ASCII)


class ListenError(IommudError):
    """An address that cannot be listened on; the message is one line that names it."""


@dataclass(frozen=True, slots=True)
class Tcp:
    """A TCP address; an empty host means every address of the machine."""

    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Unix:
    """The path of a Unix socket."""

    path: Path

    def __str__(self) -> str:
        return f"unix:{self.path}"


class UnixListener(socket.socket):
    """A Unix socket that takes its file along when it is closed; those from systemd are systemd's to remove."""

    def close(self) -> None:
        """Close the socket and remove its file."""
        path = _unix_path(self)
        super().close()
        if path is not None:
            with contextlib.suppress(OSError):
                Path(path).unlink()


def parse_address(text: str) -> Tcp | Unix:
    """Read ``host:port``, ``[address]:port``, ``:port`` (everywhere) or ``unix:/path``.

    Raises ListenError for anything else.
    """
    if text.startswith("unix:"):
        path = Path(text.removeprefix("unix:"))
        if not path.is_absolute() or "\0" in text:
            raise ListenError(f"{visible(text)!r}: a Unix socket needs an absolute path, as unix:/run/iommud/web.sock")
        return Unix(path)
    match = _TCP.fullmatch(text)
    if match is None or int(match[3]) > 0xFFFF:
        raise ListenError(f"{visible(text)!r} is not an address like {DEFAULT_ADDRESS}, [::1]:9798 or unix:/path")
    return Tcp(match[1] or match[2] or "", int(match[3]))


def open_listeners(
    specs: Iterable[str],
    *,
    tls: bool,
    allow_plain: bool,
    inherited: Sequence[socket.socket] = (),
) -> list[socket.socket]:
    """Listening sockets for all addresses, inherited ones first; with inherited ones and no address, just these.

    Raises ListenError, and leaves none open, for an address that is malformed or taken, and for one beyond loopback
    that has neither TLS nor permission to go without (``allow_plain``).
    """
    opened = list(inherited)
    wanted = [parse_address(spec) for spec in specs]
    if not wanted and not opened:
        wanted = [parse_address(DEFAULT_ADDRESS)]
    try:
        if not (tls or allow_plain):
            _check_inherited(inherited)
        for address in wanted:
            opened += _opened(address, checked=not (tls or allow_plain))
    except BaseException:
        close_all(opened)
        raise
    return opened


def _check_inherited(inherited: Sequence[socket.socket]) -> None:
    outside = [_name(one) for one in inherited if not _stays_inside(one)]
    if outside:
        raise ListenError(f"{', '.join(outside)} (from systemd): {_NEEDS_TLS}")


def inherited_sockets(environment: MutableMapping[str, str], process: int | None = None) -> list[socket.socket]:
    """The listening sockets that systemd passed to this process (sd_listen_fds(3)); the variables are removed.

    ``environment`` is ``os.environ``. Raises ListenError if a descriptor is no listening stream socket.
    """
    owner = environment.pop("LISTEN_PID", "")
    count = environment.pop("LISTEN_FDS", "")
    environment.pop("LISTEN_FDNAMES", None)
    if owner != str(process or os.getpid()):
        return []  # meant for a parent of this process
    if not (count.isascii() and count.isdigit()) or int(count) > 1024:
        raise ListenError(f"LISTEN_FDS={visible(count)}: not a number of sockets")
    return [_inherited(number) for number in range(_FIRST_INHERITED, _FIRST_INHERITED + int(count))]


def _inherited(number: int) -> socket.socket:
    try:
        # From the descriptor alone: making a new socket may be forbidden (RestrictAddressFamilies=).
        found = socket.socket(fileno=number)
    except OSError as error:
        raise ListenError(f"descriptor {number} from systemd: {_reason(error)}") from error
    listening = found.type == socket.SOCK_STREAM and found.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    if not listening:
        found.detach()
        raise ListenError(f"descriptor {number} from systemd is no listening stream socket (Accept=no, ListenStream=)")
    found.set_inheritable(False)
    found.setblocking(False)
    return found


def close_all(sockets: Iterable[socket.socket]) -> None:
    """Close listening sockets."""
    for one in sockets:
        one.close()


def names_of(sockets: Iterable[socket.socket]) -> list[str]:
    """Where each socket listens, as a person would write it."""
    return [_name(one) for one in sockets]


_NEEDS_TLS = (
    "reachable from other machines, so it needs TLS (--web.tls-cert-file, --web.tls-key-file) "
    "or the explicit --web.allow-plain"
)


def _opened(address: Tcp | Unix, *, checked: bool) -> list[socket.socket]:
    if isinstance(address, Unix):
        return [_unix(address)]
    resolved = _resolved(address)
    if checked and not all(is_loopback(host) for _, (host, *_) in resolved):
        raise ListenError(f"{address}: {_NEEDS_TLS}")
    return _bound(address, resolved)


_Resolved = list[tuple[socket.AddressFamily, tuple[str, int] | tuple[str, int, int, int]]]


def _resolved(address: Tcp) -> _Resolved:
    try:
        found = socket.getaddrinfo(address.host or None, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        raise ListenError(f"{visible(str(address))}: {getattr(error, 'strerror', None) or error}") from error
    return [(family, where) for family, _, _, _, where in dict.fromkeys(found)]  # type: ignore[misc] # TCP only


def _bound(address: Tcp, resolved: _Resolved) -> list[socket.socket]:
    opened: list[socket.socket] = []
    refused: OSError | None = None
    for family, where in resolved:
        # Every address of one name gets the same port, also where the kernel chooses it.
        port = opened[0].getsockname()[1] if opened and address.port == 0 else where[1]
        try:
            one = socket.create_server((where[0], port, *where[2:]), family=family, backlog=BACKLOG)
        except OSError as error:
            if error.errno in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL) and len(resolved) > 1:
                refused = error  # a name with an IPv6 address on a machine without IPv6
                continue
            close_all(opened)
            raise ListenError(f"{address}: {_reason(error)}") from error
        one.setblocking(False)
        opened.append(one)
    if not opened:
        raise ListenError(f"{address}: {_reason(refused) if refused else 'no such address'}")
    return opened


def _reason(error: OSError) -> str:
    """The system's words for an error, without what Python adds to them."""
    return os.strerror(error.errno) if error.errno is not None else str(error)


def _unix(address: Unix) -> socket.socket:
    one = UnixListener(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        _remove_abandoned(address)
        one.bind(str(address.path))
        address.path.chmod(UNIX_MODE)
        one.listen(BACKLOG)
    except OSError as error:
        one.close()
        raise ListenError(f"{visible(str(address))}: {_reason(error)}") from error
    except ListenError:
        one.close()
        raise
    one.setblocking(False)
    return one


def _remove_abandoned(address: Unix) -> None:
    """Remove the socket of a process that is gone; one that answers is left to its owner."""
    try:
        if not stat.S_ISSOCK(address.path.lstat().st_mode):
            raise ListenError(f"{visible(str(address))}: a file of that name exists and is no socket")
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1)
        try:
            probe.connect(str(address.path))
        except ConnectionRefusedError:
            address.path.unlink()
            return
    raise ListenError(f"{visible(str(address))}: another process listens there")


def is_loopback(host: str) -> bool:
    """Whether a numeric address can be reached from the same machine only."""
    try:
        found = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    mapped = found.ipv4_mapped if isinstance(found, ipaddress.IPv6Address) else None
    return (mapped or found).is_loopback


def _stays_inside(one: socket.socket) -> bool:
    return one.family == socket.AF_UNIX or is_loopback(str(one.getsockname()[0]))


def _unix_path(one: socket.socket) -> str | None:
    """The path of a Unix socket that has one and is open."""
    if one.family != socket.AF_UNIX or one.fileno() < 0:
        return None
    name = one.getsockname()
    return name if isinstance(name, str) and name.startswith("/") else None


def _name(one: socket.socket) -> str:
    if one.family == socket.AF_UNIX:
        return f"unix:{_unix_path(one) or '(unnamed)'}"
    host, port = one.getsockname()[:2]
    return str(Tcp(host, port))
