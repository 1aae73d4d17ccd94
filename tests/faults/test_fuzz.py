"""Whatever a peer sends, the client ends or goes on by the rules: no foreign exception, no hang, nothing left behind.

`HYPOTHESIS_PROFILE=soak pytest tests/faults/test_fuzz.py --timeout 3600` tries many more examples.
"""

import asyncio
import contextlib
import itertools
import time
import tracemalloc
import zlib
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from resilient_ws import (
    CloseEvent,
    CloseOrigin,
    Inbox,
    OpenEvent,
    ResilientWSError,
    State,
    WebSocketClient,
)
from resilient_ws.runtime import config
from resilient_ws.testing import Opcode, encode_frame
from resilient_ws.testing.server.wire import RSV1
from resilient_ws.transports import make_transport
from resilient_ws.transports.aiohttp import transport
from resilient_ws.transports.shared.handshake import accept_for
from tests.conftest import left_tasks, left_timers, until
from tests.faults.fuzz_bytes import LAST, MAX_SIZE, deflated, handshake_fields, segments, streams
from tests.faults.fuzz_reference import Ending, Message, Outcome, read_stream

PATIENCE = 5.0
"""Seconds for one example, which takes milliseconds: longer is a hang."""

CLOSE_TIMEOUT = 1.0
ANSWER = (
    "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Accept: {accept}\r\n{more}\r\n"
)
DEFLATE = "Sec-WebSocket-Extensions: permessage-deflate\r\n"
WAYS = pytest.mark.parametrize("way", ["direct", "public", "picows"])
COMPRESSING = pytest.mark.parametrize("way", ["direct", "public"])
TRANSPORTS = pytest.mark.parametrize("way", ["direct", "picows"])  # the handshake of aiohttp is one

Script = Callable[[str], Iterator[bytes]]
"""What the server sends, from the key of the handshake: what is handed to TCP at once, one after the other."""


def run(example: Coroutine[Any, Any, None], way: str = "direct") -> None:
    """Run one example in a loop of its own: nothing foreign is reported to the loop, and nothing is left in it."""
    reported: list[dict[str, Any]] = []

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: reported.append(context))
        async with asyncio.timeout(PATIENCE):
            await example
        await until(lambda: not (left_tasks() or left_timers(loop)))
        assert left_tasks() == []
        assert left_timers(loop) == []

    with taken(way):
        asyncio.run(main())
    assert reported == []


def taken(way: str) -> contextlib.AbstractContextManager[object]:
    """Return the time in which clients are connected this way."""
    if way == "picows":
        return patch.object(config, "make_transport", lambda _, options: make_transport("picows", options))
    if way == "public":
        return patch.object(transport, "is_supported", lambda: False)
    return contextlib.nullcontext()


@contextlib.asynccontextmanager
async def server(script: Script, *, hangs: bool = False) -> AsyncIterator[str]:
    """Serve the script to whoever connects, then end the stream (`hangs`: not before the client does)."""
    busy: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        busy.add(task)
        try:
            request = await reader.readuntil(b"\r\n\r\n")
            key = request.lower().partition(b"sec-websocket-key:")[2].partition(b"\r\n")[0]
            begin = request.lower().index(key)
            rest = asyncio.ensure_future(drain(reader))
            try:
                for piece in script(request[begin : begin + len(key)].strip().decode()):
                    writer.write(piece)
                    await writer.drain()
                    await asyncio.sleep(0)
                if not hangs:
                    writer.write_eof()
            finally:
                await rest
        except (OSError, asyncio.IncompleteReadError):
            pass  # the client has had enough
        finally:
            writer.close()
            busy.discard(task)

    listening = await asyncio.start_server(serve, "127.0.0.1", 0)
    host, port = listening.sockets[0].getsockname()
    try:
        yield f"ws://{host}:{port}"
    finally:
        listening.close()
        if busy:
            await asyncio.wait(busy)
        await listening.wait_closed()


