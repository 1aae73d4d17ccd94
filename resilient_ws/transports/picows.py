"""Opens WebSocket connections with picows: TCP, TLS and redirects by our rules, frames by picows.

What picows cannot honour is refused when the client is made: proxies, sessions of aiohttp, compression, fingerprints.
Foreign exceptions end here; the text of none of them is passed on where it could show a header or a query.
"""

# The types that picows states are partial.
# pyright: reportUnknownVariableType=false, reportUnknownMemberType=false, reportUnnecessaryComparison=false

from __future__ import annotations

import asyncio
import functools
import logging
import socket
import ssl
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Final, cast

import aiohappyeyeballs
from multidict import CIMultiDict
from picows import WSError, WSTransport, WSUpgradeRequest, WSUpgradeResponse, ws_connect
from yarl import URL

from resilient_ws.endpoints import Endpoint
from resilient_ws.errors import ConnectError
from resilient_ws.transports import aiohttp_outlet
from resilient_ws.transports.base import Link, Receiver
from resilient_ws.transports.frames import Mask, is_mask
from resilient_ws.transports.handshake import authorization, host_without_zone, verify
from resilient_ws.transports.options import TransportOptions
from resilient_ws.transports.picows_errors import translate
from resilient_ws.transports.picows_link import PicowsLink
from resilient_ws.transports.picows_listener import PicowsListener
from resilient_ws.transports.redirects import Redirected, follow
from resilient_ws.transports.resolver import LookupResolver

_HAPPY_EYEBALLS_DELAY: Final = 0.25
"""Seconds after which the next address is tried beside the first one (RFC 8305 section 5)."""

READ_BUFFER: Final = 2048
"""Bytes that picows reads at once at first; it grows with the traffic, and never shrinks."""

# picows logs handshakes, headers included.
_silent: Final = logging.getLogger("resilient_ws.picows")
_silent.setLevel(logging.CRITICAL + 1)
_SILENT: Final = logging.LoggerAdapter(_silent)
"""Of a plain logger picows makes one more for each connection, of 700 bytes."""


class PicowsTransport:
    """The `Transport` that `transport="picows"` names."""

    def __init__(self, options: TransportOptions) -> None:
        self._options = options
        _check(options)
        self._resolver = LookupResolver()
        self._mask = _find_mask()

    async def open(self, endpoint: Endpoint, receiver: Receiver, /) -> Link:
        """Connects and shakes hands, by way of at most five redirects."""
        return await follow(
            endpoint,
            CIMultiDict(endpoint.headers),
            lambda target, headers: self._dial(target, headers, receiver),
        )

    async def _dial(self, endpoint: Endpoint, headers: CIMultiDict[str], receiver: Receiver) -> Link:
        url = endpoint.url
        context = await self._context() if url.scheme == "wss" else None
        sock = await self._connect(url)
        try:
            return await self._shake_hands(sock, context, endpoint, headers, receiver)
        except (ConnectError, Redirected, WSError, OSError, EOFError) as error:
            caught = error
        except BaseException:
            _free(sock)
            raise
        _free(sock)
        raise translate(url, caught)  # out of the handler, so that nothing foreign is its context

    async def _shake_hands(
        self,
        sock: socket.socket,
        context: ssl.SSLContext | None,
        endpoint: Endpoint,
        headers: CIMultiDict[str],
        receiver: Receiver,
    ) -> Link:
        listener = PicowsListener(self._options.max_message_size)
        _, told = await ws_connect(
            lambda: listener,
            str(endpoint.url.with_user(None).with_fragment(None)),
            ssl_context=context,
            websocket_handshake_timeout=None,
            logger_name=_SILENT,
            enable_auto_pong=False,
            max_frame_size=self._options.max_message_size,
            extra_headers=list(_sent(endpoint, headers).items()),
            max_redirects=0,
            read_buffer_init_size=READ_BUFFER,
            socket_factory=lambda _: sock,
            # Given up in the TLS handshake, aiofastnet leaves a timer for a minute; asyncio leaves nothing.
            use_aiofastnet=None if context is None else False,
        )
        if told is None or listener.connection is None:
            raise ConnectError("the server closed the connection during the handshake")
        return self._link(listener.connection, listener, endpoint, receiver)

    def _link(
        self, connection: WSTransport, listener: PicowsListener, endpoint: Endpoint, receiver: Receiver
    ) -> Link:
        request: WSUpgradeRequest = connection.request
        answer = _joined(connection.response)
        chosen = verify(
            int(connection.response.status),
            answer,
            key=request.headers.get("Sec-WebSocket-Key", ""),
            offered=endpoint.subprotocols,
            extensions=False,
        )
        return PicowsLink(
            connection,
            listener,
            receiver,
            endpoint,
            subprotocol=chosen,
            headers=answer,
            max_message_size=self._options.max_message_size,
            mask=self._mask,
        )

    async def _connect(self, url: URL) -> socket.socket:
        """Returns a connected socket."""
        host, port = url.raw_host, url.port
        assert host is not None
        assert port is not None
        try:
            found = await self._resolver.resolve(host, port, socket.AF_UNSPEC)
        except OSError as error:
            text = f"the name {host} could not be resolved: {error.strerror or error}"
            failure = ConnectError(text)
            failure.__cause__ = error
            raise failure from error
        addresses = [
            (
                one["family"],
                socket.SOCK_STREAM,
                one["proto"],
                "",
                (one["host"], one["port"])
                if one["family"] == socket.AF_INET
                else (one["host"], one["port"], 0, 0),
            )
            for one in found
        ]
        try:
            return await aiohappyeyeballs.start_connection(
                addresses, happy_eyeballs_delay=_HAPPY_EYEBALLS_DELAY, interleave=1
            )
        except OSError as error:
            text = f"{host} port {port} could not be reached: {error.strerror or error}"
            raise ConnectError(text) from error

    async def _context(self) -> ssl.SSLContext:
        """Returns the TLS context; the default one is made once, off the loop, since that takes a tenth of a second."""
        given = self._options.ssl
        if isinstance(given, ssl.SSLContext):
            return given
        making = _default_context(bool(given))
        # Shielded: others wait for the same one.
        return making.result() if making.done() else await asyncio.shield(asyncio.wrap_future(making))


