"""The option classes. Each value is checked and normalised on construction; an error names field, value and range.

`None` means off or no limit; zero never does. Durations are seconds or `datetime.timedelta`.
"""

from __future__ import annotations

import inspect
import math
import os
from collections.abc import Awaitable, Callable
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, Self, overload

import attrs

from resilient_ws.api.events import Failure, Retry, Stop
from resilient_ws.api.message import Message
from resilient_ws.api.record import Record

if TYPE_CHECKING:
    from tenacity import RetryCallState
else:
    RetryCallState = (
        Any  # a program without a strategy of tenacity does not load it; annotations can be evaluated
    )

Duration = float | int | timedelta
MiB = 1024 * 1024


@overload
def seconds(name: str, value: object, *, zero: bool = ..., none: Literal[False] = ...) -> float: ...
@overload
def seconds(name: str, value: object, *, zero: bool = ..., none: bool) -> float | None: ...
def seconds(name: str, value: object, *, zero: bool = False, none: bool = False) -> float | None:
    """Return `value` in seconds.

    Args:
        name: The field, for the error text.
        value: A number of seconds or a `timedelta`.
        zero: Whether 0 is allowed.
        none: Whether `None` is allowed (and returned).

    Raises:
        TypeError: Not a number, `timedelta` or allowed `None`.
        ValueError: Negative, zero where that is not allowed, or not finite.
    """
    if value is None and none:
        return None
    if isinstance(value, timedelta):
        value = value.total_seconds()
    if isinstance(value, bool) or not isinstance(value, int | float):
        also = " or None" if none else ""
        raise TypeError(f"{name} must be seconds or a timedelta{also}, got {type(value).__name__}")
    low = "0 or more" if zero else "more than 0"
    number = _as_float(value)
    if not math.isfinite(number) or number < 0 or (number == 0 and not zero):
        raise ValueError(f"{name} must be {low} and finite, got {number!r}")
    return number


def factor_of_growth(name: str, value: object) -> float:
    """Return `value`, a number of 1 or more; raise `TypeError` or `ValueError` naming the field."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name} must be a number, got {type(value).__name__}")
    number = _as_float(value)
    if not 1 <= number < math.inf:
        raise ValueError(f"{name} must be 1 or more and finite, got {number!r}")
    return number


def _as_float(value: float) -> float:
    try:
        return float(value)
    except OverflowError:  # an int beyond any float
        return math.inf if value > 0 else -math.inf


def whole(name: str, value: object, *, low: int = 1) -> int:
    """Return `value`, an `int` of `low` or more; raise `TypeError` or `ValueError` naming the field."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be an int, got {type(value).__name__}")
    if value < low:
        raise ValueError(f"{name} must be {low} or more, got {value}")
    return value


def one_of(name: str, value: object, allowed: tuple[str, ...]) -> str:
    """Return `value`, one of `allowed`; raise `TypeError` or `ValueError` naming the field."""
    shown = ", ".join(repr(item) for item in allowed)
    if not isinstance(value, str):
        raise TypeError(f"{name} must be one of {shown}, got {type(value).__name__}")
    if value not in allowed:
        raise ValueError(f"{name} must be one of {shown}, got {value!r}")
    return value


def switch(name: str, value: object) -> None:
    """Raise `TypeError` unless `value` is `True`, `False` or `None`."""
    if value is not None and not isinstance(value, bool):
        raise TypeError(f"{name} must be True, False or None, got {type(value).__name__}")


def function(name: str, value: object, *, sync: bool = False, takes: int = 1) -> None:
    """Check a function that is user code.

    Args:
        name: The name of the option, for the error text.
        value: The value to check.
        sync: Whether the function must not be async.
        takes: The number of positional arguments it will be called with.

    Raises:
        TypeError: The value is not callable, does not take that many arguments, or is async and must not be.
    """
    if not callable(value):
        raise TypeError(f"{name} must be callable, got {type(value).__name__}")
    if sync and (inspect.iscoroutinefunction(value) or inspect.iscoroutinefunction(type(value).__call__)):
        raise TypeError(f"{name} must not be async: what it returns is used at once")
    try:
        # Not the signature of the wrapped function: a decorator may add or remove arguments.
        signature = inspect.signature(value, follow_wrapped=False)
    except Exception:  # noqa: BLE001 - some builtins have none, and to look at foreign objects may raise anything
        return
    try:
        signature.bind(*[None] * takes)
    except TypeError as error:
        wanted = "one argument" if takes == 1 else "no arguments"
        raise TypeError(f"{name} must take {wanted}, but {named(value)} does not: {error}") from None


def named(value: object) -> str:
    """Return the name of a function, for an error text."""
    while isinstance(value, partial):
        value = value.func
    name = getattr(value, "__qualname__", None)
    return f"{name}()" if isinstance(name, str) else f"a {type(value).__qualname__}"


