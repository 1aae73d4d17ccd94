"""The life of a client, told to what decides about its retries."""

import math

from resilient_ws.api.close_codes import CloseOrigin
from resilient_ws.api.errors import (
    ConnectError,
    HandshakeRejected,
)
from resilient_ws.api.events import CloseEvent, Failure
from resilient_ws.api.options import ReconnectPolicy
from resilient_ws.core.retry import Decision, RetryState

DEFAULT = ReconnectPolicy()


class Highest:
    """Draws the upper end, so that a test can say which range a delay came from."""

    def uniform(self, a: float, b: float) -> float:
        return b


def refused() -> Failure:
    return Failure(error=ConnectError("connection refused"))


def closed(
    code: int = 1006,
    opened_for: float | None = 0.0,
    origin: CloseOrigin = CloseOrigin.PEER,
    sent_code: int | None = None,
) -> Failure:
    close = CloseEvent(code=code, origin=origin, opened_for=opened_for, sent_code=sent_code)
    return Failure(close=close, error=close.cause, opened_for=opened_for)


def answered(status: int, retry_after: float | None = None) -> Failure:
    error = HandshakeRejected(f"HTTP {status}", status=status, retry_after=retry_after)
    return Failure(error=error, status=status, retry_after=retry_after)


class Story:
    """A client's life on a clock of its own: it dials, sometimes opens, and fails."""

    def __init__(self, policy: ReconnectPolicy | None = DEFAULT, **options) -> None:
        self.state = RetryState(policy, Highest(), **options)
        self.now = 100.0
        self.state.started(self.now)

    def fails(self, failure: Failure, verdict: object = None, *, lost_at: float | None = None) -> Decision:
        """Dial, open if the failure says so, fail."""
        self.state.dialing(self.now)
        if failure.opened_for is not None:
            self.state.opened()
            self.now += failure.opened_for
        decision = self.state.failed(failure, self.now, verdict, lost_at=lost_at)
        assert 0 <= decision.delay < math.inf
        self.now += decision.delay
        return decision

    def was_open(self) -> "Story":
        """Have one stable connection behind it."""
        assert not self.fails(closed(opened_for=60.0)).stop
        return self
