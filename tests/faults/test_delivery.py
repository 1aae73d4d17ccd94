"""Nothing is lost without a word and nothing twice unasked, however the line breaks (P4, P5)."""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator
from itertools import pairwise
from pathlib import Path
from typing import Literal

import pytest

from resilient_ws import (
    Attempt,
    CloseEvent,
    CloseOrigin,
    DeliveryUncertain,
    Fate,
    Gap,
    Heartbeat,
    OpenEvent,
    Outbox,
    State,
    UndeliveredEvent,
    WebSocketClient,
)
from resilient_ws.testing import Accept, ChaosProxy, FaultConnection, FaultServer, report_numbers
from tests.faults.conftest import script
from tests.faults.netns import Network
from tests.faults.watch import HEARTBEAT, QUICK, TICK, TRANSPORTS, Watch, ended, watching

MESSAGES = 10_000
BREAKS = 50
BREAK_TIMEOUT = 20.0
STORMS = [
    pytest.param(seed, way, marks=[] if (seed, way) in {(0, "resend"), (1, "report")} else [pytest.mark.soak])
    for seed in range(20)
    for way in ("resend", "report")
]
"""Twenty seconds each; an even seed is played on aiohttp, an odd one on picows."""


class Line:
    """The ways from a client to its server, and the ways to break them.

    Args:
        network: In which the server runs.
        proxy: The longer way.
        choose: The source of what is random.
    """

    KINDS = (
        *("proxy-rst", "proxy-fin", "proxy-silent", "proxy-cut"),
        *("dropped", "rejected", "stopped", "killed", "reset", "close-code"),
    )

    def __init__(self, network: Network, journal: Path, choose: random.Random) -> None:
        self._network = network
        self._choose = choose
        self.server = network.start_command("numbers", script("run_numbers.py", "--journal", journal))
        self.proxy = ChaosProxy(self.server.url, seed=choose.randrange(2**32))
        self.plan = [kind for kind in self.KINDS for _ in range(BREAKS // len(self.KINDS))]
        choose.shuffle(self.plan)

    async def where(self, attempt: Attempt) -> str:
        """Return the address for the next connection: what breaks it next decides about the way."""
        through_proxy = self.plan[0].startswith("proxy") if self.plan else self._choose.random() < 0.5
        return self.proxy.url if through_proxy else self.server.url

    async def break_next(self, client: WebSocketClient) -> str:
        """Break the connection that is open, in the next way of the plan, and return which that is, for `mend`."""
        kind = self.plan.pop(0)
        if kind == "proxy-cut":
            for connection in self.proxy.open_connections:
                passed = connection.bytes_up + connection.bytes_down
                connection.cut_after = passed + self._choose.randrange(200)
                connection.cut = self._choose.choice(["fin", "rst"])
        elif kind.startswith("proxy"):
            self.proxy.drop_all({"proxy-rst": "rst", "proxy-fin": "fin", "proxy-silent": "silent"}[kind])
        elif kind == "dropped":
            self._network.drop(self._choose.choice(["to_server", "to_client", "both"]))
        elif kind == "rejected":
            self._network.reject_with_rst()
        elif kind == "stopped":
            self.server.suspend()
        elif kind == "killed":
            self.server.kill()
        elif kind == "reset":
            await client.send("!reset", queue=False)
        else:
            code = self._choose.choice([1000, 1001, 1011, 1012, 3000, 4999])
            await client.send(f"!close {code}", queue=False)
        return kind

    async def mend(self, kind: str) -> None:
        """Let the next connection succeed."""
        if kind in {"dropped", "rejected"}:
            self._network.undrop()
        elif kind == "stopped":
            self.server.resume()
        elif kind == "killed":
            await self.server.async_start()


async def break_it(line: Line, watch: Watch) -> None:
    """Break the connection, wait until that has been noticed, and let the next one succeed."""
    client = watch.client
    await watch.until(lambda: client.state is State.OPEN, BREAK_TIMEOUT)
    closes = len(watch.of(CloseEvent))
    kind = await line.break_next(client)
    await watch.until(lambda: len(watch.of(CloseEvent)) > closes, BREAK_TIMEOUT)
    await line.mend(kind)
    await watch.until(lambda: client.state is State.OPEN, BREAK_TIMEOUT)


async def send_all(line: Line, watch: Watch, choose: random.Random) -> None:
    """Send every number, while the connection is broken again and again."""
    step = MESSAGES // BREAKS
    breaks = {part * step + choose.randrange(step) for part in range(BREAKS)}
    breaking = asyncio.create_task(asyncio.sleep(0))
    for number in range(MESSAGES):
        if number in breaks:
            await breaking
            await asyncio.sleep(choose.uniform(0, 0.03))
            breaking = asyncio.create_task(break_it(line, watch))
        await watch.client.send(str(number))
        if choose.random() < 0.02:
            await asyncio.sleep(choose.uniform(0, 0.005))
    await breaking
    await watch.client.flush(BREAK_TIMEOUT)


@contextlib.asynccontextmanager
async def taking(client: WebSocketClient) -> AsyncIterator[list[int | Gap]]:
    """Take what the server sends."""
    got: list[int | Gap] = []

    async def take() -> None:
        items = client.with_gaps()
        while True:
            item = await anext(items)
            got.append(item if isinstance(item, Gap) else int(item))

    task = asyncio.create_task(take())
    try:
        yield got
    finally:
        await ended(task)


@contextlib.asynccontextmanager
async def confirming(client: WebSocketClient) -> AsyncIterator[None]:
    """See that no server was so slow that its client has given up asking it: then nothing is promised."""
    given_up = 0

    async def look() -> None:
        nonlocal given_up
        while True:
            given_up += client.stats.confirmation == "off"
            await asyncio.sleep(TICK)

    task = asyncio.create_task(look())
    try:
        yield
    finally:
        await ended(task)
    assert given_up == 0, "the server did not answer the first ping of a connection within the timeout"


def assert_inbound_order(got: list[int | Gap]) -> None:
    """Numbers grow by one, and by more only where a gap says so."""
    before = None
    gap = False
    for item in got:
        if isinstance(item, Gap):
            gap = True
            continue
        if before is not None:
            assert item > before
            assert gap or item == before + 1, f"{item} after {before} and no gap"
        before, gap = item, False


def assert_alternating(watch: Watch) -> None:
    """Opens and closes take turns."""
    ends = [type(told.event) for told in watch.told if isinstance(told.event, OpenEvent | CloseEvent)]
    assert ends[0] is OpenEvent
    assert all(one is not other for one, other in pairwise(ends))


@pytest.mark.slow
@pytest.mark.promise("P4")
def test_nothing_of_an_abandoned_connection_arrives_later_under_uvloop(network, tmp_path):
    uvloop = pytest.importorskip("uvloop")
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(test_nothing_of_an_abandoned_connection_arrives_after_what_came_later(network, tmp_path))


@pytest.mark.slow
@pytest.mark.promise("P5")
async def test_a_peer_that_vanishes_amid_its_words_is_not_one_that_answers_no_pings():
    async def vanish(conn: FaultConnection) -> None:
        while not conn.pings:
            await asyncio.sleep(0.001)
        await conn.send("a last word, sent before it would have read the ping")
        conn.go_silent()

    async with FaultServer([Accept(then=vanish, answer_pings=False)]) as server:
        client = WebSocketClient(server.url, heartbeat=HEARTBEAT, reconnect=QUICK)
        async with watching(client) as watch:
            written = asyncio.create_task(client.send("written", confirm=True))
            closed = (await watch.closed()).event
            assert (closed.origin, closed.uncertain) == (CloseOrigin.HEARTBEAT, 1)
            with pytest.raises(DeliveryUncertain, match="ended"):
                await written
            undelivered = await watch.nth(UndeliveredEvent, 1)
            assert (undelivered.event.message, undelivered.event.fate) == ("written", Fate.UNCERTAIN)
            assert client.stats.confirmed == 0


@pytest.mark.slow
@pytest.mark.promise("P1")
@pytest.mark.promise("P4")
@pytest.mark.promise("P5")
@pytest.mark.parametrize("seed, on_uncertain", STORMS)
async def test_ten_thousand_messages_each_way_over_fifty_breaks(
    network, tmp_path, seed, on_uncertain: Literal["report", "resend"]
):
    choose = random.Random(seed)
    journal = tmp_path / "journal"
    line = Line(network, journal, choose)
    client = WebSocketClient(
        line.where,
        transport=TRANSPORTS[seed % 2],
        heartbeat=Heartbeat(0.1, 0.5),
        reconnect=QUICK,
        open_timeout=0.3,
        outbox=Outbox(max_messages=MESSAGES, on_uncertain=on_uncertain, confirm_interval=0.02),
    )
    async with line.proxy, watching(client) as watch, taking(client) as got, confirming(client):
        await send_all(line, watch, choose)
        assert client.stats.unverified == 0
    told = [told.event for told in watch.of(UndeliveredEvent) if not told.event.message.startswith("!")]
    assert {event.fate for event in told} <= {Fate.UNCERTAIN}
    reported = [int(event.message) for event in told]
    arrived = [int(text) for text in journal.read_text().split()]
    arrivals = report_numbers(arrived, MESSAGES)
    figures = {
        "closes": len(watch.of(CloseEvent)) - 1,
        "gaps": sum(isinstance(item, Gap) for item in got),
        "arrived": arrivals.unique,
        "repeated": arrivals.total - arrivals.unique,
        "reported": len(reported),
        "sent by the server": int.from_bytes(journal.with_suffix(".next").read_bytes()),
        "received": sum(not isinstance(item, Gap) for item in got),
    }
    for name, figure in figures.items():
        watch.record(name, figure)
    if on_uncertain == "resend":
        assert reported == []
        assert arrivals.lost == ()
        assert arrivals.reordered == (), "first occurrences in order"
    else:
        assert set(arrivals.lost) <= set(reported), "lost without a word"
        assert arrivals.duplicated == ()
        assert len(set(reported)) == len(reported), "reported twice"
    assert arrivals.unexpected == ()
    assert len(watch.of(CloseEvent)) > BREAKS
    assert_inbound_order(got)
    assert figures["sent by the server"] >= MESSAGES
    assert figures["received"] > MESSAGES // 2
    assert_alternating(watch)


@pytest.mark.slow
@pytest.mark.promise("P4")
async def test_nothing_of_an_abandoned_connection_arrives_after_what_came_later(network, tmp_path):
    journal = tmp_path / "journal"
    first, second = (
        network.start_command(f"numbers-{port}", script("run_numbers.py", "--journal", journal), port)
        for port in (8000, 8001)
    )

    async def where(attempt):
        return first.url if attempt.last_close is None else second.url

    client = WebSocketClient(where, heartbeat=HEARTBEAT, reconnect=QUICK)
    async with watching(client) as watch:
        await client.send("1", confirm=True)
        network.drop(port=first.port)
        await client.send("2")
        await client.send("3")
        await watch.closed()
        await watch.opened(2)
        assert [told.event.fate for told in watch.told if hasattr(told.event, "fate")] == [Fate.UNCERTAIN] * 2
        await client.send("4", confirm=True)
        network.undrop()
        await asyncio.sleep(2)  # by then the kernel would have sent 2 and 3 again
        await client.send("5", confirm=True)
    assert journal.read_text().split() == ["1", "4", "5"]
