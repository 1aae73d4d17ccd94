"""Kernel information about a TCP socket, and what happens to unsent bytes when it is closed.

It knows nothing of WebSockets, and it judges nothing. The facts are there on Linux only.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import sys
from typing import Any, Final, Protocol

import attrs

from resilient_ws.api.record import Record

if sys.platform == "linux":
    import fcntl
    import termios

# `struct tcp_info` of linux/tcp.h only ever grows at its end: offsets are for ever, but an old kernel returns less.
_SIZE: Final = 256
# tcpi_last_data_recv, tcpi_bytes_acked, tcpi_bytes_received: Linux 4.1
_OLD: Final = struct.Struct("=52xI64xQQ")
# The same, tcpi_notsent_bytes (Linux 4.6), tcpi_snd_wnd (Linux 5.4)
_WHOLE: Final = struct.Struct("=52xI64xQQ8xI80xI")
_SO_NWRITE: Final = 0x1024
"""Of sys/socket.h on macOS: bytes that are not acknowledged."""
_INT: Final = struct.Struct("=i")
_ZERO: Final = bytes(_INT.size)
# `struct linger`: on, for 0 seconds.
_RESET: Final = struct.pack("HH" if sys.platform == "win32" else "ii", 1, 0)


class Socket(Protocol):
    """What is asked of a socket; those of asyncio and of uvloop have it."""

    def fileno(self) -> int:
        """Return the file descriptor of the socket; -1 if closed."""
        ...

    def getsockopt(self, level: int, optname: int, buflen: int, /) -> Any:
        """Return the option as bytes."""
        ...

    def setsockopt(self, level: int, optname: int, value: bytes, /) -> Any:
        """Set the option."""
        ...


@attrs.frozen(eq=False, repr=False)
class SocketFacts(Record):
    """One look at a TCP socket.

    Attributes:
        bytes_received: Bytes that came from the peer, in order and once, whether read by us or not.
        bytes_acked: Bytes of ours that the peer's kernel has acknowledged (one more than that after a connect, since
            the SYN counts).
        queued: Bytes of ours in our kernel that are not acknowledged, sent or not.
        in_flight: How many of `queued` are sent, to a peer that has room; `None` where the kernel does not tell.
            0 while the peer's window is closed: then it is not asked to acknowledge anything.
        last_data_recv: Seconds since data last came, in steps of the kernel's clock (1 to 10 ms).
    """

    bytes_received: int
    bytes_acked: int
    queued: int
    in_flight: int | None
    last_data_recv: float


def forget_unsent(sock: Socket | None) -> None:
    """Let the close of `sock` throw away what the peer has not acknowledged, and reset the connection.

    Without it the kernel goes on sending for minutes, and when a broken path heals, the bytes of a connection that was
    given up arrive after those of its successor. Not to be called after the transport of the socket was closed.
    """
    if sock is not None:
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)


def forgets_unsent(sock: Socket) -> bool:
    """Return whether `forget_unsent` was called for it."""
    try:
        return bool(sock.getsockopt(socket.SOL_SOCKET, socket.SO_LINGER, len(_RESET)) == _RESET)
    except OSError:
        return False


def unacknowledged(sock: Socket | None) -> int | None:
    """Return how many bytes of ours the peer's kernel has not acknowledged; `None` where the system does not tell.

    Not to be called after the transport of the socket was closed. For a Unix socket these are what its reader has not taken.
    """
    if sock is None:
        return None
    try:
        if sys.platform == "linux":
            return int(_INT.unpack(fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, _ZERO))[0])
        if sys.platform == "darwin":
            return int(_INT.unpack(sock.getsockopt(socket.SOL_SOCKET, _SO_NWRITE, _INT.size))[0])
    except (OSError, ValueError):
        return None
    return None


def read(sock: Socket | None) -> SocketFacts | None:
    """Ask the kernel about `sock`: two system calls.

    Not to be called after the transport of the socket was closed: its number may belong to another socket then.

    Returns:
        `None` if this is no TCP socket, or a closed one, or on a system (one that is not Linux, or merely resembles
        it, or is older than 4.1) that does not count: a WebSocket connection has always sent and received something.
    """
    if sys.platform == "linux" and sock is not None:
        try:
            info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _SIZE)
            # SIOCOUTQ of linux/sockios.h is TIOCOUTQ.
            queued: int = _INT.unpack(fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, _ZERO))[0]
        except (OSError, ValueError):
            return None
        return facts(info, queued)
    return None


def facts(info: bytes, queued: int) -> SocketFacts | None:
    """Take a `struct tcp_info` apart; `None` if it does not count bytes."""
    in_flight: int | None = None
    if len(info) >= _WHOLE.size:
        last, acked, received, unsent, window = _WHOLE.unpack_from(info)
        in_flight = max(0, queued - unsent) if window else 0
    elif len(info) >= _OLD.size:
        last, acked, received = _OLD.unpack_from(info)
    else:
        return None
    if not (acked and received):
        return None
    return SocketFacts(received, acked, queued, in_flight, last / 1000)
