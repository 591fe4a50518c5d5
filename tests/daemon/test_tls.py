# SPDX-License-Identifier: GPL-2.0-or-later
"""TLS: who gets in, and what happens to files that make no server."""

import signal
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trustme

from iommud.daemon.tls import TlsError, TlsFiles
from tests.daemon.serving import fetch, running

CA = trustme.CA()


def issue(directory: Path, ca: trustme.CA = CA, name: str = "server") -> tuple[str, str]:
    """A certificate for 127.0.0.1 and its key, as files."""
    issued = ca.issue_cert("127.0.0.1")
    certificate, key = directory / f"{name}.pem", directory / f"{name}.key"
    issued.cert_chain_pems[0].write_to_path(str(certificate))
    issued.private_key_pem.write_to_path(str(key))
    return str(certificate), str(key)


def authority(directory: Path, ca: trustme.CA = CA) -> str:
    path = directory / "ca.pem"
    ca.cert_pem.write_to_path(str(path))
    return str(path)


def client(ca: trustme.CA = CA, *, certificate: tuple[str, str] | None = None) -> ssl.SSLContext:
    """A client's context that trusts one authority."""
    context = ssl.create_default_context(cadata=ca.cert_pem.bytes().decode())
    if certificate is not None:
        context.load_cert_chain(*certificate)
    return context


@contextmanager
def refused() -> Iterator[None]:
    """A client whose certificate is refused may see an alert, an end or a reset, at once or at its first read."""
    with pytest.raises((ssl.SSLError, ConnectionError, OSError)):
        yield


def test_a_client_that_trusts_the_authority_is_served(tmp_path: Path) -> None:
    with running(tls=[*issue(tmp_path), None]) as server:
        assert fetch(server.address, tls=client()).status == 200
        assert fetch(server.address, "/", tls=client()).headers["x-content-type-options"] == "nosniff"


def test_a_client_that_trusts_another_authority_goes_away(tmp_path: Path) -> None:
    with running(tls=[*issue(tmp_path), None]) as server:
        with pytest.raises(ssl.SSLCertVerificationError):
            fetch(server.address, tls=client(trustme.CA()))
        assert fetch(server.address, tls=client()).status == 200


def test_a_client_without_tls_learns_nothing(tmp_path: Path) -> None:
    with running(tls=[*issue(tmp_path), None]) as server, refused():
        fetch(server.address)


def test_only_clients_with_a_certificate_of_the_authority_get_in(tmp_path: Path) -> None:
    mine = issue(tmp_path, name="client")
    strange = issue(tmp_path, trustme.CA(), name="stranger")
    with running(tls=[*issue(tmp_path), authority(tmp_path)]) as server:
        with refused():
            fetch(server.address, tls=client())
        with refused():
            fetch(server.address, tls=client(certificate=strange))
        assert fetch(server.address, tls=client(certificate=mine)).status == 200


def test_nothing_older_than_tls_1_3_is_spoken(tmp_path: Path) -> None:
    old = client()
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    with running(tls=[*issue(tmp_path), None]) as server, refused():
        fetch(server.address, tls=old)


def test_a_renewed_certificate_is_served_after_sighup(tmp_path: Path) -> None:
    renewed = trustme.CA()
    with running(tls=[*issue(tmp_path), None]) as server:
        assert fetch(server.address, tls=client()).status == 200
        issue(tmp_path, renewed)
        server.process.send_signal(signal.SIGHUP)

        assert server.line() == "reloaded"
        assert fetch(server.address, tls=client(renewed)).status == 200
        with pytest.raises(ssl.SSLCertVerificationError):
            fetch(server.address, tls=client())


def test_a_broken_renewal_is_told_and_the_old_certificate_stays(tmp_path: Path) -> None:
    certificate, key = issue(tmp_path)
    with running(tls=[certificate, key, None]) as server:
        Path(certificate).write_text("half-written", encoding="ascii")
        server.process.send_signal(signal.SIGHUP)

        assert server.line().startswith(f"{certificate}, {key}: no certificate with its unlocked key")
        assert fetch(server.address, tls=client()).status == 200


def test_without_files_there_is_no_tls() -> None:
    assert TlsFiles.of(None, None, None) is None


@pytest.mark.parametrize("given", [("c.pem", None, None), (None, "k.pem", None), (None, None, "ca.pem")])
def test_half_a_set_of_files_is_an_error(given: tuple[str | None, str | None, str | None]) -> None:
    with pytest.raises(TlsError, match="needs both"):
        TlsFiles.of(*given)


@pytest.mark.parametrize("broken", ["certificate", "key", "authority"])
@pytest.mark.parametrize("content", [None, "", "no PEM"])
def test_a_missing_or_broken_file_is_named(tmp_path: Path, broken: str, content: str | None) -> None:
    certificate, key = issue(tmp_path)
    paths = {"certificate": certificate, "key": key, "authority": authority(tmp_path)}
    victim = Path(paths[broken])
    victim.unlink()
    if content is not None:
        victim.write_text(content, encoding="ascii")
    files = TlsFiles.of(paths["certificate"], paths["key"], paths["authority"])

    assert files is not None
    with pytest.raises(TlsError) as caught:
        files.context()
    assert str(victim) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_locked_key_is_an_error_and_no_question_on_the_terminal(tmp_path: Path) -> None:
    certificate, key = issue(tmp_path)
    locked = tmp_path / "locked.key"
    locked.write_bytes(_locked(Path(key)))
    files = TlsFiles.of(certificate, str(locked), None)

    assert files is not None
    with pytest.raises(TlsError, match="unlocked key"):
        files.context()


def _locked(key: Path) -> bytes:
    # trustme brings the package cryptography along.
    from cryptography.hazmat.primitives import serialization as forms  # noqa: PLC0415 - needed here only

    loaded = forms.load_pem_private_key(key.read_bytes(), None)
    return loaded.private_bytes(forms.Encoding.PEM, forms.PrivateFormat.PKCS8, forms.BestAvailableEncryption(b"secret"))


def test_a_key_of_another_certificate_is_an_error(tmp_path: Path) -> None:
    certificate, _ = issue(tmp_path)
    _, other = issue(tmp_path, name="other")
    files = TlsFiles.of(certificate, other, None)

    assert files is not None
    with pytest.raises(TlsError, match="key values mismatch"):
        files.context()
