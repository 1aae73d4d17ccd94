"""Each rule has an id, a text and an explanation, and every decision names one of them."""

import ast
import random
import re
import string
from pathlib import Path

import pytest

import resilient_ws
from resilient_ws.api.close_codes import CloseOrigin
from resilient_ws.api.endpoints import Endpoint
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
from resilient_ws.api.events import REPORTED, CloseEvent, ErrorEvent, Failure, Retry, Stop
from resilient_ws.api.handle import CALLBACKS
from resilient_ws.api.options import ReconnectPolicy
from resilient_ws.api.rules import ABOUT, REPORTS, RULES, text_of
from resilient_ws.core.retry import RetryState

HOME = Endpoint("ws://host/")
BY_THE_CLIENT = {"fail-fast", "close-called", "outbox-file", "owner-cancelled", "owner-ended", "defect"}
"""Those of the shell: `tests/client/test_rule_ids.py` reaches them."""


def closed(code=1006, opened_for=0.0, origin=CloseOrigin.PEER, **more):
    close = CloseEvent(code=code, origin=origin, opened_for=opened_for, **more)
    return Failure(close=close, error=close.cause, opened_for=opened_for, endpoint=HOME)


def answered(status, **more):
    return Failure(error=HandshakeRejected(status=status), status=status, endpoint=HOME, **more)


def failed(error):
    return Failure(error=error, endpoint=HOME)


def silent(rule_id):
    lost = ConnectionLost("nothing arrived", rule_id=rule_id)
    return closed(origin=CloseOrigin.HEARTBEAT, cause=lost)


ACCEPT = HandshakeRejected("wrong accept", status=101, retryable=False)
PROXY = ProxyRejected("the proxy http://p:3128 answered CONNECT with HTTP 405", retryable=False)
OPEN = closed(1001, 60.0)

# What a client meets, one after the other, and the rule that the last of it must name.
STORIES = {
    "peer-closed": [closed(4001, reason="token: expired")],
    "peer-overloaded": [closed(1013)],
    "peer-rejected": [closed(1008, reason="too many requests")],
    "peer-rejected-late": [closed(1008, 60.0)],
    "protocol-error": [closed(1002)],
    "protocol-error-repeated": [closed(1002)] * 3,
    "connection-lost": [closed(origin=CloseOrigin.NETWORK)],
    "heartbeat-silent": [silent("heartbeat-silent")],
    "heartbeat-unanswered": [silent("heartbeat-unanswered")],
    "heartbeat-idle": [silent("heartbeat-idle")],
    "reconnect-now": [closed(origin=CloseOrigin.LOCAL)],
    "attempt-failed": [failed(ConnectError("refused"))],
    "open-timeout": [failed(OpenTimeout())],
    "setup-failed": [failed(SetupFailed())],
    "setup-timeout": [failed(SetupTimeout())],
    "cannot-heal": [Failure(error=InvalidURL())],
    "http-5xx": [answered(503)],
    "http-busy": [answered(429)],
    "http-retry-after": [answered(404, retry_after=3.0)],
    "http-fresh-token": [answered(401)],
    "http-4xx-never-open": [answered(404)],
    "http-4xx": [OPEN, answered(404)],
    "http-4xx-repeated": [OPEN, *[answered(404)] * 10],
    "http-not-101-never-open": [answered(200)],
    "http-not-101": [OPEN, answered(302)],
    "http-not-101-repeated": [OPEN, *[answered(200)] * 10],
    "certificate-never-open": [failed(CertificateRejected())],
    "certificate": [OPEN, failed(CertificateRejected())],
    "certificate-repeated": [OPEN, *[failed(CertificateRejected())] * 10],
    "proxy-never-open": [failed(PROXY)],
    "proxy": [OPEN, failed(PROXY)],
    "proxy-repeated": [OPEN, *[failed(PROXY)] * 10],
    "handshake-never-open": [failed(ACCEPT)],
    "handshake": [OPEN, failed(ACCEPT)],
    "handshake-repeated": [OPEN, *[failed(ACCEPT)] * 10],
    "decide-retry": [(answered(404), Retry(1))],
    "decide-stop": [(answered(503), Stop("maintenance: until noon"))],
    "stop-raised": [failed(Stop("banned"))],
    "reconnect-off": [answered(503)],
    "max-attempts": [answered(503)],
    "max-elapsed": [answered(503, retry_after=100.0)],
    "stop-strategy": [answered(503)],
}
POLICIES = {
    "reconnect-off": None,
    "max-attempts": ReconnectPolicy(max_attempts=1),
    "max-elapsed": ReconnectPolicy(max_elapsed=10),
    "stop-strategy": ReconnectPolicy(stop=lambda state: True),
}


