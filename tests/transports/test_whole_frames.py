"""However a stream is cut into reads: what is told is what stands in the stream, in order, up to what ends it."""

import time

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from resilient_ws.testing import Opcode, encode_frame
from resilient_ws.transports.shared import large_frames as window
from resilient_ws.transports.shared.frame_cutter import (
    BATCH,
    FRAMES,
    KEPT,
    LARGE,
    MESSAGES,
    PINGS,
    STEP,
    Cutter,
)
from tests.faults.fuzz_bytes import MAX_SIZE, bad_frames, good_frames, segments
from tests.faults.fuzz_reference import Ending, read_stream

SIZES = (0, 1, 125, 126, 127, KEPT - 4, KEPT, 65535, 65536, 70_000)


class Taker:
    """Notes what it is given, in one list."""

    def __init__(self):
        self.direct = True
        self.bytes = 0
        self.batch = []
        self.append = self.batch.append
        self.portions = []  # how many messages each had
        self.told = []
        self.size = 0
        self.end = None  # the code of a breach

    def tell(self):
        self.portions.append(len(self.batch))
        self.told += self.batch
        self.batch.clear()
        self.size += self.bytes
        self.bytes = 0

    @property
    def heard(self):
        self.tell()
        return self.told

    def control(self, opcode, payload):
        self.tell()
        self.told.append((opcode, payload))

    def closed(self, payload):
        self.control(Opcode.CLOSE, payload)

    def broken(self, code, why):
        self.tell()
        self.end, self.why = int(code), why


class Peer:
    """A cutter with a taker."""

    def __init__(self, limit=100_000):
        self.taker = Taker()
        self.cutter = Cutter(self.taker, limit)

    def go_on(self):
        while self.cutter.stalled and self.taker.direct:
            self.taker.tell()
            self.cutter.feed(b"")

    def read(self, *reads):
        for data in reads:
            self.cutter.feed(data)
            self.go_on()
        return self

    def receive(self, stream, size=120_000):
        """The stream comes from a socket, `size` bytes at a time at most."""
        scratch = memoryview(bytearray(120 * 1024))
        while stream:
            held = self.cutter.window
            room = self.cutter.room(-1, scratch)
            if held is not None:
                assert min(window.ROOM, held.end - held.begin) <= len(room)
                assert held.end + len(room) <= max(window.SIZE, held.needed + window.ROOM)
            part = stream[: min(size, len(room))]
            room[: len(part)] = part
            self.cutter.read(room, len(part))
            self.go_on()
            scratch[:] = bytes(len(scratch))  # others read into it
            stream = stream[len(part) :]
        return self

    @property
    def heard(self):
        return self.taker.heard

    @property
    def stream(self):
        """What all that was heard was made of, if each message was one frame."""
        return b"".join(
            encode_frame(*item)
            if isinstance(item, tuple)
            else encode_frame(
                Opcode.TEXT if isinstance(item, str) else Opcode.BINARY,
                item.encode() if isinstance(item, str) else item,
            )
            for item in self.heard
        )

    @property
    def messages(self):
        return [item for item in self.heard if not isinstance(item, tuple)]


def text(size):
    return "x" * size


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("opcode", [Opcode.TEXT, Opcode.BINARY])
def test_whole_frames_of_every_length_class_are_cut_out(opcode, size):
    payload = b"x" * size
    peer = Peer().read(encode_frame(opcode, payload) * 3)
    assert peer.messages == [payload.decode() if opcode is Opcode.TEXT else payload] * 3
    assert peer.taker.size == 3 * size


@pytest.mark.parametrize("size", [0, 1, 125, 126, 200, 4000])
def test_a_small_frame_may_come_byte_by_byte(size):
    stream = encode_frame(Opcode.TEXT, b"x" * size) + encode_frame(Opcode.BINARY, b"end")
    peer = Peer().read(*(stream[n : n + 1] for n in range(len(stream))))
    assert peer.messages == ["x" * size, b"end"]


def test_a_frame_in_pieces_that_is_neither_small_nor_large_is_gathered():
    frame = encode_frame(Opcode.BINARY, b"x" * 10_000)
    peer = Peer().read(frame[:1000])
    assert peer.cutter.owed == len(frame) - 1000
    peer.read(frame[1000:2000], frame[2000:] + encode_frame(Opcode.TEXT, b"next"))
    assert peer.messages == [b"x" * 10_000, "next"]


