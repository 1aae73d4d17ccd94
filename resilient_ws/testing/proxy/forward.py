"""A forward proxy with CONNECT, optional passwords, and scripted faults.

Answers come from the behaviours of `script`; what passes through a tunnel is not looked at.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import socket
import ssl as ssl_module
from collections import deque
from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import Final, Literal, Self
from urllib.parse import quote, urlsplit

import attrs

from resilient_ws.testing.checks import check_range
from resilient_ws.testing.link import LINGER_ZERO
from resilient_ws.testing.listener import Listener
from resilient_ws.testing.server.handshake import (
    HeaderPairs,
    Headers,
    Request,
    encode_response,
    header_pairs,
    parse_request,
)
from resilient_ws.testing.server.script import Answer, Behaviour
from resilient_ws.testing.units import parse_address

_PIECE: Final = 65536


@attrs.define
class ProxyRequest:
    """What one connection asked of a `ForwardProxy`.

    Attributes:
        method: `"CONNECT"`, or the method of a request in absolute form.
        target: `host:port` of a CONNECT, or the absolute URL, as it came.
        headers: The headers.
        outcome: What became of it: `"tunnelled"`, `"forwarded"`, or why not.
    """

    method: str
    target: str
    headers: Headers
    outcome: str = "asked"


class ForwardProxy:
    """A forward proxy on loopback, for the `proxy=` option of clients.

    ::

        async with ForwardProxy(auth=("me", "secret")) as proxy:
            ...  # connect a client to ws://... with proxy=proxy.url
            print(proxy.requests)

    It tunnels with CONNECT and refuses everything else with 405, as most forward proxies do for WebSocket
    connections (RFC 6455 section 4.1 demands CONNECT, for `ws:` too).

    Args:
        auth: User and password that it wants, else 407; `None`: it wants none. They are compared as UTF-8.
        absolute: What happens to a request in absolute form (`GET http://host/`): `"refuse"`: 405; `"strip"`:
            it is passed on without `Upgrade`, so that no WebSocket can come of it; `"pass"`: with it.
        script: One behaviour per connection, in order, for instance `Refuse`, `NeverAnswer`, `Garbage`, `Drip`,
            `Interim` or `Hangup`; `None` in it, and the end of it, is a proxy that works.
        hosts: Where names lead that only the proxy can resolve: `{"feed.internal": "127.0.0.1"}`. The port is the
            one that was asked for, unless the value has one (`"127.0.0.1:8080"`).
        headers: Headers of the 200 answer to CONNECT.
        delay: Seconds before each answer.
        listen: Where to listen: `"host:port"`, or host and port; port `0` is any free one.
        ssl: A server-side TLS context for a proxy that is itself reached by TLS (`https://`), or `None`.
        keep: How many entries `requests` holds, at least 1; then the oldest go.
    """

    def __init__(
        self,
        *,
        auth: tuple[str, str] | None = None,
        absolute: Literal["refuse", "strip", "pass"] = "refuse",
        script: Iterable[Behaviour | None] = (),
        hosts: Mapping[str, str] | None = None,
        headers: HeaderPairs = (),
        delay: float = 0.0,
        listen: str | tuple[str, int] = ("127.0.0.1", 0),
        ssl: ssl_module.SSLContext | None = None,
        keep: int = 10_000,
    ) -> None:
        if absolute not in {"refuse", "strip", "pass"}:
            raise ValueError(f"absolute must be 'refuse', 'strip' or 'pass', not {absolute!r}")
        check_range("delay", delay, 0)
        check_range("keep", keep, 1)
        self.auth = auth
        self.absolute = absolute
        self.delay = delay
        self._script = iter(script)
        self._hosts = dict(hosts or {})
        self._headers = header_pairs(headers)
        self._listener = Listener(*(parse_address(listen) if isinstance(listen, str) else listen))
        self._ssl = ssl
        self._requests: deque[ProxyRequest] = deque(maxlen=keep)
        self._tunnels: dict[asyncio.StreamWriter, asyncio.StreamWriter] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def __repr__(self) -> str:
        return f"<ForwardProxy {self.authority}, {len(self._tunnels)} open>"

    # ---- life

    async def __aenter__(self) -> Self:
        self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    def start(self) -> None:
        """Accept connections, on the same port as before if there was one; does nothing while it does."""
        self._listener.start(self._accepted)

    async def refuse(self) -> None:
        """Refuse new connections until `start`; the tunnels that are there go on."""
        if self._listener.is_listening:
            await self._listener.stop()

    async def aclose(self) -> None:
        """Stop for good: every connection is reset, no task is left when this returns."""
        await self._listener.close()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(list(self._tasks))

    # ---- where it is, and what it was asked

    @property
    def port(self) -> int:
        """The port that it listens on; 0 before the first `start` if none was given."""
        return self._listener.port

    @property
    def authority(self) -> str:
        """Where it listens, as a URL has it: `host:port`."""
        return self._listener.authority

    @property
    def url(self) -> str:
        """Its address for `proxy=`, with user and password where it wants them."""
        user = "" if self.auth is None else ":".join(quote(part, safe="") for part in self.auth) + "@"
        return f"{'http' if self._ssl is None else 'https'}://{user}{self.authority}"

    @property
    def requests(self) -> list[ProxyRequest]:
        """Each request so far, in order."""
        return list(self._requests)

    @property
    def open_tunnels(self) -> int:
        """How many tunnels, or forwarded connections, are there."""
        return len(self._tunnels)

    def drop_all(self, drop: Literal["fin", "rst"] = "rst") -> int:
        """Lose every tunnel that is there, on both sides; return how many."""
        tunnels = list(self._tunnels.items())
        for pair in tunnels:
            for writer in pair:
                _lose(writer, drop)
        return len(tunnels)

    # ---- one connection

    def _accepted(self, sock: socket.socket) -> None:
        task = asyncio.get_running_loop().create_task(self._serve(sock), name=f"ForwardProxy:{self.port}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        # Cancelled before its first step, or while TLS is being agreed, the task has closed nothing.
        task.add_done_callback(lambda _: sock.close())

    async def _serve(self, sock: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        behaviour = next(self._script, None)
        if behaviour is not None and behaviour.at_connect is not None:
            await _hang_up(sock, behaviour.at_connect)
            return
        reader = asyncio.StreamReader(loop=loop)
        protocol = asyncio.StreamReaderProtocol(reader, loop=loop)
        try:
            transport, _ = await loop.connect_accepted_socket(lambda: protocol, sock, ssl=self._ssl)
        except (OSError, EOFError):  # no TLS
            return
        async with _Closing(asyncio.StreamWriter(transport, protocol, reader, loop)) as writer:
            with contextlib.suppress(OSError, EOFError, ValueError, asyncio.LimitOverrunError):
                await self._answer(reader, writer, behaviour)

    async def _answer(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, behaviour: Behaviour | None
    ) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        request = parse_request(head[:-4])
        record = ProxyRequest(request.method, request.path, request.headers)
        self._requests.append(record)
        await asyncio.sleep(self.delay)
        if behaviour is not None:
            await _act(writer, behaviour.answer(request), record)
        elif not self._may(request):
            await _refuse(writer, record, 407, [("Proxy-Authenticate", 'Basic realm="kit", charset="UTF-8"')])
        elif request.method == "CONNECT":
            await self._pass(reader, writer, record, request.path, None)
        elif self.absolute == "refuse":
            await _refuse(writer, record, 405, [("Allow", "CONNECT")])
        else:
            await self._pass(
                reader, writer, record, urlsplit(request.path).netloc, self._origin_form(request)
            )

    def _may(self, request: Request) -> bool:
        if self.auth is None:
            return True
        scheme, _, token = request.headers.get("Proxy-Authorization", "").partition(" ")
        try:
            given = base64.b64decode(token.strip(), validate=True)
        except ValueError:
            return False
        return scheme.lower() == "basic" and given == ":".join(self.auth).encode()

    def _origin_form(self, request: Request) -> bytes:
        parts = urlsplit(request.path)
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        dropped = {"proxy-authorization", "proxy-connection"}
        if self.absolute == "strip":
            dropped |= {"connection", "upgrade"}
        lines = [f"{name}: {value}" for name, value in request.headers.pairs if name.lower() not in dropped]
        return "\r\n".join([f"{request.method} {target} HTTP/1.1", *lines, "", ""]).encode("latin-1")

    async def _pass(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        record: ProxyRequest,
        authority: str,
        head: bytes | None,
    ) -> None:
        """Dial the target and pass everything on until both sides are done."""
        try:
            to_host, to_port = self._target(authority)
            back, out = await asyncio.open_connection(to_host, to_port)
        except (OSError, ValueError) as error:
            await _refuse(writer, record, 502, [], f"not reached ({type(error).__name__})")
            return
        async with _Closing(out):
            self._tunnels[writer] = out
            try:
                if head is None:
                    record.outcome = "tunnelled"
                    writer.write(encode_response(200, self._headers, reason="Connection established"))
                else:
                    record.outcome = "forwarded"
                    out.write(head)
                await asyncio.gather(_pump(reader, out), _pump(back, writer))
            finally:
                del self._tunnels[writer]

    def _target(self, authority: str) -> tuple[str, int]:
        host, port = parse_address(
            authority if authority.rpartition(":")[2].isdecimal() else f"{authority}:80"
        )
        led = self._hosts.get(host)
        if led is None:
            return host, port
        return parse_address(led) if led.rpartition(":")[1] else (led, port)


class _Closing:
    """Abort a stream at the end of a block, and see it gone, also when that is cancelled."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self._writer = writer

    async def __aenter__(self) -> asyncio.StreamWriter:
        return self._writer

    async def __aexit__(self, *exc_info: object) -> None:
        self._writer.transport.abort()
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()


