"""The transports, which move frames with aiohttp or picows; no other package imports these libraries."""

from __future__ import annotations

from resilient_ws.transports.options import TransportOptions
from resilient_ws.transports.seam import Transport


def make_transport(name: str, options: TransportOptions) -> Transport:
    """Return the transport called `name`, `"aiohttp"` or `"picows"`.

    Raises:
        ValueError: It cannot honour an option, or its extra is not installed.
        TypeError: An option has the wrong type.
    """
    if name == "picows":
        try:
            from resilient_ws.transports.picows.transport import PicowsTransport
        except ImportError as error:
            raise ValueError(
                f"transport='picows' needs the extra: pip install 'resilient-ws[fast]' ({error})"
            ) from error
        return PicowsTransport(options)
    from resilient_ws.transports.aiohttp.transport import AiohttpTransport

    return AiohttpTransport(options)
