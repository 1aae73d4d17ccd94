"""Callback names and types, and the handle that unregisters a callback."""

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
"""A callback for messages. It may take only `str` or only `bytes` if the server sends only that."""


class Handle(Generic[T]):
    """A registered callback. Calling the handle calls the function, so a decorated function stays callable.

    Attributes:
        function: The function.
        is_async: Whether the function is known to return an awaitable. If it is not an `async def` function, the first
            call shows it.
    """

    def __init__(self, remove: Callable[[Handle[T]], None], function: Callback[T]) -> None:
        self._remove = remove
        self.function = function
        self.is_async = _is_async(function)

    def __call__(self, event: T) -> Awaitable[object] | object:
        """Call the function."""
        return self.function(event)

    def remove(self) -> None:
        """Unregister the callback; it is not called again. A second call does nothing."""
        self._remove(self)


def _is_async(function: Callback[Any]) -> bool:
    """Return whether `function` is certain to return a coroutine; otherwise its first call shows it."""
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(
        getattr(function, "__call__", None)  # noqa: B004 - whether that is async, not whether there is one
    )
