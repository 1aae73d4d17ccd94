"""However a compressed stream is cut into reads: the messages and the end are those of the stream, and memory is bounded."""

import itertools
import zlib

import aiohttp
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from resilient_ws.testing import Opcode, encode_frame
from resilient_ws.testing.server.wire import RSV1
from resilient_ws.transports.shared.frame_cutter import BATCH, KEPT
from resilient_ws.transports.shared.frame_writer import mask_slowly
from resilient_ws.transports.shared.inflate import PACK_STEP, Packer, Unpacker
from resilient_ws.transports.shared.stream_link import Intake
from tests.faults.fuzz_bytes import MAX_SIZE, bad_frames, good_frames, segments
from tests.faults.fuzz_reference import Ending, read_stream


class Peer:
    """A connection that stands between what a server sends and who takes messages, control frames and an end."""

    def __init__(self, limit=MAX_SIZE):
        self.intake = Intake()
        self.intake.link = self
        self.intake.direct = True
        self.cutter = Unpacker(self.intake, limit)
        self.feed = self.cutter.feed
        self.heard = []  # messages, and of control frames the opcode with the data
        self.end = None
        """The code that it ends with; `None` = it goes on."""
        self.why = ""

    def take_close(self, payload):
        self.take_control(8, payload)

    def take_control(self, opcode, payload):
        self.tell()
        self.heard.append((opcode, payload))

    def take_breach(self, code, why):
        self.end, self.why = code, why

    def tell(self):
        """Take the batch; return how large it was."""
        size, self.intake.bytes = self.intake.bytes, 0
        assert size == sum(len(one.encode() if isinstance(one, str) else one) for one in self.intake.batch)
        self.heard += self.intake.batch
        self.intake.batch.clear()
        return size

    def read(self, *reads):
        for data in reads:
            self.feed(data)
            self.tell()
            while self.cutter.stalled and self.intake.direct:
                self.feed(b"")
                self.tell()
        return self


