"""The cause of a close event says what the socket said."""

import pytest

from resilient_ws import CloseOrigin, ReconnectPolicy, WebSocketClient
from resilient_ws.testing import FaultServer

QUICK = ReconnectPolicy(first_delay=0.01, min_delay=0.01, max_delay=0.05)


@pytest.mark.parametrize(
    ("how", "said"), [("rst", "reset by peer"), ("fin", "without a CLOSE frame|no CLOSE frame")]
)
async def test_a_reset_and_an_end_of_stream_are_told_apart(how, said):
    async with FaultServer() as server, WebSocketClient(server.url, reconnect=QUICK) as client:
        events = client.events()
        server.drop_all(how)
        async for event in events:
            if hasattr(event, "was_clean"):
                break
        assert event.origin is CloseOrigin.NETWORK
        assert event.synthesized
        with pytest.raises(Exception, match=said):
            raise event.cause
