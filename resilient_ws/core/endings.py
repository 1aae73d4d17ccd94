"""How a connection or an attempt ended, and the events and `Failure` that follow from it.

Pure: it turns what was seen into events and failures, and decides nothing about the future.
"""

from __future__ import annotations

from typing import Any, Final, Self

import attrs

from resilient_ws.api.close_codes import CloseCode, CloseOrigin
from resilient_ws.api.endpoints import Endpoint
from resilient_ws.api.errors import (
    ClientClosed,
    ClientStopped,
    ConnectError,
    ConnectionLost,
    ResilientWSError,
    RetriesExhausted,
    SetupFailed,
    SetupTimeout,
)
from resilient_ws.api.events import CloseEvent, Failure, UndeliveredEvent
from resilient_ws.api.record import Record
from resilient_ws.core.delivery import Entry

_TOO_FAST: Final = frozenset({CloseCode.POLICY_VIOLATION, CloseCode.TRY_AGAIN_LATER})
_POISON: Final = frozenset({1003, 1007, 1008, 1009})
_INNOCENT: Final = frozenset({1000, 1001, 1012, 1013, 1014})
"""Codes with which a peer ends a connection for its own reasons, unrelated to the messages sent."""

SHARE_FOR_CALLBACKS: Final = 0.2
"""Part of `close_timeout`, one second at most, that is kept for the callbacks after the closing handshake."""


@attrs.frozen(eq=False, repr=False)
class End(Record):
    """How a link ended.

    Attributes:
        code: What the peer's CLOSE said, 1005 where it carried no code, `None` where there was no CLOSE.
        reason: What it said besides.
        origin: `PEER`, `NETWORK`, `PROTOCOL` as the link saw it.
        sent_code: The code of the CLOSE that the link wrote, or `None`.
        cause: What was seen, or `None` after a close handshake.
    """

    code: int | None
    origin: CloseOrigin
    reason: str = ""
    sent_code: int | None = None
    cause: BaseException | None = None


class AttemptFailed(Exception):  # noqa: N818 - carries the failure to the owner
    """An attempt has failed.

    Attributes:
        error: Why: a `ConnectError` or a `Stop`.
        endpoint: Where it led, `None` when the provider failed.
        end: How the connection ended, if it did so during its setup.
    """

    def __init__(self, error: Exception, endpoint: Endpoint | None, end: End | None = None) -> None:
        super().__init__(str(error))
        self.error = error
        self.endpoint = endpoint
        self.end = end


@attrs.frozen(eq=False, repr=False)
class Closing(Record):
    """`close()` was called.

    Attributes:
        code: Of our CLOSE.
        reason: Of our CLOSE.
        handshake_until: When the closing handshake is given up, on the loop's clock; `None` = no limit.
        callbacks_until: When the callbacks are; `None` = no limit.
    """

    code: int
    reason: str
    handshake_until: float | None
    callbacks_until: float | None

    @classmethod
    def within(cls, limit: float | None, begins: float, code: int, reason: str) -> Self:
        """Return it with the deadlines that leave both their time in the `limit` seconds after `begins`."""
        if limit is None:
            return cls(code, reason, None, None)
        until = begins + limit
        return cls(code, reason, until - min(1.0, SHARE_FOR_CALLBACKS * limit), until)


@attrs.frozen(kw_only=True, eq=False, repr=False)
class Ending(Record):
    """An open connection has ended.

    Attributes:
        end: As the link saw it.
        endpoint: Where it led.
        at: When, in boot time.
        opened_for: Seconds it was open, those included for which the machine was suspended.
        silent_for: Seconds since the last byte from the peer.
        unsent: Accepted messages that had not been written.
        unconfirmed: Messages written and not confirmed.
        unread: Received messages not taken yet.
        uncertain: Those of the unconfirmed that will not be sent again.
        resent: How many will.
        hint: What may help, such as another heartbeat, or `None`.
        excused: Whether a message that is sent again may have caused it, so that the code says nothing about the client.
    """

    end: End
    endpoint: Endpoint | None
    at: float
    opened_for: float
    silent_for: float
    unsent: int
    unconfirmed: int
    unread: int
    uncertain: list[Entry]
    resent: int
    hint: str | None
    excused: bool = False

    def failure(self, number: int, close: CloseEvent | None = None) -> Failure:
        """Return what the retry rules are asked.

        Args:
            number: Of the failure, among those in a row.
            close: The event for it; `None` = with nothing said about the future yet.
        """
        return Failure(
            close=close_event(self) if close is None else close,
            error=self.end.cause,
            attempt=number,
            opened_for=self.opened_for,
            endpoint=self.endpoint,
        )


def close_event(ending: Ending, **future: Any) -> CloseEvent:
    """Return the event for it; `future` are the fields of what follows, none of them = nothing is said about it yet."""
    return _close_event(
        ending.end,
        opened_for=ending.opened_for,
        silent_for=ending.silent_for,
        unsent=ending.unsent,
        uncertain=ending.unconfirmed,
        unread=ending.unread,
        **future,
    )


