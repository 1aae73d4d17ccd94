"""What user code raises is logged without the secrets in its text."""

import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilient_ws import Endpoint
from resilient_ws.core.scrubbing import log_raised, scrubbed, secrets_of

TEXT = st.text(st.characters(codec="ascii", categories=["L", "N"]), min_size=4, max_size=30)


@pytest.mark.parametrize(
    "text, clean",
    [
        ("nothing", "nothing"),
        ("see wss://h.test/p", "see wss://h.test/p"),
        ("('wss://u:p@h.test:8/p?q=1#f')", "('wss://h.test:8/p')"),
        ("https://token@h.test", "https://h.test"),
        ("socks5h://u:p@[::1]:9 and ws://h?x", "socks5h://[::1]:9 and ws://h"),
        ("a://b", "a://b"),
    ],
)
def test_of_an_address_only_the_public_part_stays(text, clean):
    assert scrubbed(text) == clean


@pytest.mark.promise("P12")
@given(TEXT, TEXT, TEXT, TEXT, TEXT, st.text(max_size=20), st.text(max_size=20))
def test_nothing_secret_of_an_endpoint_stays(user, password, query, header, subprotocol, before, after):
    endpoint = Endpoint(
        f"wss://{user}:{password}@host.test/?a={query}", {"X-Key": f"Bearer {header}"}, [subprotocol]
    )
    for secret in (user, password, query, header, subprotocol):
        told = scrubbed(f"{before}{secret}{after}", secrets_of(endpoint))
        assert secret not in told or secret in "***"
        assert (
            secret not in scrubbed(str(endpoint.url), secrets_of(endpoint)) or secret in "wss://host.test/***"
        )


@pytest.mark.expects_errors
@pytest.mark.parametrize("text, has_exception", [("harmless", True), ("at wss://u:pw@h.test/?t=1", False)])
def test_the_record_holds_the_exception_unless_its_text_holds_a_secret(caplog, text, has_exception):
    try:
        raise LookupError(text)
    except LookupError as error:
        log_raised(logging.getLogger("resilient_ws"), logging.ERROR, "setup", error, ())
    (record,) = caplog.records
    assert (record.exc_info is not None) is has_exception
    assert record.filename == "test_scrubbing.py"
    assert "setup raised LookupError" in caplog.text
    assert "Traceback (most recent call last)" in caplog.text
    assert "u:pw" not in caplog.text.replace(__file__, "").split("LookupError: ")[-1]
