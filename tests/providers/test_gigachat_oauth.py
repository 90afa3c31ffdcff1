"""GigaChat's access tokens; numbers are those of the sheet's section 15."""

import asyncio
import base64
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import Any
from urllib.parse import parse_qs
from uuid import UUID

import pytest
from gigachat_kit import AUTH_URL, BASE_URL, CLIENT_ID, CLIENT_SECRET, CREDENTIALS, HandWorld, answer, header, provider

from xrouter.config.settings import Tls
from xrouter.errors import UpstreamAuthError, UpstreamError, UpstreamProtocolError
from xrouter.providers.gigachat import GigaChat
from xrouter.providers.gigachat_oauth import GigaChatTokenFlow, PasswordTokenFlow
from xrouter.secret import Secret
from xrouter.upstream.base import UpstreamAnswer, UpstreamRequest
from xrouter.upstream.keeper import TokenKeeper
from xrouter.upstream.signin import FixedSignIn, TokenFlow

NOW = HandWorld().now()


def flow(world: HandWorld | None = None, **config: Any) -> TokenFlow:
    made = provider(world, **config).sign_in()
    assert isinstance(made, GigaChatTokenFlow | PasswordTokenFlow)
    return made


@pytest.mark.parametrize("written", [CREDENTIALS, f"Basic {CREDENTIALS}", f" basic {CREDENTIALS}\n"])
def test_the_request(written: str) -> None:
    asking = flow(credentials=Secret(written), scope="GIGACHAT_API_B2B")
    request = asking.request()
    assert (request.method, request.url) == ("POST", AUTH_URL)
    assert header(request, b"authorization") == b"Basic " + CREDENTIALS.encode()
    assert header(request, b"content-type") == b"application/x-www-form-urlencoded"
    assert header(request, b"user-agent")
    assert parse_qs(request.body.decode()) == {"scope": ["GIGACHAT_API_B2B"]}
    ids = {(header(asking.request(), b"rquid") or b"").decode() for _ in range(3)}
    assert len(ids) == 3
    assert all(UUID(text).version == 4 for text in ids)


def test_a_user_and_a_password() -> None:
    request = flow(user="ivan", password=Secret("пароль")).request()
    assert (request.method, request.url, request.body) == ("POST", f"{BASE_URL}/token", b"")
    sent = (header(request, b"authorization") or b"").removeprefix(b"Basic ")
    assert base64.b64decode(sent).decode() == "ivan:пароль"


def test_ways_without_a_flow() -> None:
    certificate = Tls(cert_file="client.pem")
    fixed = provider(access_token=Secret("abc")).sign_in()
    assert isinstance(fixed, FixedSignIn)
    assert asyncio.run(fixed.headers()) == ((b"authorization", b"Bearer abc"),)
    assert asyncio.run(provider(tls=certificate).sign_in().headers()) == ()  # type: ignore[union-attr, arg-type, call-arg]
    assert isinstance(provider(tls=certificate, credentials=Secret(CREDENTIALS)).sign_in(), GigaChatTokenFlow)


MS = int(NOW * 1000)


@pytest.mark.parametrize(
    ("body", "lifetime_s"),
    [
        ({"access_token": "t", "expires_at": MS + 1_800_000}, 1800),
        ({"access_token": "t", "expires_at": int(NOW) + 1800}, 1800),
        ({"access_token": "t"}, 1500),
        ({"access_token": "t", "expires_at": None}, 1500),
        ({"tok": "t", "exp": MS + 1_800_000}, 1800),
        ({"tok": "t", "exp": int(NOW) + 1800}, 1800),
        ({"access_token": "t", "expires_at": MS - 5_000_000}, 1500),  # clocks that disagree
        ({"access_token": "t", "expires_at": MS * 1000}, 86400),
    ],
)
def test_gigachat_04_every_shape_of_a_token(body: dict[str, Any], lifetime_s: float) -> None:
    token = flow().token(answer(200, body))
    assert (token.value, token.lifetime_s, token.renew_before_s) == ("t", pytest.approx(lifetime_s), 60)


