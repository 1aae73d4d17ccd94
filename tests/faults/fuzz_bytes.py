"""What a fuzzed server sends: answers to the handshake and frames, most of them nearly right."""

import struct
import zlib

from hypothesis import strategies as st

from resilient_ws.testing import Opcode, encode_frame
from resilient_ws.testing.server.wire import RSV1

MAX_SIZE = 2_000
"""Bytes of the largest message that the fuzzed client takes."""

LAST = encode_frame(Opcode.TEXT, b"the last one") + encode_frame(Opcode.CLOSE, struct.pack("!H", 1000))

TEXTS = st.text(max_size=200)
BYTES = st.one_of(st.binary(max_size=200), st.integers(0, MAX_SIZE + 2).map(bytes))
SMALL = st.binary(max_size=125)
CODES = st.one_of(
    st.sampled_from([0, 999, 1000, 1004, 1005, 1006, 1015, 1016, 2999, 3000, 4999]), st.integers(0, 65535)
)


def deflated(payload: bytes) -> bytes:
    """Return a message compressed on its own."""
    deflate = zlib.compressobj(wbits=-15)
    return (deflate.compress(payload) + deflate.flush(zlib.Z_SYNC_FLUSH))[:-4]


def control_frames() -> st.SearchStrategy[bytes]:
    """A ping or a pong."""
    return st.builds(encode_frame, st.sampled_from([Opcode.PING, Opcode.PONG]), SMALL)


@st.composite
def fragments(draw: st.DrawFn) -> bytes:
    """A message in pieces, some of them empty, with control frames in between."""
    text = draw(st.booleans())
    whole = draw(TEXTS).encode() if text else draw(BYTES)
    rsv = draw(st.sampled_from([0, 0, 0, RSV1]))
    whole = deflated(whole) if rsv else whole
    cuts = sorted(draw(st.lists(st.integers(0, len(whole)), max_size=4)))
    pieces = [whole[begin:end] for begin, end in zip([0, *cuts], [*cuts, len(whole)], strict=True)]
    stream = b""
    for number, piece in enumerate(pieces):
        opcode = Opcode.CONTINUATION if number else (Opcode.TEXT if text else Opcode.BINARY)
        is_last = number == len(pieces) - 1
        stream += encode_frame(opcode, piece, fin=is_last, rsv=0 if number else rsv)
        if not is_last:
            stream += draw(st.one_of(st.just(b""), control_frames()))
    return stream


def good_frames() -> st.SearchStrategy[bytes]:
    """What a server may send."""
    return st.one_of(
        TEXTS.map(lambda text: encode_frame(Opcode.TEXT, text.encode())),
        BYTES.map(lambda data: encode_frame(Opcode.BINARY, data)),
        control_frames(),
        fragments(),
        TEXTS.map(lambda text: encode_frame(Opcode.TEXT, deflated(text.encode()), rsv=RSV1)),
        BYTES.map(lambda data: encode_frame(Opcode.BINARY, deflated(data), rsv=RSV1)),
    )


def bad_frames() -> st.SearchStrategy[bytes]:
    """What it must not send, most of the time."""
    return st.one_of(
        st.binary(min_size=1, max_size=40),
        st.builds(
            encode_frame,
            st.integers(0, 15),
            st.one_of(SMALL, BYTES),
            fin=st.booleans(),
            rsv=st.sampled_from([0, 0, 0, *range(1, 8)]),
            mask=st.one_of(st.none(), st.none(), st.binary(min_size=4, max_size=4)),
        ),
        st.builds(
            encode_frame,
            st.sampled_from([Opcode.TEXT, Opcode.BINARY, Opcode.PING]),
            SMALL,
            declared=st.one_of(
                st.integers(0, 300),
                st.sampled_from([MAX_SIZE, MAX_SIZE + 1, 65535, 65536, 2**31, 2**63 - 1, 2**63, 2**64 - 1]),
            ),
        ),
        st.binary(max_size=30).map(lambda data: encode_frame(Opcode.TEXT, data)),
        st.builds(
            lambda code, reason: encode_frame(Opcode.CLOSE, struct.pack("!H", code) + reason),
            CODES,
            st.one_of(st.text(max_size=30).map(str.encode), st.binary(max_size=123)),
        ),
        st.binary(max_size=3).map(lambda payload: encode_frame(Opcode.CLOSE, payload)),
        st.binary(max_size=60).map(lambda data: encode_frame(Opcode.BINARY, data, rsv=RSV1)),
        st.integers(MAX_SIZE - 2, 300_000).map(
            lambda size: encode_frame(Opcode.BINARY, deflated(bytes(size)), rsv=RSV1)
        ),
        # A length in more bytes than it needs.
        SMALL.map(lambda data: struct.pack("!BBH", 0x82, 126, len(data)) + data),
    )


@st.composite
def streams(draw: st.DrawFn) -> bytes:
    """What follows a valid handshake: mostly good frames, then perhaps a bad one or some bytes changed."""
    stream = b"".join(draw(st.lists(good_frames(), max_size=6)))
    if draw(st.booleans()):
        stream += draw(bad_frames())
        stream += b"".join(draw(st.lists(good_frames(), max_size=3)))
    if stream and draw(st.integers(0, 3)) == 0:
        changed = bytearray(stream)
        for _ in range(draw(st.integers(1, 3))):
            changed[draw(st.integers(0, len(changed) - 1))] ^= 1 << draw(st.integers(0, 7))
        stream = bytes(changed)
    return stream + draw(st.sampled_from([LAST, LAST, LAST, b""]))


