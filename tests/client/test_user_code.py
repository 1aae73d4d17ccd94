"""What the program's code does to the loop and to the tasks that call it: the client lives on (P9)."""

import asyncio
import contextvars

import pytest
from tenacity import wait_fixed

from resilient_ws import ErrorEvent, ReconnectPolicy, RetryEvent, State
from tests.client.kit import URL, now, settle, stage

pytestmark = pytest.mark.promise("P9")

WORK = 0.002
"""Seconds that one call works without giving the loop away."""


class Worker:
    """A callback that works, and how often it was called between two turns of the loop."""

    def __init__(self) -> None:
        self.calls = 0
        self.most = 0

    def __call__(self, _event):
        asyncio.get_running_loop().clock.advance(WORK)
        self.calls += 1

    async def later(self, event):
        self(event)

    async def watch(self, calls):
        """Let the loop turn until there were so many calls."""
        while self.calls < calls:
            before = self.calls
            await asyncio.sleep(0)
            self.most = max(self.most, self.calls - before)


@pytest.mark.promise("P7")
@pytest.mark.parametrize("asynchronous", [False, True])
async def test_callbacks_for_many_messages_leave_the_loop_to_others(asynchronous):
    worker = Worker()
    async with stage(on_message=worker.later if asynchronous else worker) as played:
        await settle()
        played.peer.send(*map(str, range(200)))
        await worker.watch(200)
        assert worker.most == 3


async def lose_200(played):
    """Lose a connection with so many messages whose fate is to be told."""
    played.peer.go_deaf()
    for number in range(200):
        await played.client.send(str(number))
    await settle()
    played.peer.drop()


@pytest.mark.promise("P7")
@pytest.mark.parametrize("asynchronous", [False, True])
async def test_callbacks_for_many_events_leave_the_loop_to_others(asynchronous):
    worker = Worker()
    async with stage(on_undelivered=worker.later if asynchronous else worker) as played:
        await lose_200(played)
        await worker.watch(200)
        assert worker.most == 3


@pytest.mark.parametrize("asynchronous", [False, True])
async def test_all_of_many_events_are_told_before_the_end(asynchronous):
    worker = Worker()
    async with stage(on_undelivered=worker.later if asynchronous else worker) as played:
        await lose_200(played)
        await worker.watch(5)
        await played.client.close()
        assert worker.calls == 200


async def by_itself(client):
    await client.close()


async def with_a_limit(client):
    await asyncio.wait_for(client.close(), 100)


async def among_others(client):
    await asyncio.gather(client.close(), asyncio.sleep(0))


async def in_a_group(client):
    async with asyncio.TaskGroup() as group:
        group.create_task(client.close())


CLOSING = [by_itself, with_a_limit, among_others, in_a_group]


@pytest.mark.promise("P7")
@pytest.mark.parametrize("how", CLOSING)
@pytest.mark.parametrize("returned", [False, True])
@pytest.mark.parametrize("name", ["on_open", "on_state", "on_message"])
async def test_close_in_a_callback_does_not_wait_for_it_whatever_task_it_is_in(how, returned, name):
    took = []

    async def close(_event):
        began = now()
        await how(played.client)
        took.append(now() - began)

    def close_later(event):
        return asyncio.gather(close(event))

    async with stage(start=False, close_timeout=50, **{name: close_later if returned else close}) as played:
        played.client.start()
        await settle()
        if name == "on_message":
            played.peer.send("close")
            await settle()
        assert played.client.state is State.CLOSED
        assert took
        assert max(took) < 1
        await asyncio.wait_for(played.client.close(), 1)


EAGER = pytest.mark.skipif(
    not hasattr(asyncio, "eager_task_factory"), reason="tasks begin at once from Python 3.12 on"
)


