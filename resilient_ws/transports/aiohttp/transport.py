"""Opens WebSocket connections with aiohttp.

A session of our own makes each handshake. Its middleware (public API) sees every answer before aiohttp acts on it, so
that redirects are followed by our rules and a connection lost in the handshake is not silently dialed a second time.
Foreign exceptions end here. Where the text of one could show a URL, a header or a proxy password, ours stands alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import re
import socket
from contextvars import ContextVar
from ssl import SSLContext
from typing import Any, Final, cast
from weakref import WeakValueDictionary, finalize

import attrs
from aiohttp import (
    BaseConnector,
    ClientHandlerType,
    ClientRequest,
    ClientResponse,
    ClientSession,
    ClientTimeout,
    ClientWebSocketResponse,
    ClientWSTimeout,
    DummyCookieJar,
    Fingerprint,
    hdrs,
)
from aiohttp.abc import AbstractCookieJar, AbstractResolver, ResolveResult
from aiohttp.connector import Connection
from multidict import CIMultiDict, CIMultiDictProxy
from propcache.api import under_cached_property
from yarl import URL

from resilient_ws.api.endpoints import Endpoint
from resilient_ws.api.errors import ConnectError
from resilient_ws.transports.aiohttp.direct import DirectLink
from resilient_ws.transports.aiohttp.errors import translate
from resilient_ws.transports.aiohttp.lent_session import Lent
from resilient_ws.transports.aiohttp.link import AiohttpLink
from resilient_ws.transports.aiohttp.probe import is_supported
from resilient_ws.transports.aiohttp.response import DirectResponse
from resilient_ws.transports.options import TransportOptions
from resilient_ws.transports.seam import Link, Receiver
from resilient_ws.transports.shared.carriers import Connector, is_trusted, try_fastnet
from resilient_ws.transports.shared.dialing import Reach
from resilient_ws.transports.shared.handshake import (
    AGENT,
    REDIRECTS,
    authorization,
    host_without_zone,
    says_upgrade,
    verify,
)
from resilient_ws.transports.shared.http_heads import LONGEST
from resilient_ws.transports.shared.proxies import parse_proxy
from resilient_ws.transports.shared.redirects import Elsewhere, Redirected, follow
from resilient_ws.transports.shared.tls_bridge import Near
from resilient_ws.transports.shared.tls_context import check_protocol, default_context

_NO_TIMEOUT: Final = ClientTimeout(total=None, connect=None, sock_connect=None, sock_read=None)
# Not for type checkers: its fields are declared in a way of attrs that they do not know.
_HARDLY_ANY_WAIT: Final = cast("Any", ClientWSTimeout)(ws_receive=None, ws_close=0.001)
_DEFLATE_WINDOW_BITS: Final = 15
_LARGEST: Final = 2**32 - 2
"""Bytes of the largest message that aiohttp can take: it holds the limit, one more, in 32 bits."""
_JOINED: Final = (
    hdrs.CONNECTION,
    hdrs.UPGRADE,
    hdrs.SEC_WEBSOCKET_ACCEPT,
    hdrs.SEC_WEBSOCKET_EXTENSIONS,
    hdrs.SEC_WEBSOCKET_PROTOCOL,
)


class _Answer(ClientResponse):
    """An answer to a handshake, its header fields joined where they are repeated.

    aiohttp wants `Connection` to be the one word `Upgrade`; a server may name other options beside it.
    """

    @under_cached_property
    def headers(self) -> CIMultiDictProxy[str]:
        """Return the header fields."""
        return _joined(super().headers)

    def hand_over(self) -> Connection:
        """Return the connection, which is not the answer's any more, and let go of the session."""
        connection, self._connection, self._session = self._connection, None, None
        assert connection is not None
        return connection

    async def start(self, connection: Connection) -> ClientResponse:
        """Wait for the answer; if that fails, free the socket at once.

        To close it, as aiohttp does, can take half a minute where a peer is mute in TLS.
        """
        transport = connection.transport
        try:
            check_protocol(transport)
            _dialing.get().is_sent()
            return await super().start(connection)
        except BaseException:
            if transport is not None:
                transport.abort()
            raise


