"""The public exceptions.

An exception means that a call failed or that the client has ended. A drop that will be retried is an event instead.
Exceptions of other libraries are translated in `resilient_ws.transports` and nowhere else.
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
    """URL provider, DNS, TCP, TLS and handshake together took longer than `open_timeout`."""


class HandshakeRejected(ConnectError):
    """The server did not answer with a valid WebSocket handshake; `status` is the HTTP status of its answer."""


class ProxyRejected(HandshakeRejected):
    """The proxy refused the connection, or is not a proxy; `status` is the HTTP status of its answer, if any."""


class CertificateRejected(ConnectError):
    """The server's TLS certificate could not be verified."""


class SetupFailed(ConnectError):
    """The `setup` hook or a declared subscription raised; `__cause__` is that exception."""


class SetupTimeout(ConnectError, TimeoutError):
    """The `setup` hook took longer than `setup_timeout`."""


class ConnectionLost(ResilientWSError):
    """An open connection was lost; this is the `cause` of a `CloseEvent`.

    Attributes:
        rule_id: The heartbeat rule that ended the connection (`heartbeat-silent`, `heartbeat-unanswered` or
            `heartbeat-idle`); empty if none did.
    """

    def __init__(self, message: str = "the connection was lost", *, rule_id: str = "") -> None:
        super().__init__(message)
        self.rule_id = rule_id


class ClientClosed(ResilientWSError):
    """The client has ended and cannot be used again; `__cause__` is the reason, `None` after `close()`.

    Attributes:
        event: The final `CloseEvent`, or `None` while the client is still closing.
        undelivered: The fate of each accepted message that was not confirmed at the end.
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
    """A rule stopped the client: the default rules, `decide`, a `Stop`, `fail_fast` or `reconnect=False`."""


class RetriesExhausted(ClientClosed):
    """`max_attempts`, `max_elapsed` or a tenacity `stop` was reached.

    Attributes:
        attempts: The number of attempts since the last stable connection.
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
    """The call needs an open connection, or a client that has been started."""


class OutboxFull(ResilientWSError):
    """The message was not accepted because the outbox is full."""


class OutboxFileError(ResilientWSError):
    """The outbox file cannot be used or written; `__cause__` is the exception of SQLite.

    Attributes:
        path: The path of the file.
        problem: What is wrong, in words.
    """

    def __init__(self, path: Path, problem: str) -> None:
        super().__init__(f"outbox file {str(path)!r}: {problem}")
        self.path = path
        self.problem = problem


class InboxFull(ResilientWSError):
    """The awaited reply or confirmation is queued behind unread messages."""


class MessageTooBig(ResilientWSError):
    """The message is larger than `Outbox.max_bytes`.

    Attributes:
        size: The size of the message in bytes.
        limit: The limit in bytes.
    """

    def __init__(self, message: str = "the message is too big", *, size: int = 0, limit: int = 0) -> None:
        super().__init__(message)
        self.size = size
        self.limit = limit


class DeliveryUncertain(ResilientWSError):
    """The message may or may not have reached the peer: the connection ended, or confirmation is off."""


class ConcurrencyError(ResilientWSError):
    """Two consumers at once, or a call from an event loop other than that of the client."""

    @classmethod
    def other_loop(cls) -> ConcurrencyError:
        """Return the error for a call from another event loop."""
        return cls(
            "the client belongs to another event loop, the one in which it was started. From another thread use "
            "asyncio.run_coroutine_threadsafe(client.send(...), loop) for coroutines and "
            "loop.call_soon_threadsafe(client.reconnect_now) for plain methods"
        )
