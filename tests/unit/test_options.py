"""Every tunable is checked at the door: the error names the field, the value and the range."""

import math
from datetime import timedelta
from pathlib import Path

import attrs
import pytest
from tenacity import stop_after_attempt, wait_fixed

from resilient_ws.api.options import (
    Heartbeat,
    Inbox,
    MiB,
    Outbox,
    ReconnectPolicy,
    factor_of_growth,
    function,
    one_of,
    seconds,
    switch,
    whole,
)

HUGE = pytest.param(10**400, id="huge")
SMALL = pytest.param(-(10**400), id="small")


async def coroutine(*_):
    """What must not stand where the value is used at once."""


class AsyncCallable:
    async def __call__(self, *_):
        """As above, hidden in an object."""


# ------------------------------------------------------------------------------------------------- the checks


@pytest.mark.parametrize(
    "value,expected", [(1, 1.0), (0.5, 0.5), (timedelta(minutes=1), 60.0), (1e-300, 1e-300)]
)
def test_seconds_are_floats(value, expected):
    found = seconds("x", value)
    assert (found, type(found)) == (expected, float)


@pytest.mark.parametrize("value", [0, 0.0, -0.0, timedelta(0)])
def test_zero_never_means_off(value):
    assert seconds("x", value, zero=True) == 0.0
    with pytest.raises(ValueError, match=r"x must be more than 0 and finite, got -?0\.0"):
        seconds("x", value)


def test_none_means_off_where_it_is_allowed():
    assert seconds("x", None, none=True) is None
    with pytest.raises(TypeError, match="x must be seconds or a timedelta, got NoneType"):
        seconds("x", None)


@pytest.mark.parametrize("value", [-1, -0.1, math.inf, -math.inf, math.nan, timedelta(-1), HUGE, SMALL])
def test_durations_that_cannot_be_waited_are_refused(value):
    with pytest.raises(ValueError, match="x must be more than 0 and finite, got "):
        seconds("x", value)
    with pytest.raises(ValueError, match="x must be 0 or more and finite, got "):
        seconds("x", value, zero=True)


@pytest.mark.parametrize("value,name", [("1", "str"), (True, "bool"), ([], "list"), (1j, "complex")])
def test_durations_of_another_type_are_refused(value, name):
    with pytest.raises(TypeError, match=f"x must be seconds or a timedelta, got {name}"):
        seconds("x", value)
    with pytest.raises(TypeError, match=f"x must be seconds or a timedelta or None, got {name}"):
        seconds("x", value, none=True)


def test_whole_numbers():
    assert whole("x", 1) == 1
    assert whole("x", 0, low=0) == 0
    with pytest.raises(ValueError, match="x must be 1 or more, got 0"):
        whole("x", 0)
    for value, name in ((True, "bool"), (1.0, "float"), ("1", "str"), (None, "NoneType")):
        with pytest.raises(TypeError, match=f"x must be an int, got {name}"):
            whole("x", value)


def test_choices():
    assert one_of("x", "a", ("a", "b")) == "a"
    with pytest.raises(ValueError, match="x must be one of 'a', 'b', got 'c'"):
        one_of("x", "c", ("a", "b"))
    with pytest.raises(TypeError, match="x must be one of 'a', 'b', got NoneType"):
        one_of("x", None, ("a", "b"))


def test_switches():
    for value in (True, False, None):
        switch("x", value)
    with pytest.raises(TypeError, match="x must be True, False or None, got int"):
        switch("x", 1)


def test_functions():
    function("x", len, sync=True)
    function("x", coroutine)
    function("x", AsyncCallable())
    with pytest.raises(TypeError, match="x must be callable, got int"):
        function("x", 1)
    for value in (coroutine, AsyncCallable()):
        with pytest.raises(TypeError, match="x must not be async"):
            function("x", value, sync=True)


@pytest.mark.parametrize("value", [0.999, 0, -1, math.inf, math.nan, HUGE])
def test_a_range_never_shrinks(value):
    with pytest.raises(ValueError, match="x must be 1 or more and finite, got "):
        factor_of_growth("x", value)


