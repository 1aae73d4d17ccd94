"""Opens WebSocket connections with aiohttp.

A private session makes each handshake. Its middleware (public API) sees every answer before aiohttp acts on it, so
that redirects are followed by our rules and a connection lost in the handshake is not silently dialed a second time.
Foreign exceptions end here. Where the text of one could show a URL, a header or a proxy password, ours stands alone.
"""

from __future__ import annotations

import asyncio
import functools
import urllib.request
from collections.abc import Mapping
from ssl import SSLContext
from typing import Final, cast

import attrs
from aiohttp import (
    ClientConnectorCertificateError,
    ClientConnectorDNSError,
    ClientConnectorError,
    ClientError,
    ClientHandlerType,
    ClientHttpProxyError,
    ClientProxyConnectionError,
    ClientRequest,
    ClientResponse,
    ClientResponseError,
    ClientSession,
    ClientSSLError,
    ClientTimeout,
    ClientWebSocketResponse,
    ClientWSTimeout,
    DummyCookieJar,
    Fingerprint,
    ServerDisconnectedError,
    ServerFingerprintMismatch,
    TCPConnector,
    hdrs,
)
from yarl import URL

from resilient_ws.errors import CertificateRejected, ConnectError, HandshakeRejected
from resilient_ws.events import Endpoint
from resilient_ws.transports.aiohttp_direct import DirectLink, DirectResponse, is_supported
from resilient_ws.transports.aiohttp_link import AiohttpLink
from resilient_ws.transports.base import Link, Receiver
from resilient_ws.transports.handshake import MAX_REDIRECTS, REDIRECTS, redirect, same_origin, verify
from resilient_ws.transports.options import TransportOptions

_NO_TIMEOUT: Final = ClientTimeout(total=None, connect=None, sock_connect=None, sock_read=None)
_DEFLATE_WINDOW_BITS: Final = 15


class _Redirected(Exception):  # noqa: N818 - a turn of the dialing loop, not an error
    def __init__(self, location: str) -> None:
        super().__init__("redirected")
        self.location = location


class _Handshake:
    """The middleware of one dial: verifies the answer and keeps hold of what aiohttp hides."""

    def __init__(self, offered: tuple[str, ...], extensions: bool) -> None:
        self._offered = offered
        self._extensions = extensions
        self.response: ClientResponse | None = None
        self.transport: asyncio.Transport | None = None

    async def __call__(self, request: ClientRequest, handler: ClientHandlerType) -> ClientResponse:
        failure: ConnectError | None = None
        try:
            response = await handler(request)
        except (ClientError, OSError, ValueError) as error:
            # Also keeps aiohttp from dialing once more: it retries only exceptions of its own.
            failure = translate(error)
        if failure is not None:
            raise failure
        self.response = response
        if response.connection is not None:
            self.transport = response.connection.transport
        location = response.headers.get(hdrs.LOCATION)
        if response.status in REDIRECTS and location is not None:
            raise _Redirected(location)
        verify(
            response.status,
            response.headers,
            key=request.headers.get(hdrs.SEC_WEBSOCKET_KEY, ""),
            offered=self._offered,
            extensions=self._extensions,
        )
        return response

    def abort(self) -> None:
        """Frees the socket of an answer that did not become a connection."""
        if self.transport is not None:
            self.transport.abort()
        if self.response is not None:
            self.response.close()


class AiohttpTransport:
    """The `Transport` that `transport="aiohttp"` names."""

    def __init__(self, options: TransportOptions) -> None:
        self._options = options
        check(options)

    async def open(self, endpoint: Endpoint, receiver: Receiver, /) -> Link:
        url, headers = endpoint.url, endpoint.headers
        for _ in range(MAX_REDIRECTS + 1):
            try:
                return await self._dial(attrs.evolve(endpoint, url=url, headers=headers), receiver)
            except _Redirected as turn:
                location = turn.location
            target = redirect(url, location)
            if not same_origin(url, target):
                headers = {}
            url = target
        raise ConnectError(f"the server redirected more than {MAX_REDIRECTS} times", retryable=False)

    async def _dial(self, endpoint: Endpoint, receiver: Receiver) -> Link:
        options = self._options
        handshake = _Handshake(endpoint.subprotocols, options.compression is not None)
        session = self._session(handshake, self._response_class(receiver))
        opened: ClientWebSocketResponse | None = None
        failure: ConnectError | None = None
        try:
            opened = await session.ws_connect(
                endpoint.url,
                headers=endpoint.headers,
                protocols=endpoint.subprotocols,
                timeout=ClientWSTimeout(ws_receive=None, ws_close=0.001),
                autoclose=False,
                autoping=False,
                compress=_DEFLATE_WINDOW_BITS if options.compression else 0,
                # aiohttp refuses a message of exactly its limit; ours is inclusive.
                max_msg_size=options.max_message_size + 1,
                proxy=self._proxy(endpoint.url),
                ssl=options.ssl,
            )
        except (ClientError, OSError, ValueError, RuntimeError) as error:
            failure = translate(error)
        finally:
            # The connection belongs to the link from here on; a session left open would warn.
            session.detach()
            if opened is None:
                handshake.abort()
        if failure is not None:
            raise failure
        assert opened is not None
        assert handshake.response is not None
        assert handshake.transport is not None
        link = DirectLink if isinstance(opened, DirectResponse) else AiohttpLink
        return link(
            cast("Any", opened),
            handshake.response,
            handshake.transport,
            receiver,
            endpoint,
            options.max_message_size,
        )

    def _response_class(self, receiver: Receiver) -> type[ClientWebSocketResponse]:
        """Returns what aiohttp shall make of a handshake; it is only ever called, so it may be a function."""
        if not is_supported():
            return ClientWebSocketResponse
        make = functools.partial(DirectResponse, receiver, self._options.max_message_size)
        return cast("type[ClientWebSocketResponse]", make)

    def _session(self, handshake: _Handshake, made: type[ClientWebSocketResponse]) -> ClientSession:
        lent: ClientSession | None = self._options.session
        if lent is not None:
            if lent.closed or lent.connector is None:
                raise ConnectError("the session that was passed as session= is closed", retryable=False)
            return ClientSession(
                connector=lent.connector,
                connector_owner=False,
                cookie_jar=lent.cookie_jar,
                headers=lent.headers,
                timeout=_NO_TIMEOUT,
                middlewares=(handshake,),
                ws_response_class=made,
            )
        from resilient_ws.transports.resolver import LookupResolver

        return ClientSession(
            connector=TCPConnector(
                resolver=LookupResolver(), use_dns_cache=False, limit=0, force_close=True, ssl=True
            ),
            cookie_jar=DummyCookieJar(),
            timeout=_NO_TIMEOUT,
            middlewares=(handshake,),
            ws_response_class=made,
        )

    def _proxy(self, url: URL) -> str | URL | None:
        if self._options.proxy != "env":
            return self._options.proxy
        return proxy_from_environment(url)


