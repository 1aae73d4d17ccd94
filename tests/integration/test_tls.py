"""TLS: what is trusted, what is refused, and what the rules make of it."""

import asyncio
import hashlib
import ssl
import threading

import aiohttp
import pytest

from resilient_ws import CertificateRejected, ClientStopped, ConnectError, WebSocketClient
from resilient_ws.testing import FaultServer, Hangup
from tests.integration import tls
from tests.integration.listening import SOON, Told

pytestmark = pytest.mark.usefixtures("transport")


async def failure_of(url, **options):
    client = WebSocketClient(url, **options)
    with pytest.raises(ClientStopped) as caught:
        async with client:
            pytest.fail("it must not open")
    assert client.stats.attempts == 1
    return caught.value


def fingerprint():
    der = ssl.PEM_cert_to_DER_cert(PINNED.cert_chain_pems[0].bytes().decode())
    return hashlib.sha256(der).digest()


PINNED = tls.authority().issue_cert("pinned.example")


@pytest.mark.promise("P12")
class TestRefused:
    @pytest.mark.parametrize(
        "context, options, text",
        [
            (
                tls.good,
                {},
                "unable to get local issuer certificate|self-signed certificate in certificate chain",
            ),
            (tls.self_signed, {"ssl": tls.trusting()}, "unable to get local issuer|self-signed certificate"),
            (tls.expired, {"ssl": tls.trusting()}, "certificate has expired"),
            (tls.elsewhere, {"ssl": tls.trusting()}, "not valid for 'localhost'|hostname mismatch"),
        ],
        ids=["unknown authority", "self-signed", "expired", "wrong host"],
    )
    async def test_a_bad_certificate(self, context, options, text):
        async with FaultServer(ssl=context(), host="localhost") as server:
            stopped = await failure_of(server.url, **options)
            error = stopped.__cause__
            assert isinstance(error, CertificateRejected)
            assert not error.retryable
            with pytest.raises(
                CertificateRejected, match=f"^the certificate of localhost was refused: .*({text})"
            ):
                raise error
            assert isinstance(error.__cause__, ssl.SSLCertVerificationError)
            assert str(stopped).startswith("the client has ended: CertificateRejected")
            assert str(stopped).endswith("before the client was ever open: stop")

    async def test_another_fingerprint(self):
        async with FaultServer(ssl=tls.good()) as server:
            stopped = await failure_of(server.url, ssl=aiohttp.Fingerprint(b"x" * 32))
            assert isinstance(stopped.__cause__, CertificateRejected)
            assert str(stopped.__cause__) == "the certificate of 127.0.0.1 has another fingerprint"

    async def test_a_certificate_that_goes_bad_later_is_given_time(self):
        """It may be renewed; the client was open before, so this is not a wrong address."""
        async with FaultServer(ssl=tls.good(), host="localhost") as server:
            client = WebSocketClient(server.url, ssl=tls.trusting())
            told = Told(client)
            async with client:
                server._ssl = tls.expired()
                (await server.connection()).rst()
                await told.until(lambda: any("number 1 of 10" in retry.rule for retry in told.retries))
                assert isinstance(told.retries[-1].cause, CertificateRejected)
                assert "within 0.5 to 30 s" in told.retries[-1].rule


class TestTrusted:
    async def test_with_a_context(self):
        async with FaultServer(ssl=tls.good(), host="localhost") as server:
            async with WebSocketClient(server.url, ssl=tls.trusting()) as client:
                await client.send("x" * 100_000)
                assert await client.recv() == "x" * 100_000

    @pytest.mark.parametrize("context", [tls.self_signed, tls.expired, tls.elsewhere])
    async def test_without_verification(self, context):
        async with FaultServer(ssl=context()) as server:
            async with WebSocketClient(server.url, ssl=False) as client:
                await client.send("x")
                assert await client.recv() == "x"

    async def test_with_a_fingerprint(self):
        async with FaultServer(ssl=tls.serving(PINNED)) as server:
            async with WebSocketClient(server.url, ssl=aiohttp.Fingerprint(fingerprint())) as client:
                await client.send("x")
                assert await client.recv() == "x"

    async def test_with_the_context_of_a_lent_connector(self):
        connector = aiohttp.TCPConnector(ssl=tls.trusting())
        async with (
            FaultServer(ssl=tls.good()) as server,
            aiohttp.ClientSession(connector=connector) as session,
            WebSocketClient(server.url, session=session) as client,
        ):
            await client.send("x")
            assert await client.recv() == "x"

    async def test_no_context_is_built_on_the_loop(self, monkeypatch):
        """It reads the certificates of the system, which takes a tenth of a second in which nothing else runs."""
        make = ssl.create_default_context

        def aside(*args, **kwargs):
            assert threading.current_thread() is not threading.main_thread()
            return make(*args, **kwargs)

        monkeypatch.setattr(ssl, "create_default_context", aside)
        async with FaultServer(ssl=tls.good()) as server:
            for option in (True, False):
                client = WebSocketClient(server.url, ssl=option, fail_fast=True)
                client.start()
                try:
                    await client.ready(5)
                except CertificateRejected:
                    assert option
                await client.close()


class TestTalkingPastEachOther:
    async def test_wss_to_a_server_that_speaks_ws(self):
        async def answer(reader, writer):
            writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            writer.close()

        async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            client = WebSocketClient(f"wss://127.0.0.1:{port}/", fail_fast=True)
            with pytest.raises(
                ConnectError, match=r"^the TLS handshake with 127\.0\.0\.1 failed: .+"
            ) as caught:
                await client.__aenter__()
            assert isinstance(caught.value.__cause__, ssl.SSLError)
            assert caught.value.retryable

    async def test_ws_to_a_server_that_speaks_wss(self):
        async with FaultServer(ssl=tls.good()) as server:
            client = WebSocketClient(server.url.replace("wss://", "ws://"), reconnect=SOON)
            told = Told(client)
            client.start()
            retry = await told.retry()
            assert isinstance(retry.cause, ConnectError)
            await client.close()

    @pytest.mark.parametrize("drop", ["fin", "rst"])
    async def test_one_that_is_cut_short(self, drop):
        async with FaultServer(default=Hangup(drop, when="connect")) as server:
            client = WebSocketClient(server.url.replace("ws://", "wss://"), fail_fast=True)
            with pytest.raises(ConnectError, match=r"127\.0\.0\.1 .*: \w+"):
                await client.__aenter__()
