"""The exceptions that reach a program, each with typed fields and a text of its own.

An exception means "your call failed" or "it is over"; a drop that will be retried is an event instead.
Foreign exceptions are translated where the network is touched (`resilient_ws.transports`) and nowhere else.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final

from resilient_ws.record import deep, portable

if TYPE_CHECKING:
    from resilient_ws.events import CloseEvent, UndeliveredEvent


_WORD: Final = re.compile(r"(?<=[a-z])(?=[A-Z])")


class ResilientWSError(Exception):
    """The base of every exception of this package. It can be copied and pickled, with its attributes and its cause.

    Attributes:
        id: The stable short name of the class, such as `open-timeout`, for alerts and metrics; each class has its own.
    """

    id: ClassVar[str] = "resilient-ws-error"

    def __init_subclass__(cls, **options: object) -> None:
        super().__init_subclass__(**options)
        if "id" not in cls.__dict__:
            cls.id = _WORD.sub("-", cls.__name__).lower()

    def __reduce__(self) -> tuple[Any, ...]:
        state = {name: portable(value) for name, value in vars(self).items()}
        return _error, (type(self), self.args, state, portable(self.__cause__), self.__suppress_context__)

    def __copy__(self) -> ResilientWSError:
        return _error(type(self), self.args, vars(self), self.__cause__, self.__suppress_context__)

    def __deepcopy__(self, memo: dict[int, Any]) -> ResilientWSError:
        state = {name: deep(value, memo) for name, value in vars(self).items()}
        return _error(type(self), self.args, state, self.__cause__, self.__suppress_context__)


def _error(
    kind: type[ResilientWSError],
    args: tuple[Any, ...],
    state: Mapping[str, Any],
    cause: BaseException | None,
    suppressed: bool,
) -> ResilientWSError:
    """Makes a copy of an exception, without a call of its own `__init__`."""
    made = kind.__new__(kind, *args)
    made.args = args
    made.__dict__.update(state)
    made.__cause__ = cause
    made.__suppress_context__ = suppressed
    return made


class ConnectError(ResilientWSError):
    """One attempt to connect has failed.

    Attributes:
        status: The HTTP status of the answer, or `None` when there was none.
        headers: The headers of that answer, or `None`; never part of the text.
        retry_after: Seconds the server asked to wait, or `None`.
        retryable: Whether another attempt could end differently.
        foreign: The type name of the underlying exception when its text may hold a secret, so that it is not
            chained; otherwise `None` and `__cause__` is the underlying exception.
    """

    def __init__(
        self,
        message: str = "the connection could not be opened",
        *,
        status: int | None = None,
        headers: Mapping[str, str] | None = None,
        retry_after: float | None = None,
        retryable: bool = True,
        foreign: str | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.headers = headers
        self.retry_after = retry_after
        self.retryable = retryable
        self.foreign = foreign


class OpenTimeout(ConnectError, TimeoutError):
    """Provider, name look-up, TCP, TLS and handshake together took longer than `open_timeout`."""


class HandshakeRejected(ConnectError):
    """The server answered, but not with a valid WebSocket handshake: `status` says with what."""


class ProxyRejected(HandshakeRejected):
    """The proxy refused to connect us, or is none: the text names it, `status` is what it answered, if it was HTTP."""


class CertificateRejected(ConnectError):
    """The server's TLS certificate could not be verified."""


class InvalidURL(ConnectError, ValueError):
    """The address is not a `ws` or `wss` URL with a host."""

    def __init__(self, message: str = "not a ws or wss URL", *, foreign: str | None = None) -> None:
        super().__init__(message, retryable=False, foreign=foreign)


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
    """The awaited answer stands behind received messages that the program does not take."""


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
        """Returns the one for a call from another event loop."""
        return cls(
            "the client belongs to another event loop, the one in which it was started. From another thread use "
            "asyncio.run_coroutine_threadsafe(client.send(...), loop) for what is awaited, and "
            "loop.call_soon_threadsafe(client.reconnect_now) for the rest"
        )
