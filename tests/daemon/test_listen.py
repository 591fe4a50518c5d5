# SPDX-License-Identifier: GPL-2.0-or-later
"""Where the daemon listens, and where it refuses to."""

import contextlib
import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iommud.daemon import listen
from iommud.daemon.listen import (
    DEFAULT_ADDRESS,
    ListenError,
    Tcp,
    Unix,
    close_all,
    inherited_sockets,
    is_loopback,
    names_of,
    open_listeners,
    parse_address,
)
from tests.daemon.serving import fetch, running


@pytest.fixture
def opened() -> Iterator[list[socket.socket]]:
    """Sockets to be closed in the end."""
    found: list[socket.socket] = []
    yield found
    close_all(found)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("127.0.0.1:9798", Tcp("127.0.0.1", 9798)),
        (":9798", Tcp("", 9798)),
        ("[::1]:0", Tcp("::1", 0)),
        ("[fe80::1%lo]:65535", Tcp("fe80::1%lo", 65535)),
        ("localhost:80", Tcp("localhost", 80)),
        ("unix:/run/iommud/web.sock", Unix(Path("/run/iommud/web.sock"))),
    ],
)
def test_an_address_is_read_and_written_the_same(text: str, expected: Tcp | Unix) -> None:
    assert parse_address(text) == expected
    assert str(expected) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "9798",
        "127.0.0.1",
        "127.0.0.1:",
        "127.0.0.1:65536",
        "127.0.0.1:-1",
        "::1:9798",
        "[::1]",
        "http://127.0.0.1:9798",
        "unix:",
        "unix:relative",
        "unix:/a\0b",
        "a b:1",
        "127.0.0.1:٣",
    ],
)
def test_anything_else_is_an_error_that_shows_it(text: str) -> None:
    with pytest.raises(ListenError) as caught:
        parse_address(text)
    assert "\n" not in str(caught.value)
    assert "\0" not in str(caught.value)


@given(st.text(max_size=30))
def test_no_text_does_worse_than_an_error(text: str) -> None:
    with contextlib.suppress(ListenError):
        assert parse_address(str(parse_address(text))) == parse_address(text)


def test_the_default_is_on_loopback() -> None:
    address = parse_address(DEFAULT_ADDRESS)

    assert isinstance(address, Tcp)
    assert is_loopback(address.host)


@pytest.mark.parametrize(
    ("host", "inside"),
    [
        ("127.0.0.1", True),
        ("127.255.255.254", True),
        ("::1", True),
        ("::ffff:127.0.0.1", True),
        ("0.0.0.0", False),  # noqa: S104 - nothing is bound
        ("::", False),
        ("192.0.2.1", False),
        ("::ffff:192.0.2.1", False),
        ("fe80::1%lo", False),
        ("localhost", False),
    ],
)
def test_loopback_is_what_no_other_machine_reaches(host: str, inside: bool) -> None:
    assert is_loopback(host) is inside


@pytest.mark.parametrize("spec", ["0.0.0.0:0", "[::]:0", ":0"])
def test_beyond_loopback_only_with_tls_or_explicit_permission(spec: str, opened: list[socket.socket]) -> None:
    with pytest.raises(ListenError, match=r"needs TLS .* or the explicit --web.allow-plain"):
        open_listeners([spec], tls=False, allow_plain=False)
    opened += open_listeners([spec], tls=True, allow_plain=False)
    opened += open_listeners([spec], tls=False, allow_plain=True)

    assert len(opened) >= 2


def test_several_addresses_are_listened_on(tmp_path: Path, opened: list[socket.socket]) -> None:
    path = tmp_path / "web.sock"
    opened += open_listeners(["127.0.0.1:0", "127.0.0.2:0", f"unix:{path}"], tls=False, allow_plain=False)

    assert names_of(opened)[-1] == f"unix:{path}"
    assert all(one.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) for one in opened)
    assert not any(one.getblocking() or one.get_inheritable() for one in opened)


