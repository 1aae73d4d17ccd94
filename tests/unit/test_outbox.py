"""The delivery queue, case by case; `tests/property/test_outbox_model.py` looks for the cases nobody thought of."""

import math

import pytest

from resilient_ws.api.options import Outbox
from resilient_ws.core.delivery import UNCONFIRMED_MESSAGES, DeliveryQueue, Entry


def open_queue(*, confirming=True, **options):
    queue = DeliveryQueue(Outbox(**options))
    queue.connected(confirming=confirming)
    return queue


def entry(message="m", **options):
    return Entry(message, len(message), options.pop("at", 0.0), options.pop("resend", False), **options)


def accept(queue, *messages, **options):
    entries = [entry(message, **options) for message in messages]
    for made in entries:
        assert not queue.accept(made)
    return entries


def write(queue, count=math.inf):
    """Write what waits, at most `count`; returns the messages."""
    messages = []
    while len(messages) < count and (taken := queue.take()) is not None:
        messages.append(taken.message)
        queue.written()
    return messages


def texts(entries):
    return [made.message for made in entries]


# ------------------------------------------------------------------------------------------------ order


def test_room_can_be_reserved_for_what_is_about_to_come():
    queue = DeliveryQueue(Outbox(max_messages=2, max_bytes=10))
    assert not queue.is_reserved
    queue.reserve(6)
    assert queue.is_reserved
    assert queue.has_room(4)
    assert not queue.has_room(5)
    accept(queue, "abcd", key="k")
    assert not queue.has_room(0), "one waits, one is to come"
    assert queue.has_room(4, "k")
    assert not queue.has_room(5, "k")
    queue.release(6)
    assert queue.has_room(6)
    assert not queue.is_reserved


@pytest.mark.promise("P4")
def test_messages_leave_in_the_order_accepted():
    queue = open_queue()
    accept(queue, "a", "b", "c")
    assert write(queue) == ["a", "b", "c"]
    assert queue.take() is None


def test_a_higher_priority_leaves_first_and_order_holds_within():
    queue = open_queue()
    for message, priority in [("a", 0), ("low", -1), ("b", 0), ("x", 5), ("y", 5), ("c", 0)]:
        accept(queue, message, priority=priority)
    assert write(queue) == ["x", "y", "a", "b", "c", "low"]


def test_nothing_overtakes_what_waits():
    queue = open_queue()
    accept(queue, "a")
    assert not queue.write_through("b", 1, 0.0)
    taken = queue.take()
    assert not queue.write_through("b", 1, 0.0), "nor what is being written"
    queue.written()
    assert taken.message == "a"
    assert queue.write_through("b", 1, 0.0)


def test_what_could_not_be_written_goes_back_in_front():
    queue = open_queue()
    accept(queue, "a", "b", ttl := "c", expires_at=9.0)
    assert ttl
    queue.take()
    queue.untake()
    assert queue.waiting == 3
    assert queue.unconfirmed == 0
    assert queue.next_expiry == 9.0
    assert write(queue) == ["a", "b", "c"]


@pytest.mark.promise("P4")
def test_what_is_sent_again_goes_in_front_of_everything_in_its_order():
    queue = open_queue(on_uncertain="resend")
    assert queue.write_through("1", 1, 0.0)
    assert queue.write_through(b"2", 1, 0.0)
    accept(queue, "3", resend=True)
    write(queue)
    accept(queue, "4", "5")
    accept(queue, "urgent", priority=9)
    assert queue.lost().resent == 3
    assert queue.waiting == 6
    queue.connected(confirming=True)
    assert write(queue, 2) == ["1", b"2"]
    assert queue.lost().resent == 2
    queue.connected(confirming=True)
    assert write(queue, 1) == ["1"]
    assert queue.take().message == b"2"
    queue.untake()
    assert write(queue) == [b"2", "3", "urgent", "4", "5"]


