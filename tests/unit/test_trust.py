"""The shared TLS context: made once, anew when the trust store changes, and never kept where it failed."""

import asyncio
import os
import ssl
import threading

import pytest

from resilient_ws.api.errors import ConnectError
from resilient_ws.transports.shared import tls_context as trust


@pytest.fixture(autouse=True)
def contexts(monkeypatch):
    monkeypatch.setattr(trust, "_contexts", trust._Contexts())
    return trust._contexts


async def test_it_is_shared():
    first, *others = await asyncio.gather(*(trust.default_context(verified=True) for _ in range(5)))
    assert all(other is first for other in others)
    assert first.verify_mode is ssl.CERT_REQUIRED
    assert first.check_hostname
    assert (await trust.default_context(verified=False)).verify_mode is ssl.CERT_NONE


@pytest.mark.promise("P10")
async def test_a_failure_is_not_kept(monkeypatch):
    def fail(*, verified):
        raise OSError(24, "Too many open files")

    real = trust.make_context
    monkeypatch.setattr(trust, "make_context", fail)
    for _ in range(2):
        with pytest.raises(ConnectError, match="the TLS context could not be made: .*Too many open files"):
            await trust.default_context(verified=True)
    monkeypatch.setattr(trust, "make_context", real)
    assert await trust.default_context(verified=True)


async def test_a_changed_trust_store_is_read_anew(monkeypatch, tmp_path):
    store = tmp_path / "certificates.pem"
    store.write_text("")
    monkeypatch.setenv("SSL_CERT_FILE", str(store))
    made = []
    monkeypatch.setattr(trust, "make_context", lambda *, verified: made.append(verified) or object())
    first = await trust.default_context(verified=True)
    assert await trust.default_context(verified=True) is first
    store.write_text("# another")
    assert await trust.default_context(verified=True) is not first
    assert made == [True, True]


async def test_who_is_cancelled_does_not_disturb_the_others(monkeypatch):
    release = threading.Event()

    def make(*, verified):
        release.wait(10)
        return "made"

    monkeypatch.setattr(trust, "make_context", make)
    given_up, kept = (asyncio.create_task(trust.default_context(verified=True)) for _ in range(2))
    await asyncio.sleep(0.01)
    given_up.cancel()
    await asyncio.sleep(0)
    release.set()
    assert await kept == "made"
    assert given_up.cancelled()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_child_does_not_wait_for_a_thread_of_its_parent(monkeypatch):
    release = threading.Event()
    monkeypatch.setattr(trust, "make_context", lambda *, verified: release.wait(10))
    making = trust._contexts.get(verified=True)
    trust._contexts.begin_anew()  # what a fork does
    monkeypatch.setattr(trust, "make_context", lambda *, verified: "made")
    again = trust._contexts.get(verified=True)
    assert again is not making
    assert again.result(5) == "made"
    release.set()
    making.result(5)
