"""Checks once whether the installed aiohttp supports the direct link.

Where anything looks different, `resilient_ws.transports.aiohttp.link` does everything through the public API, which
is slower. `RESILIENT_WS_PLAIN=1` in the environment asks for that.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import logging
import os
from typing import Any, cast

from aiohttp import ClientWebSocketResponse
from aiohttp.client_proto import ResponseHandler

from resilient_ws.transports.aiohttp.response import Front, forget_handshake
from resilient_ws.transports.shared import outlet as aiohttp_outlet
from resilient_ws.transports.shared.inflate import Inflater, Packer

log = logging.getLogger("resilient_ws")


@functools.cache
def is_supported() -> bool:
    """Return whether this aiohttp does what this module relies on; logged once where it does not."""
    if os.environ.get("RESILIENT_WS_PLAIN"):
        return False
    try:
        supported = _try_parts()
    except Exception as error:  # the fallback works with any aiohttp
        log.debug("the direct way was tried", exc_info=error)
        supported = False
    if not supported:
        log.info("this aiohttp is read through its public API, which is slower")
    return supported


def _try_parts() -> bool:
    return (
        isinstance(inspect.getattr_static(ClientWebSocketResponse, "compress"), property)
        and _try_front()
        and _try_unpacking()
        and _try_packing()
        and aiohttp_outlet.is_supported()
    )


def _try_front() -> bool:
    """Return whether aiohttp gives all that is read to what it takes for its parser."""
    front = Front(1000, compresses=False)
    front.intake.direct = True
    protocol = ResponseHandler(asyncio.get_running_loop())
    protocol.set_parser(cast("Any", front), cast("Any", front))
    protocol.data_received(b"\x81\x03one\x01\x01t\x80\x02wo\x81\x05th")
    protocol.data_received(b"ree\x83\x00\x81\x04none")
    return front.intake.batch == ["one", "two", "three"] and front.cutter.over and _try_loss()


def _try_unpacking() -> bool:
    """Return whether zlib's stream is found, also behind one that has ended."""
    front = Front(1000, compresses=True)
    front.intake.direct = True
    feed = front.cutter.feed
    one, final = b"\xc1\x05\xca\xcfK\x05\x00", b"\xc2\x06+)\xcf\x07\x00\x00"
    feed(one + final + one)
    feed(b"\x42\x02*)\x80\x03\xcf\x07\x00")
    feed(b"\x41\x01\x07\x80\x00")
    return front.intake.batch == ["one", b"two", "one", b"two"] and front.cutter.over


def _leave_unmasked(*_: object) -> None:
    """Mask nothing."""


def _try_packing() -> bool:
    """Return whether what the compressor makes can be unpacked."""
    made: list[bytes] = []
    list(Packer(15, forgets=False).steps(["x" * 100, ""], _leave_unmasked, made.append))
    size = made[0][1] & 0x7F
    return Inflater(1000).message(made[0][6 : 6 + size]) == b"x" * 100


def _try_loss() -> bool:
    """Return whether the protocol can do without what only the handshake needed, and still tells the parser of a loss."""
    front = Front(1000, compresses=False)
    protocol = ResponseHandler(asyncio.get_running_loop())
    forget_handshake(protocol, front)
    protocol.connection_lost(None)
    return front.ended