@pytest.mark.promise("P4")
@pytest.mark.parametrize("back", ["lost", "untaken"])
def test_nothing_overtakes_what_is_to_be_written_again_and_then_the_short_way_is_open(back):
    queue = open_queue(on_uncertain="resend")
    if back == "lost":
        queue.write_through("first", 5, 0.0)
        queue.lost()
        queue.connected(confirming=True)
    else:
        accept(queue, "first")
        queue.take()
        assert not queue.write_through("second", 6, 0.0)
        queue.untake()
    assert not queue.write_through("second", 6, 0.0)
    assert write(queue) == ["first"]
    assert queue.write_through("second", 6, 0.0)


def test_each_pong_gives_back_the_bytes_of_its_own_messages():
    queue = open_queue()
    marks = []
    for size in (5, 3, 7):
        queue.write_through("x" * size, size, 0.0)
        marks.append(queue.mark())
    left = []
    for mark in marks:
        queue.confirm(mark)
        left.append(queue.unconfirmed_bytes)
    assert left == [10, 7, 0]


def test_what_was_dropped_for_others_stands_in_nobodys_way():
    queue = open_queue(max_messages=1, overflow="drop_oldest")
    accept(queue, "old")
    assert texts(queue.accept(entry("new"))) == ["old"]
    assert write(queue) == ["new"]
    assert queue.write_through("next", 4, 0.0)


def test_who_is_let_go_between_two_pings_gives_its_room_back_and_no_more(monkeypatch):
    monkeypatch.setattr("resilient_ws.core.in_flight.UNCONFIRMED_MESSAGES", 4)
    queue = open_queue()
    for text in ("aaaaa", "bbb", "c"):
        queue.write_through(text, len(text), 0.0)
    mark = queue.mark()
    queue.write_through("d", 1, 0.0)
    assert not queue.fits(1)
    assert queue.let_go(1) == []
    assert (queue.fits(1), queue.unverified, queue.unconfirmed_bytes) == (True, 1, 5)
    queue.confirm(mark)
    assert (queue.confirmed, queue.unconfirmed, queue.unconfirmed_bytes) == (2, 1, 1)


def test_what_takes_a_place_stays_there_whatever_becomes_of_it():
    queue = open_queue()
    accept(queue, "old", key="k")
    accept(queue, "other")
    assert texts(queue.accept(entry("newer", key="k", expires_at=5.0))) == ["old"]
    assert texts(queue.accept(entry("newest", key="k", expires_at=7.0))) == ["newer"]
    assert texts(queue.expire(7.0)) == ["newest"]
    assert write(queue) == ["other"]


@pytest.mark.parametrize("confirming", [True, False])
def test_what_the_socket_did_not_take_is_taken_back(confirming):
    queue = open_queue(confirming=confirming)
    queue.write_through("kept", 4, 1.0)
    queue.write_through("not taken", 9, 2.0)
    queue.retract(9)
    assert queue.unconfirmed_bytes == (4 if confirming else 0)
    assert queue.confirmed + queue.unconfirmed == 1
    queue.write_through("next", 4, 3.0)
    queue.confirm(queue.mark())
    assert (queue.confirmed, queue.unconfirmed_bytes) == (2, 0)


def test_a_message_accepted_after_one_was_taken_back_knows_its_own_time():
    queue = open_queue()
    queue.write_through("not taken", 9, 2.0)
    queue.retract(9)
    queue.write_through("next", 4, 3.0)
    assert [(e.message, e.accepted_at) for e in queue.lost().uncertain] == [("next", 3.0)]


def test_what_waits_can_be_looked_at():
    queue = open_queue()
    assert (queue.next_size, queue.has_hand, queue.watched_waiting()) == (0, False, [])
    accept(queue, "first", resend=True, token=1)
    write(queue)
    accept(queue, "plain")
    accept(queue, "stored", record=1)
    assert queue.next_size == len("plain")
    queue.lost()
    assert texts(queue.watched_waiting()) == ["first", "stored"]
    queue.connected(confirming=True)
    assert queue.next_size == len("first")
    queue.take()
    assert queue.has_hand


