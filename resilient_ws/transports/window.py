"""The buffer into which the rest of a large frame is read, so that the message is made of it without another copy.

A connection has one only while such a frame has begun; between them one lies ready for whoever needs it next.
"""

from __future__ import annotations

import threading
from typing import Final

SIZE: Final = 256 * 1024
"""Bytes of a new window."""

ROOM: Final = 64 * 1024
"""Bytes that one read of the socket can take in at least."""


class Window:
    """What was read of a frame that is not whole, and perhaps of what follows it.

    Attributes:
        view: All of the buffer.
        begin: Where the frame begins.
        end: Up to where it is filled.
        needed: Where the frame will end.
    """

    __slots__ = ("begin", "end", "needed", "view")

    def __init__(self) -> None:
        self.view = memoryview(bytearray(SIZE))
        self.begin = self.end = self.needed = 0

    def hold(self, data: bytes | memoryview, needed: int) -> None:
        """Takes over the beginning of a frame of `needed` bytes."""
        self.begin, self.end, self.needed = 0, len(data), needed
        self._grow_to(len(data) + ROOM)
        self.view[: len(data)] = data

    def keep_from(self, position: int, needed: int) -> None:
        """The frame that begins at `position` is the next one."""
        self.begin, self.needed = position, position + needed
        if len(self.view) < self.end + ROOM:
            size = self.end - position
            self.view[:size] = self.view[position : self.end]
            self.begin, self.end, self.needed = 0, size, needed

    def room(self) -> memoryview:
        """Returns where to read to. It grows as the frame does, not when a peer says that it will."""
        if self.end + ROOM > len(self.view):
            self._grow_to(min(2 * len(self.view), self.needed + ROOM))
        return self.view[self.end :]

    def _grow_to(self, size: int) -> None:
        if size > len(self.view):
            before, self.view = self.view[: self.end], memoryview(bytearray(size))
            self.view[: len(before)] = before


class _Spare(threading.local):
    def __init__(self) -> None:
        self.window: Window | None = None


_spare: Final = _Spare()


def borrow() -> Window:
    """Returns a window; the one that was given back last, if there is one."""
    window, _spare.window = _spare.window, None
    return Window() if window is None else window


def give_back(window: Window) -> None:
    """Nobody uses `window` any more."""
    if len(window.view) == SIZE:
        _spare.window = window
