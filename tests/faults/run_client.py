"""A client in a process of its own, to be stopped by signals: it says what it is told, one JSON object a line."""

import asyncio
import json
import sys
import time

from resilient_ws import CloseEvent, OpenEvent, WebSocketClient
from tests.faults.watch import HEARTBEAT, QUICK


async def main() -> None:
    """Stay connected until killed."""
    client = WebSocketClient(sys.argv[1], heartbeat=HEARTBEAT, reconnect=QUICK, open_timeout=0.5)

    def say(event: OpenEvent | CloseEvent) -> None:
        origin = event.origin.value if isinstance(event, CloseEvent) else None
        word = {"at": time.monotonic(), "event": type(event).__name__, "origin": origin}
        print(json.dumps(word), flush=True)

    client.on_open(say)
    client.on_close(say)
    await client.run()


asyncio.run(main())