def _number(value: Duration) -> float:
    """Convert a duration; `_normalise` checks it, because it knows the name of the field."""
    return value.total_seconds() if isinstance(value, timedelta) else value


def _number_or_none(value: Duration | None) -> float | None:
    return None if value is None else _number(value)


def _normalise(options: object, *names: str, zero: bool = False, none: bool = False) -> None:
    """Check the named durations of a frozen object under construction and convert them to floats."""
    for name in names:
        object.__setattr__(options, name, seconds(name, getattr(options, name), zero=zero, none=none))


AppMessage = Message | bytearray | memoryview | Callable[[], Message]
Answer = Callable[[Message], Message | bytearray | memoryview | None]


@attrs.frozen(eq=False, repr=False)
class Heartbeat(Record):
    """How to detect a dead connection.

    `Heartbeat()` sends PING frames, `Heartbeat.expect()` waits for those of the server, and `Heartbeat.app()` sends ping
    messages of your application protocol.

    Args:
        interval: Seconds between two pings, more than 0, regardless of what arrives. If above 1 s, up to 1/64 s less, so that
            the pings of many connections share iterations of the event loop.
        timeout: Seconds, more than 0, in which any data must arrive after a ping has been sent.
        pong_timeout: Seconds, more than 0, that a ping may stay unanswered while messages arrive; `None` means no limit.
        idle_timeout: Seconds, more than 0, without a data message after which the connection is closed even if pings are
            answered; `None` means no limit.
        answer: `answer(message) -> reply | None`, for servers that send pings as messages. It is called with each message as
            it arrives, also during `setup`, and must not block. If it returns a reply (`str` or bytes-like), the reply is
            sent at once, before pending messages; `message` is not delivered and does not count as data for
            `idle_timeout`. If it returns `None`, the message is delivered. If it raises or returns something else, that
            is reported (`ErrorEvent(where="heartbeat")`) and the message is delivered. `None` disables it.

    Raises:
        TypeError, ValueError: A value is not a duration, or out of its range.
    """

    interval: float = attrs.field(default=15.0, converter=_number)
    timeout: float = attrs.field(default=10.0, converter=_number)
    pong_timeout: float | None = attrs.field(default=60.0, converter=_number_or_none)
    idle_timeout: float | None = attrs.field(default=None, converter=_number_or_none, kw_only=True)
    answer: Answer | None = attrs.field(default=None, kw_only=True, repr=False)
    kind: Literal["ping", "expect", "app"] = attrs.field(default="ping", init=False)
    message: AppMessage | None = attrs.field(default=None, init=False, repr=False)
    is_reply: Callable[[Message], bool] | None = attrs.field(default=None, init=False, repr=False)

    def __attrs_post_init__(self) -> None:
        _normalise(self, "interval", "timeout")
        _normalise(self, "pong_timeout", "idle_timeout", none=True)
        if self.answer is not None:
            function("answer", self.answer, sync=True)

    @classmethod
    def expect(
        cls, within: Duration = 60, *, idle_timeout: Duration | None = None, answer: Answer | None = None
    ) -> Self:
        """Rely on the pings of the server: end the connection after `within` seconds of silence.

        Args:
            within: Seconds or `timedelta`, more than 0; slightly larger than the server's ping interval.
            idle_timeout: As for `Heartbeat`.
            answer: As for `Heartbeat`.
        """
        limit = seconds("within", within)
        made = cls(interval=limit, timeout=limit, pong_timeout=None, idle_timeout=idle_timeout, answer=answer)
        object.__setattr__(made, "kind", "expect")
        return made

    @classmethod
    def app(
        cls,
        message: AppMessage,
        is_reply: Callable[[Message], bool],
        interval: Duration = 15,
        timeout: Duration = 10,
        *,
        pong_timeout: Duration | None = 60,
        idle_timeout: Duration | None = None,
        answer: Answer | None = None,
    ) -> Self:
        """Send ping messages of your application protocol, for servers that do not answer PING frames.

        Args:
            message: The ping, `str` or bytes-like, or a function that returns it (for counters and timestamps). If the
                function raises, a PING frame is sent instead.
            is_reply: A function that returns whether a received message is the reply; a reply is consumed, not
                delivered. It must not block.
            interval: Seconds or `timedelta`, more than 0, between two pings.
            timeout: Seconds or `timedelta`, more than 0, in which any data must arrive after a ping has been sent.
            pong_timeout: Seconds or `timedelta`, more than 0, that a ping may stay unanswered while messages arrive;
                `None` means no limit.
            idle_timeout: As for `Heartbeat`; replies do not count as data.
            answer: As for `Heartbeat`; called before `is_reply`.
        """
        if isinstance(message, bytearray | memoryview):
            message = bytes(message)  # later changes to the buffer have no effect
        _check_message(message)
        function("is_reply", is_reply, sync=True)
        made = cls(
            interval=interval,
            timeout=timeout,
            pong_timeout=pong_timeout,
            idle_timeout=idle_timeout,
            answer=answer,
        )
        object.__setattr__(made, "kind", "app")
        object.__setattr__(made, "message", message)
        object.__setattr__(made, "is_reply", is_reply)
        return made


