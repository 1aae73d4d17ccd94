"""The frames of a client, read by the parser that the servers of this suite use for what they receive."""

import struct

import pytest
from aiohttp._websocket.helpers import _websocket_mask_python, websocket_mask

from resilient_ws.transports import frames

SIZES = (0, 1, 125, 126, 127, 65535, 65536, 100_000)


def unmask(data):
    """Return opcode and payload of each frame; a frame that is not final, not masked or has reserved bits fails."""
    found = []
    while data:
        first, second = data[:2]
        assert first & 0xF0 == 0x80
        assert second & 0x80
        size, at = second & 0x7F, 2
        if size == 126:
            (size,), at = struct.unpack_from("!H", data, 2), 4
            assert size > 125
        elif size == 127:
            (size,), at = struct.unpack_from("!Q", data, 2), 10
            assert size > 65535
        key, at = data[at : at + 4], at + 4
        payload = bytes(byte ^ key[index % 4] for index, byte in enumerate(data[at : at + size]))
        found.append((first & 0x0F, payload, key))
        data = data[at + size :]
    return found


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("opcode", [1, 2, 8, 9, 10])
def test_one_frame_of_every_length_class(opcode, size):
    payload = bytes(index % 251 for index in range(size))
    ((kind, read, _),) = unmask(frames.frame(opcode, payload, websocket_mask))
    assert (kind, read) == (opcode, payload)


def test_several_messages_in_order_and_of_both_kinds():
    messages = ["", b"", "ascii", "Grüße 🎉", b"\x00\xff", "x" * 126, b"y" * 70_000, "z" * 125]
    expected = [(1, m.encode()) if isinstance(m, str) else (2, m) for m in messages]
    assert [found[:2] for found in unmask(frames.message_frames(messages, websocket_mask))] == expected
    one_by_one = b"".join(frames.message_frame(message, websocket_mask) for message in messages)
    assert [found[:2] for found in unmask(one_by_one)] == expected


def test_each_frame_has_a_key_of_its_own():
    keys = {key for _, _, key in unmask(frames.message_frames(["x"] * 100, websocket_mask))}
    assert len(keys) > 95  # of 2**32


def test_text_that_utf8_cannot_encode_is_refused():
    with pytest.raises(UnicodeEncodeError):
        frames.message_frames(["\ud800"], websocket_mask)


def test_a_message_is_not_changed_by_masking():
    message = b"x" * 50
    frames.message_frames([message], websocket_mask)
    assert message == b"x" * 50


class TestTrial:
    def test_it_accepts_both_of_aiohttps(self):
        assert frames.is_mask(websocket_mask)
        assert frames.is_mask(_websocket_mask_python)

    @pytest.mark.parametrize(
        "broken",
        [
            lambda key, data: None,
            lambda key, data: websocket_mask(key[::-1], data),
            lambda key, data: websocket_mask(key, data[:]),
        ],
    )
    def test_it_refuses_what_masks_otherwise(self, broken):
        assert not frames.is_mask(broken)
