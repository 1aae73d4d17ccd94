"""One TCP connection to the fault server: the handshake, then the WebSocket connection.

Knows one behaviour and one link; what the answer opens is the job of `FaultConnection`.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl as ssl_module
from typing import TYPE_CHECKING

from resilient_ws.testing.link import Link, attach
from resilient_ws.testing.server.connection import FaultConnection
from resilient_ws.testing.server.handshake import MAX_REQUEST, Request, encode_response, parse_request
from resilient_ws.testing.server.ledger import AttemptRecord
from resilient_ws.testing.server.script import Answer, Behaviour, Drop

if TYPE_CHECKING:
    from resilient_ws.testing.server.server import FaultServer

TLS_TIMEOUT = 60.0
"""Seconds for a TLS handshake that the client does not go on with."""


class Visit:
    """Reads the request, gives the answer of the behaviour, and hands the rest to the connection."""

    def __init__(
        self,
        server: FaultServer,
        sock: socket.socket,
        behaviour: Behaviour,
        record: AttemptRecord,
        linger: float,
    ) -> None:
        self.record = record
        self.link = Link(sock, self, linger=linger)
        self._server = server
        self._sock = sock
        self._behaviour = behaviour
        self._connection: FaultConnection | None = None
        self._head = bytearray()
        self._answering = False

    async def begin(self, context: ssl_module.SSLContext | None) -> None:
        """Put the socket under a transport, after TLS where there is a context."""
        loop = asyncio.get_running_loop()
        at_connect = self._behaviour.at_connect
        if at_connect is not None:
            self.record.outcome = f"hung up at connect ({at_connect})"
            context = None
        try:
            timeout = None if context is None else TLS_TIMEOUT
            transport = loop.connect_accepted_socket(
                lambda: self.link, self._sock, ssl=context, ssl_handshake_timeout=timeout
            )
            await attach(self.link, transport, slow=context is not None)
        except (OSError, EOFError) as error:  # ssl.SSLError is an OSError
            self.record.outcome = f"no TLS: {type(error).__name__}"
            self._server.notify()
            return
        if at_connect is not None:
            self.link.set_reading(False)
            self.drop(at_connect)

    def began(self) -> None:
        """Close the socket if `begin` ended before the link had it: cancelled, or no TLS."""
        if not self.link.is_made:
            self._sock.close()

    def drop(self, drop: Drop) -> None:
        """Drop the connection in any state."""
        if self._connection is not None:
            self._connection.drop(drop)
        elif drop == "fin":
            self.link.fin()
        elif drop == "rst":
            self.link.rst()
        else:
            self.link.muted = True

    # ---- what the link tells

    def link_made(self) -> None:
        """Be known to the server from now on."""
        self._server.visits.add(self)

    def link_received(self, data: bytes) -> None:
        """Hand bytes to the connection, or collect the request."""
        if self._connection is not None:
            self._connection.link_received(data)
            return
        if self._behaviour.at_connect is not None:
            return
        self._head += data
        if not self._answering:
            self._read_request()
        elif len(self._head) > MAX_REQUEST:
            self._head.clear()

    def link_eof(self) -> None:
        """Leave it to the link whether the socket is closed."""

    def link_writable(self) -> None:
        """Nothing waits here: coroutines wait in the link."""

    def link_ended(self, by_peer: str | None) -> None:
        """Forget the connection."""
        self._server.visits.discard(self)
        if self._connection is not None:
            self._connection.link_ended(by_peer)
        self._server.notify()

    # ---- the handshake

    def _read_request(self) -> None:
        end = self._head.find(b"\r\n\r\n")
        if end < 0:
            if len(self._head) > MAX_REQUEST:
                self._respond(None, Answer(encode_response(431, [("Connection", "close")]), "431: too long"))
            return
        head = bytes(self._head[:end])
        del self._head[: end + 4]
        self.record.requested_at = asyncio.get_running_loop().time()
        try:
            request = parse_request(head)
        except ValueError as error:
            self._respond(None, Answer(encode_response(400, [("Connection", "close")]), f"400: {error}"))
            return
        self.record.request = request
        self._respond(request, self._behaviour.answer(request))

    def _respond(self, request: Request | None, answer: Answer | None) -> None:
        self._answering = True
        if answer is None:
            self.record.outcome = "never answered"
        elif answer.delay or answer.chunk or answer.interim:
            self._server.spawn(self._write_slowly(request, answer), f"answer {self.record.number}")
        else:
            self.link.write(answer.data)
            self._answered(request, answer)
        self._server.notify()

    async def _write_slowly(self, request: Request | None, answer: Answer) -> None:
        self.record.outcome = "answering"
        await self._pause(answer.delay)
        for response in answer.interim:
            self.link.write(response)
            await self._pause(answer.interim_pause)
        step = answer.chunk or max(len(answer.data), 1)
        for start in range(0, len(answer.data), step):
            if self.link.ending:
                break
            self.link.write(answer.data[start : start + step])
            if start + step < len(answer.data):
                await self._pause(answer.interval)
        if self.link.ending:
            self.record.outcome = "left by the client before the answer was complete"
        else:
            self._answered(request, answer)
        self._server.notify()

    async def _pause(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self.link.lost.wait()

    def _answered(self, request: Request | None, answer: Answer) -> None:
        self.record.outcome = answer.outcome
        if answer.accept is None or request is None:
            self.drop(answer.then)
            return
        connection = self._connection = self._server.admit(request, answer, answer.accept, self.link)
        self.record.connection = connection.number
        self._server.serve(connection, answer.accept)
        if self._head:
            connection.link_received(bytes(self._head))
            self._head.clear()
