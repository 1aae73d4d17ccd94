"""Opens WebSocket connections with aiohttp.

A session of our own makes each handshake. Its middleware (public API) sees every answer before aiohttp acts on it, so
that redirects are followed by our rules and a connection lost in the handshake is not silently dialed a second time.
Foreign exceptions end here. Where the text of one could show a URL, a header or a proxy password, ours stands alone.
"""

from __future__ import annotations

import asyncio
import contextlib
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
    TCPConnector,
    hdrs,
)
from aiohttp.abc import AbstractCookieJar
from aiohttp.connector import Connection
from multidict import CIMultiDict, CIMultiDictProxy
from propcache.api import under_cached_property
from yarl import URL

from resilient_ws.endpoints import Endpoint, is_handshake_header
from resilient_ws.errors import ConnectError
from resilient_ws.transports.aiohttp_direct import DirectLink
from resilient_ws.transports.aiohttp_errors import translate
from resilient_ws.transports.aiohttp_link import AiohttpLink
from resilient_ws.transports.aiohttp_response import DirectResponse
from resilient_ws.transports.aiohttp_trial import is_supported
from resilient_ws.transports.base import Link, Receiver
from resilient_ws.transports.handshake import (
    REDIRECTS,
    authorization,
    host_without_zone,
    says_upgrade,
    verify,
)
from resilient_ws.transports.options import TransportOptions
from resilient_ws.transports.proxies import parse_proxy, proxy_from_environment
from resilient_ws.transports.redirects import Redirected, follow
from resilient_ws.transports.resolver import LookupResolver

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
        """The header fields."""
        return _joined(super().headers)

    def hand_over(self) -> Connection:
        """Returns the connection, which is not the answer's any more, and lets go of the session."""
        connection, self._connection, self._session = self._connection, None, None
        assert connection is not None
        return connection

    async def start(self, connection: Connection) -> ClientResponse:
        """Waits for the answer; if that fails, frees the socket at once.

        To close it, as aiohttp does, can take half a minute where a peer is mute in TLS.
        """
        transport = connection.transport
        try:
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
    """Returns extensions as aiohttp reads them: in lower case, without quotes and blanks (RFC 6455 section 9.1 has both)."""
    return ";".join(part.strip() for part in extensions.lower().replace('"', "").split(";"))


def _addressed(headers: CIMultiDict[str], url: URL) -> CIMultiDict[str]:
    """Returns the header fields with those that the address stands for, where aiohttp would send something else."""
    headers = headers.copy()
    host, named = host_without_zone(url), authorization(url)
    if host is not None:
        headers.setdefault(hdrs.HOST, host)
    if named is not None:  # aiohttp would take Latin-1, which has not every character
        headers[hdrs.AUTHORIZATION] = named
    return headers


class _Handshake:
    """The middleware of one dial: verifies the answer and keeps hold of what aiohttp hides."""

    __slots__ = ("_extensions", "_jar", "_max_size", "_offered", "_sockets", "response", "transport")

    def __init__(self, offered: tuple[str, ...], options: TransportOptions, jar: AbstractCookieJar) -> None:
        self._offered = offered
        self._extensions = options.compression is not None
        self._max_size = options.max_message_size
        self._jar = jar
        self._sockets: list[socket.socket] = []
        self.response: ClientResponse | None = None
        self.transport: asyncio.Transport | None = None

    def make_socket(self, info: tuple[Any, ...]) -> socket.socket:
        """Makes a socket for aiohttp, and remembers it."""
        made = socket.socket(info[0], info[1], info[2])
        self._sockets.append(made)
        return made

    async def make(self, request: ClientRequest, handler: ClientHandlerType) -> ClientResponse:
        """Sends the request, and takes the answer."""
        try:
            response = await handler(request)
        except Exception as error:  # noqa: BLE001 - whatever it is, it fails this attempt and not the client
            # Also keeps aiohttp from dialing once more: it retries only exceptions of its own.
            failure = translate(error)
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
        """Returns what becomes of the answer."""
        if not is_supported():
            return ClientWebSocketResponse(*args, **kwargs)
        return DirectResponse(self._max_size, *args, **kwargs)

    def forget(self) -> None:
        """Lets go of all it knows: the socket keeps the context of its dial, and so this object, while it is open."""
        self.response = self.transport = None
        self._sockets.clear()
        del self._jar

    def abort(self) -> None:
        """Frees what did not become a connection, also a socket that aiohttp is saying goodbye to."""
        if self.transport is not None:
            self.transport.abort()
        if self.response is not None:
            self.response.close()
        for one in self._sockets:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)


_dialing: ContextVar[_Handshake] = ContextVar("_dialing")
"""The dial of the moment, for what a session calls."""


def _make_socket(info: tuple[Any, ...]) -> socket.socket:
    return _dialing.get().make_socket(info)


async def _shake_hands(request: ClientRequest, handler: ClientHandlerType) -> ClientResponse:
    return await _dialing.get().make(request, handler)


def _made(*args: Any, **kwargs: Any) -> ClientWebSocketResponse:
    return _dialing.get().made(*args, **kwargs)


