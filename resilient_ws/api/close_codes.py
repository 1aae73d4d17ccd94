"""The close codes, the origins of a close, and the default rule for each code.

`resilient_ws.core.retry` applies the rules.

Source: RFC 6455 section 7.4 and the IANA WebSocket Close Code Number Registry.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Final

import attrs

from resilient_ws.api.record import Record


class CloseCode(enum.IntEnum):
    """Each close code from 1000 to 1015; `CLOSE_CODES` holds the meaning of each one.

    A member is an `int`, so `event.code == CloseCode.GOING_AWAY` and `event.code == 1001` are the same test.
    """

    NORMAL_CLOSURE = 1000
    GOING_AWAY = 1001
    PROTOCOL_ERROR = 1002
    UNSUPPORTED_DATA = 1003
    RESERVED = 1004
    NO_STATUS_RCVD = 1005
    ABNORMAL_CLOSURE = 1006
    INVALID_DATA = 1007
    POLICY_VIOLATION = 1008
    MESSAGE_TOO_BIG = 1009
    MANDATORY_EXTENSION = 1010
    INTERNAL_ERROR = 1011
    SERVICE_RESTART = 1012
    TRY_AGAIN_LATER = 1013
    BAD_GATEWAY = 1014
    TLS_HANDSHAKE = 1015

    @property
    def meaning(self) -> str:
        """The meaning of the code, in one sentence."""
        return CLOSE_CODES[self].meaning

    @property
    def sender(self) -> str:
        """Who may send it: `either`, `server`, `client` or `nobody` (the receiving side makes the code)."""
        return CLOSE_CODES[self].sender

    @property
    def default(self) -> CloseRule:
        """The default rule when a connection ends with it."""
        return CLOSE_CODES[self].rule


class CloseOrigin(enum.StrEnum):
    """Who or what ended a connection."""

    PEER = "peer"
    """The peer sent a CLOSE frame."""
    LOCAL = "local"
    """This program ended it with `close()` or `reconnect_now()`."""
    NETWORK = "network"
    """TCP ended without a CLOSE frame: end of stream, reset, unreachable."""
    HEARTBEAT = "heartbeat"
    """The peer was silent, or answered no ping, for longer than the heartbeat allows."""
    PROTOCOL = "protocol"
    """This client ended it because the peer broke the protocol or exceeded `max_message_size`."""
    SETUP = "setup"
    """The `setup` hook failed; the connection never became open."""


class CloseRule(enum.StrEnum):
    """The default rule after a connection has ended (`resilient_ws.core.retry`)."""

    RETRY = "retry"
    """Reconnect with backoff."""
    RETRY_SLOW = "retry, starting in the range of max_delay"
    """Reconnect; the first delay is drawn from the full range up to `max_delay`."""
    RETRY_UNLESS_REPEATED = "retry; the third in a row without min_uptime in between stops"
    """Reconnect, but stop if connections keep ending this way."""
    STOP_IF_REJECTED = "stop if within min_uptime of opening, else retry"
    """Soon after opening, the peer refuses this client; later, it enforces a rule about idle or slow clients."""


@attrs.frozen(eq=False, repr=False)
class CloseCodeFacts(Record):
    """The facts about one close code.

    Attributes:
        name: The name in the IANA registry.
        meaning: The meaning, in one sentence.
        sender: `either`, `server`, `client`, or `nobody` if the code must not appear on the wire.
        rule: The default rule when a connection ends with it.
    """

    name: str
    meaning: str
    sender: str
    rule: CloseRule


def _facts(name: str, meaning: str, sender: str, rule: CloseRule) -> CloseCodeFacts:
    return CloseCodeFacts(name=name, meaning=meaning, sender=sender, rule=rule)


CLOSE_CODES: Final[Mapping[CloseCode, CloseCodeFacts]] = {
    CloseCode.NORMAL_CLOSURE: _facts(
        "Normal Closure", "The purpose of the connection has been fulfilled.", "either", CloseRule.RETRY
    ),
    CloseCode.GOING_AWAY: _facts(
        "Going Away", "The server is going down, or a browser has left the page.", "either", CloseRule.RETRY
    ),
    CloseCode.PROTOCOL_ERROR: _facts(
        "Protocol error", "A frame broke the WebSocket protocol.", "either", CloseRule.RETRY_UNLESS_REPEATED
    ),
    CloseCode.UNSUPPORTED_DATA: _facts(
        "Unsupported Data", "A kind of data came that the endpoint does not accept.", "either",
        CloseRule.STOP_IF_REJECTED,
    ),
    CloseCode.RESERVED: _facts(
        "Reserved", "Has no meaning; a later standard might give it one.", "nobody",
        CloseRule.RETRY_UNLESS_REPEATED,
    ),
    CloseCode.NO_STATUS_RCVD: _facts(
        "No Status Rcvd", "The CLOSE frame carried no code.", "nobody", CloseRule.RETRY
    ),
    CloseCode.ABNORMAL_CLOSURE: _facts(
        "Abnormal Closure", "The connection ended without a CLOSE frame.", "nobody", CloseRule.RETRY
    ),
    CloseCode.INVALID_DATA: _facts(
        "Invalid frame payload data", "A message did not fit its type, such as text that is not UTF-8.", "either",
        CloseRule.RETRY_UNLESS_REPEATED,
    ),
    CloseCode.POLICY_VIOLATION: _facts(
        "Policy Violation", "A message or a client broke a rule of the endpoint.", "either",
        CloseRule.STOP_IF_REJECTED,
    ),
    CloseCode.MESSAGE_TOO_BIG: _facts(
        "Message Too Big", "A message was larger than the endpoint takes.", "either",
        CloseRule.RETRY_UNLESS_REPEATED,
    ),
    CloseCode.MANDATORY_EXTENSION: _facts(
        "Mandatory Ext.", "The server did not agree to an extension that the client needs.", "client",
        CloseRule.STOP_IF_REJECTED,
    ),
    CloseCode.INTERNAL_ERROR: _facts(
        "Internal Error", "The server met a condition that it did not expect.", "server", CloseRule.RETRY
    ),
    CloseCode.SERVICE_RESTART: _facts(
        "Service Restart", "The service restarts; come back after a random delay.", "server", CloseRule.RETRY
    ),
    CloseCode.TRY_AGAIN_LATER: _facts(
        "Try Again Later", "The service is overloaded; come back later, or elsewhere.", "server",
        CloseRule.RETRY_SLOW,
    ),
    CloseCode.BAD_GATEWAY: _facts(
        "Bad Gateway", "A gateway got an invalid answer from the server behind it.", "server", CloseRule.RETRY
    ),
    CloseCode.TLS_HANDSHAKE: _facts(
        "TLS handshake", "The TLS handshake failed, so no WebSocket was there to close.", "nobody",
        CloseRule.RETRY_UNLESS_REPEATED,
    ),
}  # fmt: skip


_FACTS: Final = {int(code): facts for code, facts in CLOSE_CODES.items()}
"""The same by the number alone: to make a member of it takes longer than all else that is done with a code."""


def rule_for(code: int) -> CloseRule:
    """Return what the default does after an end with `code`, any integer.

    3000-3999 (registered by libraries) and 4000-4999 (private to an application) retry; what else is not in
    `CLOSE_CODES` is undefined and retries unless it repeats.
    """
    facts = _FACTS.get(code)
    if facts is not None:
        return facts.rule
    return CloseRule.RETRY if 3000 <= code <= 4999 else CloseRule.RETRY_UNLESS_REPEATED


def describe(code: int) -> str:
    """Return the code with its name, such as `1001 Going Away` or `4321 application code`."""
    facts = _FACTS.get(code)
    if facts is not None:
        return f"{int(code)} {facts.name}"
    if 3000 <= code <= 3999:
        return f"{code} registered code"
    if 4000 <= code <= 4999:
        return f"{code} application code"
    return f"{code} undefined code"


def described(code: int, reason: str) -> str:
    """Return the code with its name and, where there is one, the peer's reason on one line."""
    return f'{describe(code)} ("{on_one_line(reason)}")' if reason else describe(code)


