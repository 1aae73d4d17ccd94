"""The libraries that move frames, each behind the same seam; the only place that knows them."""

from __future__ import annotations

from resilient_ws.transports.base import Transport
from resilient_ws.transports.options import TransportOptions


def make_transport(name: str, options: TransportOptions) -> Transport:
    """Returns the transport called `name`.

    Raises:
        ValueError: It cannot honour an option, or its extra is not installed.
        TypeError: An option has the wrong type.
    """
    from resilient_ws.transports.aiohttp import AiohttpTransport

    if name != "aiohttp":
        raise ValueError(f"transport must be one that is installed, got {name!r}")
    return AiohttpTransport(options)
