"""The caller: signed, paced, kept to the hosts that the settings name; over real sockets."""

import asyncio
from dataclasses import dataclass

import msgspec
import pytest
from hand_clock import HandClock, settle
from kit.hostile import Hostile, Peer, answer, answering

from xrouter.config.settings import Timeouts, Tls, UpstreamSettings
from xrouter.errors import InternalError, UpstreamAuthError, UpstreamError, UpstreamProtocolError
from xrouter.upstream.base import Headers, UpstreamAnswer, UpstreamRequest
from xrouter.upstream.caller import Caller, build_engine, configured_origins
from xrouter.upstream.http1 import Http1Engine
from xrouter.upstream.httpx2_engine import Httpx2Engine
from xrouter.upstream.signin import FixedSignIn, Token
from xrouter.upstream.target import Origin
from xrouter.world import RealWorld

QUICK = Timeouts(connect_s=5, first_byte_s=5, idle_s=5, total_s=10)


@dataclass(frozen=True, slots=True, kw_only=True)
class WithAuth(UpstreamSettings):
    auth_url: str | None = None


class Flow:
    """A token is what the token endpoint's body says."""

    def __init__(self, url: str) -> None:
        self._url = url

    def request(self) -> UpstreamRequest:
        return UpstreamRequest("POST", self._url, ((b"authorization", b"Basic a2V5"),), b"scope=x")

    def token(self, answer: UpstreamAnswer) -> Token:
        if answer.status != 200:
            raise UpstreamAuthError
        return Token(msgspec.json.decode(answer.body)["token"], 1800, 60)

    def headers(self, token: str) -> Headers:
        return ((b"authorization", b"Bearer " + token.encode()),)


class Provider:
    """A token endpoint at /token and an API at /v1 that takes only the newest `valid` token."""

    def __init__(self) -> None:
        self.issued = 0
        self.valid = "t1"
        self.calls: list[str] = []
        self.pause = asyncio.Event()
        self.pause.set()

    def next_token(self) -> str:
        return f"t{self.issued}"

    async def script(self, peer: Peer) -> None:
        while True:
            request = await peer.request()
            if request.startswith(b"POST /token"):
                self.issued += 1
                peer.send(answer(msgspec.json.encode({"token": self.next_token()})))
                continue
            await self.pause.wait()
            token = request.partition(b"authorization: Bearer ")[2].split(b"\r\n")[0].decode()
            self.calls.append(token)
            if token == self.valid:
                peer.send(answer(b"served"))
            else:
                peer.send(answer(b"Token has expired", status="401 Unauthorized"))


def caller_for(server: Hostile, flow: bool = True, **settings: object) -> Caller:
    base = f"http://localhost:{server.port}"
    config = WithAuth(provider="p", base_url=f"{base}/v1", auth_url=f"{base}/token", timeouts=QUICK, **settings)  # type: ignore[arg-type]
    sign_in = Flow(f"{base}/token") if flow else FixedSignIn(((b"authorization", b"Api-Key k"),))
    return Caller("giga", config, sign_in, 4, RealWorld())


def call(server: Hostile) -> UpstreamRequest:
    return UpstreamRequest("POST", f"http://localhost:{server.port}/v1/chat", (), b"{}")


async def test_burst_signs_in_once() -> None:
    provider = Provider()
    async with Hostile(provider.script) as server:
        caller = caller_for(server)
        answers = await asyncio.gather(*(caller.fetch(call(server)) for _ in range(30)))
        assert {got.body for got in answers} == {b"served"}
        assert provider.issued == 1
        await caller.aclose()
        await server.all_closed()


async def test_token_refused_in_a_burst() -> None:
    """Every call is tried again once, none twice, after one fetch (GigaChat sheet, section 15 number 2)."""
    provider = Provider()
    async with Hostile(provider.script) as server:
        caller = caller_for(server)
        await caller.fetch(call(server))
        provider.valid = "t2"
        provider.calls.clear()
        answers = await asyncio.gather(*(caller.fetch(call(server)) for _ in range(30)))
        assert {got.body for got in answers} == {b"served"}
        assert provider.issued == 2
        assert provider.calls.count("t2") == 30
        assert provider.calls.count("t1") <= 30
        await caller.aclose()


async def test_second_401_is_given_to_the_caller() -> None:
    provider = Provider()
    provider.valid = "never"
    async with Hostile(provider.script) as server:
        caller = caller_for(server)
        assert (await caller.fetch(call(server))).status == 401
        assert provider.calls == ["t1", "t2"]
        await caller.aclose()


async def test_tokens_that_expire_one_after_another() -> None:
    """Each new token was taken before it expired too: each refusal is replaced, however soon it comes after the last one.

    Fails where replacements have a second between them whatever became of them: 502 for the rest of that second.
    """
    provider = Provider()
    async with Hostile(provider.script) as server:
        caller = caller_for(server)
        for number in range(1, 6):
            provider.valid = f"t{number}"
            assert (await caller.fetch(call(server))).status == 200
        assert provider.issued == 5
        await caller.aclose()


async def test_same_token_again_ends_the_attempts() -> None:
    provider = Provider()
    provider.valid = "never"
    provider.next_token = lambda: "same"  # type: ignore[method-assign]
    async with Hostile(provider.script) as server:
        caller = caller_for(server)
        for _ in range(5):
            assert (await caller.fetch(call(server))).status == 401
        assert provider.issued == 2
        assert len(provider.calls) == 6
        await caller.aclose()


async def test_fixed_key_is_not_tried_twice() -> None:
    provider = Provider()
    async with Hostile(provider.script) as server:
        caller = caller_for(server, flow=False)
        assert (await caller.fetch(call(server))).status == 401
        assert len(provider.calls) == 1
        assert b"authorization: Api-Key k" in server.peers[0].requests[0]
        await caller.aclose()


