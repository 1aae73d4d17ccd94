"""What is measured, with whom, and what is to be reached."""

import os
import statistics
import subprocess
import sys
from collections.abc import Callable
from typing import cast

from benchmarks import accounting, resets
from benchmarks.clients import (
    Aiohttp,
    Client,
    Ours,
    OursByCallback,
    OursInBatches,
    OursOnPicows,
    OursOnPicowsInBatches,
    OursUnconfirmed,
    on_uvloop,
    with_zlib_ng,
)
from benchmarks.others import (
    Jetsocket,
    PicowsCore,
    PicowsCoreText,
    PicowsWebsockets,
    WebsocketClient,
    Websockets,
    WebsocketsReconnecting,
)
from benchmarks.peer import Server
from benchmarks.rows import Row, Target

ROUGH = 600_000  # messages of 125 bytes that raw aiohttp takes in a second
CORE = PicowsCore.name
Who = tuple[type[Client], ...]

ON_UVLOOP: Who = (on_uvloop(Aiohttp), on_uvloop(Ours), on_uvloop(OursOnPicows))
RECEIVERS: Who = (
    Aiohttp,
    Ours,
    OursInBatches,
    OursByCallback,
    OursOnPicows,
    OursOnPicowsInBatches,
    PicowsCore,
    PicowsWebsockets,
    Websockets,
    WebsocketsReconnecting,
    Jetsocket,
    WebsocketClient,
    *ON_UVLOOP,
)
FEW: Who = (Aiohttp, Ours, OursInBatches, OursOnPicows, PicowsCore, PicowsWebsockets, Websockets)
DEFLATING: Who = (
    Aiohttp,
    Ours,
    OursInBatches,
    PicowsWebsockets,
    Websockets,
    Jetsocket,
    with_zlib_ng(Aiohttp),
    with_zlib_ng(Ours),
)
PACED: Who = (
    Aiohttp,
    Ours,
    OursByCallback,
    OursOnPicows,
    PicowsCore,
    PicowsWebsockets,
    Websockets,
    Jetsocket,
    *ON_UVLOOP,
)
SENDERS: Who = (
    Aiohttp,
    Ours,
    OursUnconfirmed,
    OursOnPicows,
    PicowsCore,
    PicowsWebsockets,
    Websockets,
    Jetsocket,
    WebsocketClient,
)
ECHOERS: Who = (
    Aiohttp,
    Ours,
    OursOnPicows,
    PicowsCore,
    PicowsWebsockets,
    Websockets,
    Jetsocket,
    WebsocketClient,
    *ON_UVLOOP,
)