def test_gigachat_04_a_short_life_is_renewed_at_its_half() -> None:
    token = flow().token(answer(200, {"access_token": "t", "expires_at": MS + 10_000}))
    assert (token.lifetime_s, token.renew_before_s) == (pytest.approx(10), pytest.approx(5))


def test_gigachat_04_the_servers_own_clock_counts() -> None:
    ahead = NOW + 7200
    date = format_datetime(datetime.fromtimestamp(ahead, UTC), usegmt=True).encode()
    token = flow().token(answer(200, {"access_token": "t", "expires_at": int(ahead + 1800) * 1000}, ((b"date", date),)))
    assert token.lifetime_s == pytest.approx(1800, abs=1)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>",
        b"[]",
        b'{"access_token":""}',
        b'{"access_token":5}',
        b'{"access_token":"a\\r\\nb: c"}',
        b"[" * 9999,
    ],
)
def test_an_answer_without_a_token(body: bytes) -> None:
    with pytest.raises(UpstreamProtocolError):
        flow().token(answer(200, body))


OAUTH_ERRORS = [
    (400, 1, "scope data format invalid"),
    (400, 4, "Can't decode 'Authorization' header"),
    (400, 5, "scope is empty"),
    (401, 6, "credentials doesn't match db data"),
    (401, 7, "scope from db not fully includes consumed scope"),
    (400, 99, f"new {CREDENTIALS}"),
]


@pytest.mark.parametrize(("status", "code", "message"), OAUTH_ERRORS)
def test_gigachat_05_a_refused_key_is_not_tried_again_nor_shown(status: int, code: int, message: str) -> None:
    with pytest.raises(UpstreamAuthError) as caught:
        flow().token(answer(status, {"code": code, "message": f"{message} {CREDENTIALS}"}))
    error = caught.value
    assert (error.status, error.retry, error.upstream_status) == (502, False, status)
    assert f"code {code}" in (error.detail or "")
    shown = f"{error!r} {error} {error.detail} {error.body()}"
    for secret in (CREDENTIALS, CLIENT_ID, CLIENT_SECRET):
        assert secret not in shown


@pytest.mark.parametrize(
    ("status", "as_status", "retry"), [(429, 503, True), (500, 502, True), (503, 503, True), (404, 502, False)]
)
def test_a_token_service_in_trouble(status: int, as_status: int, retry: bool) -> None:
    with pytest.raises(UpstreamError) as caught:
        flow().token(answer(status, b"<html>nginx</html>", ((b"retry-after", b"7"),)))
    assert not isinstance(caught.value, UpstreamAuthError)
    assert (caught.value.status, caught.value.retry) == (as_status, retry)
    assert caught.value.retry_after_s == (7 if retry else None)


class TokenService:
    """Issues t1, t2, …; counts its calls; can be held and can refuse."""

    def __init__(self, world: HandWorld) -> None:
        self.world = world
        self.calls = 0
        self.free = asyncio.Event()
        self.free.set()
        self.refusal: UpstreamAnswer | None = None

    async def __call__(self, request: UpstreamRequest) -> UpstreamAnswer:
        self.calls += 1
        await self.free.wait()
        expires_at = int((self.world.now() + 1800) * 1000)
        return self.refusal or answer(200, {"access_token": f"t{self.calls}", "expires_at": expires_at})


def keeper() -> tuple[TokenKeeper, TokenService, HandWorld]:
    world = HandWorld()
    service = TokenService(world)
    return TokenKeeper(flow(world), service, world), service, world


async def test_gigachat_01_fifty_first_calls_make_one_request() -> None:
    kept, service, _ = keeper()
    signed = await asyncio.gather(*(kept.headers() for _ in range(50)))
    assert set(signed) == {((b"authorization", b"Bearer t1"),)}
    assert service.calls == 1
    await kept.aclose()


