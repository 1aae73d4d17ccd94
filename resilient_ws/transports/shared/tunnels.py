"""Tunnels through proxies: HTTP CONNECT and SOCKS 5.

Sources: RFC 9110 section 9.3.6 (CONNECT), RFC 6455 section 4.1 (a `ws` connection is tunnelled, too), RFC 1928 and RFC 1929.
"""

from __future__ import annotations

import asyncio
import base64
import ipaddress
import re
import socket
from typing import Final

from multidict import CIMultiDict

from resilient_ws.api.errors import ConnectError, ProxyRejected
from resilient_ws.transports.shared.handshake import RETRYABLE
from resilient_ws.transports.shared.http_heads import LONGEST, Head, parse_head
from resilient_ws.transports.shared.proxies import Proxy, authority
from resilient_ws.transports.shared.retry_after import retry_after

_CHUNK: Final = 4096

_REPLIES: Final = {
    1: "general failure",
    2: "not allowed by its rules",
    3: "network is unreachable",
    4: "host is unreachable",
    5: "connection refused",
    6: "TTL expired",
    7: "it does not know CONNECT",
    8: "it does not know this kind of address",
}
_FOR_GOOD: Final = frozenset({2, 7, 8})


async def tunnel(sock: socket.socket, proxy: Proxy, host: str, port: int, agent: str) -> None:
    """Ask an HTTP proxy for a tunnel; return when bytes written to `sock` reach `host`.

    Raises:
        ProxyRejected: It refuses, or it does not tunnel.
        ConnectError: It hung up, or its answer is not HTTP.
        OSError: The connection to it broke.
    """
    loop = asyncio.get_running_loop()
    await loop.sock_sendall(sock, _request(proxy, authority(host, port), agent))
    data = bytearray()
    while True:
        head, rest = parse_head(data)
        if head is not None and (head.status == 101 or not 100 <= head.status < 200):
            break
        if head is not None:
            data = bytearray(rest)
            continue
        if len(data) > LONGEST or data.count(b"\n") > LONGEST // 8:
            raise ConnectError(f"the answer of the proxy {proxy.shown} to CONNECT is too large")
        more = await loop.sock_recv(sock, _CHUNK)
        if not more:
            raise ConnectError(f"the proxy {proxy.shown} closed the connection instead of answering CONNECT")
        data += more
        if not b"HTTP/".startswith(data[:5]):
            raise _not_a_proxy(proxy, "its answer to CONNECT is not HTTP")
    _judge(proxy, head, rest)


def _request(proxy: Proxy, target: str, agent: str) -> bytes:
    lines = [f"CONNECT {target} HTTP/1.1", f"Host: {target}", f"User-Agent: {agent}"]
    if proxy.user is not None:
        login = base64.b64encode(proxy.user + b":" + proxy.password).decode()
        lines.append(f"Proxy-Authorization: Basic {login}")
    return "\r\n".join([*lines, "", ""]).encode()


def _judge(proxy: Proxy, head: Head, rest: bytes) -> None:
    """Raise unless the answer is a tunnel."""
    status, headers = head.status, head.headers
    if 200 <= status < 300:
        # RFC 9110 has a client ignore a length; but only what is no proxy sends a page, and then no tunnel follows.
        if rest or _has_page(headers):
            raise _not_a_proxy(proxy, f"it answered CONNECT with HTTP {status} and a page", status, headers)
        return
    if status in {405, 501}:
        raise _not_a_proxy(proxy, f"it answered CONNECT with HTTP {status}", status, headers)
    login = (
        ""
        if status != 407
        else "; it wants another login"
        if proxy.user is not None
        else "; it wants a login"
    )
    raise ProxyRejected(
        f"the proxy {proxy.shown} answered CONNECT with HTTP {status}{login}",
        status=status,
        headers=headers,
        retry_after=retry_after(headers),
        retryable=status in RETRYABLE or status >= 500,
    )


def _has_page(headers: CIMultiDict[str]) -> bool:
    length = headers.get("Content-Length", "0").strip()
    is_html = "html" in headers.get("Content-Type", "").lower()
    return is_html and (bool(re.fullmatch("[0-9]*[1-9][0-9]*", length)) or "Transfer-Encoding" in headers)


def _not_a_proxy(
    proxy: Proxy, why: str, status: int | None = None, headers: CIMultiDict[str] | None = None
) -> ProxyRejected:
    return ProxyRejected(
        f"the proxy {proxy.shown} does not tunnel: {why}", status=status, headers=headers, retryable=False
    )


async def socks(sock: socket.socket, proxy: Proxy, host: str, port: int) -> None:
    """Ask a SOCKS 5 proxy for a connection to `host`, a name or an address; return when there is one.

    Raises:
        ProxyRejected: It refuses the login or the request for good, or it is no SOCKS proxy.
        ConnectError: It could not reach `host`, or hung up.
        OSError: The connection to it broke.
    """
    loop = asyncio.get_running_loop()
    shown = proxy.shown

    async def take(size: int) -> bytes:
        data = bytearray()
        while len(data) < size:
            more = await loop.sock_recv(sock, size - len(data))
            if not more:
                raise ConnectError(f"the proxy {shown} closed the connection during the SOCKS handshake")
            data += more
        return bytes(data)

    def refused(text: str) -> ProxyRejected:
        return ProxyRejected(f"the proxy {shown} {text}", retryable=False)

    await loop.sock_sendall(sock, b"\x05\x01\x00" if proxy.user is None else b"\x05\x02\x00\x02")
    version, method = await take(2)
    if version != 5:
        raise refused("does not speak SOCKS 5")
    if method == 2 and proxy.user is not None:
        login = bytes([1, len(proxy.user)]) + proxy.user + bytes([len(proxy.password)]) + proxy.password
        await loop.sock_sendall(sock, login)
        if (await take(2))[1] != 0:
            raise refused("refused the login")
    elif method != 0:
        raise refused("wants a login" if proxy.user is None else "takes no login with user and password")
    await loop.sock_sendall(sock, b"\x05\x01\x00" + _target(host) + port.to_bytes(2))
    version, reply, _, kind = await take(4)
    if version != 5:
        raise refused("does not speak SOCKS 5")
    if reply != 0:
        target = authority(host, port)
        text = f"could not reach {target}: {_REPLIES.get(reply, f'reply {reply}')}"
        if reply in _FOR_GOOD:
            raise refused(text)
        raise ConnectError(f"the proxy {shown} {text}")
    if kind not in {1, 3, 4}:
        raise refused("does not speak SOCKS 5")
    size = {1: 4, 4: 16}.get(kind) or (await take(1))[0]
    await take(size + 2)


def _target(host: str) -> bytes:
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        name = host.encode("ascii", "replace")
        if len(name) > 255:
            raise ConnectError("the host name is too long for SOCKS 5", retryable=False) from None
        return bytes([3, len(name)]) + name
    return bytes([1 if address.version == 4 else 4]) + address.packed
