from collections.abc import AsyncIterator, MutableMapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from kit.keys import HandWorld, fresh_engine, make_key
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from xrouter.auth import keyformat
from xrouter.auth.keyring import KeyRing
from xrouter.catalog import Catalog
from xrouter.config.settings import Admin, Settings
from xrouter.context import Endpoint, RequestContext
from xrouter.errors import Forbidden, Unauthorized, XRouterError
from xrouter.filters.auth import Auth
from xrouter.filters.base import Services
from xrouter.ledger.ledger import Ledger
from xrouter.ledger.opening import open_ledger
from xrouter.limits.memory import MemoryStore
from xrouter.routing.health import Health
from xrouter.secret import Secret
from xrouter.store.key import NewKey

CHAT = Endpoint("chat", "POST", inference=True)
MODELS = Endpoint("models", "GET", inference=False)
KEYS = Endpoint("keys", "GET", inference=False, management=True)
TOKEN = "an-admin-token"

Header = tuple[bytes, bytes]


@dataclass
class Gateway:
    """The filter over a real key ring; what passes it ends in `passed`."""

    engine: AsyncEngine
    ring: KeyRing
    world: HandWorld
    ledger: Ledger
    passed: list[RequestContext]

    async def request(self, *headers: Header, endpoint: Endpoint = CHAT, token: str = TOKEN) -> RequestContext:
        async def innermost(scope: MutableMapping[str, Any], receive: object, send: object) -> None:
            self.passed.append(scope["xrouter"])

        settings = Settings(upstreams={}, models={}, filters=(), admin=Admin(token=Secret(token)))
        auth = Auth(
            innermost,
            Auth.Config(),
            Services(
                settings=settings,
                world=self.world,
                catalog=Catalog(settings),
                store=self.engine,
                keys=self.ring,
                ledger=self.ledger,
                upstreams={},
                health=Health(self.world),
                limits=MemoryStore(self.world),
            ),
        )
        ctx = RequestContext("r", "g", endpoint, 0.0, 0.0, client_ip="192.0.2.1")
        self.last = ctx
        await auth({"type": "http", "headers": list(headers), "xrouter": ctx}, None, None)  # type: ignore[arg-type]
        return ctx

    async def refusal(self, *headers: Header, endpoint: Endpoint = CHAT, token: str = TOKEN) -> XRouterError:
        with pytest.raises(XRouterError) as caught:
            await self.request(*headers, endpoint=endpoint, token=token)
        assert not self.passed
        assert not self.last.provided("principal")
        return caught.value

    async def key(self, new: NewKey | None = None) -> bytes:
        return (await make_key(self.engine, self.world, new)).secret.reveal().encode()


@pytest.fixture
async def gateway(tmp_path: Path) -> AsyncIterator[Gateway]:
    engine, world = await fresh_engine(tmp_path), HandWorld()
    ring = KeyRing(engine, world)
    ledger = open_ledger(engine, world, lease_s=60)
    await ring.start()
    yield Gateway(engine, ring, world, ledger, [])
    await ledger.aclose()
    await ring.aclose()
    await engine.dispose()


def bearer(credential: bytes) -> Header:
    return (b"authorization", b"Bearer " + credential)


@pytest.mark.parametrize("scheme", [b"Bearer ", b"bearer ", b"BEARER  "])
async def test_a_bearer_key_passes_and_is_the_principal(gateway: Gateway, scheme: bytes) -> None:
    ctx = await gateway.request((b"authorization", scheme + await gateway.key(NewKey(name="n", account="acme"))))
    assert (ctx.principal.name, ctx.principal.account, ctx.principal.management) == ("n", "acme", False)
    assert gateway.passed == [ctx]


async def test_x_api_key_is_read_too(gateway: Gateway) -> None:
    ctx = await gateway.request((b"x-api-key", await gateway.key(NewKey(name="n"))))
    assert ctx.principal.name == "n"


async def test_other_headers_say_nothing(gateway: Gateway) -> None:
    key = await gateway.key()
    for header in ((b"cookie", b"authorization=Bearer " + key), (b"proxy-authorization", b"Bearer " + key)):
        assert isinstance(await gateway.refusal(header), Unauthorized)