def test_all_addresses_of_a_name_get_one_port(opened: list[socket.socket], monkeypatch: pytest.MonkeyPatch) -> None:
    def both(*_: object, **__: object) -> list[object]:
        one = (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 0))
        two = (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.2", 0))
        return [one, two, one]

    monkeypatch.setattr(socket, "getaddrinfo", both)
    opened += open_listeners(["both:0"], tls=False, allow_plain=False)

    assert len({one.getsockname()[1] for one in opened}) == 1
    assert len(opened) == 2


def test_a_name_with_an_address_that_this_machine_lacks_is_served_on_the_others(
    opened: list[socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    def both(*_: object, **__: object) -> list[object]:
        lacking = (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("192.0.2.1", 0))
        return [lacking, (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 0))]

    monkeypatch.setattr(socket, "getaddrinfo", both)
    opened += open_listeners(["both:0"], tls=True, allow_plain=False)

    assert [one.getsockname()[0] for one in opened] == ["127.0.0.1"]


def test_a_taken_port_is_an_error_that_names_it_and_frees_the_others(opened: list[socket.socket]) -> None:
    opened += open_listeners(["127.0.0.1:0"], tls=False, allow_plain=False)
    taken = names_of(opened)[0]
    with socket.create_server(("127.0.0.1", 0)) as probe:
        free = probe.getsockname()[1]

    with pytest.raises(ListenError, match=f"^{taken}: Address already in use$"):
        open_listeners([f"127.0.0.1:{free}", taken], tls=False, allow_plain=False)
    socket.create_server(("127.0.0.1", free)).close()


def test_an_address_of_another_machine_is_an_error_that_names_it() -> None:
    with pytest.raises(ListenError, match=r"^192\.0\.2\.1:0: Cannot assign requested address$"):
        open_listeners(["192.0.2.1:0"], tls=True, allow_plain=False)


def test_an_unknown_name_is_an_error_that_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with pytest.raises(ListenError, match=r"^nowhere\.invalid:1: Name or service not known$"):
        open_listeners(["nowhere.invalid:1"], tls=False, allow_plain=False)


def test_a_unix_socket_is_for_user_and_group_and_goes_with_its_server(tmp_path: Path) -> None:
    path = tmp_path / "web.sock"
    [one] = open_listeners([f"unix:{path}"], tls=False, allow_plain=False)
    mode = path.stat().st_mode
    one.close()

    assert (stat.S_ISSOCK(mode), stat.S_IMODE(mode)) == (True, 0o660)
    assert not path.exists()


def test_a_unix_socket_that_nobody_listens_on_any_more_is_replaced(tmp_path: Path, opened: list[socket.socket]) -> None:
    path = tmp_path / "web.sock"
    with socket.socket(socket.AF_UNIX) as abandoned:
        abandoned.bind(str(path))
    opened += open_listeners([f"unix:{path}"], tls=False, allow_plain=False)

    assert len(opened) == 1


def test_a_unix_socket_that_somebody_listens_on_is_left_to_him(tmp_path: Path, opened: list[socket.socket]) -> None:
    path = tmp_path / "web.sock"
    opened += open_listeners([f"unix:{path}"], tls=False, allow_plain=False)

    with pytest.raises(ListenError, match="another process listens there"):
        open_listeners([f"unix:{path}"], tls=False, allow_plain=False)
    assert path.exists()


@pytest.mark.parametrize("problem", ["file", "directory missing", "too long"])
def test_a_unix_socket_that_cannot_be_made_says_why(tmp_path: Path, problem: str) -> None:
    path = {"file": tmp_path / "f", "directory missing": tmp_path / "no" / "s", "too long": tmp_path / ("x" * 200)}
    (tmp_path / "f").write_text("precious", encoding="ascii")

    with pytest.raises(ListenError) as caught:
        open_listeners([f"unix:{path[problem]}"], tls=False, allow_plain=False)
    assert str(path[problem]) in str(caught.value)
    assert (tmp_path / "f").read_text(encoding="ascii") == "precious"


@pytest.mark.parametrize("process", ["", "1", "nonsense"])
def test_sockets_that_are_meant_for_another_process_are_left_alone(process: str) -> None:
    environment = {"LISTEN_PID": process, "LISTEN_FDS": "1", "LISTEN_FDNAMES": "web", "HOME": "/"}

    assert inherited_sockets(environment) == []
    assert environment == {"HOME": "/"}


@pytest.mark.parametrize("count", ["", "-1", "x", "99999"])
def test_an_unreadable_number_of_sockets_is_an_error(count: str) -> None:
    with pytest.raises(ListenError, match="LISTEN_FDS"):
        inherited_sockets({"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": count})


@pytest.mark.parametrize("kind", ["closed", "file", "datagram", "not listening"])
def test_a_descriptor_that_is_no_listening_socket_is_an_error(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (
        (tmp_path / "f").open("wb") as file,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as datagram,
        socket.socket(socket.AF_UNIX) as quiet,
    ):
        spare = os.dup(0)
        os.close(spare)
        number = {
            "closed": spare,
            "file": file.fileno(),
            "datagram": datagram.fileno(),
            "not listening": quiet.fileno(),
        }[kind]
        monkeypatch.setattr(listen, "_FIRST_INHERITED", number)
        with pytest.raises(ListenError, match=f"descriptor {number} from systemd"):
            inherited_sockets({"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "1"})


def test_an_inherited_socket_beyond_loopback_needs_tls_too(opened: list[socket.socket]) -> None:
    with socket.create_server(("0.0.0.0", 0)) as outside:  # noqa: S104 - refused before anybody can connect
        with pytest.raises(ListenError, match=r"\(from systemd\): reachable from other machines"):
            open_listeners([], tls=False, allow_plain=False, inherited=[outside.dup()])
        opened += open_listeners([], tls=True, allow_plain=False, inherited=[outside.dup()])

    assert len(opened) == 1


@pytest.mark.parametrize("without_inet", [False, True])
def test_a_socket_from_systemd_is_served_even_where_no_socket_may_be_made(without_inet: bool) -> None:
    # What systemd does, in a shell: the socket as descriptor 3, and the number of the process in its environment.
    with socket.create_server(("127.0.0.1", 0)) as activated:
        script = f'exec 3<&{activated.fileno()}; LISTEN_FDS=1 LISTEN_PID=$$ exec "$@"'
        prefix = ("bash", "-c", script, "systemd")
        with running(prefix, (activated.fileno(),), listen=[], without_inet=without_inet) as server:
            assert server.address == activated.getsockname()
            assert fetch(server.address).status == 200


def test_a_server_on_a_unix_socket_answers(tmp_path: Path) -> None:
    path = tmp_path / "web.sock"
    with running(listen=[f"unix:{path}"]):
        assert fetch(str(path)).status == 200

    assert not path.exists()


def test_without_addresses_the_default_is_used(monkeypatch: pytest.MonkeyPatch, opened: list[socket.socket]) -> None:
    monkeypatch.setattr(listen, "DEFAULT_ADDRESS", "127.0.0.1:0")
    opened += open_listeners([], tls=False, allow_plain=False)

    assert [one.getsockname()[0] for one in opened] == ["127.0.0.1"]
