"""When a client of each library dials again: ours asked through its own policy code, the others as they publish it.

A formula gets how many failures a client has had in a row, the loss of the connection being the first, and a number
from 0 to 1 for each client; it returns the seconds each of them waits, or `None` where the client gives up.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import attrs
import numpy as np
from numpy.typing import NDArray

from resilient_ws import ReconnectPolicy
from resilient_ws.core.retry import delay_range

Numbers: TypeAlias = NDArray[np.float64]
Waits: TypeAlias = Callable[[int, Numbers], Numbers | None]


@attrs.frozen
class Formula:
    """A policy of reconnecting.

    Attributes:
        name: As the tables show it.
        waits: The formula.
        in_words: What it does, for the tables.
        from_dial: Whether the wait counts from the beginning of the attempt that failed instead of from its end.
        own: Whether it is this library's.
    """

    name: str
    waits: Waits
    in_words: str
    from_dial: bool = False
    own: bool = False


def ours(policy: ReconnectPolicy | None = None, name: str = "resilient_ws") -> Formula:
    """The formula of `policy`, by default that of a client without options.

    The range comes from `delay_range`, which is what `RetryState` draws from; what is done to it here is what
    `random.Random.uniform` does. A test holds the two together.
    """
    asked = ReconnectPolicy() if policy is None else policy

    def waits(failures: int, drawn: Numbers) -> Numbers:
        low, high = delay_range(asked, failures)
        return low + (high - low) * drawn

    words = (
        f"0-{asked.first_delay:g} s, then {asked.min_delay:g} s to {asked.first_delay:g} s x "
        f"{asked.factor:g}^(n-1), at most {asked.max_delay:g} s"
    )
    return Formula(name, waits, words, own=True)


def slowed(policy: ReconnectPolicy, times: float) -> ReconnectPolicy:
    """Returns `policy` with all delays so many times as long: the same shape, at a pace that a small machine can keep."""
    return attrs.evolve(
        policy,
        first_delay=policy.first_delay * times,
        min_delay=policy.min_delay * times,
        max_delay=policy.max_delay * times,
    )


def _same(seconds: float, drawn: Numbers) -> Numbers:
    return np.full_like(drawn, seconds)


def websockets(failures: int, drawn: Numbers) -> Numbers:
    """`async for connection in connect(...)`: at once after a loss; then `backoff()`.

    Source: websockets 17.4, src/websockets/asyncio/client.py `connect.__aiter__` (the delays are forgotten when a
    connection had opened) and src/websockets/client.py `backoff` with its defaults 5, 3.1, 90, 1.618.
    """
    if failures == 1:
        return _same(0.0, drawn)
    if failures == 2:
        return drawn * 5.0
    delay = 3.1 * 1.618 ** min(failures - 3, 50)
    return _same(min(90.0, delay), drawn)


def socket_io(failures: int, drawn: Numbers) -> Numbers:
    """1 s, 2 s, 4 s, each +-50 %, at most 5 s.

    Source: socket.io-client 4.8.4, build/esm/contrib/backo2.js `duration` and, for 1000, 5000 and 0.5,
    build/esm/manager.js. Whether it adds or takes off hangs on the first digit of the same random number.
    """
    grown = 1000.0 * 2.0 ** min(failures - 1, 50)
    deviation = np.floor(drawn * 0.5 * grown)
    less = np.floor(drawn * 10).astype(np.int64) & 1 == 0
    return np.floor(np.minimum(np.where(less, grown - deviation, grown + deviation), 5000.0)) / 1000.0


def nats_py(failures: int, drawn: Numbers) -> Numbers | None:
    """At once after a loss, then every 2 s, 61 times in all; no jitter.

    Source: nats-py 2.16.0, nats/aio/client.py `_select_next_server`, DEFAULT_RECONNECT_TIME_WAIT = 2,
    DEFAULT_MAX_RECONNECT_ATTEMPTS = 60.
    """
    if failures > 61:
        return None
    return _same(0.0 if failures == 1 else 2.0, drawn)


def nats_js(failures: int, drawn: Numbers) -> Numbers | None:
    """At once after a loss, then after 2000 ms and up to 100 ms more (up to 1000 ms with TLS), 10 times in all.

    Source: nats 2.29.3 for JavaScript, lib/nats-base-client/options.js `reconnectDelayHandler` and protocol.js `dodialLoop`.
    """
    if failures > 10:
        return None
    return _same(0.0, drawn) if failures == 1 else 2.0 + np.floor(drawn * 101) / 1000.0


def grpc(failures: int, drawn: Numbers) -> Numbers:
    """At once after a loss, then 1 s, then 1.6 times as long each time, at most 120 s, each of these +-20 %.

    Source: https://github.com/grpc/grpc/blob/master/doc/connection-backoff.md, `ConnectWithBackoff`: the first deadline
    has no jitter, and deadlines count from the beginning of an attempt.
    """
    if failures <= 2:
        return _same(failures - 1.0, drawn)
    backoff = min(1.6 ** min(failures - 2, 50), 120.0)
    return backoff + (2.0 * drawn - 1.0) * 0.2 * backoff


def centrifuge(failures: int, drawn: Numbers) -> Numbers:
    """0.5 s and 0 to 0.5 s, 1 s, 2 s and so on more, at most 20 s.

    Source: centrifuge 5.8.0 for JavaScript, build/protobuf/index.js `backoff`, and there minReconnectDelay 500 and
    maxReconnectDelay 20000.
    """
    least, most = 500.0, 20_000.0
    interval = np.floor(drawn * (min(most, least * 2.0 ** min(failures - 1, 31)) + 1))
    return np.minimum(most, least + interval) / 1000.0


def signalr(failures: int, drawn: Numbers) -> Numbers | None:
    """`withAutomaticReconnect()`: after 0, 2, 10 and 30 s, then it stops; no jitter.

    Source: @microsoft/signalr 10.0.11, dist/esm/DefaultReconnectPolicy.js.
    """
    delays = (0.0, 2.0, 10.0, 30.0)
    return _same(delays[failures - 1], drawn) if failures <= len(delays) else None


def fixed_sleep(failures: int, drawn: Numbers) -> Numbers:
    """A loop around aiohttp's `ws_connect`: at once after a loss, then every 10 s.

    Source: https://github.com/custom-components/remote_homeassistant, custom_components/remote_homeassistant/__init__.py
    `async_connect` at commit 00d438041c7751379df484dc826eddba20f427fe.
    """
    return _same(0.0 if failures == 1 else 10.0, drawn)


OTHERS = (
    Formula("websockets", websockets, "0 s, 0-5 s, then 3.1 s x 1.618^n, at most 90 s"),
    Formula("socket.io", socket_io, "1 s x 2^(n-1) +-50 %, at most 5 s"),
    Formula("nats.py", nats_py, "0 s, then every 2 s; stops after 61"),
    Formula("nats.js", nats_js, "0 s, then every 2 to 2.1 s; stops after 10"),
    Formula("gRPC", grpc, "0 s, 1 s, then 1 s x 1.6^n +-20 %, at most 120 s", from_dial=True),
    Formula("centrifuge", centrifuge, "0.5 s + 0-0.5 s x 2^(n-1), at most 20 s"),
    Formula("SignalR", signalr, "0, 2, 10, 30 s; then stops"),
    Formula("fixed sleep", fixed_sleep, "0 s, then every 10 s"),
)