async def test_a_request_carries_one_credential(gateway: Gateway) -> None:
    key = await gateway.key()
    for headers in (
        [bearer(key), bearer(key)],
        [bearer(key), (b"x-api-key", key)],
        [(b"x-api-key", key), (b"x-api-key", key)],
        [bearer(b""), bearer(key)],
    ):
        assert (await gateway.refusal(*headers)).detail == "more than one credential"


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [(b"authorization", b"")],
        [(b"authorization", b"Bearer")],
        [(b"authorization", b"Bearer ")],
        [(b"authorization", b"Bearer    ")],
        [(b"x-api-key", b"")],
        [(b"authorization", b"Basic eHI6eHI=")],
        [(b"authorization", b"\xff\xfe \x00")],
        [(b"authorization", b"Bearer \xff\xfe\x00")],
        [(b"authorization", b"Bearer " + "ключ".encode())],
        [(b"authorization", b"Bearer " + b"x" * 100_000)],
    ],
)
async def test_without_a_key_the_answer_is_401_and_says_how(gateway: Gateway, headers: list[Header]) -> None:
    error = await gateway.refusal(*headers)
    assert isinstance(error, Unauthorized)
    assert error.encoded() == Unauthorized().encoded()
    assert gateway.last.response_headers == [(b"www-authenticate", b"Bearer")]


async def test_a_key_without_its_scheme_is_refused(gateway: Gateway) -> None:
    key = await gateway.key()
    for value in (key, b"Basic " + key, b"Token " + key, b"Bearer:" + key, b"Basic " + TOKEN.encode()):
        assert isinstance(await gateway.refusal((b"authorization", value), endpoint=MODELS), Unauthorized)


async def test_the_admin_token_manages_and_reaches_no_model(gateway: Gateway) -> None:
    for endpoint in (KEYS, MODELS):
        ctx = await gateway.request(bearer(TOKEN.encode()), endpoint=endpoint)
        assert (ctx.principal.key_id, ctx.principal.account, ctx.principal.management) == ("admin", "admin", True)
    gateway.passed.clear()
    assert isinstance(await gateway.refusal(bearer(TOKEN.encode()), endpoint=CHAT), Forbidden)
    for wrong in (TOKEN[:-1], TOKEN + "x", TOKEN.upper()):
        assert isinstance(await gateway.refusal(bearer(wrong.encode()), endpoint=KEYS), Unauthorized)


async def test_no_admin_token_means_no_admin(gateway: Gateway) -> None:
    for credential in (b"", b"''", b"None", b"***"):
        assert isinstance(await gateway.refusal(bearer(credential), endpoint=KEYS, token=""), Unauthorized)


async def test_management_keys_manage_and_the_others_do_not(gateway: Gateway) -> None:
    management, plain = await gateway.key(NewKey(name="m", management=True)), await gateway.key()
    assert (await gateway.request(bearer(management), endpoint=KEYS)).principal.management
    await gateway.request(bearer(plain), endpoint=MODELS)
    gateway.passed.clear()
    assert isinstance(await gateway.refusal(bearer(management), endpoint=CHAT), Forbidden)
    assert isinstance(await gateway.refusal(bearer(plain), endpoint=KEYS), Forbidden)


def sql_payloads() -> list[str]:
    """The shapes of injection that scanners send, each bare and inside of what begins or ends like a key."""
    openings = ["'", '"', "')", '")', "'))", "`", "\\'", "%27", "' --", "1"]
    attacks = [
        " OR 1=1--",
        " OR '1'='1",
        " OR ''='",
        " UNION SELECT hash FROM api_keys--",
        " UNION ALL SELECT NULL,NULL,NULL--",
        "; DROP TABLE api_keys;--",
        "; UPDATE api_keys SET management=1;--",
        "; ATTACH DATABASE '/tmp/x' AS x;--",
        "; SELECT pg_sleep(10);--",
        " AND (SELECT 1 FROM (SELECT randomblob(1000000000)))--",
        " AND 1=CAST((SELECT hash FROM api_keys) AS int)--",
        "||(SELECT label FROM api_keys)||'",
        "/**/OR/**/1=1",
    ]
    secret = keyformat.new_secret("free").reveal()
    frames = ["{}", "xr-{}", secret + "{}", "xr-free-{}-" + secret[-6:]]
    return [frame.format(opening + attack) for frame in frames for opening in openings for attack in attacks]


async def test_sql_in_a_credential_never_comes_near_the_database(gateway: Gateway) -> None:
    await gateway.key()
    payloads = sql_payloads()
    assert len(payloads) >= 500
    for payload in payloads:
        for header in (bearer(payload.encode()), (b"x-api-key", payload.encode())):
            error = await gateway.refusal(header)
            assert error.encoded() == Unauthorized().encoded()
    assert gateway.ring.look_ups == 0
    async with gateway.engine.connect() as connection:
        rows = (await connection.execute(text("SELECT management FROM api_keys"))).scalars().all()
    assert rows == [0]


async def test_no_credential_is_told_to_client_or_log(gateway: Gateway) -> None:
    for canary in (b"CANARY", keyformat.new_secret("canary").reveal().encode()):
        for header in (bearer(canary), (b"x-api-key", canary), (b"authorization", b"Basic " + canary)):
            error = await gateway.refusal(header)
            told = f"{error} {error.detail} {error.encoded()!r}".lower()
            assert "canary" not in told
