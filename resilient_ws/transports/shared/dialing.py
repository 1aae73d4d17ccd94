"""Dials an endpoint for both transports: DNS, TCP, local address, Unix socket, proxy.

Each attempt asks for the name anew, and begins behind the address of it that failed last; two addresses race as RFC 8305
describes. A socket that comes out of here is connected to the server, or to a proxy that passes on what is written to it.
"""

from __future__ import annotations

import asyncio
import socket
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from ssl import SSLCertVerificationError, SSLContext, SSLError
from typing import Any, Final

import attrs
from aiohttp.abc import AbstractResolver
from yarl import URL

from resilient_ws.api.errors import ConnectError
from resilient_ws.api.record import Record
from resilient_ws.transports.options import TransportOptions
from resilient_ws.transports.shared import failure_texts as words
from resilient_ws.transports.shared.handshake import AGENT
from resilient_ws.transports.shared.proxies import Proxy, parse_proxy, proxy_from_environment
from resilient_ws.transports.shared.resolver import LookupResolver
from resilient_ws.transports.shared.tls_bridge import bridge
from resilient_ws.transports.shared.tls_context import default_context
from resilient_ws.transports.shared.tunnels import socks, tunnel

HAPPY_EYEBALLS_DELAY: Final = 0.25
"""Seconds after which the next address is tried beside the first one (RFC 8305 section 5)."""

_REMEMBERED: Final = 64
"""Names of which the last address is remembered: those of several addresses of a client, and of redirects."""

_Address = tuple[socket.AddressFamily, tuple[Any, ...]]
_Pair = tuple[socket.AddressFamily, tuple[Any, ...], tuple[Any, ...] | None]
"""Of an address: its family, it, and what is bound to."""
SocketFactory = Callable[[tuple[Any, ...]], socket.socket]


@attrs.frozen(eq=False, repr=False)
class Reached(Record):
    """A connected socket.

    Attributes:
        sock: It.
        through: For texts: by way of which proxy, with a blank before it; empty = none.
    """

    sock: socket.socket
    through: str


@attrs.frozen(kw_only=True, eq=False, repr=False)
class Ways(Record):
    """How names and sockets are made: ours, or those of a lent connector.

    Attributes:
        resolver: Looks names up.
        family: Of the addresses that are used, `AF_UNSPEC` = any.
        delay: Seconds before the next address is tried, too; `None` = when the one before has failed.
        make_socket: As aiohttp's `socket_factory`; `None` = a plain one.
        local: What is bound to: results of `getaddrinfo`; empty = nothing, or `local_address`.
    """

    resolver: AbstractResolver = attrs.field(factory=LookupResolver)
    family: int = socket.AF_UNSPEC
    delay: float | None = HAPPY_EYEBALLS_DELAY
    make_socket: SocketFactory | None = None
    local: tuple[Any, ...] = ()