def proxy_from_environment(url: URL) -> str | None:
    """Returns the proxy that the environment names for `url`: `https_proxy` for wss, `http_proxy` for ws, `no_proxy`."""
    proxies = urllib.request.getproxies()
    name = "https" if url.scheme == "wss" else "http"
    host = url.host or ""
    if urllib.request.proxy_bypass(f"{host}:{url.port}") or urllib.request.proxy_bypass(host):
        return None
    return proxies.get(name) or proxies.get("all")


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
    if options.proxy is not None and options.proxy != "env":
        if not isinstance(options.proxy, str | URL):
            raise TypeError(f"proxy must be a str, yarl.URL or None, got {type(options.proxy).__name__}")
        try:
            scheme, host = URL(options.proxy).scheme, URL(options.proxy).host
        except ValueError:
            scheme, host = "", None
        if scheme not in ("http", "https") or not host:
            raise ValueError("proxy must be an http:// or https:// URL with a host, or 'env'")


def translate(error: BaseException) -> ConnectError:
    """Turns what aiohttp raised while connecting into ours; chained only where its text cannot hold a secret."""
    if isinstance(error, ConnectError):
        return error
    name = type(error).__name__
    if isinstance(error, ClientConnectorCertificateError):
        return _chained(
            CertificateRejected(
                f"the certificate of {error.host} was refused: {error.certificate_error}", retryable=False
            ),
            error.certificate_error,
        )
    if isinstance(error, ServerFingerprintMismatch):
        return CertificateRejected(
            f"the certificate of {error.host} has another fingerprint", retryable=False, foreign=name
        )
    if isinstance(error, ClientHttpProxyError):
        return HandshakeRejected(
            f"the proxy answered with HTTP {error.status}",
            status=error.status,
            headers=_plain(error),
            foreign=name,
            retryable=error.status in (408, 425, 429) or error.status >= 500,
        )
    if isinstance(error, ClientResponseError):
        if error.status == 101:
            return HandshakeRejected(
                "the server's handshake is invalid",
                status=101,
                headers=_plain(error),
                foreign=name,
                retryable=False,
            )
        return ConnectError("the server's answer to the handshake is not HTTP", foreign=name)
    if isinstance(error, ServerDisconnectedError):
        return ConnectError("the server closed the connection during the handshake", foreign=name)
    if isinstance(error, ClientConnectorDNSError):
        return _chained(
            ConnectError(f"the name {error.host} could not be resolved: {error.os_error}"), error.os_error
        )
    if isinstance(error, ClientSSLError):
        return _chained(
            ConnectError(f"the TLS handshake with {error.host} failed: {error.os_error}"), error.os_error
        )
    if isinstance(error, ClientProxyConnectionError):
        return ConnectError("the proxy could not be reached", foreign=name)
    if isinstance(error, ClientConnectorError):
        return _chained(
            ConnectError(
                f"{error.host} port {error.port} could not be reached: {error.os_error.strerror or error.os_error}"
            ),
            error.os_error,
        )
    if isinstance(error, OSError) and not isinstance(error, ClientError):
        return _chained(ConnectError(f"the connection failed: {error.strerror or name}"), error)
    return ConnectError("the connection failed during the handshake", foreign=name)


def _chained(ours: ConnectError, cause: BaseException) -> ConnectError:
    ours.__cause__ = cause
    return ours


def _plain(error: ClientResponseError) -> Mapping[str, str] | None:
    return cast("Mapping[str, str] | None", error.headers)