@functools.cache
def _default_context(verified: bool) -> Future[ssl.SSLContext]:
    """Begins to make the context that all clients share, whoever asks first; many may ask before it is there."""
    maker = ThreadPoolExecutor(1, thread_name_prefix="resilient_ws:tls")
    making = maker.submit(_make_context, verified)
    maker.shutdown(wait=False)
    return making


@functools.cache
def _find_mask() -> Mask | None:
    """Returns a compiled masking function; without one, messages are written one by one."""
    mask = cast("Mask | None", aiohttp_outlet.mask)
    return mask if mask is not None and is_mask(mask) else None


def _make_context(verified: bool) -> ssl.SSLContext:
    context = ssl.create_default_context()
    if not verified:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _sent(endpoint: Endpoint, headers: CIMultiDict[str]) -> CIMultiDict[str]:
    """Returns what is sent besides the handshake's own header fields."""
    sent = headers.copy()
    host = host_without_zone(endpoint.url)
    if host is not None and "Host" not in sent:
        sent["Host"] = host
    named = authorization(endpoint.url)
    if named is not None:
        sent["Authorization"] = named
    if endpoint.subprotocols:
        sent["Sec-WebSocket-Protocol"] = ", ".join(endpoint.subprotocols)
    return sent


def _joined(response: WSUpgradeResponse) -> Mapping[str, str]:
    """Returns the header fields of an answer; repeated ones are joined (RFC 9110 section 5.3)."""
    joined = CIMultiDict[str]()
    for name in dict.fromkeys(name.lower() for name in response.headers):
        joined[name] = ", ".join(response.headers.getall(name))
    return joined


def _free(sock: socket.socket) -> None:
    """Frees the socket of a dial that failed: its transport, if it has one already, hears that it is at its end."""
    try:
        sock.shutdown(socket.SHUT_RDWR)
    except OSError:
        return


def _check(options: TransportOptions) -> None:
    if not isinstance(options.ssl, bool | ssl.SSLContext):
        raise TypeError(
            "ssl must be True, False or an ssl.SSLContext with transport='picows', "
            f"got {type(options.ssl).__name__}"
        )
    unsupported: dict[str, Any] = {
        "proxy": options.proxy,
        "session": options.session,
        "compression": options.compression,
    }
    for name, value in unsupported.items():
        if value is not None:
            raise ValueError(f"{name} must be None with transport='picows', which has none; 'aiohttp' has")
