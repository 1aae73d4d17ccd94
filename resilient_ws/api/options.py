"""Every tunable, normalised and checked at the door: a wrong value raises at once, naming field, value and range.

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
    """Check a function of the program.

    Args:
        name: The option, for the error text.
        value: What was given for it.
        sync: Whether what it returns is used at once, so that it must not be async.
        takes: How many positional arguments it will be called with.

    Raises:
        TypeError: It cannot be called, or not with so many arguments; or it is async where that makes no sense.
    """
    if not callable(value):
        raise TypeError(f"{name} must be callable, got {type(value).__name__}")
    if sync and (inspect.iscoroutinefunction(value) or inspect.iscoroutinefunction(type(value).__call__)):
        raise TypeError(f"{name} must not be async: what it returns is used at once")
    try:
        # Not that of what it wraps: a decorator may add or take away arguments.
        signature = inspect.signature(value, follow_wrapped=False)
    except Exception:  # noqa: BLE001 - some builtins have none, and to look at foreign objects may raise anything
        return
    try:
        signature.bind(*[None] * takes)
    except TypeError as error:
        wanted = "one argument" if takes == 1 else "no arguments"
        raise TypeError(f"{name} must take {wanted}, but {named(value)} does not: {error}") from None


def named(value: object) -> str:
    """Return what a function is called in the program."""
    while isinstance(value, partial):
        value = value.func
    name = getattr(value, "__qualname__", None)
    return f"{name}()" if isinstance(name, str) else f"a {type(value).__qualname__}"


def _number(value: Duration) -> float:
    """Convert for the type checkers; `_normalise` checks, since it knows the name of the field."""
    return value.total_seconds() if isinstance(value, timedelta) else value


def _number_or_none(value: Duration | None) -> float | None:
    return None if value is None else _number(value)


def _normalise(options: object, *names: str, zero: bool = False, none: bool = False) -> None:
    """Check the named durations of a frozen object that is being made, and leave floats in them."""
    for name in names:
        object.__setattr__(options, name, seconds(name, getattr(options, name), zero=zero, none=none))


AppMessage = Message | bytearray | memoryview | Callable[[], Message]
Answer = Callable[[Message], Message | bytearray | memoryview | None]


@attrs.frozen(eq=False, repr=False)
class Heartbeat(Record):
    """How to find out that a connection is dead though nothing was said.

    `Heartbeat()` sends protocol pings; `Heartbeat.expect()` listens for those of the server; `Heartbeat.app()`
    sends messages of the application's own protocol.

    Args:
        interval: Seconds between two pings, more than 0; they go out whatever arrives. Above a second up to 1/64 s less,
            so that the pings of many connections share turns of the event loop.
        timeout: Seconds after a ping has left in which something, anything, must arrive.
        pong_timeout: Seconds a ping may stay unanswered although messages arrive; `None` = no limit.
        idle_timeout: Seconds without a data message after which the connection is ended though pings work;
            `None` = no limit.
        answer: `answer(message) -> reply | None`, for servers that ping with messages of their own. It is called with each
            message as it arrives, also during `setup`, and must not block. Returns the reply, `str` or bytes-like: it is
            sent at once, before what waits in the outbox, and `message` is not delivered and no data for `idle_timeout`.
            Returns `None` for any other message, which is delivered. Where it raises or returns something else, that is
            reported (`ErrorEvent(where="heartbeat")`) and the message is delivered. `None` = no such pings.

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
        """The server pings, we only listen and answer: silence for longer than `within` is death.

        Args:
            within: Seconds, more than 0; a little above the server's own ping interval.
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
        """Send the ping message of the application's own protocol, for servers that answer only that.

        Args:
            message: What to send, `str` or bytes-like, or a function that makes it (counters, timestamps). While that
                function fails, a protocol PING goes out in its place, so that the peer is asked all the same.
            is_reply: Whether a received message answers it; such a message is consumed, not delivered.
            interval: Seconds between two of them.
            timeout: Seconds after one has left in which something, anything, must arrive.
            pong_timeout: Seconds one may stay unanswered although messages arrive; `None` = no limit.
            idle_timeout: As for `Heartbeat`; replies do not count as data.
            answer: As for `Heartbeat`; asked before `is_reply`.
        """
        if isinstance(message, bytearray | memoryview):
            message = bytes(message)  # what is sent does not change with the buffer
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
    """When to connect again, and when to stop.

    Retry 1 waits U(0, `first_delay`); retry n > 1 waits U(`min_delay`, max(`min_delay`, min(`max_delay`,
    `first_delay` * `factor` ** (n - 1)))). The count begins anew after a connection that was open for `min_uptime`.

    Args:
        first_delay: Seconds, 0 or more: the range of the first retry.
        min_delay: Seconds, 0 or more: the least delay of the later ones.
        max_delay: Seconds, 0 or more: where the range stops growing. One below the default of `min_delay` or
            `first_delay` lowers that default to it.
        factor: 1 or more: how the range grows.
        max_attempts: Attempts in a row, 1 or more; `None` = no limit.
        max_elapsed: Seconds since the loss (or `start()`), those included for which the machine was suspended; `None` =
            no limit.
        min_uptime: Seconds, 0 or more, after which an open connection counts as stable.
        refused_for: Seconds or `timedelta`, 0 or more, without a connection before which refusals (HTTP 4xx, a captive
            portal, a bad certificate, an invalid handshake) do not end a client that has been open, however many come
            in a row. 0 = the tenth in a row ends it; `None` = refusals never do. A client that has never been open
            stops at the first one in any case.
        wait: A tenacity wait strategy; replaces the formula.
        stop: A tenacity stop strategy; of several limits the first wins.
        decide: Called with a `Failure`; returns `Retry`, `Stop` or `None` for the default. May be async.

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
    """Return the name of a file; what it names is looked at when the client starts."""
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
    """What is kept of the messages that were accepted and are not confirmed yet.

    With a `path` they are kept in a file as well, for programs that may be killed: the next client with that file sends
    what had not been written, in order, before anything else. What may have been written and was not confirmed is
    sent again with `resend`, and reported as `UNCERTAIN` with `report`. When a client ends, what the next one will send
    stays in the file: it is not `ABANDONED`, it still waits. Messages with `queue=False`, requests and subscriptions
    belong to the connection of the moment and are not kept. The file is opened when the client starts: `send` waits
    for that, and before it raises `NotConnected`.

    Args:
        max_messages: How many may wait, 1 or more.
        max_bytes: How many bytes may wait, 1 or more; also the size of the largest message. What is written and
            unconfirmed has the same bound again of its own.
        ttl: Seconds a message may wait before it is dropped as `EXPIRED`; `None` = no limit.
        overflow: What `send` does when the outbox is full: `raise` (`OutboxFull` while there is no open connection,
            back-pressure while there is), `wait`, `drop_oldest`, `drop_newest`.
        on_uncertain: What happens to messages that were written and not confirmed when a connection ends:
            `report` tells, `resend` sends them again (at least once).
        max_resends: How many times a message is sent again after connections that the peer ended with a CLOSE, 1 or more. A
            CLOSE with 1000, 1001, 1012, 1013 or 1014 does not count. Beyond it the message is `UNCERTAIN`.
        confirm: Whether to confirm by tagged pings. `None` = with `Heartbeat()`, with `on_uncertain="resend"` (here or for one
            message), or with a `path`. `False` rules `resend` out.
        confirm_interval: Seconds between two such pings while something is unconfirmed.
        path: The file to keep messages in, a `str` or `os.PathLike` in a directory that exists; made if there is none,
            for one client at a time. `None` = they are kept in memory only.
        durability: Only with a `path`. `accepted`: `send` returns when the message is on the disk. `eventual`: it does
            not wait for that; what was accepted in the last moments before the process is killed may be missing.
            `None` = `accepted`.

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
    """What is kept of the messages that were received and are not taken yet.

    Args:
        max_messages: How many, 1 or more.
        max_bytes: How many bytes, 1 or more. One read of the socket may pass either bound once.
        overflow: `pause` stops reading, so that TCP slows the peer down; `drop_oldest` drops and leaves a `Gap`.

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
