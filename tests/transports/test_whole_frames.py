"""However a stream is cut into reads: the messages are those of the stream, and the parser gets whole frames in order."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from resilient_ws.testing import Opcode, encode_frame
from resilient_ws.transports import window
from resilient_ws.transports.whole_frames import KEPT, LARGE, Cutter
from tests.faults.fuzz_bytes import MAX_SIZE, bad_frames, good_frames, segments

SIZES = (0, 1, 125, 126, 127, KEPT - 4, KEPT, 65535, 65536, 70_000)


class Taker:
    """Notes what it is given, in one list with what the parser gets."""

    def __init__(self):
        self.direct = True
        self.hears = True  # of a PING and a PONG
        self.bytes = 0
        self.heard = []

    def append(self, message):
        self.heard.append(message)

    def control(self, opcode, payload):
        if not self.hears:
            return False
        self.heard.append((opcode, payload))
        return True


class Peer:
    """A cutter with a taker and a parser that gathers frames and finds nothing wrong."""

    def __init__(self, limit=100_000, breaks_at=None):
        self.taker = Taker()
        self.fed = b""
        self.breaks_at = breaks_at
        self.cutter = Cutter(self.taker, self.parse, limit)

    def parse(self, data):
        self.fed += data
        self.taker.heard.append(bytearray(data))
        return self.breaks_at is not None and len(self.fed) >= self.breaks_at

    def read(self, *reads):
        for data in reads:
            self.cutter.feed(data)
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
            scratch[:] = bytes(len(scratch))  # others read into it
            stream = stream[len(part) :]
        return self

    @property
    def stream(self):
        """What all that was heard was made of."""
        return b"".join(
            bytes(item)
            if isinstance(item, bytearray)
            else encode_frame(*item)
            if isinstance(item, tuple)
            else encode_frame(
                Opcode.TEXT if isinstance(item, str) else Opcode.BINARY,
                item.encode() if isinstance(item, str) else item,
            )
            for item in self.taker.heard
        )

    @property
    def messages(self):
        return [item for item in self.taker.heard if not isinstance(item, (bytearray, tuple))]


def text(size):
    return "x" * size


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("opcode", [Opcode.TEXT, Opcode.BINARY])
def test_whole_frames_of_every_length_class_are_cut_out(opcode, size):
    payload = b"x" * size
    peer = Peer().read(encode_frame(opcode, payload) * 3)
    assert peer.messages == [payload.decode() if opcode is Opcode.TEXT else payload] * 3
    assert (peer.taker.bytes, peer.fed) == (3 * size, b"")


@pytest.mark.parametrize("size", [0, 1, 125, 126, 200, 4000])
def test_a_small_frame_may_come_byte_by_byte(size):
    stream = encode_frame(Opcode.TEXT, b"x" * size) + encode_frame(Opcode.BINARY, b"end")
    peer = Peer().read(*(stream[n : n + 1] for n in range(len(stream))))
    assert peer.messages == ["x" * size, b"end"]
    assert peer.fed == b""


def test_a_frame_in_pieces_that_is_neither_small_nor_large_goes_to_the_parser_piece_by_piece():
    frame = encode_frame(Opcode.BINARY, b"x" * 10_000)
    peer = Peer().read(frame[:1000])
    assert peer.fed == frame[:1000]
    peer.read(frame[1000:2000], frame[2000:] + encode_frame(Opcode.TEXT, b"next"))
    assert peer.fed == frame
    assert peer.messages == ["next"]


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
    if size >= LARGE:
        assert len(peer.messages) == 13
        assert (Opcode.PING, b"p") in peer.taker.heard
        assert peer.fed == b""
    assert peer.taker.bytes == sum(len(message) for message in peer.messages)
    assert peer.cutter.window is None


def parts(stream, size):
    return [stream[begin : begin + size] for begin in range(0, len(stream), size)]


def test_a_large_frame_that_is_whole_while_the_taker_takes_nothing_goes_to_the_parser_in_order():
    first, second = encode_frame(Opcode.TEXT, b"a" * 70_000), encode_frame(Opcode.BINARY, b"b" * 70_000)
    small = encode_frame(Opcode.TEXT, b"small")
    peer = Peer().receive(first[:1000] + b"")
    peer.receive(first[1000:30_000])
    peer.taker.direct = False
    peer.receive(first[30_000:] + second + small)
    assert (peer.messages, peer.fed) == ([], first + second + small)
    peer.taker.direct = True
    assert peer.receive(second + small).messages == [b"b" * 70_000, "small"]


@pytest.mark.parametrize("read", [16_000, 50_000, 120_000])
@pytest.mark.parametrize(
    "odd",
    [
        encode_frame(Opcode.TEXT, b"x" * 69_999 + b"\xff"),
        encode_frame(Opcode.TEXT, b"masked" * 10_000, mask=b"abcd"),
        encode_frame(Opcode.TEXT, b"reserved" * 10_000, rsv=4),
        encode_frame(Opcode.TEXT, b"x" * 100_001),
        encode_frame(Opcode.CONTINUATION, b"x" * 70_000),
        encode_frame(Opcode.TEXT, b"", fin=False) + encode_frame(Opcode.TEXT, b"x" * 70_000),
        b"\x82\x7f" + (20_000).to_bytes(8) + b"x" * 20_000,
    ],
)
def test_from_a_large_frame_that_ends_a_connection_on_the_parser_gets_everything(odd, read):
    before, after = encode_frame(Opcode.TEXT, b"b" * 70_000), encode_frame(Opcode.TEXT, b"after" * 10_000)
    peer = Peer(breaks_at=3).receive(before + odd + after, read)
    assert peer.messages == ["b" * 70_000]
    assert peer.fed == odd + after


LOOKS_LARGE = encode_frame(Opcode.BINARY, b"x" * LARGE)
AFTER = "y" * LARGE


@pytest.mark.parametrize(
    "begun, rest, messages",
    [
        (encode_frame(Opcode.BINARY, LOOKS_LARGE[:100])[:2], LOOKS_LARGE[:100], [LOOKS_LARGE[:100], AFTER]),
        (encode_frame(Opcode.BINARY, b"12345" * 1000 + LOOKS_LARGE[:100])[:5004], LOOKS_LARGE[:100], [AFTER]),
        (encode_frame(Opcode.BINARY, b"1", fin=False), LOOKS_LARGE, []),
        (encode_frame(3, b"1"), LOOKS_LARGE, []),
    ],
)
def test_a_read_that_begins_as_a_large_frame_does_may_be_something_else(begun, rest, messages):
    """The rest of a small frame, of one that goes to the parser, and what comes where it must not."""
    stream = rest + encode_frame(Opcode.TEXT, AFTER.encode())
    peer = Peer().read(begun).receive(stream)
    assert peer.messages == messages
    assert peer.stream == begun + stream


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
    assert peer.taker.heard == ["before", (Opcode.PING, b"p"), (Opcode.PONG, b"x" * 125), "after"]
    assert peer.fed == b""


def test_pings_and_pongs_go_to_the_parser_in_order_while_nobody_hears_of_them():
    ping, pong = encode_frame(Opcode.PING, b"p"), encode_frame(Opcode.PONG)
    before, after = encode_frame(Opcode.TEXT, b"before"), encode_frame(Opcode.TEXT, b"after")
    peer = Peer()
    peer.taker.hears = False
    peer.read(before + ping + pong + after)
    assert peer.taker.heard == ["before", bytearray(ping), bytearray(pong), "after"]


@pytest.mark.parametrize("hears", [True, False])
def test_a_control_frame_is_whole_when_it_is_taken(hears):
    ping = encode_frame(Opcode.PING, b"12345")
    peer = Peer()
    peer.taker.hears = hears
    peer.read(ping[:1], ping[1:4])
    assert peer.taker.heard == []
    peer.read(ping[4:])
    assert peer.taker.heard == [(Opcode.PING, b"12345") if hears else bytearray(ping)]


def test_a_ping_whose_length_is_written_in_two_bytes_is_for_the_parser_to_judge():
    ping = b"\x89\x7e\x00\x01p"
    assert Peer().read(ping).fed == ping


def test_fragments_go_to_the_parser_but_for_a_ping_between_them():
    first, last = encode_frame(Opcode.TEXT, b"a", fin=False), encode_frame(Opcode.CONTINUATION, b"b")
    peer = Peer().read(first + encode_frame(Opcode.PING) + last + encode_frame(Opcode.TEXT, b"next"))
    assert peer.taker.heard == [bytearray(first), (Opcode.PING, b""), bytearray(last), "next"]
    assert peer.messages == ["next"]


@pytest.mark.parametrize(
    "odd",
    [
        encode_frame(Opcode.CLOSE, b"\x03\xe8"),
        encode_frame(Opcode.TEXT, b"\xff"),
        encode_frame(Opcode.TEXT, b"masked", mask=b"abcd"),
        encode_frame(Opcode.TEXT, b"reserved", rsv=4),
        encode_frame(Opcode.TEXT, b"x" * 1001),
        encode_frame(Opcode.CONTINUATION, b"of nothing"),
        encode_frame(Opcode.PING, b"x" * 126),
        encode_frame(Opcode.PING, b"", fin=False),
        encode_frame(3, b"unknown"),
        encode_frame(Opcode.TEXT, b"", fin=False) + encode_frame(Opcode.TEXT, b"within"),
    ],
)
def test_from_whatever_ends_a_connection_on_the_parser_gets_everything(odd):
    after = encode_frame(Opcode.TEXT, b"after")
    peer = Peer(limit=1000, breaks_at=1003 if len(odd) > 1000 else None)
    peer.read(encode_frame(Opcode.TEXT, b"before") + odd + after, after)
    assert peer.messages == ["before"]
    assert peer.fed == odd + after + after


@pytest.mark.parametrize("header", [b"\x81\x7e\x00\x01x", b"\x82\x7f" + bytes(7) + b"\x01x"])
def test_a_length_that_is_longer_than_it_need_be_is_for_the_parser_to_judge(header):
    peer = Peer().read(header)
    assert (peer.messages, peer.fed) == ([], header)


@pytest.mark.parametrize("header", [b"\x82\x7e\x00\x0a", b"\x82\x7f" + bytes(6) + b"\x40\x00"])
def test_so_is_one_behind_a_large_message(header):
    large = encode_frame(Opcode.BINARY, b"x" * LARGE)
    peer = Peer().receive(large + header + b"y" * 10)
    assert peer.messages == [b"x" * LARGE]
    assert peer.fed == header + b"y" * 10


def test_a_parser_that_found_an_error_gets_everything():
    part, after = encode_frame(Opcode.TEXT, b"part", fin=False), encode_frame(Opcode.TEXT, b"after")
    ping = encode_frame(Opcode.PING)
    peer = Peer(breaks_at=len(part)).read(part + ping + after)
    assert (peer.messages, peer.fed) == ([], part + ping + after)


def test_while_the_taker_takes_nothing_the_parser_gets_everything():
    frame = encode_frame(Opcode.TEXT, b"one")
    peer = Peer()
    peer.taker.direct = False
    peer.read(frame + frame[:2])
    peer.taker.direct = True
    peer.read(frame[2:] + frame)
    assert peer.fed + b"" == frame
    assert peer.messages == ["one", "one"]


def test_where_only_tiny_messages_are_taken_the_parser_judges_each():
    frame = encode_frame(Opcode.TEXT, b"x" * 11)
    assert Peer(limit=10).read(frame).fed == frame


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
    assert (whole.messages, whole.fed) == (cut.messages, cut.fed) == (received.messages, received.fed)
    assert whole.stream == stream[: len(whole.stream)]
    assert whole.taker.bytes == sum(
        len(message.encode() if isinstance(message, str) else message) for message in whole.messages
    )
