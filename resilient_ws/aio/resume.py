"""Resume a waiting task inside the socket's read callback.

asyncio resumes a waiting task in the next iteration of the loop, after another `select` call. A callback of the loop that
has nothing left to do can resume the task itself, which saves that iteration.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextvars import Context, copy_context
from typing import Any


def resume(waiter: asyncio.Future[None]) -> None:
    """Complete `waiter` and run the waiting task within this call if possible, otherwise in the next iteration.

    Call it last in a callback of the event loop: user code runs within this call until it waits again.
    In asyncio's debug mode it is always the next iteration, because the loop reports slow steps by callback.
    """
    if waiter.done():
        return
    # `_callbacks` is private. If it is missing, or has several entries, resume in the next iteration as usual.
    waiting = getattr(waiter, "_callbacks", None)
    if waiting is None or len(waiting) != 1 or waiter.get_loop().get_debug():
        waiter.set_result(None)
        return
    ((call, context),) = waiting
    # Invariant: the waiter's only callback runs exactly once. It is removed before `set_result`, which would schedule it
    # for the next iteration, and then called here, or scheduled again if it cannot run now.
    waiter.remove_done_callback(call)
    waiter.set_result(None)
    try:
        context.run(call, waiter)
    except RuntimeError:
        # Another task is running, or the context is in use: the step has not started, so it can be scheduled.
        waiter.get_loop().call_soon(call, waiter, context=context)
    except BaseException as error:  # noqa: BLE001 - it ends the process
        _let_out(error)


class _Reentrant:
    """A replacement for the context in which a loop calls a reader, which can be entered recursively."""

    __slots__ = ("_context",)

    def __init__(self, context: Context) -> None:
        self._context = context

    def run(self, call: Callable[..., object], *args: object) -> object:
        """Call `call` in a copy of the context."""
        return self._context.copy().run(call, *args)


def let_nested_loop_read(loop: asyncio.AbstractEventLoop, descriptor: int) -> None:
    """Let a loop that runs within a step taken by `resume` read the same socket.

    Notebooks and debuggers run the loop within a handler (`nest_asyncio`). The handler may have been resumed in the call that
    the loop makes to read a socket, in a context that cannot be entered twice: every further read would fail, over and over.
    asyncio makes that call through a handle, which has no public name; on other loops nothing can be nested. To be called
    whenever reading begins anew.
    """
    selector = getattr(loop, "_selector", None)
    if selector is None:
        return
    try:
        reader: Any = selector.get_key(descriptor).data[0]
        if isinstance(reader._context, Context):  # noqa: SLF001
            reader._context = _Reentrant(reader._context)  # noqa: SLF001
    except (AttributeError, KeyError, TypeError, ValueError, IndexError):
        return


def at_once(call: Callable[[], None]) -> None:
    """Run `call` now instead of in the next iteration; call it last, as `resume`."""
    try:
        copy_context().run(call)
    except BaseException as error:  # noqa: BLE001 - as above
        _let_out(error)


def _let_out(error: BaseException) -> None:
    """Let `error` end the loop. Raised here it might not: the transports of uvloop take it for an error of theirs."""
    asyncio.get_running_loop().call_soon(_raise, error)


def _raise(error: BaseException) -> None:
    raise error
