"""Run the Autobahn test suite for clients against this one: `make autobahn`.

Its fuzzing server asks 517 questions, one connection each, and writes a report. `STRICT` counts as passed, and so do
its own `INFORMATIONAL` cases; what is `NON-STRICT` or failed must be in `KNOWN`, with the reason.
"""

import argparse
import asyncio
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from resilient_ws import ClientClosed, Outbox, WebSocketClient

KNOWN = {
    "6.4.1": "text is validated when the message is complete, not after its first invalid fragment; as aiohttp",
    "6.4.2": "as 6.4.1",
    "6.4.3": "as 6.4.1",
    "6.4.4": "as 6.4.1",
}
CASE_SECONDS = 60
GOOD = {"OK", "INFORMATIONAL"}


def plain(url: str, **options: object) -> WebSocketClient:
    """Return a client that connects once and adds nothing of its own to the conversation."""
    return WebSocketClient(
        url,
        reconnect=False,
        heartbeat=None,
        max_message_size=64 * 1024 * 1024,
        outbox=Outbox(max_bytes=64 * 1024 * 1024),
        **options,
    )


async def ask(url: str) -> str:
    """Return the one message that the server answers with."""
    async with plain(url) as client:
        return str(await client.recv())


async def run_case(url: str, **options: object) -> None:
    """Echo everything until the server ends the connection."""
    try:
        async with asyncio.timeout(CASE_SECONDS), plain(url, **options) as client:
            async for message in client:
                await client.send(message)
    except (ClientClosed, TimeoutError):
        return  # reconnect=False: the end that each case has


async def run_cases(base: str, agent: str, transport: str) -> None:
    """Run all cases and have the report written."""
    count = int(await ask(f"{base}/getCaseCount"))
    compression = "deflate" if transport == "aiohttp" else None
    for number in range(1, count + 1):
        if sys.stdout.isatty() and number % 10 == 0:
            print(f"\r{transport}: case {number} of {count}", end="", flush=True)
        await run_case(
            f"{base}/runCase?case={number}&agent={agent}", transport=transport, compression=compression
        )
    async with plain(f"{base}/updateReports?agent={agent}") as client:
        try:
            await client.recv()
        except ClientClosed:
            return


async def serve(wstest: str, folder: Path) -> tuple[asyncio.subprocess.Process, str]:
    """Start the fuzzing server on a free port."""
    port = await free_port()
    spec = folder / "fuzzingserver.json"
    spec.write_text(
        json.dumps(
            {
                "url": f"ws://127.0.0.1:{port}",
                "outdir": str(folder / "reports"),
                "cases": ["*"],
                "exclude-cases": [],
            }
        )
    )
    process = await asyncio.create_subprocess_exec(
        wstest,
        "-m",
        "fuzzingserver",
        "-s",
        str(spec),
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    for _ in range(200):
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            await asyncio.sleep(0.1)
        else:
            writer.close()
            return process, f"ws://127.0.0.1:{port}"
    process.kill()
    raise RuntimeError("the fuzzing server did not start within 20 s")


async def free_port() -> int:
    """Return a port that was free a moment ago."""
    server = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
    port: int = server.sockets[0].getsockname()[1]
    server.close()
    await server.wait_closed()
    return port


def judge(index: dict[str, dict[str, str]], agent: str) -> bool:
    """Print what was not perfect; return whether all of it is known."""
    cases = index[agent]
    totals: dict[str, int] = {}
    unknown = False
    for case, result in sorted(cases.items(), key=lambda item: [int(part) for part in item[0].split(".")]):
        verdict = (
            result["behavior"]
            if result["behaviorClose"] in GOOD
            else f"{result['behavior']}, close {result['behaviorClose']}"
        )
        totals[verdict] = totals.get(verdict, 0) + 1
        if verdict not in GOOD and verdict != "UNIMPLEMENTED":
            known = KNOWN.get(case) if verdict == "NON-STRICT" else None
            unknown = unknown or known is None
            print(f"  {case}: {verdict}{f' (known: {known})' if known else ''}")
    shown = ", ".join(f"{count} {verdict}" for verdict, count in sorted(totals.items()))
    print(f"{agent}: {len(cases)} cases: {shown}")
    return not unknown


async def main(wstest: str, transports: list[str]) -> int:
    """Run the suite for each transport."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        process, base = await serve(wstest, folder)
        try:
            for transport in transports:
                await run_cases(base, f"resilient_ws-{transport}", transport)
        finally:
            process.terminate()
            await process.wait()
        index = json.loads((folder / "reports" / "index.json").read_text())
    good = [judge(index, f"resilient_ws-{transport}") for transport in transports]
    return 0 if all(good) else 1


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("wstest", help="the program of the test suite")
    parser.add_argument("--transport", action="append", choices=["aiohttp", "picows"])
    arguments = parser.parse_args()
    sys.exit(asyncio.run(main(arguments.wstest, arguments.transport or ["aiohttp"])))