def _joined(headers: CIMultiDictProxy[str]) -> CIMultiDictProxy[str]:
    repeated = [name for name in _JOINED if len(headers.getall(name, ())) > 1]
    extensions = headers.get(hdrs.SEC_WEBSOCKET_EXTENSIONS)
    if not (repeated or extensions) and headers.get(hdrs.CONNECTION, "").lower() == "upgrade":
        return headers
    merged = CIMultiDict(headers)
    for name in repeated:
        merged[name] = ", ".join(headers.getall(name))
    if extensions:
        merged[hdrs.SEC_WEBSOCKET_EXTENSIONS] = _plain(merged[hdrs.SEC_WEBSOCKET_EXTENSIONS])
    if says_upgrade(merged):
        merged[hdrs.CONNECTION] = "Upgrade"
    return CIMultiDictProxy(merged)


def _plain(extensions: str) -> str:
    """Return extensions as aiohttp reads them: in lower case, without quotes and blanks (RFC 6455 section 9.1 has both)."""
    parts = [part.strip() for part in extensions.lower().replace('"', "").split(";")]
    # Legal (RFC 7692 section 7.1.2.1), and what fits a small window fits ours; aiohttp refuses it.
    return ";".join(part for part in parts if re.sub(r"\s", "", part) != "server_max_window_bits=8")


def _addressed(headers: CIMultiDict[str], url: URL, lent: Lent | None) -> CIMultiDict[str]:
    """Return the header fields with those that the address stands for, where aiohttp would send something else."""
    headers = headers.copy()
    host, named = host_without_zone(url), authorization(url)
    if host is not None:
        headers.setdefault(hdrs.HOST, host)
    if named is not None:  # aiohttp would take Latin-1, which has not every character
        headers[hdrs.AUTHORIZATION] = named
    if lent is None or hdrs.USER_AGENT not in lent.session.skip_auto_headers:
        headers.setdefault(hdrs.USER_AGENT, AGENT)
    return headers


class _Handshake:
    """The middleware of one dial: verifies the answer and keeps hold of what aiohttp hides."""

    __slots__ = (
        "_extensions",
        "_jar",
        "_max_size",
        "_offered",
        "_reach",
        "_sock",
        "_sockets",
        "_url",
        "response",
        "through",
        "transport",
    )

    def __init__(
        self, endpoint: Endpoint, options: TransportOptions, jar: AbstractCookieJar, reach: Reach
    ) -> None:
        self._url = endpoint.url
        self._reach = reach
        self._sock: socket.socket | None = None  # connected
        self.through = ""
        self._offered = endpoint.subprotocols
        self._extensions = options.compression is not None
        self._max_size = options.max_message_size
        self._jar = jar
        self._sockets: list[socket.socket] = []
        self.response: ClientResponse | None = None
        self.transport: asyncio.Transport | None = None

    def use(self, sock: socket.socket, through: str) -> None:
        """Has aiohttp use a socket that is connected."""
        self._sock = sock
        self._sockets.append(sock)
        self.through = through
        host = self._url.raw_host
        self._reach.waits_for = (
            f"the TLS handshake with {host}{through}"
            if self._url.scheme == "wss"
            else f"the answer of {host} to the handshake{through}"
        )

    def is_sent(self) -> None:
        """Note that the request has been written."""
        self._reach.waits_for = f"the answer of {self._url.raw_host} to the handshake{self.through}"

    def take_socket(self) -> socket.socket:
        """Return the socket; aiohttp believes that it connects it."""
        sock, self._sock = self._sock, None
        if sock is None:  # aiohttp tries once more with the next address, of which it knows none
            raise OSError(errno.ENOTCONN, "the connection has failed")
        return sock

    async def make(self, request: ClientRequest, handler: ClientHandlerType) -> ClientResponse:
        """Send the request, and take the answer."""
        try:
            response = await handler(request)
        except Exception as error:  # noqa: BLE001 - any exception fails the attempt, not the client
            # Also keeps aiohttp from dialing once more: it retries only exceptions of its own.
            failure = translate(error, self._url, self.through)
        else:
            return self._take(request, response)
        raise failure

    def _take(self, request: ClientRequest, response: ClientResponse) -> ClientResponse:
        self.response = response
        if response.connection is not None:
            self.transport = response.connection.transport
        if response.status != 101:
            self._jar.update_cookies(response.cookies, response.url)
        location = response.headers.get(hdrs.LOCATION)
        if response.status in REDIRECTS and location is not None:
            raise Redirected(location, response.status, response.headers)
        verify(
            response.status,
            response.headers,
            key=request.headers.get(hdrs.SEC_WEBSOCKET_KEY, ""),
            offered=self._offered,
            extensions=self._extensions,
            version=response.version or (1, 1),
        )
        return response

    def made(self, *args: Any, **kwargs: Any) -> ClientWebSocketResponse:
        """Return what becomes of the answer."""
        if not (is_supported() and is_trusted(self.transport)):
            return ClientWebSocketResponse(*args, **kwargs)
        return DirectResponse(self._max_size, *args, **kwargs)

    def forget(self) -> None:
        """Let go of all it knows: the socket keeps the context of its dial, and so this object, while it is open."""
        self.response = self.transport = None
        self._sockets.clear()
        self._sock = None
        del self._jar, self._reach

    def abort(self) -> None:
        """Free what did not become a connection, also a socket that aiohttp is saying goodbye to."""
        if self.transport is not None:
            self.transport.abort()
        if self.response is not None:
            self.response.close()
        for one in self._sockets:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        if self._sock is not None:
            self._sock.close()


