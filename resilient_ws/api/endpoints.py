"""Endpoints: URL, headers and subprotocols, with their checks.

Header values, subprotocols and the parts of a URL that may contain a token never appear in a `repr`, a text or a log.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import cast

import attrs
from yarl import URL

from resilient_ws.api.connect_errors import InvalidURL
from resilient_ws.api.record import Record

NO_HEADERS: Mapping[str, str] = MappingProxyType({})


def public_url(url: URL) -> str:
    """Return the scheme, host, port and path of `url`, the parts that may appear in logs and texts."""
    try:
        port = f":{url.explicit_port}" if url.explicit_port is not None else ""
        host = url.raw_host or ""
    except ValueError:
        return "(an address that cannot be shown)"
    host = f"[{host}]" if ":" in host else host
    return f"{url.scheme}://{host}{port}{url.raw_path}"


def parse_url(value: object) -> URL:
    """Parse `value`, a `str` or `yarl.URL`, and return a WebSocket URL without fragment.

    Raises:
        TypeError: It is neither.
        InvalidURL: The scheme is not `ws` or `wss`, or there is no host that could be one.

    Source: RFC 6455 section 3 (scheme, and that fragments have no meaning).
    """
    if not isinstance(value, str | URL):
        raise TypeError(f"url must be a str or yarl.URL, got {type(value).__name__}")
    try:
        # The value itself: `str()` of a `str` enum is its name.
        url = URL(str.__str__(value) if isinstance(value, str) else value)
        host, scheme, port = url.host, url.scheme, url.explicit_port
    except (ValueError, TypeError, UnicodeError) as error:
        # Raised below, without context: the text of this exception may contain a password.
        failure = InvalidURL("url cannot be parsed as a URL", foreign=type(error).__name__)
    else:
        return _websocket_url(url, scheme, host, port)
    raise failure


_NOT_IN_A_REQUEST = re.compile("[^\\x21-\\x7e]")


def _websocket_url(url: URL, scheme: str, host: str | None, port: int | None) -> URL:
    if scheme not in ("ws", "wss"):
        shown = f"{scheme}://" if scheme else "none"
        raise InvalidURL(f"url must begin with ws:// or wss://, its scheme is {shown}")
    if not host or any(char.isspace() for char in host):
        raise InvalidURL("url must have a host without spaces, as in wss://host/path")
    if port == 0:
        raise InvalidURL("url must have a port from 1 to 65535, got 0")
    if url.raw_fragment:
        url = url.with_fragment(None)
    # `URL(encoded=True)` escapes nothing, so the URL may contain CR or LF and split the request.
    if _NOT_IN_A_REQUEST.search(url.raw_path_qs) or _NOT_IN_A_REQUEST.search(url.raw_authority):
        raise InvalidURL("url has blanks, control characters or letters beyond ASCII that are not escaped")
    return url


def _headers(value: Mapping[str, str] | None) -> Mapping[str, str]:
    if value is None:
        return NO_HEADERS
    _check_headers(value)
    return value


_UNSENDABLE = re.compile("[\\x00-\\x08\\x0a-\\x1f\\x7f\\ud800-\\udfff]")
_OF_THE_HANDSHAKE = frozenset({"connection", "content-length", "transfer-encoding", "upgrade"})
_OPTION_FOR = {"sec-websocket-protocol": "subprotocols", "sec-websocket-extensions": "compression"}


def is_handshake_header(name: str) -> bool:
    """Return whether the handshake or HTTP framing depends on this header, so that users cannot set it."""
    folded = name.lower()
    return folded in _OF_THE_HANDSHAKE or folded.startswith("sec-websocket-")


def _check_headers(value: object) -> None:
    if not isinstance(value, Mapping):
        raise TypeError(f"headers must be a mapping, got {type(value).__name__}")
    for name, text in cast(Mapping[object, object], value).items():
        if not isinstance(name, str) or not isinstance(text, str):
            raise TypeError("headers must map str to str")
        if any(c in "\r\n\0" for c in name) or any(c in "\r\n\0" for c in text):
            raise ValueError(f"header {name!r}: CR, LF and NUL are not allowed in a header")
        if _UNSENDABLE.search(text):
            raise ValueError(
                f"header {name!r}: control characters and lone surrogates are not allowed in a value (RFC 9110 5.5)"
            )
        if not name or any(not 33 <= ord(c) <= 126 or c in '()<>@,;:\\"/[]?={}' for c in name):
            raise ValueError(f"header {name!r}: a header name is one or more token characters (RFC 9110 5.1)")
        if is_handshake_header(name):
            option = _OPTION_FOR.get(name.lower())
            hint = f"; use {option}=" if option is not None else ""
            raise ValueError(f"header {name!r} belongs to the handshake itself (RFC 6455 4.1){hint}")


def _subprotocols(value: Sequence[str]) -> tuple[str, ...]:
    _check_subprotocols(value)
    return tuple(value)


def _check_subprotocols(value: object) -> None:
    if isinstance(value, str | bytes) or not isinstance(value, Sequence):
        raise TypeError(f"subprotocols must be a sequence of str, got {type(value).__name__}")
    names = cast(Sequence[object], value)
    for name in names:
        if not isinstance(name, str):
            raise TypeError(f"subprotocols must be a sequence of str, one is {type(name).__name__}")
        if not name or any(not 33 <= ord(c) <= 126 or c in '()<>@,;:\\"/[]?={}' for c in name):
            raise ValueError(f"subprotocol {name!r} must be one or more token characters (RFC 6455 4.1)")
    if len(set(names)) != len(names):
        raise ValueError("subprotocols must not repeat a name (RFC 6455 4.1)")


@attrs.frozen(eq=False, repr=False)
class Endpoint(Record):
    """A URL with its own headers and subprotocols; a URL provider may return one.

    Args:
        url: A `ws` or `wss` URL, `str` or `yarl.URL`.
        headers: Headers for the handshake, added to those of the client; these win. `None` means none.
        subprotocols: Subprotocols to offer instead of those of the client; if empty, those of the client.

    Raises:
        InvalidURL: The URL is not a `ws` or `wss` URL.
        TypeError, ValueError: A header or subprotocol is not valid (CR, LF and headers of the handshake are refused), or
            both the URL has a user and there is an `Authorization` header.
    """

    url: URL = attrs.field(converter=parse_url, repr=public_url)
    headers: Mapping[str, str] = attrs.field(default=None, converter=_headers, repr=False)
    subprotocols: tuple[str, ...] = attrs.field(default=(), converter=_subprotocols, repr=False)

    def __attrs_post_init__(self) -> None:
        named = self.url.user is not None or self.url.password is not None
        if named and any(name.lower() == "authorization" for name in self.headers):
            raise ValueError(
                "url and headers: a user in the address and an Authorization header exclude each other"
            )

    def __str__(self) -> str:
        return public_url(self.url)
