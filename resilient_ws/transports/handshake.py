"""What an answer to the opening handshake must look like, whichever library read it.

Pure: it takes status and headers, and returns or raises. Source: RFC 6455 section 4.1 (client requirements).
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from typing import Final

from yarl import URL

from resilient_ws.errors import HandshakeRejected
from resilient_ws.transports.retry_after import retry_after

GUID: Final = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
"""The constant of RFC 6455 section 1.3 that turns a key into its accept value."""

MAX_REDIRECTS: Final = 5
REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})

RETRYABLE: Final = frozenset({408, 425, 429})
"""The 4xx answers after which another attempt could end differently."""

_SCHEMES: Final = {"http": "ws", "https": "wss", "ws": "ws", "wss": "wss"}


def accept_for(key: str) -> str:
    """Returns the `Sec-WebSocket-Accept` that belongs to a `Sec-WebSocket-Key`."""
    return base64.b64encode(
        hashlib.sha1(key.encode() + GUID.encode(), usedforsecurity=False).digest()
    ).decode()


def authorization(url: URL) -> str | None:
    """Returns the `Authorization` that user and password in `url` stand for, as UTF-8; `None` where it has neither.

    Source: RFC 7617 section 2.
    """
    if url.user is None and url.password is None:
        return None
    return "Basic " + base64.b64encode(f"{url.user or ''}:{url.password or ''}".encode()).decode()


def host_without_zone(url: URL) -> str | None:
    """Returns the `Host` for an IPv6 address with a zone, which only this machine knows; `None` = it is the usual one.

    Source: RFC 4007 section 11.2.
    """
    address, has_zone, _ = (url.raw_host or "").partition("%")
    if not has_zone or ":" not in address:
        return None
    return f"[{address}]" if url.is_default_port() else f"[{address}]:{url.port}"


def says_upgrade(headers: Mapping[str, str]) -> bool:
    """Whether `Connection` names `Upgrade`, alone or among other options, as in `keep-alive, Upgrade`.

    Source: RFC 9110 section 7.6.1.
    """
    return "upgrade" in (option.lower() for option in _listed(headers, "Connection"))


def _listed(headers: Mapping[str, str], name: str) -> list[str]:
    return [item for part in headers.get(name, "").split(",") if (item := part.strip())]


def verify(
    status: int,
    headers: Mapping[str, str],
    *,
    key: str | None,
    offered: Sequence[str],
    extensions: bool,
    version: tuple[int, int] = (1, 1),
) -> str | None:
    """Checks the answer to a handshake and returns the subprotocol that the server chose, or `None`.

    Args:
        status: Of the answer.
        headers: Of the answer; a mapping that ignores case. Repeated fields are joined with commas.
        key: The `Sec-WebSocket-Key` that we sent; `None` = what belongs to it is not looked at.
        offered: The subprotocols that we offered.
        extensions: Whether we offered permessage-deflate.
        version: Of the HTTP that the server answered with.

    Raises:
        HandshakeRejected: It is not a valid handshake; the text says what is wrong.
    """
    if status != 101:
        raise HandshakeRejected(
            f"the server answered the handshake with HTTP {status}",
            status=status,
            headers=headers,
            retry_after=retry_after(headers),
            retryable=status in RETRYABLE or status >= 500,
        )

    def wrong(text: str) -> HandshakeRejected:
        return HandshakeRejected(
            f"the server's handshake is invalid: {text}", status=101, headers=headers, retryable=False
        )

    if version < (1, 1):
        raise wrong(f"it is HTTP/{version[0]}.{version[1]}, which cannot be upgraded (RFC 6455 4.1)")
    if headers.get("Upgrade", "").strip().lower() != "websocket":
        raise wrong("its Upgrade header is not websocket (RFC 6455 4.1)")
    if not says_upgrade(headers):
        raise wrong("its Connection header does not say Upgrade (RFC 6455 4.1)")
    if key is not None and headers.get("Sec-WebSocket-Accept", "").strip() != accept_for(key):
        raise wrong("its Sec-WebSocket-Accept does not belong to our key (RFC 6455 4.1)")
    used = [name.partition(";")[0].strip().lower() for name in _listed(headers, "Sec-WebSocket-Extensions")]
    if used not in ([], ["permessage-deflate"] if extensions else []):
        raise wrong("it uses an extension that nobody offered (RFC 6455 4.1)")
    chosen = headers.get("Sec-WebSocket-Protocol")
    if chosen is not None and chosen not in offered:
        raise wrong(f"it chose the subprotocol {chosen[:64]!r}, which nobody offered (RFC 6455 4.1)")
    return chosen


def redirect(origin: URL, location: str, status: int, headers: Mapping[str, str]) -> URL:
    """Returns where a redirect from `origin` leads; `http` and `https` become `ws` and `wss`.

    User and password in the address go along to the same origin only.

    Args:
        origin: What was dialed.
        location: Where the answer points to, absolute or relative.
        status: Of the answer.
        headers: Of the answer.

    Raises:
        HandshakeRejected: It leads from wss to ws, or to something that is not a WebSocket address.
    """

    def refused(text: str) -> HandshakeRejected:
        return HandshakeRejected(
            f"the server redirected {text}", status=status, headers=headers, retryable=False
        )

    target = _target(origin, location)
    if target is None:
        raise refused("to something that is not a WebSocket address")
    if origin.scheme == "wss" and target.scheme == "ws":
        raise refused("from wss to ws, which would drop the encryption")
    if same_origin(origin, target) and target.user is None and target.password is None:
        target = target.with_user(origin.user).with_password(origin.password)
    return target


def _target(origin: URL, location: str) -> URL | None:
    try:
        target = origin.join(URL(location))
        scheme = _SCHEMES.get(target.scheme)
        return target.with_scheme(scheme).with_fragment(None) if scheme and target.host else None
    except (ValueError, TypeError):
        return None


def same_origin(one: URL, other: URL) -> bool:
    """Whether both have the same scheme, host and port: only then our headers go along with a redirect."""
    return (one.scheme, one.host, one.port) == (other.scheme, other.host, other.port)
