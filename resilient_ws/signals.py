"""Signals that end a program close its client first."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Callable, Sequence
from types import FrameType

_Handler = Callable[[int, FrameType | None], object] | int | None


class ClosingSignals:
    """While it is entered, signals call a function instead of ending the program.

    Only in the main thread, and only where the handler is the default one, of Python or of `asyncio.run`, which comes
    back afterwards.

    Args:
        signals: Which ones.
        received: What to call, on the event loop.

    Raises:
        TypeError, ValueError: One of `signals` is not a signal.
    """

    def __init__(self, signals: Sequence[signal.Signals], received: Callable[[], None]) -> None:
        self._signals = _checked(signals)
        self._received = received
        self._taken: dict[signal.Signals, _Handler] = {}

    def __enter__(self) -> None:
        if threading.current_thread() is not threading.main_thread():
            return
        loop = asyncio.get_running_loop()
        for number in self._signals:
            before = signal.getsignal(number)
            if not _is_default(before):
                continue
            try:
                loop.add_signal_handler(number, self._received)
            except (NotImplementedError, RuntimeError, ValueError):
                continue  # this loop or platform has no signal handlers
            self._taken[number] = before

    def __exit__(self, *_: object) -> None:
        loop = asyncio.get_running_loop()
        for number, before in self._taken.items():
            loop.remove_signal_handler(number)
            signal.signal(number, before)


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
    """Whether nobody has chosen this handler; `asyncio.run` puts one of its own in the place of Python's for SIGINT."""
    if handler in {signal.SIG_DFL, signal.default_int_handler}:
        return True
    return isinstance(getattr(getattr(handler, "func", None), "__self__", None), asyncio.Runner)
