"""The libraries that move frames, each behind the same seam; the only place that knows them."""

from __future__ import annotations

from resilient_ws.transports.base import Transport
from resilient_ws.transports.options import TransportOptions


def make_transport(name: str, options: TransportOptions) -> Transport:
    """Returns the transport called `name`, `"aiohttp"` or `"picows"`.

    Raises:
        ValueError: It cannot honour an option, or its extra is not installed.
        TypeError: An option has the wrong type.
    """
    if name == "picows":
        try:
            from resilient_ws.transports.picows import PicowsTransport
        except ImportError as error:
            raise ValueError(
                f"transport='picows' needs the extra: pip install 'resilient-ws[fast]' ({error})"
            ) from error
        return PicowsTransport(options)
    from resilient_ws.transports.aiohttp import AiohttpTransport

    return AiohttpTransport(options)
