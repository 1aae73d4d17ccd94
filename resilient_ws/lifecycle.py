"""The life of a client as a table: which fact leads from which state to which.

Theory of operation. `TRANSITIONS` is all there is: a fact that is not listed for a state cannot happen in it, and
`Lifecycle.apply` refuses it. `docs/generate.py` draws the diagram in `docs/architecture.md` from the same table.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from typing import Final

from resilient_ws.events import State


class Fact(enum.StrEnum):
    """What can happen to a client."""

    STARTED = "start()"
    OPENED = "handshake, setup and subscriptions done"
    FAILED = "the attempt failed"
    LOST = "the connection ended"
    DIALED = "the backoff is over"
    CLOSE_ASKED = "close()"
    ENDED = "nothing is left to do"


TRANSITIONS: Final[Mapping[State, Mapping[Fact, State]]] = {
    State.IDLE: {
        Fact.STARTED: State.CONNECTING,
        Fact.CLOSE_ASKED: State.CLOSING,
    },
    State.CONNECTING: {
        Fact.OPENED: State.OPEN,
        Fact.FAILED: State.BACKOFF,
        Fact.CLOSE_ASKED: State.CLOSING,
    },
    State.OPEN: {
        Fact.LOST: State.BACKOFF,
        Fact.CLOSE_ASKED: State.CLOSING,
    },
    State.BACKOFF: {
        Fact.DIALED: State.CONNECTING,
        Fact.CLOSE_ASKED: State.CLOSING,
        Fact.ENDED: State.CLOSED,
    },
    State.CLOSING: {
        Fact.ENDED: State.CLOSED,
    },
    State.CLOSED: {},
}


class Lifecycle:
    """Where one client is in that table; the only place that writes its state.

    Args:
        changed: Called with the old and the new state after each step.
    """

    __slots__ = ("_changed", "_state")

    def __init__(self, changed: Callable[[State, State], None]) -> None:
        self._state = State.IDLE
        self._changed = changed

    @property
    def state(self) -> State:
        """The state now."""
        return self._state

    @property
    def is_over(self) -> bool:
        """Whether nothing more is accepted."""
        return self._state is State.CLOSING or self._state is State.CLOSED

    def apply(self, fact: Fact) -> State:
        """Takes the step that belongs to `fact` and returns the new state.

        Raises:
            RuntimeError: The table has no such step; a defect of this package.
        """
        old = self._state
        new = TRANSITIONS[old].get(fact)
        if new is None:
            raise RuntimeError(f"{fact.name} cannot happen in {old.name}")
        self._state = new
        self._changed(old, new)
        return new