async def _act(writer: asyncio.StreamWriter, answer: Answer | None, record: ProxyRequest) -> None:
    if answer is None:
        record.outcome = "never answered"
        await asyncio.Event().wait()
        return
    record.outcome = answer.outcome
    await asyncio.sleep(answer.delay)
    for response in answer.interim:
        writer.write(response)
        await asyncio.sleep(answer.interim_pause)
    step = answer.chunk or max(len(answer.data), 1)
    for start in range(0, len(answer.data), step):
        writer.write(answer.data[start : start + step])
        await writer.drain()
        if start + step < len(answer.data):
            await asyncio.sleep(answer.interval)
    if answer.then == "silent":
        await asyncio.Event().wait()
    await _end(writer, answer.then)


async def _refuse(
    writer: asyncio.StreamWriter,
    record: ProxyRequest,
    status: int,
    headers: list[tuple[str, str]],
    outcome: str | None = None,
) -> None:
    record.outcome = outcome or f"refused {status}"
    writer.write(encode_response(status, [*headers, ("Content-Length", "0"), ("Connection", "close")]))
    await _end(writer, "fin")


async def _end(writer: asyncio.StreamWriter, drop: str) -> None:
    await writer.drain()
    _lose(writer, "rst" if drop == "rst" else "fin")
    with contextlib.suppress(OSError):
        await writer.wait_closed()


def _lose(writer: asyncio.StreamWriter, drop: Literal["fin", "rst"]) -> None:
    if drop == "fin":
        writer.close()
        return
    with contextlib.suppress(OSError):
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_ZERO)
    writer.transport.abort()


async def _hang_up(sock: socket.socket, drop: str) -> None:
    if drop == "silent":
        await asyncio.Event().wait()
    if drop == "rst":
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_ZERO)


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Pass bytes on until the end, and the end too."""
    while data := await reader.read(_PIECE):
        writer.write(data)
        await writer.drain()
    if writer.can_write_eof():
        writer.write_eof()
    else:
        writer.close()