def receive(server: Server, seconds: float) -> list[Row]:
    rows: list[Row] = []

    def add(
        title: str,
        size: int,
        who: Who,
        *targets: Target,
        kind: str = "text",
        deflate: bool = False,
        tls: bool = False,
    ) -> None:
        rough = max(200, int(ROUGH * seconds / (1 + size / 8000) / (3 if deflate else 1)))
        path = f"/blast?size={size}&kind={kind}&deflate={int(deflate)}"
        url = server.url(path, "secure" if tls else "stream")

        async def measure(client: Client) -> float:
            count = max(200, rough // client.slowness)
            timed = await client.receive(url, count, tls=server.tls if tls else None, deflate=deflate)
            return timed.cpu / count

        rows.append(Row(f"Receive {title}", "CPU us per message", measure, who, targets))

    add(
        "125 B text",
        125,
        RECEIVERS,
        Target(Ours.name, 1.5),
        Target(Ours.name, 6, Websockets.name),
        Target(OursInBatches.name, 2),
        Target(OursOnPicows.name, 1.5),
    )
    add("20 B text", 20, FEW)
    add("1 KiB text", 1024, FEW)
    add(
        "64 KiB text",
        65536,
        (*FEW, PicowsCoreText),
        Target(Ours.name, 1),
        Target(OursOnPicows.name, 1, PicowsCoreText.name),
    )
    add("64 KiB binary", 65536, FEW, Target(Ours.name, 1), Target(OursOnPicows.name, 1, CORE), kind="binary")
    add("125 B binary", 125, FEW, kind="binary")
    add("125 B text, TLS", 125, FEW, Target(Ours.name, 1.3), tls=True)
    add("125 B text, deflate", 125, DEFLATING, Target(Ours.name, 1.25), deflate=True)
    add("64 KiB text, deflate", 65536, DEFLATING, deflate=True)
    return rows


def paced(server: Server, seconds: float) -> list[Row]:
    rows: list[Row] = []

    def add(
        title: str,
        who: Who,
        *targets: Target,
        size: int = 125,
        each: float = 0.0001,
        kind: str = "text",
        deflate: bool = False,
        tls: bool = False,
    ) -> None:
        count = max(int(0.05 / each), int(1.6 * seconds / each))
        path = f"/paced?size={size}&interval={each}&kind={kind}&deflate={int(deflate)}"
        url = server.url(path, "secure" if tls else "stream")

        async def measure(client: Client) -> float:
            timed = await client.receive(url, count, tls=server.tls if tls else None, deflate=deflate)
            return timed.cpu / count

        rows.append(Row(title, "CPU us per message", measure, who, targets, times=True))

    add("A 125 B message every 100 us", PACED, Target(Ours.name, 1), Target(OursOnPicows.name, 0.7))
    add("A 20 B message every 100 us", FEW, size=20)
    add("A 1024 B message every 100 us", FEW, size=1024)
    add("A 64 KiB message every ms", FEW, size=65536, each=0.001)
    add("A 125 B message every 100 us, binary", FEW, kind="binary")
    add("A 125 B message every 100 us, TLS", FEW, tls=True)
    add("A 125 B message every 100 us, deflate", DEFLATING, deflate=True)
    return rows


def send(server: Server, seconds: float) -> list[Row]:
    rows: list[Row] = []
    for size in (125, 65536):
        rough = max(200, int(ROUGH * seconds / 2 / (1 + size / 4000)))

        async def measure(client: Client, size: int = size, rough: int = rough) -> float:
            count = max(200, rough // client.slowness)
            return (await client.send(server.url(f"/sink?size={size}"), "x" * size, count)).cpu / count

        targets = (Target(Ours.name, 4), Target(OursOnPicows.name, 3, CORE)) if size == 125 else ()
        rows.append(Row(f"Send {size} B in a loop", "CPU us per message", measure, SENDERS, targets))
    return rows


def echo(server: Server, seconds: float) -> list[Row]:
    rows: list[Row] = []
    for outstanding in (1, 64):
        count = max(300, int(seconds * 6000))

        async def p50(client: Client, outstanding: int = outstanding, count: int = count) -> float:
            _, took = await client.echo(server.url("/", "echo"), "x" * 125, count, outstanding)
            return statistics.median(took)

        targets = (Target(Ours.name, 1.05), Target(OursOnPicows.name, 0.75)) if outstanding == 1 else ()
        rows.append(
            Row(f"Echo 125 B, {outstanding} outstanding, p50", "us", p50, ECHOERS, targets, times=True)
        )
    return rows


def reset(server: Server, seconds: float) -> list[Row]:
    count = max(10, int(seconds * 80))
    url = server.url("/reset?after=0.002")

    async def told(client: Client) -> float:
        return (await resets.measure(client, url, count)).told

    async def back(client: Client) -> float:
        return (await resets.measure(client, url, count)).back

    who = (Aiohttp, Ours, OursOnPicows, Websockets)
    targets = (Target(Ours.name, 1.15), Target(OursOnPicows.name, 1.15))
    return [
        Row("Notified of a reset, p50", "us", told, who, targets, times=True),
        Row("Reconnected after a reset, without backoff, p50", "us", back, who, targets, times=True),
    ]


def account(server: Server, seconds: float) -> list[Row]:
    count = max(2000, int(ROUGH * seconds))
    url = server.url(f"/sink?size={len(accounting.MESSAGE)}")
    rows: list[Row] = []
    for name, one_by_one in (("in a loop", False), ("one per loop iteration", True)):

        async def measure(client: Client, one_by_one: bool = one_by_one) -> float:
            confirm = False if isinstance(client, OursUnconfirmed) else None
            return 1 / await accounting.sent_per_second(
                url, count // (4 if one_by_one else 1), confirm=confirm, one_by_one=one_by_one
            )

        rows.append(
            Row(
                f"Delivery tracking on and off, 125 B sent {name}, with the flush",
                "CPU us per message",
                measure,
                (OursUnconfirmed, Ours),
                (Target(Ours.name, 1.1, OursUnconfirmed.name),),
                times=True,
            )
        )
    return rows


class Import(Client):
    """A new interpreter: what it imports first does not count."""

    first = ""
    then = ""

    def take_time(self) -> float:
        code = (
            f"import time; {self.first}; t = time.process_time(); {self.then}; print(time.process_time() - t)"
        )
        # What was compiled before is kept, as it is where a package has been installed.
        cached = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
        runs = [
            subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, env=cached)
            for _ in range(2)
        ]
        return float(runs[-1].stdout)


def _importing(name: str, then: str, first: str = "pass") -> type[Import]:
    return type(name, (Import,), {"name": name, "first": first, "then": then})


def imports(_: Server, __: float) -> list[Row]:
    async def measure(client: Client) -> float:
        return cast("Import", client).take_time()

    make = "import resilient_ws; resilient_ws.WebSocketClient('ws://127.0.0.1')"
    aiohttp = _importing("aiohttp", "import aiohttp")
    ours = _importing("resilient_ws after aiohttp", "import resilient_ws", "import aiohttp")
    who = (
        aiohttp,
        ours,
        _importing("resilient_ws after aiohttp, and its first client", make, "import aiohttp"),
        _importing("resilient_ws without aiohttp", "import resilient_ws"),
        _importing("resilient_ws without aiohttp, and its first client", make),
        _importing("websockets", "import websockets.asyncio.client"),
        _importing("picows", "import picows"),
    )
    return [Row("Import", "us CPU", measure, who, (Target(ours.name, 0.25, aiohttp.name),), times=True)]


WORKLOADS: dict[str, Callable[[Server, float], list[Row]]] = {
    "receive": receive,
    "paced": paced,
    "send": send,
    "echo": echo,
    "reset": reset,
    "account": account,
    "import": imports,
}
