"""The `on_...` methods of the client: where a program says what it wants to be told."""

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
    """Registers callbacks; each method is usable as a decorator and returns a handle with `.remove()`.

    A callback may be sync or async. Sync ones run on the event loop and must not block it. They run one at a time, in
    the order of the events; one that raises is reported to `on_error`, and the others run. `close()` may be called.
    """

    def __init__(self, dispatcher: Dispatcher) -> None:
        self._dispatcher = dispatcher

    def on_open(self, function: Callback[OpenEvent]) -> Handle[OpenEvent]:
        """Calls `function`, sync or async, when a connection is open. Usable as a decorator."""
        return self._dispatcher.register("on_open", function)

    def on_close(self, function: Callback[CloseEvent]) -> Handle[CloseEvent]:
        """Calls `function` when a connection has ended, also where the network said nothing (`synthesized`)."""
        return self._dispatcher.register("on_close", function)

    def on_reconnect(self, function: Callback[ReconnectEvent]) -> Handle[ReconnectEvent]:
        """Calls `function` when a connection is open again."""
        return self._dispatcher.register("on_reconnect", function)

    def on_retry(self, function: Callback[RetryEvent]) -> Handle[RetryEvent]:
        """Calls `function` when another attempt is scheduled."""
        return self._dispatcher.register("on_retry", function)

    def on_message(self, function: MessageCallback) -> Handle[Any]:
        """Calls `function` for each message, one at a time; while registered, callbacks are the consumer.

        Raises:
            ConcurrencyError: A `recv()` or iteration is waiting, or the client runs in another thread.
        """
        return self._dispatcher.register("on_message", function)

    def on_undelivered(self, function: Callback[UndeliveredEvent]) -> Handle[UndeliveredEvent]:
        """Calls `function` when it is known that an accepted message was not, or may not have been, delivered."""
        return self._dispatcher.register("on_undelivered", function)

    def on_error(self, function: Callback[ErrorEvent]) -> Handle[ErrorEvent]:
        """Calls `function` when a callback raised, the inbox stands full, or events were dropped."""
        return self._dispatcher.register("on_error", function)

    def on_state(self, function: Callback[StateEvent]) -> Handle[StateEvent]:
        """Calls `function` at each change of `state`."""
        return self._dispatcher.register("on_state", function)