@pytest.mark.parametrize("value,name", [("2", "str"), (True, "bool"), (None, "NoneType")])
def test_a_factor_is_a_number(value, name):
    with pytest.raises(TypeError, match=f"x must be a number, got {name}"):
        factor_of_growth("x", value)


# ------------------------------------------------------------------------------------------------- heartbeat


def test_the_heartbeat_by_default():
    beat = Heartbeat()
    assert (beat.kind, beat.interval, beat.timeout, beat.pong_timeout) == ("ping", 15.0, 10.0, 60.0)
    assert (beat.idle_timeout, beat.message, beat.is_reply) == (None, None, None)


def test_heartbeat_durations_may_be_timedeltas():
    beat = Heartbeat(timedelta(seconds=5), timedelta(seconds=2), None, idle_timeout=timedelta(hours=1))
    assert (beat.interval, beat.timeout, beat.pong_timeout, beat.idle_timeout) == (5.0, 2.0, None, 3600.0)


@pytest.mark.parametrize("name", ["interval", "timeout", "pong_timeout", "idle_timeout"])
def test_heartbeat_durations_are_checked(name):
    with pytest.raises(ValueError, match=f"^{name} must be more than 0 and finite, got 0.0"):
        Heartbeat(**{name: 0})
    with pytest.raises(TypeError, match=f"^{name} must be seconds or a timedelta"):
        Heartbeat(**{name: "1"})


@pytest.mark.parametrize("name", ["interval", "timeout"])
def test_a_heartbeat_without_interval_is_no_heartbeat(name):
    with pytest.raises(TypeError, match=f"^{name} must be seconds or a timedelta, got NoneType"):
        Heartbeat(**{name: None})


def test_expecting_the_pings_of_the_server():
    beat = Heartbeat.expect()
    assert (beat.kind, beat.interval, beat.timeout, beat.pong_timeout) == ("expect", 60.0, 60.0, None)
    beat = Heartbeat.expect(within=timedelta(seconds=40), idle_timeout=300)
    assert (beat.timeout, beat.idle_timeout) == (40.0, 300.0)
    with pytest.raises(ValueError, match=r"^within must be more than 0 and finite, got 0\.0"):
        Heartbeat.expect(0)


def test_a_ping_of_the_application():
    beat = Heartbeat.app("ping", "pong".__eq__, 20, 5, pong_timeout=None, idle_timeout=60)
    assert (beat.kind, beat.message, beat.interval, beat.timeout) == ("app", "ping", 20.0, 5.0)
    assert (beat.pong_timeout, beat.idle_timeout) == (None, 60.0)
    assert beat.is_reply is not None
    assert beat.is_reply("pong")
    beat = Heartbeat.app(lambda: b"1", bool)
    assert callable(beat.message)
    assert (beat.interval, beat.timeout, beat.pong_timeout) == (15.0, 10.0, 60.0)


@pytest.mark.parametrize("kind", [bytearray, memoryview])
def test_a_ping_does_not_change_with_the_buffer_it_came_in(kind):
    buffer = bytearray(b"ping")
    beat = Heartbeat.app(kind(buffer), bool)
    buffer[:] = b"pong"
    assert beat.message == b"ping"


def test_a_ping_of_the_application_is_checked():
    with pytest.raises(TypeError, match="message must be str, bytes-like or callable, got int"):
        Heartbeat.app(1, bool)
    with pytest.raises(ValueError, match="message must be encodable as UTF-8"):
        Heartbeat.app("\ud83d", bool)
    with pytest.raises(TypeError, match="is_reply must be callable, got str"):
        Heartbeat.app("ping", "pong")
    with pytest.raises(TypeError, match="is_reply must not be async"):
        Heartbeat.app("ping", coroutine)
    with pytest.raises(TypeError, match="message must not be async"):
        Heartbeat.app(coroutine, bool)
    with pytest.raises(ValueError, match="timeout must be more than 0 and finite, got -1"):
        Heartbeat.app("ping", bool, timeout=-1)


@pytest.mark.promise("P12")
def test_a_heartbeat_does_not_show_its_message():
    assert "secret" not in repr(Heartbeat.app("secret", bool))


# ------------------------------------------------------------------------------------------------- reconnecting


