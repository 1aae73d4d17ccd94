"""The `on_...` methods of the client, which register callbacks."""

from __future__ import annotations

from typing import Any

from resilient_ws.api.events import (
    CloseEvent,
    ErrorEvent,
    OpenEvent,
    ReconnectEvent,
    RetryEvent,
    StateEvent,
    UndeliveredEvent,
)
from resilient_ws.api.handle import Callback, Handle, MessageCallback
from resilient_ws.runtime.callbacks import Dispatcher


class Callbacks:
    """Register callbacks.

    Each method can be used as a decorator and returns a handle with `.remove()`. A callback may be sync or async. Sync
    callbacks run on the event loop and must not block it. Callbacks run one at a time, in the order of the events. If
    one raises, the exception is reported to `on_error` and the next one runs. Callbacks may call `close()`.
    """

    def __init__(self, dispatcher: Dispatcher) -> None:
        self._dispatcher = dispatcher

    def on_open(self, function: Callback[OpenEvent]) -> Handle[OpenEvent]:
        """Call `function` when a connection is open."""
        return self._dispatcher.register("on_open", function)

    def on_close(self, function: Callback[CloseEvent]) -> Handle[CloseEvent]:
        """Call `function` when a connection has ended, with or without a CLOSE frame from the peer (`synthesized`)."""
        return self._dispatcher.register("on_close", function)

    def on_reconnect(self, function: Callback[ReconnectEvent]) -> Handle[ReconnectEvent]:
        """Call `function` when a connection is open again after an outage or handover."""
        return self._dispatcher.register("on_reconnect", function)

    def on_retry(self, function: Callback[RetryEvent]) -> Handle[RetryEvent]:
        """Call `function` when an attempt has failed and the next one is scheduled."""
        return self._dispatcher.register("on_retry", function)

    def on_message(self, function: MessageCallback) -> Handle[Any]:
        """Call `function` for each message, one at a time.

        While a message callback is registered, `recv()` and iteration are not available.

        Raises:
            ConcurrencyError: A `recv()` or an iteration is waiting, or the client runs in another thread.
        """
        return self._dispatcher.register("on_message", function)

    def on_undelivered(self, function: Callback[UndeliveredEvent]) -> Handle[UndeliveredEvent]:
        """Call `function` when an accepted message was not delivered, or may not have been."""
        return self._dispatcher.register("on_undelivered", function)

    def on_error(self, function: Callback[ErrorEvent]) -> Handle[ErrorEvent]:
        """Call `function` when a callback raises, the inbox stays full, or events are dropped."""
        return self._dispatcher.register("on_error", function)

    def on_state(self, function: Callback[StateEvent]) -> Handle[StateEvent]:
        """Call `function` each time `state` changes."""
        return self._dispatcher.register("on_state", function)
