"""The API as a program calls it; checked by the type checkers, never run."""

from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import assert_type

from resilient_ws import (
    Attempt,
    CloseEvent,
    Connection,
    Delta,
    Endpoint,
    Event,
    Failure,
    Gap,
    Heartbeat,
    Inbox,
    Lost,
    Outbox,
    ReconnectPolicy,
    Retry,
    Snapshot,
    SnapshotThenDeltas,
    Stale,
    State,
    Stats,
    Stop,
    WebSocketClient,
)


async def login(conn: Connection) -> None:
    """A setup hook."""
    await conn.send('{"op": "auth"}')
    assert_type(await conn.recv(), str | bytes)
    conn.heartbeat(interval=timedelta(seconds=30))


async def address(attempt: Attempt) -> Endpoint:
    """A URL provider."""
    return Endpoint(f"wss://example.org/{attempt.number}", {"Authorization": "..."})


def decide(failure: Failure) -> Retry | Stop | None:
    """A rule of the program."""
    return Stop("banned") if failure.status == 403 else None


async def program() -> None:
    """Everything a program does with a client."""
    client = WebSocketClient(
        address,
        setup=login,
        heartbeat=Heartbeat.app("ping", lambda message: message == "pong", timedelta(seconds=5)),
        reconnect=ReconnectPolicy(max_delay=timedelta(minutes=1), decide=decide),
        outbox=Outbox(overflow="wait", on_uncertain="resend", path=Path("outbox.db"), durability="eventual"),
        inbox=Inbox(overflow="drop_oldest"),
        on_close=lambda event: print(event.code),
    )

    @client.on_close
    def closed(event: CloseEvent) -> None:
        assert_type(event.was_clean, bool)

    @client.on_message
    async def came(message: str | bytes) -> None:
        print(len(message))

    @client.on_message
    def text(message: str) -> None:
        print(message)

    client.on_message(lambda message: print(len(message)))

    @client.on_message  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    def number(message: int) -> None:
        print(message)

    closed.remove()
    came.remove()
    async with client as same:
        assert_type(same, WebSocketClient)
        await client.send(bytearray(b"x"), ttl=timedelta(seconds=1))
        await client.send_json({"op": "x"}, confirm=True)
        await client.flush(1)
        assert_type(await client.request("x", lambda message: message == "y", 1), str | bytes)
        client.subscribe("key", lambda: "x", unsubscribe=b"y")
        assert_type(client.state, State)
        assert_type(client.stats, Stats)
        assert_type(client.latency, float | None)
        gaps: AsyncIterator[str | bytes | Gap] = client.with_gaps()
        losses = client.with_gaps(lost=True)
        assert_type(losses.is_current, bool)
        async for item in losses:
            assert_type(item, str | bytes | Gap | Lost)
        events: AsyncIterator[Event] = client.events()
        async for message in client:
            assert_type(message, str | bytes)
        async for batch in client.batches():
            assert_type(batch, list[str | bytes])
        print(gaps, events)
    await client.run()


async def fetch_book() -> dict[str, int]:
    """Fetches a snapshot."""
    return {"seq": 3}


def as_change(message: str | bytes) -> list[int] | None:
    """Makes a delta of a message."""
    return [len(message)] if message else None


async def book(client: WebSocketClient) -> None:
    """A state that is seeded anew at each gap."""
    changes = SnapshotThenDeltas(
        client,
        fetch_snapshot=fetch_book,
        parse=as_change,
        sequence=lambda change: (change[0], change[-1]),
        snapshot_sequence=lambda book: book["seq"],
        retry_delay=timedelta(seconds=1),
    )
    assert_type(changes.is_synced, bool)
    async for item in changes:
        match item:
            case Snapshot(value, sequence):
                assert_type(value, dict[str, int])
                assert_type(sequence, int)
            case Delta(value):
                assert_type(value, list[int])
            case Stale(close):
                assert_type(close, CloseEvent)
            case Gap():
                assert_type(item.surely_lost, bool)
                assert_type(item.cause, BaseException | None)
