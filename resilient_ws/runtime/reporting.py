"""Reports of a client: to callbacks and iterators, to the log, and in `explain()`.

It decides nothing; each event is made elsewhere and passes here once, in order.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable
from typing import Final

from resilient_ws.aio.clocks import wall_time
from resilient_ws.api.close_codes import CloseOrigin
from resilient_ws.api.errors import DeliveryUncertain, InboxFull
from resilient_ws.api.events import (
    CloseEvent,
    ErrorEvent,
    Event,
    Fate,
    OpenEvent,
    RetryEvent,
    State,
    StateEvent,
    UndeliveredEvent,
)
from resilient_ws.api.stats import Timeline, changed
from resilient_ws.core.delivery import Entry
from resilient_ws.core.scrubbing import log_raised
from resilient_ws.delivery.inbox import Inbox
from resilient_ws.runtime.callbacks import Dispatcher

PAUSE_NOTICE: Final = 5.0
"""Seconds that reading may be paused by a full inbox before the program is told."""

PAUSE_NOTICE_EVERY: Final = 60.0
"""Seconds between two notices that the inbox stands full."""

log = logging.getLogger("resilient_ws")


class Teller:
    """The voice of one client.

    Args:
        name: Of the client, in the log: where it connects to, without secrets.
        dispatcher: Brings the events to callbacks and subscribers.
        clock: Seconds of the event loop, as entries were stamped with.
        secrets: Returns what must not be shown.
    """

    __slots__ = (
        "_clock",
        "_dispatcher",
        "_name",
        "_noticed_at",
        "_said_retry",
        "_secrets",
        "_unconfirmed_told",
        "timeline",
        "undelivered",
    )

    def __init__(
        self,
        name: str,
        dispatcher: Dispatcher,
        clock: Callable[[], float],
        secrets: Callable[[], Iterable[str]],
    ) -> None:
        self._secrets = secrets
        self.timeline = Timeline(time.time)
        self.undelivered: list[UndeliveredEvent] = []
        self._name = name
        self._dispatcher = dispatcher
        self._clock = clock
        self._noticed_at = -PAUSE_NOTICE_EVERY
        self._said_retry = False
        self._unconfirmed_told = False

    def tell(self, event: Event) -> None:
        """Say what happened; one log line for each step of a connection's life."""
        text = self.timeline.note(event)
        if isinstance(event, OpenEvent | CloseEvent | RetryEvent) and self._is_news(event):
            asked = isinstance(event, CloseEvent) and (event.was_clean or event.origin is CloseOrigin.LOCAL)
            level = logging.INFO if asked or isinstance(event, OpenEvent) else logging.WARNING
            if is_read(log, level):
                log.log(level, "%s: %s", self._name, text)
        self._dispatcher.emit(event)

    def _is_news(self, event: OpenEvent | CloseEvent | RetryEvent) -> bool:
        """Return whether an event says more than the one before: the retry after a loss stands in its `CloseEvent`."""
        is_news = not (self._said_retry and isinstance(event, RetryEvent))
        self._said_retry = isinstance(event, CloseEvent)
        return is_news

    def tell_state(self, old: State, new: State) -> None:
        """Report a change of state; an event is made only if there is a listener."""
        self.timeline.say(changed(old, new))
        if self._dispatcher.hears(StateEvent):
            self._dispatcher.emit(StateEvent(old=old, new=new))

    def note(self, text: str) -> None:
        """Say why nothing happens for a while; no event."""
        self.timeline.say(text)
        log.info("%s: %s", self._name, text)

    def tell_fate(self, entry: Entry, fate: Fate, *, at_the_end: bool = False) -> None:
        """Say what became of a message; at the end it is also kept for the exception that ends the client."""
        age = max(0.0, self._clock() - entry.accepted_at)
        event = UndeliveredEvent(
            message=entry.message, fate=fate, accepted_at=wall_time() - age, age=age, times_sent=entry.sent
        )
        if at_the_end:
            self.undelivered.append(event)
        self.tell(event)

    def log_raised(self, what: str, error: BaseException, *, level: int = logging.ERROR) -> None:
        """Log what user code has raised, with its traceback and without secrets."""
        log_raised(log, level, what, error, self._secrets())

    def tell_failure(self, where: str, error: BaseException, *, level: int = logging.ERROR) -> None:
        """Say that code of the program raised, beside any call of its own."""
        self.log_raised(where, error, level=level)
        self.tell(ErrorEvent(where=where, exception=error))

    def tell_unconfirmed(self) -> None:
        """Say that the peer answers no pings, and what that means; once in the life of a client."""
        if self._unconfirmed_told:
            return
        self._unconfirmed_told = True
        error = DeliveryUncertain(
            "the peer answers no pings, so confirmation is off: messages in flight when a connection ends may be lost "
            "unnoticed, and are not sent again. Ask the peer for replies (request()), or accept it with "
            "Outbox(confirm=False)"
        )
        self.warn("outbox", error)

    def warn(self, where: str, error: BaseException) -> None:
        """Say something that the program should know, though nothing of it failed."""
        log.warning("%s: %s", self._name, error)
        self.tell(ErrorEvent(where=where, exception=error))

    def tell_pause(self, seconds: float, unread: int) -> None:
        """Say that reading has been paused for long; at most once a minute."""
        now = self._clock()
        if now - self._noticed_at < PAUSE_NOTICE_EVERY:
            return
        self._noticed_at = now
        error = InboxFull(
            f"reading has been paused for {seconds:g} s: the inbox holds {unread} messages that the program does "
            f"not take. Ways out: take them faster, a larger Inbox, or Inbox(overflow='drop_oldest')"
        )
        log.warning("%s: %s", self._name, error)
        self.tell(ErrorEvent(where="inbox", exception=error))


def is_read(logger: logging.Logger, level: int = logging.INFO) -> bool:
    """Return whether `logger` has a handler. An unread record took a tenth of the time it takes to report a drop."""
    if logger.filters:
        return True  # one may look at what passes
    has_handler = False
    one: logging.Logger | None = logger
    while one is not None:
        for handler in one.handlers:  # a generator for `any` took longer than all else here
            if type(handler) is not logging.NullHandler:
                return True
            has_handler = True
        one = one.parent if one.propagate else None
    last = logging.lastResort  # writes to stderr in a program that has set up no logging
    return not has_handler and last is not None and level >= last.level


class PauseNotice:
    """Lets the teller know when reading has been paused for long.

    Args:
        teller: Says it.
        inbox: Holds the messages that the program does not take.
    """

    __slots__ = ("_inbox", "_teller", "_timer")

    def __init__(self, teller: Teller, inbox: Inbox) -> None:
        self._teller = teller
        self._inbox = inbox
        self._timer: asyncio.TimerHandle | None = None

    def begin(self, loop: asyncio.AbstractEventLoop) -> None:
        """Note that reading is paused."""
        if self._timer is None:
            self._timer = loop.call_later(PAUSE_NOTICE, self._due)

    def end(self) -> None:
        """Note that reading is no longer paused, or that no report is needed."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _due(self) -> None:
        self._timer = None
        self._teller.tell_pause(PAUSE_NOTICE, len(self._inbox))
