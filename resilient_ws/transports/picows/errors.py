"""Translates exceptions of picows.

The text of its handshake errors holds what the server said, so none of it is passed on; nor are they chained, except for
errors of the socket and of TLS.
"""

# The types that picows states are partial.
# pyright: reportUnknownVariableType=false, reportUnknownMemberType=false

from __future__ import annotations

import ssl

from picows import WSHandshakeError, WSInvalidHeaderError
from yarl import URL

from resilient_ws.api.errors import ConnectError, HandshakeRejected
from resilient_ws.transports.shared import failure_texts as words
from resilient_ws.transports.shared.redirects import Redirected


def translate(url: URL, error: Exception, through: str = "") -> ConnectError | Redirected:
    """Translate an exception into ours; ours are returned unchanged.

    Args:
        url: What was dialed.
        error: What was raised.
        through: For texts: by way of which proxy.
    """
    if isinstance(error, ConnectError | Redirected):
        return error
    name = type(error).__name__
    host, port = url.raw_host or "", url.port or 0
    if isinstance(error, WSHandshakeError):
        # It has been verified by then; only its key is left to picows.
        of = error.name if isinstance(error, WSInvalidHeaderError) else ""
        text = (
            "its Sec-WebSocket-Accept does not belong to our key (RFC 6455 4.1)"
            if of == "Sec-WebSocket-Accept"
            else f"picows does not take its {of} header"
            if of
            else "picows does not take its form"
        )
        return HandshakeRejected(
            f"the server's handshake is invalid: {text}", status=101, retryable=False, foreign=name
        )
    if isinstance(error, ssl.SSLCertVerificationError):
        return words.certificate(host, through, error)
    if isinstance(error, ssl.SSLError):
        return words.tls(host, through, error)
    if isinstance(error, OSError):
        return words.broken(host, port, through, error)
    return ConnectError(f"the connection failed during the handshake{through} ({name})", foreign=name)
