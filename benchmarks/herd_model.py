"""Many clients lose one server in the same instant; it comes back, and takes so many connections a second.

Each client is followed by itself: when it dials next is a number, and each step of time takes those that are due.
"""

from __future__ import annotations

from typing import Final

import attrs
import numpy as np
from numpy.typing import NDArray

from benchmarks.herd_formulas import Formula, Numbers

Counts = NDArray[np.int64]

STEP: Final = 0.05
"""Seconds: a wait that ends in the step in which it began ends in the next one instead."""

_PER_SECOND: Final = round(1 / STEP)
_NEVER: Final = np.iinfo(np.int32).max


@attrs.frozen(kw_only=True)
class Server:
    """The other side.

    Attributes:
        down: Seconds from the loss until it listens again; every attempt before is refused at once.
        capacity: Handshakes it finishes per second.
        backlog: Connections that may wait to be accepted; one more is refused at once.
        open_timeout: Seconds after which a client gives an attempt up that still waits there; the server serves it
            all the same.
    """

    down: float = 30.0
    capacity: float = 20_000.0
    backlog: int = 4096
    open_timeout: float = 10.0


@attrs.define(kw_only=True)
class Outcome:
    """What became of one fleet.

    Attributes:
        down: As in `Server`.
        attempts: How many began in each step.
        back_at: When each client was back, in seconds from the loss; infinite for one that never was.
        while_down: Attempts while nobody listened.
        refused: Attempts that found the backlog full.
        timed_out: Attempts given up while they waited in the backlog.
        gave_up: Clients that stopped trying.
    """

    down: float
    attempts: Counts
    back_at: Numbers
    while_down: int = 0
    refused: int = 0
    timed_out: int = 0
    gave_up: int = 0

    def until_back(self, share: float) -> float:
        """Seconds from the loss until this share of the clients is back; infinite if it never is."""
        rank = max(0, int(np.ceil(share * len(self.back_at))) - 1)
        return float(np.partition(self.back_at, rank)[rank])

    def peak(self, *, since: float = 0.0, within: float = 1.0) -> int:
        """The most attempts in any time of `within` seconds that begins `since` or later."""
        width = round(within / STEP)
        counted = self.attempts[round(since / STEP) :]
        total = np.concatenate([[0], np.cumsum(np.append(counted, np.zeros(width, np.int64)))])
        return int((total[width:] - total[:-width]).max())

    def per_second(self) -> Counts:
        """Attempts in each whole second from the loss."""
        whole = np.append(self.attempts, np.zeros(-len(self.attempts) % _PER_SECOND, np.int64))
        return whole.reshape(-1, _PER_SECOND).sum(axis=1)


class Fleet:
    """The clients of one simulation.

    Args:
        formula: Their policy.
        clients: How many.
        seed: Of what they draw.
    """

    def __init__(self, formula: Formula, clients: int, seed: int) -> None:
        self._formula = formula
        self._random = np.random.default_rng(seed)
        self._failures = np.zeros(clients, np.int32)
        self._next_at = np.zeros(clients)
        self._next_step = np.full(clients, _NEVER, np.int32)
        self.gave_up = 0

    def due(self, step: int) -> tuple[Counts, Numbers]:
        """Returns who dials in this step, and when, the earliest first."""
        who = np.flatnonzero(self._next_step == step)
        when = self._next_at[who]
        order = np.argsort(when, kind="stable")
        who = who[order]
        self._next_step[who] = _NEVER
        return who, when[order]

    def waiting(self) -> bool:
        """Whether anybody will dial."""
        return bool((self._next_step != _NEVER).any())

    def fail(self, who: Counts, dialed_at: Numbers, failed_at: Numbers, step: int) -> None:
        """The attempts of `who` have failed, or they have lost their connection: they wait."""
        if not len(who):
            return
        self._failures[who] += 1
        counts = self._failures[who]
        for number in np.flatnonzero(np.bincount(counts)):
            chosen = counts == number
            some = who[chosen]
            waits = self._formula.waits(int(number), self._random.random(len(some)))
            if waits is None:
                self.gave_up += len(some)
                continue
            when = failed_at[chosen] + waits
            if self._formula.from_dial:
                when = np.maximum(failed_at[chosen], dialed_at[chosen] + waits)
            self._next_at[some] = when
            self._next_step[some] = np.maximum((when / STEP).astype(np.int32), step + 1)


def simulate(
    formula: Formula, clients: int, server: Server, *, seed: int = 1, horizon: float = 600.0
) -> Outcome:
    """Follows the clients until all are back or have given up, or for `horizon` seconds from the loss."""
    steps = round(horizon / STEP)
    fleet = Fleet(formula, clients, seed)
    out = Outcome(down=server.down, attempts=np.zeros(steps, np.int64), back_at=np.full(clients, np.inf))
    lost = np.zeros(clients)
    fleet.fail(np.arange(clients), lost, lost, -1)
    waiting = 0.0  # in the backlog
    served = server.capacity * STEP
    for step in range(steps):
        if step % _PER_SECOND == 0 and not fleet.waiting():
            break
        who, when = fleet.due(step)
        if not len(who):
            waiting = max(0.0, waiting - served)
            continue
        out.attempts[step] = len(who)
        begin = step * STEP
        if begin < server.down - STEP / 2:
            out.while_down += len(who)
            fleet.fail(who, when, when, step)
            continue
        admitted = min(len(who), max(0, int(server.backlog + served - waiting)))
        taken = who[:admitted]
        done_at = np.maximum(when[:admitted], begin + (waiting + 1 + np.arange(admitted)) / server.capacity)
        in_time = done_at - when[:admitted] <= server.open_timeout
        out.back_at[taken[in_time]] = done_at[in_time]
        late_at = when[:admitted][~in_time]
        out.timed_out += len(late_at)
        out.refused += len(who) - admitted
        waiting = max(0.0, waiting + admitted - served)
        fleet.fail(taken[~in_time], late_at, late_at + server.open_timeout, step)
        fleet.fail(who[admitted:], when[admitted:], when[admitted:], step)
    out.gave_up = fleet.gave_up
    return out
