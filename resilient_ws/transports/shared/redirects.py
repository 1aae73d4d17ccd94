"""Follows redirects for both transports: at most five, and headers stay with their origin."""

from __future__ import annotations

import itertools
from collections.abc import Awaitable, Callable, Mapping

import attrs
from multidict import CIMultiDict

from resilient_ws.api.endpoints import Endpoint
from resilient_ws.api.errors import HandshakeRejected
from resilient_ws.transports.seam import Link
from resilient_ws.transports.shared.handshake import MAX_REDIRECTS, redirect, same_origin

Dial = Callable[[Endpoint, CIMultiDict[str]], Awaitable[Link]]
Elsewhere = Callable[[Endpoint], Awaitable[None]]


class Redirected(Exception):  # noqa: N818 - a turn of the dialing loop, not an error
    """The answer to a handshake points elsewhere."""

    def __init__(self, location: str, status: int, headers: Mapping[str, str]) -> None:
        super().__init__("redirected")
        self.location = location
        self.status = status
        self.headers = headers


async def follow(
    endpoint: Endpoint, headers: CIMultiDict[str], dial: Dial, elsewhere: Elsewhere | None = None
) -> Link:
    """Dial, and dial where the answer points to.

    Args:
        endpoint: Where to begin.
        headers: What is sent besides the handshake's own.
        dial: Opens one connection, or raises `Redirected`.
        elsewhere: Awaited before another origin is dialed; `None` = nothing is.

    Raises:
        HandshakeRejected: There are too many redirects, or one leads where none may lead.
    """
    for redirects in itertools.count():
        try:
            return await dial(endpoint, headers)
        except Redirected as caught:
            turn = caught
        if redirects == MAX_REDIRECTS:
            raise HandshakeRejected(
                f"the server redirected more than {MAX_REDIRECTS} times",
                status=turn.status,
                headers=turn.headers,
                retryable=False,
            )
        target = redirect(endpoint.url, turn.location, turn.status, turn.headers)
        if same_origin(endpoint.url, target):
            endpoint = attrs.evolve(endpoint, url=target)
        else:
            # Only the new URL is kept: headers and subprotocols of the endpoint may be secrets.
            headers = CIMultiDict[str]()
            endpoint = Endpoint(target)
            if elsewhere is not None:
                await elsewhere(endpoint)
    raise AssertionError("unreachable")
