"""Gets a dial slot from the governor for one client, waits for it, and releases it.

What is decided is `resilient_ws.core.governor`'s; here it is waited for, and told.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable

from resilient_ws.aio.clocks import boot_time
from resilient_ws.api.endpoints import Endpoint
from resilient_ws.api.events import Failure
from resilient_ws.core.governor import Governor, Hold, Origin, Ticket, request_for_time
from resilient_ws.core.retry import Decision, RetryState
from resilient_ws.runtime.addresses import Addresses


class Turns:
    """The turns of one client, one at a time.

    Args:
        governor: `None` = it is always the client's turn.
        addresses: Where the client dials.
        retry: Draws what the client waits after a hold.
        tell: Notes in the log and the timeline why the client waits.
    """

    __slots__ = (
        "_addresses",
        "_dials",
        "_hurried",
        "_last",
        "_lent",
        "_loop",
        "_retry",
        "_tell",
        "_ticket",
        "_waiter",
    )

    def __init__(
        self, governor: Governor | None, addresses: Addresses, retry: RetryState, tell: Callable[[str], None]
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._dials = governor.dials(self._loop) if governor is not None else None
        self._addresses = addresses
        self._retry = retry
        self._tell = tell
        self._last: Origin | None = None  # of the last turn
        self._ticket: Ticket | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._hurried = False
        self._lent: Ticket | None = None  # the turn that was given back while code of the program runs

    def expected(self, index: int) -> Origin | None:
        """Return the origin of address `index`; that of its last answer where a URL provider has to be asked."""
        endpoint = self._addresses.fixed(index)
        return origin_of(endpoint) if endpoint is not None else self._last

    def held(self, index: int) -> tuple[float, str] | None:
        """Return for how many seconds the origin of address `index` asked to be left alone, and that it did."""
        dials = self._dials
        if dials is None or dials.is_quiet:
            return None
        origin, now = self.expected(index), self._loop.time()
        hold = dials.held(origin, now) if origin is not None else None
        return (hold.until - now, _asked(origin, hold)) if hold is not None else None

    def waiting(self, index: int) -> int:
        """Return how many clients wait for their turn at the origin of address `index`."""
        origin = self.expected(index)
        return self._dials.waiting(origin) if self._dials is not None and origin is not None else 0

    def under_way(self, index: int) -> int:
        """Return how many dials to the origin of address `index` are under way."""
        origin = self.expected(index)
        return self._dials.dialing(origin) if self._dials is not None and origin is not None else 0

    @property
    def time_left(self) -> float | None:
        """Seconds for which a dial may still begin, 0 or more; `None` = no limit."""
        return self._retry.time_left(boot_time()) if self._dials is not None else None

    def ask(self, origin: Origin | None, *, passing: bool = False) -> bool:
        """Ask for this client's turn to dial `origin`; return whether it is there already. `leave` follows.

        A turn at the same origin that was taken before stands; one at another origin is given back.

        Args:
            origin: Where to; `None` = not known yet, so there is nothing to wait for.
            passing: Whether a redirect leads there, so that the next attempt is not expected to go there at once.
        """
        if self._dials is None or origin is None:
            return True
        before = self._ticket
        if before is not None and before.origin == origin:
            return True
        before = before or self._lent
        self.leave()
        first = before is not None and before.origin == origin
        hurried = self._hurried or (before is not None and before.hurried)
        self._hurried = False
        if not passing:
            self._last = origin
        self._ticket = ticket = self._dials.ask(
            origin,
            self._loop.time(),
            wake=self._wake,
            spread=self._retry.spread,
            hurried=hurried,
            first=first,
        )
        if ticket.granted_at is None:
            return False
        self._retry.dialed(boot_time())
        return True

    async def come(self) -> None:
        """Return when the turn that was asked for is there."""
        ticket, dials = self._ticket, self._dials
        assert ticket is not None
        assert dials is not None
        origin = ticket.origin
        told: Hold | None = None
        while ticket.granted_at is None:
            now = self._loop.time()
            hold = dials.held(origin, now)
            if hold is not None and hold is not told and ticket.due is not None and not ticket.hurried:
                told = hold
                self._tell(f"dialing in {ticket.due - now:.2f} s, since {_asked(origin, hold)}")
            await self._pause(ticket.due)
            dials.knock(ticket, self._loop.time())
        self._retry.dialed(boot_time())

    async def _pause(self, until: float | None) -> None:
        self._waiter = self._loop.create_future()
        timer = self._loop.call_at(until, self._wake) if until is not None else None
        try:
            await self._waiter
        finally:
            self._waiter = None
            if timer is not None:
                timer.cancel()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def lend(self) -> None:
        """Give the turn back while code of the program runs, however long it takes; `ask` then has the first place."""
        ticket = self._ticket
        self.leave()
        self._lent = ticket

    def waits_for(self) -> str:
        """Return in words why it is not this client's turn; empty where it is."""
        ticket, dials = self._ticket, self._dials
        if ticket is None or dials is None or ticket.granted_at is not None:
            return ""
        origin, now = ticket.origin, self._loop.time()
        hold = dials.held(origin, now)
        if hold is not None and not ticket.hurried:
            return f"a dial slot for {max(0.0, (ticket.due or now) - now):.1f} s more, since {_asked(origin, hold)}"
        others = dials.waiting(origin) - 1
        return f"a dial slot for {origin}: {dials.dialing(origin)} dials in progress, {others} others waiting"

    def leave(self, *, opened: bool = False) -> None:
        """Release the slot: the dial is over or was given up; `opened` if it succeeded."""
        ticket, self._ticket, self._lent = self._ticket, None, None
        if ticket is not None and self._dials is not None:
            self._dials.leave(ticket, self._loop.time(), opened=opened)

    def hurry(self, *, next_one: bool) -> None:
        """Exempt the pending ticket, or the next one, from a hold of the origin."""
        ticket = self._ticket
        if ticket is None:
            self._hurried = next_one
        elif self._dials is not None and ticket.granted_at is None:
            now = self._loop.time()
            self._dials.hurry(ticket, now, now + self._retry.redial_in(boot_time()))

    def failed(self, failure: Failure, decision: Decision) -> None:
        """Let the other clients know what a failure says about its origin."""
        if self._dials is None or failure.endpoint is None:
            return
        request = request_for_time(failure, math.inf if decision.stop else decision.delay)
        if request is not None:
            seconds, why, asked = request
            self._dials.hold(origin_of(failure.endpoint), self._loop.time(), seconds, why, asked=asked)


def origin_of(endpoint: Endpoint) -> Origin:
    """Return scheme, host and port of an endpoint."""
    return str(endpoint.url.origin())


def _asked(origin: Origin | None, hold: Hold) -> str:
    return f"{origin} has asked for time ({hold.why})"
