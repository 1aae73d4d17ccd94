"""Parses the handshake answer for picows, which supports no interim answers and reports few details.

An answer before the handshake's own (RFC 9110 section 15.2) is skipped, and an invalid handshake is reported in our
words, and only a valid one reaches picows.
"""

# The types that picows states are partial.
# pyright: reportUnknownVariableType=false, reportUnknownMemberType=false

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from multidict import CIMultiDict

from resilient_ws.transports.shared import failure_texts as words
from resilient_ws.transports.shared.handshake import REDIRECTS, accept_for, verify
from resilient_ws.transports.shared.http_heads import LONGEST, joined, parse_head
from resilient_ws.transports.shared.redirects import Redirected
from resilient_ws.transports.shared.tls_context import check_protocol


class Opening(asyncio.Protocol):
    """The protocol of a socket until its handshake is done; picows' takes its place then.

    Args:
        inner: That of picows.
        offered: The subprotocols that we offered.
        through: For texts: by way of which proxy.
        is_sent: Called when the request has been written.

    Attributes:
        done: Ends with the handshake, or raises why there is none.
        headers: Of the answer; repeated ones are joined.
        subprotocol: What the server chose.
    """

    def __init__(
        self, inner: Any, offered: tuple[str, ...], through: str, is_sent: Callable[[], None]
    ) -> None:
        self.inner = inner
        self._offered = offered
        self._through = through
        self._is_sent = is_sent
        self._data = bytearray()
        self._transport: Any = None
        self.headers = CIMultiDict[str]()
        self.subprotocol: str | None = None
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Write the request: the socket is connected and TLS is done."""
        self._transport = _as_tcp(transport)
        try:
            check_protocol(transport)
            self.inner.connection_made(self._transport)
        except Exception as error:  # noqa: BLE001 - any exception fails the attempt
            self._fail(error)
        else:
            self._is_sent()

    def data_received(self, data: bytes) -> None:
        """Part of the answer has come."""
        if self.done.done():
            return
        self._data += data
        try:
            self._read()
        except Exception as error:  # noqa: BLE001 - any exception fails the attempt
            self._fail(error)

    def _read(self) -> None:
        while True:
            if not b"HTTP/".startswith(self._data[:5]):
                raise words.not_http(self._through)
            head, rest = parse_head(self._data)
            if head is None:
                if len(self._data) > LONGEST:
                    raise words.not_http(self._through)
                return
            if len(self._data) - len(rest) > LONGEST:
                raise words.not_http(self._through)
            if head.status == 101 or not 100 <= head.status < 200:
                break
            self._data = bytearray(rest)
        if not head.status:
            raise words.not_http(self._through)
        location = head.headers.get("Location")
        if head.status in REDIRECTS and location is not None:
            raise Redirected(location, head.status, joined(head.headers))
        self.headers = joined(head.headers)
        key: str = self.inner.transport.request.headers["Sec-WebSocket-Key"]
        self.subprotocol = verify(
            head.status, self.headers, key=key, offered=self._offered, extensions=False, version=head.version
        )
        self._data.clear()
        self._transport.set_protocol(self.inner)
        self._feed(_PLAIN % accept_for(key).encode() + rest)
        if not self.done.done():  # the socket may be gone by then
            self.done.set_result(None)

    def _feed(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            protocol = self._transport.get_protocol()  # the listener puts another one before it
            buffer = protocol.get_buffer(-1)
            size = min(len(buffer), len(rest))
            buffer[:size] = rest[:size]
            protocol.buffer_updated(size)
            rest = rest[size:]

    def _fail(self, error: Exception) -> None:
        if not self.done.done():
            self.done.set_exception(error)
            self.done.exception()  # heard, even where the dial is given up meanwhile
        if self._transport is not None:
            self._transport.abort()

    def eof_received(self) -> None:
        """Handle a FIN of the server."""
        self._fail(words.hung_up(self._through))

    def connection_lost(self, exc: Exception | None) -> None:
        """Handle the loss of the socket."""
        if not self.done.done():
            self.done.set_exception(exc or words.hung_up(self._through))
            self.done.exception()


_PLAIN = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: %b\r\n\r\n"
"""What picows is told in place of an answer that is right: it does not take every spelling."""


class _Options:
    """A socket that is not TCP, whose options of TCP are set without effect."""

    def __init__(self, sock: Any) -> None:
        self._sock = sock

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)

    def setsockopt(self, level: int, *args: Any) -> None:
        """Set an option, unless it is one of TCP."""
        if level != _TCP:
            self._sock.setsockopt(level, *args)

    def getsockopt(self, level: int, *args: Any) -> Any:
        """Return an option; 0 for one of TCP."""
        if level == _TCP and len(args) == 1:
            return 0
        return self._sock.getsockopt(level, *args)


_TCP = 6


class _Plain(asyncio.Transport):
    """A transport of a socket that is not TCP, as picows wants one; it writes by the transport, not to the socket."""

    def __init__(self, inner: Any) -> None:
        super().__init__()
        self.inner = inner
        self._sock = _Options(inner.get_extra_info("socket"))

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Return the socket without options of TCP; a TLS object, so that picows leaves the socket alone."""
        if name == "socket":
            return self._sock
        if name == "ssl_object":
            return self.inner.get_extra_info(name) or self
        return self.inner.get_extra_info(name, default)

    def __getattribute__(self, name: str) -> Any:
        if name in {"get_extra_info", "inner", "_sock"}:
            return object.__getattribute__(self, name)
        return getattr(object.__getattribute__(self, "inner"), name)


def _as_tcp(transport: asyncio.BaseTransport) -> Any:
    sock: Any = transport.get_extra_info("socket")
    try:
        sock.getsockopt(_TCP, 1)
    except OSError:
        return _Plain(transport)
    return transport


def real_transport(transport: Any) -> Any:
    """Return the transport below the one that `_as_tcp` has made for picows."""
    return transport.inner if type(transport) is _Plain else transport
