"""What a program registers to be called: the names of the callbacks, and the handle that removes one."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from typing import Any, Final, Generic, TypeVar

from resilient_ws.api.events import (
    CloseEvent,
    ErrorEvent,
    OpenEvent,
    ReconnectEvent,
    RetryEvent,
    StateEvent,
    UndeliveredEvent,
)
from resilient_ws.api.message import Message

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

MessageCallback = Callback[Message] | Callback[str] | Callback[bytes]
"""For messages; one of `str` or of `bytes` alone is for programs that know what their server sends."""


class Handle(Generic[T]):
    """A registered callback. Calling it calls the function, so a decorated name still is that function.

    Attributes:
        function: The function.
        is_async: Whether what it returns has to be awaited, as far as is known: for a function that is not an `async
            def` its first call shows it.
    """

    def __init__(self, remove: Callable[[Handle[T]], None], function: Callback[T]) -> None:
        self._remove = remove
        self.function = function
        self.is_async = _is_async(function)

    def __call__(self, event: T) -> Awaitable[object] | object:
        """Call the function itself."""
        return self.function(event)

    def remove(self) -> None:
        """Unregister the callback; it is not called again. A second call does nothing."""
        self._remove(self)


def _is_async(function: Callback[Any]) -> bool:
    """Return whether calling `function` surely gives a coroutine; a function that returns one is found out by its first call."""
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(
        getattr(function, "__call__", None)  # noqa: B004 - whether that is async, not whether there is one
    )
