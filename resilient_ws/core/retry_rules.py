"""The default retry rule for each way in which a connection ends or an attempt fails.

It says whether to stop, and why; `resilient_ws.core.retry` says when the next attempt begins.
"""

from __future__ import annotations

from typing import Final

import attrs

from resilient_ws.api.close_codes import CloseOrigin, CloseRule, described, rule_for
from resilient_ws.api.errors import (
    CertificateRejected,
    ConnectError,
    ConnectionLost,
    HandshakeRejected,
    InvalidURL,
    OpenTimeout,
    ProxyRejected,
    SetupFailed,
    SetupTimeout,
)
from resilient_ws.api.events import CloseEvent, Failure
from resilient_ws.api.record import Record
from resilient_ws.api.rules import text_of

BROKEN_IN_A_ROW: Final = 3
"""How many connections in a row may break the protocol, the last one included that ends the client."""

REFUSED_IN_A_ROW: Final = 10
"""How many attempts in a row a once reachable server may refuse, the last one included that may end the client."""

_BUSY: Final = frozenset({408, 425, 429})
_BY_ERROR: Final[tuple[tuple[type[Exception], str], ...]] = (
    (OpenTimeout, "open-timeout"),
    (SetupTimeout, "setup-timeout"),
    (SetupFailed, "setup-failed"),
)
_BY_ORIGIN: Final = {CloseOrigin.PEER: "peer-closed", CloseOrigin.HEARTBEAT: "heartbeat-silent"}


@attrs.frozen(eq=False, repr=False)
class Default(Record):
    """What the table says.

    Attributes:
        rule_id: Which rule of `resilient_ws.api.rules` it is.
        why: Its text.
        stop: Whether to stop.
        slow: Whether the delay comes from the longest range.
    """

    rule_id: str
    why: str
    stop: bool = False
    slow: bool = False


def _default(rule_id: str, *, stop: bool = False, slow: bool = False, **facts: object) -> Default:
    return Default(rule_id, text_of(rule_id, **facts), stop, slow)