@EAGER
@pytest.mark.promise("P7")
@pytest.mark.parametrize("how", CLOSING)
@pytest.mark.parametrize("wrapped", ["task", "gather", "shield", "coroutine"])
@pytest.mark.parametrize("name", ["on_open", "on_state", "on_close", "on_message"])
async def test_close_in_a_task_that_begins_at_once_does_not_wait_for_the_callback(name, wrapped, how):
    asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)
    took = []

    async def close():
        began = now()
        await how(played.client)
        took.append(now() - began)

    def callback(_event):
        if wrapped == "coroutine":
            return close()
        task = asyncio.ensure_future(close())
        return {"gather": asyncio.gather, "shield": asyncio.shield}.get(wrapped, lambda same: same)(task)

    async def slow(_event):
        await asyncio.sleep(2)

    async with stage(start=False, close_timeout=50, on_state=slow) as played:
        getattr(played.client, name)(callback)
        played.client.start()
        await settle()
        if name == "on_message":
            played.peer.send("close")
        elif name == "on_close":
            played.peer.drop()
        await settle(30)
        assert played.client.state is State.CLOSED
        assert took
        assert max(took) <= 16.1  # behind the slow callbacks for five changes of state before it


@EAGER
@pytest.mark.promise("P7")
@pytest.mark.parametrize("where", ["setup", "decide", "url"])
async def test_close_in_a_task_that_begins_at_once_ends_a_client_that_waits_for_it(where):
    asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)

    def close(*_):
        return asyncio.ensure_future(played.client.close())

    options = {"setup": close} if where == "setup" else {}
    if where == "decide":
        options = {"reconnect": ReconnectPolicy(decide=close)}
    async with stage(
        url=close if where == "url" else URL, start=False, close_timeout=50, **options
    ) as played:
        played.client.start()
        await settle()
        if where == "decide":
            played.peer.drop()
        await settle(1)
        assert played.client.state is State.CLOSED


@pytest.mark.promise("P7")
@pytest.mark.parametrize("how", CLOSING)
async def test_close_in_setup_does_not_wait_for_it_whatever_task_it_is_in(how):
    async def setup(_connection):
        await how(played.client)

    async with stage(start=False, setup=setup, close_timeout=50) as played:
        played.client.start()
        await settle()
        assert played.client.state is State.CLOSED


@pytest.mark.promise("P7")
async def test_close_in_a_task_that_a_callback_has_left_behind_waits_for_the_callbacks():
    done, tasks = [], []

    async def leave_behind(_event):
        async def close():
            await asyncio.sleep(1)
            await played.client.close()
            done.append("closed")

        tasks.append(asyncio.create_task(close()))

    async def last(event):
        await asyncio.sleep(event.final)
        done.append("called")

    async with stage(on_open=leave_behind, on_close=last) as played:
        await settle()
        await asyncio.gather(*tasks)
        assert done == ["called", "closed"]


async def cancels_itself(_event=None):
    asyncio.current_task().cancel()
    await asyncio.sleep(0)


async def cancels_itself_at_its_end(_event=None):
    asyncio.current_task().cancel()


async def is_late(_event=None):
    """Have a time limit of the old kind, which takes back nothing."""
    task = asyncio.current_task()
    asyncio.get_running_loop().call_later(1, task.cancel)
    try:
        await asyncio.sleep(100)
    except asyncio.CancelledError:
        raise TimeoutError from None


async def lets_itself_be_cancelled_later(_event=None):
    asyncio.get_running_loop().call_later(1, asyncio.current_task().cancel)


async def waits_for_what_is_cancelled(_event=None):
    other = asyncio.create_task(asyncio.sleep(100))
    other.cancel()
    await other


CANCELLING = [cancels_itself, cancels_itself_at_its_end, is_late, lets_itself_be_cancelled_later]


@pytest.mark.expects_errors
@pytest.mark.parametrize("how", CANCELLING)
@pytest.mark.parametrize("name", ["on_message", "on_state"])
async def test_a_callback_may_cancel_its_task(how, name):
    seen = []

    async def called(event):
        seen.append(event)
        if len(seen) == 1:
            await how()
        if len(seen) == 2:
            await waits_for_what_is_cancelled()

    async with stage(start=False, **{name: called}) as played:
        played.client.start()
        await settle()
        for number in range(3):
            played.peer.send(str(number))
            await settle(10)
        await settle(10)
        assert len(seen) == (3 if name == "on_message" else 2)
        # On the lane of events the task has ended when the timer comes, so there it cancels nothing.
        silent = name == "on_state" and how is lets_itself_be_cancelled_later
        assert [where for where, _ in played.errors] == [name] * (1 if silent else 2)
        assert played.client.state is State.OPEN


