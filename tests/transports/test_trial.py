"""Whatever looks different in aiohttp turns the direct way off, and says so once; nothing breaks."""

import logging

import pytest
from aiohttp.client_proto import ResponseHandler
from aiohttp.compression_utils import ZLibCompressor, ZLibDecompressor

from resilient_ws.transports.aiohttp import probe as aiohttp_trial
from resilient_ws.transports.shared import inflate as aiohttp_deflate
from resilient_ws.transports.shared import outlet as aiohttp_outlet


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    monkeypatch.delenv("RESILIENT_WS_PLAIN", raising=False)
    aiohttp_trial.is_supported.cache_clear()
    yield
    aiohttp_trial.is_supported.cache_clear()


class Sealed:
    """An inflater whose zlib stream cannot be found."""

    def __init__(self, *, suppress_deflate_header):
        self.inflater = ZLibDecompressor(suppress_deflate_header=suppress_deflate_header)


class Spent(ZLibDecompressor):
    """An inflater that does not begin another stream where one has ended."""

    def _decompress_members(self, first, max_length):
        return first


class Raw(ZLibCompressor):
    """A compressor that compresses nothing."""

    def compress_sync(self, data):
        return bytes(data)


class Clearing(ResponseHandler):
    """A protocol that still asks its buffer of HTTP answers when the connection is lost."""

    def connection_lost(self, exc):
        self._buffer.clear()
        super().connection_lost(exc)


class Mute(ResponseHandler):
    """A protocol that does not tell its parser of a loss."""

    def connection_lost(self, exc):
        pass


async def test_this_aiohttp_is_supported():
    assert aiohttp_trial.is_supported()


async def test_the_environment_turns_it_off(monkeypatch):
    monkeypatch.setenv("RESILIENT_WS_PLAIN", "1")
    assert not aiohttp_trial.is_supported()


@pytest.mark.parametrize(
    "module, name, value",
    [
        (aiohttp_outlet, "mask", None),
        (aiohttp_outlet, "mask", lambda key, data: None),
        (aiohttp_outlet, "ClientWebSocketResponse", object),
        (aiohttp_trial, "ClientWebSocketResponse", object),
        (aiohttp_trial, "ResponseHandler", object),
        (aiohttp_trial, "ResponseHandler", Clearing),
        (aiohttp_trial, "ResponseHandler", Mute),
        (aiohttp_deflate, "ZLibDecompressor", None),
        (aiohttp_deflate, "ZLibDecompressor", Sealed),
        (aiohttp_deflate, "ZLibDecompressor", Spent),
        (aiohttp_deflate, "ZLibCompressor", None),
        (aiohttp_deflate, "ZLibCompressor", Raw),
    ],
)
async def test_what_looks_different_turns_it_off(monkeypatch, caplog, module, name, value):
    monkeypatch.setattr(module, name, value)
    with caplog.at_level(logging.INFO, "resilient_ws"):
        assert not aiohttp_trial.is_supported()
        assert not aiohttp_trial.is_supported()
    told = [record for record in caplog.records if record.levelno == logging.INFO]
    assert len(told) == 1
    assert "public API" in told[0].message
