"""The durable outbox where processes are killed and disks are full."""

import asyncio
import os
import random
import shlex
import signal
import subprocess
import sys

import pytest

from resilient_ws.delivery.durable.sqlite import OutboxFile
from resilient_ws.testing import Accept, FaultServer
from tests.requirements import require_tools, unavailable

INSTANTS = 100
"""Times that the writer is killed: 0.1 s each."""

KILLS_OF_A_CLIENT = [25, pytest.param(150, marks=pytest.mark.soak)]
"""Times that the client is killed: half a second each."""

CLIENT = [sys.executable, "-m", "tests.faults.run_durable_client"]
WRITER = [sys.executable, "-m", "tests.faults.run_durable_writer"]


@pytest.mark.slow
@pytest.mark.promise("P5")
@pytest.mark.skipif(not hasattr(os, "fork"), reason="the writer is forked, so that 100 of them start at once")
def test_no_accepted_message_is_missing_after_a_kill_at_any_instant(tmp_path):
    path = tmp_path / "outbox.db"
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    choose = random.Random(seed)
    kept: dict[int, bool] = {}  # what must be in the file, and whether it is flagged
    accepted_in_all = 0
    with subprocess.Popen(
        WRITER, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
    ) as writer:
        for _ in range(INSTANTS):
            writer.stdin.write(f"{path}\n")
            pid = int(writer.stdout.readline().removeprefix("pid "))
            # Some are killed before the file is open, most amid the work, at the speed of their own lines.
            lines = [writer.stdout.readline() for _ in range(choose.choice([0, 1, 5, 20, 50, 100]))]
            os.kill(pid, signal.SIGKILL)
            while (line := writer.stdout.readline()) != "dead\n":
                lines.append(line)
            settled = set()
            for word, number in (line.split() for line in lines):
                if word == "accepted":
                    kept[int(number)] = False
                    accepted_in_all += 1
                elif word == "marked":
                    kept[int(number)] = True
                else:
                    settled.add(int(number))
            for number in settled:
                del kept[number]

            if not path.exists():
                assert not kept
                continue
            file = OutboxFile(path, power_safe=False)
            rows = file.rows()
            file.close()
            numbers = [int(row[1]) for row in rows]
            assert numbers == sorted(set(numbers)), "in the order accepted, each once"
            flags = {int(row[1]): row[7] for row in rows}
            assert kept.keys() <= flags.keys(), "accepted and missing"
            assert all(flags[number] for number, marked in kept.items() if marked), "written and not flagged"
            kept = flags  # what was stored and not said to be accepted is kept from now on as well
        writer.stdin.close()
    assert writer.returncode == 0
    assert accepted_in_all > 5 * INSTANTS


@pytest.mark.slow
@pytest.mark.timeout(180)
@pytest.mark.promise("P4")
@pytest.mark.promise("P5")
@pytest.mark.skipif(
    not hasattr(os, "fork"), reason="the client is forked, so that many of them start at once"
)
@pytest.mark.parametrize("kills", KILLS_OF_A_CLIENT)
@pytest.mark.parametrize("on_uncertain", ["report", "resend"])
async def test_no_message_that_a_client_has_accepted_is_missing_after_a_kill_at_any_instant(
    tmp_path, on_uncertain, kills
):
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    choose = random.Random(seed)
    said: dict[str, set[int]] = {"accepted": set(), "uncertain": set()}

    async def follow(client, first, lines):
        """Start a client, and kill it after so many lines of it, or see to its end."""
        client.stdin.write(f"{tmp_path / 'outbox.db'} {server.url} {on_uncertain} {first}\n".encode())
        pid = int((await client.stdout.readline()).removeprefix(b"pid "))
        while (line := (await client.stdout.readline()).decode()) != "dead\n":
            word, number = line.split()
            said[word].add(int(number))
            lines -= 1
            if lines == 0:
                os.kill(pid, signal.SIGKILL)
            elif server.open_connections and choose.random() < 0.01:
                server.drop_all("rst")
        # What is on its way from the dead one is taken before the next one comes.
        await server.until(lambda: not server.open_connections)

    async with FaultServer(default=Accept(echo=False)) as server:
        client = await asyncio.create_subprocess_exec(
            *CLIENT, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
        )
        for instant in range(1, kills + 1):
            await follow(client, 1_000_000 * instant, choose.randrange(1, 60))
        await follow(client, 0, -1)
        client.stdin.close()
        assert await client.wait() == 0
    received = [int(entry.message) for entry in server.received]
    first_occurrences = list(dict.fromkeys(received))
    assert first_occurrences == sorted(first_occurrences), "in the order accepted"
    assert len(said["accepted"]) > 5 * kills
    if on_uncertain == "resend":
        assert said["accepted"] <= set(received), "accepted and missing"
        assert not said["uncertain"]
    else:
        assert said["accepted"] <= set(received) | said["uncertain"], "accepted and missing"
        assert len(received) == len(set(received)), "twice at the server"
    file = OutboxFile(tmp_path / "outbox.db", power_safe=False)
    assert file.rows() == []
    file.close()


def test_a_disk_that_is_really_full_refuses_the_new_and_keeps_the_old(tmp_path):
    require_tools("unshare", "mount")
    disk = tmp_path / "disk"
    disk.mkdir()
    path, ballast = shlex.quote(str(disk / "outbox.db")), shlex.quote(str(disk / "ballast"))
    script = (
        f"mount -t tmpfs -o size=512k none {shlex.quote(str(disk))} || exit 77\n"
        f"dd if=/dev/zero of={ballast} bs=1k count=200 status=none\n"
        f"exec {shlex.join(WRITER)} {path}"
    )
    run = ["unshare", "--mount", "sh", "-c", script]
    done = subprocess.run(run, capture_output=True, text=True, timeout=50, check=False)
    if done.returncode in {1, 77} and "Traceback" not in done.stderr:
        unavailable(f"no disk of our own can be mounted: {done.stderr.strip()}")
    refused, kept = done.stdout.splitlines()
    assert refused.startswith("refused: outbox file"), refused
    assert "full" in refused or "I/O" in refused, refused
    assert kept == "kept True"
    assert done.stderr == ""