def test_the_policy_by_default():
    policy = ReconnectPolicy()
    assert (policy.first_delay, policy.min_delay, policy.max_delay, policy.factor) == (1.0, 0.5, 30.0, 2.0)
    assert (policy.max_attempts, policy.max_elapsed, policy.min_uptime) == (None, None, 10.0)
    assert (policy.wait, policy.stop, policy.decide) == (None, None, None)


def test_policy_durations_may_be_timedeltas():
    second = timedelta(seconds=1)
    policy = ReconnectPolicy(
        first_delay=second,
        min_delay=second,
        max_delay=2 * second,
        max_elapsed=60 * second,
        min_uptime=3 * second,
    )
    assert attrs.astuple(policy)[:7] == (1.0, 1.0, 2.0, 2.0, None, 60.0, 3.0)


@pytest.mark.parametrize("name", ["first_delay", "min_delay", "max_delay", "min_uptime"])
def test_policy_durations_are_checked(name):
    with pytest.raises(ValueError, match=f"^{name} must be 0 or more and finite, got -1"):
        ReconnectPolicy(**{name: -1})
    with pytest.raises(TypeError, match=f"^{name} must be seconds or a timedelta, got NoneType"):
        ReconnectPolicy(**{name: None})


def test_a_policy_may_retry_at_once():
    policy = ReconnectPolicy(first_delay=0, min_delay=0, max_delay=0, min_uptime=0)
    assert (policy.first_delay, policy.min_delay, policy.max_delay, policy.min_uptime) == (0.0, 0.0, 0.0, 0.0)


def test_the_limit_in_time_is_checked():
    with pytest.raises(ValueError, match=r"^max_elapsed must be more than 0 and finite, got 0"):
        ReconnectPolicy(max_elapsed=0)


@pytest.mark.parametrize(
    "value,error", [(0, ValueError), (-1, ValueError), (1.5, TypeError), (True, TypeError)]
)
def test_the_limit_in_attempts_is_checked(value, error):
    with pytest.raises(error, match=r"^max_attempts must be "):
        ReconnectPolicy(max_attempts=value)


def test_the_factor_is_checked():
    assert type(ReconnectPolicy(factor=3).factor) is float
    with pytest.raises(ValueError, match=r"^factor must be 1 or more and finite, got 0\.5"):
        ReconnectPolicy(factor=0.5)


def test_a_low_max_delay_lowers_the_defaults_below_it():
    policy = ReconnectPolicy(max_delay=0.25)
    assert (policy.first_delay, policy.min_delay, policy.max_delay) == (0.25, 0.25, 0.25)
    policy = ReconnectPolicy(max_delay=0.75)
    assert (policy.first_delay, policy.min_delay) == (0.75, 0.5)


@pytest.mark.parametrize("name", ["first_delay", "min_delay"])
def test_a_delay_that_was_asked_for_does_not_exceed_max_delay(name):
    with pytest.raises(ValueError, match=rf"^{name} must be at most max_delay, got 5\.0 > 2\.0"):
        ReconnectPolicy(max_delay=2, **{name: 5})


@pytest.mark.parametrize("name", ["wait", "stop", "decide"])
def test_strategies_are_callable(name):
    with pytest.raises(TypeError, match=f"^{name} must be callable, got int"):
        ReconnectPolicy(**{name: 1})


def test_only_decide_may_be_async():
    assert ReconnectPolicy(decide=coroutine).decide is coroutine
    for name in ("wait", "stop"):
        with pytest.raises(TypeError, match=f"^{name} must not be async"):
            ReconnectPolicy(**{name: coroutine})


def test_strategies_of_tenacity_are_taken_as_they_are():
    wait, stop = wait_fixed(1), stop_after_attempt(3)
    policy = ReconnectPolicy(wait=wait, stop=stop)
    assert (policy.wait, policy.stop) == (wait, stop)
    assert "wait" not in repr(policy)


# ------------------------------------------------------------------------------------------------- the queues


