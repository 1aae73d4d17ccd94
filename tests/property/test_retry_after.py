"""`Retry-After` in every form that servers send: never lost, never an exception, never waited for too short a time."""

import math
import random
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict, CIMultiDictProxy

from resilient_ws.api.errors import HandshakeRejected
from resilient_ws.api.events import Failure
from resilient_ws.api.options import ReconnectPolicy
from resilient_ws.core.governor import request_for_time
from resilient_ws.core.retry import RETRY_AFTER_CAP, RetryState
from resilient_ws.transports.shared.handshake import verify
from resilient_ws.transports.shared.retry_after import LONGEST, retry_after

NOW = datetime(2026, 10, 21, 7, 27, tzinfo=UTC)
DATE = format_datetime(NOW, usegmt=True)

blanks = st.sampled_from(["", " ", "\t", "  \t "])
zones = ["GMT", "UTC", "+0000", "-0000", "+0200", "-1130"]


def rfc850(when):
    return when.strftime("%A, %d-%b-%y %H:%M:%S GMT")


def asctime(when):
    return when.strftime("%a %b %d %H:%M:%S %Y")


@st.composite
def dates(draw):
    """A date in one of the three forms of RFC 9110, and how long after `NOW` it is."""
    after = draw(st.integers(-(10**6), 10**9))
    when = NOW + timedelta(seconds=after)
    form = draw(st.sampled_from(["fixed", "rfc850", "asctime"]))
    if form == "rfc850" and when.year > 2068:  # two digits of a year say no more
        form = "fixed"
    text = {"fixed": lambda one: format_datetime(one, usegmt=True), "rfc850": rfc850, "asctime": asctime}[
        form
    ](when)
    return text, max(0, after)


@st.composite
def far_dates(draw):
    """A date beyond every calendar."""
    year = draw(st.integers(10_000, 10**6) | st.integers(10**6, 10**40))
    days = 365 * (year - 2000) + (year - 2000) // 4 - (year - 2000) // 100 + (year - 2000) // 400
    return f"Fri, 31 Dec {year} 23:59:59 {draw(st.sampled_from(zones))}", min(
        LONGEST, (days - 9790) * 86400.0
    )


@st.composite
def numbers(draw):
    """A number of seconds, however it is written."""
    seconds = draw(st.integers(0, 10**30) | st.floats(0, 1e30, allow_subnormal=False))
    text = draw(st.sampled_from([str, "{:f}".format, "{:e}".format, "{:.3f}".format]))(seconds)
    unit = draw(st.sampled_from(["", "s", " s", " seconds", "SEC"]))
    zeros = "0" * draw(st.integers(0, 5000))
    return f"{zeros}{text}{unit}", min(LONGEST, float(text))


good = st.one_of(dates(), far_dates(), numbers())
nonsense = st.text(max_size=30) | st.sampled_from(
    ["-1", "nan", "inf", "soon", "Mon, 99 Foo 99999 99:99:99 +9999"]
)


def close(seconds):
    return pytest.approx(seconds, rel=1e-3, abs=1e-3)


@pytest.mark.promise("P10")
@given(value=good, before=blanks, behind=blanks)
def test_what_can_be_understood_is_never_lost(value, before, behind):
    text, seconds = value
    assert retry_after({"Retry-After": f"{before}{text}{behind}", "Date": DATE}) == close(seconds)


@pytest.mark.promise("P10")
@given(values=st.lists(good, min_size=1, max_size=4), joined=st.booleans())
def test_of_several_the_longest_counts(values, joined):
    texts, longest = [text for text, _ in values], max(seconds for _, seconds in values)
    headers = CIMultiDict([("Date", DATE)])
    for text in [", ".join(texts)] if joined else texts:
        headers.add("retry-after", text)
    assert retry_after(CIMultiDictProxy(headers)) == close(longest)


@pytest.mark.promise("P10")
@given(values=st.lists(nonsense | good.map(lambda one: one[0]), max_size=4), date=nonsense | st.just(DATE))
def test_nothing_that_a_server_sends_raises_or_asks_for_what_cannot_be_waited(values, date):
    headers = CIMultiDict([("Date", date)])
    for value in values:
        headers.add("Retry-After", value)
    asked = retry_after(CIMultiDictProxy(headers))
    assert asked is None or 0 <= asked <= LONGEST


statuses = st.integers(100, 999).filter(lambda status: status != 101)


@pytest.mark.promise("P10")
@given(
    status=statuses,
    value=good,
    was_open=st.booleans(),
    provider=st.booleans(),
    seed=st.integers(),
    before=st.lists(statuses, max_size=12),
)
def test_it_is_honoured_with_every_status_and_shown_to_decide(
    status, value, was_open, provider, seed, before
):
    text, seconds = value
    with pytest.raises(HandshakeRejected) as caught:
        verify(status, {"Retry-After": text, "Date": DATE}, key=None, offered=(), extensions=False)
    assert caught.value.retry_after == close(seconds)
    failure = Failure(error=caught.value, status=status, retry_after=caught.value.retry_after)
    state = RetryState(ReconnectPolicy(refused_for=0), random.Random(seed), provider=provider)
    state.started(0.0)
    if was_open:
        state.opened()
        for earlier in before:  # a row of refusals ends with it
            state.failed(Failure(error=HandshakeRejected(status=earlier), status=earlier), 0.0)
    decision = state.failed(failure, 0.0)
    assert not decision.stop
    wished = min(RETRY_AFTER_CAP, caught.value.retry_after)
    assert wished <= decision.delay <= wished + 30
    hold = request_for_time(failure, decision.delay)
    if wished:
        assert hold is not None
        held_for, why, asked = hold
        assert (held_for, asked) == (close(min(caught.value.retry_after, decision.delay)), True)
        assert why == f"HTTP {status}"
        assert math.isfinite(held_for)
