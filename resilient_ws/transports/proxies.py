"""Which proxy the environment names; nothing here opens a connection."""

from __future__ import annotations

import urllib.request
from typing import Final

from yarl import URL

from resilient_ws.errors import ConnectError

SCHEMES: Final = ("http", "https")
"""What a proxy's own address may begin with; a SOCKS proxy needs a connector of another package, lent by `session`."""


def proxy_from_environment(url: URL) -> URL | None:
    """Returns the proxy for `url`: of `https_proxy` for wss, `http_proxy` for ws, else `all_proxy`, unless `no_proxy`.

    Raises:
        ConnectError: The environment names something that is not an http or https address.

    Source: the convention of curl, as `urllib.request` reads it (on Windows and macOS also the system's settings).
    """
    proxies = urllib.request.getproxies()
    name = "https" if url.scheme == "wss" else "http"
    host = url.host or ""
    if urllib.request.proxy_bypass(f"{host}:{url.port}") or urllib.request.proxy_bypass(host):
        return None
    for variable in (name, "all"):
        given = proxies.get(variable, "").strip()
        if given:
            proxy = parse_proxy(given if "://" in given else f"http://{given}")
            if proxy is None:
                raise ConnectError(f"{variable}_proxy must be an http or https address", retryable=False)
            return proxy
    return None


def parse_proxy(value: str | URL) -> URL | None:
    """Returns the address of a proxy, or `None` where it is not an http or https address with a host."""
    try:
        proxy = URL(value)
        usable = proxy.scheme in SCHEMES and bool(proxy.host) and bool(proxy.port)
    except ValueError:
        return None
    return proxy if usable else None
