"""Applies the settings of a lent `aiohttp.ClientSession`, and refuses those that are not supported.

Each parameter of `ClientSession` and of its connectors is in one of the tables below; a test compares them with the
installed aiohttp, so that a new one is not passed over. What aiohttp does not publish is read from the attributes that
its own constructor sets.
"""

from __future__ import annotations

import asyncio
import base64
import socket
from typing import Any, Final

import attrs
from aiohttp import (
    BaseConnector,
    ClientRequest,
    ClientResponse,
    ClientSession,
    ClientWebSocketResponse,
    HttpVersion11,
    TCPConnector,
    hdrs,
)
from multidict import CIMultiDict
from yarl import URL

from resilient_ws.api.endpoints import Endpoint, is_handshake_header
from resilient_ws.api.errors import ConnectError
from resilient_ws.transports.options import TransportOptions
from resilient_ws.transports.shared.dialing import Ways
from resilient_ws.transports.shared.handshake import authorization
from resilient_ws.transports.shared.proxies import Proxy, parse_proxy

HONOURED: Final = frozenset(
    {
        "auth",
        "base_url",  # an address of ours is absolute; it limits where `auth` goes
        "connector",
        "cookie_jar",
        "cookies",
        "headers",
        "loop",
        "max_field_size",
        "max_headers",
        "max_line_size",
        "middlewares",
        "proxy",
        "proxy_auth",
        "read_bufsize",
        "skip_auto_headers",
        "timeout",
        "conn_timeout",
        "read_timeout",
        "trace_configs",
        "trust_env",
    }
)
"""Parameters of `ClientSession` that apply to our handshakes."""

WITHOUT_EFFECT: Final = frozenset(
    {
        "auto_decompress",  # of a body
        "connector_owner",  # we close neither the session nor its connector
        "fallback_charset_resolver",  # of a body
        "json_serialize",  # of a request's body: `ws_connect` of aiohttp does not use it either
        "json_serialize_bytes",
        "requote_redirect_url",  # we follow redirects byte for byte
        "ssl_shutdown_timeout",  # we abort
    }
)
"""Parameters that mean nothing in a WebSocket handshake, in that of aiohttp either."""

REFUSED: Final = frozenset(
    {
        "raise_for_status",
        "request_class",
        "response_class",
        "version",
        "ws_response_class",
    }
)
"""Parameters that we cannot honour: `ValueError` unless they have their default."""

CONNECTOR: Final = frozenset(
    {
        "dns_cache_max_size",
        "enable_cleanup_closed",
        "family",
        "fingerprint",
        "force_close",
        "happy_eyeballs_delay",
        "interleave",
        "keepalive_timeout",
        "limit",
        "limit_per_host",
        "local_addr",
        "loop",
        "resolver",
        "socket_factory",
        "ssl",
        "ssl_context",
        "ssl_shutdown_timeout",
        "timeout_ceil_threshold",
        "ttl_dns_cache",
        "use_dns_cache",
        "verify_ssl",
    }
)
"""Parameters of connectors: the lent connector dials by itself. With a proxy we dial: then see `Lent`."""

_DEFAULT_LIMIT: Final = 100


