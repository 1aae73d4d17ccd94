"""A client lives through whatever a list of acts does to it; afterwards everybody's records must agree.

Nothing here looks into the client: its calls, events and numbers are compared with what the peers got and sent.
"""

import asyncio
import itertools
import math
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any

from tenacity import wait_fixed

from resilient_ws import (
    ClientClosed,
    CloseEvent,
    CloseOrigin,
    ConcurrencyError,
    ConnectError,
    DeliveryUncertain,
    Heartbeat,
    Inbox,
    InboxFull,
    NotConnected,
    Outbox,
    OutboxFull,
    ReconnectPolicy,
    State,
    UndeliveredEvent,
    WebSocketClient,
)
from resilient_ws.testing import FakePeer, FakeTransport, PingAnswers
from tests.client.kit import URL, Stage, check_story

TURN_MESSAGES = 512  # what may leave together
WAIT = 1.0
MIN_DELAY = 0.5
CLOSE_TIMEOUT = 5.0
INTERVAL, TIMEOUT, PONG_TIMEOUT = 5.0, 2.0, 20.0
HEARTBEATS = {
    "ping": Heartbeat(INTERVAL, TIMEOUT, PONG_TIMEOUT),
    "expect": Heartbeat.expect(INTERVAL + TIMEOUT),
    "app": Heartbeat.app(
        "ping!", lambda message: message == "pong!", INTERVAL, TIMEOUT, pong_timeout=PONG_TIMEOUT
    ),
    "none": None,
}
NOT_ACCEPTED = (OutboxFull, NotConnected)


@dataclass(frozen=True)
class Options:
    """How the client is made."""

    heartbeat: str = "ping"
    max_messages: int = 3
    max_bytes: int = 40
    overflow: str = "raise"
    on_uncertain: str = "report"
    confirm: bool | None = None
    inbox: int = 4
    inbox_overflow: str = "pause"
    consumer: str = "manual"  # or: prompt, slow, callback


@dataclass
class Call:
    """A call of the program that may have to wait."""

    kind: str
    task: asyncio.Task[Any]
    text: str = ""
    options: dict[str, Any] = field(default_factory=dict)
    cancelled: bool = False


