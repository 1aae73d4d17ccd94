"""One buffer into which all connections of a thread read: what is read is looked at in the same step.

A buffer for each connection would be most of its memory.
"""

from __future__ import annotations

import threading
from typing import Final

LARGEST: Final = 128 * 1024


class _Scratch(threading.local):
    def __init__(self) -> None:
        self.buffer = memoryview(bytearray(LARGEST))


_scratch: Final = _Scratch()


def scratch(size: int) -> memoryview:
    """Returns the first `size` bytes of the buffer of this thread, `LARGEST` at most."""
    return _scratch.buffer[:size]
