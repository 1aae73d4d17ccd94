"""What the client says besides its events: in the log, in `stats`, and about code of the program that fails."""

import asyncio
import functools
import logging

import pytest

from resilient_ws import CloseOrigin, OpenEvent
from resilient_ws.runtime.reporting import is_read
from resilient_ws.testing import FakeTransport
from tests.client.kit import settle, stage


def lines(caplog):
    return [
        (record.levelname, record.getMessage()) for record in caplog.records if record.name == "resilient_ws"
    ]


async def test_each_transition_has_one_line_and_no_line_says_a_thing_twice(caplog):
    caplog.set_level(logging.INFO, logger="resilient_ws")
    async with stage() as played:
        played.peer.close(1001, "later")
        await played.reopened()
        played.peer.drop()
        await played.reopened()
    told = lines(caplog)
    assert [level for level, _ in told] == ["INFO", "INFO", "INFO", "WARNING", "INFO", "INFO"]
    assert "1001 Going Away" in told[1][1]
    assert "1006" in told[3][1]
    assert all(text.count("closed by") <= 1 for _, text in told)


@pytest.mark.promise("P12")
async def test_a_peer_cannot_write_lines_of_its_own(caplog):
    caplog.set_level(logging.INFO, logger="resilient_ws")
    async with stage() as played:
        played.peer.close(4000, "bye\n\x1b[2Jünd \u202e")
        await played.reopened()
        assert played.closes[0].reason == "bye\n\x1b[2Jünd \u202e"
        for text in (caplog.text, played.client.explain()):
            assert "bye\\n\\x1b[2Jünd \\u202e" in text
            assert "\x1b" not in text


@pytest.mark.promise("P12")
async def test_the_chosen_subprotocol_is_not_shown(caplog):
    """A token that is offered as a subprotocol comes back in the answer."""
    caplog.set_level(logging.DEBUG)
    transport = FakeTransport()
    transport.accept(subprotocol="bearer.secret")
    async with stage(transport, subprotocols=["bearer.secret"]) as played:
        assert played.of(OpenEvent)[0].subprotocol == "bearer.secret"
        shown = f"{played.client.explain()} {played.client!r} {played.events!r} {caplog.text}"
    assert "secret" not in shown


@pytest.fixture
def logger():
    """One of the test's own, below a root of its own; nothing reads either yet."""
    made = logging.Manager(logging.RootLogger(logging.WARNING)).getLogger("library")
    made.addHandler(logging.NullHandler())
    return made


def test_a_log_with_nothing_but_null_handlers_is_read_by_nobody(logger):
    assert not is_read(logger)


@pytest.mark.parametrize("above", [False, True])
def test_a_handler_here_or_above_reads_the_log(logger, above):
    (logger.parent if above else logger).addHandler(logging.StreamHandler())
    assert is_read(logger)


def test_a_handler_above_a_logger_that_does_not_propagate_reads_nothing(logger):
    logger.parent.addHandler(logging.StreamHandler())
    logger.propagate = False
    assert not is_read(logger)


def test_where_no_logging_is_set_up_warnings_are_read(logger, monkeypatch):
    logger.handlers.clear()
    assert is_read(logger, logging.WARNING)
    assert not is_read(logger, logging.INFO)
    monkeypatch.setattr(logging, "lastResort", None)
    assert not is_read(logger, logging.ERROR)


def test_a_filter_may_look_at_what_passes(logger):
    logger.addFilter(lambda _: True)
    assert is_read(logger)


async def test_our_own_close_counts_as_ours_and_warns_nobody(caplog):
    caplog.set_level(logging.INFO, logger="resilient_ws")
    async with stage() as played:
        pass
    assert played.client.stats.closes == {CloseOrigin.LOCAL: 1}
    caplog.clear()
    async with stage(ready=False) as played:
        await settle(0)
    assert not [level for level, _ in lines(caplog) if level != "INFO"]


async def test_a_mistake_in_setup_is_told_with_what_was_raised():
    async def mistaken(connection):
        raise KeyError("token")

    async with stage(setup=mistaken, ready=False) as played:
        await settle(1.5)
        assert played.errors[0] == ("setup", "'token'")
        assert not played.closes


async def test_a_setup_hook_may_be_any_callable_that_returns_an_awaitable():
    seen = []

    async def hook(word, connection):
        seen.append((word, connection.first))

    for setup in (functools.partial(hook, "x"), lambda connection: hook("x", connection)):
        async with stage(setup=setup) as played:
            pass
        assert not played.errors
    assert seen == [("x", True)] * 2


async def test_a_callback_that_sends_after_the_end_is_no_error_in_the_log(caplog):
    async with stage() as played:
        started = asyncio.Event()

        @played.client.on_message
        async def slow(message):
            started.set()
            await asyncio.sleep(1)
            await played.client.send(message)

        played.peer.send("x")
        await started.wait()
    assert not [level for level, _ in lines(caplog) if level == "ERROR"]


async def test_close_in_a_task_that_a_callback_returns_does_not_wait_for_itself():
    async with stage(ready=False) as played:
        played.client.on_open(lambda _: asyncio.create_task(played.client.close()))
        before = asyncio.get_running_loop().time()
        await played.until(lambda: played.client.state == "closed")
        await settle()
        assert asyncio.get_running_loop().time() - before < 1