_dialing: ContextVar[_Handshake] = ContextVar("_dialing")
"""The current dial, for the hooks of a session."""


class _Connected(socket.socket):
    """A connected socket in the hands of something that would connect it."""

    def connect(self, address: Any, /) -> None:
        """Do nothing: it is connected, and not to `address` where a proxy or a Unix socket leads there."""


def _taken(_: tuple[Any, ...]) -> socket.socket:
    return _dialing.get().take_socket()


class _NoResolver(AbstractResolver):
    """What aiohttp asks for the addresses of a host that is connected already."""

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """Return one that is never used."""
        del family
        return [
            ResolveResult(hostname=host, host="192.0.2.1", port=port, family=socket.AF_INET, proto=0, flags=0)
        ]

    async def close(self) -> None:
        """Do nothing."""


async def _shake_hands(request: ClientRequest, handler: ClientHandlerType) -> ClientResponse:
    return await _dialing.get().make(request, handler)


def _made(*args: Any, **kwargs: Any) -> ClientWebSocketResponse:
    return _dialing.get().made(*args, **kwargs)


def _session(connector: BaseConnector, jar: AbstractCookieJar, lent: Lent | None = None) -> ClientSession:
    settings: dict[str, Any] = _SETTINGS if lent is None else lent.settings
    return ClientSession(
        connector=connector,
        connector_owner=False,
        cookie_jar=jar,
        middlewares=(*(() if lent is None else lent.middlewares), _shake_hands),
        response_class=_Answer,
        ws_response_class=cast("type[ClientWebSocketResponse]", _made),  # it is only ever called
        **settings,
    )


_SETTINGS: Final[dict[str, Any]] = {
    "timeout": _NO_TIMEOUT,
    # picows sends neither; a handshake has no content to negotiate.
    "skip_auto_headers": (hdrs.ACCEPT, hdrs.ACCEPT_ENCODING),
    "max_line_size": LONGEST,
    "max_field_size": LONGEST,
}


class _Shared:
    """The session by which all clients of an event loop dial that are lent none: it keeps no connection for another use.

    It goes with the last client. A connector for each would be a third of the memory of an idle one; a session for each
    dial would be made between a loss and the dial, where it is waited for.
    """

    def __init__(self) -> None:
        connector = Connector(
            resolver=_NoResolver(),
            use_dns_cache=False,
            limit=0,
            force_close=True,
            socket_factory=_taken,
        )
        self.session = _session(connector, DummyCookieJar())
        # Left open, it would warn. (A `__del__` might be called after that of the session.)
        finalize(self, self.session.detach)


_shared: WeakValueDictionary[asyncio.AbstractEventLoop, _Shared] = WeakValueDictionary()