def test_the_outbox_by_default():
    outbox = Outbox()
    assert (outbox.max_messages, outbox.max_bytes, outbox.ttl) == (1000, 8 * MiB, None)
    assert (outbox.overflow, outbox.on_uncertain) == ("raise", "report")
    assert (outbox.confirm, outbox.confirm_interval) == (None, 1.0)


def test_outbox_durations_may_be_timedeltas():
    outbox = Outbox(ttl=timedelta(seconds=5), confirm_interval=timedelta(seconds=2))
    assert (outbox.ttl, outbox.confirm_interval) == (5.0, 2.0)


@pytest.mark.parametrize("name", ["ttl", "confirm_interval"])
def test_outbox_durations_are_checked(name):
    with pytest.raises(ValueError, match=f"^{name} must be more than 0 and finite, got 0"):
        Outbox(**{name: 0})


@pytest.mark.parametrize("box", [Outbox, Inbox])
@pytest.mark.parametrize("name", ["max_messages", "max_bytes"])
def test_the_bounds_are_checked(box, name):
    assert getattr(box(**{name: 1}), name) == 1
    with pytest.raises(ValueError, match=f"^{name} must be 1 or more, got 0"):
        box(**{name: 0})
    with pytest.raises(TypeError, match=f"^{name} must be an int, got NoneType"):
        box(**{name: None})


@pytest.mark.parametrize("overflow", ["raise", "wait", "drop_oldest", "drop_newest"])
def test_what_a_full_outbox_does(overflow):
    assert Outbox(overflow=overflow).overflow == overflow


@pytest.mark.parametrize("on_uncertain", ["report", "resend"])
def test_what_becomes_of_uncertain_messages(on_uncertain):
    assert Outbox(on_uncertain=on_uncertain).on_uncertain == on_uncertain


@pytest.mark.parametrize("confirm", [True, False, None])
def test_whether_the_outbox_confirms(confirm):
    assert Outbox(confirm=confirm).confirm is confirm


def test_outbox_choices_are_checked():
    with pytest.raises(ValueError, match=r"^overflow must be one of 'raise', .* got 'pause'"):
        Outbox(overflow="pause")
    with pytest.raises(ValueError, match=r"^on_uncertain must be one of 'report', 'resend', got 'drop'"):
        Outbox(on_uncertain="drop")
    with pytest.raises(TypeError, match=r"^confirm must be True, False or None, got int"):
        Outbox(confirm=1)


def test_the_file_of_an_outbox():
    assert (Outbox().path, Outbox().durability) == (None, None)
    outbox = Outbox(path=Path("here") / "outbox.db")
    assert (outbox.path, outbox.durability) == (str(Path("here") / "outbox.db"), "accepted")
    assert Outbox(path="outbox.db", durability="eventual").durability == "eventual"


def test_the_file_of_an_outbox_is_checked():
    with pytest.raises(TypeError, match=r"^path must be a str or os.PathLike, or None, got int"):
        Outbox(path=1)
    with pytest.raises(TypeError, match=r"^path must be a str or os.PathLike, or None, got bytes"):
        Outbox(path=b"outbox.db")
    with pytest.raises(ValueError, match=r"^path must not be empty and not hold NUL, got ''"):
        Outbox(path="")
    with pytest.raises(ValueError, match=r"^path must not be empty and not hold NUL, got 'a\\x00b'"):
        Outbox(path="a\0b")
    with pytest.raises(ValueError, match=r"^durability must be one of 'accepted', 'eventual', got 'yes'"):
        Outbox(path="outbox.db", durability="yes")
    with pytest.raises(ValueError, match=r"^durability needs a path, got durability='eventual' without one"):
        Outbox(durability="eventual")


def test_the_inbox():
    inbox = Inbox()
    assert (inbox.max_messages, inbox.max_bytes, inbox.overflow) == (4096, 8 * MiB, "pause")
    assert Inbox(overflow="drop_oldest").overflow == "drop_oldest"
    with pytest.raises(ValueError, match=r"^overflow must be one of 'pause', 'drop_oldest', got 'raise'"):
        Inbox(overflow="raise")


@pytest.mark.parametrize("made", [Heartbeat(), ReconnectPolicy(), Outbox(), Inbox()])
def test_options_are_frozen(made):
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        made.max_messages = 1