def _session(connector: BaseConnector, jar: AbstractCookieJar) -> ClientSession:
    return ClientSession(
        connector=connector,
        connector_owner=False,
        cookie_jar=jar,
        timeout=_NO_TIMEOUT,
        middlewares=(_shake_hands,),
        response_class=_Answer,
        ws_response_class=cast("type[ClientWebSocketResponse]", _made),  # it is only ever called
    )


class _Shared:
    """The session by which all clients of an event loop dial that are lent none: it keeps no connection for another use.

    It goes with the last client. A connector for each would be a third of the memory of an idle one; a session for each
    dial would be made between a loss and the dial, where it is waited for.
    """

    def __init__(self) -> None:
        connector = TCPConnector(
            resolver=LookupResolver(),
            use_dns_cache=False,
            limit=0,
            force_close=True,
            ssl=True,
            socket_factory=_make_socket,
        )
        self.session = _session(connector, DummyCookieJar())
        # Left open, it would warn. (A `__del__` might be called after that of the session.)
        finalize(self, self.session.detach)


_shared: WeakValueDictionary[asyncio.AbstractEventLoop, _Shared] = WeakValueDictionary()


class AiohttpTransport:
    """The `Transport` that `transport="aiohttp"` names."""

    __slots__ = ("_options", "_shared")

    def __init__(self, options: TransportOptions) -> None:
        check(options)
        if options.max_message_size > _LARGEST:
            options = attrs.evolve(options, max_message_size=_LARGEST)
        self._options = options
        self._shared: _Shared | None = None  # held for as long as this client may dial

    async def open(self, endpoint: Endpoint, receiver: Receiver, /) -> Link:
        """Connects and shakes hands, by way of at most five redirects."""
        return await follow(
            endpoint, self._headers(endpoint), lambda target, headers: self._dial(target, headers, receiver)
        )

    def _headers(self, endpoint: Endpoint) -> CIMultiDict[str]:
        """Returns what is sent besides the handshake's own: the defaults of a lent session, under those of the endpoint."""
        own = CIMultiDict(endpoint.headers)
        if self._options.session is None:
            return own
        headers = own.copy()
        named = authorization(endpoint.url) is not None
        lent: ClientSession = self._options.session
        for name, value in lent.headers.items():
            is_replaced = name in own or (name == hdrs.AUTHORIZATION and named)
            if not is_replaced and not is_handshake_header(name):
                headers.add(name, value)
        return headers

    async def _dial(self, endpoint: Endpoint, headers: CIMultiDict[str], receiver: Receiver) -> Link:
        options = self._options
        headers = _addressed(headers, endpoint.url)
        session = self._session()
        handshake = _Handshake(endpoint.subprotocols, options, session.cookie_jar)
        dialing = _dialing.set(handshake)
        opened: ClientWebSocketResponse | None = None
        failure: ConnectError | None = None
        try:
            opened = await session.ws_connect(
                endpoint.url.with_user(None),
                headers=headers,
                protocols=endpoint.subprotocols,
                timeout=_HARDLY_ANY_WAIT,
                autoclose=False,
                autoping=False,
                compress=_DEFLATE_WINDOW_BITS if options.compression else 0,
                # aiohttp refuses a message of exactly its limit; ours is inclusive.
                max_msg_size=options.max_message_size + 1,
                proxy=self._proxy(endpoint.url),
                ssl=options.ssl,
            )
        except Redirected:
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is, it fails this attempt and not the client
            failure = translate(error)
        finally:
            _dialing.reset(dialing)
            # The connection belongs to the link from here on; a session left open would warn.
            if options.session is not None:
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

    def _session(self) -> ClientSession:
        lent: ClientSession | None = self._options.session
        loop = asyncio.get_running_loop()
        if lent is None:
            self._shared = _shared.get(loop)
            if self._shared is None:
                self._shared = _shared[loop] = _Shared()
            return self._shared.session
        if lent.closed or lent.connector is None:
            raise ConnectError("the session that was passed as session= is closed", retryable=False)
        # aiohttp itself would wait for ever; it has no public name for this.
        if getattr(lent.connector, "_loop", None) not in (None, loop):
            raise ConnectError(
                "the session that was passed as session= belongs to another event loop", retryable=False
            )
        return _session(lent.connector, lent.cookie_jar)

    def _proxy(self, url: URL) -> str | URL | None:
        if self._options.proxy != "env":
            return self._options.proxy
        return proxy_from_environment(url)


def check(options: TransportOptions) -> None:
    """Raises `TypeError` or `ValueError` for an option that aiohttp cannot honour."""
    if not isinstance(options.ssl, bool | SSLContext | Fingerprint):
        raise TypeError(
            f"ssl must be True, False, an ssl.SSLContext or aiohttp.Fingerprint, got {type(options.ssl).__name__}"
        )
    if options.session is not None and not isinstance(options.session, ClientSession):
        raise TypeError(
            f"session must be an aiohttp.ClientSession or None, got {type(options.session).__name__}"
        )
    if options.proxy != "env":
        _check_proxy(options.proxy)


def _check_proxy(value: object) -> None:
    if value is None:
        return
    if not isinstance(value, str | URL):
        raise TypeError(f"proxy must be a str, yarl.URL or None, got {type(value).__name__}")
    if parse_proxy(value) is None:
        raise ValueError("proxy must be an http:// or https:// URL with a host, or 'env'")
