"""What picows raises while connecting, in our words.

The text of its handshake errors holds what the server said, so none of it is passed on; nor are they chained, except for
errors of the socket and of TLS.
"""

# The types that picows states are partial.
# pyright: reportUnknownVariableType=false, reportUnknownMemberType=false

from __future__ import annotations

import re
import ssl
from http import HTTPStatus
from typing import Final

from multidict import CIMultiDict
from picows import WSHandshakeError, WSInvalidHeaderError, WSInvalidStatusError
from yarl import URL

from resilient_ws.errors import CertificateRejected, ConnectError, HandshakeRejected
from resilient_ws.transports.handshake import REDIRECTS, verify
from resilient_ws.transports.redirects import Redirected

_STATUS_LINE: Final = re.compile(rb"HTTP/(\d)\.(\d) (\d{3})(?: |$)")


def translate(url: URL, error: Exception) -> ConnectError | Redirected:
    """Returns ours for whatever was raised; one that is ours already is returned as it is."""
    if isinstance(error, ConnectError | Redirected):
        return error
    if isinstance(error, WSHandshakeError):
        return _rejected(error)
    host = url.raw_host
    failure: ConnectError
    if isinstance(error, ssl.SSLCertVerificationError):
        failure = CertificateRejected(f"the certificate of {host} was refused: {error}", retryable=False)
    elif isinstance(error, ssl.SSLError):
        failure = ConnectError(f"the TLS handshake with {host} failed: {error}")
    elif isinstance(error, OSError):
        why = error.strerror or str(error) or type(error).__name__
        failure = ConnectError(f"the connection to {host} port {url.port} failed: {why}")
    else:
        name = type(error).__name__
        return ConnectError(f"the connection failed during the handshake ({name})", foreign=name)
    failure.__cause__ = error
    return failure


def _rejected(error: WSHandshakeError) -> ConnectError | Redirected:
    """An answer that picows does not take; it is read once more, since picows does not tell all that it has read."""
    foreign = type(error).__name__
    head = error.raw_header or b""
    line = _STATUS_LINE.match(head)
    read = isinstance(error, WSInvalidStatusError | WSInvalidHeaderError)
    if line is None or not (read or _stops_at(line)):
        return ConnectError(
            "the answer to the handshake is not valid HTTP, or its header is too large", foreign=foreign
        )
    version, status, headers = (int(line[1]), int(line[2])), int(line[3]), _fields(head)
    location = headers.get("Location")
    if status in REDIRECTS and location is not None:
        return Redirected(location, status, headers)
    if 100 <= status < 200 and status != 101:
        return _unfit(f"an answer before the handshake's own (HTTP {status})", headers, foreign)
    of_accept = isinstance(error, WSInvalidHeaderError) and error.name == "Sec-WebSocket-Accept"
    try:
        verify(status, headers, key="" if of_accept else None, offered=(), extensions=False, version=version)
    except HandshakeRejected as rejected:
        return rejected
    part = f"the {error.name} header" if isinstance(error, WSInvalidHeaderError) else "the form"
    return _unfit(f"{part} of the server's handshake", headers, foreign)


def _stops_at(line: re.Match[bytes]) -> bool:
    """Whether picows takes this for no status line, which for us is an answer like any other."""
    try:
        HTTPStatus(int(line[3]))
    except ValueError:
        return True
    return line[1] == b"1" and line[2] == b"0"


def _unfit(what: str, headers: CIMultiDict[str], foreign: str) -> HandshakeRejected:
    return HandshakeRejected(
        f"picows does not take {what}; transport='aiohttp' does",
        status=101,
        headers=headers,
        retryable=False,
        foreign=foreign,
    )


def _fields(head: bytes) -> CIMultiDict[str]:
    """Returns the header fields of an answer; repeated ones are joined (RFC 9110 section 5.3)."""
    fields = CIMultiDict[str]()
    for line in head.decode("latin-1").split("\r\n")[1:]:
        name, colon, value = line.partition(":")
        if colon and name:
            value = value.strip()
            fields[name] = f"{fields[name]}, {value}" if name in fields else value
    return fields