def on_one_line(text: str) -> str:
    """Return text of a peer with all unprintable characters escaped, so that it stays on one line."""
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)


def check_close(code: object, reason: object) -> tuple[int, str]:
    """Check the code and reason for a CLOSE frame.

    Args:
        code: 1000, 1001, or 3000-4999; the other codes are not for applications (RFC 6455 7.4).
        reason: At most 123 bytes of UTF-8: a control frame holds 125, two are the code (RFC 6455 5.5).

    Raises:
        TypeError: `code` is not an `int`, or `reason` is not a `str`.
        ValueError: Either is out of its range.
    """
    if not isinstance(code, int) or isinstance(code, bool):
        raise TypeError(f"code must be an int, got {type(code).__name__}")
    if not isinstance(reason, str):
        raise TypeError(f"reason must be a str, got {type(reason).__name__}")
    if code not in (1000, 1001) and not 3000 <= code <= 4999:
        raise ValueError(f"code must be 1000, 1001 or 3000-4999, got {code}")
    try:
        size = len(reason.encode())
    except UnicodeEncodeError as error:
        raise ValueError(f"reason must be encodable as UTF-8: {error.reason}") from None
    if size > 123:
        raise ValueError(f"reason must be at most 123 bytes of UTF-8, got {size}")
    return int(code), reason