def segments() -> st.SearchStrategy[list[int]]:
    """The sizes of what is handed to TCP at once, repeated over and over."""
    return st.lists(st.sampled_from([3, 7, 64, 200, 1_000, 100_000, 100_000]), min_size=1, max_size=4)


@st.composite
def handshake_fields(draw: st.DrawFn) -> tuple[bytes, bool | None]:
    """Return an answer with ``ACCEPT`` for the accept value, and whether it opens: `None` is either."""
    fields: list[tuple[bytes, bool | None]] = [
        (b"HTTP/1.1 101 Switching Protocols", True),
        (b"Upgrade: websocket", True),
        (b"Connection: Upgrade", True),
        (b"Sec-WebSocket-Accept: ACCEPT", True),
    ]
    for _ in range(draw(st.integers(0, 3))):
        place = draw(st.integers(0, len(fields) - 1))
        field, verdict = fields[place]
        change = draw(st.integers(0, 11))
        if change == 0:
            fields.insert(
                place + 1 if place else len(fields),
                (b"X-" + draw(st.binary(max_size=20)).hex().encode() + b": y", True),
            )
        elif change == 1 and place:
            name, _, value = field.partition(b":")
            fields[place] = (name.swapcase() + b":" + value, verdict)
        elif change == 2 and place:
            fields[place] = (field.replace(b": ", b":   ") + b"  ", verdict)
        elif change == 3:
            fields[place] = (field[: draw(st.integers(0, max(0, len(field) - 1)))], None)
        elif change == 4 and place:
            del fields[place]
            return build(draw, [(name, None) for name, _ in fields])
        elif change == 5:
            fields.append((field, None))  # twice
        elif change == 6 and place:
            fields[place] = (field.replace(b": ", b":\r\n  "), None)  # folded
        elif change == 7:
            fields.append((b"X-Huge: " + b"x" * draw(st.sampled_from([4_000, 9_000, 200_000])), None))
        elif change == 8:
            changed = bytearray(field or b"x")
            changed[draw(st.integers(0, len(changed) - 1))] = draw(st.integers(0, 255))
            fields[place] = (bytes(changed), None)
        elif change == 9:
            fields[0] = (draw(st.sampled_from(STATUS_LINES)), None)
        elif change == 10:
            fields.append((draw(st.sampled_from(ODD_FIELDS)), None))
        else:
            fields.append((draw(st.sampled_from(REFUSED_FIELDS)), False))
    return build(draw, fields)


def build(draw: st.DrawFn, fields: list[tuple[bytes, bool | None]]) -> tuple[bytes, bool | None]:
    """Return the answer that consists of these, and what they say together."""
    verdicts = [verdict for _, verdict in fields]
    early = draw(
        st.sampled_from(
            [b"", b"", b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 103 Early Hints\r\nX: y\r\n\r\n"]
        )
    )
    verdict = None if None in verdicts or early else all(verdicts)
    return early + b"\r\n".join(field for field, _ in fields) + b"\r\n\r\n", verdict


STATUS_LINES = [
    b"HTTP/1.1 101",
    b"HTTP/1.0 101 Switching Protocols",
    b"HTTP/2.0 101 Switching Protocols",
    b"HTTP/1.1 1010 Switching Protocols",
    b"HTTP/1.1 99 No",
    b"HTTP/1.1 000 No",
    b"HTTP/1.1 -101 No",
    b"HTTP/1.1 200 OK",
    b"HTTP/1.1 204 No Content",
    b"HTTP/1.1 302 Found",
    b"HTTP/1.1 401 Unauthorized",
    b"HTTP/1.1 429 Too Many Requests",
    b"HTTP/1.1 999 What",
    b"HTTP/1.1 101 " + b"\xff" * 20,
    b"ICY 200 OK",
    b"",
]
ODD_FIELDS = [
    b"Content-Length: 5",
    b"Content-Length: -1",
    b"Content-Length: 99999999999999999999999",
    b"Transfer-Encoding: chunked",
    b"Transfer-Encoding: gzip, chunked",
    b"Content-Encoding: br",
    b"Content-Encoding: deflate",
    b"Content-Type: \xff\xfe",
    b"Location: ws://[",
    b"Location: \xff\xfe://",
    b"Location: /" + b"a" * 5_000,
    b"Retry-After: " + b"9" * 3_000,
    b"Retry-After: Mon, 99 Foo 99999 99:99:99 +9999",
    b"Date: Mon, 01 Jan 0001 00:00:00 +2359",
    b"Set-Cookie: \xff=\x01; Max-Age=99999999999999999999; Expires=Foo",
    b"Set-Cookie: a=b; Domain=.; Path=\\",
    b"Connection: close",
    b"Connection: ,,,;keep-alive",
    b"Connection",
    b": no name",
    b"No Space : x",
    b"\x00: \x00",
    b"Sec-WebSocket-Extensions: ",
    b"Sec-WebSocket-Extensions: permessage-deflate; server_max_window_bits=99",
    b"Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits=x; =; ;;",
    b"Sec-WebSocket-Extensions: permessage-deflate, permessage-deflate",
]
REFUSED_FIELDS = [
    b"Sec-WebSocket-Protocol: nobody-asked",
    b"Sec-WebSocket-Extensions: x-unknown",
]
