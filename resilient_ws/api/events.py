"""What a client tells the program: frozen facts, in the order in which they happened.

Header values and subprotocols never appear in a `repr`: each may carry a token.
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
"""Values of `ErrorEvent.where` under which the client reports what it has found itself."""


class State(enum.StrEnum):
    """Where a client is in its life; `resilient_ws.core.life` holds the transitions."""

    IDLE = "idle"
    CONNECTING = "connecting"
    OPEN = "open"
    BACKOFF = "backoff"
    CLOSING = "closing"
    CLOSED = "closed"


class Fate(enum.StrEnum):
    """What became of an accepted message that was not confirmed."""

    UNCERTAIN = "uncertain"
    """Written, and the connection ended before the peer confirmed it: it may have arrived or not."""
    EXPIRED = "expired"
    """Its `ttl` passed before it was written."""
    EVICTED = "evicted"
    """An overflow rule removed it before it was written, or a newer message with its key replaced it."""
    ABANDONED = "abandoned"
    """The client ended before it was written."""


@attrs.frozen(kw_only=True, eq=False, repr=False)
class OpenEvent(Record):
    """A connection is open: handshake, `setup` and subscriptions are done.

    Attributes:
        attempt: Its number, counted from 1 since the last stable connection.
        endpoint: Where it leads.
        subprotocol: What the server chose, or `None`; not in the `repr`.
        headers: Of the server's answer; not in the `repr`.
        first: Whether it is the first one of this client.
        transport: What carries it: `"aiohttp"`, `"aiohttp (public API)"`, `"aiohttp over aiofastnet"`, `"picows"`, or what
            a transport of your own says; empty where it says nothing.
    """

    attempt: int
    endpoint: Endpoint
    subprotocol: str | None = attrs.field(default=None, repr=False)
    headers: Mapping[str, str] = attrs.field(factory=lambda: NO_HEADERS, repr=False)
    first: bool = False
    transport: str = ""


@attrs.frozen(kw_only=True, eq=False, repr=False)
class CloseEvent(Record):
    """A connection has ended, or (with `opened_for=None`) the client has ended while none was open.

    Attributes:
        code: What the peer's CLOSE said; 1005 where it carried no code; 1006 where there was no CLOSE.
        reason: What the peer's CLOSE said, else empty.
        was_clean: Whether both sides sent CLOSE.
        synthesized: Whether no CLOSE came from the peer, so that this event was made here.
        origin: Who or what ended it.
        sent_code: The code that we sent, or `None`.
        cause: What was seen, or `None` after a clean close.
        opened_for: Seconds it was open, those included for which the machine was suspended; `None` when nothing was.
        silent_for: Seconds since the last byte from the peer, `None` when nothing was open.
        unsent: Accepted messages that had not been written.
        uncertain: Messages written and not confirmed.
        unread: Received messages that the program has not taken yet; they are still delivered.
        will_retry: Whether a new connection follows.
        retry_in: Seconds until then, or `None`.
        rule: Which rule decided about the retry, in words.
        rule_id: The stable id of that rule, such as `heartbeat-silent`; `errors.md` lists them all.
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
        attempt: The number of the retry: how many failures in a row there were since the last stable connection.
        delay: Seconds until it begins.
        cause: What made it necessary, or `None` after a clean close.
        rule: Which rule decided, in words.
        rule_id: The stable id of that rule, such as `http-5xx`; `errors.md` lists them all.
    """

    attempt: int
    delay: float
    cause: BaseException | None = None
    rule: str = ""
    rule_id: str = ""


@attrs.frozen(kw_only=True, eq=False, repr=False)
class ReconnectEvent(Record):
    """A connection is open again; follows the `OpenEvent` of every one but the first.

    Attributes:
        attempts: How many it took.
        downtime: Seconds since the last connection ended, those included for which the machine was suspended.
        close: How that one ended.
        resent: Messages put in front of the outbox again.
        uncertain: Messages reported as `Fate.UNCERTAIN` instead.
        endpoint: Where the new one leads.
    """

    attempts: int
    downtime: float
    close: CloseEvent
    resent: int = 0
    uncertain: int = 0
    endpoint: Endpoint


@attrs.frozen(kw_only=True, eq=False, repr=False)
class UndeliveredEvent(Record):
    """An accepted message was not confirmed, and this is what is known of it.

    Attributes:
        message: As it was passed to `send`.
        fate: What became of it.
        accepted_at: When `send` accepted it, in seconds since the epoch (as `time.time()`).
        age: Seconds between then and this event.
        times_sent: How many times it was sent; 0 where it was never written.
    """

    message: Message = attrs.field(repr=False)
    fate: Fate
    accepted_at: float
    age: float
    times_sent: int = 0


@attrs.frozen(kw_only=True, eq=False, repr=False)
class StateEvent(Record):
    """The client went from one state to another."""

    old: State
    new: State


@attrs.frozen(kw_only=True, eq=False, repr=False)
class ErrorEvent(Record):
    """Something went wrong beside the connection: a callback raised, an inbox stands full, events were dropped.

    Attributes:
        where: Which part: `on_close` and so on for a callback, `decide`, `wait`, `stop`, `inbox`, `events`, ...
        exception: What was raised.
        event: What the callback had been called with, or `None`.
    """

    where: str
    exception: BaseException
    event: object = attrs.field(default=None, repr=False)

    @property
    def id(self) -> str:
        """The stable short name of what went wrong, such as `inbox-full` or `on-close-failed`.

        What the client itself reports has the `id` of its exception; what code of the program raised, or the program gave
        wrongly, has `where` with `-failed`.
        """
        if self.where in REPORTED and isinstance(self.exception, ResilientWSError):
            return self.exception.id
        return f"{self.where.replace('_', '-')}-failed"


@attrs.frozen(kw_only=True, eq=False, repr=False)
class Gap(Record):
    """A place in the stream of received messages where some may be missing.

    Attributes:
        close: How the connection before it ended; `None` where only the inbox dropped messages.
        downtime: Seconds without a connection, those included for which the machine was suspended.
        count: How many connections ended at this place.
        dropped: Messages that `Inbox(overflow="drop_oldest")` removed here.
        resumed: Whether a resume protocol made it complete again; always `False` in this version.
        missing: Sequence numbers that `SnapshotThenDeltas` found missing here.
    """

    close: CloseEvent | None = None
    downtime: float = 0.0
    count: int = 1
    dropped: int = 0
    resumed: bool = False
    missing: int = 0

    @property
    def cause(self) -> BaseException | None:
        """What was seen as the connection ended, or `None` after a clean close and where none ended."""
        return self.close.cause if self.close is not None else None

    @property
    def surely_lost(self) -> bool:
        """Whether something is known to be missing; `False` = nobody knows."""
        return self.dropped > 0 or self.missing > 0


@attrs.frozen(eq=False, repr=False)
class Lost(Record):
    """A place in the stream of received messages where a connection was lost.

    `with_gaps(lost=True)` yields it as soon as the messages before it are taken; the `Gap` follows when the next
    connection is open. A loss that ends the client ends the iteration instead, which raises what ended the client.

    Attributes:
        close: How the connection ended, the event that `on_close` is called with.
    """

    close: CloseEvent

    @property
    def cause(self) -> BaseException | None:
        """What was seen as the connection ended, or `None` after a clean close."""
        return self.close.cause


@attrs.frozen(eq=False, repr=False)
class Stale(Record):
    """The state that `SnapshotThenDeltas` has yielded is stale: its connection was lost. A new `Snapshot` follows.

    Attributes:
        close: How the connection ended, the event that `on_close` is called with.
    """

    close: CloseEvent

    @property
    def cause(self) -> BaseException | None:
        """What was seen as the connection ended, or `None` after a clean close."""
        return self.close.cause


def merged(first: Gap, second: Gap) -> Gap:
    """Return one gap for two that no message separates; `close` is that of the later one, if it has one."""
    return Gap(
        close=second.close if second.close is not None else first.close,
        downtime=first.downtime + second.downtime,
        count=first.count + second.count,
        dropped=first.dropped + second.dropped,
        resumed=first.resumed and second.resumed,
    )


@attrs.frozen(kw_only=True, eq=False, repr=False)
class Failure(Record):
    """What a retry rule is asked about: a connection that ended, or an attempt that failed.

    Attributes:
        close: How an open connection ended, else `None`.
        error: What an attempt raised, or the cause of the close, or `None`.
        status: The HTTP status of a refused handshake, else `None`.
        headers: The headers of that answer, else `None`; not in the `repr`.
        retry_after: Seconds the server asked to wait, else `None`.
        attempt: How many attempts have failed since the last stable connection, this one included.
        opened_for: Seconds the connection was open, `None` when it never was.
        endpoint: Where it led, `None` when the URL provider failed.
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
    """What a URL provider is told about the attempt it is asked for.

    Attributes:
        number: Counted from 1 since the last stable connection.
        endpoint: What was used last, `None` at first.
        last_failure: Why the last attempt or connection failed, `None` at first.
        last_close: How the last open connection ended, `None` when none was.
    """

    number: int
    endpoint: Endpoint | None = None
    last_failure: Failure | None = None
    last_close: CloseEvent | None = None


class Stop(Exception):  # noqa: N818 - a verdict, raised or returned; not an error
    """A verdict: do not connect again. `decide` returns or raises it; `setup` and a URL provider raise it.

    Args:
        reason: Why, for people; the text of the `ClientStopped` that follows.
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
    """A verdict: connect again. `decide` returns it.

    Args:
        after: Seconds or `timedelta` to wait, 0 or more; `None` = what the policy's formula gives.
    """

    after: float | None = attrs.field(default=None, converter=_after)


Event = OpenEvent | CloseEvent | RetryEvent | ReconnectEvent | UndeliveredEvent | StateEvent | ErrorEvent
"""Whatever `events()` yields."""
