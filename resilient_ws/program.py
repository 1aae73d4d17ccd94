"""Code of the program that a task of ours waits for: who waits for it, and what it does to the task that does.

A task that such code starts inherits the answer to the first, so that it holds for `gather`, `TaskGroup` and
`wait_for`, too.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from contextvars import ContextVar
from typing import Any, TypeVar

T = TypeVar("T")


class _Call:
    """One call: the task that waits for it, while it does."""

    __slots__ = ("waiter",)

    def __init__(self) -> None:
        self.waiter: asyncio.Task[Any] | None = None


_call: ContextVar[_Call] = ContextVar("resilient_ws_call")


def enter() -> None:
    """Says that what calls this will call code of the program, which has nothing to do with whoever started it."""
    _call.set(_Call())


def wait_in(task: asyncio.Task[Any] | None) -> None:
    """Says which task waits for what was called last, before that has begun to."""
    call = _call.get(None)
    if call is not None:
        call.waiter = task


async def called(pending: Awaitable[T]) -> T:
    """Waits for what code of the program has returned; `enter` was called before that."""
    wait_in(asyncio.current_task())
    try:
        return await pending
    finally:
        wait_in(None)  # a task that it has left behind is none of it any more
        enter()


async def called_apart(pending: Awaitable[T]) -> T:
    """The same in a task of its own: what the code cancels, and what it sets in its context, is that task's alone."""
    wait_in(asyncio.current_task())
    return await called(asyncio.ensure_future(pending))


def is_waited_for_by(task: asyncio.Task[Any] | None) -> bool:
    """Whether `task` waits for the code that calls this."""
    call = _call.get(None)
    return task is not None and call is not None and call.waiter is task


def is_being_cancelled() -> bool:
    """Whether somebody cancels the running task; if not, a `CancelledError` is one that the program's code raised."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def must_pass(error: BaseException) -> bool:
    """Whether `error`, which code of the program let out, is not about that code: the task or the process is to end."""
    if isinstance(error, asyncio.CancelledError):
        return is_being_cancelled()
    return isinstance(error, KeyboardInterrupt | SystemExit | GeneratorExit)


def go_on() -> None:
    """The running task has been cancelled by code that it called, and goes on."""
    task = asyncio.current_task()
    while task is not None and task.cancelling():
        task.uncancel()
