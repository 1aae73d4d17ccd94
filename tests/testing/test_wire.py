import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilient_ws.testing.server.deflate import Codec, Deflate
from resilient_ws.testing.server.wire import (
    RSV1,
    RSV2,
    Assembler,
    Frame,
    FrameParser,
    Opcode,
    WireError,
    apply_mask,
    check_client_frame,
    decode_close,
    encode_close,
    encode_frame,
)


@given(
    frames=st.lists(
        st.builds(
            Frame,
            opcode=st.integers(0, 15),
            payload=st.sampled_from(
                [b"", b"a", bytes(125), bytes(126), bytes(65535), bytes(65536), os.urandom(777)]
            ),
            fin=st.booleans(),
            rsv=st.integers(0, 7),
            masked=st.booleans(),
        ),
        max_size=5,
    ),
    cut=st.integers(1, 70000),
)
def test_what_is_encoded_is_parsed_however_it_is_cut(frames: list[Frame], cut: int):
    mask = b"\x01\xff\x80\x7f"
    stream = b"".join(
        encode_frame(f.opcode, f.payload, fin=f.fin, rsv=f.rsv, mask=mask if f.masked else None)
        for f in frames
    )
    parser = FrameParser(1 << 20)
    parsed = [frame for at in range(0, len(stream), cut) for frame in parser.feed(stream[at : at + cut])]
    assert parsed == frames
    assert parser.pending == 0


def test_the_examples_of_rfc_6455_section_5_7():
    assert encode_frame(Opcode.TEXT, b"Hello") == bytes.fromhex("810548656c6c6f")
    assert encode_frame(Opcode.TEXT, b"Hello", mask=bytes.fromhex("37fa213d")) == bytes.fromhex(
        "818537fa213d7f9f4d5158"
    )
    assert encode_frame(Opcode.TEXT, b"Hello"[:3], fin=False) == bytes.fromhex("010348656c")
    assert encode_frame(Opcode.CONTINUATION, b"lo") == bytes.fromhex("80026c6f")
    assert encode_frame(Opcode.BINARY, bytes(256))[:4] == bytes.fromhex("827e0100")
    assert encode_frame(Opcode.BINARY, bytes(65536))[:10] == bytes.fromhex("827f0000000000010000")


def test_a_mask_applied_twice_is_none():
    assert apply_mask(apply_mask(b"seven b", b"abcd"), b"abcd") == b"seven b"
    assert apply_mask(b"", b"abcd") == b""


def test_a_declared_length_may_lie():
    assert encode_frame(Opcode.TEXT, b"ab", declared=9) == b"\x81\x09ab"


@pytest.mark.parametrize(
    "options,complaint",
    [
        ({"opcode": 16}, "opcode must be 0 to 15, not 16"),
        ({"opcode": 1, "rsv": 8}, "rsv must be 0 to 7, not 8"),
        ({"opcode": 1, "mask": b"abc"}, "mask must be 4 bytes, not 3"),
        ({"opcode": 1, "declared": 2**64}, r"declared must be 0 to 2\*\*64 - 1, not"),
    ],
)
def test_what_does_not_fit_into_a_header_is_refused(options: dict, complaint: str):
    with pytest.raises(ValueError, match=complaint):
        encode_frame(**options)


def test_the_parser_refuses_a_length_that_it_was_not_made_for():
    with pytest.raises(WireError, match="longer than 10") as caught:
        FrameParser(10).feed(encode_frame(2, declared=11))
    assert caught.value.code == 1009
    with pytest.raises(WireError, match="most significant bit") as caught:
        FrameParser(10).feed(encode_frame(2, declared=2**63))
    assert caught.value.code == 1002


@pytest.mark.parametrize(
    "frame,complaint",
    [
        (Frame(1, masked=False), "not masked"),
        (Frame(3, masked=True), "opcode 3 is not assigned"),
        (Frame(9, masked=True, fin=False), "fragmented"),
        (Frame(9, bytes(126), masked=True), "126 bytes is longer than 125"),
        (Frame(9, rsv=1, masked=True), "reserved bit"),
    ],
)
def test_a_frame_that_no_client_may_send(frame: Frame, complaint: str):
    with pytest.raises(WireError, match=complaint) as caught:
        check_client_frame(frame)
    assert caught.value.code == 1002


