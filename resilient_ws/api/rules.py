"""The rules that decide what follows a drop or failure, each with a stable id and its text.

Pure data. An id is what `CloseEvent.rule_id` and `RetryEvent.rule_id` hold: it never changes its meaning, so programs, alerts
and documentation may refer to it, while the texts may be improved. `resilient_ws.core.retry_rules` and `resilient_ws.core.retry`
apply the rules.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

_CLOSED: Final = "closed by {who} with {close}"
_REFUSED: Final = "{why}, {counted}"
_NEVER_OPEN: Final = "{why} before the client was ever open"

RULES: Final[Mapping[str, str]] = MappingProxyType({
    # an open connection has ended
    "peer-closed": _CLOSED,
    "peer-overloaded": _CLOSED,
    "peer-rejected": f"{_CLOSED} within {{uptime}} of opening",
    "peer-rejected-late": f"{_CLOSED} after {{uptime}} of opening",
    "protocol-error": f"{_CLOSED}, {{counted}}",
    "protocol-error-repeated": f"{_CLOSED}, {{counted}}",
    "connection-lost": _CLOSED,
    "heartbeat-silent": _CLOSED,
    "heartbeat-unanswered": _CLOSED,
    "heartbeat-idle": _CLOSED,
    "reconnect-now": "reconnect_now() replaced the connection",
    # an attempt has failed
    "attempt-failed": "{why}",
    "open-timeout": "{why}",
    "setup-failed": "{why}",
    "setup-timeout": "{why}",
    "cannot-heal": "{why}",
    "http-5xx": "HTTP {status}",
    "http-busy": "HTTP {status}",
    "http-retry-after": "HTTP {status} with Retry-After",
    "http-fresh-token": "HTTP {status}, the URL provider may have a fresh token",
    "http-4xx-never-open": _NEVER_OPEN,
    "http-4xx": _REFUSED,
    "http-4xx-repeated": _REFUSED,
    "http-not-101-never-open": _NEVER_OPEN,
    "http-not-101": _REFUSED,
    "http-not-101-repeated": _REFUSED,
    "certificate-never-open": _NEVER_OPEN,
    "certificate": _REFUSED,
    "certificate-repeated": _REFUSED,
    "proxy-never-open": _NEVER_OPEN,
    "proxy": _REFUSED,
    "proxy-repeated": _REFUSED,
    "handshake-never-open": _NEVER_OPEN,
    "handshake": _REFUSED,
    "handshake-repeated": _REFUSED,
    # the program or its options have decided
    "decide-retry": "{why}",
    "decide-stop": "decide said stop: {reason}",
    "stop-raised": "Stop was raised: {reason}",
    "reconnect-off": "reconnect=False: {why}, and the first end is the end",
    "fail-fast": "fail_fast: the first attempt failed",
    "max-attempts": "max_attempts={limit} reached; {why}",
    "max-elapsed": "max_elapsed={limit} s would be passed: the next attempt would begin at {begins} s; {why}",
    "stop-strategy": "stop said so after attempt {attempt}, {elapsed} s without a connection; {why}",
    # the client has ended otherwise
    "close-called": "close() was called",
    "outbox-file": "the outbox file cannot be used",
    "owner-cancelled": "the supervisor task was cancelled",
    "owner-ended": "{error} ended the supervisor task",
    "defect": "a defect",
})  # fmt: skip
"""Each id with the template of its text. For a rule about a failure it is the first part of `rule`; the verdict follows
it behind a colon."""

ABOUT: Final[Mapping[str, str]] = MappingProxyType({
    "peer-closed": "The peer sent a CLOSE that says nothing against reconnecting: 1000, 1001, 1005, 1011, 1012, 1014 "
    "or 3000-4999. The client reconnects.",
    "peer-overloaded": "The peer sent 1013: reconnects, the first delay drawn from the range of `max_delay`.",
    "peer-rejected": "The peer sent 1003, 1008 or 1010 within `min_uptime` of opening, or during setup. It does "
    "not take this client: stops.",
    "peer-rejected-late": "The peer sent 1003, 1008 or 1010 after `min_uptime`: a rule about idle or slow clients. The "
    "client reconnects.",
    "protocol-error": "1002, 1007, 1009 or an undefined code, sent by either side: reconnects.",
    "protocol-error-repeated": "The third such end in a row without `min_uptime` in between: stops.",
    "connection-lost": "TCP ended without a CLOSE: end of stream, reset, unreachable. The client reconnects.",
    "heartbeat-silent": "Nothing arrived for longer than the heartbeat allows: reconnects.",
    "heartbeat-unanswered": "Messages arrive, but no ping was answered for `pong_timeout`: reconnects.",
    "heartbeat-idle": "No data message arrived for `idle_timeout`: reconnects.",
    "reconnect-now": "`reconnect_now()` was called on an open connection: reconnects, `min_delay` after the last dial.",
    "attempt-failed": "Refused, reset, unreachable, DNS, or the URL provider raised: retries.",
    "open-timeout": "No connection within `open_timeout`: retries.",
    "setup-failed": "`setup` or a declared subscription raised: retries.",
    "setup-timeout": "`setup` took longer than `setup_timeout`: retries.",
    "cannot-heal": "Something that no other attempt can change, such as a bad URL or an unsupported option: stops.",
    "http-5xx": "HTTP 500 or above: retries.",
    "http-busy": "HTTP 408, 425 or 429: retries.",
    "http-retry-after": "An answer that would else be a refusal says with `Retry-After` when to come back: retries "
    "after that.",
    "http-fresh-token": "The first 401 or 403 where a URL provider is asked: it may have a fresh token. Retries.",
    "http-4xx-never-open": "Another 4xx, and this client has never been open: stops.",
    "http-4xx": "Another 4xx on a client that has been open: retries in the range of `max_delay`.",
    "http-4xx-repeated": "The same, at least the tenth refusal in a row and `refused_for` without a connection: stops.",
    "http-not-101-never-open": "A status below 400 other than 101, and this client has never been open: stops.",
    "http-not-101": "A status below 400 other than 101 (a captive portal, a maintenance page) on a client that has "
    "been open: retries in the range of `max_delay`.",
    "http-not-101-repeated": "The same, at least the tenth refusal in a row and `refused_for` without a connection: "
    "stops.",
    "certificate-never-open": "The certificate could not be verified, and this client has never been open: stops.",
    "certificate": "The certificate could not be verified on a client that has been open: retries in the range of "
    "`max_delay`.",
    "certificate-repeated": "The same, at least the tenth refusal in a row and `refused_for` without a connection: "
    "stops.",
    "proxy-never-open": "The proxy refuses or does not tunnel, and this client has never been open: stops.",
    "proxy": "The proxy refuses or does not tunnel, on a client that has been open: retries in the range of `max_delay`.",
    "proxy-repeated": "The same, at least the tenth refusal in a row and `refused_for` without a connection: stops.",
    "handshake-never-open": "The answer is no valid WebSocket handshake, and this client has never been open: stops.",
    "handshake": "The answer is no valid WebSocket handshake on a client that has been open: retries in the range of "
    "`max_delay`.",
    "handshake-repeated": "The same, at least the tenth refusal in a row and `refused_for` without a connection: "
    "stops.",
    "decide-retry": "`decide` returned `Retry`.",
    "decide-stop": "`decide` returned or raised `Stop`.",
    "stop-raised": "`setup` or the URL provider raised `Stop`.",
    "reconnect-off": "`reconnect=False`: the first end is the end.",
    "fail-fast": "`fail_fast=True`, and the first attempt failed.",
    "max-attempts": "`max_attempts` was reached.",
    "max-elapsed": "The next attempt would begin after `max_elapsed`.",
    "stop-strategy": "The tenacity `stop` strategy returned true.",
    "close-called": "The program called `close()`.",
    "outbox-file": "The file of a durable outbox cannot be used.",
    "owner-cancelled": "The task of the client was cancelled, as `asyncio.run` does at its end, without `close()`.",
    "owner-ended": "`SystemExit`, `KeyboardInterrupt` or the like was raised within the task of the client.",
    "defect": "A defect of resilient_ws: please report it.",
})  # fmt: skip
"""Each id with what it means, for the documentation."""


REPORTS: Final[Mapping[str, str]] = MappingProxyType({
    "inbox-full": "`inbox`: reading has been paused for a while, since the program does not take its messages.",
    "events-dropped": "`events`: an `events()` iterator was not read in time, and its oldest events are gone.",
    "outbox-file-error": "`outbox`: the file of a durable outbox cannot be used, or did not take a change.",
    "decide-failed": "`decide` raised, or returned no verdict; the default was used.",
    "wait-failed": "The tenacity `wait` strategy raised, or returned no delay; the formula was used.",
    "stop-failed": "The tenacity `stop` strategy raised; the other limits hold.",
    "setup-failed": "`setup` raised; the attempt has failed.",
    "subscribe-failed": "The function that makes the message of a subscription raised.",
    "heartbeat-failed": "`message` or `is_reply` of `Heartbeat.app` raised.",
    "on-open-failed": "An `on_open` callback raised; likewise `on-close-failed`, `on-reconnect-failed`, `on-retry-failed`, "
    "`on-undelivered-failed`, `on-state-failed` and `on-message-failed`.",
})  # fmt: skip
"""Each `ErrorEvent.id` with what it means, for the documentation."""


def text_of(rule_id: str, /, **facts: object) -> str:
    """Return the text of a rule.

    Args:
        rule_id: Which, one of `RULES`.
        facts: What its template names.

    Raises:
        KeyError: There is no such rule, or a fact is missing.
    """
    return RULES[rule_id].format(**facts)
