# SPDX-License-Identifier: GPL-2.0-or-later
"""TLS for the daemon: certificate, key and the clients' authority, read at start and again on request."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path

from iommud.errors import IommudError, visible


class TlsError(IommudError):
    """Files that make no TLS server; the message is one line that names the file and the problem."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsFiles:
    """Where certificate and key lie, in PEM."""

    certificate: Path
    key: Path
    client_ca: Path | None = None
    """Authorities whose certificates clients must show; None: clients need none."""

    @classmethod
    def of(cls, certificate: str | None, key: str | None, client_ca: str | None) -> TlsFiles | None:
        """The files that options name; None if none does. Raises TlsError for an incomplete set."""
        if certificate is None and key is None and client_ca is None:
            return None
        if certificate is None or key is None:
            raise TlsError("TLS needs both --web.tls-cert-file and --web.tls-key-file")
        return cls(
            certificate=Path(certificate), key=Path(key), client_ca=None if client_ca is None else Path(client_ca)
        )

    def context(self) -> ssl.SSLContext:
        """A server's context from what the files hold now. Raises TlsError if they do not fit or cannot be read."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        # TLS 1.2 sessions without tickets would fill OpenSSL's cache of 20,480, at the pleasure of any client; 1.3
        # keeps none as long as no tickets are given out, and a scraper has no use for them.
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.num_tickets = 0
        context.set_alpn_protocols(["http/1.1"])
        self._certify(context)
        if self.client_ca is not None:
            self._require_clients(context, self.client_ca)
        return context

    def _certify(self, context: ssl.SSLContext) -> None:
        for path in (self.certificate, self.key):
            _readable(path)
        try:
            # An empty password instead of none, for OpenSSL would ask on the terminal for that of a locked key.
            context.load_cert_chain(self.certificate, self.key, password="")
        except (ssl.SSLError, ValueError) as error:
            raise TlsError(f"{self._names()}: no certificate with its unlocked key ({_reason(error)})") from error

    def _require_clients(self, context: ssl.SSLContext, authorities: Path) -> None:
        _readable(authorities)
        try:
            context.load_verify_locations(authorities)
        except ssl.SSLError as error:
            raise TlsError(f"{visible(str(authorities))}: holds no certificate in PEM ({_reason(error)})") from error
        context.verify_mode = ssl.CERT_REQUIRED

    def _names(self) -> str:
        return f"{visible(str(self.certificate))}, {visible(str(self.key))}"


def _readable(path: Path) -> None:
    try:
        with path.open("rb") as file:
            file.read(1)
    except OSError as error:
        raise TlsError(f"{visible(str(path))}: {error.strerror}") from error


def _reason(error: Exception) -> str:
    reason = getattr(error, "reason", None)
    return str(reason or error).replace("_", " ").lower()