async def drain(reader: asyncio.StreamReader) -> None:
    """Read to the end, whatever it is."""
    with contextlib.suppress(OSError):
        while await reader.read(65536):
            pass


def cut(data: bytes, sizes: list[int]) -> Iterator[bytes]:
    """Yield `data` in pieces of these sizes."""
    begin = 0
    for size in itertools.cycle(sizes):
        if begin >= len(data):
            return
        yield data[begin : begin + size]
        begin += size


async def close_in_time(client: WebSocketClient) -> None:
    """`close()` ends within its bound, whatever came before."""
    since = time.monotonic()
    await client.close()
    assert time.monotonic() - since < CLOSE_TIMEOUT + 0.5
    assert client.state is State.CLOSED


async def receive(url: str, *, paced: bool = False, **options: Any) -> tuple[list[Message], CloseEvent]:
    """Return what a client receives until its connection ends, and the end."""
    client = WebSocketClient(
        url, reconnect=False, close_timeout=CLOSE_TIMEOUT, max_message_size=MAX_SIZE, **options
    )
    closes: list[CloseEvent] = []
    client.on_close(closes.append)
    messages: list[Message] = []
    try:
        client.start()
        await client.ready()
        with contextlib.suppress(ResilientWSError):
            async for message in client:
                messages.append(message)
                if paced:
                    await asyncio.sleep(0)
    finally:
        await close_in_time(client)
    assert [close.final for close in closes] == [True]
    return messages, closes[0]


def assert_ended(outcome: Outcome, close: CloseEvent) -> None:
    """The end is the one that the stream has."""
    if outcome.ending is Ending.CLOSE:
        assert (close.code, close.reason) == (outcome.codes[0], outcome.reason)
        assert (close.origin, close.synthesized) == (CloseOrigin.PEER, False)
    elif outcome.ending is not Ending.LENIENT:
        assert (close.code, close.reason, close.was_clean) == (1006, "", False)
        assert close.synthesized
        assert close.cause is not None
    if outcome.ending is Ending.BROKEN:
        assert close.origin is CloseOrigin.PROTOCOL
        assert close.sent_code in outcome.codes
    elif outcome.ending is Ending.CUT:
        assert close.origin is CloseOrigin.NETWORK


def check_stream(
    way: str, stream: bytes, sizes: list[int] | None = None, *, hangs: bool = False, **options: Any
) -> Outcome:
    """A client makes of the stream what the reference makes of it."""
    deflate = options.get("compression") == "deflate"
    outcome = read_stream(stream, deflate=deflate, max_size=MAX_SIZE, public=way == "public")

    def script(key: str) -> Iterator[bytes]:
        answer = ANSWER.format(accept=accept_for(key), more=DEFLATE if deflate else "").encode()
        yield from cut(answer + stream, sizes or [100_000])

    async def example() -> None:
        async with server(script, hangs=hangs) as url:
            messages, close = await receive(url, **options)
        if outcome.ending is Ending.LENIENT:
            assert messages[: len(outcome.messages)] == outcome.messages
        else:
            assert messages == outcome.messages
        if way == "picows" and outcome.ending is Ending.BROKEN and close.sent_code not in outcome.codes:
            # What comes in one segment with the handshake is parsed by picows: it judges in another order, and whole frames.
            assert close.origin in (CloseOrigin.PROTOCOL, CloseOrigin.NETWORK)
        else:
            assert_ended(outcome, close)

    run(example(), way)
    return outcome


@WAYS
@given(stream=streams(), sizes=segments(), deflate=st.booleans(), room=st.sampled_from([1, 2, 4096]))
@example(stream=b"\x01\x00\x40\x13" + LAST, sizes=[3], deflate=False, room=1)
@example(stream=b"\x98\x03\x00\x00\x81" + LAST, sizes=[3], deflate=False, room=1)
def test_frames(way: str, stream: bytes, sizes: list[int], deflate: bool, room: int) -> None:
    check_stream(
        way,
        stream,
        sizes,
        compression="deflate" if deflate and way != "picows" else None,
        inbox=Inbox(max_messages=room),
        paced=room < 4096,
    )


