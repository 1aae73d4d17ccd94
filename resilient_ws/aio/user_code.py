"""Run user code, and tell its cancellation from ours.

Tasks that user code starts inherit its context, so `is_waited_for_by` also holds inside `gather`, `TaskGroup` and
`wait_for`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Generator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

T = TypeVar("T")


class Call:
    """One call of user code, and the task that waits for its result."""

    __slots__ = ("_noticed", "_waiter")

    def __init__(self) -> None:
        self._waiter: asyncio.Task[Any] | None = None
        self._noticed: list[asyncio.Future[None]] | None = None

    @property
    def waiter(self) -> asyncio.Task[Any] | None:
        """The task that waits, or is going to wait, for the result; `None` while there is none."""
        return self._waiter

    def is_awaited_by(self, task: asyncio.Task[Any] | None) -> None:
        """Say which task waits for the result from now on."""
        self._waiter = task
        if task is not None and self._noticed is not None:
            for notice in self._noticed:
                if not notice.done():
                    notice.set_result(None)

    @contextmanager
    def noticed(self, loop: asyncio.AbstractEventLoop) -> Generator[asyncio.Future[None]]:
        """Give a future that is done when a task begins to wait for the result: code may run before one does."""
        notice: asyncio.Future[None] = loop.create_future()
        if self._noticed is None:
            self._noticed = []
        self._noticed.append(notice)
        try:
            yield notice
        finally:
            self._noticed.remove(notice)


_call: ContextVar[Call] = ContextVar("resilient_ws_call")


def enter() -> None:
    """Start a new context for user code, unrelated to the code that started the caller."""
    _call.set(Call())


def current_call() -> Call | None:
    """Return the call of user code that the caller runs in, or `None`."""
    return _call.get(None)


async def called(pending: Awaitable[T], call: Call | None = None) -> T:
    """Wait for what user code has returned; `enter` was called before that code was.

    Args:
        pending: What it returned.
        call: The call, where it was made in another context than that of this task.
    """
    if call is None:
        call = _call.get(None) or Call()
    _call.set(call)
    call.is_awaited_by(asyncio.current_task())
    try:
        return await pending
    finally:
        call.is_awaited_by(None)  # tasks that outlive the call no longer belong to it
        enter()


async def called_apart(pending: Awaitable[T]) -> T:
    """Run user code in a task of its own, which isolates its cancellation and its context."""
    call = _call.get(None)
    if call is not None:
        call.is_awaited_by(asyncio.current_task())
    return await called(asyncio.ensure_future(pending))


def is_waited_for_by(task: asyncio.Task[Any] | None) -> bool:
    """Return whether `task` waits for the code that calls this."""
    call = _call.get(None)
    return task is not None and call is not None and call.waiter is task


def is_being_cancelled() -> bool:
    """Return whether the running task is being cancelled; if not, user code raised the `CancelledError`."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def must_pass(error: BaseException) -> bool:
    """Return whether `error`, raised in user code, must propagate because it ends the task or the process."""
    if isinstance(error, asyncio.CancelledError):
        return is_being_cancelled()
    return isinstance(error, KeyboardInterrupt | SystemExit | GeneratorExit)


def go_on() -> None:
    """Uncancel the running task, which was cancelled by user code that it called."""
    task = asyncio.current_task()
    while task is not None and task.cancelling():
        task.uncancel()