def tell(story, policy, *, provider=False):
    """Yields the decision about each failure."""
    state = RetryState(policy, random.Random(1), provider=provider)
    state.started(0.0)
    for one in story:
        failure, verdict = one if isinstance(one, tuple) else (one, None)
        state.dialing(0.0)
        if failure.opened_for is not None:
            state.opened()
        yield state.failed(failure, 0.0, verdict)


def pattern(rule_id):
    """Returns what a text of this rule begins with."""
    return "".join(
        re.escape(literal) + ("" if name is None else "(.+)")
        for literal, name, _, _ in string.Formatter().parse(RULES[rule_id])
    )


def test_every_rule_can_be_reached():
    assert STORIES.keys() | BY_THE_CLIENT == RULES.keys()


@pytest.mark.parametrize("rule_id", STORIES)
def test_each_story_ends_with_its_rule(rule_id):
    policy = POLICIES.get(rule_id, ReconnectPolicy(refused_for=0))
    *_, last = tell(STORIES[rule_id], policy, provider=rule_id == "http-fresh-token")
    assert last.rule_id == rule_id
    assert re.match(pattern(rule_id), last.rule), last.rule
    assert last.stop == ("stops" in ABOUT[rule_id] or rule_id in STOPPING)


STOPPING = {"decide-stop", "stop-raised", "reconnect-off", "max-attempts", "max-elapsed", "stop-strategy"}


def test_each_rule_is_explained_and_each_id_is_kebab_case():
    assert ABOUT.keys() == RULES.keys()
    for rule_id, about in ABOUT.items():
        assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", rule_id)
        assert about[0].isupper() or about[0] in "`1"
        assert about.endswith(".")


def test_a_rule_that_is_not_there_has_no_text():
    with pytest.raises(KeyError):
        text_of("nothing")
    with pytest.raises(KeyError):
        text_of("http-5xx")


@pytest.mark.parametrize("reason", ["too many requests", "a: b", "line\nbreak\x1b[2J", '"quoted"'])
@pytest.mark.parametrize("code", [1000, 1002, 1008, 1013, 3000, 4999, 77])
def test_the_reason_of_the_peer_stands_where_its_code_does(code, reason):
    (decision,) = tell([closed(code, reason=reason)], ReconnectPolicy())
    shown = reason.replace("\n", "\\n").replace("\x1b", "\\x1b")
    assert f'("{shown}")' in decision.rule
    assert decision.rule.isprintable()


def test_our_own_code_does_not_stand_beside_the_reason_of_the_peer():
    (decision,) = tell(
        [closed(1000, origin=CloseOrigin.PROTOCOL, sent_code=1009, reason="theirs")], ReconnectPolicy()
    )
    assert "theirs" not in decision.rule


# --- what goes wrong beside the connection


def places():
    """Yields each literal under which something is reported in the package."""
    package = Path(resilient_ws.__file__).parent
    for path in package.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call):
                continue
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            first = node.args[0] if node.args else None
            if name == "ErrorEvent":
                first = next((one.value for one in node.keywords if one.arg == "where"), None)
            elif name not in {"failed", "_failed", "tell_failure"}:
                continue
            if isinstance(first, ast.Constant) and isinstance(first.value, str):
                yield first.value


def test_each_place_that_reports_is_documented():
    found = set(places())
    assert found >= {"decide", "setup", "inbox", "events", "outbox", "subscribe", "heartbeat"}
    listed = " ".join(REPORTS) + " ".join(REPORTS.values())
    for where in {*found, "wait", "stop", *(name for name in CALLBACKS if name != "on_error")} - REPORTED:
        assert ErrorEvent(where=where, exception=ValueError()).id in listed, where


@pytest.mark.parametrize("where", ["decide", "on_close", "heartbeat"])
def test_what_the_program_raised_is_named_after_the_place_whatever_it_raised(where):
    for error in (ValueError(), OpenTimeout(), KeyboardInterrupt()):
        assert ErrorEvent(where=where, exception=error).id == f"{where.replace('_', '-')}-failed"


@pytest.mark.parametrize("where", sorted(REPORTED))
def test_what_the_client_found_is_named_after_its_exception(where):
    assert ErrorEvent(where=where, exception=OpenTimeout()).id == "open-timeout"
    assert ErrorEvent(where=where, exception=ValueError()).id == f"{where}-failed"
