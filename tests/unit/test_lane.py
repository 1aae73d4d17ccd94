"""The lane: plain messages counted where they are sent, handed over together, and taken back if the link was dead."""

from threading import get_ident
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilient_ws import WebSocketClient
from resilient_ws.api.errors import ConnectionLost
from resilient_ws.api.options import Outbox
from resilient_ws.connection.writer import Writer
from resilient_ws.core.delivery import UNCONFIRMED_MESSAGES, DeliveryQueue, Entry
from resilient_ws.core.in_flight import FastLane
from resilient_ws.delivery.ports import Feed


class Link:
    """Keeps what it is given."""

    def __init__(self):
        self.calls = []
        self.dead = False
        self.rest = None

    def write(self, message):
        return self.write_all([message])

    def write_all(self, messages):
        if self.dead:
            raise ConnectionLost("dead")
        self.calls.append(list(messages))
        return self.rest


def put(lane, *messages):
    for message in messages:
        assert lane.put(message, len(message))


def queue(*, confirming=True, **options):
    made = DeliveryQueue(Outbox(**options))
    made.connected(confirming=confirming)
    return made


@pytest.fixture
def link():
    return Link()


@pytest.fixture
def started():
    return []


@pytest.fixture
def refused():
    return []


@pytest.fixture
def writer(link, started, refused):
    made = Writer(link, spawn=lambda name, run: started.append(name), idle=lambda: None)
    made.serve(Feed(FastLane(10), refused.append, lambda held: None))
    return made


class TestQueue:
    def test_a_lane_is_closed_at_first(self):
        assert FastLane(5).limit == -1

    def test_what_went_through_it_is_unconfirmed_until_the_pong(self):
        q, lane = queue(), FastLane(10)
        q.open(lane, 1.0, 1000)
        put(lane, "one", b"three")
        assert (q.unconfirmed, q.unconfirmed_bytes, q.confirmed) == (2, 8, 0)
        q.confirm(q.mark())
        assert (q.unconfirmed, q.unconfirmed_bytes, q.confirmed) == (0, 0, 2)

    def test_without_confirmation_it_is_confirmed_at_once(self):
        q, lane = queue(confirming=False), FastLane(10)
        for _ in range(2):
            q.open(lane, 1.0, 8)
            put(lane, "one", "three")
            lane.limit = -1
        assert (q.unconfirmed, q.confirmed) == (0, 4)
        q.settle()
        q.settle()
        assert (q.unconfirmed, q.confirmed) == (0, 4)

    def test_the_time_of_acceptance_is_kept(self):
        q, lane = queue(), FastLane(10)
        q.open(lane, 7.0, 1000)
        put(lane, "a")
        lane.limit = -1
        q.open(lane, 9.0, 1000)
        put(lane, "b")
        assert [entry.accepted_at for entry in q.lost().uncertain] == [7.0, 9.0]

    @pytest.mark.parametrize("confirming", [True, False])
    def test_it_stays_closed_while_something_waits(self, confirming):
        q, lane = queue(confirming=confirming), FastLane(10)
        q.accept(Entry("first", 5, 0.0, False))
        q.open(lane, 1.0, 1000)
        assert lane.limit == -1

    def test_it_stays_closed_where_its_messages_could_pass_the_bound(self):
        q, lane = queue(), FastLane(UNCONFIRMED_MESSAGES)
        q.open(lane, 1.0, 1000)
        assert lane.limit == 1000
        lane.limit = -1
        q.write_through("x", 1, 1.0)
        q.open(lane, 1.0, 1000)
        assert lane.limit == -1

    def test_the_bytes_of_the_outbox_bound_it(self):
        q, lane = queue(max_bytes=100), FastLane(10)
        q.write_through("x" * 30, 30, 1.0)
        q.open(lane, 1.0, 50)
        assert lane.limit == 80
        lane.limit = -1
        q.open(lane, 1.0, 1000)
        assert lane.limit == 100

    @pytest.mark.parametrize("confirming", [True, False])
    def test_what_was_not_written_waits_again(self, confirming):
        q, lane = queue(confirming=confirming, ttl=5), FastLane(10)
        q.write_through("written", 7, 1.0)
        q.open(lane, 2.0, 1000)
        put(lane, "a", "b")
        assert q.take_back(["a", "b"], 2.0) == []
        assert (q.waiting, q.waiting_bytes) == (2, 2)
        assert q.unconfirmed_bytes == (7 if confirming else 0)
        assert [entry.message for entry in q.lost().uncertain] == (["written"] if confirming else [])
        assert q.confirmed == (0 if confirming else 1)
        assert q.next_expiry == 7.0
        q.connected(confirming=True)
        assert q.take().message == "a"

    def test_an_overflow_rule_holds_for_what_is_taken_back(self):
        q, lane = queue(max_messages=2, overflow="drop_oldest"), FastLane(10)
        q.open(lane, 2.0, 1000)
        put(lane, "a", "b", "c")
        assert [entry.message for entry in q.take_back(["a", "b", "c"], 2.0)] == ["a"]
        assert (q.waiting, q.evicted, q.unconfirmed) == (2, 1, 0)


