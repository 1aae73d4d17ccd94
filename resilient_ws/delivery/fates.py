"""What became of messages: their fates are told in order, and the outbox file learns of them first.

A message stays in the file until the program has heard of its fate, so that a kill cannot hide it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

from resilient_ws.api.errors import DeliveryUncertain
from resilient_ws.api.events import Fate
from resilient_ws.core.delivery import Entry
from resilient_ws.delivery.confirmations import Confirmations, fail

if TYPE_CHECKING:
    from resilient_ws.delivery.durable.store import Persistence

UNHEARD: Final = 10_000
"""Messages that stay in the file until the program has heard of their fates."""


class Fates:
    """Tells the fates of one client's messages.

    Args:
        store: Keeps messages in a file; `None` = in memory only.
        confirmations: The calls that must not return before the fates are told.
        tell: Called with an entry and its fate.
        after: Calls a function when the program has heard of the fates told until now.
        progress: Called when calls that wait for the end of messages may look again.

    Attributes:
        untold: Messages whose fate the caller is about to tell; they are kept until `told`.
    """

    __slots__ = (
        "_after",
        "_confirmations",
        "_decided",
        "_deciding",
        "_hearing",
        "_progress",
        "_store",
        "_tell",
        "_told",
        "untold",
    )

    def __init__(
        self,
        store: Persistence | None,
        confirmations: Confirmations,
        *,
        tell: Callable[[Entry, Fate], None],
        after: Callable[[Callable[[], None]], None],
        progress: Callable[[], None],
    ) -> None:
        self._store = store
        self._confirmations = confirmations
        self._tell = tell
        self._after = after
        self._progress = progress
        self.untold: list[Entry] = []
        # Fates that the file must know before they are told; `_deciding` is the batch of this turn of the loop.
        self._decided: list[list[tuple[Entry, Fate]]] = []
        self._deciding: list[tuple[Entry, Fate]] | None = None
        self._told: list[int] = []  # records whose fate was told since `_hearing` began
        self._hearing: list[int] | None = None  # records whose fate the program is about to hear

    def settle(self, entry: Entry, fate: Fate) -> None:
        """Fail the call that waits for a message that was never written, and tell its fate."""
        fail((entry,), lambda: DeliveryUncertain(f"the message is {fate.value}: it was never written"))
        if self._store is None or entry.record is None:
            self._tell(entry, fate)
            return
        self._store.decide(entry, fate.value)
        if self._deciding is None:
            self._deciding = []
            self._decided.append(self._deciding)
            self._confirmations.hold("decisions", held=True)
            asyncio.get_running_loop().call_soon(self._store_decisions)
        self._deciding.append((entry, fate))

    def tell_decided(self) -> None:
        """Tell the decided fates now: the client ends."""
        for batch in self._decided:
            self._tell_decided(batch)

    def told(self) -> None:
        """Forget the fates in `untold`, which have been reported."""
        self._forget_told(self.untold)
        self.untold = []
        self._confirmations.hold("losses", held=False)
        self._progress()

    def _store_decisions(self) -> None:
        """Tell the fates decided in this turn when they are in the file: told before, a later client could act otherwise."""
        batch, self._deciding = self._deciding, None
        if self._store is not None and batch is not None:
            self._store.when_stored(lambda: self._tell_decided(batch))

    def _tell_decided(self, batch: list[tuple[Entry, Fate]]) -> None:
        if not any(batch is other for other in self._decided):
            return  # told when the client ended
        self._decided = [other for other in self._decided if other is not batch]
        for entry, fate in batch:
            self._tell(entry, fate)
        self._forget_told([entry for entry, _ in batch])
        if not self._decided:
            self._confirmations.hold("decisions", held=False)
            self._progress()

    def _forget_told(self, entries: Sequence[Entry]) -> None:
        """Forget messages whose fate was told, once the program has heard it: else a kill might hide it for ever."""
        if self._store is None:
            return
        self._told += [entry.record for entry in entries if entry.record is not None]
        spare = len(self._told) - UNHEARD
        if spare > 0:  # callbacks that take no events; as many of those wait at most
            self._store.forget_records(self._told[:spare])
            del self._told[:spare]
        self._hear()

    def _hear(self) -> None:
        if self._hearing is None and self._told:
            self._hearing, self._told = self._told, []
            self._after(self._heard)

    def _heard(self) -> None:
        if self._store is not None and self._hearing:
            self._store.forget_records(self._hearing)
        self._hearing = None
        self._hear()
