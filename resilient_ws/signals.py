"""Signals that end a program close its client first."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Callable, Sequence


class ClosingSignals:
    """While it is entered, signals call a function instead of ending the program.

    Only in the main thread, and only where the handler is the default one, which comes back afterwards.

    Args:
        signals: Which ones.
        received: What to call, on the event loop.
    """

    def __init__(self, signals: Sequence[signal.Signals], received: Callable[[], None]) -> None:
        self._signals = signals
        self._received = received
        self._taken: list[signal.Signals] = []

    def __enter__(self) -> None:
        if threading.current_thread() is not threading.main_thread():
            return
        loop = asyncio.get_running_loop()
        for number in self._signals:
            if signal.getsignal(number) not in {signal.SIG_DFL, signal.default_int_handler}:
                continue
            try:
                loop.add_signal_handler(number, self._received)
            except (NotImplementedError, RuntimeError, ValueError):
                continue  # this loop or platform has no signal handlers
            self._taken.append(number)

    def __exit__(self, *_: object) -> None:
        loop = asyncio.get_running_loop()
        for number in self._taken:
            loop.remove_signal_handler(number)
