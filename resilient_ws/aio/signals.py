"""Signal handlers that close a client before the program ends."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Callable, Sequence
from types import FrameType

_Handler = Callable[[int, FrameType | None], object] | int | None


class ClosingSignals:
    """While it is entered, the first signal calls a function instead of ending the program.

    Only in the main thread, and only where the handler is the default one, of Python or of `asyncio.run`. Several may be
    entered, and the signal calls the functions of all. The earlier handlers come back with that signal, so that a
    second one does what it would do without this, and at the latest when the last one that was entered is left.

    Args:
        signals: Which ones.
        received: What to call, on the event loop.

    Raises:
        TypeError, ValueError: One of `signals` is not a signal.
    """

    def __init__(self, signals: Sequence[signal.Signals], received: Callable[[], None]) -> None:
        self._signals = _checked(signals)
        self._received = received
        self._joined: list[_Taken] = []

    def __enter__(self) -> None:
        if threading.current_thread() is not threading.main_thread():
            return
        loop = asyncio.get_running_loop()
        for number in self._signals:
            taken = _taken.get(number)
            if taken is None or taken.loop is not loop:
                taken = _take(number, loop)
            if taken is not None:
                taken.received.append(self._received)
                self._joined.append(taken)

    def __exit__(self, *_: object) -> None:
        for taken in self._joined:
            taken.received.remove(self._received)
            if not taken.received:
                taken.give_back()
        self._joined.clear()


class _Taken:
    """A signal that calls functions in place of its handler.

    Attributes:
        loop: Where they are called.
        received: Which ones.
    """

    def __init__(self, number: signal.Signals, loop: asyncio.AbstractEventLoop, before: _Handler) -> None:
        self.loop = loop
        self.received: list[Callable[[], None]] = []
        self._number = number
        self._before = before
        self._is_given_back = False

    def call(self) -> None:
        """Handle the first signal: restore all earlier handlers, so that the next one has its usual effect."""
        for taken in tuple(_taken.values()):
            if taken.loop is self.loop:
                taken.give_back()
        for received in tuple(self.received):
            received()

    def give_back(self) -> None:
        """Restore the earlier handler. A second call does nothing."""
        if self._is_given_back:
            return
        self._is_given_back = True
        del _taken[self._number]
        self.loop.remove_signal_handler(self._number)
        signal.signal(self._number, self._before)


_taken: dict[signal.Signals, _Taken] = {}


def _take(number: signal.Signals, loop: asyncio.AbstractEventLoop) -> _Taken | None:
    """Take the signal if it has its default handler; return `None` otherwise."""
    before = signal.getsignal(number)
    if not _is_default(before):
        return None
    taken = _Taken(number, loop, before)
    try:
        loop.add_signal_handler(number, taken.call)
    except (NotImplementedError, RuntimeError, ValueError):
        return None  # this loop or platform has no signal handlers
    _taken[number] = taken
    return taken


def _checked(signals: Sequence[signal.Signals]) -> tuple[signal.Signals, ...]:
    try:
        return tuple(signal.Signals(number) for number in signals)
    except TypeError:
        raise TypeError(
            f"signals must be a sequence of signal.Signals, got {type(signals).__name__}"
        ) from None
    except ValueError as error:
        raise ValueError(f"signals must be a sequence of signal.Signals: {error}") from None


def _is_default(handler: _Handler) -> bool:
    """Return whether this is a default handler; `asyncio.run` replaces Python's for SIGINT with its own."""
    if handler is signal.SIG_DFL or handler is signal.default_int_handler:
        return True
    return isinstance(getattr(getattr(handler, "func", None), "__self__", None), asyncio.Runner)
