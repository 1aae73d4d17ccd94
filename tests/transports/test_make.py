"""Which transport a client gets, and what each of them refuses when the client is made."""

import builtins
import sys

import aiohttp
import pytest

from resilient_ws import WebSocketClient
from resilient_ws.transports.picows.transport import PicowsTransport


def test_picows_is_named():
    client = WebSocketClient("ws://peer.test/", transport="picows")
    assert isinstance(client._supervisor.config.transport, PicowsTransport)


@pytest.mark.parametrize(
    "name, value",
    [
        ("compression", "deflate"),
        ("session", object()),
    ],
)
def test_picows_refuses_what_it_has_not(name, value):
    with pytest.raises(ValueError, match=f"{name} must be None with transport='picows'"):
        WebSocketClient("ws://peer.test/", transport="picows", **{name: value})


def test_picows_takes_no_fingerprint():
    with pytest.raises(TypeError, match=r"ssl must be True, False or an ssl\.SSLContext"):
        WebSocketClient("ws://peer.test/", transport="picows", ssl=aiohttp.Fingerprint(b"x" * 32))


def test_without_the_extra_the_error_names_it(monkeypatch):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name.partition(".")[0] == "picows":
            raise ModuleNotFoundError("No module named 'picows'")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    for name in ("resilient_ws.transports.picows.transport", "resilient_ws.transports.picows.link"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    with pytest.raises(ValueError, match=r"pip install 'resilient-ws\[fast\]'"):
        WebSocketClient("ws://peer.test/", transport="picows")