def _check_message(value: object) -> None:
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise ValueError(f"message must be encodable as UTF-8: {error.reason}") from None
        return
    if isinstance(value, bytes):
        return
    if not callable(value):
        raise TypeError(f"message must be str, bytes-like or callable, got {type(value).__name__}")
    function("message", value, sync=True, takes=0)


Strategy = Callable[[RetryCallState], float]
Decide = Callable[[Failure], "Retry | Stop | Awaitable[Retry | Stop | None] | None"]


@attrs.frozen(eq=False, repr=False)
class ReconnectPolicy(Record):
    """When to reconnect, and when to stop.

    Retry 1 waits U(0, `first_delay`); retry n > 1 waits U(`min_delay`, max(`min_delay`, min(`max_delay`,
    `first_delay` * `factor` ** (n - 1)))). The count restarts after a connection that was open for `min_uptime`.

    Args:
        first_delay: Seconds, 0 or more: the upper bound of the first delay.
        min_delay: Seconds, 0 or more: the lower bound of all later delays.
        max_delay: Seconds, 0 or more: the upper bound of all delays. If below the default of `min_delay` or `first_delay`, it
            lowers that default.
        factor: 1 or more: how much the upper bound grows with each retry.
        max_attempts: Failed attempts in a row, 1 or more; `None` means no limit.
        max_elapsed: Seconds, more than 0, since the drop (or `start()`), including time in which the machine was suspended;
            `None` means no limit.
        min_uptime: Seconds, 0 or more, that a connection must stay open to count as stable.
        refused_for: Seconds, 0 or more. Refusals (HTTP 4xx, a captive portal, a bad certificate, an invalid handshake) stop a
            client that has been open only after this time without a connection, and not before the tenth in a row. 0
            means that the tenth stops it; `None` means that refusals never stop it. A client that has never been open
            always stops at the first refusal.
        wait: A tenacity wait strategy, which replaces the formula; `None` uses the formula.
        stop: A tenacity stop strategy, checked in addition to the other limits; `None` means none.
        decide: A function, sync or async, called with a `Failure`. It returns `Retry`, `Stop`, or `None` for the default.

    Raises:
        TypeError, ValueError: A value has the wrong type or is out of its range.
    """

    first_delay: float = attrs.field(default=1.0, converter=_number)
    min_delay: float = attrs.field(default=0.5, converter=_number)
    max_delay: float = attrs.field(default=30.0, converter=_number)
    factor: float = attrs.field(default=2.0)
    max_attempts: int | None = attrs.field(default=None)
    max_elapsed: float | None = attrs.field(default=None, converter=_number_or_none)
    min_uptime: float = attrs.field(default=10.0, converter=_number)
    refused_for: float | None = attrs.field(default=3600.0, converter=_number_or_none, kw_only=True)
    wait: Strategy | None = attrs.field(default=None, repr=False)
    stop: Callable[[RetryCallState], bool] | None = attrs.field(default=None, repr=False)
    decide: Decide | None = attrs.field(default=None, repr=False)

    def __attrs_post_init__(self) -> None:
        _normalise(self, "first_delay", "min_delay", "max_delay", "min_uptime", zero=True)
        _normalise(self, "max_elapsed", none=True)
        _normalise(self, "refused_for", zero=True, none=True)
        object.__setattr__(self, "factor", factor_of_growth("factor", self.factor))
        for name, default in (("first_delay", 1.0), ("min_delay", 0.5)):
            delay = getattr(self, name)
            if delay > self.max_delay:
                if delay != default:
                    raise ValueError(f"{name} must be at most max_delay, got {delay!r} > {self.max_delay!r}")
                object.__setattr__(self, name, self.max_delay)
        if self.max_attempts is not None:
            whole("max_attempts", self.max_attempts)
        for name in ("wait", "stop", "decide"):
            if getattr(self, name) is not None:
                function(name, getattr(self, name), sync=name != "decide")


Overflow = Literal["raise", "wait", "drop_oldest", "drop_newest"]
OnUncertain = Literal["report", "resend"]
Durability = Literal["accepted", "eventual"]


RESEND_UNCONFIRMED = "on_uncertain='resend' needs confirmation to know what to send again, so confirm must be True or None, got False"


