"""Translates exceptions of aiohttp.

The foreign exception is chained only where its text cannot hold a secret: aiohttp's handshake errors print the URL
with its query and the headers, so of those only the name of the type is kept.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

from aiohttp import (
    ClientConnectorCertificateError,
    ClientConnectorDNSError,
    ClientConnectorError,
    ClientError,
    ClientHttpProxyError,
    ClientProxyConnectionError,
    ClientResponseError,
    ClientSSLError,
    InvalidURL,
    ServerDisconnectedError,
    ServerFingerprintMismatch,
)
from yarl import URL

from resilient_ws.api.errors import (
    CertificateRejected,
    ConnectError,
    HandshakeRejected,
    OpenTimeout,
    ProxyRejected,
)
from resilient_ws.transports.shared import failure_texts as words
from resilient_ws.transports.shared.handshake import RETRYABLE
from resilient_ws.transports.shared.retry_after import retry_after


def translate(error: Exception, url: URL, through: str = "") -> ConnectError:  # noqa: PLR0912 - a table
    """Translate an exception into ours; ours are returned unchanged.

    Args:
        error: What was raised.
        url: What was dialed.
        through: For texts: by way of which proxy.
    """
    if isinstance(error, ConnectError):
        return error
    name = type(error).__name__
    host, port = url.raw_host or "", url.port or 0
    if isinstance(error, ClientConnectorCertificateError):
        return words.certificate(error.host, through, error.certificate_error)
    if isinstance(error, ServerFingerprintMismatch):
        text = f"the certificate of {error.host} has another fingerprint{through}"
        return CertificateRejected(text, retryable=False, foreign=name)
    if isinstance(error, ClientHttpProxyError):
        return _refused_by_proxy(error.status, cast("Mapping[str, str]", error.headers or {}), name)
    if isinstance(error, ClientResponseError):
        if error.status == 101:
            return HandshakeRejected(
                "the server's handshake is invalid", status=101, retryable=False, foreign=name
            )
        return words.not_http(through, name)
    if isinstance(error, ServerDisconnectedError):
        return words.hung_up(through, name)
    if isinstance(error, ClientConnectorDNSError):
        text = f"the name {error.host} could not be resolved: {words.words(error.os_error)}"
        return words.chained(ConnectError(text), error.os_error)
    if isinstance(error, ClientSSLError):
        return words.tls(error.host, through, error.os_error)
    if isinstance(error, ClientProxyConnectionError):
        text = f"the proxy could not be reached: {words.words(error.os_error)}"
        return words.chained(ConnectError(text), error.os_error)
    if isinstance(error, ClientConnectorError):
        if through or (url.scheme == "wss" and isinstance(error.os_error, ConnectionError)):
            return words.broken(error.host, port, through, error.os_error)
        text = f"{error.host} port {error.port} could not be reached: {words.words(error.os_error)}"
        return words.chained(ConnectError(text), error.os_error)
    if isinstance(error, TimeoutError) and getattr(error, "errno", None) is None:
        return OpenTimeout(
            f"no connection to {host} within the timeout of the lent session{through}", foreign=name
        )
    if isinstance(error, OSError) and not isinstance(error, ClientError):
        return words.broken(host, port, through, error)
    if isinstance(error, OSError) and error.errno is not None:
        # Of aiohttp's own only the number is told: its text may hold anything.
        why = words.words(OSError(error.errno, ""))
        return ConnectError(
            f"the connection to {host} port {port} broke during the handshake{through}: {why}", foreign=name
        )
    return _by_name(error, name, through)


def _by_name(error: Exception, name: str, through: str) -> ConnectError:
    if isinstance(error, InvalidURL):
        return ConnectError("aiohttp does not take the host of this address", retryable=False, foreign=name)
    return ConnectError(f"the connection failed during the handshake{through} ({name})", foreign=name)


def _refused_by_proxy(status: int, headers: Mapping[str, str], name: str) -> ProxyRejected:
    """Of a proxy that the connector of a lent session knows by itself."""
    return ProxyRejected(
        f"the proxy answered with HTTP {status}",
        status=status,
        headers=headers,
        retry_after=retry_after(headers),
        retryable=status in RETRYABLE or status >= 500,
        foreign=name,
    )