@pytest.mark.parametrize(
    "frames,code",
    [
        ([Frame(0)], 1002),
        ([Frame(1, fin=False), Frame(1)], 1002),
        ([Frame(1, fin=False), Frame(0, rsv=RSV1)], 1002),
        ([Frame(1, rsv=RSV1)], 1002),
        ([Frame(1, rsv=RSV2)], 1002),
        ([Frame(1, b"\xff")], 1007),
        ([Frame(2, bytes(60), fin=False), Frame(0, bytes(60))], 1009),
    ],
)
def test_messages_that_break_a_rule(frames: list[Frame], code: int):
    assembler = Assembler(100)
    with pytest.raises(WireError) as caught:
        for frame in frames:
            assembler.add(frame)
    assert caught.value.code == code


def test_fragments_are_joined_and_text_is_decoded_as_a_whole():
    assembler = Assembler(100)
    assert assembler.add(Frame(1, "ä".encode()[:1], fin=False)) is None
    assert assembler.add(Frame(0, "ä".encode()[1:])) == "ä"
    assert assembler.add(Frame(2, b"\xff")) == b"\xff"


def test_the_payload_of_a_close_frame():
    assert decode_close(encode_close(4000, "why")) == (4000, "why")
    assert decode_close(encode_close(None)) == (None, "")
    with pytest.raises(WireError, match="one byte"):
        decode_close(b"\x03")
    with pytest.raises(WireError, match="not UTF-8"):
        decode_close(encode_close(1000, b"\xff"))
    with pytest.raises(ValueError, match="code must be 0 to 65535, not 65536"):
        encode_close(65536)
    with pytest.raises(ValueError, match="not None"):
        encode_close(None, "why")


class TestDeflate:
    def test_nothing_is_agreed_without_an_offer(self):
        assert Deflate().agree("") is None
        assert Deflate().agree("x-webkit-deflate-frame, other; a=1") is None

    @pytest.mark.parametrize(
        "ours,offer,header",
        [
            (Deflate(), "permessage-deflate", "permessage-deflate"),
            (Deflate(), "permessage-deflate; client_max_window_bits", "permessage-deflate"),
            (
                Deflate(client_max_window_bits=10),
                "permessage-deflate; client_max_window_bits",
                "permessage-deflate; client_max_window_bits=10",
            ),
            (Deflate(client_max_window_bits=10), "permessage-deflate", "permessage-deflate"),
            (
                Deflate(server_max_window_bits=12),
                "x, permessage-deflate; server_max_window_bits=10",
                "permessage-deflate; server_max_window_bits=10",
            ),
            (
                Deflate(client_no_context_takeover=True),
                "permessage-deflate; server_no_context_takeover",
                "permessage-deflate; server_no_context_takeover; client_no_context_takeover",
            ),
        ],
    )
    def test_what_is_agreed(self, ours: Deflate, offer: str, header: str):
        agreement = ours.agree(offer)
        assert agreement is not None
        assert agreement.header == header

    @pytest.mark.parametrize("takeover", [True, False])
    def test_messages_pass_through_both_ends(self, takeover: bool):
        agreement = Deflate(
            server_no_context_takeover=not takeover, client_no_context_takeover=not takeover
        ).agree("permessage-deflate")
        assert agreement is not None
        ours, theirs = Codec(agreement), Codec(agreement)
        sizes = []
        for _ in range(3):
            packed = ours.compress(b"the same text again and again")
            sizes.append(len(packed))
            assert theirs.decompress(packed, 1000) == b"the same text again and again"
        assert (sizes[1] < sizes[0]) is takeover

    @pytest.mark.parametrize("alone", [True, False])
    def test_a_bomb_is_small_and_is_refused_by_a_limit(self, alone: bool):
        agreement = Deflate(server_no_context_takeover=alone).agree("permessage-deflate")
        assert agreement is not None
        bomb = b"".join(Codec(agreement).compress_zeros(3_000_000))
        assert len(bomb) < 10_000
        assert Codec(agreement).decompress(bomb, 3_000_000) == bytes(3_000_000)
        assert Codec(agreement).decompress(bomb, 2_999_999) is None

    def test_what_is_no_deflate_is_refused(self):
        agreement = Deflate().agree("permessage-deflate")
        assert agreement is not None
        assert Codec(agreement).decompress(b"\xff\xff\xff", 100) is None

    def test_windows_outside_of_what_zlib_can_do_are_refused(self):
        with pytest.raises(ValueError, match="server_max_window_bits must be 9 to 15, not 8"):
            Deflate(server_max_window_bits=8)
