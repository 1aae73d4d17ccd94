"""How the time of `close()` is shared, and what a call is told that comes too late."""

import pytest

from resilient_ws.api.errors import ClientClosed, ClientStopped, RetriesExhausted
from resilient_ws.api.events import CloseEvent
from resilient_ws.core.endings import Closing, ended_error

LAST = CloseEvent(code=1006, final=True)


@pytest.mark.promise("P7")
@pytest.mark.parametrize(
    "limit,handshake,callbacks",
    [
        (5.0, 104.0, 105.0),
        (1.0, 100.8, 101.0),
        (60.0, 159.0, 160.0),
        (None, None, None),
    ],
)
def test_the_callbacks_keep_a_share_of_the_time_of_close(limit, handshake, callbacks):
    closing = Closing.within(limit, 100.0, 1001, "bye")
    assert closing == Closing(1001, "bye", pytest.approx(handshake), callbacks)


def ended(cause, *, is_closed=True, last_close=LAST):
    return ended_error(cause, is_closed=is_closed, last_close=last_close, undelivered=[])


@pytest.mark.parametrize("is_closed,text", [(True, "the client is closed"), (False, "the client is closing")])
def test_after_close_a_call_is_told_just_that(is_closed, text):
    error = ended(None, is_closed=is_closed)
    assert type(error) is ClientClosed
    assert str(error) == text
    assert error.__cause__ is None


@pytest.mark.promise("P11")
@pytest.mark.parametrize(
    "cause",
    [ClientStopped("banned"), RetriesExhausted("max_attempts=3 reached", attempts=3, elapsed=1.5)],
    ids=["stopped", "exhausted"],
)
def test_after_an_end_of_its_own_each_call_is_told_why_anew(cause):
    cause.__cause__ = ConnectionResetError()
    error = ended(cause)
    assert error is not cause
    assert type(error) is type(cause)
    assert str(error) == str(cause)
    assert error.__cause__ is cause.__cause__
    assert error.event is LAST
    for name in ("attempts", "elapsed"):
        assert getattr(error, name, None) == getattr(cause, name, None)


@pytest.mark.parametrize("last_close", [None, CloseEvent(code=1006)])
def test_only_the_final_event_is_the_event_of_the_end(last_close):
    assert ended(None, last_close=last_close).event is None