@pytest.mark.expects_errors
async def test_a_sync_callback_may_cancel_its_task():
    seen = []

    def called(message):
        seen.append(message)
        asyncio.current_task().cancel()

    async with stage(on_message=called) as played:
        played.peer.send("1", "2", "3")
        await settle()
        played.peer.send("4")
        await settle()
        assert seen == ["1", "2", "3", "4"]
        assert [where for where, _ in played.errors] == ["on_message"] * 2


@pytest.mark.expects_errors
@pytest.mark.parametrize("how", CANCELLING)
async def test_setup_may_cancel_its_task(how):
    calls = []

    async def setup(_connection):
        calls.append(now())
        if len(calls) == 1:
            await how()
        if len(calls) == 2:
            await waits_for_what_is_cancelled()

    async with stage(setup=setup) as played:
        await settle(100)
        assert len(calls) == (1 if how is lets_itself_be_cancelled_later else 3)
        assert played.client.state is State.OPEN


@pytest.mark.expects_errors
@pytest.mark.parametrize("how", CANCELLING)
async def test_a_provider_and_decide_may_cancel_their_task(how):
    asked, decided = [], []

    async def provide(_attempt):
        asked.append(now())
        if len(asked) == 2:
            await how()
        if len(asked) == 3:
            await waits_for_what_is_cancelled()
        return URL

    async def decide(_failure):
        decided.append(now())
        if len(decided) == 1:
            await how()
        if len(decided) == 2:
            await waits_for_what_is_cancelled()

    policy = ReconnectPolicy(wait=wait_fixed(1), decide=decide)
    async with stage(url=provide, reconnect=policy) as played:
        for _ in range(3):
            played.peer.drop()
            await played.reopened()
            await settle(10)
        assert len(asked) >= 4
        assert len(decided) >= 3


@pytest.mark.promise("P8")
@pytest.mark.parametrize("name", ["setup", "on_open", "on_message"])
async def test_who_cancels_all_tasks_ends_the_client(name):
    async def stays(_event):
        await asyncio.sleep(1_000)

    async with stage(ready=False, **{name: stays}) as played:
        await played.transport.next_peer()
        await settle()
        played.peer.send("x")
        await settle()
        others = asyncio.all_tasks() - {asyncio.current_task(), played._recorder}
        for task in others:
            task.cancel()
        await asyncio.wait_for(asyncio.wait(others), 1)
        assert played.client.state is State.CLOSED
        assert now() < 1


async def test_what_code_of_the_program_sets_in_its_context_stays_there():
    variable = contextvars.ContextVar("variable", default=0)
    seen = []

    def note(where):
        seen.append((where, variable.get()))
        variable.set(variable.get() + 1)

    async def setup(_connection):
        note("setup")

    async def provide(_attempt):
        note("provider")
        return URL

    async def opened(_event):
        note("on_open")

    async def decide(_failure):
        note("decide")

    policy = ReconnectPolicy(wait=wait_fixed(1), decide=decide)
    async with stage(url=provide, setup=setup, on_open=opened, reconnect=policy) as played:
        played.peer.drop()
        await played.reopened()
    assert seen == [
        (where, 0) for where in ("provider", "setup", "on_open", "decide", "provider", "setup", "on_open")
    ]


class NoException(BaseException):
    """As `pytest.fail` raises one."""


@pytest.mark.expects_errors
@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("name", ["setup", "on_open", "on_message", "decide", "provider"])
async def test_what_is_raised_may_be_no_exception(name, asynchronous):
    raised = []

    def once(value=None):
        if not raised:
            raised.append(NoException())
            raise raised[0]
        return value

    async def given(value):
        return value

    def code(_given):
        value = once(URL if name == "provider" else None)
        return given(value) if name in {"provider", "setup"} else value

    async def later(_given):
        await asyncio.sleep(0)
        return once(URL if name == "provider" else None)

    function = later if asynchronous else code
    url, options = URL, {}
    if name == "provider":
        url = function
    elif name == "decide":
        options = {"reconnect": ReconnectPolicy(wait=wait_fixed(1), decide=function)}
    else:
        options = {name: function}
    async with stage(url=url, **options) as played:
        played.peer.send("x")
        await settle()
        played.peer.drop()
        await played.reopened()
        assert raised
        if name == "provider":
            assert len(played.of(RetryEvent)) == 2
        else:
            assert [(event.where, event.exception) for event in played.of(ErrorEvent)] == [(name, raised[0])]
