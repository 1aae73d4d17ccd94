"""The other process, on another core, with a certificate for TLS."""

import json
import os
import ssl
import subprocess
import sys
import tempfile
from pathlib import Path

import trustme


class Server:
    """Runs `benchmarks/server.py` within a `with` block, and moves this process away from its core."""

    def __enter__(self) -> "Server":
        self.folder = tempfile.TemporaryDirectory()
        authority = trustme.CA()
        path = Path(self.folder.name) / "cert.pem"
        issued = authority.issue_cert("127.0.0.1")
        path.write_bytes(issued.private_key_and_cert_chain_pem.bytes())
        self.tls = ssl.create_default_context()
        authority.configure_trust(self.tls)
        cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
        pinned = ["--cpu", str(cores[-1])] if len(cores) > 1 else []
        self.process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("server.py")), "--cert", str(path), *pinned],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        if pinned:
            os.sched_setaffinity(0, set(cores[:-1]))
        assert self.process.stdout is not None
        self.ports = json.loads(self.process.stdout.readline())
        return self

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        self.process.wait()
        self.folder.cleanup()

    def url(self, path: str, port: str = "stream") -> str:
        return f"{'wss' if port == 'secure' else 'ws'}://127.0.0.1:{self.ports[port]}{path}"
