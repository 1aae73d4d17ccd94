"""Checks the answer to the opening handshake, for both transports.

Pure: it takes status and headers, and returns or raises. Source: RFC 6455 section 4.1 (client requirements).
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Mapping, Sequence
from typing import Final
from urllib.parse import unquote

from yarl import URL

from resilient_ws.api.endpoints import parse_url
from resilient_ws.api.errors import HandshakeRejected
from resilient_ws.api.version import VERSION
from resilient_ws.transports.shared.retry_after import retry_after

GUID: Final = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
"""The constant of RFC 6455 section 1.3 that turns a key into its accept value."""

MAX_REDIRECTS: Final = 5
_EIGHT_BITS: Final = re.compile(r"client_max_window_bits\s*=\s*\"?8\b", re.IGNORECASE)
REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})

RETRYABLE: Final = frozenset({408, 425, 429})
"""The 4xx answers after which another attempt could end differently."""

_SCHEMES: Final = {"http": "ws", "https": "wss", "ws": "ws", "wss": "wss"}


AGENT: Final = f"resilient-ws/{VERSION}"
"""The `User-Agent` where the program gives none (RFC 9110 section 10.1.5)."""


def accept_for(key: str) -> str:
    """Return the `Sec-WebSocket-Accept` that belongs to a `Sec-WebSocket-Key`."""
    return base64.b64encode(
        hashlib.sha1(key.encode() + GUID.encode(), usedforsecurity=False).digest()
    ).decode()


def authorization(url: URL) -> str | None:
    """Return the `Authorization` that user and password in `url` stand for, as UTF-8; `None` where it has neither.

    Source: RFC 7617 section 2.
    """
    if url.user is None and url.password is None:
        return None
    return "Basic " + base64.b64encode(f"{url.user or ''}:{url.password or ''}".encode()).decode()


def host_without_zone(url: URL) -> str | None:
    """Return the `Host` for an IPv6 address with a zone, which only this machine knows; `None` = it is the usual one.

    Source: RFC 4007 section 11.2.
    """
    address, has_zone, _ = (url.raw_host or "").partition("%")
    if not has_zone or ":" not in address:
        return None
    return f"[{address}]" if url.is_default_port() else f"[{address}]:{url.port}"


def says_upgrade(headers: Mapping[str, str]) -> bool:
    """Return whether `Connection` names `Upgrade`, alone or among other options, as in `keep-alive, Upgrade`.

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
    """Check the answer to a handshake and return the subprotocol that the server chose, or `None`.

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
        raise wrong("it uses an extension that was not offered (RFC 6455 4.1)")
    if _EIGHT_BITS.search(headers.get("Sec-WebSocket-Extensions", "")):
        raise wrong(
            "it wants messages compressed with a window of 8 bits, which zlib cannot do; use compression=None"
        )
    chosen = headers.get("Sec-WebSocket-Protocol")
    if chosen is not None and chosen not in offered:
        raise wrong(f"it chose the subprotocol {chosen[:64]!r}, which was not offered (RFC 6455 4.1)")
    return chosen


def redirect(origin: URL, location: str, status: int, headers: Mapping[str, str]) -> URL:
    """Return where a redirect from `origin` leads, byte for byte; `http` and `https` become `ws` and `wss`.

    Only what cannot stand in a request is escaped: blanks, control characters and bytes beyond ASCII. User and password
    in the address go along to the same origin only.

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
    if same_origin(origin, target) and target.raw_user is None and target.raw_password is None:
        target = with_login_of(origin, target)
    return target


def with_login_of(origin: URL, target: URL) -> URL:
    """Return `target` with user and password of `origin`, its path and query as they are."""
    login, at, _ = origin.raw_authority.rpartition("@")
    if not at:
        return target
    return URL(f"{target.scheme}://{login}@{target.raw_authority}{target.raw_path_qs}", encoded=True)


_UNSENDABLE: Final = re.compile(rb"[^\x21-\x7e]")


def _target(origin: URL, location: str) -> URL | None:
    try:
        given = location.strip(" \t").encode(errors="surrogateescape")
        sendable = _UNSENDABLE.sub(lambda byte: b"%%%02X" % byte[0][0], given.partition(b"#")[0]).decode()
        base = f"{origin.scheme}://{origin.raw_authority}{origin.raw_path_qs}"
        # Of `ws` and `wss` the resolution of references knows what it knows of `http` (RFC 3986 section 5.2).
        whole = sendable if _ABSOLUTE.match(sendable) else _joined_to(base, sendable)
        scheme, _, rest = whole.partition(":")
        scheme = _SCHEMES.get(scheme.lower(), "")
        if not scheme or not rest.startswith("//") or not given:
            return None
        authority = _AUTHORITY.match(rest, 2)
        assert authority is not None
        return parse_url(URL(f"{scheme}://{_ascii(authority[0])}{rest[authority.end() :]}", encoded=True))
    except (ValueError, TypeError):
        return None


def _joined_to(base: str, reference: str) -> str:
    if reference.startswith("//"):
        return f"{base.partition(':')[0]}:{reference}"
    scheme, _, rest = base.partition("://")
    authority, slash, path = rest.partition("/")
    path, _, query = (slash + path).partition("?")
    if reference.startswith("?"):
        return f"{scheme}://{authority}{path or '/'}{reference}"
    if not reference:
        return f"{base}"
    if reference.startswith("/"):
        return f"{scheme}://{authority}{reference}"
    to, mark, query = reference.partition("?")
    return f"{scheme}://{authority}{_without_dots((path.rpartition('/')[0] or '') + '/' + to)}{mark}{query}"


def _without_dots(path: str) -> str:
    """Return the path of a relative reference without `.` and `..` (RFC 3986 section 5.2.4)."""
    kept: list[str] = []
    segments = path.split("/")[1:]
    for segment in segments:
        if segment == "..":
            del kept[-1:]
        elif segment != ".":
            kept.append(segment)
    if segments[-1] in {".", ".."}:
        kept.append("")
    return "/" + "/".join(kept)


def _ascii(authority: str) -> str:
    """Return an authority whose host, if it has letters beyond ASCII, is written as a name of the DNS has it."""
    login, at, host = authority.rpartition("@")
    if "%" not in host or host.startswith("["):
        return authority
    return login + at + URL(f"ws://{unquote(host, errors='strict')}").raw_authority


_AUTHORITY: Final = re.compile("[^/?]*")
_ABSOLUTE: Final = re.compile("[A-Za-z][A-Za-z0-9+.-]*:")


def same_origin(one: URL, other: URL) -> bool:
    """Return whether both have the same scheme, host and port: only then our headers go along with a redirect."""
    return (one.scheme, one.host, one.port) == (other.scheme, other.host, other.port)