@COMPRESSING
@pytest.mark.parametrize("data", [b"\xff" * 20, b"\x07", b"\x00\x01"])
def test_what_cannot_be_unpacked_ends_the_connection_at_once(way: str, data: bytes) -> None:
    """Also where the peer keeps the socket open: the parser hears nothing any more."""
    stream = encode_frame(Opcode.TEXT, b"before") + encode_frame(Opcode.BINARY, data, rsv=RSV1) + LAST
    outcome = check_stream(way, stream, compression="deflate", hangs=True)
    assert (outcome.messages, outcome.ending) == (["before"], Ending.BROKEN)


@WAYS
def test_a_breach_is_not_undone_by_the_loss_of_the_socket_while_reading_is_paused(way: str) -> None:
    stream = encode_frame(Opcode.TEXT) * 3 + encode_frame(Opcode.CONTINUATION, fin=False) + LAST
    outcome = check_stream(way, stream, [64], inbox=Inbox(max_messages=2), paced=True)
    assert outcome.ending is Ending.BROKEN


@WAYS
@pytest.mark.parametrize("stream", [b"", encode_frame(Opcode.TEXT, b"x"), LAST], ids=["FIN", "TEXT", "CLOSE"])
def test_what_comes_right_behind_the_handshake_is_told(way: str, stream: bytes) -> None:
    for _ in range(20):  # the loss may come before anybody reads
        check_stream(way, stream)


@WAYS
def test_a_close_that_waits_is_not_undone_by_the_loss_of_the_socket(way: str) -> None:
    stream = encode_frame(Opcode.TEXT) + LAST
    assert check_stream(way, stream, [64], inbox=Inbox(max_messages=1), paced=True).ending is Ending.CLOSE


def check_handshake(way: str, answer: bytes, sizes: list[int], *, opens: bool | None, hangs: bool) -> None:
    """A client opens, or says in our words why it does not."""

    def script(key: str) -> Iterator[bytes]:
        yield from cut(answer.replace(b"ACCEPT", accept_for(key).encode()) + LAST, sizes)

    async def example() -> None:
        opened: list[OpenEvent] = []
        async with server(script, hangs=hangs) as url:
            client = WebSocketClient(url, reconnect=False, open_timeout=0.2, close_timeout=CLOSE_TIMEOUT)
            client.on_open(opened.append)
            try:
                client.start()
                with contextlib.suppress(ResilientWSError):
                    await client.ready()
                    assert [message async for message in client] == ["the last one"]
            finally:
                await close_in_time(client)
        assert len(opened) <= 1
        assert opens is None or bool(opened) is opens
        assert client.explain()

    run(example(), way)


@TRANSPORTS
@given(answer=handshake_fields(), sizes=segments())
def test_handshakes(way: str, answer: tuple[bytes, bool | None], sizes: list[int]) -> None:
    check_handshake(way, answer[0], sizes, opens=answer[1], hangs=False)


@TRANSPORTS
@given(answer=st.binary(max_size=400), sizes=segments(), http=st.booleans())
def test_random_answers(way: str, answer: bytes, sizes: list[int], http: bool) -> None:
    check_handshake(way, (b"HTTP/1.1 " if http else b"") + answer, sizes, opens=False, hangs=False)


@TRANSPORTS
@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"HTTP/1.1 101",
        b"HTTP/1.1 101 x\r\nUpgrade: ",
        b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n" * 20,
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffff\r\nx",
    ],
)
def test_answers_that_do_not_end(way: str, answer: bytes) -> None:
    check_handshake(way, answer, [1_000], opens=False, hangs=True)


