"""The fault server: it listens, applies one behaviour per attempt, and records what it receives.

The only module of the kit that accepts sockets; what one connection does is in `session` and `connection`.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import socket
import ssl as ssl_module
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from types import TracebackType
from typing import Self

from resilient_ws.testing.checks import check_range
from resilient_ws.testing.link import Link
from resilient_ws.testing.listener import Listener
from resilient_ws.testing.server.connection import FaultConnection
from resilient_ws.testing.server.handshake import Request
from resilient_ws.testing.server.ledger import AttemptRecord, Received, Report, leading_number, report_numbers
from resilient_ws.testing.server.script import Accept, Answer, Behaviour, Drop
from resilient_ws.testing.server.visit import Visit
from resilient_ws.testing.server.wire import Message


class FaultServer:
    """An in-process WebSocket server that does what it is told, and records what it got.

    ::

        async with FaultServer(script=[Refuse(503, retry_after=2), Accept()]) as server:
            ...  # connect a client to server.url
            conn = await server.connection()
            conn.rst()  # lose the first connection
            conn = await server.connection()  # and here is the next one
            print(server.report(expected=100))

    Each TCP connection takes the next behaviour of the script; when the script is used up, `default`. Left alone
    the server echoes. It needs a running event loop, any; it leaves no task, timer or socket behind.

    Args:
        script: One behaviour per TCP connection, in order; may be endless. It is read as connections come.
        default: What connections get after the script; may be set at any time.
        handler: Called with each connection that is accepted without a `then` of its own. When it returns, the
            connection is closed with 1000; when it raises, with 1011, and leaving the server raises it again.
        host: The address or name to listen on and to put into `url`.
        port: The port; `0`: any free one, the same again after `stop` and `start`.
        ssl: A server-side TLS context, or `None` for plain `ws`.
        max_message_size: The largest message taken from a client, in bytes; a larger one is answered with 1009.
        keep: How many entries each record holds (`received`, `attempts`, ...), at least 1; then the oldest go.
            Numbers for `report` are kept for each message.
        keep_bytes: How many bytes of messages `received` holds, at least 1; then the oldest go.
        number: Reads the number for `report` out of a message, or gives `None`. Where it is `None` itself no
            numbers are kept: nothing then grows with the number of messages.
        receive_buffer: Bytes of the kernel's receive buffer (`SO_RCVBUF`), small for quick back-pressure;
            `None`: as the system has it.
        linger: Seconds that a socket which the server has ended with FIN waits for the client's FIN.

    Attributes:
        visits: The TCP connections that are there, for the server's own use.
        errors: What handlers and `then` functions raised.
    """

    def __init__(
        self,
        script: Iterable[Behaviour] = (),
        *,
        default: Behaviour | None = None,
        handler: Callable[[FaultConnection], Awaitable[object]] | None = None,
        host: str = "127.0.0.1",
        port: int = 0,
        ssl: ssl_module.SSLContext | None = None,
        max_message_size: int = 64 << 20,
        keep: int = 100_000,
        keep_bytes: int = 64 << 20,
        number: Callable[[Message], int | None] | None = leading_number,
        receive_buffer: int | None = None,
        linger: float = 1.0,
    ) -> None:
        check_range("max_message_size", max_message_size, 1)
        check_range("keep", keep, 1)
        check_range("keep_bytes", keep_bytes, 1)
        check_range("port", port, 0, 65535)
        check_range("linger", linger, 0)
        self.default: Behaviour = Accept() if default is None else default
        self.max_message_size = max_message_size
        self.keep = keep
        self._attempts: deque[AttemptRecord] = deque(maxlen=keep)
        self._received: deque[Received] = deque()
        self._violations: deque[tuple[int, str]] = deque(maxlen=keep)
        self.errors: list[BaseException] = []
        self._script = iter(script)
        self._next: deque[Behaviour] = deque()
        self._handler = handler
        self._ssl = ssl
        self._keep_bytes = keep_bytes
        self._kept_bytes = 0
        self._number = number
        self._numbers: list[int | None] = []
        self._received_count = 0
        self._linger = linger
        self._attempt_count = 0
        self._accepted_count = 0
        self._connections: deque[FaultConnection] = deque(maxlen=keep)
        self._fresh: deque[FaultConnection] = deque()
        self.visits: set[Visit] = set()
        self._tasks: set[asyncio.Task[object]] = set()
        self._listener = Listener(host, port, receive_buffer)
        self._changed = asyncio.Event()

    def __repr__(self) -> str:
        state = "listening" if self.is_listening else "stopped"
        return f"<FaultServer {self.url} {state}, {self._accepted_count} accepted of {self._attempt_count}>"

    # ---- life

    @property
    def host(self) -> str:
        """The address or name that it listens on."""
        return self._listener.host

    @property
    def port(self) -> int:
        """The port that it listens on; 0 before the first `start` if none was given."""
        return self._listener.port

    @property
    def url(self) -> str:
        """The address, `ws://host:port/` or `wss://host:port/`."""
        return f"{'ws' if self._ssl is None else 'wss'}://{self._listener.authority}/"

    @property
    def is_listening(self) -> bool:
        """Whether new connections are taken."""
        return self._listener.is_listening

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()
        if error is None and self.errors:
            raise self.errors[0]

    async def start(self) -> None:
        """Listen, on the same port as before if there was one; does nothing while listening."""
        self._listener.start(self._accepted)

    async def stop(self, drop: Drop | None = "fin") -> None:
        """Take no new connections: they are refused until `start`; the port stays ours.

        Args:
            drop: What happens to the connections that are there; `None`: they go on.
        """
        if not self._listener.is_listening:
            return
        await self._listener.stop()
        if drop is not None:
            self.drop_all(drop)

    async def aclose(self) -> None:
        """Stop for good: everything open is reset, every task has ended when this returns."""
        await self._listener.close()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(list(self._tasks))
        visits = list(self.visits)
        for visit in visits:
            visit.link.rst()
        for visit in visits:
            await visit.link.lost.wait()
        await asyncio.sleep(0)

    def _accepted(self, sock: socket.socket) -> None:
        visit = Visit(self, sock, self._take_behaviour(), self._record_attempt(), self._linger)
        self.spawn(visit.begin(self._ssl), f"attempt {visit.record.number}", visit.began)

    def spawn(
        self, work: Coroutine[object, object, object], name: str, done: Callable[[], None] | None = None
    ) -> None:
        """Run `work` as a task that ends with the server at the latest; used by the server itself."""
        task = asyncio.get_running_loop().create_task(work, name=f"FaultServer:{self.port}:{name}")
        self._tasks.add(task)
        task.add_done_callback(self._finished)
        if done is not None:
            task.add_done_callback(lambda _: done())

    def _finished(self, task: asyncio.Task[object]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self.errors.append(error)
        self.notify()

    # ---- what the next connections get

    def next(self, *behaviours: Behaviour) -> None:
        """Let the next connections get these behaviours, before the rest of the script."""
        self._next.extend(behaviours)

    def _take_behaviour(self) -> Behaviour:
        if self._next:
            return self._next.popleft()
        return next(self._script, self.default)

    def _record_attempt(self) -> AttemptRecord:
        self._attempt_count += 1
        record = AttemptRecord(self._attempt_count, asyncio.get_running_loop().time())
        self._attempts.append(record)
        self.notify()
        return record

    # ---- connections

    @property
    def connections(self) -> list[FaultConnection]:
        """Each accepted connection, the ended ones too, in order."""
        return list(self._connections)

    @property
    def open_connections(self) -> list[FaultConnection]:
        """The accepted connections that have not ended."""
        return [connection for connection in self._connections if connection.is_open]

    async def connection(self, timeout: float | None = 5.0) -> FaultConnection:
        """Return the next accepted connection; each one is returned once, in order, even if it has ended.

        Args:
            timeout: Seconds; `None`: no limit.

        Raises:
            TimeoutError: No further connection was accepted within `timeout`.
        """
        await self.until(lambda: bool(self._fresh), timeout)
        return self._fresh.popleft()

    def drop_all(self, drop: Drop = "rst") -> int:
        """Lose every open connection, handshakes under way included; return how many."""
        visits = [visit for visit in self.visits if not visit.link.ending]
        for visit in visits:
            visit.drop(drop)
        return len(visits)

    def close_all(self, code: int | None = 1012, reason: str = "") -> int:
        """Send a CLOSE on every open connection; return how many.

        Args:
            code: As for `FaultConnection.close`: 1001 and 1012 are what servers say before they restart.
            reason: Its reason.
        """
        connections = [connection for connection in self.open_connections if not connection.close_sent]
        for connection in connections:
            connection.close(code, reason)
        return len(connections)

    def admit(self, request: Request, answer: Answer, accept: Accept, link: Link) -> FaultConnection:
        """Make the connection that an accepted handshake has opened; called by the server itself."""
        self._accepted_count += 1
        echo = accept.echo if accept.echo is not None else accept.then is None and self._handler is None
        connection = FaultConnection(self._accepted_count, request, answer, accept, link, self, echo)
        self._connections.append(connection)
        self._fresh.append(connection)
        if len(self._fresh) > self.keep:
            self._fresh.popleft()
        return connection

    def serve(self, connection: FaultConnection, accept: Accept) -> None:
        """Start what an accepted connection is to do; called by the server itself."""
        accept.begin(connection)
        if accept.then is not None:
            self.spawn(self._follow(connection, accept), f"connection {connection.number}")
        elif self._handler is not None:
            self.spawn(self._handle(connection, self._handler), f"connection {connection.number}")
        self.notify()

    async def _follow(self, connection: FaultConnection, accept: Accept) -> None:
        if accept.then is not None:
            with contextlib.suppress(ConnectionResetError):
                result = accept.then(connection)
                if inspect.isawaitable(result):
                    await result

    async def _handle(
        self, connection: FaultConnection, handler: Callable[[FaultConnection], Awaitable[object]]
    ) -> None:
        code = 1011
        try:
            with contextlib.suppress(ConnectionResetError):
                await handler(connection)
            code = 1000
        finally:
            if connection.is_open and connection.sent_close is None:
                connection.close(code)

    # ---- what was got

    def record_message(self, connection: int, message: Message) -> None:
        """Keep one message; called by the connections."""
        self._received_count += 1
        if self._number is not None:
            self._numbers.append(self._number(message))
        self._received.append(Received(connection, message))
        self._kept_bytes += len(message)
        while len(self._received) > self.keep or (
            self._kept_bytes > self._keep_bytes and len(self._received) > 1
        ):
            self._kept_bytes -= len(self._received.popleft().message)

    def record_violation(self, connection: int, text: str) -> None:
        """Keep one breach of the protocol; called by the connections."""
        self._violations.append((connection, text))

    @property
    def attempts(self) -> list[AttemptRecord]:
        """A record of each TCP connection, refused or accepted, in order."""
        return list(self._attempts)

    @property
    def attempt_count(self) -> int:
        """How many TCP connections there were in all, those no longer in `attempts` included."""
        return self._attempt_count

    @property
    def violations(self) -> list[tuple[int, str]]:
        """Each breach of RFC 6455 by a client, as `(connection, text)`."""
        return list(self._violations)

    @property
    def received(self) -> list[Received]:
        """Each message with the number of its connection, in the order of arrival."""
        return list(self._received)

    @property
    def received_count(self) -> int:
        """How many messages came in all, those no longer in `received` included."""
        return self._received_count

    def report(self, expected: Iterable[int] | int | None = None) -> Report:
        """Return what became of a numbered sequence, across all connections.

        Args:
            expected: The numbers that were sent, or how many: `5` means 0 to 4. `None`: each number between the
                smallest and the largest that came.

        Raises:
            RuntimeError: The server was made with `number=None`.
        """
        if self._number is None:
            raise RuntimeError("a report needs numbers: this server was made with number=None")
        return report_numbers(self._numbers, expected)

    def notify(self) -> None:
        """Let `until` look again; called by the connections."""
        self._changed.set()

    async def until(self, condition: Callable[[], bool], timeout: float | None = 5.0) -> None:
        """Wait until `condition()` is true; it is asked whenever the server gets or does something.

        Args:
            condition: A function of no arguments, for instance `lambda: server.received_count >= 3`.
            timeout: Seconds; `None`: no limit.

        Raises:
            TimeoutError: It is still false after `timeout`; the text says what the server has seen.
        """
        try:
            async with asyncio.timeout(timeout):
                while not condition():
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            outcomes = [record.outcome for record in self.attempts[-5:]]
            raise TimeoutError(f"not within {timeout} s; {self!r}, last attempts: {outcomes}") from None
