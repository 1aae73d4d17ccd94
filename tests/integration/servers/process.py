"""A server in a process of its own, on a loopback port that is its own too, also while it is down."""

import asyncio
import json
import os
import selectors
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.requirements import find_tool

START_TIMEOUT = 30.0
# Every server here needs less; hypercorn on Python 3.12 and newer waits for its clients without end.
STOP_TIMEOUT = 3.0


Command = Callable[[str, int], Sequence[str]]


@dataclass(frozen=True)
class Place:
    """Where a server runs.

    Args:
        host: the address that clients dial.
        listen: the address it listens on; ``None`` is the same.
        port: its port; 0 is a free one of loopback, kept for it while it is down.
        prefix: what is put before its command line, such as ``ip netns exec NAME``.
    """

    host: str = "127.0.0.1"
    listen: str | None = None
    port: int = 0
    prefix: tuple[str, ...] = ()


LOOPBACK = Place()


class Server:
    """A server process that can be stopped, killed, started again on the same port, and frozen.

    The plain methods block. A test whose client has to see what happens meanwhile awaits the ``async_`` ones.

    Args:
        name: what it is called in test ids and messages.
        command: gets the address and the port to listen on, returns the command line.
        features: what of the little protocol it can do beyond the rest, see ``kinds.py``.
        reports_ready: whether it prints a line once it listens; else connecting is tried until it succeeds.
        place: where it runs.
    """

    def __init__(
        self,
        name: str,
        command: Command,
        *,
        features: frozenset[str] = frozenset(),
        reports_ready: bool = True,
        place: Place = LOOPBACK,
    ) -> None:
        self.name = name
        self.features = features
        self._command = command
        self._reports_ready = reports_ready
        self._process: subprocess.Popen[bytes] | None = None
        self._log, path = tempfile.mkstemp()
        Path(path).unlink()
        self._place = place
        self._reservation: socket.socket | None = None
        self.host = place.host
        self.port = place.port
        if place.port == 0:
            self._reservation = reserved_port(place.host)
            self.port = self._reservation.getsockname()[1]
        self._closed = False

    @property
    def url(self) -> str:
        """The address without a path."""
        return f"ws://{self.host}:{self.port}"

    @property
    def pid(self) -> int:
        """The number of the process that runs now."""
        return self._running().pid

    @property
    def is_running(self) -> bool:
        """Whether there is a process that has not ended (it may be suspended)."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> Self:
        """Start it and return when it accepts connections."""
        self._spawn()
        self._await_ready()
        return self

    def stop(self) -> None:
        """End it as an operator would: SIGTERM, its own goodbye to its clients, SIGKILL after ``STOP_TIMEOUT``."""
        if not self.is_running:
            return
        process = self._running()
        self.resume()
        process.terminate()
        try:
            process.wait(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            process.kill()
        self._reap()

    def kill(self) -> None:
        """End it as the kernel would: SIGKILL. Its connections end without a close frame."""
        if self.is_running:
            self._running().kill()
        self._reap()

    def restart(self) -> None:
        """Stop it and start it again on the same port."""
        self.stop()
        self.start()

    async def async_stop(self) -> None:
        """Stop it while the loop runs on, so that a client in it can answer the goodbye."""
        await asyncio.to_thread(self.stop)

    async def async_start(self) -> None:
        """Start it while the loop runs on."""
        self._spawn()  # not in the thread: the process is tied to the life of the thread that starts it
        await asyncio.to_thread(self._await_ready)

    async def async_restart(self) -> None:
        """Stop it and start it again on the same port while the loop runs on."""
        await self.async_stop()
        await self.async_start()

    def suspend(self) -> None:
        """Freeze it: its kernel still acknowledges, nobody reads or answers."""
        self._running().send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on after ``suspend``."""
        self._running().send_signal(signal.SIGCONT)

    def heal(self) -> None:
        """Make it run, whatever a test has done to it."""
        if self.is_running:
            self.resume()
        else:
            self.start()

    def close(self) -> None:
        """End it for good and give the port back; a second call does nothing."""
        if self._closed:
            return
        self._closed = True
        self.kill()
        os.close(self._log)
        if self._reservation is not None:
            self._reservation.close()

    def log(self) -> str:
        """Return what it wrote to standard error, in all its lives."""
        return os.pread(self._log, os.fstat(self._log).st_size, 0).decode(errors="replace")

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<{self.name} on port {self.port}, {'running' if self.is_running else 'down'}>"

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise RuntimeError(f"{self.name} does not run")
        return self._process

    def _reap(self) -> None:
        if self._process is None:
            return
        self._process.wait(STOP_TIMEOUT)
        if self._process.stdout is not None:
            self._process.stdout.close()
        self._process = None

    def _spawn(self) -> None:
        if self.is_running:
            raise RuntimeError(f"{self.name} runs already")
        self._reap()
        # Without the tests it has no reason to live: should they be killed, it is killed too.
        setpriv = find_tool("setpriv") if threading.current_thread() is threading.main_thread() else None
        tied = [setpriv, "--pdeathsig", "KILL"] if setpriv else []
        self._process = subprocess.Popen(
            [*tied, *self._place.prefix, *self._command(self._place.listen or self.host, self.port)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=self._log,
        )

    def _await_ready(self) -> None:
        try:
            self._await_ready_line() if self._reports_ready else self._await_connection()
        except BaseException:
            self.kill()
            raise

    def _await_ready_line(self) -> None:
        process = self._running()
        assert process.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            if not selector.select(START_TIMEOUT):
                raise RuntimeError(f"{self.name} was not ready within {START_TIMEOUT} s: {self.log()}")
        line = process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.name} ended at once: {self.log()}")
        ready = json.loads(line)
        assert ready["port"] == self.port, f"{self.name} listens on {ready['port']}, not on {self.port}"

    def _await_connection(self) -> None:
        deadline = time.monotonic() + START_TIMEOUT
        while True:
            if self._running().poll() is not None:
                raise RuntimeError(f"{self.name} ended at once: {self.log()}")
            try:
                socket.create_connection((self.host, self.port), timeout=1).close()
            except OSError as error:
                if time.monotonic() > deadline:
                    raise RuntimeError(
                        f"{self.name} was not ready within {START_TIMEOUT} s: {self.log()}"
                    ) from error
                time.sleep(0.02)
            else:
                return


def reserved_port(host: str) -> socket.socket:
    """Return a socket that is bound and does not listen.

    Nobody else gets its port between two lives of a server, a dial meanwhile is refused, and a dial to it cannot
    connect to itself, which one to a free ephemeral port sometimes does.
    """
    reservation = socket.socket()
    reservation.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    reservation.bind((host, 0))
    return reservation