class AiohttpTransport:
    """The `Transport` that `transport="aiohttp"` names.

    Attributes:
        on_redirect: Awaited before a redirect to another origin is dialed; `None` = nothing is.
    """

    __slots__ = ("_lent", "_options", "_reach", "_shared", "on_redirect")

    def __init__(self, options: TransportOptions) -> None:
        check(options)
        if options.max_message_size > _LARGEST:
            options = attrs.evolve(options, max_message_size=_LARGEST)
        self._lent = Lent(options.session, options) if options.session is not None else None
        if self._lent is not None:
            options = self._lent.options
        self._options = options
        self._reach = Reach(options, self._lent.ways if self._lent is not None else None)
        self._shared: _Shared | None = None  # held for as long as this client may dial
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
        headers = CIMultiDict(endpoint.headers)
        if self._lent is not None:
            headers = await self._lent.headers(endpoint)
        return await follow(
            endpoint, headers, lambda target, sent: self._dial(target, sent, receiver), self._elsewhere
        )

    async def _elsewhere(self, endpoint: Endpoint) -> None:
        if self._options.unix_socket is not None:
            raise ConnectError(
                "the server redirected to another origin, where unix_socket does not lead", retryable=False
            )
        if self.on_redirect is not None:
            await self.on_redirect(endpoint)

    async def _dial(self, endpoint: Endpoint, headers: CIMultiDict[str], receiver: Receiver) -> Link:
        options, lent, url = self._options, self._lent, endpoint.url
        await try_fastnet()
        headers = _addressed(headers, url, lent)
        proxy = self._reach.proxy_for(url)
        # Without a proxy it is for the connector of a lent session to dial.
        dials = lent is None or proxy is not None
        if lent is not None:
            lent.check(proxy)
        session = self._session(dials=dials)
        trust: Any = options.ssl
        handshake = _Handshake(endpoint, options, session.cookie_jar, self._reach)
        dialing = _dialing.set(handshake)
        opened: ClientWebSocketResponse | None = None
        failure: ConnectError | None = None
        try:
            if dials:
                if url.scheme == "wss" and isinstance(trust, bool):
                    self._reach.waits_for = "the TLS context"
                    trust = await default_context(verified=trust)
                reached = await self._reach.open(url, proxy)
                handshake.use(_handed_over(reached.sock), reached.through)
            else:
                self._reach.waits_for = f"the connector of the lent session to reach {url.raw_host}"
            opened = await session.ws_connect(
                url.with_user(None) if url.raw_user is not None or url.raw_password is not None else url,
                headers=headers,
                protocols=endpoint.subprotocols,
                timeout=_HARDLY_ANY_WAIT,
                autoclose=False,
                autoping=False,
                compress=_DEFLATE_WINDOW_BITS if options.compression else 0,
                # aiohttp refuses a message of exactly its limit; ours is inclusive.
                max_msg_size=options.max_message_size + 1,
                ssl=trust,
            )
        except (Redirected, ConnectError):
            raise
        except Exception as error:  # noqa: BLE001 - any exception fails the attempt, not the client
            failure = translate(error, url, handshake.through)
        finally:
            _dialing.reset(dialing)
            # The connection belongs to the link from here on; a session left open would warn.
            if lent is not None:
                session.detach()
            if opened is None:
                handshake.abort()
        if failure is not None:
            raise failure
        assert opened is not None
        answer, transport = handshake.response, handshake.transport
        assert isinstance(answer, _Answer)
        assert transport is not None
        handshake.forget()
        link = DirectLink if isinstance(opened, DirectResponse) else AiohttpLink
        return link(
            cast("Any", opened),
            answer.hand_over(),
            transport,
            receiver,
            endpoint,
            headers=answer.headers,
            max_message_size=options.max_message_size,
        )

    def _session(self, *, dials: bool) -> ClientSession:
        loop = asyncio.get_running_loop()
        if dials:
            self._shared = _shared.get(loop)
            if self._shared is None:
                self._shared = _shared[loop] = _Shared()
            if self._lent is None:
                return self._shared.session
            self._lent.check_open(loop)
            connector = self._shared.session.connector
            assert connector is not None
            return _session(connector, self._lent.session.cookie_jar, self._lent)
        assert self._lent is not None
        return _session(self._lent.check_open(loop), self._lent.session.cookie_jar, self._lent)


def _handed_over(sock: socket.socket) -> socket.socket:
    """Return the same socket as one that is not connected again."""
    if isinstance(sock, Near):
        return sock
    handed = _Connected(sock.family, sock.type, sock.proto, fileno=sock.detach())
    handed.setblocking(False)  # noqa: FBT003 - its name says it
    return handed


def check(options: TransportOptions) -> None:
    """Raise `TypeError` or `ValueError` for an option that aiohttp cannot honour."""
    if not isinstance(options.ssl, bool | SSLContext | Fingerprint):
        raise TypeError(
            f"ssl must be True, False, an ssl.SSLContext or aiohttp.Fingerprint, got {type(options.ssl).__name__}"
        )
    if options.session is not None and not isinstance(options.session, ClientSession):
        raise TypeError(
            f"session must be an aiohttp.ClientSession or None, got {type(options.session).__name__}"
        )
    if options.proxy is not None and options.proxy != "env":
        parse_proxy(options.proxy)
