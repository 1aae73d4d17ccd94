"""What is made of each exception that aiohttp may raise while connecting; the common ones are raised for real elsewhere."""

import errno

import aiohttp
import pytest

from resilient_ws.errors import ConnectError, HandshakeRejected
from resilient_ws.transports.aiohttp_errors import translate


def test_ours_stays_as_it_is():
    error = HandshakeRejected(status=404)
    assert translate(error) is error


@pytest.mark.parametrize(
    "error, text",
    [
        (OSError(errno.EMFILE, "Too many open files"), "the connection failed: Too many open files"),
        (ConnectionResetError(), "the connection failed: ConnectionResetError"),
        (TimeoutError("handshake"), "the connection failed: handshake"),
    ],
)
def test_an_error_of_the_system_is_chained(error, text):
    ours = translate(error)
    assert (type(ours), str(ours), ours.retryable, ours.foreign) == (ConnectError, text, True, None)
    assert ours.__cause__ is error


@pytest.mark.promise("P12")
@pytest.mark.parametrize(
    "error",
    [
        aiohttp.ClientPayloadError("secret"),
        aiohttp.ClientOSError(1, "secret"),
        ValueError("secret"),
        AssertionError("secret"),
    ],
)
def test_of_anything_else_only_the_name_is_told(error):
    ours = translate(error)
    name = type(error).__name__
    assert str(ours) == f"the connection failed during the handshake ({name})"
    assert (ours.foreign, ours.retryable, ours.__cause__, ours.__context__) == (name, True, None, None)


@pytest.mark.promise("P12")
def test_an_address_that_aiohttp_does_not_take_is_not_tried_again():
    ours = translate(aiohttp.InvalidURL("ws://user:secret@h"))
    assert str(ours) == "aiohttp does not take the host of this address"
    assert (ours.foreign, ours.retryable, ours.__cause__, ours.__context__) == (
        "InvalidURL",
        False,
        None,
        None,
    )
