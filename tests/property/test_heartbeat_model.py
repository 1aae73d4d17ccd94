"""The heartbeat against a simulated peer: never dead while it lives (P3), never late when it does not (P2)."""

import itertools
import math
from random import Random

import hypothesis.strategies as st
import pytest
from hypothesis import assume, event, given, settings

from resilient_ws.api.options import Heartbeat
from tests.property.simulated_peer import Simulation, Story

SLACK = 0.05 + 1e-6

intervals = st.one_of(st.sampled_from([0.2, 1.0, 15.0]), st.floats(0.2, 30.0))
timeouts = st.one_of(st.sampled_from([0.2, 1.0, 10.0]), st.floats(0.2, 20.0))
fractions = st.floats(0.0, 1.0)


@st.composite
def heartbeats(draw, *, pong_timeout=st.one_of(st.none(), st.floats(0.5, 60.0))):
    return Heartbeat(draw(intervals), draw(timeouts), draw(pong_timeout))


@st.composite
def spans(draw, until, longest, count=3):
    """Draw times apart from each other, as (from, to)."""
    made, at = [], 0.0
    for _ in range(draw(st.integers(0, count))):
        start = at + draw(fractions) * until / count
        end = start + 0.001 + draw(fractions) * longest
        if end >= until:
            break
        made.append((start, end))
        at = end + 0.001
    return made


@st.composite
def troubles(draw, options, until):
    """Draw what our own side may do, and the messages of the peer."""
    unit = options.timeout
    every = draw(st.one_of(st.none(), st.floats(0.05, 3.0)))
    return {
        "options": options,
        "until": until,
        "linux": draw(st.booleans()),
        "uploads": [(start, draw(st.integers(1, 200_000))) for start, _ in draw(spans(until, 0.001))],
        "rate": draw(st.floats(5_000 / min(unit, 1), 500_000 / min(unit, 1))),
        "messages": []
        if every is None
        else [every * unit * n for n in range(1, int(until / every / unit) + 1)][:400],
        "pauses": draw(spans(until, 4 * unit)),
        "blocks": draw(spans(until, 2 * unit)),
        "told_resumption": draw(st.booleans()),
        "look_on_resume": draw(st.booleans()),
        "stuck_while_paused": draw(st.booleans()),
        "timers_first": draw(st.booleans()),
    }


def last_end(spans):
    return max((end for _, end in spans), default=0.0)


def looks_allowed(story):
    """How many looks a story may cost: some for each ping, and 20 a `timeout` while an upload stands before one."""
    options = story.options
    steps = min(story.options.interval, story.options.timeout, options.pong_timeout or math.inf)
    ups = sum(size for _, size in story.uploads) / story.rate
    return 20 + 12 * (story.until / steps) + 40 * (story.until + ups) / max(0.1 * 20, options.timeout)


@pytest.mark.promise("P3")
@given(st.data(), heartbeats())
def test_a_living_peer_is_never_declared_dead(data, options):
    until = 6 * (options.interval + options.timeout)
    story = Story(**data.draw(troubles(options, until)))
    limit = min(options.timeout, options.pong_timeout or math.inf)
    story.latency = data.draw(fractions) * 0.7 * limit
    if data.draw(st.booleans()):
        story.sleeps = [(start, 0.6 * options.timeout) for start, _ in data.draw(spans(until, 0.001))]
    done = Simulation(story).run()
    assert done.died_at is None, (done.died_at, done.cause, story)
    assert done.looks <= looks_allowed(story)


@st.composite
def ended(draw, story, kinds):
    """Let the peer of a story end, and return when everything is calm."""
    end = draw(st.sampled_from(kinds))
    at = draw(fractions) * story.until
    setattr(story, end, at)
    calm = max(at, last_end(story.blocks), last_end(story.pauses))
    story.until = calm + 20 * (story.options.interval + story.options.timeout) + 200_000 * 3 / story.rate
    return end, calm


def last_heard(done):
    """When the last byte came, or when our loop ran again and read again, if that was later."""
    story = done.story
    return max(
        done.arrived_at if story.linux else done.read_at, last_end(story.blocks), last_end(story.pauses)
    )


@pytest.mark.promise("P2")
@given(st.data(), heartbeats())
def test_a_vanished_peer_is_noticed_in_time(data, options):
    story = Story(**data.draw(troubles(options, 3 * (options.interval + options.timeout))))
    story.latency = data.draw(fractions) * 0.5 * options.timeout
    end, _ = data.draw(ended(story, ["vanished_at", "stopped_at"]))
    done = Simulation(story).run()
    last = last_heard(done)
    bound = last + options.interval
    if story.uploads or story.stuck_while_paused:  # then a ping may have stood behind something
        coarsest = max(0.1, options.timeout / 20)
        asked = sum(at < last for at in done.pings) + 1  # the last of these pings is the first after `last`
        if end == "vanished_at":
            bound = max(bound, story.vanished_at + coarsest)
        elif done.left_at:
            bound = max(bound, done.left_at[:asked][-1] + coarsest)
    assert done.died_at is not None
    assert done.died_at <= bound + options.timeout + SLACK, (done.cause, bound, story)
    event(f"{end}: {done.cause.split('for')[0]}")


