"""The asyncio transport below aiohttp: asyncio's, that of another event loop, or aiofastnet's.

aiofastnet is used by aiohttp wherever it can be imported. What the direct link needs of a transport is tried once for
each kind of event loop, before the first connection. Over TLS aiofastnet 1.2 is not used: a handshake that is given up
leaves a timer for a minute, and one that the peer ends is logged as an error of the event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
import sys
from typing import Any, Final, cast

import aiohappyeyeballs
from aiohttp import (
    ClientConnectorCertificateError,
    ClientConnectorError,
    ClientConnectorSSLError,
    TCPConnector,
)

_SIZE: Final = 1 << 20
_PATIENCE: Final = 2.0
"""Seconds after which a trial has failed."""

log = logging.getLogger("resilient_ws")


def is_fastnet(transport: object) -> bool:
    """Return whether a transport is aiofastnet's."""
    return type(transport).__module__.partition(".")[0] == "aiofastnet"


def carried_by(transport: object, *, direct: bool) -> str:
    """Return in words what carries a connection of aiohttp; `direct`: without its public API in between."""
    over = " over aiofastnet" if is_fastnet(transport) else ""
    return f"aiohttp{over}" if direct else f"aiohttp{over} (public API)"


class _Trials:
    """What was found out, for each kind of event loop; threads that ask at once may both try."""

    def __init__(self) -> None:
        self.found: dict[type[asyncio.AbstractEventLoop], bool] = {}


_trials: Final = _Trials()


def is_trusted(transport: object) -> bool:
    """Return whether a transport does what the direct link needs: asyncio's does, aiofastnet's where the trial said so."""
    return not is_fastnet(transport) or _trials.found.get(type(asyncio.get_running_loop()), False)


async def try_fastnet() -> None:
    """Try aiofastnet's transport, once for each kind of event loop, if anything has imported it; say so where it fails."""
    kind = type(asyncio.get_running_loop())
    if kind in _trials.found or "aiofastnet" not in sys.modules:
        return
    works = False
    try:
        async with asyncio.timeout(_PATIENCE):
            works = await _try()
    except Exception as error:
        log.debug("aiofastnet was tried", exc_info=error)
    if kind not in _trials.found:
        _trials.found[kind] = works
        if not works:
            log.warning(
                "this aiofastnet does not do what aiohttp connections need here: asyncio's transport is used instead"
            )


class Connector(TCPConnector):
    """A connector that uses asyncio's transport where aiofastnet's would not do."""

    async def _wrap_create_connection(self, *args: Any, **options: Any) -> Any:
        if (
            "aiofastnet" not in sys.modules
            or not _is_known(options)
            or not _needs_asyncio(self._loop, options)
        ):
            parent: Any = super()
            return await parent._wrap_create_connection(*args, **options)
        addresses, request, timeout = (options.pop(name) for name in _OPTIONS)
        make_error = options.pop("client_error", ClientConnectorError)
        loop, own = self._loop, cast("Any", self)
        start: Any = vars(aiohappyeyeballs)["start_connection"]
        try:
            async with asyncio.timeout(timeout.sock_connect):
                sock = await start(
                    addr_infos=addresses,
                    local_addr_infos=own._local_addr_infos,
                    happy_eyeballs_delay=own._happy_eyeballs_delay,
                    interleave=own._interleave,
                    loop=loop,
                    socket_factory=own._socket_factory,
                )
                # Of the class: `aiofastnet.patch_loop` replaces the method of the object.
                return await type(loop).create_connection(loop, *args, **options, sock=sock)
        except ssl.SSLCertVerificationError as error:
            raise ClientConnectorCertificateError(request.connection_key, error) from error
        except ssl.SSLError as error:
            raise ClientConnectorSSLError(request.connection_key, error) from error
        except OSError as error:
            if error.errno is None and isinstance(error, TimeoutError):
                raise
            raise make_error(request.connection_key, error) from error


