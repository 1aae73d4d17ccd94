"""Whatever a write raises, and whenever: each message is accounted for once, and no call hangs."""

import asyncio
import contextlib
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resilient_ws import DeliveryUncertain, NotConnected, Outbox
from resilient_ws.testing import FakeTransport, run_virtual
from resilient_ws.testing.fake.link import FakeLink
from tests.client.kit import settle, stage

FAULTS = [IndexError("empty"), RuntimeError("defect"), MemoryError(), OSError(28, "full")]

ACTS = st.lists(
    st.sampled_from(["send", "burst", "confirm", "queue", "keyed", "request", "subscribe", "turn", "turn"]),
    min_size=1,
    max_size=15,
)


class Faulty:
    """Lets some of the writes of all links raise, before or after their frame has gone."""

    def __init__(self, faults):
        self.faults = (
            faults  # by the number of the write: what it raises, and whether the frame goes out first
        )
        self.writes = 0
        self.raised = []
        self.write = FakeLink.write

    def __call__(self, link, message, /):
        number = self.writes
        self.writes += 1
        if number not in self.faults:
            return self.write(link, message)
        error, late = self.faults[number]
        self.raised.append(error)
        if late:
            self.write(link, message)
        raise error


async def play(acts, faults, outbox):
    taken = []
    transport = FakeTransport()
    transport._on_peer = lambda peer: setattr(peer, "on_message", lambda message: taken.append(message))
    faulty = Faulty(faults)
    returned = []
    with mock.patch.object(FakeLink, "write", lambda link, message, /: faulty(link, message)):
        async with stage(transport, outbox=outbox) as played:
            client = played.client
            calls = []

            async def call(number, **options):
                message = f"{'m' if options.get('queue', True) else 'u'}{number}"
                with contextlib.suppress(DeliveryUncertain, NotConnected):
                    await client.send(message, **options)
                    returned.append(message)

            for number, act in enumerate(acts):
                if act == "send":
                    await call(number)
                elif act == "burst":
                    for part in range(4):
                        await call(f"{number}.{part}")
                elif act == "keyed":
                    await call(number, priority=1)
                elif act in {"confirm", "queue"}:
                    option = {"confirm": True} if act == "confirm" else {"queue": False}
                    calls.append(asyncio.ensure_future(call(number, **option)))
                    await asyncio.sleep(0)
                elif act == "request":
                    with contextlib.suppress(DeliveryUncertain, NotConnected, TimeoutError):
                        await client.request(f"q{number}", lambda _: False, timeout=0.1)
                elif act == "subscribe":
                    client.subscribe(number, f"s{number}")
                else:
                    await settle(0.01)
            await asyncio.gather(*calls)
            await client.flush(timeout=3600)
            await settle(1)
            told = [message for message, _ in played.fates]
            confirmed = client.stats.confirmed
    return returned, taken, told, confirmed, faulty


@pytest.mark.promise("P5")
@settings(max_examples=200)
@given(
    acts=ACTS,
    faults=st.dictionaries(st.integers(0, 25), st.tuples(st.sampled_from(FAULTS), st.booleans()), max_size=3),
    rule=st.sampled_from(["report", "resend"]),
)
def test_each_message_is_confirmed_or_reported_whatever_a_write_raises(acts, faults, rule):
    returned, taken, told, confirmed, _ = run_virtual(
        play(acts, faults, Outbox(on_uncertain=rule, max_messages=100))
    )
    for message in returned:
        if (rule == "resend" and message[0] == "m") or message not in told:
            assert message in taken, f"{message} was accepted, and neither arrived nor was reported"
        if rule == "report":
            assert taken.count(message) <= 1
    assert confirmed <= len(taken), "more was confirmed than arrived"


@pytest.mark.promise("P5")
@pytest.mark.parametrize("confirm", [True, False])
@pytest.mark.parametrize("many", [1, 3])
@pytest.mark.parametrize("late", [False, True])
async def test_a_write_that_fails_ends_the_connection_and_confirms_nothing(confirm, many, late):
    faulty = Faulty({number: (IndexError("pop from empty list"), late) for number in range(many - 1, many)})
    with mock.patch.object(FakeLink, "write", lambda link, message, /: faulty(link, message)):
        async with stage(outbox=Outbox(confirm=confirm)) as played:
            first = played.peer
            for number in range(many):
                await played.client.send(str(number))
            await settle()
            assert faulty.raised
            assert played.client.stats.confirmed <= (0 if confirm else len(first.received))
            assert [close.cause.__cause__ for close in played.closes] == faulty.raised
            assert "a write failed: IndexError" in str(played.closes[0])
            await played.reopened()
            await settle(5)
            fates = [message for message, _ in played.fates]
            arrived = [*first.received, *played.received]
            assert all(str(number) in [*fates, *arrived] for number in range(many))
            assert all(arrived.count(str(number)) <= 1 for number in range(many))


@pytest.mark.promise("P5")
@pytest.mark.parametrize("fails", [KeyboardInterrupt, SystemExit])
async def test_an_interrupt_amid_a_write_passes_and_leaves_the_accounts_right(fails):
    def interrupted(link, message, /):
        raise fails

    async with stage() as played:
        with mock.patch.object(FakeLink, "write", interrupted), pytest.raises(fails):
            await played.client.send("a")
        assert played.client.stats.unconfirmed == 0
        await played.reopened()
        assert [message for message, _ in played.fates] == ["a"]


async def test_a_request_whose_question_could_not_be_written_ends():
    def broken(link, message, /):
        raise RuntimeError("defect")

    async with stage() as played:
        with mock.patch.object(FakeLink, "write", broken), pytest.raises((DeliveryUncertain, NotConnected)):
            await played.client.request("q", lambda _: True, timeout=5)


async def test_a_subscription_that_could_not_be_written_is_declared_on_the_next_connection():
    def broken(link, message, /):
        raise RuntimeError("defect")

    async with stage() as played:
        with mock.patch.object(FakeLink, "write", broken):
            played.client.subscribe("key", "s")
        await played.reopened()
        assert played.received == ["s"]


async def test_a_write_that_fails_while_it_is_awaited_ends_the_connection():
    async def late():
        raise RuntimeError("compressor")

    async with stage(outbox=Outbox(on_uncertain="resend")) as played:
        with mock.patch.object(FakeLink, "write", return_value=late()):
            await played.client.send("a")
            await settle()
        await played.reopened()
        await played.client.flush(timeout=10)
        assert played.received == ["a"]