@pytest.mark.promise("P2")
@given(st.data(), heartbeats(pong_timeout=st.floats(0.3, 60.0)))
def test_a_peer_that_hears_nothing_but_talks_is_noticed_in_time(data, options):
    gap = min(options.interval, options.timeout, options.pong_timeout / 2)
    every = (0.02 + 0.9 * data.draw(fractions)) * gap
    story = Story(options, linux=data.draw(st.booleans()))
    story.latency = data.draw(fractions) * 0.7 * min(options.timeout, options.pong_timeout)
    deaf = options.interval + story.latency + 0.2 + data.draw(fractions) * 2 * options.interval
    story.blocks = data.draw(spans(deaf, options.timeout))
    story.pauses = data.draw(spans(deaf, options.timeout))
    story.deaf_at = max(deaf, last_end(story.blocks), last_end(story.pauses))
    story.until = story.deaf_at + options.interval + options.pong_timeout + 1
    assume(story.until / every < 3_000)
    story.messages = [every * n for n in range(1, int(story.until / every) + 1)]
    done = Simulation(story).run()
    assert done.monitor.answered
    assert done.died_at is not None
    assert done.died_at <= story.deaf_at + options.interval + options.pong_timeout + SLACK, (
        done.cause,
        story,
    )
    assert done.cause.startswith("no PONG for")
    assert done.died_at >= min(story.deaf_at, *done.pings) + options.pong_timeout


@pytest.mark.promise("P3")
@given(st.data(), heartbeats(pong_timeout=st.floats(0.3, 60.0)))
def test_a_peer_that_never_answers_but_talks_is_left_alone(data, options):
    every = (0.05 + 0.9 * data.draw(fractions)) * options.timeout
    until = 3 * (options.interval + options.timeout + options.pong_timeout)
    assume(until / every < 3_000)
    story = Story(options, linux=data.draw(st.booleans()), answers=False, until=until)
    story.messages = [every * n for n in range(1, int(until / every) + 2)]
    done = Simulation(story).run()
    assert done.died_at is None
    assert done.monitor.unanswered_first


@pytest.mark.promise("P3")
@given(st.data(), heartbeats(pong_timeout=st.floats(0.3, 60.0)))
def test_one_huge_slow_frame_is_life(data, options):
    """Answers stand behind it, whole messages do not come: only the kernel sees that something does."""
    step = (0.05 + 0.8 * data.draw(fractions)) * options.timeout
    start = options.interval + 1 + data.draw(fractions) * options.interval
    end = start + data.draw(fractions) * 10 * (options.pong_timeout + options.timeout)
    assume((end - start) / step < 3_000)
    story = Story(options, trickle=(start, end, step), until=end + 4 * options.interval)
    story.messages = [start - 0.3, start - 0.1]
    done = Simulation(story).run()
    assert done.died_at is None, (done.cause, story)


# --- a loop that is late all the time


@st.composite
def lateness(draw, unit, until):
    """Draw a loop that stands still again and again, and runs for moments in between."""
    longest = draw(st.sampled_from([0.3, 0.6, 1.2, 3.0])) * unit
    free = draw(st.sampled_from([0.001, 0.02, 0.1, 0.5])) * unit
    random = Random(draw(st.integers(0, 2**32)))
    steady = draw(st.booleans())  # steps of one length, as a program that computes has
    blocks, at = [], 0.0
    while at < until and len(blocks) < 1_000:
        start = at + max(0.002, free * (1 if steady else random.random()))
        at = start + max(0.001, longest * (1 if steady else random.random()))
        blocks.append((start, at))
    if at < until:
        blocks.append((at + 0.002, until))
    return blocks


def blocked(story, since, until):
    """For how long of a stretch the loop stood still."""
    return sum(max(0.0, min(end, until) - max(start, since)) for start, end in story.blocks)


@pytest.mark.promise("P3")
@settings(max_examples=60)
@given(st.data(), heartbeats())
def test_a_loop_that_is_always_late_kills_nobody(data, options):
    limit = min(options.timeout, options.pong_timeout or math.inf)
    story = Story(options, linux=data.draw(st.booleans()), until=30 * limit + 2 * options.interval)
    story.timers_first = data.draw(st.booleans())
    story.blocks = data.draw(lateness(limit, story.until))
    story.latency = data.draw(fractions) * 0.7 * limit
    if data.draw(st.booleans()):
        every = (0.05 + data.draw(fractions)) * options.timeout
        assume(story.until / every < 3_000)
        story.messages = [every * n for n in range(1, int(story.until / every) + 1)]
    done = Simulation(story).run()
    assert done.died_at is None, (done.cause, done.died_at, story)