async def test_failed_sign_in_makes_no_call() -> None:
    async with Hostile(answering(answer(b"{}", status="400 Bad Request"))) as server:
        caller = caller_for(server)
        results = await asyncio.gather(*(caller.fetch(call(server)) for _ in range(20)), return_exceptions=True)
        assert {type(result) for result in results} == {UpstreamAuthError}
        assert sum(len(peer.requests) for peer in server.peers) == 1
        await caller.aclose()


async def test_closing_during_a_sign_in() -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.left()

    async with Hostile(script) as server:
        caller = caller_for(server)
        task = asyncio.create_task(caller.fetch(call(server)))
        while not server.peers or not server.peers[0].requests:
            await asyncio.sleep(0.001)
        await caller.aclose()
        assert isinstance((await asyncio.gather(task, return_exceptions=True))[0], Exception)
        await server.all_closed()


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:{port}/v1",  # the same machine by another name is another origin
        "https://localhost:{port}/v1",
        "http://localhost:1/v1",
        "http://localhost.evil.example:{port}/v1",
    ],
)
async def test_f45_credentials_go_only_where_the_settings_say(url: str) -> None:
    async with Hostile(answering(answer(b"trap"))) as server:
        caller = caller_for(server, flow=False)
        with pytest.raises(InternalError):
            await caller.open(UpstreamRequest("POST", url.format(port=server.port)))
        assert server.peers == []
        await caller.aclose()


async def test_f45_redirect_is_not_followed() -> None:
    async with (
        Hostile(answering(answer(b"trap"))) as trap,
        Hostile(answering(answer(b"", f"location: {trap.url}", status="302 Found"))) as server,
    ):
        caller = caller_for(server, flow=False)
        assert (await caller.fetch(call(server))).status == 302
        assert trap.peers == []
        await caller.aclose()


async def test_too_long_an_answer() -> None:
    async with Hostile(answering(answer(b"x" * 10_000))) as server:
        caller = caller_for(server, flow=False)
        with pytest.raises(UpstreamProtocolError):
            await caller.fetch(call(server), limit=9_999)
        assert (await caller.fetch(call(server), limit=10_000)).body == b"x" * 10_000
        await caller.aclose()


async def test_pace_holds_by_name() -> None:
    clock = HandClock()
    async with Hostile(answering(answer(b"ok"))) as server:
        base = f"http://localhost:{server.port}"
        config = UpstreamSettings(provider="p", base_url=base, timeouts=QUICK, queue_s=0.15)
        caller = Caller("y", config, FixedSignIn(), None, clock)

        def paced(kind: str) -> UpstreamRequest:
            return UpstreamRequest("POST", f"{base}/{kind}", (), b"{}", pace=(kind, 10.0))

        await caller.fetch(paced("embeddings"))
        await caller.fetch(paced("tokenize"))  # another count
        waiting = asyncio.create_task(caller.fetch(paced("embeddings")))
        await settle()
        assert not waiting.done()
        with pytest.raises(UpstreamError) as caught:
            await caller.fetch(paced("embeddings"))
        assert caught.value.status == 429
        await clock.advance(0.1)
        assert (await waiting).body == b"ok"
        await caller.aclose()


async def test_stats() -> None:
    async with Hostile(answering(answer(b"ok"))) as server:
        caller = caller_for(server, flow=False)
        response = await caller.open(call(server))
        await response.aclose()
        stats = caller.stats()
        assert (stats.idle, stats.active, stats.opened) == (1, 0, 1)
        assert stats.by_origin == {f"http://localhost:{server.port}": 1}
        await caller.aclose()


@pytest.mark.parametrize(("own", "default", "places"), [(None, None, None), (None, 1, 1), (7, 1, 7)])
async def test_concurrency_of_the_settings_or_the_provider(
    own: int | None, default: int | None, places: int | None
) -> None:
    config = UpstreamSettings(provider="p", base_url="http://h/", concurrency=own)
    caller = Caller("n", config, FixedSignIn(), default, RealWorld())
    for _ in range(places or 50):
        await caller.gate.acquire("a")
    assert caller.gate.active == (places or 50)
    await caller.aclose()


async def test_engine_follows_the_settings() -> None:
    config = UpstreamSettings(provider="p", base_url="http://h/")
    plain = build_engine(config)
    assert isinstance(plain, Http1Engine)
    from dataclasses import replace

    for other in (replace(config, engine="httpx2"), replace(config, proxy="http://proxy:3128")):
        engine = build_engine(other)
        assert isinstance(engine, Httpx2Engine)
        await engine.aclose()
    await plain.aclose()


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"engine": "http1", "proxy": "http://p:1"}, "proxy"),
        ({"proxy": "ftp://p:1"}, "proxy"),
        ({"base_url": "h/v1"}, "base_url"),
        ({"auth_url": "http://user:pw@h/"}, "auth_url"),
        ({"tls": Tls(ca_file="/no/such/file")}, "ca_file"),
    ],
)
def test_settings_that_cannot_work(settings: dict[str, object], told: str) -> None:
    config = WithAuth(**{"provider": "p", "base_url": "http://h/", **settings})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=told) as caught:
        Caller("n", config, FixedSignIn(), None, RealWorld())
    assert "pw" not in str(caught.value)


def test_origins_are_all_urls_of_the_settings() -> None:
    config = WithAuth(provider="p", base_url="https://api.h/v1", auth_url="https://auth.h:9443/oauth")
    assert configured_origins(config) == {Origin("https", "api.h", 443), Origin("https", "auth.h", 9443)}