_OPTIONS: Final = ("addr_infos", "req", "timeout")


def _is_known(options: dict[str, Any]) -> bool:
    """Return whether aiohttp calls as it did when this was written."""
    return all(name in options for name in _OPTIONS)


def _needs_asyncio(loop: asyncio.AbstractEventLoop, options: dict[str, Any]) -> bool:
    return bool(options.get("ssl")) or not _trials.found.get(type(loop), False)


# ---------------------------------------------------------------------------------------------------- the trial


class _First(asyncio.Protocol):
    """Stands for aiohttp's own protocol, which has the transport during the handshake."""

    def __init__(self) -> None:
        self.got = asyncio.Event()

    def data_received(self, data: bytes) -> None:
        if data == b"handshake":
            self.got.set()


class _Second(asyncio.BufferedProtocol):
    """Stands for the protocol of the direct link, which takes the transport over."""

    def __init__(self) -> None:
        self.buffer = bytearray(64)
        self.heard: list[object] = []
        self.news = asyncio.Event()

    def get_buffer(self, sizehint: int) -> bytearray:
        del sizehint
        return self.buffer

    def buffer_updated(self, nbytes: int) -> None:
        self._hear(bytes(self.buffer[:nbytes]))

    def pause_writing(self) -> None:
        self._hear("full")

    def resume_writing(self) -> None:
        self._hear("room")

    def eof_received(self) -> bool:
        self._hear("eof")
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        self._hear("lost")

    def _hear(self, what: object) -> None:
        self.heard.append(what)
        self.news.set()

    async def until(self, what: object) -> None:
        while what not in self.heard:
            self.news.clear()
            await self.news.wait()


async def _try() -> bool:
    """Return whether aiofastnet's transport does what a direct link asks of one. May raise anything."""
    import aiofastnet

    loop = asyncio.get_running_loop()
    ours, peer = socket.socketpair()
    peer.settimeout(0)
    transport: Any = None
    try:
        first, second = _First(), _Second()
        transport, _ = await aiofastnet.create_connection(loop, lambda: first, sock=ours)
        peer.send(b"handshake")
        await first.got.wait()
        transport.set_protocol(second)
        return await _try_taken_over(transport, second, peer)
    finally:
        peer.close()
        if transport is not None:
            transport.abort()
        else:
            ours.close()


async def _try_taken_over(transport: Any, protocol: _Second, peer: socket.socket) -> bool:
    loop = asyncio.get_running_loop()
    if transport.get_extra_info("socket").fileno() < 0 or transport.is_closing():
        return False
    if transport.get_extra_info("ssl_object") is not None:
        return False
    for _ in range(2):
        transport.pause_reading()  # the second time is none
    peer.send(b"one")
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    held = list(protocol.heard)
    for _ in range(2):
        transport.resume_reading()
    await protocol.until(b"one")
    transport.set_write_buffer_limits(1024)
    transport.write(bytes(_SIZE))
    full = transport.get_write_buffer_size() > 1024 and protocol.heard[-1] == "full"
    taken = 0
    while taken < _SIZE:
        with contextlib.suppress(BlockingIOError):
            taken += len(peer.recv(_SIZE))
        await asyncio.sleep(0)
    await protocol.until("room")
    transport.write(b"two")
    empty = transport.get_write_buffer_size() == 0
    two = await loop.sock_recv(peer, 3)
    peer.shutdown(socket.SHUT_WR)
    await protocol.until("eof")
    transport.write(b"three")  # a CLOSE that answers the peer's
    three = await loop.sock_recv(peer, 5)
    transport.abort()
    closing = transport.is_closing()
    await protocol.until("lost")
    return (
        not held
        and (full, empty, closing) == (True, True, True)
        and (two, three) == (b"two", b"three")
        and protocol.heard == [b"one", "full", "room", "eof", "lost"]
    )
