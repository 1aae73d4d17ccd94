"""What the default does about each way in which a connection ends or an attempt fails.

It says whether to stop, and why; `resilient_ws.retry` says when the next attempt begins.
"""

from __future__ import annotations

from typing import Final

import attrs

from resilient_ws.closing import CloseOrigin, CloseRule, describe, rule_for
from resilient_ws.errors import CertificateRejected, ConnectError
from resilient_ws.events import CloseEvent, Failure
from resilient_ws.record import Record

BROKEN_IN_A_ROW: Final = 3
"""How many connections in a row may break the protocol, the last one included that ends the client."""

REFUSED_IN_A_ROW: Final = 10
"""How many attempts in a row a once reachable server may refuse, the last one included that ends the client."""


@attrs.frozen(eq=False, repr=False)
class Default(Record):
    """What the table says: why, whether to stop, and whether the delay comes from the longest range."""

    why: str
    stop: bool = False
    slow: bool = False


class DefaultTable:
    """The table, and what it remembers between failures.

    Args:
        min_uptime: Seconds after which a connection was no rejection.
        provider: Whether the address comes from a URL provider, which may have a fresh token.

    Attributes:
        is_slow: Whether the server has said that it is overloaded, and has not recovered since.
    """

    __slots__ = ("_broken", "_min_uptime", "_provider", "_refreshed", "_refused", "_was_open", "is_slow")

    def __init__(self, min_uptime: float, *, provider: bool) -> None:
        self._min_uptime = min_uptime
        self._provider = provider
        self._was_open = False
        self._broken = 0
        self._refused = 0
        self._refreshed = False
        self.is_slow = False

    def opened(self) -> None:
        """The server takes us, so a refusal later is no verdict on our request."""
        self._was_open = True
        self._refused = 0
        self._refreshed = False

    def begin_anew(self) -> None:
        """A connection was stable."""
        self._broken = 0
        self.is_slow = False

    def after(self, failure: Failure, *, rejected: bool) -> Default:
        """Returns what the table says about a failure.

        Args:
            failure: What has happened.
            rejected: Whether the connection, if there was one, had not been open for `min_uptime`.
        """
        refused = self._refused
        default = self._look_up(failure, rejected=rejected)
        if self._refused == refused:
            self._refused = 0  # whatever else it was, the row is over
        return default

    def _look_up(self, failure: Failure, *, rejected: bool) -> Default:
        if failure.close is not None:
            return self._after_close(failure.close, rejected=rejected)
        error, status = failure.error, failure.status
        if status is not None and status != 101:
            return self._after_answer(status)
        if isinstance(error, CertificateRejected):
            return self._refusal(_named(error))
        return Default(_named(error), stop=isinstance(error, ConnectError) and not error.retryable)

    def _after_close(self, close: CloseEvent, *, rejected: bool) -> Default:
        if is_replaced(close):
            self._broken = 0
            return Default("reconnect_now() replaced the connection")
        code, who = close.code, f"closed by {close.origin} with"
        if close.origin is CloseOrigin.PROTOCOL and close.sent_code is not None:
            code, who = close.sent_code, "closed by us with"
        rule, why = rule_for(code), f"{who} {describe(code)}"
        if rule is CloseRule.RETRY or rule is CloseRule.RETRY_SLOW:
            self._broken = 0
            self.is_slow |= rule is CloseRule.RETRY_SLOW  # until it has recovered, however it refuses
            return Default(why)
        uptime = f"min_uptime={self._min_uptime:g} s"
        if rule is CloseRule.RETRY_UNLESS_REPEATED:
            self._broken += 1
            counted = f"number {self._broken} of {BROKEN_IN_A_ROW} in a row without {uptime} in between"
            return Default(f"{why}, {counted}", stop=self._broken >= BROKEN_IN_A_ROW)
        self._broken = 0
        return Default(f"{why} {'within' if rejected else 'after'} {uptime} of opening", stop=rejected)

    def _after_answer(self, status: int) -> Default:
        """An HTTP answer that is not 101.

        Source: RFC 9110 section 15 (a status outside of 100 to 599 is to be treated as 5xx).
        """
        why = f"HTTP {status}"
        if status in {408, 425, 429} or not 100 <= status < 500:
            return Default(why)
        if status in {401, 403} and self._provider and not self._refreshed:
            self._refreshed = True
            self._refused += 1
            return Default(f"{why}, the URL provider may have a fresh token")
        return self._refusal(why)

    def _refusal(self, why: str) -> Default:
        if not self._was_open:
            return Default(f"{why} before the client was ever open", stop=True)
        self._refused += 1
        counted = f"{why}, number {self._refused} of {REFUSED_IN_A_ROW} in a row"
        return Default(counted, stop=self._refused >= REFUSED_IN_A_ROW, slow=True)


def is_replaced(close: CloseEvent | None) -> bool:
    """Whether the program itself replaced a live connection: no failure of anybody, so no limit applies."""
    return close is not None and close.origin is CloseOrigin.LOCAL


def _named(error: BaseException | None) -> str:
    """Returns the type of `error`, with its text only where that is ours: a foreign one may hold a secret."""
    if error is None:
        return "the attempt failed"
    name = type(error).__name__
    return f"{name} ({error})" if isinstance(error, ConnectError) else name
