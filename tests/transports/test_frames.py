"""The frames of a client, read by the parser that the servers of this suite use for what they receive."""

import os
import struct
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
from aiohttp._websocket.helpers import _websocket_mask_python, websocket_mask

from resilient_ws.transports.shared import frame_writer as frames

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


class Raced(list):
    """Keys of which another thread takes the last ones between any two steps of ours."""

    def __len__(self):
        size = super().__len__()
        self.clear()
        return size

    def __bool__(self):
        return len(self) > 0


@pytest.mark.parametrize(
    "make", [frames.message_frame, lambda message, mask: frames.frame(1, message.encode(), mask)]
)
def test_another_thread_may_take_the_last_key_at_any_time(monkeypatch, make):
    monkeypatch.setattr(frames._keys, "left", Raced([b"abcd"]))
    assert [found[:2] for found in unmask(make("x", websocket_mask))] == [(1, b"x")]


def test_threads_never_get_the_same_key_and_none_fails(monkeypatch):
    monkeypatch.setattr(frames, "_KEYS", 3)
    frames._keys.forget()
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(4) as threads:
            made = list(threads.map(lambda _: [frames.take_key() for _ in range(5000)], range(4)))
    finally:
        sys.setswitchinterval(interval)
        frames._keys.forget()
    keys = [key for some in made for key in some]
    assert len(set(keys)) > len(keys) - 10  # of 2**32


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
@pytest.mark.parametrize("after_use", [False, True])
def test_a_forked_child_draws_keys_of_its_own(after_use):
    """One that is forked later, too: the list is another one then."""
    if after_use:
        frames._keys.forget()
    frames.take_key()
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        os.write(writer, b"".join(frames.take_key() for _ in range(100)))
        os._exit(0)
    os.waitpid(child, 0)
    theirs = os.read(reader, 400)
    os.close(reader)
    os.close(writer)
    assert len(theirs) == 400
    ours = b"".join(frames.take_key() for _ in range(100))
    assert not {ours[n : n + 4] for n in range(0, 400, 4)} & {theirs[n : n + 4] for n in range(0, 400, 4)}


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

    def test_it_accepts_ours(self):
        assert frames.is_mask(frames.mask_slowly)

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