@pytest.mark.promise("P2")
@settings(max_examples=60)
@given(st.data(), st.one_of(heartbeats(), timeouts.map(Heartbeat.expect)))
def test_a_loop_that_is_always_late_notices_who_is_gone(data, options):
    """At the latest at the fifth look that could have judged: four fresh pings, then the verdict."""
    within = options.interval + 5 * options.timeout
    story = Story(options, linux=data.draw(st.booleans()), latency=0.1 * options.timeout)
    story.timers_first = data.draw(st.booleans())
    gone = data.draw(st.sampled_from(["vanished_at", "stopped_at"]))
    setattr(story, gone, data.draw(fractions) * 2 * options.timeout)
    story.until = 2 * (within + 20 * options.timeout)
    story.blocks = data.draw(lateness(options.timeout, story.until))
    done = Simulation(story).run()
    last = done.arrived_at if story.linux else done.read_at
    assert done.died_at is not None, story
    assert done.died_at - last - blocked(story, last, done.died_at) <= within + SLACK, (done.cause, story)


@pytest.mark.promise("P2")
@settings(max_examples=60)
@given(st.data(), st.floats(0.3, 60.0))
def test_a_loop_that_is_always_late_notices_who_hears_nothing(data, limit):
    """Two late looks are let pass, of the others half a limit counts at most, and three limits begin anew."""
    options = Heartbeat((0.5 + data.draw(fractions)) * limit, 2 * limit, limit)
    story = Story(options, linux=data.draw(st.booleans()), latency=0.1 * limit)
    story.timers_first = data.draw(st.booleans())
    story.deaf_at = options.interval + 0.2 * limit + data.draw(fractions) * options.interval
    story.until = story.deaf_at + 200 * limit
    every = (0.2 + 0.3 * data.draw(fractions)) * limit / 2
    story.messages = [every * n for n in range(1, int(story.until / every) + 1)]
    late = data.draw(lateness(limit, story.until))
    story.blocks = [(start, end) for start, end in late if start > options.interval + story.latency]
    done = Simulation(story).run()
    assert done.monitor.answered
    assert done.died_at is not None, story
    assert done.cause.startswith("no PONG for")
    spent = done.died_at - story.deaf_at - blocked(story, story.deaf_at, done.died_at)
    assert spent <= options.interval + 5 * limit + SLACK
    late_ones = sum(story.deaf_at < end <= done.died_at for _, end in story.blocks)
    if all(end - start > limit for start, end in story.blocks):
        assert late_ones <= 2 + options.interval / limit + 4 * 3 + 3


@pytest.mark.promise("P2")
@settings(max_examples=60)
@given(st.data(), heartbeats(), st.floats(0.5, 60.0))
def test_a_loop_that_is_always_late_notices_that_no_data_come(data, made, idle):
    options = Heartbeat(made.interval, made.timeout, None, idle_timeout=idle)
    story = Story(options, linux=data.draw(st.booleans()), until=60 * idle, latency=0.1 * made.timeout)
    story.blocks = data.draw(lateness(idle, story.until))
    assume(story.until / min(options.interval, options.timeout) < 3_000)
    done = Simulation(story).run()
    assert done.died_at is not None
    assert done.cause.startswith("no data message for")
    assert done.died_at - blocked(story, 0.0, done.died_at) <= 5 * idle + SLACK


@given(st.data(), timeouts)
def test_expecting_ends_after_within_and_not_before(data, within):
    story = Story(**data.draw(troubles(Heartbeat.expect(within), 5 * within)))
    rest = data.draw(st.lists(st.floats(0.1, 0.99), min_size=1, max_size=7))
    heard = [0.0]
    for part in itertools.islice(itertools.cycle(rest), 70):
        heard.append(heard[-1] + part * within)
    story.messages = heard[1:]
    story.latency = 0.001
    living = Simulation(story).run()
    assert living.died_at is None, (living.cause, story)
    assert living.pings == []
    _, calm = data.draw(ended(story, ["vanished_at", "stopped_at"]))
    assume(calm < heard[-1])
    done = Simulation(story).run()
    last = last_heard(done)
    assert done.died_at is not None
    at = done.arrived_at if story.linux else done.read_at
    unseen = 0.0 if story.told_resumption else 2 * within
    assert at + within < done.died_at <= last + within + SLACK + unseen


@given(st.data(), heartbeats(), st.floats(0.3, 60.0), st.sampled_from(["ping", "expect"]))
def test_no_data_for_idle_timeout_ends_it_and_nothing_else_does(data, made, idle, kind):
    if kind == "ping":
        options = Heartbeat(made.interval, made.timeout, made.pong_timeout, idle_timeout=idle)
    else:
        options = Heartbeat.expect(10 * idle, idle_timeout=idle)
    parts = data.draw(st.lists(st.floats(0.0, 0.98), max_size=20))
    messages = [0.0, *itertools.accumulate(part * idle for part in parts)]
    story = Story(options, linux=data.draw(st.booleans()), until=messages[-1] + 5 * idle)
    assume(story.until / min(made.interval, made.timeout) < 2_000)
    story.messages = messages[1:]
    story.latency = 0.5 * min(options.timeout, options.pong_timeout or math.inf)
    story.timers_first = data.draw(st.booleans())
    done = Simulation(story).run()
    assert done.died_at is not None
    assert done.cause.startswith("no data message for"), (done.cause, story)
    assert messages[-1] + idle <= done.died_at <= messages[-1] + idle + SLACK