class TestWriter:
    def test_what_is_held_counts_as_sent(self, writer, link):
        q = queue()
        q.open(writer.lane, 1.0, 1000)
        writer.lane.left = 10
        put(writer.lane, "one", b"three")
        writer.lane.hold("ü", 2)
        assert (writer.sent, writer.bytes_sent, link.calls) == (3, 10, [])
        writer.flush()
        assert (writer.sent, writer.bytes_sent, link.calls) == (3, 10, [["one", b"three", "ü"]])
        assert (writer.lane.limit, writer.lane.held, writer.lane.extra) == (-1, [], 0)
        writer.flush()
        assert len(link.calls) == 1

    def test_a_full_link_makes_it_busy(self, writer, link, started):
        writer.lane.hold("x", 1)
        link.rest = object()
        writer.flush()
        assert writer.busy
        assert started == ["writer"]

    def test_a_post_goes_behind_what_is_held(self, writer, link):
        writer.lane.hold("first", 5)
        writer.post("second")
        assert link.calls == [["first"], ["second"]]

    @pytest.mark.parametrize("end", ["flush", "close"])
    def test_a_dead_link_gives_back_what_is_held(self, writer, link, refused, end):
        writer.lane.hold("x", 1)
        link.dead = True
        getattr(writer, end)()
        assert refused == [["x"]]
        assert (writer.sent, writer.bytes_sent) == (0, 0)


class NotOnTheLaneError(Exception):
    """`send` asked delivery: the lane did not take the message."""


class Books:
    def __init__(self, size):
        self.size = size
        self.items = []


def lane_with(limit, left, size):
    made = FastLane(left)
    made.limit = limit
    made.counted = Books(size)
    return made


def state(lane):
    return lane.limit, lane.left, lane.held, lane.extra, lane.counted.size, lane.counted.items


plain = st.text(st.characters(max_codepoint=127), max_size=5) | st.binary(max_size=5)


@given(
    limit=st.integers(-1, 20),
    left=st.integers(0, 5),
    size=st.integers(0, 20),
    messages=st.lists(plain, max_size=8),
)
def test_the_inlined_copy_in_send_does_what_the_class_does(limit, left, size, messages):
    inlined, model = lane_with(limit, left, size), lane_with(limit, left, size)

    def send_now(message, size):
        raise NotOnTheLaneError

    client = WebSocketClient("ws://localhost")
    client._sender = SimpleNamespace(lane=inlined, send_now=send_now)
    client._thread = get_ident()
    for message in messages:
        call = client.send(message)
        try:
            call.send(None)
        except StopIteration:
            taken = True
        except NotOnTheLaneError:
            taken = False
        assert taken == model.put(message, len(message))
        assert state(inlined) == state(model)
