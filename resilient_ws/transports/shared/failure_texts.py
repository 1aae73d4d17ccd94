"""The texts of connect failures, the same for both transports and without secrets.

Each text names what failed, with whom, and behind which proxy; of an error of the system it has the words of its number.
"""

from __future__ import annotations

import os
import socket
import ssl

from resilient_ws.api.errors import CertificateRejected, ConnectError


def words(error: BaseException) -> str:
    """Return what an error of the system says, as in "connection refused"."""
    if isinstance(error, OSError):
        if error.errno is not None and not isinstance(error, socket.gaierror | ssl.SSLError):
            said = os.strerror(error.errno)
        else:
            said = error.strerror or str(error)
        if not said and isinstance(error, ConnectionResetError):
            said = "connection reset by peer"
        if said:
            return said[0].lower() + said[1:] if said[1:2].islower() else said
    return str(error) or type(error).__name__


def chained(ours: ConnectError, cause: BaseException) -> ConnectError:
    """Return `ours` with its cause, of which the text holds no secret."""
    ours.__cause__ = cause
    return ours


def certificate(host: str, through: str, error: BaseException) -> ConnectError:
    """Return the failure of a certificate that cannot be verified."""
    text = f"the certificate of {host} was refused{through}: {error}"
    return chained(CertificateRejected(text, retryable=False), error)


def tls(host: str, through: str, error: BaseException) -> ConnectError:
    """Return the failure of a TLS handshake."""
    return chained(ConnectError(f"the TLS handshake with {host} failed{through}: {words(error)}"), error)


def broken(host: str, port: int, through: str, error: BaseException) -> ConnectError:
    """Return the failure of a connection that broke before it was upgraded."""
    text = f"the connection to {host} port {port} broke during the handshake{through}: {words(error)}"
    return chained(ConnectError(text), error)


def hung_up(through: str, foreign: str | None = None) -> ConnectError:
    """Return the failure of a server that closed the connection instead of answering."""
    return ConnectError(f"the server closed the connection during the handshake{through}", foreign=foreign)


def not_http(through: str, foreign: str | None = None) -> ConnectError:
    """Return the failure of an answer that cannot be read."""
    return ConnectError(
        f"the answer to the handshake is not valid HTTP, or its header is too large{through}", foreign=foreign
    )
