"""Real clients lose a real server on this machine: `python -m benchmarks.herd --real 2000`.

The server is killed and comes back on the same port. What the kernel counts tells how many connections were begun and
whether one found the listen backlog full. As root on Linux all this happens in a network namespace of its own, where
nobody else is counted.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import attrs
import numpy as np

from benchmarks.herd_formulas import ours, slowed
from benchmarks.herd_model import STEP, Counts, Outcome, Server, simulate
from benchmarks.server import accepted
from resilient_ws import ReconnectEvent, ReconnectPolicy, WebSocketClient
from resilient_ws.core.governor import SHARED

BACKLOG: Final = 128
"""As aiohttp's server asks for; asyncio's default is 100."""

TIMEOUT: Final = 120.0
"""Seconds until all clients must be back, with delays as they are; as many times longer as the delays are."""

_INSIDE: Final = "HERD_INSIDE"


# ----------------------------------------------------------------------------------------------- the two processes


class Peer(asyncio.Protocol):
    """A server's side that does nothing but answer the handshake and a CLOSE."""

    def __init__(self) -> None:
        self._head: bytes | None = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        if self._head is None:
            if data[0] == 0x88:
                self._transport.write(b"\x88\x02\x03\xe8")
                self._transport.close()
            return
        self._head += data
        if self._head.endswith(b"\r\n\r\n"):
            self._transport.write(accepted(self._head, deflate=False))
            self._head = None


async def serve(port: int) -> None:
    """Listens when told to, says where and when, and stays until it is killed."""
    sys.stdin.readline()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Peer, "127.0.0.1", port, backlog=BACKLOG)
    print(json.dumps([server.sockets[0].getsockname()[1], time.monotonic()]), flush=True)
    async with server:
        await server.serve_forever()


async def dial(url: str, count: int, *, governed: bool, slow: float) -> None:
    """Opens clients, says so, and says when each was back after it had lost its connection."""
    back_at: list[float] = []
    everybody = asyncio.Event()

    def back(_: ReconnectEvent) -> None:
        back_at.append(time.monotonic())
        if len(back_at) == count:
            everybody.set()

    policy = slowed(ReconnectPolicy(), slow)
    governor = SHARED if governed else None
    clients = [  # without heartbeats: on a starved machine a late pong would be one more loss
        WebSocketClient(url, reconnect=policy, governor=governor, heartbeat=None, on_reconnect=back)
        for _ in range(count)
    ]
    for first in range(0, count, 20):  # at leisure: this is not what is measured
        group = clients[first : first + 20]
        for client in group:
            client.start()
        await asyncio.gather(*(client.ready(60) for client in group))
    print("open", flush=True)
    try:
        async with asyncio.timeout(TIMEOUT * slow):
            await everybody.wait()
    finally:
        print(json.dumps(back_at), flush=True)
        await asyncio.gather(*(client.close() for client in clients))


# ----------------------------------------------------------------------------------------------------- what is seen


def counters() -> dict[str, int]:
    """Returns what the kernel has counted of TCP in this network namespace."""
    found: dict[str, int] = {}
    for name in ("snmp", "netstat"):
        lines = Path(f"/proc/net/{name}").read_text(encoding="ascii").splitlines()
        for head, values in zip(lines[::2], lines[1::2], strict=True):
            kind = head.split(":")[0]
            found |= {
                f"{kind}.{key}": int(value)
                for key, value in zip(head.split()[1:], values.split()[1:], strict=True)
            }
    return found


