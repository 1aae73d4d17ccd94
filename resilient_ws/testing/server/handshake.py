"""The server side of the opening handshake: read the request, write a valid or invalid answer.

Knows no socket and no clock.
"""

from __future__ import annotations

import base64
import hashlib
import http
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TypeAlias

import attrs

_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
MAX_REQUEST = 65536
"""The longest request read, in bytes; a longer one is answered with 431."""

HeaderPairs: TypeAlias = Mapping[str, str] | Sequence[tuple[str, str]]
"""Headers as a mapping, or as pairs where one occurs more than once."""


class Headers(Mapping[str, str]):
    """The headers of a request: names compare without case, `get_all` keeps repetitions.

    `headers[name]` joins repeated values with `", "`.
    """

    def __init__(self, pairs: Iterable[tuple[str, str]] = ()) -> None:
        self.pairs: tuple[tuple[str, str], ...] = tuple(pairs)
        self._joined: dict[str, str] = {}
        for name, value in self.pairs:
            key = name.lower()
            self._joined[key] = f"{self._joined[key]}, {value}" if key in self._joined else value

    def __getitem__(self, name: str) -> str:
        return self._joined[name.lower()]

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name.lower() in self._joined

    def __iter__(self) -> Iterator[str]:
        return iter(self._joined)

    def __len__(self) -> int:
        return len(self._joined)

    def get_all(self, name: str) -> list[str]:
        """Return each value of `name` in the order sent."""
        return [value for key, value in self.pairs if key.lower() == name.lower()]

    def __repr__(self) -> str:
        return f"Headers({list(self._joined)})"


def header_pairs(headers: HeaderPairs) -> list[tuple[str, str]]:
    """Return `headers` as a list of pairs."""
    if isinstance(headers, Mapping):
        return list(headers.items())
    return list(headers)


@attrs.frozen
class Request:
    """A handshake request as it came: `path` is the target with its query."""

    method: str
    path: str
    headers: Headers

    @property
    def key(self) -> str:
        """The `Sec-WebSocket-Key`, empty where there is none."""
        return self.headers.get("Sec-WebSocket-Key", "")

    @property
    def subprotocols(self) -> list[str]:
        """The subprotocols offered, in order."""
        offered = self.headers.get("Sec-WebSocket-Protocol", "")
        return [name.strip() for name in offered.split(",") if name.strip()]

    @property
    def fault(self) -> str | None:
        """What makes this no WebSocket handshake (RFC 6455 section 4.2.1), or `None`."""
        if self.method != "GET":
            return f"the method is {self.method}, not GET"
        if self.headers.get("Upgrade", "").lower() != "websocket":
            return "Upgrade is not websocket"
        connection = [token.strip().lower() for token in self.headers.get("Connection", "").split(",")]
        if "upgrade" not in connection:
            return "Connection does not contain Upgrade"
        if self.headers.get("Sec-WebSocket-Version") != "13":
            return "Sec-WebSocket-Version is not 13"
        try:
            nonce = base64.b64decode(self.key, validate=True)
        except ValueError:
            nonce = b""
        return None if len(nonce) == 16 else "Sec-WebSocket-Key is not 16 bytes in base64"


def parse_request(head: bytes) -> Request:
    """Return the request whose lines are `head`, without the empty line that ends it.

    Raises:
        ValueError: It is not an HTTP/1.1 request.
    """
    first, *rest = head.decode("latin-1").split("\r\n")
    parts = first.split(" ")
    if len(parts) != 3 or not parts[2].startswith("HTTP/1."):
        raise ValueError("the first line is not that of an HTTP/1.1 request")
    pairs: list[tuple[str, str]] = []
    for line in rest:
        name, colon, value = line.partition(":")
        if not colon:
            raise ValueError("a header line has no colon")
        pairs.append((name, value.strip()))
    return Request(parts[0], parts[1], Headers(pairs))


def accept_key(key: str) -> str:
    """Return the `Sec-WebSocket-Accept` that proves a server has read `key`.

    Source: RFC 6455 section 4.2.2.
    """
    return base64.b64encode(hashlib.sha1(key.encode() + _GUID, usedforsecurity=False).digest()).decode()


def encode_response(status: int, headers: HeaderPairs, body: bytes = b"", reason: str | None = None) -> bytes:
    """Return an HTTP/1.1 response; `reason` `None` is the phrase that belongs to `status`."""
    if reason is None:
        known = status in http.HTTPStatus.__members__.values()
        reason = http.HTTPStatus(status).phrase if known else "Unassigned"
    lines = [f"HTTP/1.1 {status} {reason}", *(f"{name}: {value}" for name, value in header_pairs(headers))]
    return "\r\n".join([*lines, "", ""]).encode("latin-1", "replace") + body
