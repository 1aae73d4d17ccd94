"""The events of a client, as frozen classes.

Header values and subprotocols never appear in a `repr`, because they may contain tokens.
"""

from __future__ import annotations

import enum
import sys
from collections.abc import Mapping
from datetime import timedelta
from typing import Final

import attrs

from resilient_ws.api.close_codes import CloseOrigin, describe, on_one_line
from resilient_ws.api.connect_errors import ResilientWSError
from resilient_ws.api.endpoints import NO_HEADERS, Endpoint
from resilient_ws.api.message import Message
from resilient_ws.api.record import Record

REPORTED: Final = frozenset({"codec", "events", "inbox", "outbox", "subscription"})
"""Values of `ErrorEvent.where` for problems that the client itself found, not user code."""


class State(enum.StrEnum):
    """The state of a client; `resilient_ws.core.life` defines the transitions."""

    IDLE = "idle"
    CONNECTING = "connecting"
    OPEN = "open"
    BACKOFF = "backoff"
    CLOSING = "closing"
    CLOSED = "closed"


class Fate(enum.StrEnum):
    """The fate of an accepted message that was not confirmed."""

    UNCERTAIN = "uncertain"
    """Written, but the connection ended before the peer confirmed it: it may have arrived or not."""
    EXPIRED = "expired"
    """Its `ttl` elapsed before it was written."""
    EVICTED = "evicted"
    """Removed before it was written, by an overflow rule or by a newer message with the same key."""
    ABANDONED = "abandoned"
    """The client ended before the message was written."""


@attrs.frozen(kw_only=True, eq=False, repr=False)
class OpenEvent(Record):
    """A connection is open: handshake, `setup` and subscriptions are done.

    Attributes:
        attempt: The number of the attempt, from 1, since the last stable connection.
        endpoint: The endpoint it connects to.
        subprotocol: The subprotocol that the server chose, or `None`; not in the `repr`.
        headers: The response headers of the handshake; not in the `repr`.
        first: Whether this is the first connection of the client.
        transport: The transport in use: `"aiohttp"`, `"aiohttp (public API)"`, `"aiohttp over aiofastnet"`, `"picows"`, or
            the name that a custom transport gives; may be empty.
    """

    attempt: int
    endpoint: Endpoint
    subprotocol: str | None = attrs.field(default=None, repr=False)
    headers: Mapping[str, str] = attrs.field(factory=lambda: NO_HEADERS, repr=False)
    first: bool = False
    transport: str = ""


@attrs.frozen(kw_only=True, eq=False, repr=False)
class CloseEvent(Record):
    """A connection has ended, or (with `opened_for=None`) the client has ended without an open connection.

    Attributes:
        code: The code of the peer's CLOSE frame; 1005 if the frame has no code, 1006 if there was no frame.
        reason: The reason of the peer's CLOSE frame, or empty.
        was_clean: Whether both sides sent CLOSE.
        synthesized: Whether the client made this event without a CLOSE frame from the peer.
        origin: Who or what ended the connection.
        sent_code: The code that the client sent, or `None`.
        cause: The exception that describes the end, or `None` after a clean close.
        opened_for: Seconds the connection was open, including time in which the machine was suspended; `None` if none was
            open.
        silent_for: Seconds since the last byte from the peer; `None` if no connection was open.
        unsent: The number of accepted messages that were not written.
        uncertain: The number of messages written and not confirmed.
        unread: The number of received messages not read yet; they are still delivered.
        will_retry: Whether the client reconnects.
        retry_in: Seconds until the next attempt, or `None`.
        rule: The text of the rule that decided.
        rule_id: The stable id of that rule, such as `heartbeat-silent`; `errors.md` lists all ids.
        final: Whether this is the last event of the client.
    """

    code: int
    reason: str = ""
    was_clean: bool = False
    synthesized: bool = False
    origin: CloseOrigin = CloseOrigin.NETWORK
    sent_code: int | None = None
    cause: BaseException | None = None
    opened_for: float | None = None
    silent_for: float | None = None
    unsent: int = 0
    uncertain: int = 0
    unread: int = 0
    will_retry: bool = False
    retry_in: float | None = None
    rule: str = ""
    rule_id: str = ""
    final: bool = False

    def __str__(self) -> str:
        said = f": {on_one_line(self.reason)}" if self.reason else ""
        who = "this client" if self.origin is CloseOrigin.LOCAL else self.origin
        if self.synthesized:
            with_what = f"(no CLOSE frame from the server: {self.code})"
        else:
            with_what = f"with {describe(self.code)}{said}"
        why = f": {self.cause}" if self.cause is not None else ""
        return f"closed by {who} {with_what}{why}"


