"""How one who waits goes on within the read of the socket that brought what it waits for.

asyncio resumes a waiting task with a call that the loop makes in its next turn, which asks the selector first: a quarter
of what a single message costs (`python -m benchmarks paced echo`). A callback of the loop that has nothing left to do can
make that call itself.
"""

from __future__ import annotations

import asyncio


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
    except RuntimeError:  # a task takes a step just now; this one has not begun to
        waiter.get_loop().call_soon(call, waiter, context=context)