async def test_gigachat_02_a_token_refused_to_a_burst_is_replaced_once() -> None:
    kept, service, _ = keeper()
    old = await kept.headers()
    refusals = [kept.refused(old) for _ in range(20)]
    assert all(refusals)  # each may try once more, with the token that replaces this one
    assert set(await asyncio.gather(*(kept.headers() for _ in range(20)))) == {((b"authorization", b"Bearer t2"),)}
    assert service.calls == 2
    await kept.aclose()


async def test_gigachat_03_a_late_refusal_of_a_replaced_token_changes_nothing() -> None:
    kept, service, _ = keeper()
    old = await kept.headers()
    kept.refused(old)
    new = await kept.headers()
    kept.refused(old)
    assert await kept.headers() == new
    assert service.calls == 2
    await kept.aclose()


async def test_gigachat_04_a_token_is_renewed_before_its_end() -> None:
    kept, service, world = keeper()
    await kept.headers()
    world.clock += 1730
    assert await kept.headers() == ((b"authorization", b"Bearer t1"),)
    assert service.calls == 1
    world.clock += 20
    await kept.headers()
    async with asyncio.timeout(5):
        while await kept.headers() != ((b"authorization", b"Bearer t2"),):
            await asyncio.sleep(0)
    assert service.calls == 2
    await kept.aclose()


async def test_gigachat_05_a_burst_with_a_refused_key_asks_once() -> None:
    kept, service, _ = keeper()
    service.refusal = answer(401, {"code": 6, "message": "credentials doesn't match db data"})
    failed = await asyncio.gather(*(kept.headers() for _ in range(20)), return_exceptions=True)
    assert all(isinstance(error, UpstreamAuthError) for error in failed)
    assert service.calls == 1
    await kept.aclose()


async def test_gigachat_06_one_caller_that_leaves_does_not_take_the_token_from_the_others() -> None:
    kept, service, _ = keeper()
    service.free.clear()
    waiting = [asyncio.create_task(kept.headers()) for _ in range(3)]
    await asyncio.sleep(0)
    waiting[0].cancel()
    service.free.set()
    left, *others = await asyncio.gather(*waiting, return_exceptions=True)
    assert isinstance(left, asyncio.CancelledError)
    assert others == [((b"authorization", b"Bearer t1"),)] * 2
    assert service.calls == 1
    await kept.aclose()


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"credentials": None}, "no way of signing in"),
        ({"credentials": Secret("")}, "no way of signing in"),
        ({"credentials": Secret("a"), "access_token": Secret("b")}, "credentials, access_token"),
        ({"credentials": Secret("a"), "user": "u", "password": Secret("p")}, "credentials, user and password"),
        ({"credentials": None, "user": "u"}, "belong together"),
        ({"credentials": None, "password": Secret("p")}, "belong together"),
        ({"credentials": Secret("one two")}, "spaces"),
        ({"access_token": Secret("ключ"), "credentials": None}, "spaces or letters"),
        ({"credentials": Secret("a"), "image_ttl_s": 0.0}, "image_ttl_s"),
        ({"credentials": Secret("a"), "update_interval_s": -1.0}, "update_interval_s"),
    ],
)
def test_configurations_that_cannot_be(config: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GigaChat.Config(provider="gigachat", **config)


def test_empty_values_are_absent_ones() -> None:
    config = GigaChat.Config(provider="gigachat", credentials=Secret(CREDENTIALS), access_token=Secret(""), user="")
    assert config.base_url == "https://api.giga.chat/v1"
    assert config.auth_url == "https://ngw.devices.sberbank.ru:9443/api/v2/oauth"
    assert CREDENTIALS not in repr(config)


@pytest.mark.parametrize(
    ("scope", "concurrency"), [("GIGACHAT_API_PERS", 1), ("GIGACHAT_API_B2B", 10), ("GIGACHAT_API_CORP", 10)]
)
def test_concurrency_follows_the_scope(scope: str, concurrency: int) -> None:
    assert provider(scope=scope).default_concurrency == concurrency