@attrs.frozen(kw_only=True, eq=False, repr=False)
class RetryEvent(Record):
    """Another attempt is scheduled.

    Attributes:
        attempt: The number of the retry: failures in a row since the last stable connection.
        delay: Seconds until the attempt starts.
        cause: The exception that made it necessary, or `None` after a clean close.
        rule: The text of the rule that decided.
        rule_id: The stable id of that rule, such as `http-5xx`; `errors.md` lists all ids.
    """

    attempt: int
    delay: float
    cause: BaseException | None = None
    rule: str = ""
    rule_id: str = ""


@attrs.frozen(kw_only=True, eq=False, repr=False)
class ReconnectEvent(Record):
    """A connection is open again. This event follows every `OpenEvent` but the first.

    Attributes:
        attempts: The number of attempts it took.
        downtime: Seconds since the last connection ended, including time in which the machine was suspended.
        close: The `CloseEvent` of the last connection.
        resent: The number of messages that will be resent.
        uncertain: The number of messages reported as `Fate.UNCERTAIN` instead.
        endpoint: The endpoint of the new connection.
    """

    attempts: int
    downtime: float
    close: CloseEvent
    resent: int = 0
    uncertain: int = 0
    endpoint: Endpoint


@attrs.frozen(kw_only=True, eq=False, repr=False)
class UndeliveredEvent(Record):
    """An accepted message was not delivered, or may not have been.

    Attributes:
        message: The message, as passed to `send`.
        fate: What happened to it.
        accepted_at: When `send` accepted it, in seconds since the epoch (as `time.time()`).
        age: Seconds between then and this event.
        times_sent: How many times it was written; 0 if never.
    """

    message: Message = attrs.field(repr=False)
    fate: Fate
    accepted_at: float
    age: float
    times_sent: int = 0


@attrs.frozen(kw_only=True, eq=False, repr=False)
class StateEvent(Record):
    """The state of the client changed."""

    old: State
    new: State


@attrs.frozen(kw_only=True, eq=False, repr=False)
class ErrorEvent(Record):
    """A problem outside the connection: a callback raised, the inbox stays full, or events were dropped.

    Attributes:
        where: The part with the problem: `on_close` and so on for a callback, `decide`, `wait`, `stop`, `inbox`, ...
        exception: The exception.
        event: The argument of the callback, or `None`.
    """

    where: str
    exception: BaseException
    event: object = attrs.field(default=None, repr=False)

    @property
    def id(self) -> str:
        """The stable name of the problem, such as `inbox-full` or `on-close-failed`.

        For problems that the client found, this is the `id` of the exception. For failed user code, it is `where` with
        `-failed`.
        """
        if self.where in REPORTED and isinstance(self.exception, ResilientWSError):
            return self.exception.id
        return f"{self.where.replace('_', '-')}-failed"


@attrs.frozen(kw_only=True, eq=False, repr=False)
class Gap(Record):
    """A place in the stream of received messages where some may be missing.

    Attributes:
        close: The `CloseEvent` of the connection before it; `None` if only the inbox dropped messages.
        downtime: Seconds without a connection, including time in which the machine was suspended.
        count: The number of connections that ended here.
        dropped: The number of messages that `Inbox(overflow="drop_oldest")` removed here.
        resumed: Whether a resume protocol filled the gap; always `False` in this version.
        missing: The number of sequence numbers that `SnapshotThenDeltas` found missing here.
    """

    close: CloseEvent | None = None
    downtime: float = 0.0
    count: int = 1
    dropped: int = 0
    resumed: bool = False
    missing: int = 0

    @property
    def cause(self) -> BaseException | None:
        """The cause of `close`, or `None` after a clean close or if no connection ended."""
        return self.close.cause if self.close is not None else None

    @property
    def surely_lost(self) -> bool:
        """Whether messages are known to be missing; `False` means unknown."""
        return self.dropped > 0 or self.missing > 0