def _close_event(end: End, **more: Any) -> CloseEvent:
    """Source: RFC 6455 7.1.5 (1006 where no CLOSE frame was received, whoever began) and 7.1.4 (clean: both sent)."""
    if end.code is None:
        return CloseEvent(
            code=CloseCode.ABNORMAL_CLOSURE,
            synthesized=True,
            origin=end.origin,
            sent_code=end.sent_code,
            cause=end.cause if end.cause is not None else ConnectionLost("no CLOSE came from the peer"),
            **more,
        )
    return CloseEvent(
        code=end.code,
        reason=end.reason,
        was_clean=end.sent_code is not None,
        origin=end.origin,
        sent_code=end.sent_code,
        cause=end.cause,
        **more,
    )


def failed_with(failure: Failure) -> str:
    """Return why something failed, in words; the text of a foreign exception may hold a secret and is left out."""
    error = failure.error
    if isinstance(error, ResilientWSError):
        return f"{type(error).__name__} ({error})"
    if error is not None:
        return type(error).__name__
    return str(failure.close) if failure.close is not None else "the attempt failed"


def told_end(end: End) -> str:
    """Return how a link ended, in words: the code, the peer's reason on one line, and what was seen."""
    return str(_close_event(end))


def burst_hint(end: End, subscriptions: int) -> str | None:
    """Return what to try where a peer may have cut the connection because of the burst of declared subscriptions.

    Args:
        end: Of a connection that had only just been opened.
        subscriptions: How many were declared.
    """
    if subscriptions <= 1 or end.origin is not CloseOrigin.PEER or end.code not in _TOO_FAST:
        return None
    return (
        f"{subscriptions} declared subscriptions were sent in one burst when it opened: if that is too fast for this "
        f"server, send them in setup with pauses in between, spread them over several clients, or return Retry from decide"
    )


def failed_attempt(failed: AttemptFailed, number: int) -> Failure:
    """Return what the retry rules are asked after an attempt."""
    error = failed.error
    answer = error if isinstance(error, ConnectError) else None
    return Failure(
        close=None if failed.end is None else _close_event(failed.end),
        error=error,
        status=answer.status if answer is not None else None,
        headers=answer.headers if answer is not None else None,
        retry_after=answer.retry_after if answer is not None else None,
        attempt=number,
        endpoint=failed.endpoint,
    )


def final_event(ending: Ending | None, failure: Failure | None, cause: BaseException) -> CloseEvent:
    """Return the event for the end of the client by a rule: of its connection, or an extra one where none was open."""
    if ending is not None:
        return close_event(ending)
    if failure is not None and failure.close is not None:
        return failure.close
    if failure is None:
        origin = CloseOrigin.LOCAL
    elif isinstance(failure.error, SetupFailed | SetupTimeout):
        origin = CloseOrigin.SETUP
    else:
        origin = CloseOrigin.NETWORK
    return CloseEvent(
        code=CloseCode.ABNORMAL_CLOSURE,
        synthesized=True,
        origin=origin,
        cause=cause,
    )


def describe_end(close: CloseEvent | None) -> BaseException:
    """Return an exception that says how a connection ended, for chaining."""
    if close is not None and close.cause is not None:
        return close.cause
    return ConnectionLost(str(close) if close is not None else "the connection ended")


def ended_error(
    cause: ClientClosed | None,
    *,
    is_closed: bool,
    last_close: CloseEvent | None,
    undelivered: list[UndeliveredEvent],
) -> ClientClosed:
    """Return the exception for a call that comes too late.

    Args:
        cause: What ended the client; `None` = `close()` did.
        is_closed: Whether the end has come, or only begun.
        last_close: The last event of a connection.
        undelivered: What became of the messages that were left, as far as it is known.
    """
    event = last_close if last_close is not None and last_close.final else None
    if cause is None:
        doing = "is closed" if is_closed else "is closing"
        return ClientClosed(f"the client {doing}", event=event, undelivered=undelivered)
    if isinstance(cause, RetriesExhausted):
        error: ClientClosed = RetriesExhausted(
            str(cause),
            event=event,
            undelivered=undelivered,
            attempts=cause.attempts,
            elapsed=cause.elapsed,
        )
    else:
        error = ClientStopped(str(cause), event=event, undelivered=undelivered)
    error.__cause__ = cause.__cause__
    return error


def is_poison(end: End) -> bool:
    """Return whether the peer said that it cannot take what we sent: sent again, it would end every connection."""
    return end.origin is CloseOrigin.PEER and end.code in _POISON


def is_suspect(end: End) -> bool:
    """Return whether a message of ours may be why the peer sent CLOSE."""
    return end.origin is CloseOrigin.PEER and end.code is not None and end.code not in _INNOCENT