# ------------------------------------------------------------------------------------------------ confirmation


def test_a_pong_confirms_what_was_written_before_its_ping():
    queue = open_queue()
    queue.write_through("a", 1, 0.0)
    mark = queue.mark()
    queue.write_through("b", 1, 0.0)
    assert queue.unmarked
    assert queue.confirm(mark) == []
    assert (queue.confirmed, queue.unconfirmed, queue.unconfirmed_bytes) == (1, 1, 1)


def test_a_message_in_hand_is_not_covered_by_a_ping():
    queue = open_queue()
    accept(queue, "a", "b")
    write(queue, 1)
    queue.take()
    mark = queue.mark()
    queue.written()
    queue.confirm(mark)
    assert (queue.confirmed, queue.unconfirmed, queue.unconfirmed_bytes) == (1, 1, 1)


def test_a_late_pong_confirms_all_before_it_and_an_old_one_nothing():
    queue = open_queue()
    marks = []
    for message in "abc":
        queue.write_through(message, 1, 0.0)
        marks.append(queue.mark())
    queue.confirm(marks[1])
    assert queue.confirmed == 2
    queue.confirm(marks[0])
    queue.confirm(marks[1])
    assert queue.confirmed == 2


def test_a_pong_of_an_earlier_connection_confirms_nothing():
    queue = open_queue(on_uncertain="resend")
    queue.write_through("a", 1, 0.0)
    stale = queue.mark()
    queue.lost()
    queue.connected(confirming=True)
    write(queue)
    queue.mark()
    queue.confirm(stale)
    assert (queue.confirmed, queue.unconfirmed) == (0, 1)


def test_only_watched_messages_are_handed_back():
    queue = open_queue()
    token = object()
    accept(queue, "a")
    accept(queue, "b", token=token)
    accept(queue, "c", record=7)
    write(queue)
    assert [(e.message, e.token, e.record) for e in queue.confirm(queue.mark())] == [
        ("b", token, None),
        ("c", None, 7),
    ]


def test_without_confirmation_written_is_confirmed():
    queue = open_queue(confirming=False)
    assert queue.write_through("a", 1, 0.0)
    (waiting,) = accept(queue, "b")
    queue.take()
    assert queue.written() is waiting
    assert (queue.confirmed, queue.unconfirmed, queue.needs_ping) == (2, 0, False)
    assert queue.lost() == ([], 0)


def test_confirmation_turned_off_confirms_what_was_written():
    queue = open_queue()
    queue.write_through("a", 1, 0.0)
    queue.mark()
    accept(queue, "b", token=1)
    write(queue)
    accept(queue, "c")
    queue.take()
    assert texts(queue.turn_off()) == ["b"]
    assert not queue.confirming
    assert (queue.confirmed, queue.unconfirmed, queue.unconfirmed_bytes) == (2, 1, 1)
    assert queue.written().message == "c"
    assert queue.write_through("d", 1, 0.0)
    assert (queue.confirmed, queue.unconfirmed) == (4, 0)


# ------------------------------------------------------------------------------------------------ bounds