@attrs.frozen(eq=False, repr=False)
class Lost(Record):
    """A place in the stream of received messages where a connection was lost.

    `with_gaps(lost=True)` yields it as soon as the messages before it are read; the `Gap` follows when the next connection
    is open. A loss that ends the client ends the iteration instead, which then raises the reason.

    Attributes:
        close: The `CloseEvent` that `on_close` receives.
    """

    close: CloseEvent

    @property
    def cause(self) -> BaseException | None:
        """The cause of `close`, or `None` after a clean close."""
        return self.close.cause


@attrs.frozen(eq=False, repr=False)
class Stale(Record):
    """The state from `SnapshotThenDeltas` is stale: its connection was lost. A new `Snapshot` follows.

    Attributes:
        close: The `CloseEvent` that `on_close` receives.
    """

    close: CloseEvent

    @property
    def cause(self) -> BaseException | None:
        """The cause of `close`, or `None` after a clean close."""
        return self.close.cause


def merged(first: Gap, second: Gap) -> Gap:
    """Merge two adjacent gaps; the later `close` wins if there is one."""
    return Gap(
        close=second.close if second.close is not None else first.close,
        downtime=first.downtime + second.downtime,
        count=first.count + second.count,
        dropped=first.dropped + second.dropped,
        resumed=first.resumed and second.resumed,
    )


@attrs.frozen(kw_only=True, eq=False, repr=False)
class Failure(Record):
    """The input of `decide`: a connection that ended, or an attempt that failed.

    Attributes:
        close: The `CloseEvent` of a connection that was open, otherwise `None`.
        error: The exception of the attempt, or the cause of the close, or `None`.
        status: The HTTP status of a refused handshake, otherwise `None`.
        headers: The headers of that answer, otherwise `None`; not in the `repr`.
        retry_after: Seconds that the server asked the client to wait, otherwise `None`.
        attempt: The number of failed attempts since the last stable connection, including this one.
        opened_for: Seconds the connection was open; `None` if it never was.
        endpoint: The endpoint; `None` if the URL provider failed.
    """

    close: CloseEvent | None = None
    error: BaseException | None = None
    status: int | None = None
    headers: Mapping[str, str] | None = attrs.field(default=None, repr=False)
    retry_after: float | None = None
    attempt: int = 1
    opened_for: float | None = None
    endpoint: Endpoint | None = None


@attrs.frozen(kw_only=True, eq=False, repr=False)
class Attempt(Record):
    """The argument of a URL provider.

    Attributes:
        number: The number of the attempt, from 1, since the last stable connection.
        endpoint: The endpoint used last; `None` at first.
        last_failure: Why the last attempt or connection failed; `None` at first.
        last_close: The `CloseEvent` of the last open connection; `None` if there was none.
    """

    number: int
    endpoint: Endpoint | None = None
    last_failure: Failure | None = None
    last_close: CloseEvent | None = None


class Stop(Exception):  # noqa: N818 - a verdict, raised or returned; not an error
    """A verdict: do not reconnect. `decide` returns or raises it; `setup` and a URL provider raise it.

    Args:
        reason: The text of the `ClientStopped` that follows.
    """

    def __init__(self, reason: str = "the program said stop") -> None:
        super().__init__(reason)
        self.reason = reason


def _after(value: float | timedelta | None) -> float | None:
    if value is None:
        return None
    if isinstance(value, timedelta):
        value = value.total_seconds()
    _check_after(value)
    return value


def _check_after(value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"Retry.after must be seconds, a timedelta or None, got {type(value).__name__}")
    if not 0 <= value <= sys.float_info.max:
        raise ValueError(f"Retry.after must be 0 or more and finite, got {value!r}")


@attrs.frozen(eq=False, repr=False)
class Retry(Record):
    """A verdict: reconnect. `decide` returns it.

    Args:
        after: Seconds or `timedelta` to wait, 0 or more; `None` uses the delay of the policy.
    """

    after: float | None = attrs.field(default=None, converter=_after)


Event = OpenEvent | CloseEvent | RetryEvent | ReconnectEvent | UndeliveredEvent | StateEvent | ErrorEvent
"""The events that `events()` yields."""
