"""permessage-deflate (RFC 7692) for the fault server: negotiation and the two zlib streams.

Knows no frames and no sockets.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator

import attrs

from resilient_ws.testing.checks import between

_TAIL = b"\x00\x00\xff\xff"


@attrs.frozen
class Deflate:
    """What the server agrees to when a client offers permessage-deflate.

    Args:
        server_no_context_takeover: Each message of ours is compressed on its own.
        client_no_context_takeover: The client is told to compress each of its messages on its own.
        server_max_window_bits: 9 to 15; our window is 2 to this power bytes. An offer may lower it.
        client_max_window_bits: 9 to 15; asked for only where the offer allows it.
    """

    server_no_context_takeover: bool = False
    client_no_context_takeover: bool = False
    server_max_window_bits: int = attrs.field(default=15, validator=between(9, 15))
    client_max_window_bits: int = attrs.field(default=15, validator=between(9, 15))

    def agree(self, offers: str) -> Agreement | None:
        """Return what the first permessage-deflate offer leads to, or `None` where there is none.

        Args:
            offers: The value of `Sec-WebSocket-Extensions` from the request.
        """
        for offer in offers.split(","):
            name, *parameters = (part.strip() for part in offer.split(";"))
            if name.lower() == "permessage-deflate":
                return self._agree_to(dict(_split_parameter(parameter) for parameter in parameters))
        return None

    def _agree_to(self, offer: dict[str, str]) -> Agreement:
        ours = min(self.server_max_window_bits, int(offer.get("server_max_window_bits") or 15))
        ours = max(ours, 9)
        theirs = 15
        terms = ["permessage-deflate"]
        ours_alone = self.server_no_context_takeover or "server_no_context_takeover" in offer
        if ours_alone:
            terms.append("server_no_context_takeover")
        if self.client_no_context_takeover:
            terms.append("client_no_context_takeover")
        if ours < 15 or "server_max_window_bits" in offer:
            terms.append(f"server_max_window_bits={ours}")
        if self.client_max_window_bits < 15 and "client_max_window_bits" in offer:
            theirs = min(self.client_max_window_bits, int(offer["client_max_window_bits"] or 15))
            terms.append(f"client_max_window_bits={theirs}")
        return Agreement("; ".join(terms), ours_alone, self.client_no_context_takeover, ours, theirs)


def _split_parameter(parameter: str) -> tuple[str, str]:
    name, _, value = parameter.partition("=")
    return name.strip().lower(), value.strip().strip('"')


@attrs.frozen
class Agreement:
    """The outcome of a negotiation; `header` is what the response says."""

    header: str
    server_no_context_takeover: bool
    client_no_context_takeover: bool
    server_max_window_bits: int
    client_max_window_bits: int


class Codec:
    """Compresses what the server sends and decompresses what it gets on one connection."""

    def __init__(self, agreement: Agreement) -> None:
        self._agreement = agreement
        self._deflater = zlib.compressobj(wbits=-agreement.server_max_window_bits)
        self._inflater = zlib.decompressobj(-agreement.client_max_window_bits)

    def compress(self, data: bytes) -> bytes:
        """Return the payload of one compressed message."""
        if self._agreement.server_no_context_takeover:
            self._deflater = zlib.compressobj(wbits=-self._agreement.server_max_window_bits)
        out = self._deflater.compress(data) + self._deflater.flush(zlib.Z_SYNC_FLUSH)
        return out.removesuffix(_TAIL)

    def compress_zeros(self, size: int) -> Iterator[bytes]:
        """Yield the payload of one message of `size` zero bytes in parts, never holding it whole."""
        if self._agreement.server_no_context_takeover:
            self._deflater = zlib.compressobj(wbits=-self._agreement.server_max_window_bits)
        block = bytes(1 << 20)
        for start in range(0, size, len(block)):
            yield self._deflater.compress(block[: size - start])
        yield self._deflater.flush(zlib.Z_SYNC_FLUSH).removesuffix(_TAIL)

    def decompress(self, data: bytes, limit: int) -> bytes | None:
        """Return one message, or `None` where it is longer than `limit` bytes or not valid deflate."""
        if self._agreement.client_no_context_takeover:
            self._inflater = zlib.decompressobj(-self._agreement.client_max_window_bits)
        try:
            out = self._inflater.decompress(data + _TAIL, limit + 1)
        except zlib.error:
            return None
        return None if len(out) > limit else out
