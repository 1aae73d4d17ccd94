import asyncio
import signal
import socket
import sys

import pytest
import websockets

from resilient_ws.__main__ import main
from resilient_ws.testing import FaultServer
from resilient_ws.testing.cli import make_parser, run
from resilient_ws.testing.proxy.schedule import Step


def parse(*argv):
    return make_parser().parse_args(["--to", "a:1", *argv])


def test_the_arguments():
    options = parse(
        *(
            "--listen",
            "0.0.0.0:5",
            "--latency",
            "50ms",
            "--jitter",
            "20ms",
            "--bandwidth",
            "64kB/s",
            "--seed",
            "7",
        ),
        *("--blackhole", "up", "--cut-after", "1kB-2kB", "--cut", "fin", "--accept-delay", "1s", "--refuse"),
        *("--schedule", "5s rst"),
    )
    assert (options.to, options.listen) == (("a", 1), ("0.0.0.0", 5))
    assert (options.latency, options.jitter, options.bandwidth) == (0.05, 0.02, 64_000)
    assert (options.blackhole, options.cut_after, options.cut) == ("up", (1000, 2000), "fin")
    assert (options.accept_delay, options.refuse, options.seed) == (1, True, 7)
    assert options.schedule == [Step(5, "rst")]
    assert parse("--schedule", "random").schedule is None
    assert parse().schedule == []
    assert parse("--cut-after", "5").cut_after == 5


@pytest.mark.parametrize(
    "argv,complaint",
    [
        (["--latency", "soon"], "--latency: a duration is a number"),
        (["--listen", "9000"], "--listen: an address is host:port"),
        (["--blackhole", "left"], "--blackhole: direction must be 'up', 'down' or 'both', not 'left'"),
        (["--cut-after", "2-1"], "the end of a range must not be below its start, as in '2-1'"),
        (["--schedule", "5s explode"], "there is no action 'explode'"),
    ],
)
def test_arguments_out_of_range_end_with_2_and_say_why(argv, complaint, capsys):
    with pytest.raises(SystemExit) as caught:
        main(["chaos", "--to", "a:1", *argv])
    assert caught.value.code == 2
    assert complaint in capsys.readouterr().err


def test_the_help_names_the_commands_and_the_actions(capsys):
    assert main(["--help"]) == 0
    assert "chaos    Put a bad network in front of a server." in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["chaos", "--help"])
    assert "half-close [up|down|both]" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("argv,complaint", [([], "no command given"), (["fly"], "there is no command 'fly'")])
def test_an_unknown_command_ends_with_2(argv, complaint, capsys):
    assert main(argv) == 2
    assert complaint in capsys.readouterr().err


def test_a_port_that_is_taken_ends_with_1(capsys):
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen()
        port = sock.getsockname()[1]
        assert main(["chaos", "--to", "127.0.0.1:1", "--listen", f"127.0.0.1:{port}"]) == 1
    assert f"cannot listen on 127.0.0.1:{port}" in capsys.readouterr().err


async def run_command(server, *argv):
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "resilient_ws", "chaos", "--listen", "127.0.0.1:0"),
        *("--to", f"127.0.0.1:{server.port}", *argv),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_it_runs_until_it_is_interrupted_and_says_what_happens(number):
    async with FaultServer() as server:
        process = await run_command(
            server, "--seed", "7", "--cut-after", "2kB", "--schedule", "0s latency 1ms"
        )
        try:
            line = (await process.stdout.readline()).decode()
            assert line.endswith(f"for 127.0.0.1:{server.port}, seed 7\n")
            port = line.split(" for ")[0].rpartition(":")[2]
            async with websockets.connect(f"ws://127.0.0.1:{port}/") as client:
                await client.send("through")
                assert await client.recv() == "through"
                await client.send(3000 * "x")
                with pytest.raises(websockets.ConnectionClosedError):
                    await client.recv()
            process.send_signal(number)
            out, err = await asyncio.wait_for(process.communicate(), 10)
        finally:
            if process.returncode is None:
                process.kill()
        assert (process.returncode, err) == (0, b"")
        told = [line.split(maxsplit=1)[1].split(",")[0] for line in out.decode().splitlines()]
        assert sorted(told[:-1]) == [
            "at 0 s: latency 0.001",
            "connection 1: accepted",
            "connection 1: closed",
            "connection 1: cut after 2000 bytes (rst)",
        ]
        assert told[-1] == "stopped"


@pytest.mark.parametrize("quiet", [False, True])
async def test_a_proxy_in_this_process_is_run_the_same_way(capsys, quiet):
    options = parse(
        "--listen", "127.0.0.1:0", "--schedule", "random", "--refuse", *(["--quiet"] if quiet else [])
    )
    before = signal.getsignal(signal.SIGTERM)
    running = asyncio.create_task(run(options))
    while signal.getsignal(signal.SIGTERM) is before:
        await asyncio.sleep(0)
    signal.raise_signal(signal.SIGTERM)
    await asyncio.wait_for(running, 5)
    out = capsys.readouterr().out
    assert ("listening on 127.0.0.1:" in out, out.endswith("stopped\n")) == (not quiet, not quiet)