def _path(value: str | os.PathLike[str] | None) -> str | None:
    """Return the path as a `str`; the file is not opened before the client starts."""
    if value is None:
        return None
    try:
        name: object = os.fspath(value)
    except TypeError:
        name = None
    if not isinstance(name, str):
        raise TypeError(f"path must be a str or os.PathLike, or None, got {type(value).__name__}")
    if not name or "\0" in name:
        raise ValueError(f"path must not be empty and not hold NUL, got {name!r}")
    return name


@attrs.frozen(eq=False, repr=False)
class Outbox(Record):
    """Bounds and rules for messages that are accepted and not confirmed yet.

    With a `path`, messages are also stored in a file, so that they survive a killed process. The next client that opens
    the file sends the unwritten messages first, in order. Messages that may have been written and were not confirmed
    are resent with `resend`, and reported as `UNCERTAIN` with `report`. When a client ends, messages that the next one
    will send stay in the file and are not reported as `ABANDONED`. Messages with `queue=False`, requests and
    subscriptions are never stored: they belong to the current connection. The file is opened when the client starts.
    `send` waits for that; before `start()` it raises `NotConnected`.

    Args:
        max_messages: The most pending messages, 1 or more.
        max_bytes: The most pending bytes, 1 or more; also the size of the largest message. Messages in flight (written and
            not confirmed) have a separate bound of the same size.
        ttl: Seconds, more than 0, that a message may be pending before it is dropped as `EXPIRED`; `None` means no limit.
        overflow: What `send` does if the outbox is full: `raise` raises `OutboxFull` if no connection is open, and waits
            otherwise; `wait` always waits; `drop_oldest` and `drop_newest` drop a message.
        on_uncertain: What happens to messages in flight when a connection ends: `report` reports them as `UNCERTAIN`,
            `resend` sends them again (at-least-once delivery).
        max_resends: How many times a message is resent after the peer ended the connection with a CLOSE, 1 or more. A CLOSE with
            1000, 1001, 1012, 1013 or 1014 does not count. After that the message is `UNCERTAIN`.
        confirm: Whether deliveries are confirmed with tagged PING frames. `None` enables it with `Heartbeat()`, with
            `on_uncertain="resend"` (here or for one message), or with a `path`. `False` is an error with `resend`.
        confirm_interval: Seconds, more than 0, between two of these pings while messages are in flight.
        path: The outbox file, a `str` or `os.PathLike` in an existing directory. It is created if it does not exist. One client
            at a time can use it. `None` keeps messages in memory only.
        durability: Only with a `path`. With `accepted`, `send` returns when the message is on disk. With `eventual`, it does not
            wait for the disk, and the last messages before the process is killed may be missing. `None` means
            `accepted`.

    Raises:
        TypeError, ValueError: A value has the wrong type or is out of its range.
    """

    max_messages: int = 1000
    max_bytes: int = 8 * MiB
    ttl: float | None = attrs.field(default=None, converter=_number_or_none)
    overflow: Overflow = "raise"
    on_uncertain: OnUncertain = "report"
    max_resends: int = 5
    confirm: bool | None = None
    confirm_interval: float = attrs.field(default=1.0, converter=_number)
    path: str | None = attrs.field(default=None, converter=_path)
    durability: Durability | None = None

    def __attrs_post_init__(self) -> None:
        _normalise(self, "ttl", none=True)
        _normalise(self, "confirm_interval")
        whole("max_messages", self.max_messages)
        whole("max_bytes", self.max_bytes)
        one_of("overflow", self.overflow, ("raise", "wait", "drop_oldest", "drop_newest"))
        one_of("on_uncertain", self.on_uncertain, ("report", "resend"))
        whole("max_resends", self.max_resends)
        switch("confirm", self.confirm)
        if self.confirm is False and self.on_uncertain == "resend":
            raise ValueError(RESEND_UNCONFIRMED)
        if self.durability is not None:
            one_of("durability", self.durability, ("accepted", "eventual"))
            if self.path is None:
                raise ValueError(f"durability needs a path, got durability={self.durability!r} without one")
        elif self.path is not None:
            object.__setattr__(self, "durability", "accepted")


@attrs.frozen(eq=False, repr=False)
class Inbox(Record):
    """Bounds for messages that are received and not read yet.

    Args:
        max_messages: The most unread messages, 1 or more.
        max_bytes: The most unread bytes, 1 or more. A single read from the socket may exceed either bound.
        overflow: `pause` stops reading, so that TCP slows the peer down; `drop_oldest` drops the oldest message and leaves
            a `Gap`.

    Raises:
        TypeError, ValueError: A value has the wrong type or is out of its range.
    """

    max_messages: int = 4096
    max_bytes: int = 8 * MiB
    overflow: Literal["pause", "drop_oldest"] = "pause"

    def __attrs_post_init__(self) -> None:
        whole("max_messages", self.max_messages)
        whole("max_bytes", self.max_bytes)
        one_of("overflow", self.overflow, ("pause", "drop_oldest"))
