"""Opens WebSocket connections with picows, with our own TCP, TLS and redirects.

What picows cannot honour is refused when the client is made: sessions of aiohttp, compression, fingerprints.
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
from typing import Any, Final, cast

from multidict import CIMultiDict
from picows import WSAutoPingStrategy, WSError
from picows.picows import WSProtocol  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]

from resilient_ws.api.endpoints import Endpoint
from resilient_ws.api.errors import ConnectError
from resilient_ws.transports.options import TransportOptions
from resilient_ws.transports.picows.errors import translate
from resilient_ws.transports.picows.link import PicowsLink
from resilient_ws.transports.picows.listener import PicowsListener
from resilient_ws.transports.picows.opening import Opening
from resilient_ws.transports.seam import Link, Receiver
from resilient_ws.transports.shared import failure_texts as words
from resilient_ws.transports.shared import outlet as aiohttp_outlet
from resilient_ws.transports.shared.dialing import Reach, Reached
from resilient_ws.transports.shared.frame_writer import Mask, is_mask, mask_slowly
from resilient_ws.transports.shared.handshake import AGENT, authorization, host_without_zone
from resilient_ws.transports.shared.proxies import parse_proxy
from resilient_ws.transports.shared.redirects import Elsewhere, Redirected, follow
from resilient_ws.transports.shared.tls_context import default_context

READ_BUFFER: Final = 2048
"""Bytes that picows reads at once at first; it grows with the traffic, and never shrinks."""

# picows logs handshakes, headers included.
_silent: Final = logging.getLogger("resilient_ws.picows")
_silent.setLevel(logging.CRITICAL + 1)
_SILENT: Final = logging.LoggerAdapter(_silent)
"""Of a plain logger picows makes one more for each connection, of 700 bytes."""


class PicowsTransport:
    """The `Transport` that `transport="picows"` names.

    Attributes:
        on_redirect: Awaited before a redirect to another origin is dialed; `None` = nothing is.
    """

    def __init__(self, options: TransportOptions) -> None:
        self._options = options
        _check(options)
        self._reach = Reach(options)
        self._mask = _find_mask()
        self.on_redirect: Elsewhere | None = None

    @property
    def waits_for(self) -> str:
        """What the dial of now waits for, in words."""
        return self._reach.waits_for

    def settled(self, *, stable: bool) -> None:
        """Note that the last connection has ended, or that the attempt has failed."""
        self._reach.settled(stable=stable)

    async def open(self, endpoint: Endpoint, receiver: Receiver, /) -> Link:
        """Connect and complete the handshake, following at most five redirects."""
        return await follow(
            endpoint,
            CIMultiDict(endpoint.headers),
            lambda target, headers: self._dial(target, headers, receiver),
            self._elsewhere,
        )

    async def _elsewhere(self, endpoint: Endpoint) -> None:
        if self._options.unix_socket is not None:
            raise ConnectError(
                "the server redirected to another origin, where unix_socket does not lead", retryable=False
            )
        if self.on_redirect is not None:
            await self.on_redirect(endpoint)

    async def _dial(self, endpoint: Endpoint, headers: CIMultiDict[str], receiver: Receiver) -> Link:
        url = endpoint.url
        context: ssl.SSLContext | None = None
        if url.scheme == "wss":
            given = self._options.ssl
            self._reach.waits_for = "the TLS context"
            context = (
                given
                if isinstance(given, ssl.SSLContext)
                else await default_context(verified=given is not False)
            )
        reached = await self._reach.open(url)
        sock = reached.sock
        try:
            return await self._shake_hands(reached, context, endpoint, headers, receiver)
        except (ConnectError, Redirected, WSError, OSError, EOFError) as error:
            caught = error
        except BaseException:
            _free(sock)
            raise
        _free(sock)
        raise translate(
            url, caught, reached.through
        )  # out of the handler, so that nothing foreign is its context

    async def _shake_hands(
        self,
        reached: Reached,
        context: ssl.SSLContext | None,
        endpoint: Endpoint,
        headers: CIMultiDict[str],
        receiver: Receiver,
    ) -> Link:
        url, reach, sock = endpoint.url, self._reach, reached.sock
        host = url.raw_host or ""
        listener = PicowsListener(self._options.max_message_size)
        inner = _protocol(
            url.host_port_subcomponent or "",  # as aiohttp writes it: no final dot, no usual port
            url.raw_path_qs,
            listener,
            self._options.max_message_size,
            list(_sent(endpoint, headers).items()),
        )

        def is_sent() -> None:
            reach.waits_for = f"the answer of {host} to the handshake{reached.through}"

        opening = Opening(inner, endpoint.subprotocols, reached.through, is_sent)
        if context is not None:
            reach.waits_for = f"the TLS handshake with {host}{reached.through}"
        # Given up in the TLS handshake, aiofastnet leaves a timer for a minute; asyncio leaves nothing.
        is_tcp = sock.family in {socket.AF_INET, socket.AF_INET6}
        connect = _connect_fast if context is None and is_tcp else _connect
        try:
            await connect(opening, sock, context, host.rstrip("."))
            await opening.done
            await inner.wait_until_handshake_complete()
        except BaseException:
            opening.done.cancel()
            raise
        if listener.connection is None:
            raise words.hung_up(reached.through)
        return PicowsLink(
            listener.connection,
            listener,
            receiver,
            endpoint,
            subprotocol=opening.subprotocol,
            headers=opening.headers,
            max_message_size=self._options.max_message_size,
            mask=self._mask,
        )


def _protocol(
    host: str,
    path: str,
    listener: PicowsListener,
    max_message_size: int,
    headers: list[tuple[str, str]],
) -> Any:
    """Return what `picows.ws_connect` would make for a client."""
    return WSProtocol(
        host,
        path,
        True,  # noqa: FBT003 - it takes them by place
        lambda: listener,
        _SILENT,
        True,  # noqa: FBT003 - the connection ends where the listener raises
        None,  # no time limit for the handshake
        False,  # noqa: FBT003 - no PINGs
        None,
        None,
        WSAutoPingStrategy.PING_WHEN_IDLE,
        False,  # noqa: FBT003 - no PONGs
        max_message_size,
        headers,
        READ_BUFFER,
    )


async def _connect(opening: Opening, sock: socket.socket, context: ssl.SSLContext | None, host: str) -> None:
    loop = asyncio.get_running_loop()
    await loop.create_connection(
        lambda: opening, sock=sock, ssl=context, server_hostname=host if context is not None else None
    )


async def _connect_fast(
    opening: Opening, sock: socket.socket, context: ssl.SSLContext | None, host: str
) -> None:
    try:
        from aiofastnet import create_connection
    except ImportError:
        await _connect(opening, sock, context, host)
    else:
        await create_connection(asyncio.get_running_loop(), lambda: opening, sock=sock)


@functools.cache
def _find_mask() -> Mask:
    """Return a masking function, a compiled one if possible."""
    mask = cast("Mask | None", aiohttp_outlet.mask)
    return mask if mask is not None and is_mask(mask) else mask_slowly


def _sent(endpoint: Endpoint, headers: CIMultiDict[str]) -> CIMultiDict[str]:
    """Return what is sent besides the handshake's own header fields."""
    sent = headers.copy()
    host = host_without_zone(endpoint.url)
    if host is not None and "Host" not in sent:
        sent["Host"] = host
    named = authorization(endpoint.url)
    if named is not None:
        sent["Authorization"] = named
    if endpoint.subprotocols:
        sent["Sec-WebSocket-Protocol"] = ",".join(endpoint.subprotocols)  # as aiohttp writes it
    sent.setdefault("User-Agent", AGENT)
    return sent


def _free(sock: socket.socket) -> None:
    """Free the socket of a dial that failed: its transport, if it has one already, hears that it is at its end."""
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
        "session": options.session,
        "compression": options.compression,
    }
    for name, value in unsupported.items():
        if value is not None:
            raise ValueError(f"{name} must be None with transport='picows', which has none; 'aiohttp' has")
    if options.proxy is not None and options.proxy != "env":
        parse_proxy(options.proxy)