@pytest.mark.promise("P6")
def test_the_number_of_unconfirmed_messages_is_bounded():
    queue = open_queue(max_bytes=10**9)
    for _ in range(UNCONFIRMED_MESSAGES // 2):
        assert not queue.needs_ping
        assert queue.write_through("m", 1, 0.0)
    assert queue.needs_ping
    mark = queue.mark()
    assert not queue.needs_ping, "nothing new to cover"
    while queue.write_through("m", 1, 0.0):
        pass
    assert queue.unconfirmed == UNCONFIRMED_MESSAGES
    assert not queue.fits(0)
    accept(queue, "waits")
    assert queue.take() is None
    queue.confirm(mark)
    assert queue.take().message == "waits"


@pytest.mark.promise("P6")
def test_the_bytes_of_unconfirmed_messages_are_bounded():
    queue = open_queue(max_bytes=10)
    assert queue.write_through("aaaaa", 5, 0.0)
    assert queue.needs_ping
    assert not queue.write_through("bbbbbb", 6, 0.0)
    assert queue.write_through("bbbbb", 5, 0.0)
    assert queue.fits(0)
    assert not queue.fits(1)


def test_nothing_can_be_written_without_a_connection():
    queue = DeliveryQueue(Outbox())
    assert not queue.write_through("a", 1, 0.0)
    assert not queue.fits(0)
    accept(queue, "a")
    assert queue.take() is None
    queue.connected(confirming=True)
    assert queue.take() is not None


@pytest.mark.parametrize("limit", [{"max_messages": 2}, {"max_bytes": 2}])
def test_room_is_counted_among_what_was_never_written(limit):
    queue = open_queue(on_uncertain="resend", **limit)
    queue.write_through("r", 1, 0.0)
    queue.write_through("r", 1, 0.0)
    queue.lost()
    accept(queue, "a")
    assert queue.has_room(1)
    accept(queue, "b")
    assert not queue.has_room(1)
    assert queue.waiting_bytes == 4


def test_reading_paused_lets_the_oldest_go():
    queue = open_queue(max_bytes=4)
    queue.write_through("a", 1, 0.0)
    queue.mark()
    accept(queue, "b", "c", token=1)
    write(queue)
    queue.write_through("d", 1, 0.0)
    mark = queue.mark()
    assert not queue.fits(3)
    assert texts(queue.let_go(3)) == ["b", "c"]
    assert queue.fits(3)
    assert (queue.unverified, queue.unconfirmed, queue.unconfirmed_bytes) == (3, 1, 1)
    assert queue.confirm(mark) == []
    assert queue.confirmed == 1
    assert queue.let_go(4) == []


def test_those_left_still_know_when_they_were_accepted():
    queue = open_queue(max_bytes=4)
    for message, now in [("a", 1.0), ("b", 2.0), ("c", 3.0), ("d", 3.5)]:
        queue.write_through(message, 1, now)
    queue.let_go(2)
    queue.write_through("e", 1, 5.0)
    assert [(e.message, e.accepted_at) for e in queue.lost().uncertain] == [
        ("c", 3.0),
        ("d", 3.5),
        ("e", 5.0),
    ]


def test_what_is_to_be_sent_again_is_never_let_go():
    queue = open_queue(max_bytes=2)
    accept(queue, "a", resend=False)
    accept(queue, "b", resend=True)
    write(queue)
    queue.let_go(2)
    assert not queue.fits(2)
    assert queue.unverified == 1
    queue = open_queue(max_bytes=2, on_uncertain="resend")
    queue.write_through("aa", 2, 0.0)
    queue.let_go(1)
    assert queue.unverified == 0


def test_letting_go_stops_without_a_connection():
    queue = DeliveryQueue(Outbox())
    assert queue.let_go(1) == []
    assert queue.unverified == 0


# ------------------------------------------------------------------------------------------------ overflow, keys, ttl


def test_drop_oldest_takes_the_oldest_of_the_lowest_priority():
    queue = DeliveryQueue(Outbox(max_messages=3, overflow="drop_oldest"))
    accept(queue, "old", priority=1)
    accept(queue, "a", "b")
    assert texts(queue.accept(entry("c"))) == ["a"]
    assert texts(queue.accept(entry("low", priority=-1))) == ["low"]
    assert queue.evicted == 2
    queue.connected(confirming=True)
    assert write(queue) == ["old", "b", "c"]


def test_drop_oldest_makes_room_for_the_bytes():
    queue = DeliveryQueue(Outbox(max_bytes=4, overflow="drop_oldest"))
    accept(queue, "a", "bb", "c")
    assert texts(queue.accept(entry("ddd"))) == ["a", "bb"]
    assert queue.waiting_bytes == 4


def test_drop_newest_gives_the_message_back():
    queue = DeliveryQueue(Outbox(max_messages=1, overflow="drop_newest"))
    accept(queue, "a")
    assert texts(queue.accept(entry("b"))) == ["b"]
    assert (queue.waiting, queue.evicted) == (1, 1)


@pytest.mark.parametrize("overflow", ["drop_oldest", "drop_newest"])
def test_what_was_written_once_is_not_dropped(overflow):
    queue = open_queue(max_messages=1, overflow=overflow, on_uncertain="resend")
    accept(queue, "a", resend=True, expires_at=1.0, key="k")
    write(queue)
    queue.lost()
    accept(queue, "b")
    queue.accept(entry("c"))
    assert queue.expire(5.0) == []
    queue.connected(confirming=True)
    assert write(queue, 1) == ["a"]


def test_a_key_takes_the_place_of_what_waits():
    queue = open_queue()
    accept(queue, "a")
    accept(queue, "old", key="k")
    accept(queue, "b")
    assert texts(queue.accept(entry("new", key="k"))) == ["old"]
    assert texts(queue.accept(entry("newest", key="k", expires_at=9.0))) == ["new"]
    assert queue.next_expiry == 9.0
    assert queue.waiting_bytes == len("anewestb")
    assert write(queue) == ["a", "newest", "b"]
    assert not queue.accept(entry("later", key="k")), "what is written is not touched"
    assert queue.evicted == 2


def test_a_key_with_another_priority_goes_to_the_end_of_that_lane():
    queue = open_queue()
    accept(queue, "old", key="k")
    accept(queue, "a")
    accept(queue, "b", priority=2)
    assert texts(queue.accept(entry("new", key="k", priority=2))) == ["old"]
    assert write(queue) == ["b", "new", "a"]


def test_a_key_needs_no_more_room_than_it_takes_away():
    queue = DeliveryQueue(Outbox(max_messages=1, max_bytes=4))
    accept(queue, "aaa", key="k")
    assert not queue.has_room(1)
    assert not queue.has_room(1, "other")
    assert queue.has_room(4, "k")
    assert not queue.has_room(5, "k")


def test_a_newer_message_with_the_key_of_one_that_was_put_back_follows_it():
    queue = open_queue()
    accept(queue, "first", key="k")
    queue.take()
    accept(queue, "second", key="k")
    queue.untake()
    assert texts(queue.accept(entry("third", key="k"))) == ["second"]
    assert write(queue) == ["first", "third"]


def test_messages_expire_while_they_wait():
    queue = open_queue()
    accept(queue, "late", expires_at=5.0)
    accept(queue, "soon", expires_at=2.0, priority=1)
    accept(queue, "never")
    accept(queue, "written", expires_at=2.0, priority=9)
    write(queue, 1)
    assert queue.next_expiry == 2.0
    assert queue.expire(1.9) == []
    assert texts(queue.expire(2.0)) == ["soon"]
    assert queue.next_expiry == 5.0
    assert texts(queue.expire(7.0)) == ["late"]
    assert queue.next_expiry is None
    assert (queue.expired, queue.waiting) == (2, 1)


@pytest.mark.promise("P6")
def test_deadlines_of_written_messages_do_not_pile_up():
    queue = open_queue(confirming=False)
    for _ in range(1000):
        accept(queue, "m", expires_at=9.0)
        write(queue)
    assert len(queue._lanes._deadlines) < 100


# ------------------------------------------------------------------------------------------------ ends


@pytest.mark.promise("P5")
def test_exactly_the_unconfirmed_are_uncertain():
    queue = open_queue()
    queue.write_through("confirmed", 9, 1.0)
    queue.confirm(queue.mark())
    queue.write_through("a", 1, now := 2.0)
    queue.mark()
    queue.write_through("é", 2, now)
    queue.write_through(b"cc", 2, 3.0)
    accept(queue, "d", "in hand", "waits", at=4.0)
    write(queue, 1)
    queue.take()
    loss = queue.lost()
    assert [(e.message, e.size, e.accepted_at) for e in loss.uncertain] == [
        ("a", 1, 2.0),
        ("é", 2, 2.0),
        (b"cc", 2, 3.0),
        ("d", 1, 4.0),
        ("in hand", 7, 4.0),
    ]
    assert (loss.resent, queue.uncertain, queue.waiting) == (0, 5, 1)
    assert (queue.unconfirmed, queue.unconfirmed_bytes) == (0, 0)


def test_each_message_decides_whether_it_is_sent_again():
    queue = open_queue(on_uncertain="resend")
    accept(queue, "a", resend=True)
    accept(queue, "b", resend=False)
    write(queue)
    loss = queue.lost()
    assert (texts(loss.uncertain), loss.resent) == (["b"], 1)


def test_poison_is_not_sent_again_but_what_was_not_sent_this_time_is():
    queue = open_queue(on_uncertain="resend")
    queue.write_through("a", 1, 0.0)
    queue.write_through("b", 1, 0.0)
    queue.lost()
    queue.connected(confirming=True)
    write(queue, 1)
    loss = queue.lost(poison=True)
    assert (texts(loss.uncertain), loss.resent, queue.waiting) == (["a"], 0, 1)


@pytest.mark.promise("P5")
def test_the_end_of_the_client_names_everything_left():
    queue = open_queue(on_uncertain="resend")
    queue.write_through("a", 1, 0.0)
    queue.write_through("b", 1, 0.0)
    queue.lost()
    queue.connected(confirming=True)
    write(queue, 1)
    accept(queue, "c")
    accept(queue, "urgent", priority=1)
    remains = queue.close()
    assert texts(remains.uncertain) == ["a", "b"]
    assert texts(remains.abandoned) == ["urgent", "c"]
    assert (queue.uncertain, queue.abandoned) == (2, 2)
    assert (queue.waiting, queue.waiting_bytes, queue.unconfirmed, queue.unconfirmed_bytes) == (0, 0, 0, 0)
    assert queue.close() == ([], [])


@pytest.mark.promise("P5")
def test_at_the_end_what_a_store_keeps_goes_on_waiting():
    queue = open_queue()
    accept(queue, "sent again", resend=True, record=1)
    accept(queue, "uncertain", record=2)
    write(queue)
    accept(queue, "urgent", record=3, priority=1)
    accept(queue, "never written", record=4)
    remains = queue.close(keep=True)
    assert texts(remains.uncertain) == ["uncertain"]
    assert remains.abandoned == []
    assert (queue.uncertain, queue.abandoned) == (1, 0)
    left = queue.watched_waiting()
    assert [(made.message, made.written) for made in left] == [
        ("sent again", True),
        ("urgent", False),
        ("never written", False),
    ]
    assert (queue.waiting, queue.unconfirmed) == (3, 0)


def test_what_an_earlier_process_left_is_taken_over_in_order():
    queue = DeliveryQueue(Outbox(max_messages=1, max_bytes=1))
    uncertain = queue.restore(
        [
            entry("a", written=True, resend=True, record=1),
            entry("b", written=True, record=2),
            entry("c", record=3),
            entry("urgent", record=4, priority=1),
        ]
    )
    assert [(made.message, fate) for made, fate in uncertain] == [("b", "uncertain")]
    assert (queue.uncertain, queue.waiting, queue.waiting_bytes) == (1, 3, 8)
    queue.connected(confirming=False)
    assert not queue.write_through("", 0, 0.0)
    assert write(queue) == ["a", "urgent", "c"]
    assert queue.write_through("", 0, 0.0)


@pytest.mark.promise("P4")
@pytest.mark.parametrize(
    "left, uncertain, again",
    [
        # May have been written, since a later one may have been: it goes first, and no ttl touches it any more.
        (["a resend", "b resend written"], [], "ab"),
        (["a resend", "b written"], ["b"], "a"),
        # Not written, since an earlier one was not: whatever was expected when it was stored.
        (["a", "b written", "c resend written"], [], "abc"),
        (["a written", "b", "c resend", "d written"], ["a"], "bcd"),
        # Other priorities leave in another order, and a message with a key may have taken an earlier place.
        (["a", "b written priority", "c resend written priority"], ["b"], "ca"),
        (["a resend", "b resend written priority"], [], "ba"),
        (["a", "b written key"], ["b"], "a"),
        (["a resend", "b resend written key"], [], "ba"),
    ],
)
def test_what_an_earlier_process_left_is_judged_by_its_order_too(left, uncertain, again):
    queue = DeliveryQueue(Outbox())
    entries = []
    for text in left:
        name, *words = text.split()
        options = {
            "resend": "resend" in words,
            "written": "written" in words,
            "priority": int("priority" in words),
        }
        entries.append(entry(name, key="k" if "key" in words else None, **options))
    assert [made.message for made, _ in queue.restore(entries)] == uncertain
    queue.connected(confirming=False)
    assert "".join(write(queue)) == again


def test_one_message_larger_than_the_bound_fits_alone():
    queue = DeliveryQueue(Outbox(max_bytes=1))
    queue.restore([entry("too long"), entry("too")])
    queue.connected(confirming=True)
    assert write(queue) == ["too long"]
    queue.confirm(queue.mark())
    assert write(queue) == ["too"]


# ------------------------------------------------------------------------------------------------ flush


def test_a_barrier_is_settled_when_all_before_it_has_an_end():
    queue = open_queue(on_uncertain="resend")
    queue.write_through("a", 1, 0.0)
    accept(queue, "b", "c", resend=True)
    position = queue.barrier()
    accept(queue, "later")
    assert not queue.is_settled(position), "written"
    queue.confirm(queue.mark())
    assert not queue.is_settled(position), "waiting"
    write(queue, 1)
    queue.take()
    assert not queue.is_settled(position)
    queue.confirm(queue.mark())
    assert not queue.is_settled(position), "in hand"
    queue.written()
    queue.lost()
    assert not queue.is_settled(position), "to be sent again"
    queue.connected(confirming=True)
    write(queue, 1)
    queue.confirm(queue.mark())
    assert queue.is_settled(position)
    assert queue.waiting == 1


def test_an_urgent_message_that_came_later_does_not_settle_an_older_one():
    queue = open_queue()
    accept(queue, "a")
    position = queue.barrier()
    accept(queue, "urgent", priority=1)
    write(queue, 1)
    queue.confirm(queue.mark())
    assert not queue.is_settled(position)
    accept(queue, "more", priority=1)
    write(queue)
    assert not queue.is_settled(position)
    queue.confirm(queue.mark())
    assert queue.is_settled(position)


def test_messages_after_a_barrier_do_not_hold_it_up_for_ever():
    queue = open_queue()
    queue.write_through("a", 1, 0.0)
    position = queue.barrier()
    mark = queue.mark()
    queue.write_through("b", 1, 0.0)
    queue.confirm(mark)
    assert queue.is_settled(position)


# ------------------------------------------------------------------------------------------------ misuse


def test_taking_twice_and_writing_nothing_are_refused():
    queue = open_queue()
    accept(queue, "a", "b")
    queue.take()
    with pytest.raises(AssertionError, match="neither written nor put back"):
        queue.take()
    queue.written()
    with pytest.raises(AssertionError, match="no message was taken"):
        queue.written()
