"""A heartbeat monitor with a connection that shows what a test wants."""

import math
from types import SimpleNamespace

from resilient_ws.api.options import Heartbeat
from resilient_ws.core.heartbeat import (
    DOUBTS,
    SOON,
    HeartbeatMonitor,
    Reading,
)

INTERVAL, TIMEOUT = 15.0, 10.0
SURE = DOUBTS * SOON  # from the moment that a verdict is due to the look that gives it
START = {
    "received": 0,
    "received_at": 0.0,
    "message_at": 0.0,
    "messages": 0,
    "left": 0,
    "pending": 0,
    "acknowledged": False,
    "paused": False,
}


class Driver:
    """A monitor with its connection; `reading` is what the connection shows, changed by the test."""

    def __init__(self, options=None, **reading):
        self.shown = {**START, **reading}
        self.numbers = 0
        self.stands = False
        self.pings = []
        self.monitor = HeartbeatMonitor(options or Heartbeat(), 0.0, self.reading())

    def reading(self):
        return Reading(**self.shown)

    @property
    def deadline(self):
        return self.monitor.deadline

    def show(self, **reading):
        self.shown.update(reading)

    def look(self, now=None, *, send=True, **options):
        """Look at `now`, or at the deadline; send the ping that is asked for."""
        now = self.deadline if now is None else now
        verdict = self.monitor.look(now, self.reading(), **options)
        assert self.deadline > now
        if verdict.ping and self.stands:
            self.stand(now)
        elif verdict.ping and send:
            self.ping(now)
        return verdict

    def ping(self, now, size=0):
        self.numbers += 1
        self.pings.append(now)
        self.show(pending=self.shown["pending"] + size)
        self.monitor.ping_sent(self.numbers, now, self.reading())
        assert self.deadline > now

    def stand(self, now):
        """A ping waits for room, and those asked for later stand back."""
        self.numbers += not self.stands
        self.stands = True
        self.monitor.ping_sent(self.numbers, now, self.reading(), stands=True)
        assert self.deadline > now

    def leave(self, now):
        """The ping that waits is handed over."""
        self.stands = False
        self.monitor.ping_sent(self.numbers, now, self.reading())

    def pong(self, now, number=None):
        self.show(received=self.shown["received"] + 1, received_at=now)
        return self.monitor.pong(number or self.numbers, now)

    def until(self, end=math.inf):
        """Look at each deadline up to `end` or to death; returns the last verdict, and when it was due."""
        for _ in range(10_000):
            if self.deadline > end:
                return SimpleNamespace(dead=None, due=None, hint=None)
            now = self.deadline
            verdict = self.look()
            if verdict.dead is not None:
                return SimpleNamespace(dead=verdict.dead, due=round(now - SURE, 6), hint=verdict.hint)
        raise AssertionError("too many looks")
