"""The counters of a client, and its statistics."""

from __future__ import annotations

from collections import Counter
from typing import Literal

from resilient_ws.api.stats import Stats
from resilient_ws.connection.active import ActiveConnection
from resilient_ws.core.delivery import DeliveryQueue
from resilient_ws.core.life import Life
from resilient_ws.delivery.inbox import Inbox
from resilient_ws.runtime.callbacks import Dispatcher


class Tally:
    """The counts that no part of the client keeps for itself.

    Args:
        queue: Counts what became of accepted messages.
        inbox: Counts what was received.
        dispatcher: Counts the events that were dropped.
    """

    __slots__ = ("_dispatcher", "_inbox", "_moved", "_queue")

    def __init__(self, queue: DeliveryQueue, inbox: Inbox, dispatcher: Dispatcher) -> None:
        self._moved: Counter[str] = Counter()  # by connections that are no more
        self._queue = queue
        self._inbox = inbox
        self._dispatcher = dispatcher

    def add(self, active: ActiveConnection) -> None:
        """Keep the counts of a connection that has ended."""
        for name, count in active.counts().items():  # a third of the time that `Counter.update` takes
            self._moved[name] += count

    def stats(self, life: Life, active: ActiveConnection | None) -> Stats:
        """Return the current statistics; `active` is the open connection."""
        queue, moved = self._queue, Counter(self._moved)
        confirmation: Literal["on", "off", "none"] = "none"
        if active is not None:
            confirmation = "on" if queue.confirming else "off"
            moved.update(active.counts())
        return Stats(
            attempts=life.attempts,
            opens=life.opens,
            closes=dict(life.closes),
            sent=moved["sent"],
            received=moved["received"],
            bytes_sent=moved["bytes_sent"],
            bytes_received=moved["bytes_received"] + self._inbox.bytes_received,
            confirmed=queue.confirmed,
            uncertain=queue.uncertain,
            expired=queue.expired,
            evicted=queue.evicted,
            abandoned=queue.abandoned,
            unverified=queue.unverified,
            discarded=moved["discarded"] + self._inbox.dropped,
            waiting=queue.waiting,
            unconfirmed=queue.unconfirmed,
            unread=len(self._inbox),
            confirmation=confirmation,
            events_dropped=self._dispatcher.dropped.total(),
        )