class DefaultTable:
    """The table, and what it remembers between failures.

    Args:
        min_uptime: Seconds after which a connection was no rejection.
        refused_for: Seconds without a connection before which no row of refusals stops; `None` = none ever does.
        provider: Whether the address comes from a URL provider, which may have a fresh token.

    Attributes:
        is_slow: Whether the server has said that it is overloaded, and has not recovered since.
    """

    __slots__ = (
        "_broken",
        "_min_uptime",
        "_provider",
        "_refreshed",
        "_refused",
        "_refused_for",
        "_was_open",
        "is_slow",
    )

    def __init__(self, min_uptime: float, refused_for: float | None, *, provider: bool) -> None:
        self._min_uptime = min_uptime
        self._refused_for = refused_for
        self._provider = provider
        self._was_open = False
        self._broken = 0
        self._refused = 0
        self._refreshed = False
        self.is_slow = False

    def opened(self) -> None:
        """Note that the server accepts this client, so later refusals may be temporary."""
        self._was_open = True
        self._refused = 0
        self._refreshed = False

    def begin_anew(self) -> None:
        """Reset the counts after a stable connection."""
        self._broken = 0
        self.is_slow = False

    def after(self, failure: Failure, *, rejected: bool, outage: float, excused: bool = False) -> Default:
        """Return what the table says about a failure.

        Args:
            failure: What has happened.
            rejected: Whether the connection, if there was one, had not been open for `min_uptime`.
            outage: Seconds since the last open connection ended, however short it was, or since the start.
            excused: Whether a message that will be found out and given up may have caused the end.
        """
        refused = self._refused
        default = self._look_up(failure, rejected=rejected, outage=outage, excused=excused)
        if self._refused == refused:
            self._refused = 0  # any other failure ends the row
        return default

    def _look_up(self, failure: Failure, *, rejected: bool, outage: float, excused: bool) -> Default:
        if failure.close is not None:
            return self._after_close(failure.close, rejected=rejected, excused=excused)
        error, status = failure.error, failure.status
        if isinstance(error, ProxyRejected) and not error.retryable:
            return self._refusal("proxy", _named(error), outage)
        if status is not None and status != 101:
            return self._after_answer(status, failure.retry_after, outage)
        if isinstance(error, CertificateRejected):
            return self._refusal("certificate", _named(error), outage)
        if _is_mistake_of_the_server(failure):
            return self._refusal("handshake", _named(error), outage)
        if isinstance(error, ConnectError) and not error.retryable:
            return _default("cannot-heal", why=_named(error), stop=True)
        found = (rule_id for kind, rule_id in _BY_ERROR if isinstance(error, kind))
        return _default(next(found, "attempt-failed"), why=_named(error))

    def _after_close(self, close: CloseEvent, *, rejected: bool, excused: bool) -> Default:
        if is_replaced(close):
            self._broken = 0
            return _default("reconnect-now")
        code, who, reason = close.code, str(close.origin), close.reason
        if close.origin is CloseOrigin.PROTOCOL and close.sent_code is not None:
            code, who, reason = close.sent_code, "us", ""
        rule, said, uptime = rule_for(code), described(code, reason), f"min_uptime={self._min_uptime:g} s"
        if rule is CloseRule.RETRY:
            self._broken = 0
            return _default(_dropped(close), who=who, close=said)
        if rule is CloseRule.RETRY_SLOW:
            self._broken = 0
            self.is_slow = True  # until it has recovered, however it refuses
            return _default("peer-overloaded", who=who, close=said)
        if rule is CloseRule.RETRY_UNLESS_REPEATED and excused:
            counted = "which a message that is sent again may have caused"
            return _default("protocol-error", who=who, close=said, counted=counted)
        if rule is CloseRule.RETRY_UNLESS_REPEATED:
            self._broken += 1
            counted = f"number {self._broken} of {BROKEN_IN_A_ROW} in a row without {uptime} in between"
            repeated = self._broken >= BROKEN_IN_A_ROW
            rule_id = "protocol-error-repeated" if repeated else "protocol-error"
            return _default(rule_id, who=who, close=said, counted=counted, stop=repeated)
        self._broken = 0
        rule_id = "peer-rejected" if rejected else "peer-rejected-late"
        return _default(rule_id, who=who, close=said, uptime=uptime, stop=rejected)

    def _after_answer(self, status: int, retry_after: float | None, outage: float) -> Default:
        """Return the rule for an HTTP status other than 101.

        Source: RFC 9110 section 15 (a status outside of 100 to 599 is to be treated as 5xx).
        """
        if not 100 <= status < 500:
            return _default("http-5xx", status=status)
        if status in _BUSY:
            return _default("http-busy", status=status)
        if retry_after is not None and retry_after >= 0:
            return _default(
                "http-retry-after", status=status
            )  # it says when to come back, so it is not final
        if status in {401, 403} and self._provider and not self._refreshed:
            self._refreshed = True
            self._refused += 1
            return _default("http-fresh-token", status=status)
        return self._refusal("http-4xx" if status >= 400 else "http-not-101", f"HTTP {status}", outage)

    def _refusal(self, rule_id: str, why: str, outage: float) -> Default:
        if not self._was_open:
            return _default(f"{rule_id}-never-open", why=why, stop=True)
        self._refused += 1
        limit = self._refused_for
        counted = f"number {self._refused}"
        if self._refused <= REFUSED_IN_A_ROW:
            counted += f" of {REFUSED_IN_A_ROW}"
        counted += " in a row"
        if limit is None:
            counted += ", refused_for=None"
        elif limit > 0:
            counted += f", {outage:.0f} s of refused_for={limit:g} s without a connection"
        stop = self._refused >= REFUSED_IN_A_ROW and limit is not None and outage >= limit
        return _default(
            f"{rule_id}-repeated" if stop else rule_id, why=why, counted=counted, stop=stop, slow=True
        )


def is_replaced(close: CloseEvent | None) -> bool:
    """Return whether the program itself replaced a live connection: no failure of anybody, so no limit applies."""
    return close is not None and close.origin is CloseOrigin.LOCAL


def _dropped(close: CloseEvent) -> str:
    """Return the id of an end that says nothing against reconnecting."""
    cause = close.cause
    if isinstance(cause, ConnectionLost) and cause.rule_id:
        return cause.rule_id
    return _BY_ORIGIN.get(close.origin, "connection-lost")


def _is_mistake_of_the_server(failure: Failure) -> bool:
    """Return whether the answer to the handshake is wrong: a proxy, a deploy or a portal may have given it.

    An address that is wrong although it was dialed is one to which the server has redirected.
    """
    error = failure.error
    if isinstance(error, InvalidURL):
        return failure.endpoint is not None
    return isinstance(error, HandshakeRejected) and not error.retryable


def _named(error: BaseException | None) -> str:
    """Return the type of `error`, with its text only where that is ours: a foreign one may hold a secret."""
    if error is None:
        return "the attempt failed"
    name = type(error).__name__
    return f"{name} ({error})" if isinstance(error, ConnectError) else name
