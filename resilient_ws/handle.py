"""What a program registers to be called: the names of the callbacks, and the handle that removes one."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final, Generic, TypeVar

from resilient_ws.events import (
    CloseEvent,
    ErrorEvent,
    OpenEvent,
    ReconnectEvent,
    RetryEvent,
    StateEvent,
    UndeliveredEvent,
)

CALLBACK_OF: Final[dict[type, str]] = {
    OpenEvent: "on_open",
    CloseEvent: "on_close",
    ReconnectEvent: "on_reconnect",
    RetryEvent: "on_retry",
    UndeliveredEvent: "on_undelivered",
    ErrorEvent: "on_error",
    StateEvent: "on_state",
}

CALLBACKS: Final = (*CALLBACK_OF.values(), "on_message")

T = TypeVar("T")
Callback = Callable[[T], Awaitable[object] | object]


class Handle(Generic[T]):
    """A registered callback. Calling it calls the function, so a decorated name still is that function."""

    def __init__(self, remove: Callable[[Handle[T]], None], function: Callback[T]) -> None:
        self._remove = remove
        self.function = function

    def __call__(self, event: T) -> Awaitable[object] | object:
        """Calls the function itself."""
        return self.function(event)

    def remove(self) -> None:
        """Unregisters the callback; it is not called again. A second call does nothing."""
        self._remove(self)