class Reach:
    """Opens the sockets of one client, one at a time.

    Args:
        options: Of the transport.
        ways: How names and sockets are made.

    Attributes:
        waits_for: What is waited for now, in words.
    """

    __slots__ = ("_known", "_last", "_options", "_proxy", "_ways", "waits_for")

    def __init__(self, options: TransportOptions, ways: Ways | None = None) -> None:
        self._options = options
        self._ways = Ways() if ways is None else ways
        self._proxy = None if options.proxy in {None, "env"} else parse_proxy(options.proxy)
        self._known: OrderedDict[tuple[str, int], tuple[str, bool]] = OrderedDict()
        self._last: tuple[str, int] | None = None
        self.waits_for = ""

    def settled(self, *, stable: bool) -> None:
        """Note that the last connection has ended or failed; unless it was stable, the next address is tried."""
        known = self._known.get(self._last) if self._last is not None else None
        if known is not None and self._last is not None:
            self._known[self._last] = known[0], not stable

    def proxy_for(self, url: URL) -> Proxy | None:
        """Return the proxy that leads to `url`, `None` where there is none."""
        return proxy_from_environment(url) if self._options.proxy == "env" else self._proxy

    async def open(self, url: URL, proxy: Proxy | None = None) -> Reached:
        """Return a socket that leads to `url`.

        Raises:
            ConnectError: There is none; the text says what failed, and where.
        """
        path = self._options.unix_socket
        if path is not None:
            return Reached(await self._to_path(path), "")
        host, port = url.raw_host, url.port
        assert host is not None
        assert port is not None
        proxy = self.proxy_for(url) if proxy is None else proxy
        if proxy is None:
            return Reached(await self._to(host, port), "")
        return Reached(await self._by_way_of(proxy, host, port), f" (by way of the proxy {proxy.shown})")

    # --- Unix sockets ---

    async def _to_path(self, path: str) -> socket.socket:
        self.waits_for = f"the Unix socket {path!r}"
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.setblocking(False)  # noqa: FBT003 - its name says it
            await asyncio.get_running_loop().sock_connect(sock, path)
        except OSError as error:
            sock.close()
            text = f"the Unix socket {path!r} could not be reached: {words.words(error)}"
            raise ConnectError(text) from error
        except BaseException:
            sock.close()
            raise
        return sock

    # --- proxies ---

    async def _by_way_of(self, proxy: Proxy, host: str, port: int) -> socket.socket:
        shown = f"the proxy {proxy.shown}"
        sock = await self._to(proxy.host, proxy.port, proxy)
        try:
            if proxy.scheme == "https":
                self.waits_for = f"the TLS handshake with {shown}"
                context = await self._context_of_proxy()
                sock = await bridge(sock, context, proxy.host)
            self.waits_for = f"an answer of {shown}"
            if proxy.is_socks:
                target = host
                if proxy.scheme == "socks5":  # the name is looked up here, with socks5h there
                    (_, address), *_ = await self._look_up(host, port, host)
                    target = str(address[0])
                    self.waits_for = f"an answer of {shown}"
                await socks(sock, proxy, target, port)
            else:
                await tunnel(sock, proxy, host, port, AGENT)
        except SSLCertVerificationError as error:
            sock.close()
            raise words.certificate(shown, "", error) from error
        except SSLError as error:
            sock.close()
            raise words.tls(shown, "", error) from error
        except OSError as error:
            sock.close()
            raise ConnectError(f"the connection to {shown} broke: {words.words(error)}") from error
        except BaseException:
            sock.close()
            raise
        return sock

    async def _context_of_proxy(self) -> SSLContext:
        given = self._options.ssl
        return given if isinstance(given, SSLContext) else await default_context(verified=given is not False)

    # --- TCP ---

    async def _to(self, host: str, port: int, proxy: Proxy | None = None) -> socket.socket:
        """Return a socket connected to one of the addresses of `host`."""
        target = f"the proxy {proxy.shown}" if proxy is not None else f"{host} port {port}"
        addresses = self._in_turn(
            (host, port), await self._look_up(host, port, target if proxy is not None else host)
        )
        if self._options.local_address is not None or self._ways.local:
            addresses = _with_local(addresses, await self._own_addresses(), target)
        shown = ", ".join(str(address[0]) for _, address, _ in addresses)
        self.waits_for = f"TCP to {target}" + ("" if shown == host else f" ({shown})")
        failures: list[tuple[str, OSError]] = []
        sock = await _race([self._connecting(one, failures) for one in addresses], self._ways.delay)
        if sock is None:
            raise _unreachable(target, host, failures)
        self._remember((host, port), str(sock.getpeername()[0]))
        return sock

    async def _look_up(self, host: str, port: int, shown: str) -> list[_Address]:
        self.waits_for = f"the DNS lookup of {host}"
        try:
            found = await self._ways.resolver.resolve(host, port, socket.AddressFamily(self._ways.family))
        except OSError as error:
            whose = f"the name {host}" if shown == host else f"the name of {shown}"
            raise ConnectError(f"{whose} could not be resolved: {words.words(error)}") from error
        return [_address(one["host"], one["port"]) for one in found]

    def _in_turn(self, key: tuple[str, int], found: Sequence[_Address]) -> list[_Pair]:
        """Return the addresses in the order in which they are tried: families in turn, behind the one that failed."""
        known = self._known.get(key)
        ordered = list(dict.fromkeys(found))
        if known is not None:
            address, failed = known
            names = [str(one[1][0]) for one in ordered]
            if address in names:
                first = names.index(address) + (1 if failed else 0)
                ordered = ordered[first:] + ordered[:first]
        first_family = [one for one in ordered if one[0] == ordered[0][0]]
        others = [one for one in ordered if one[0] != ordered[0][0]]
        mixed: list[_Address] = []
        while first_family or others:
            mixed += first_family[:1] + others[:1]
            del first_family[:1], others[:1]
        return [(family, to, None) for family, to in mixed]

    async def _own_addresses(self) -> dict[int, tuple[Any, ...]]:
        """Return what is bound to, by family."""
        if self._options.local_address is None:
            return {int(one[0]): one[4] for one in reversed(self._ways.local)}
        host, port = self._options.local_address
        if not host:
            return {socket.AF_INET: ("0.0.0.0", port), socket.AF_INET6: ("::", port, 0, 0)}  # noqa: S104
        self.waits_for = f"the DNS lookup of {host} (local_address)"
        try:
            found = await LookupResolver().resolve(host, port, socket.AF_UNSPEC)
        except OSError as error:
            text = f"local_address: the name {host} could not be resolved: {words.words(error)}"
            raise ConnectError(text) from error
        return dict(_address(one["host"], one["port"]) for one in reversed(found))

    def _connecting(
        self,
        one: _Pair,
        failures: list[tuple[str, OSError]],
    ) -> Callable[[], Awaitable[socket.socket | None]]:
        family, to, local = one

        async def connect() -> socket.socket | None:
            sock: socket.socket | None = None
            try:
                make = self._ways.make_socket
                sock = (
                    socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
                    if make is None
                    else make((family, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", to))
                )
                sock.setblocking(False)  # noqa: FBT003 - its name says it
                if local is not None:
                    _bind(sock, local)
                await asyncio.get_running_loop().sock_connect(sock, to)
            except OSError as error:
                failures.append((str(to[0]), error))
                if sock is not None:
                    sock.close()
                return None
            except BaseException:
                if sock is not None:
                    sock.close()
                raise
            return sock

        return connect

    def _remember(self, key: tuple[str, int], address: str) -> None:
        """Take it that the address fails, until `settled` says something else."""
        self._last = key
        self._known[key] = address, True
        self._known.move_to_end(key)
        if len(self._known) > _REMEMBERED:
            self._known.popitem(last=False)


def _with_local(addresses: list[_Pair], own: dict[int, tuple[Any, ...]], target: str) -> list[_Pair]:
    """Return the addresses that can be reached from one of our own, each with that."""
    usable = [(family, to, own[family]) for family, to, _ in addresses if family in own]
    if not usable:
        bound = ", ".join(str(one[0]) for one in own.values())
        raise ConnectError(
            f"{target} could not be reached: it has no address of the kind of local_address ({bound})"
        )
    return list(usable)


class _BindError(OSError):
    """The local address cannot be bound to."""


def _bind(sock: socket.socket, local: tuple[Any, ...]) -> None:
    try:
        if local[1]:  # else the port of a connection that has just ended could not be used again for a minute
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(local)
    except OSError as error:
        raise _BindError(error.errno, error.strerror) from error


def _address(host: str, port: int) -> _Address:
    if ":" not in host:
        return socket.AF_INET, (host, port)
    address, _, zone = host.partition("%")
    if zone.isascii() and zone.isdigit():
        return socket.AF_INET6, (address, port, 0, int(zone))
    return socket.AF_INET6, (host, port, 0, 0)


def _unreachable(target: str, host: str, failures: Sequence[tuple[str, OSError]]) -> ConnectError:
    """Return the failure of all addresses; each is named unless it is the host itself."""
    by_words: dict[str, list[str]] = {}
    for address, error in failures:
        by_words.setdefault(
            f"local_address cannot be bound to: {words.words(error)}"
            if isinstance(error, _BindError)
            else words.words(error),
            [],
        ).append(address)
    parts = [
        said if addresses == [host] else f"{said} ({', '.join(addresses)})"
        for said, addresses in by_words.items()
    ]
    failure = ConnectError(f"{target} could not be reached: {'; '.join(parts)}")
    return words.chained(failure, failures[0][1]) if failures else failure


async def _race(
    attempts: Sequence[Callable[[], Awaitable[socket.socket | None]]], delay: float | None
) -> socket.socket | None:
    """Return the first socket that is connected; `None` when none is. Nothing is left of the others.

    Each attempt begins `delay` seconds after the one before it, or as soon as that has failed.
    """
    if len(attempts) == 1:
        return await attempts[0]()
    waiting = list(attempts)
    running: set[asyncio.Task[socket.socket | None]] = set()
    winner: socket.socket | None = None
    try:
        while winner is None and (waiting or running):
            if waiting:
                running.add(asyncio.ensure_future(_run(waiting.pop(0))))
            done, running = await asyncio.wait(
                running, timeout=delay if waiting else None, return_when=asyncio.FIRST_COMPLETED
            )
            for task in done:
                sock = task.result()
                if winner is None:
                    winner = sock
                elif sock is not None:
                    sock.close()
    finally:
        for task in running:
            task.cancel()
        for left in await _finished(running):
            if left is not None and left is not winner:
                left.close()
    return winner


async def _run(attempt: Callable[[], Awaitable[socket.socket | None]]) -> socket.socket | None:
    return await attempt()


async def _finished(tasks: set[asyncio.Task[socket.socket | None]]) -> list[socket.socket | None]:
    """Wait for cancelled tasks, which end within a turn of the loop; return what they had connected nevertheless."""
    if not tasks:
        return []
    ended = await asyncio.gather(*tasks, return_exceptions=True)
    return [one for one in ended if isinstance(one, socket.socket)]
