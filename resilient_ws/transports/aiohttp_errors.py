"""What aiohttp raises while connecting, in our words.

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

from resilient_ws.errors import CertificateRejected, ConnectError, HandshakeRejected
from resilient_ws.transports.handshake import RETRYABLE
from resilient_ws.transports.retry_after import retry_after


def translate(error: Exception) -> ConnectError:
    """Returns ours for whatever was raised; one that is ours already is returned as it is."""
    if isinstance(error, ConnectError):
        return error
    name = type(error).__name__
    if isinstance(error, ClientConnectorCertificateError):
        text = f"the certificate of {error.host} was refused: {error.certificate_error}"
        return _chained(CertificateRejected(text, retryable=False), error.certificate_error)
    if isinstance(error, ServerFingerprintMismatch):
        text = f"the certificate of {error.host} has another fingerprint"
        return CertificateRejected(text, retryable=False, foreign=name)
    if isinstance(error, ClientHttpProxyError):
        return _refused_by_proxy(error.status, cast("Mapping[str, str]", error.headers or {}), name)
    if isinstance(error, ClientResponseError):
        if error.status == 101:
            return HandshakeRejected(
                "the server's handshake is invalid", status=101, retryable=False, foreign=name
            )
        return ConnectError(
            "the answer to the handshake is not valid HTTP, or its header is too large", foreign=name
        )
    if isinstance(error, ServerDisconnectedError):
        return ConnectError("the server closed the connection during the handshake", foreign=name)
    if isinstance(error, ClientConnectorDNSError):
        text = f"the name {error.host} could not be resolved: {_said(error.os_error)}"
        return _chained(ConnectError(text), error.os_error)
    if isinstance(error, ClientSSLError):
        text = f"the TLS handshake with {error.host} failed: {error.os_error}"
        return _chained(ConnectError(text), error.os_error)
    if isinstance(error, ClientProxyConnectionError):
        text = f"the proxy could not be reached: {_said(error.os_error)}"
        return _chained(ConnectError(text), error.os_error)
    if isinstance(error, ClientConnectorError):
        text = f"{error.host} port {error.port} could not be reached: {_said(error.os_error)}"
        return _chained(ConnectError(text), error.os_error)
    if isinstance(error, OSError) and not isinstance(error, ClientError):
        return _chained(ConnectError(f"the connection failed: {_said(error)}"), error)
    return _by_name(error, name)


def _by_name(error: Exception, name: str) -> ConnectError:
    if isinstance(error, InvalidURL):
        return ConnectError("aiohttp does not take the host of this address", retryable=False, foreign=name)
    return ConnectError(f"the connection failed during the handshake ({name})", foreign=name)


def _refused_by_proxy(status: int, headers: Mapping[str, str], name: str) -> HandshakeRejected:
    return HandshakeRejected(
        f"the proxy answered with HTTP {status}",
        status=status,
        headers=headers,
        retry_after=retry_after(headers),
        retryable=status in RETRYABLE or status >= 500,
        foreign=name,
    )


def _said(error: OSError) -> str:
    return error.strerror or str(error) or type(error).__name__


def _chained(ours: ConnectError, cause: BaseException) -> ConnectError:
    ours.__cause__ = cause
    return ours
