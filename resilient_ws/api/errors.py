"""The exceptions that reach a program, each with typed fields and a text of its own.

An exception means "your call failed" or "it is over"; a drop that will be retried is an event instead.
Foreign exceptions are translated where the network is touched (`resilient_ws.transports`) and nowhere else.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from resilient_ws.api.connect_errors import ConnectError, InvalidURL, ResilientWSError
from resilient_ws.api.events import CloseEvent, UndeliveredEvent

__all__ = [
    "CertificateRejected",
    "ClientClosed",
    "ClientStopped",
    "ConcurrencyError",
    "ConnectError",
    "ConnectionLost",
    "DeliveryUncertain",
    "HandshakeRejected",
    "InboxFull",
    "InvalidURL",
    "MessageTooBig",
    "NotConnected",
    "OpenTimeout",
    "OutboxFileError",
    "OutboxFull",
    "ProxyRejected",
    "ResilientWSError",
    "RetriesExhausted",
    "SetupFailed",
    "SetupTimeout",
]


class OpenTimeout(ConnectError, TimeoutError):
    """Provider, name look-up, TCP, TLS and handshake together took longer than `open_timeout`."""


class HandshakeRejected(ConnectError):
    """The server answered, but not with a valid WebSocket handshake: `status` says with what."""


class ProxyRejected(HandshakeRejected):
    """The proxy refused to connect us, or is none: the text names it, `status` is what it answered, if it was HTTP."""


class CertificateRejected(ConnectError):
    """The server's TLS certificate could not be verified."""


class SetupFailed(ConnectError):
    """The `setup` hook, or writing the declared subscriptions, raised; `__cause__` is what it raised."""


class SetupTimeout(ConnectError, TimeoutError):
    """The `setup` hook took longer than `setup_timeout`."""


class ConnectionLost(ResilientWSError):
    """An open connection has ended without our asking: the `cause` of a `CloseEvent`.

    Attributes:
        rule_id: Which rule of the heartbeat was broken (`heartbeat-silent`, `heartbeat-unanswered`, `heartbeat-idle`);
            empty where none was.
    """

    def __init__(self, message: str = "the connection was lost", *, rule_id: str = "") -> None:
        super().__init__(message)
        self.rule_id = rule_id


class ClientClosed(ResilientWSError):
    """The client has ended and is not usable again; `__cause__` is what ended it, `None` when `close()` did.

    Attributes:
        event: The final `CloseEvent`, or `None` while the client is still closing.
        undelivered: What became of each accepted message that was not confirmed at the end.
    """

    def __init__(
        self,
        message: str = "the client is closed",
        *,
        event: CloseEvent | None = None,
        undelivered: Sequence[UndeliveredEvent] = (),
    ) -> None:
        super().__init__(message)
        self.event = event
        self.undelivered = tuple(undelivered)


class ClientStopped(ClientClosed):
    """A rule said stop: of the default, of `decide`, a `Stop`, `fail_fast`, or `reconnect=False`."""


class RetriesExhausted(ClientClosed):
    """`max_attempts`, `max_elapsed` or a tenacity `stop` was reached.

    Attributes:
        attempts: Attempts since the last stable connection.
        elapsed: Seconds since that connection was lost, or since `start()`.
    """

    def __init__(
        self,
        message: str = "no attempt is left",
        *,
        event: CloseEvent | None = None,
        undelivered: Sequence[UndeliveredEvent] = (),
        attempts: int = 0,
        elapsed: float = 0.0,
    ) -> None:
        super().__init__(message, event=event, undelivered=undelivered)
        self.attempts = attempts
        self.elapsed = elapsed


class NotConnected(ResilientWSError):
    """The call needs a connection that is open now."""


class OutboxFull(ResilientWSError):
    """The message was not accepted: the outbox is at its bounds."""


class OutboxFileError(ResilientWSError):
    """The file of a durable outbox cannot be used, or could not take a change; `__cause__` is what SQLite said.

    Attributes:
        path: The file.
        problem: What is wrong, in words.
    """

    def __init__(self, path: Path, problem: str) -> None:
        super().__init__(f"outbox file {str(path)!r}: {problem}")
        self.path = path
        self.problem = problem


class InboxFull(ResilientWSError):
    """The awaited answer is queued behind unread messages that the program does not take."""


class MessageTooBig(ResilientWSError):
    """The message alone is larger than `outbox.max_bytes`.

    Attributes:
        size: Bytes of the message.
        limit: Bytes that are allowed.
    """

    def __init__(self, message: str = "the message is too big", *, size: int = 0, limit: int = 0) -> None:
        super().__init__(message)
        self.size = size
        self.limit = limit


class DeliveryUncertain(ResilientWSError):
    """The message may or may not have reached the peer: the connection ended, or nothing can confirm it."""


class ConcurrencyError(ResilientWSError):
    """Two consumers at once, or a client used from an event loop that it is not bound to."""

    @classmethod
    def other_loop(cls) -> ConcurrencyError:
        """Return the one for a call from another event loop."""
        return cls(
            "the client belongs to another event loop, the one in which it was started. From another thread use "
            "asyncio.run_coroutine_threadsafe(client.send(...), loop) for what is awaited, and "
            "loop.call_soon_threadsafe(client.reconnect_now) for the rest"
        )
