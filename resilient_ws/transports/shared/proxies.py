"""Chooses the proxy for a URL, from the options or the environment. Nothing here opens a connection."""

from __future__ import annotations

import ipaddress
import re
import sys
import urllib.request
from typing import Final
from urllib.parse import unquote_to_bytes

import attrs
from yarl import URL

from resilient_ws.api.errors import ConnectError
from resilient_ws.api.record import Record

PORTS: Final = {"http": 80, "https": 443, "socks5": 1080, "socks5h": 1080}
"""What a proxy's own address may begin with, and the port where it names none."""

_KINDS: Final = "an http://, https://, socks5:// or socks5h:// URL with a host"
_CONTROL: Final = re.compile(rb"[\x00-\x1f\x7f]")
_LONGEST_OF_SOCKS: Final = 255


@attrs.frozen(eq=False, repr=False)
class Proxy(Record):
    """A proxy.

    Attributes:
        scheme: One of `PORTS`.
        host: Its name or address.
        port: Its port.
        user: The user to log in as, `None` = no login.
        password: The password of that user.
    """

    scheme: str
    host: str
    port: int
    user: bytes | None = attrs.field(default=None, repr=False)
    password: bytes = attrs.field(default=b"", repr=False)

    @property
    def is_socks(self) -> bool:
        """Whether it speaks SOCKS 5."""
        return self.scheme.startswith("socks")

    @property
    def shown(self) -> str:
        """For texts: never the user or the password."""
        return f"{self.scheme}://{authority(self.host, self.port)}"


def authority(host: str, port: int) -> str:
    """Return `host:port`, an IPv6 address in brackets and without its zone."""
    host = host.partition("%")[0] if ":" in host else host
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def parse_proxy(value: object) -> Proxy:
    """Return the proxy that `value` names.

    Raises:
        TypeError: It is neither a `str` nor a `yarl.URL`.
        ValueError: It is not the address of a proxy, or its user or password cannot be sent. No text holds either.
    """
    if not isinstance(value, str | URL):
        raise TypeError(f"proxy must be a str, yarl.URL or None, got {type(value).__name__}")
    parsed: tuple[str, str, int] | None = None
    login: tuple[str | None, str | None] = (None, None)
    try:
        url = URL(str.__str__(value) if isinstance(value, str) else value)
        host, port = url.raw_host, url.explicit_port
        if url.scheme in PORTS and host and port != 0 and not any(c.isspace() for c in host):
            parsed = url.scheme, host, port or PORTS[url.scheme]
            login = url.raw_user, url.raw_password
    except (ValueError, TypeError):
        parsed = None
    if parsed is None:
        raise ValueError(f"proxy must be {_KINDS}, or 'env'")
    scheme, host, port = parsed
    if login == (None, None):
        return Proxy(scheme, host, port)
    user, password = (unquote_to_bytes(part or "") for part in login)
    _check_login(scheme, user, password)
    return Proxy(scheme, host, port, user, password)


def _check_login(scheme: str, user: bytes, password: bytes) -> None:
    """Raise `ValueError` for a login that its scheme cannot carry (RFC 7617 section 2, RFC 1929)."""
    if scheme.startswith("socks"):
        if not 1 <= len(user) <= _LONGEST_OF_SOCKS or len(password) > _LONGEST_OF_SOCKS:
            raise ValueError(
                "proxy: SOCKS 5 takes a user of 1 to 255 bytes and a password of at most 255 (RFC 1929)"
            )
        return
    if b":" in user:
        raise ValueError("proxy: a user with a colon cannot be sent (RFC 7617 section 2)")
    if _CONTROL.search(user) or _CONTROL.search(password):
        raise ValueError("proxy: control characters in user or password cannot be sent (RFC 7617 section 2)")


def proxy_from_environment(url: URL) -> Proxy | None:
    """Return the proxy for `url`: of `https_proxy` for wss, `http_proxy` for ws, else `all_proxy`, unless `no_proxy`.

    Raises:
        ConnectError: The environment names something that is not a proxy.

    Source: the convention of curl; the variables are found as `urllib.request` finds them (on Windows and macOS also
    the system's settings).
    """
    proxies = urllib.request.getproxies()
    host, port = url.raw_host or "", url.port or 0
    if is_excepted(proxies.get("no", ""), host, port) or _excepted_by_system(host):
        return None
    for variable in ("https" if url.scheme == "wss" else "http", "all"):
        given = proxies.get(variable, "").strip()
        if given:
            try:
                return parse_proxy(given if "://" in given else f"http://{given}")
            except ValueError as error:
                why = str(error).removesuffix(", or 'env'").removeprefix("proxy").removeprefix(": ").strip()
            raise ConnectError(f"the variable {variable}_proxy of the environment: {why}", retryable=False)
    return None


def _excepted_by_system(host: str) -> bool:
    if sys.platform in {"darwin", "win32"} and not urllib.request.getproxies_environment():
        return bool(urllib.request.proxy_bypass(host))
    return False


def is_excepted(no_proxy: str, host: str, port: int) -> bool:
    """Return whether `no_proxy` says that `host` is reached without a proxy.

    Entries stand between commas or blanks: `*`, a name (which stands for the names below it, too, with or without a
    leading dot), an address, or a range such as `10.0.0.0/8`; `host:port` means that port only.

    Source: curl(1), NO_PROXY, and `Curl_check_noproxy`; the port is a convention of Python and Go.
    """
    host = host.lower().strip("[]").rstrip(".")
    address = _address(host)
    for entry in re.split(r"[,\s]+", no_proxy.lower()):
        if entry == "*":
            return True
        name, wanted = _split(entry)
        if not name or wanted not in {None, port}:
            continue
        if address is not None:
            if _holds(name, address):
                return True
        elif host == name or host.endswith(f".{name}"):
            return True
    return False


_Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def _address(host: str) -> _Address | None:
    try:
        found = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return None
    return found.ipv4_mapped or found if isinstance(found, ipaddress.IPv6Address) else found


def _split(entry: str) -> tuple[str, int | None]:
    """Return the name, address or range of an entry, and its port."""
    bracketed = re.fullmatch(r"\[([^\]]*)\](?::(\d+))?(/\d+)?", entry)
    if bracketed is not None:
        port = bracketed[2]
        return bracketed[1] + (bracketed[3] or ""), int(port) if port else None
    name, colon, port = entry.rpartition(":")
    if colon and ":" not in name and port.isascii() and port.isdigit():
        return name.strip(".").removeprefix("*."), int(port)
    return entry.strip(".").removeprefix("*."), None


def _holds(entry: str, address: _Address) -> bool:
    if "/" not in entry:
        return _address(entry) == address
    try:
        network = ipaddress.ip_network(entry, strict=False)
    except ValueError:
        return False
    return address.version == network.version and address in network
