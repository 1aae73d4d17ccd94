"""What is made of each exception that aiohttp may raise while connecting; the common ones are raised for real elsewhere."""

import errno

import aiohttp
import pytest
from yarl import URL

from resilient_ws.api.errors import ConnectError, HandshakeRejected, OpenTimeout
from resilient_ws.transports.aiohttp.errors import translate as translated


def translate(error):
    return translated(error, URL("wss://user:secret@h/?token=secret"))


def test_ours_stays_as_it_is():
    error = HandshakeRejected(status=404)
    assert translate(error) is error


@pytest.mark.parametrize(
    "error, text",
    [
        (
            OSError(errno.EMFILE, "Too many open files"),
            "the connection to h port 443 broke during the handshake: too many open files",
        ),
        (
            ConnectionResetError(),
            "the connection to h port 443 broke during the handshake: connection reset by peer",
        ),
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
        aiohttp.ClientOSError("secret"),
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


@pytest.mark.promise("P12")
def test_of_an_error_with_a_number_its_words_are_told():
    ours = translate(aiohttp.ClientOSError(errno.ECONNRESET, "secret"))
    assert str(ours) == "the connection to h port 443 broke during the handshake: connection reset by peer"
    assert (ours.foreign, ours.retryable, ours.__cause__) == ("ClientOSError", True, None)


def test_a_timeout_of_a_lent_session_says_so():
    ours = translate(aiohttp.ServerTimeoutError("secret"))
    assert isinstance(ours, OpenTimeout)
    assert str(ours) == "no connection to h within the timeout of the lent session"
