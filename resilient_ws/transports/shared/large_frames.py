"""A buffer for the rest of a large frame, which saves a copy of the message.

A connection has one only while such a frame has begun; between them one lies ready for whoever needs it next.
"""

from __future__ import annotations

import threading
from typing import Final

SIZE: Final = 256 * 1024
"""Bytes of a window through which one large frame comes behind the other."""

ROOM: Final = 64 * 1024
"""Bytes that one read can take in at least in such a window, and at most behind a frame that is larger than one."""

FIRST: Final = 32 * 1024
"""Bytes of a new window."""


class Window:
    """What was read of a frame that is not whole, and perhaps of what follows it.

    It is at most twice as large as the data received, or `FIRST` or `SIZE`, regardless of the announced size.

    Attributes:
        view: All of the buffer.
        begin: Where the frame begins.
        end: Up to where it is filled.
        needed: Where the frame will end.
    """

    __slots__ = ("begin", "end", "needed", "view")

    def __init__(self) -> None:
        self.view = memoryview(bytearray(FIRST))
        self.begin = self.end = self.needed = 0

    def hold(self, data: bytes | memoryview, needed: int) -> None:
        """Take over the beginning of a frame of `needed` bytes."""
        self.begin, self.end, self.needed = 0, len(data), needed
        if len(data) > len(self.view):
            self.view = memoryview(bytearray(2 * len(data)))
        self.view[: len(data)] = data

    def keep_from(self, position: int, needed: int) -> None:
        """Continue with the frame at `position`."""
        self.begin, self.needed = position, position + needed
        filled = self.end - position
        if len(self.view) > max(SIZE, 2 * filled) or len(self.view) < self.end + ROOM:
            self._move_to_front(max(SIZE, 2 * filled))

    def room(self, least: int) -> memoryview:
        """Return where to read to: `least` bytes, and for less not beyond `SIZE`, or `ROOM` behind a larger frame."""
        filled = self.end - self.begin
        if len(self.view) < self.end + max(least, min(filled, ROOM)):
            self._move_to_front(max(filled + least, min(2 * filled, self.needed - self.begin + ROOM)))
        return self.view[self.end : max(SIZE, self.needed + ROOM, self.end + least)]

    def _move_to_front(self, size: int) -> None:
        """Make room behind the frame, in a buffer of `size` bytes, or of `SIZE` if it is so large already."""
        kept, filled = self.view[self.begin : self.end], self.end - self.begin
        if not size <= len(self.view) <= max(size, SIZE):
            self.view = memoryview(bytearray(size))
        self.view[:filled] = kept
        self.begin, self.end, self.needed = 0, filled, self.needed - self.begin


class _Spare(threading.local):
    def __init__(self) -> None:
        self.window: Window | None = None


_spare: Final = _Spare()


def borrow() -> Window:
    """Return a window; the one that was given back last, if there is one."""
    window, _spare.window = _spare.window, None
    return Window() if window is None else window


def give_back(window: Window) -> None:
    """Release `window`."""
    if len(window.view) <= SIZE:
        _spare.window = window