@pytest.mark.parametrize("read", [1_000, 5_000, 16_385, 65_536, 100_001, 290_000])
@pytest.mark.parametrize("size", [10_000, LARGE - 1, LARGE, 40_000, 65_535, 65_536, 70_000, 300_000])
@pytest.mark.parametrize("way", [Peer.receive, lambda peer, *given: peer.read(*parts(*given))])
def test_nothing_is_lost_of_large_frames_however_they_are_cut_into_reads(way, size, read):
    frames = [
        encode_frame(Opcode.BINARY if number % 2 else Opcode.TEXT, bytes([ord("a") + number]) * size)
        for number in range(12)
    ]
    frames[5:5] = [encode_frame(Opcode.TEXT, b"small"), encode_frame(Opcode.PING, b"p")]
    stream = b"".join(frames)
    way(peer := Peer(limit=300_000), stream, read)
    assert peer.stream == stream
    assert "small" in peer.messages
    assert len(peer.messages) == 13
    assert (Opcode.PING, b"p") in peer.heard
    assert peer.taker.size == sum(len(message) for message in peer.messages)
    assert peer.cutter.window is None


def parts(stream, size):
    return [stream[begin : begin + size] for begin in range(0, len(stream), size)]


def test_a_large_frame_that_is_whole_while_the_taker_takes_nothing_is_held():
    first, second = encode_frame(Opcode.TEXT, b"a" * 70_000), encode_frame(Opcode.BINARY, b"b" * 70_000)
    small = encode_frame(Opcode.TEXT, b"small")
    peer = Peer().receive(first[:1000])
    peer.receive(first[1000:30_000])
    peer.taker.direct = False
    peer.receive(first[30_000:] + second + small)
    assert peer.messages == []
    peer.taker.direct = True
    assert peer.receive(second + small).messages == [
        "a" * 70_000,
        b"b" * 70_000,
        "small",
        b"b" * 70_000,
        "small",
    ]


ODD = {
    "not UTF-8": (encode_frame(Opcode.TEXT, b"\xff"), 1007),
    "masked": (encode_frame(Opcode.TEXT, b"masked", mask=b"abcd"), 1002),
    "masked, empty": (encode_frame(Opcode.BINARY, b"", mask=b"abcd"), 1002),
    "masked with a key of zeros": (encode_frame(Opcode.BINARY, b"x" * 300, mask=bytes(4)), 1002),
    "masked, large": (encode_frame(Opcode.TEXT, b"x" * 70_000, mask=b"abcd"), 1002),
    "a masked PING": (encode_frame(Opcode.PING, b"", mask=b"abcd"), 1002),
    "a masked PONG": (encode_frame(Opcode.PONG, b"p", mask=b"abcd"), 1002),
    "a masked CLOSE": (encode_frame(Opcode.CLOSE, b"\x03\xe8", mask=b"abcd"), 1002),
    "a masked first fragment": (encode_frame(Opcode.TEXT, b"", fin=False, mask=b"abcd"), 1002),
    "a masked last fragment": (
        encode_frame(Opcode.TEXT, b"a", fin=False) + encode_frame(Opcode.CONTINUATION, b"", mask=b"abcd"),
        1002,
    ),
    "reserved": (encode_frame(Opcode.TEXT, b"reserved", rsv=4), 1002),
    "too large": (encode_frame(Opcode.TEXT, b"x" * 1001), 1009),
    "much too large": (encode_frame(Opcode.TEXT, b"x" * 100_001), 1009),
    "a frame announced as large as can be": (encode_frame(Opcode.TEXT, b"", declared=2**64 - 1), 1009),
    "too large in fragments": (
        encode_frame(Opcode.TEXT, b"x" * 1000, fin=False) + encode_frame(Opcode.CONTINUATION, b"x"),
        1009,
    ),
    "too large in a fragment": (encode_frame(Opcode.TEXT, b"x" * 1001, fin=False), 1009),
    "the rest of nothing": (encode_frame(Opcode.CONTINUATION, b"of nothing"), 1002),
    "a long PING": (encode_frame(Opcode.PING, b"x" * 126), 1002),
    "a PING in fragments": (encode_frame(Opcode.PING, b"", fin=False), 1002),
    "a PING whose length is written in two bytes": (b"\x89\x7e\x00\x01p", 1002),
    "an unknown opcode": (encode_frame(3, b"unknown"), 1002),
    "an unknown control opcode": (encode_frame(11, b"unknown"), 1002),
    "a message within an empty one": (
        encode_frame(Opcode.TEXT, b"", fin=False) + encode_frame(Opcode.TEXT, b"within"),
        1002,
    ),
    "a fragment within a message": (
        encode_frame(Opcode.TEXT, b"a", fin=False) + encode_frame(Opcode.TEXT, b"b", fin=False),
        1002,
    ),
}