def peak_of(run_it: Callable[[], None]) -> int:
    """Return the bytes of Python's memory that were in use at once, beyond those before."""
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        run_it()
        return tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()


MEBIBYTE = 1 << 20
BOMB = zlib.compressobj(9, wbits=-15)
BOMB_BYTES = BOMB.compress(bytes(64 * MEBIBYTE)) + BOMB.flush(zlib.Z_SYNC_FLUSH)


@COMPRESSING
def test_a_bomb_is_not_unpacked(way: str) -> None:
    frame = encode_frame(Opcode.BINARY, BOMB_BYTES[: MAX_SIZE - 1], rsv=RSV1)
    check_bomb(way, frame)  # what is imported on the way does not count
    peak = peak_of(lambda: check_bomb(way, frame))
    assert peak < MEBIBYTE, peak


def check_bomb(way: str, frame: bytes) -> None:
    """It is refused, whatever its true size is."""
    assert check_stream(way, frame, compression="deflate").codes == (1009,)


@COMPRESSING
def test_many_small_bombs_wait_for_a_slow_program(way: str) -> None:
    frames = encode_frame(Opcode.BINARY, deflated(bytes(MAX_SIZE)), rsv=RSV1) * 10_000
    options: dict[str, Any] = {"compression": "deflate", "inbox": Inbox(max_bytes=MEBIBYTE)}

    def script(key: str) -> Iterator[bytes]:
        yield ANSWER.format(accept=accept_for(key), more=DEFLATE).encode()
        yield from cut(frames + LAST, [65536])

    async def example() -> None:
        async with server(script) as url:
            client = WebSocketClient(url, reconnect=False, max_message_size=MAX_SIZE, **options)
            async with client:
                await asyncio.sleep(0.3)  # the program does something else
                assert client.stats.unread < 2 * MEBIBYTE // MAX_SIZE
                assert await client.recv() == bytes(MAX_SIZE)

    assert peak_of(lambda: run(example(), way)) < 8 * MEBIBYTE


@pytest.mark.promise("P6")
@COMPRESSING
def test_closing_does_not_unpack_all_that_a_full_inbox_has_held_back(way: str) -> None:
    frames = encode_frame(Opcode.BINARY, deflated(bytes(MEBIBYTE)), rsv=RSV1) * 200

    def script(key: str) -> Iterator[bytes]:
        yield ANSWER.format(accept=accept_for(key), more=DEFLATE).encode() + frames + LAST

    async def example() -> None:
        async with server(script) as url:
            client = WebSocketClient(
                url,
                reconnect=False,
                compression="deflate",
                max_message_size=MEBIBYTE,
                inbox=Inbox(max_bytes=MEBIBYTE),
            )
            async with client:
                await asyncio.sleep(0.1)  # the program does something else
            stats = client.stats
            assert 1 <= stats.unread <= 4
            assert stats.unread + stats.discarded == stats.received

    assert peak_of(lambda: run(example(), way)) < 12 * MEBIBYTE


@TRANSPORTS
@pytest.mark.parametrize(
    "head, part",
    [
        (b"HTTP/1.1 101 x\r\n", b"X-Y: z\r\n"),
        (b"HTTP/1.1 101 x\r\nX: ", b"x" * 100),
        (b"HTTP/1.1 101 ", b"x" * 100),
        (b"", b"HTTP/1.1 103 x\r\n\r\n"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n"),
        (b"HTTP/1.1 302 Found\r\nLocation: /\r\n\r\n", b"x" * 100),
    ],
    ids=["fields", "field", "status", "informational", "body", "redirect"],
)
def test_a_huge_answer_is_not_held(way: str, head: bytes, part: bytes) -> None:
    answer = head + part * (10 * MEBIBYTE // len(part))
    peak = peak_of(lambda: check_handshake(way, answer, [65536], opens=False, hangs=False))
    assert peak < 2 * len(answer), peak