class Lent:
    """A lent session.

    With a proxy, its own or ours, the tunnel is ours; then the resolver, family, local address and TLS settings of its
    connector apply, and limits of their number are refused.

    Args:
        session: What is lent.
        options: Of the client, which go before those of the session.

    Attributes:
        session: What is lent.
        options: Those of the client, with what the session adds.
        ways: How names and sockets are made where we dial.
        settings: What a session of ours takes over from it.
        middlewares: Of the program; ours come after them.

    Raises:
        ValueError: A setting of it cannot be honoured; the text names it.
    """

    __slots__ = ("middlewares", "options", "session", "settings", "ways")

    def __init__(self, session: ClientSession, options: TransportOptions) -> None:
        self.session = session
        _check_classes(session)
        for name in ("unix_socket", "local_address"):
            if getattr(options, name) is not None:
                raise ValueError(f"{name} and session exclude each other: the connector of the session dials")
        connector = session.connector
        self.ways = _ways_of(connector)
        self.options = _with_proxy_of(session, options)
        if self.options.proxy is not None and self.options.proxy != "env":
            _check_connector(connector)
        if isinstance(connector, TCPConnector) and options.ssl is True and self.options.proxy is not None:
            self.options = attrs.evolve(self.options, ssl=_own(connector, "_ssl", default=True))
        self.middlewares = tuple(_own(session, "_middlewares", ()))
        self.settings: dict[str, Any] = {
            "timeout": session.timeout,
            "skip_auto_headers": session.skip_auto_headers,
            "trace_configs": session.trace_configs,
            **{
                name: _own(session, f"_{name}", default)
                for name, default in (
                    ("read_bufsize", 2**18),
                    ("max_line_size", 8190),
                    ("max_field_size", 8190),
                    ("max_headers", 128),
                )
                if hasattr(session, f"_{name}")
            },
        }

    def check_open(self, loop: asyncio.AbstractEventLoop) -> BaseConnector:
        """Return its connector.

        Raises:
            ConnectError: It is closed, or belongs to another event loop.
        """
        lent = self.session
        if lent.closed or lent.connector is None:
            raise ConnectError("the session that was passed as session= is closed", retryable=False)
        # aiohttp itself would wait for ever; it has no public name for this.
        if _own(lent.connector, "_loop", None) not in {None, loop}:
            raise ConnectError(
                "the session that was passed as session= belongs to another event loop", retryable=False
            )
        return lent.connector

    def check(self, proxy: Proxy | None) -> None:
        """Raise `ConnectError` where the environment names a proxy, and its connector cannot be honoured with one."""
        if proxy is None or self.options.proxy != "env":
            return
        try:
            _check_connector(self.session.connector)
        except ValueError as error:
            raise ConnectError(str(error), retryable=False) from None

    async def headers(self, endpoint: Endpoint) -> CIMultiDict[str]:
        """Return what is sent besides the handshake's own: the defaults of the session, under those of the endpoint."""
        lent = self.session
        own = CIMultiDict(endpoint.headers)
        headers = own.copy()
        named = authorization(endpoint.url) is not None
        for name, value in lent.headers.items():
            is_replaced = name in own or (name == hdrs.AUTHORIZATION and named)
            if not is_replaced and not is_handshake_header(name):
                headers.add(name, value)
        if hdrs.AUTHORIZATION not in headers and not named:
            login = await self._login(endpoint.url)
            if login is not None:
                headers[hdrs.AUTHORIZATION] = login
        return headers

    async def _login(self, url: URL) -> str | None:
        """Return what `auth` of the session says, or with `trust_env` a netrc file."""
        lent = self.session
        auth = lent.auth
        base: URL | None = _own(lent, "_base_url_origin", None)
        if auth is not None and (base is None or base == _as_http(url).origin()):
            return _basic(auth)
        look_up = getattr(lent, "_get_netrc_auth", None)
        if auth is None and lent.trust_env and look_up is not None and url.host is not None:
            found = await asyncio.get_running_loop().run_in_executor(None, look_up, url.host)
            return _basic(found) if found is not None else None
        return None


def _as_http(url: URL) -> URL:
    return url.with_scheme("https" if url.scheme == "wss" else "http")


def _basic(auth: Any) -> str:
    return "Basic " + base64.b64encode(f"{auth.login}:{auth.password}".encode(auth.encoding)).decode()


def _own(lent: object, name: str, default: Any) -> Any:
    """Return an attribute that aiohttp does not publish."""
    return getattr(lent, name, default)


def _check_classes(session: ClientSession) -> None:
    kinds = {
        "request_class": ClientRequest,
        "response_class": ClientResponse,
        "ws_response_class": ClientWebSocketResponse,
    }
    for name, kind in kinds.items():
        if _own(session, f"_{name}", kind) is not kind:
            raise ValueError(f"session has a {name} of its own, which is not used here; lend one without")
    if callable(session.raise_for_status):
        raise ValueError(  # noqa: TRY004 - its type is one that aiohttp takes
            "session has a raise_for_status function, which is not called here; lend one without"
        )
    if session.version != HttpVersion11:
        raise ValueError("session must have version=HttpVersion11, in which RFC 6455 has its handshake")


def _ways_of(connector: BaseConnector | None) -> Ways:
    if type(connector) is not TCPConnector:
        return Ways()
    return Ways(
        resolver=_own(connector, "_resolver", None) or Ways().resolver,
        family=connector.family or socket.AF_UNSPEC,
        delay=_own(connector, "_happy_eyeballs_delay", Ways().delay),
        make_socket=_own(connector, "_socket_factory", None),
        local=tuple(_own(connector, "_local_addr_infos", None) or ()),
    )


def _check_connector(connector: BaseConnector | None) -> None:
    if type(connector) is not TCPConnector:
        raise ValueError(
            f"session has a connector of its own kind ({type(connector).__name__}), which no proxy can be used with"
        )
    for name, default in (("limit", {0, _DEFAULT_LIMIT}), ("limit_per_host", {0})):
        value = getattr(connector, name)
        if value not in default:
            raise ValueError(
                f"session has a connector with {name}={value}, which does not count connections through a proxy"
            )


def _with_proxy_of(session: ClientSession, options: TransportOptions) -> TransportOptions:
    """Return the options with the proxy of the session, where the client has none of its own."""
    if options.proxy is not None:
        return options
    proxy = _own(session, "_default_proxy", None)
    if proxy is None:
        return attrs.evolve(options, proxy="env") if session.trust_env else options
    try:
        parse_proxy(proxy)
    except ValueError as error:
        raise ValueError(str(error).replace("proxy", "session: its proxy", 1)) from None
    url = URL(proxy)
    auth = _own(session, "_default_proxy_auth", None)
    if auth is not None:
        url = url.with_user(auth.login).with_password(auth.password)
        parse_proxy(url)
    return attrs.evolve(options, proxy=url)