@pytest.mark.parametrize("read", [1, 1000, 1_000_000])
@pytest.mark.parametrize("limit", [10, 1000])
@pytest.mark.parametrize("what", ODD)
def test_what_breaks_the_protocol_is_the_last_thing_that_is_read(what, limit, read):
    odd, code = ODD[what]
    before, after = encode_frame(Opcode.TEXT, b"before"), encode_frame(Opcode.TEXT, b"after") * 3
    stream = before + odd + after
    for way in (Peer.read, Peer.receive):
        peer = Peer(limit)
        for part in parts(stream, read):
            way(peer, part)
        assert peer.heard == ["before"]
        assert peer.taker.end == code or (limit == 10 and peer.taker.end == 1009)
        assert ("max_message_size" in peer.taker.why) == (peer.taker.end == 1009)


@pytest.mark.parametrize("limit", [1, 10, 125, 126, 127, 65535, 65536])
@pytest.mark.parametrize("pieces", [1, 2, 7])
@pytest.mark.parametrize("read", [1000, 1_000_000])
def test_the_limit_is_inclusive_and_the_text_names_it_and_the_size(limit, pieces, read):
    def message(size):
        cuts = [size * number // pieces for number in range(pieces + 1)]
        return b"".join(
            encode_frame(
                Opcode.CONTINUATION if number else Opcode.BINARY,
                bytes(cuts[number + 1] - cuts[number]),
                fin=number == pieces - 1,
            )
            for number in range(pieces)
        )

    fits = Peer(limit).receive(message(limit), read)
    assert (fits.heard, fits.taker.end) == ([bytes(limit)], None)
    large = Peer(limit).receive(message(limit + 1), read)
    assert (large.heard, large.taker.end) == ([], 1009)
    assert f"{limit + 1} bytes" in large.taker.why
    assert f"max_message_size={limit}" in large.taker.why


LOOKS_LARGE = encode_frame(Opcode.BINARY, b"x" * LARGE)
AFTER = "y" * LARGE


@pytest.mark.parametrize("begun", [2, 5004])
def test_a_read_that_begins_as_a_large_frame_does_may_be_the_rest_of_another(begun):
    payload = b"12345" * 1000 + LOOKS_LARGE[:100]
    frame = encode_frame(Opcode.BINARY, payload)
    peer = Peer().read(frame[:begun]).receive(frame[begun:] + encode_frame(Opcode.TEXT, AFTER.encode()))
    assert peer.messages == [payload, AFTER]


def test_a_window_stays_as_it_is_however_many_large_frames_go_through_it():
    frame = encode_frame(Opcode.BINARY, b"x" * 70_000)
    peer = Peer().receive(frame * 100 + frame[:60_000], 111_111)
    assert len(peer.messages) == 100
    assert len(peer.cutter.window.view) == window.SIZE


def test_a_large_frame_of_characters_that_several_bytes_make_is_whole_before_it_is_decoded():
    message = "héé" * 20_000
    stream = encode_frame(Opcode.TEXT, message.encode()) * 3
    assert Peer().receive(stream, 50_001).messages == [message] * 3


def test_memory_for_a_frame_grows_with_what_has_come_of_it_not_with_what_is_announced():
    window.borrow()
    peer = Peer(limit=1 << 30).receive(encode_frame(Opcode.BINARY, b"x" * 10_000, declared=1 << 30))
    assert len(peer.cutter.window.view) == window.FIRST
    for filled in (30_014, 200_014, 1_000_014):
        peer.receive(b"x" * (filled - peer.cutter.window.end), 1500)
        assert filled <= len(peer.cutter.window.view) <= 2 * filled


def test_a_window_that_is_not_needed_any_more_is_for_the_next_connection():
    frame = encode_frame(Opcode.BINARY, b"x" * 70_000)
    first, second = Peer().receive(frame[:50_000]), Peer().receive(frame[:50_000])
    mine, other = first.cutter.window, second.cutter.window
    assert mine is not other
    first.receive(frame[50_000:])
    assert Peer().receive(frame[:50_000]).cutter.window is mine
    second.receive(frame[50_000:])
    assert second.messages == [b"x" * 70_000]


@pytest.mark.parametrize("size", [600_000, 700_000, 800_000, 1_000_000])
def test_a_window_is_hardly_larger_than_the_frame(size):
    frame = encode_frame(Opcode.BINARY, b"x" * size)
    peer = Peer(limit=1_000_000).receive(frame[:-10], 1500)
    assert len(peer.cutter.window.view) <= len(frame) + window.ROOM


def test_a_window_gets_smaller_again_when_a_smaller_frame_follows():
    peer = Peer(limit=10_000_000)
    peer.receive(
        encode_frame(Opcode.BINARY, b"x" * 10_000_000) + encode_frame(Opcode.BINARY, b"x" * LARGE)[:9_000]
    )
    assert [len(message) for message in peer.messages] == [10_000_000]
    assert len(peer.cutter.window.view) == window.SIZE


@pytest.mark.parametrize("begun", [0, 500, 60_000])
def test_what_a_tls_transport_says_that_it_has_fits_into_one_read(begun):
    peer = Peer().receive(encode_frame(Opcode.BINARY, b"x" * 70_000)[:begun])
    for least in (200, 100_000, 250_000, 100_000):
        assert len(peer.cutter.room(least, memoryview(bytearray(120 * 1024)))) >= least


def test_a_large_window_is_not_kept():
    frame = encode_frame(Opcode.BINARY, b"x" * 1_000_000)
    peer = Peer(limit=1_000_000).receive(frame[:900_000])
    grown = peer.cutter.window
    peer.receive(frame[900_000:])
    assert peer.messages == [b"x" * 1_000_000]
    assert window.borrow() is not grown


def test_pings_and_pongs_are_taken_out_in_order():
    ping, pong = encode_frame(Opcode.PING, b"p"), encode_frame(Opcode.PONG, b"x" * 125)
    before, after = encode_frame(Opcode.TEXT, b"before"), encode_frame(Opcode.TEXT, b"after")
    peer = Peer().read(before + ping + pong + after)
    assert peer.heard == ["before", (Opcode.PING, b"p"), (Opcode.PONG, b"x" * 125), "after"]


def test_a_control_frame_is_whole_when_it_is_taken():
    ping = encode_frame(Opcode.PING, b"12345")
    peer = Peer().read(ping[:1], ping[1:4])
    assert peer.heard == []
    assert peer.read(ping[4:]).heard == [(Opcode.PING, b"12345")]


def test_fragments_make_one_message_whatever_control_frames_stand_between_them():
    first, last = encode_frame(Opcode.TEXT, b"a", fin=False), encode_frame(Opcode.CONTINUATION, b"b")
    stream = first + encode_frame(Opcode.PING) + last + encode_frame(Opcode.TEXT, b"next")
    assert Peer().read(stream).heard == [(Opcode.PING, b""), "ab", "next"]


def test_behind_a_close_nothing_is_read():
    after = encode_frame(Opcode.TEXT, b"after")
    peer = Peer().read(encode_frame(Opcode.CLOSE, b"\x03\xe8") + after, after).receive(after * 10_000)
    assert peer.heard == [(Opcode.CLOSE, b"\x03\xe8")]


@pytest.mark.parametrize("header", [b"\x82\x7e\x00\x0a", b"\x82\x7f" + bytes(6) + b"\x00\x0a"])
@pytest.mark.parametrize("before", [b"", encode_frame(Opcode.BINARY, b"x" * LARGE)])
def test_a_length_that_is_longer_than_it_need_be_is_taken(before, header):
    assert Peer().receive(before + header + b"y" * 10).messages[-1] == b"y" * 10


def test_while_the_taker_takes_nothing_all_is_held():
    frame, ping = encode_frame(Opcode.TEXT, b"one"), encode_frame(Opcode.PING)
    peer = Peer()
    peer.taker.direct = False
    peer.read(frame + ping, frame[:2])
    assert peer.heard == []
    assert peer.cutter.stalled
    peer.taker.direct = True
    assert peer.read(frame[2:] + frame).heard == ["one", (Opcode.PING, b""), "one", "one"]


FLOODS = {
    "empty messages": (encode_frame(Opcode.TEXT), 60_000, 60_000),
    "tiny messages": (encode_frame(Opcode.BINARY, b"x"), 40_000, 40_000),
    "PINGs": (encode_frame(Opcode.PING), 60_000, 60_000 // (FRAMES * PINGS)),
    "long PINGs": (encode_frame(Opcode.PING, b"x" * 125), 1000, 1),
    "PONGs": (encode_frame(Opcode.PONG), 60_000, 60_000),
    "PINGs and PONGs": (encode_frame(Opcode.PING) + encode_frame(Opcode.PONG), 30_000, 60_000),
    "PINGs and messages": (encode_frame(Opcode.PING) + encode_frame(Opcode.TEXT), 30_000, 60_000),
    "empty fragments": (encode_frame(Opcode.CONTINUATION, fin=False), 60_000, 0),
    "messages of two fragments": (
        encode_frame(Opcode.TEXT, fin=False) + encode_frame(Opcode.CONTINUATION),
        30_000,
        30_000,
    ),
    "lengths in two bytes": (b"\x82\x7e\x00\x00", 30_000, 30_000),
}


@pytest.mark.parametrize("behind", [b"", encode_frame(Opcode.BINARY, b"x" * LARGE)], ids=["", "a large one"])
@pytest.mark.parametrize("what", FLOODS)
def test_of_a_flood_one_portion_is_small_and_nothing_is_lost(what, behind):
    frame, count, heard = FLOODS[what]
    begun = encode_frame(Opcode.TEXT, fin=False) if what == "empty fragments" else b""
    peer = Peer(limit=10 if not behind else 100_000)
    for part in parts(behind + begun + frame * count, 120_000):
        view = memoryview(bytearray(part))
        peer.cutter.read(view, len(view))
        longest = 0.0
        while peer.cutter.stalled:
            peer.taker.tell()
            since = time.thread_time()
            peer.cutter.feed(b"")
            longest = max(longest, time.thread_time() - since)
        assert longest < 0.02
    peer.read(encode_frame(Opcode.CONTINUATION if begun else Opcode.TEXT, b"last"))
    taken = len(peer.heard) - 1 - bool(behind)
    assert peer.heard[-1] == "last"
    assert heard <= taken <= heard + 3
    assert max(peer.taker.portions) <= 2 * MESSAGES


def test_a_step_is_small_only_as_long_as_messages_are_tiny():
    tiny, usual = encode_frame(Opcode.BINARY), encode_frame(Opcode.BINARY, b"x" * 125)
    peer = Peer().read(tiny * 30_000)
    assert peer.cutter._step == 2 * MESSAGES
    peer.read(usual * 500)
    assert peer.cutter._step == STEP


def test_a_portion_ends_where_messages_have_many_bytes():
    peer = Peer(limit=200_000)
    peer.cutter.feed(encode_frame(Opcode.BINARY, bytes(100_000)) * 10)
    assert peer.taker.bytes < BATCH + 200_000
    assert len(peer.read(b"").messages) == 10


def answered(heard):
    """What was heard; of several PINGs in a row the last one."""
    return [
        item
        for item, following in zip(heard, [*heard, ()][1:], strict=True)
        if not all(isinstance(one, tuple) and one[:1] == (Opcode.PING,) for one in (item, following))
    ]


@given(
    frames=st.lists(good_frames(), max_size=6), more=st.one_of(st.just(b""), bad_frames()), sizes=segments()
)
@example(frames=[], more=b"\x03\x13tail", sizes=[3])
def test_how_a_stream_is_cut_into_reads_changes_nothing(frames, more, sizes):
    stream = b"".join(frames) + more
    whole, cut, received = Peer(MAX_SIZE).read(stream), Peer(MAX_SIZE), Peer(MAX_SIZE)
    begin = 0
    while begin < len(stream):
        size = sizes[begin % len(sizes)]
        cut.read(stream[begin : begin + size])
        received.receive(stream[begin : begin + size])
        begin += size
    once = [(answered(peer.heard), peer.taker.end) for peer in (whole, cut, received)]
    assert once[0] == once[1] == once[2]
    size = sum(len(message.encode() if isinstance(message, str) else message) for message in whole.messages)
    assert whole.taker.size == size
    outcome = read_stream(stream, deflate=False, max_size=MAX_SIZE)
    assert whole.messages == outcome.messages
    if (Opcode.CLOSE) not in [
        item[0] for item in whole.heard if isinstance(item, tuple)
    ]:  # the link judges that
        assert whole.taker.end in (outcome.codes if outcome.ending is Ending.BROKEN else (None,))