class ClientStory:
    """Plays the acts and keeps the records."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.transport = FakeTransport(self.meet)
        self.calls: list[Call] = []
        self.taken: list[str] = []  # by the program, in order
        self.answers = 0
        self.sent = 0  # by peers
        self.replies = 0
        self.number = 0
        self.hurried = False
        self.guilty: set[FakePeer] = set()
        self.pingers: dict[FakePeer, asyncio.TimerHandle] = {}
        self.closing_at = math.inf
        self.close_bound = math.inf
        self.client = WebSocketClient(
            URL,
            transport=self.transport,
            heartbeat=HEARTBEATS[options.heartbeat],
            reconnect=ReconnectPolicy(wait=wait_fixed(WAIT), min_delay=MIN_DELAY, min_uptime=3),
            outbox=Outbox(
                max_messages=options.max_messages,
                max_bytes=options.max_bytes,
                overflow=options.overflow,
                on_uncertain=options.on_uncertain,
                confirm=options.confirm,
            ),
            inbox=Inbox(max_messages=options.inbox, overflow=options.inbox_overflow),
            close_timeout=CLOSE_TIMEOUT,
            on_message=self.take_in_callback if options.consumer == "callback" else None,
        )
        self.stage = Stage(self.client, self.transport)

    # --- the other side

    def meet(self, peer: FakePeer) -> None:
        """A peer answers requests and the pings of the application, and sends its own pings if they are expected."""

        def answer(message: Any) -> None:
            if message == "ping!" and peer.answers_pings is not PingAnswers.NONE:
                self.replies += 1
                peer.send("pong!")
            elif isinstance(message, str) and message.startswith("?"):
                peer.send("!" + message)
                self.answers += 1

        peer.on_message = answer
        if self.options.heartbeat == "expect":
            self._keep_pinging(peer)

    def _keep_pinging(self, peer: FakePeer) -> None:
        if peer.is_open and self.client.state is not State.CLOSED:
            peer.ping(b"")
            loop = asyncio.get_running_loop()
            self.pingers[peer] = loop.call_later(INTERVAL / 2, self._keep_pinging, peer)

    # --- the program

    async def take_in_callback(self, message: Any) -> None:
        self.take(message)
        if len(self.taken) % 3 == 0:
            await asyncio.sleep(1)

    def take(self, message: Any) -> None:
        self.taken.append(message)

    async def consume(self, pause: float) -> None:
        try:
            async for message in self.client:
                self.take(message)
                if pause:
                    await asyncio.sleep(pause)
        except ClientClosed:
            return

    async def recv(self) -> None:
        self.take(await self.client.recv())

    def begin(self, kind: str, coroutine: Coroutine[Any, Any, Any], text: str = "", **options: Any) -> None:
        task = asyncio.get_running_loop().create_task(coroutine, name=f"{kind} {text}")
        self.calls.append(Call(kind, task, text, options))

    def next_text(self, prefix: str) -> str:
        self.number += 1
        return f"{prefix}{self.number}"

    # --- the acts

    async def play(self, acts: list[tuple[Any, ...]]) -> None:
        """Lives through the acts, then closes and checks."""
        self.stage.record()
        self.client.start()
        if self.options.consumer == "prompt":
            self.begin("consume", self.consume(0))
        elif self.options.consumer == "slow":
            self.begin("consume", self.consume(0.7))
        for name, *arguments, turns in acts:
            getattr(self, f"do_{name}")(*arguments)
            for _ in range(turns):
                await asyncio.sleep(0)
            self.check_now()
            if name == "advance":
                await asyncio.sleep(arguments[0])
                self.check_now()
        await self.finish()

    def do_advance(self, seconds: float) -> None:
        """Time passes after the turns."""

    def do_send(self, options: dict[str, Any], size: int) -> None:
        if self.options.confirm is False:
            options = {name: value for name, value in options.items() if name != "on_uncertain"}
        text = self.next_text("m")
        text = text.ljust(size, ".")
        self.begin("send", self.client.send(text, **options), text, **options)

    def do_burst(self, count: int) -> None:
        for _ in range(count):
            self.do_send({}, 0)

    def do_recv(self) -> None:
        if self.options.consumer == "manual":
            self.begin("recv", self.recv())

    def do_flush(self, timeout: float | None) -> None:
        self.begin("flush", self.client.flush(timeout))

    def do_request(self, timeout: float) -> None:
        text = self.next_text("?")
        self.begin("request", self.client.request(text, lambda message: message == "!" + text, timeout), text)

    def do_subscribe(self, key: str) -> None:
        if self.client.state not in {State.CLOSING, State.CLOSED}:
            self.client.subscribe(key, f"s{key}", f"u{key}")

    def do_unsubscribe(self, key: str) -> None:
        if self.client.state not in {State.CLOSING, State.CLOSED}:
            self.client.unsubscribe(key)

    def do_cancel(self, index: int) -> None:
        pending = [call for call in self.calls if not call.task.done() and not call.cancelled]
        if pending:
            call = pending[index % len(pending)]
            call.cancelled = call.task.cancel()

    def do_reconnect_now(self) -> None:
        if self.client.state not in {State.CLOSING, State.CLOSED}:
            self.hurried = True
            self.client.reconnect_now()

    def do_close(self, drain: float | None) -> None:
        self.begin("close", self.close(drain))

    async def close(self, drain: float | None) -> None:
        now = asyncio.get_running_loop().time()
        if self.closing_at == math.inf and self.client.state is not State.CLOSED:
            self.closing_at = now
            self.close_bound = now + (drain or 0) + CLOSE_TIMEOUT + 0.3
        await self.client.close(drain=drain)

    def do_peer(self, act: str, *arguments: Any) -> None:
        if not self.transport.peers:
            return
        peer = self.transport.peer
        if act == "send":
            for _ in range(arguments[0]):
                if peer.is_open:
                    self.sent += 1
                    peer.send(f"{self.sent}")
            return
        if act == "answers":
            peer.answers_pings = arguments[0]
        elif act == "late":
            peer.pong_delay = arguments[0]
        else:
            getattr(peer, act)(*arguments)
        suspicious = act in {"go_silent", "go_deaf", "go_mute", "congest"}
        if (
            suspicious
            or (act == "answers" and arguments[0] is not PingAnswers.ALL)
            or (act == "late" and arguments[0] > 1)
        ):
            self.guilty.add(peer)

    def do_dials(self, act: str, times: int) -> None:
        if act == "refuse":
            self.transport.refuse(ConnectError("refused"), times)
        elif act == "hang":
            self.transport.hang()
        else:
            self.transport.accept(times, delay=0.7)

    # --- what must hold

    def check_now(self) -> None:
        """P6: the bounds hold at any instant; P8: no cancellation is swallowed."""
        stats = self.client.stats
        options = self.options
        kept = stats.waiting + stats.unconfirmed
        assert stats.unread <= 2 * options.inbox + 1
        if options.on_uncertain == "report":
            # What was held back to leave together with others may have been put back when the connection ended.
            assert stats.waiting <= options.max_messages + TURN_MESSAGES
        assert kept <= options.max_messages + TURN_MESSAGES + options.max_bytes + 1
        for call in self.calls:
            if call.cancelled and call.task.done():
                assert call.task.cancelled(), f"{call.kind} {call.text} swallowed its cancellation"

    async def finish(self) -> None:
        """Closes, and compares all records."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        await self.client.close()
        took = loop.time() - began
        for timer in self.pingers.values():
            timer.cancel()
        bound = CLOSE_TIMEOUT + 0.3 if self.closing_at == math.inf else max(0, self.close_bound - began)
        assert took <= bound + 1e-6, f"close() took {took} s"
        await asyncio.sleep(1)
        if self.options.consumer == "slow":
            await asyncio.sleep(2 * self.options.inbox + 2)
        if self.options.consumer == "manual":
            await self.take_the_rest()
        left = [call for call in self.calls if not call.task.done()]
        assert not left, f"still blocked after close(): {left}"
        await self.stage._recorder
        self.check_now()
        check_story(self.stage.events)
        self.check_outcomes()
        self.check_delivery()
        self.check_reception()
        self.check_verdicts()
        self.check_dials()
        self.check_end()

    async def take_the_rest(self) -> None:
        while True:
            try:
                await self.recv()
            except ClientClosed:
                return

    def check_outcomes(self) -> None:
        """Each call ended in one of the ways it may."""
        for call in self.calls:
            if call.task.cancelled():
                assert call.cancelled
                continue
            error = call.task.exception()
            allowed: tuple[type[BaseException], ...] = (ClientClosed,)
            if call.kind == "send":
                allowed += NOT_ACCEPTED
                if call.options.get("confirm"):
                    allowed += (DeliveryUncertain, InboxFull)
            elif call.kind == "flush":
                allowed += (TimeoutError, InboxFull)
            elif call.kind == "request":
                allowed += (TimeoutError, InboxFull, NotConnected, DeliveryUncertain, OutboxFull)
            elif call.kind == "recv":
                allowed += (ConcurrencyError,)
            elif call.kind == "close":
                allowed = ()
            assert error is None or isinstance(error, allowed), f"{call.kind} {call.text}: {error!r}"

    def check_delivery(self) -> None:
        """P4 and P5: what was accepted has exactly one end, in order; what was not accepted has none."""
        stats = self.client.stats
        fates: dict[str, str] = {}
        for event in self.stage.events:
            if isinstance(event, UndeliveredEvent) and event.message[0] == "m":
                assert event.message not in fates, f"two fates for {event.message}"
                fates[event.message] = event.fate.value
        arrived: dict[str, int] = {}
        for number, peer in enumerate(self.transport.peers):
            for message in peer.received:
                if message[0] == "m":
                    arrived.setdefault(message, number)
        copies = [message for peer in self.transport.peers for message in peer.received]
        sends = [call for call in self.calls if call.kind == "send"]
        sure = []
        for call in sends:
            error = None if call.task.cancelled() else call.task.exception()
            maybe = bool(call.options.get("confirm")) and (call.task.cancelled() or error is not None)
            if error is None and not call.task.cancelled():
                sure.append(call)
            elif not maybe or isinstance(error, NOT_ACCEPTED):
                assert call.text not in arrived, f"{call.text} was not accepted and arrived"
                assert call.text not in fates, f"{call.text} was not accepted and has a fate"
            resends = call.options.get("on_uncertain", self.options.on_uncertain) == "resend"
            if not resends or not call.options.get("queue", True):
                assert copies.count(call.text) <= 1, f"{call.text} arrived twice"
            if call.options.get("confirm") and call in sure:
                assert call.text in arrived, f"{call.text} was confirmed and did not arrive"
                assert call.text not in fates
            fate = fates.get(call.text)
            if fate in {"expired", "evicted", "abandoned"}:
                assert call.text not in arrived, f"{call.text} is {fate} and arrived"
        confirms = self.options.confirm is True or (
            self.options.confirm is None
            and (self.options.heartbeat == "ping" or self.options.on_uncertain == "resend")
        )
        turned_off = any(peer in self.guilty for peer in self.transport.peers)
        if confirms and not turned_off and not stats.unverified:
            for call in sure:
                assert call.text in arrived or call.text in fates, f"{call.text} is lost without a word"
        self.check_sums(sure, sends)
        waits = not self.options.overflow.startswith(
            "drop"
        )  # where `send` never waits it overtakes one that does
        plain = [
            call.text
            for call in sends
            if not call.options.get("priority")
            and not call.options.get("key")
            and (waits or call.options.get("queue", True))
        ]
        rank = {text: number for number, text in enumerate(plain)}
        if all(call.options.get("on_uncertain") is None for call in sends):
            order = [rank[text] for text in arrived if text in rank]
            assert order == sorted(order), f"out of order: {list(arrived)}"

    def check_sums(self, sure: list[Call], sends: list[Call]) -> None:
        """The numbers add up to what was accepted, requests included."""
        stats = self.client.stats
        assert stats.waiting == stats.unconfirmed == 0
        ends = (
            stats.confirmed
            + stats.uncertain
            + stats.expired
            + stats.evicted
            + stats.abandoned
            + stats.unverified
        )
        unsure = sum(call.kind == "request" for call in self.calls)
        unsure += sum(1 for call in sends if call.options.get("confirm") and call not in sure)
        assert len(sure) <= ends <= len(sure) + unsure
        told = sum(isinstance(event, UndeliveredEvent) for event in self.stage.events)
        assert told == stats.uncertain + stats.expired + stats.evicted + stats.abandoned

    def check_reception(self) -> None:
        """P4: what is delivered comes in order and once; whatever was received is accounted for."""
        stats = self.client.stats
        numbers = [int(message) for message in self.taken if message.isdigit()]
        assert numbers == sorted(set(numbers)), f"out of order: {numbers}"
        answered = sum(
            call.kind == "request" and not call.task.cancelled() and call.task.exception() is None
            for call in self.calls
        )
        elsewhere = stats.received - len(self.taken) - stats.unread - stats.discarded
        assert answered <= elsewhere <= answered + self.replies, (
            f"{elsewhere} messages vanished, {answered} answers"
        )

    def check_verdicts(self) -> None:
        """P3: who was never bad is never called dead."""
        opened = iter(self.transport.peers)
        for event in self.stage.events:
            if type(event).__name__ == "OpenEvent":
                peer = next(opened)
            elif isinstance(event, CloseEvent) and event.origin is CloseOrigin.HEARTBEAT:
                assert peer in self.guilty, f"a live peer was declared dead: {event}"

    def check_dials(self) -> None:
        """P10: no attempt comes sooner than the policy says."""
        times = [dial.at for dial in self.transport.dials]
        least = MIN_DELAY if self.hurried else WAIT
        for before, after in itertools.pairwise(times):
            drained = before >= self.closing_at or after >= self.closing_at
            assert after - before >= (MIN_DELAY if drained else least) - 1e-6, f"dials at {times}"

    def check_end(self) -> None:
        """P1: the client is closed, and says so."""
        assert self.client.state is State.CLOSED
        assert self.client.close_event is self.stage.events[-1]
        assert sum(self.client.stats.closes.values()) == self.client.stats.opens
