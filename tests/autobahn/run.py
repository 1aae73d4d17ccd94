"""Run the Autobahn test suite for clients against this one, on each transport: `make autobahn`.

Its fuzzing server asks 517 questions, one connection each, and writes a report. `OK` and its own `INFORMATIONAL` cases
are passed. A failure is a failure; `NON-STRICT` passes only where aiohttp itself, which is asked the same questions
(the agent `reference`), gets no better. `UNIMPLEMENTED` are the cases of compression where none was offered.
"""

import argparse
import asyncio
import contextlib
import json
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Literal

import aiohttp
import attrs

from resilient_ws import Outbox, ResilientWSError, WebSocketClient

Agent = Literal["aiohttp", "picows", "reference"]
AGENTS: tuple[Agent, ...] = ("reference", "aiohttp", "picows")

CASE_SECONDS = 600
"""The slowest cases echo a thousand large messages, each compressed by a server of the Python 2 age: 30 s, alone."""

LARGE = 64 * 1024 * 1024
PASSED = {"OK", "INFORMATIONAL"}
ANSWER_SECONDS = 20


@attrs.frozen
class Suite:
    """The fuzzing server of the test suite, while it runs.

    Attributes:
        url: Where it answers.
        reports: The folder that it writes its reports to.
    """

    url: str
    reports: Path

    async def case_count(self) -> int:
        """Return how many cases were chosen."""
        async with aiohttp.ClientSession() as session, session.ws_connect(f"{self.url}/getCaseCount") as ws:
            return int(await ws.receive_str())

    async def run(self, agent: Agent) -> list[str]:
        """Let an agent answer each case, and have its report written; return which of the cases had no end."""
        count = await self.case_count()
        endless = []
        for number in range(1, count + 1):
            begun = time.monotonic()
            try:
                async with asyncio.timeout(CASE_SECONDS):
                    await answer(agent, f"{self.url}/runCase?case={number}&agent={agent}")
            except TimeoutError:
                endless.append(f"{agent}: number {number} had no end within {CASE_SECONDS} s")
            took = time.monotonic() - begun
            if took > ANSWER_SECONDS or number % 50 == 0:
                print(f"{agent}: number {number} of {count} took {took:.1f} s", flush=True)
        async with (
            aiohttp.ClientSession() as session,
            session.ws_connect(f"{self.url}/updateReports?agent={agent}") as ws,
        ):
            await ws.receive()
        return endless


async def answer(agent: Agent, url: str) -> None:
    """Echo everything until the server ends the connection."""
    if agent == "reference":
        return await answer_by_aiohttp(url)
    client = WebSocketClient(
        url,
        reconnect=False,
        heartbeat=None,
        max_message_size=LARGE,
        outbox=Outbox(max_bytes=LARGE),
        transport=agent,
        compression="deflate" if agent == "aiohttp" else None,
    )
    with contextlib.suppress(ResilientWSError):  # the first end is the end, which each case has
        async with client:
            async for message in client:
                await client.send(message)
    return None


async def answer_by_aiohttp(url: str) -> None:
    """Echo by what aiohttp itself offers."""
    async with (
        aiohttp.ClientSession() as session,
        session.ws_connect(url, max_msg_size=LARGE, compress=15) as ws,
    ):
        with contextlib.suppress(aiohttp.ClientError):
            async for message in ws:
                if message.type is aiohttp.WSMsgType.TEXT:
                    await ws.send_str(message.data)
                elif message.type is aiohttp.WSMsgType.BINARY:
                    await ws.send_bytes(message.data)


@contextlib.asynccontextmanager
async def served(wstest: str, folder: Path, cases: list[str]):
    """Run the fuzzing server on a free port."""
    port = await free_port()
    suite = Suite(f"ws://127.0.0.1:{port}", folder / "reports")
    spec = folder / "fuzzingserver.json"
    chosen = {"url": suite.url, "outdir": str(suite.reports), "cases": cases, "exclude-cases": []}
    spec.write_text(json.dumps(chosen))
    quiet = asyncio.subprocess.DEVNULL
    process = await asyncio.create_subprocess_exec(
        wstest, "-m", "fuzzingserver", "-u", "0", "-s", str(spec), cwd=folder, stdout=quiet, stderr=quiet
    )
    try:
        await answers(port)
        yield suite
    finally:
        process.terminate()
        await process.wait()


async def answers(port: int) -> None:
    """Wait until somebody listens there."""
    for _ in range(ANSWER_SECONDS * 10):
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            await asyncio.sleep(0.1)
        else:
            writer.close()
            return
    raise RuntimeError(f"the fuzzing server did not start within {ANSWER_SECONDS} s")


async def free_port() -> int:
    """Return a port that was free a moment ago."""
    server = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
    port: int = server.sockets[0].getsockname()[1]
    server.close()
    await server.wait_closed()
    return port


def verdict(result: dict[str, str]) -> str:
    """Return what the suite says of one case: of the messages, or else of the end of the connection."""
    if result["behaviorClose"] in PASSED:
        return result["behavior"]
    return f"{result['behavior']}, close {result['behaviorClose']}"


def in_order(cases: dict[str, str]) -> list[tuple[str, str]]:
    """Return the cases by number: 9.2 before 10.1."""
    return sorted(cases.items(), key=lambda item: [int(part) for part in item[0].split(".")])


def judge(agent: Agent, cases: dict[str, str], reference: dict[str, str]) -> bool:
    """Print what was not perfect; return whether it may be so."""
    good = True
    for case, said in in_order(cases):
        if said in PASSED or said == "UNIMPLEMENTED":
            continue
        as_aiohttp = said == "NON-STRICT" and reference.get(case) == said
        good = good and as_aiohttp
        print(f"  {agent} {case}: {said}{' (aiohttp too)' if as_aiohttp else ''}")
    totals = Counter(cases.values())
    print(f"{agent}: {len(cases)} cases: {', '.join(f'{totals[said]} {said}' for said in sorted(totals))}")
    return good


async def main(wstest: str, agents: list[Agent], cases: list[str]) -> int:
    """Ask the agents one after the other, and judge all but the reference."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        endless = []
        async with served(wstest, folder, cases) as suite:
            for agent in agents:
                endless += await suite.run(agent)
        index = json.loads((folder / "reports" / "index.json").read_text())
    said = {agent: {case: verdict(result) for case, result in index[agent].items()} for agent in agents}
    reference = said.get("reference", {})
    good = [
        judge(agent, said[agent], reference) or agent == "reference"  # its faults are not ours
        for agent in agents
    ]
    for line in endless:
        print(line)
    ours = [line for line in endless if not line.startswith("reference")]
    return 0 if all(good) and not ours else 1


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("wstest", help="the program of the test suite")
    parser.add_argument(
        "--agent", action="append", choices=AGENTS, help="ask only this one (may be repeated)"
    )
    parser.add_argument(
        "--case", action="append", help="ask only these, such as 7.* or 12.1.1 (may be repeated)"
    )
    arguments = parser.parse_args()
    sys.exit(asyncio.run(main(arguments.wstest, arguments.agent or list(AGENTS), arguments.case or ["*"])))
