"""Whether this aiohttp has what the direct way needs: tried once, before the first connection.

Where anything looks different, `resilient_ws.transports.aiohttp_link` does everything through the public API, which
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
from aiohttp.http_websocket import WebSocketReader

from resilient_ws.transports import aiohttp_outlet
from resilient_ws.transports.aiohttp_deflate import DeflateQueue
from resilient_ws.transports.aiohttp_queue import DirectQueue
from resilient_ws.transports.aiohttp_response import Front, forget_handshake

log = logging.getLogger("resilient_ws")


class _Nobody:
    """Stands for protocol and receiver while the parser is tried."""

    _reading_paused = False

    def __init__(self) -> None:
        self.heard: list[object] = []

    def take_frame(self, frame: Any) -> None:
        self.heard.append((int(frame[0]), bytes(frame[1])))

    def pause_reading(self) -> None:
        self.heard.append("paused")

    def resume_reading(self) -> None:
        self.heard.append("resumed")


@functools.cache
def is_supported() -> bool:
    """Whether the parser of this aiohttp does what this module relies on; logged once where it does not."""
    if os.environ.get("RESILIENT_WS_PLAIN"):
        return False
    try:
        supported = _try_parser()
    except Exception as error:  # whatever is different, the plain way works
        log.debug("the direct way was tried", exc_info=error)
        supported = False
    if not supported:
        log.info("this aiohttp is read through its public API, which is slower")
    return supported


def _try_parser() -> bool:
    nobody = _Nobody()
    queue = DirectQueue(nobody)
    queue.get_ready()
    parser = WebSocketReader(queue, 1001, compress=False, decode_text=True)
    parser.feed_data(b"\x81\x05early\x89\x01p")  # held: there is no link yet
    held, ping = queue.take(), queue.take()
    queue.link, queue.direct = cast("Any", nobody), True
    parser.feed_data(b"\x81\x02hi\x82")
    parser.feed_data(b"\x01b\x8a\x01p\x01\x01a\x80\x01b")
    told, size = list(queue.batch), queue.bytes
    queue.direct = False
    parser.feed_data((b"\x82\x7e\x03\xe8" + bytes(1000)) * 1000)  # more than is held: the parser must stop
    stalled = queue.is_full and queue.held < 1000
    taken = 0
    while queue.take() is not None:
        taken += 1
    return (
        held is not None
        and held[1] == "early"
        and ping is not None
        and ping[1] == b"p"
        and (told, size) == (["hi", b"b", "ab"], 5)
        and nobody.heard[:2] == [(10, b"p"), "paused"]
        and stalled
        and taken == 1000
        and isinstance(inspect.getattr_static(ClientWebSocketResponse, "compress"), property)
        and _try_front()
        and _try_unpacking()
        and aiohttp_outlet.is_supported()
    )


def _try_front() -> bool:
    """Whether aiohttp gives all that is read to what it takes for its parser, and whether the parser says when it fails."""
    queue = DirectQueue(_Nobody())
    queue.direct = True
    front = Front(queue, 1000)
    protocol = ResponseHandler(asyncio.get_running_loop())
    protocol.set_parser(front, queue)
    protocol.data_received(b"\x81\x03one\x01\x01t\x80\x02wo\x81\x05th")
    protocol.data_received(b"ree\x83\x00\x81\x04none")
    return queue.batch == ["one", "two", "three"] and queue.ended is not None and _try_loss()


def _try_unpacking() -> bool:
    """Whether zlib's stream is found, also behind one that has ended, and what is raised behind the parser is its error."""
    queue = DeflateQueue(_Nobody(), 1000)
    queue.direct = True
    feed = Front(queue, 1000).cutter.feed
    one, final = b"\xc1\x05\xca\xcfK\x05\x00", b"\xc2\x06+)\xcf\x07\x00\x00"
    feed(one + final + one)
    feed(b"\x42\x02*)\x80\x03\xcf\x07\x00")
    feed(b"\x41\x01\x07\x80\x00")
    return queue.batch == ["one", b"two", "one", b"two"] and queue.ended is not None


def _try_loss() -> bool:
    """Whether the protocol can do without what only the handshake needed, and still tells the parser of a loss."""
    queue = DirectQueue(_Nobody())
    protocol = ResponseHandler(asyncio.get_running_loop())
    forget_handshake(protocol, Front(queue, 1000), queue)
    protocol.connection_lost(None)
    return queue.ended is not None
