"""One read buffer per thread, shared by all connections; its content is parsed at once.

A buffer for each connection would be most of its memory.
"""

from __future__ import annotations

import threading
from typing import Final

READ: Final = 120 * 1024
"""Bytes that one read takes in at most, unless a TLS transport has more. A copy of it is below what glibc asks of the system each time (128 KiB)."""


class _Scratch(threading.local):
    def __init__(self) -> None:
        self.views: dict[int, memoryview] = {READ: memoryview(bytearray(READ))}


_scratch: Final = _Scratch()


def scratch(size: int) -> memoryview:
    """Return the first `size` bytes of the buffer of this thread, `READ` at most; one view for all who ask for so many."""
    views = _scratch.views
    if size not in views:
        views[size] = views[READ][:size]
    return views[size]