class Server:
    """Compresses each message with what came before, as servers do."""

    def __init__(self):
        self.deflate = zlib.compressobj(wbits=-15)

    def packed(self, data, mode=zlib.Z_SYNC_FLUSH):
        return (self.deflate.compress(data) + self.deflate.flush(mode)).removesuffix(b"\x00\x00\xff\xff")

    def message(self, data, opcode=Opcode.TEXT):
        return encode_frame(opcode, self.packed(data), rsv=RSV1)

    def fragments(self, data, count, between=b"", opcode=Opcode.TEXT):
        packed = self.packed(data)
        cuts = [len(packed) * number // count for number in range(count + 1)]
        return between.join(
            encode_frame(
                Opcode.CONTINUATION if number else opcode,
                packed[begin:end],
                fin=number == count - 1,
                rsv=0 if number else RSV1,
            )
            for number, (begin, end) in enumerate(itertools.pairwise(cuts))
        )


PING = encode_frame(Opcode.PING, b"p")
PONG = encode_frame(Opcode.PONG)
TRADE = b'{"e":"trade","s":"BTCUSDT","p":"67012.35"}'


def all_kinds():
    """What a server may send, each message referring to those before it, and what it is heard as."""
    server = Server()
    accented = "für morgen ".encode() * 4
    return (
        server.message(TRADE)
        + PING
        + server.message(TRADE * 2)
        + encode_frame(Opcode.TEXT, TRADE)
        + server.message(TRADE, Opcode.BINARY)
        + server.fragments(TRADE, 3, between=PONG)
        + server.message(b"")
        + encode_frame(Opcode.BINARY, b"plain ", fin=False)
        + PING
        + encode_frame(Opcode.CONTINUATION, b"fragments")
        + server.message(accented)
        + server.fragments(accented, 7)
        + server.fragments(TRADE * 3, 2, opcode=Opcode.BINARY)
        + server.message(TRADE),
        [
            TRADE.decode(),
            (9, b"p"),
            TRADE.decode() * 2,
            TRADE.decode(),
            TRADE,
            (10, b""),
            (10, b""),
            TRADE.decode(),
            "",
            (9, b"p"),
            b"plain fragments",
            accented.decode(),
            accented.decode(),
            TRADE * 3,
            TRADE.decode(),
        ],
    )


def test_every_kind_of_message_at_once_and_byte_by_byte():
    stream, expected = all_kinds()
    assert Peer().read(stream).heard == expected
    assert Peer().read(*(stream[n : n + 1] for n in range(len(stream)))).heard == expected


def test_every_kind_of_message_cut_in_two_anywhere():
    stream, expected = all_kinds()
    for cut in range(len(stream)):
        assert Peer().read(stream[:cut], stream[cut:]).heard == expected, cut


def test_messages_that_are_large_on_the_wire_in_reads_of_many_sizes():
    server = Server()
    noise = [bytes(zlib.crc32(b"%d" % n) >> 8 & 0xFF for n in range(size)) for size in (130, 5000, 70_000)]
    stream = b"".join(
        server.message(data, Opcode.BINARY) + encode_frame(Opcode.BINARY, data) + server.message(TRADE)
        for data in noise
    )
    expected = [item for data in noise for item in (data, data, TRADE.decode())]
    for size in (1, 125, 999, KEPT, 16_384, 70_000, len(stream)):
        reads = [stream[begin : begin + size] for begin in range(0, len(stream), size)]
        assert Peer(100_000).read(*reads).heard == expected, size


@pytest.mark.parametrize("mode", [zlib.Z_FINISH, zlib.Z_SYNC_FLUSH])
@pytest.mark.parametrize("count", [1, 3])
def test_a_message_may_end_the_stream_of_zlib_and_another_one_begins(count, mode):
    """RFC 7692 section 7.2.3.4; and within one message."""
    first = b"".join(Server().packed(b"Hello", zlib.Z_FINISH) for _ in range(count))
    packed = (first + Server().packed(b"!", mode)) + (b"\x00" if mode == zlib.Z_FINISH else b"")
    frame = encode_frame(Opcode.TEXT, packed, rsv=RSV1)
    stream = frame * 2 + Server().message(TRADE)
    expected = ["Hello" * count + "!"] * 2 + [TRADE.decode()]
    for size in (1, len(frame) - 1, len(stream)):
        reads = [stream[begin : begin + size] for begin in range(0, len(stream), size)]
        assert Peer().read(*reads).heard == expected, size


def test_a_message_of_endless_streams_is_refused():
    """Each costs a copy of what follows."""
    frame = encode_frame(Opcode.BINARY, Server().packed(b"", zlib.Z_FINISH) * 20_000, rsv=RSV1)
    peer = Peer(100_000).read(frame)
    assert peer.end == 1009
    assert "members" in peer.why


def test_the_zlib_in_use_is_the_one_that_aiohttp_has_when_the_connection_begins():
    class Counting:
        made = 0

        def __getattr__(self, name):
            self.made += name == "decompressobj"
            return getattr(zlib, name)

    counting = Counting()
    aiohttp.set_zlib_backend(counting)
    try:
        peer = Peer()
    finally:
        aiohttp.set_zlib_backend(zlib)
    assert peer.read(Server().message(TRADE)).heard == [TRADE.decode()]
    assert counting.made == 1


BROKEN = {
    "not deflate": (encode_frame(Opcode.TEXT, b"\x07", rsv=RSV1), 1007),
    "refers to what never was": (encode_frame(Opcode.BINARY, b"\x02\x06\x00", rsv=RSV1), 1007),
    "not deflate, in fragments": (
        encode_frame(Opcode.TEXT, b"\x07", rsv=RSV1, fin=False) + encode_frame(Opcode.CONTINUATION),
        1007,
    ),
    "not UTF-8": (Server().message(b"\xff"), 1007),
    "not UTF-8, in fragments": (Server().fragments(b"\xc3" + bytes(50) + b"\xa4", 2), 1007),
    "plain, not UTF-8": (encode_frame(Opcode.TEXT, b"\xff"), 1007),
    "a byte too large": (Server().message(bytes(MAX_SIZE + 1)), 1009),
    "a byte too large, in fragments": (Server().fragments(bytes(MAX_SIZE + 1), 2), 1009),
    "a bomb": (Server().message(bytes(1_000_000)), 1009),
    "too large on the wire": (encode_frame(Opcode.TEXT, bytes(MAX_SIZE + 72), rsv=RSV1), 1009),
    "too large on the wire, in fragments": (
        encode_frame(Opcode.TEXT, bytes(MAX_SIZE), rsv=RSV1, fin=False)
        + encode_frame(Opcode.CONTINUATION, bytes(72)),
        1009,
    ),
    "masked": (encode_frame(Opcode.TEXT, b"\xca", rsv=RSV1, mask=b"abcd"), 1002),
    "masked, in fragments": (
        encode_frame(Opcode.TEXT, b"\xca", rsv=RSV1, fin=False)
        + encode_frame(Opcode.CONTINUATION, b"", mask=b"abcd"),
        1002,
    ),
    "RSV1 within a message": (
        encode_frame(Opcode.TEXT, b"a", fin=False) + encode_frame(Opcode.CONTINUATION, b"b", rsv=RSV1),
        1002,
    ),
    "RSV1 on a control frame": (encode_frame(Opcode.PING, rsv=RSV1), 1002),
    "RSV2": (encode_frame(Opcode.TEXT, b"", rsv=RSV1 | 2), 1002),
    "a message within a message": (
        encode_frame(Opcode.TEXT, b"a", fin=False, rsv=RSV1) + Server().message(b"b"),
        1002,
    ),
    "the rest of nothing": (encode_frame(Opcode.CONTINUATION, Server().packed(b"b")), 1002),
}


@pytest.mark.parametrize("what", BROKEN)
def test_what_is_broken_ends_it_after_what_came_before_and_nothing_is_heard_behind(what):
    broken, code = BROKEN[what]
    before, after = Server().message(TRADE), encode_frame(Opcode.TEXT, b"after") + PING
    stream = before + broken + after
    for reads in (
        [stream],
        [before, broken, after],
        [stream[n : n + 1] for n in range(len(stream))],
    ):
        peer = Peer().read(*reads)
        assert (peer.heard, peer.end) == ([TRADE.decode()], code)


@pytest.mark.parametrize("limit", [1, 10, 125, 126, 1000])
def test_the_limit_is_inclusive_however_small(limit):
    for frame in (
        Server().message(bytes(limit), Opcode.BINARY),
        Server().fragments(bytes(limit), 2, opcode=Opcode.BINARY),
        encode_frame(Opcode.BINARY, bytes(limit)),
    ):
        assert Peer(limit).read(frame).heard == [bytes(limit)]
    for frame in (
        Server().message(bytes(limit + 1), Opcode.BINARY),
        Server().fragments(bytes(limit + 1), 2, opcode=Opcode.BINARY),
        encode_frame(Opcode.BINARY, bytes(limit + 1)),
    ):
        peer = Peer(limit).read(PING + frame)
        assert (peer.heard, peer.end) == ([(9, b"p")], 1009)


def test_of_a_bomb_hardly_more_is_unpacked_than_is_taken():
    asked = []
    peer = Peer()
    stream = peer.cutter.inflater.stream

    class Watched:
        eof = False

        @staticmethod
        def decompress(data, most):
            made = stream.decompress(data, most)
            asked.append(len(made))
            return made

    peer.cutter.inflater.stream = Watched
    assert peer.read(Server().message(bytes(1_000_000))).end == 1009
    assert asked == [MAX_SIZE + 1]


def test_a_read_that_unpacks_to_much_is_told_in_batches():
    size = 50_000
    server = Server()
    peer = Peer(size)
    peer.feed(b"".join(server.message(bytes(size), Opcode.BINARY) for _ in range(100)))
    batches = []
    while peer.intake.batch:
        batches.append(peer.tell())
        peer.feed(b"")
    assert sum(batches) == 100 * size
    assert max(batches) < BATCH + size
    assert not peer.cutter.stalled


def test_what_waits_for_a_taker_is_not_unpacked_and_then_told_in_order():
    stream, expected = all_kinds()
    for cut in range(0, len(stream), 3):
        peer = Peer().read(stream[:cut])
        heard = list(peer.heard)
        peer.intake.direct = False
        peer.read(stream[cut : cut + 50], stream[cut + 50 :])
        assert peer.heard == heard
        assert peer.cutter.stalled
        peer.intake.direct = True
        assert peer.read(b"").heard == expected, cut


@given(
    frames=st.lists(good_frames(), max_size=6),
    more=st.one_of(st.just(b""), bad_frames()),
    after=st.lists(good_frames(), max_size=2),
    sizes=segments(),
)
@example(frames=[], more=b"\x40\x01", after=[], sizes=[3])
def test_it_makes_of_a_stream_what_the_standard_makes_of_it(frames, more, after, sizes):
    stream = b"".join((*frames, more, *after))
    outcome = read_stream(stream, deflate=True, max_size=MAX_SIZE)
    reads, begin = [], 0
    for size in itertools.cycle(sizes):
        if begin >= len(stream):
            break
        reads.append(stream[begin : begin + size])
        begin += size
    peer = Peer().read(*reads)
    messages = [item for item in peer.heard if not isinstance(item, tuple)]
    assert messages[: len(outcome.messages)] == outcome.messages
    if any(item[0] == 8 for item in peer.heard if isinstance(item, tuple)):
        return  # what a CLOSE says is for the link to judge
    if outcome.ending is Ending.BROKEN:
        assert peer.end in outcome.codes
    elif outcome.ending is Ending.CUT:
        assert (messages, peer.end) == (outcome.messages, None)


def unmasked(frames):
    """Return what a server would read of these frames, as it would send it."""
    made = b""
    while frames:
        size, at = frames[1] & 0x7F, 2
        if size >= 126:
            at = 4 if size == 126 else 10
            size = int.from_bytes(frames[2:at])
        payload = bytearray(frames[at + 4 : at + 4 + size])
        mask_slowly(frames[at : at + 4], payload)
        made += encode_frame(frames[0] & 0x0F, bytes(payload), rsv=frames[0] >> 4 & 7)
        frames = frames[at + 4 + size :]
    return made


@pytest.mark.parametrize("forgets", [False, True])
@given(messages=st.lists(st.one_of(st.text(max_size=300), st.binary(max_size=300)), min_size=1, max_size=8))
@example(messages=["", "", b"", "x"])
def test_what_is_packed_is_unpacked_by_the_other_side(forgets, messages):
    packer, made = Packer(15, forgets=forgets), []
    for _ in range(2):
        assert list(packer.steps(messages, mask_slowly, made.append)) == []
    assert len(made) == 2
    assert Peer(1000).read(unmasked(b"".join(made))).heard == messages * 2


@pytest.mark.parametrize("size", [PACK_STEP, PACK_STEP + 1, 5 * PACK_STEP])
def test_a_large_message_is_packed_a_step_at_a_time_and_written_whole(size):
    packer, made = Packer(15, forgets=False), []
    noise = bytes(zlib.crc32(b"%d" % n) & 0xFF for n in range(size))
    steps = packer.steps([b"before", noise, "after"], mask_slowly, made.append)
    for _ in steps:
        assert len(made) <= 2
    assert Peer(10 * PACK_STEP).read(unmasked(b"".join(made))).heard == [b"before", noise, "after"]
