"""How one who waits goes on within the read of the socket that brought what it waits for.

asyncio resumes a waiting task with a call that the loop makes in its next turn, which asks the selector first. A callback of
the loop that has nothing left to do can make that call itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextvars import copy_context


def resume(waiter: asyncio.Future[None]) -> None:
    """Ends `waiter`; the task that waits for it takes its step within this call, where that can be, else in the next turn.

    To be called last in a callback of the event loop: whatever the program does until it waits again is done within.
    In asyncio's debug mode the next turn it is, since the loop tells of slow steps by the name of the callback.
    """
    if waiter.done():
        return
    # The attribute has no public name; where there is none, or more than one waits, all is as ever.
    waiting = getattr(waiter, "_callbacks", None)
    if waiting is None or len(waiting) != 1 or waiter.get_loop().get_debug():
        waiter.set_result(None)
        return
    ((call, context),) = waiting
    waiter.remove_done_callback(call)
    waiter.set_result(None)
    try:
        context.run(call, waiter)
    except RuntimeError:
        # Another task takes a step just now, or the context is in use; this one has not begun to.
        waiter.get_loop().call_soon(call, waiter, context=context)
    except BaseException as error:  # noqa: BLE001 - it ends the process
        _let_out(error)


def at_once(call: Callable[[], None]) -> None:
    """Calls `call`, a step that the loop would take in its next turn; to be called last, as `resume`."""
    try:
        copy_context().run(call)
    except BaseException as error:  # noqa: BLE001 - as above
        _let_out(error)


def _let_out(error: BaseException) -> None:
    """Lets `error` end the loop. Raised here it might not: the transports of uvloop take it for an error of theirs."""
    asyncio.get_running_loop().call_soon(_raise, error)


def _raise(error: BaseException) -> None:
    raise error