class Watch(threading.Thread):
    """Notes how many connections have been begun, many times a second."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self._over = threading.Event()
        self.seen: list[tuple[float, int]] = []

    def run(self) -> None:
        while not self._over.wait(STEP / 4):
            self.seen.append((time.monotonic(), counters()["Tcp.ActiveOpens"]))

    def stop(self) -> None:
        self._over.set()
        self.join()

    def attempts(self, lost_at: float, seconds: float) -> Counts:
        """Returns how many were begun in each step from `lost_at`."""
        at, count = np.array(self.seen, dtype=np.float64).T
        begun: Counts = np.rint(np.interp(lost_at + np.arange(0.0, seconds, STEP), at, count)).astype(
            np.int64
        )
        return begun[1:] - begun[:-1]


@attrs.frozen(kw_only=True)
class Seen:
    """What was measured, as the model counts it, and what the kernel said."""

    outcome: Outcome
    overflows: int
    drops: int


def _child(*arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "benchmarks.herd_real", *arguments]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def _line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise RuntimeError(f"{process.args!r} ended with {process.wait()}")
    return line


def _listen(process: subprocess.Popen[str]) -> tuple[int, float]:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()
    port, at = json.loads(_line(process))
    return port, at


@contextmanager
def _bounded(seconds: float) -> Iterator[Callable[[subprocess.Popen[str]], None]]:
    """Kills the processes that it was given, at the end or after so many seconds."""
    running: list[subprocess.Popen[str]] = []

    def kill() -> None:
        for process in running:
            if process.poll() is None:
                process.kill()

    timer = threading.Timer(seconds, kill)
    timer.daemon = True
    timer.start()
    try:
        yield running.append
    finally:
        timer.cancel()
        kill()
        for process in running:
            process.wait()


def measure(clients: int, down: float, slow: float, *, governed: bool, processes: int = 2) -> Seen:
    """Lets real clients lose their server, and watches."""
    with _bounded(TIMEOUT + TIMEOUT * slow) as started:
        first = _child("serve", "0")
        started(first)
        port, _ = _listen(first)
        each = [clients // processes + (index < clients % processes) for index in range(processes)]
        how = ["--slow", str(slow), *([] if governed else ["--alone"])]
        workers = [_child("dial", f"ws://127.0.0.1:{port}/", str(count), *how) for count in each]
        for worker in workers:
            started(worker)
        second = _child("serve", str(port))
        started(second)
        for worker in workers:
            _line(worker)
        time.sleep(2.0)  # for what follows an opening
        before = counters()
        watch = Watch()
        watch.start()
        time.sleep(4 * STEP)
        lost_at = time.monotonic()
        first.send_signal(signal.SIGKILL)
        time.sleep(max(0.0, lost_at + down - time.monotonic()))
        _, up_at = _listen(second)
        back_at = np.array(sorted(at for worker in workers for at in json.loads(_line(worker))))
        watch.stop()
        after = counters()
        for worker in workers:
            worker.wait()
        full = np.full(clients, np.inf)
        full[: len(back_at)] = back_at - lost_at
        steps = watch.attempts(lost_at, watch.seen[-1][0] - lost_at)
        outcome = Outcome(down=up_at - lost_at, attempts=steps, back_at=full)
        return Seen(
            outcome=outcome,
            overflows=after["TcpExt.ListenOverflows"] - before["TcpExt.ListenOverflows"],
            drops=after["TcpExt.ListenDrops"] - before["TcpExt.ListenDrops"],
        )


def report(clients: int, down: float, slow: float) -> None:
    """Measures with the shared governor and without, and prints both beside the simulation.

    Args:
        clients: How many.
        down: Seconds; made longer as the delays are.
        slow: How many times as long all delays are.
    """
    if _elsewhere():
        return
    down *= slow
    server = Server(down=down, capacity=2000.0, backlog=BACKLOG)
    formula = ours(slowed(ReconnectPolicy(), slow))
    paper = [simulate(formula, clients, server, seed=seed) for seed in range(1, 6)]
    print(f"{clients:,} clients, all delays x {slow:g}, down for {down:g} s; a listen backlog of {BACKLOG}\n")
    print(
        f"| | peak in {slow:g} s | | after the restart | 50 % back | 99 % | 100 % | ListenOverflows | ListenDrops |"
    )
    print("|---|--:|--:|--:|--:|--:|--:|--:|--:|")
    expected = float(np.mean([one.peak(within=slow) for one in paper]))
    _row("simulated", paper, expected, slow, "0", "0")
    for name, governed in (("real, `governor=None`", False), ("real", True)):
        seen = measure(clients, down, slow, governed=governed)
        _row(name, [seen.outcome], expected, slow, str(seen.overflows), str(seen.drops))


def _row(name: str, outcomes: list[Outcome], expected: float, slow: float, *counted: str) -> None:
    """Prints the mean of `outcomes`; attempts are counted within what is a second of the policy as it is."""
    peak = float(np.mean([out.peak(within=slow) for out in outcomes]))
    after = float(np.mean([out.peak(since=out.down, within=slow) for out in outcomes]))
    backs = [
        f"{np.mean([out.until_back(share) - out.down for out in outcomes]):.1f} s"
        for share in (0.5, 0.99, 1.0)
    ]
    figures = [f"{peak:,.0f}", f"{peak / expected:.2f} x", f"{after:,.0f}", *backs, *counted]
    print(f"| {' | '.join([name, *figures])} |", flush=True)


def _elsewhere() -> bool:
    """Goes on in a network namespace of its own where that can be made; returns whether it did, and is over."""
    if _INSIDE in os.environ:
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
        return False
    if os.geteuid() != 0 or not (shutil.which("unshare") and shutil.which("ip")):
        print("In the network namespace of everybody: others are counted too.", file=sys.stderr)
        return False
    command = ["unshare", "--net", sys.executable, "-m", "benchmarks.herd", *sys.argv[1:]]
    subprocess.run(command, env=os.environ | {_INSIDE: "1"}, check=True)
    return True


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("role", choices=["serve", "dial"])
    parser.add_argument("what")
    parser.add_argument("count", type=int, nargs="?", default=0)
    parser.add_argument("--alone", action="store_true", help="without the governor")
    parser.add_argument("--slow", type=float, default=1.0)
    options = parser.parse_args()
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    if options.role == "serve":
        asyncio.run(serve(int(options.what)))
    else:
        asyncio.run(dial(options.what, options.count, governed=not options.alone, slow=options.slow))


if __name__ == "__main__":
    main()
