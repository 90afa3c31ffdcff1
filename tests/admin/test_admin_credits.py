"""Credits that the operator moves over HTTP: one effect for one Idempotency-Key, and none for what is doubtful."""

import asyncio
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx2
import pytest
from kit import stores
from kit.gateway import RunningGateway, new_key, running_gateway
from kit.money import problems
from kit.walk import MODELS, UPSTREAMS, chat

from xrouter.sandbox.running import running_sandbox

TOKEN = "the-operators-own-token"
CONFIG = (
    f"admin: {{token: {TOKEN}}}\n"
    + UPSTREAMS
    + MODELS.replace("price: free", 'price: {input: "1", output: "2", per: 1}')
    + "filters: [auth, body, routing, token_count, quota]\n"
)


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    folder: Path = tmp_path_factory.mktemp("credits")
    with running_sandbox() as sandbox, running_gateway(CONFIG, sandbox.environ, folder) as running:
        yield running
        assert asyncio.run(problems(running.store)) == ()


def ask(
    gateway: RunningGateway, path: str, *, key: str = TOKEN, once: str | None = None, **sent: Any
) -> httpx2.Response:
    headers = {"Authorization": f"Bearer {key}", **({"Idempotency-Key": once} if once else {})}
    method = "POST" if sent else "GET"
    return httpx2.request(method, f"{gateway.url}/admin/api/credits{path}", headers=headers, timeout=60, **sent)


def entries(gateway: RunningGateway, account: str) -> list[tuple[Any, ...]]:
    sql = "SELECT kind, amount_nano, reason, author FROM entries"
    return stores.rows(gateway.store, f"{sql} WHERE '{account}' IN (debit_account, credit_account) ORDER BY id")


def test_what_is_granted_and_adjusted_is_there_and_says_why(gateway: RunningGateway) -> None:
    granted = ask(gateway, "/grant", json={"account": "a", "amount": 12.000000001, "reason": "invoice 17"})
    assert granted.status_code == 200, granted.text
    assert granted.text == '{"account":"a","balance":12.000000001,"held":0,"available":12.000000001}'
    adjusted = ask(gateway, "/adjust", json={"account": "a", "amount": -2, "reason": "typed wrong"})
    assert adjusted.json()["balance"] == 10.000000001
    assert ask(gateway, "?account=a").text == adjusted.text
    assert entries(gateway, "a") == [
        ("grant", 12 * 10**9 + 1, "invoice 17", "admin API"),
        ("adjustment", 2 * 10**9, "typed wrong", "admin API"),
    ]


def test_a_refund_gives_back_what_was_charged_and_never_more(gateway: RunningGateway) -> None:
    key = new_key(gateway.store, account="b")  # and a million credits
    answer = httpx2.post(
        gateway.base_url + "/chat/completions",
        headers={"Authorization": f"Bearer {key}"},
        json={"model": "local/large", "messages": [{"role": "user", "content": "Hello"}]},
        timeout=60,
    )
    generation, cost = answer.headers["x-generation-id"], Decimal(answer.headers["x-xrouter-cost"])
    assert cost > 2
    part = ask(gateway, "/refund", json={"generation": generation, "amount": 1, "reason": "half an answer"})
    assert Decimal(str(part.json()["balance"])) == 1_000_000 - cost + 1
    whole = {"generation": generation, "reason": "the rest"}
    assert "more can be refunded" in ask(gateway, "/refund", json=whole).text
    rest = {**whole, "amount": float(cost - 1)}
    for _ in range(2):  # sent again, it has happened
        assert ask(gateway, "/refund", once="rest", json=rest).json()["balance"] == 1_000_000
    assert ask(gateway, "/refund", json={"generation": "gen-0", "reason": "?"}).status_code == 404
    receipt = httpx2.get(
        gateway.url + "/api/v1/generation", params={"id": generation}, headers={"Authorization": f"Bearer {TOKEN}"}
    ).json()["data"]
    assert [entry["reason"] for entry in receipt["xrouter"]["entries"]] == [None, "half an answer", "the rest"]


def test_f29_one_idempotency_key_grants_once(gateway: RunningGateway) -> None:
    """Thirty at once. Fails if the header is not passed on to the ledger."""

    async def storm() -> list[httpx2.Response]:
        headers = {"Authorization": f"Bearer {TOKEN}", "Idempotency-Key": "invoice-18"}
        async with httpx2.AsyncClient(base_url=gateway.url, headers=headers, timeout=60) as client:
            body = {"account": "c", "amount": 5}
            return await asyncio.gather(*(client.post("/admin/api/credits/grant", json=body) for _ in range(30)))

    assert {answer.text for answer in asyncio.run(storm())} == {'{"account":"c","balance":5,"held":0,"available":5}'}
    assert len(entries(gateway, "c")) == 1
    other = ask(gateway, "/grant", once="invoice-18", json={"account": "c", "amount": 6})
    assert (other.status_code, other.json()["error"]["param"]) == (422, "idempotency_key")


GRANT = '{"account": "d", "amount": %s}'


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        *(
            ("/grant", GRANT % amount, "amount")
            for amount in ("-1", "0", '"5"', "true", "null", "1e30", "0.0000000001")
        ),
        ("/grant", GRANT % "NaN", None),
        ("/grant", GRANT % "1e400", None),
        ("/grant", GRANT % "Infinity", None),
        ("/grant", GRANT % "9223372035", "amount"),  # a double of what one account can hold
        ("/grant", '{"account": "d", "amount": 1, "amount": 2}', "amount"),
        ("/grant", '{"account": "@revenue", "amount": 1}', None),
        ("/grant", '{"account": "", "amount": 1}', None),
        ("/grant", '{"account": "d", "amount": 1, "reason": ""}', "reason"),
        ("/grant", '{"account": "d", "amount": 1, "reason": "a\\nb"}', "reason"),
        ("/grant", '{"account": "d", "amount": 1, "to": "me"}', None),
        ("/grant", '{"amount": 1}', None),
        ("/grant", "[]", None),
        ("/adjust", '{"account": "d", "amount": 1}', None),
        ("/adjust", '{"account": "d", "amount": 0, "reason": "x"}', None),
        ("/refund", '{"generation": "gen-0"}', None),
    ],
)
def test_what_is_doubtful_is_refused_and_moves_nothing(
    gateway: RunningGateway, path: str, body: str, param: str | None
) -> None:
    answer = ask(gateway, path, content=body.encode())
    error = answer.json()["error"]
    assert answer.status_code in (400, 404), answer.text
    assert (error["code"], error["param"] if param else None) == (answer.status_code, param)
    assert entries(gateway, "d") == []


def test_an_unknown_account_is_not_begun_by_an_adjustment(gateway: RunningGateway) -> None:
    """Fails if adjustments begin accounts as grants do."""
    answer = ask(gateway, "/adjust", json={"account": "typo", "amount": -5, "reason": "x"})
    assert (answer.status_code, answer.json()["error"]["param"]) == (404, "account")
    assert ask(gateway, "?account=typo").status_code == 404
    assert ask(gateway, "").status_code == 400


def test_names_that_no_database_takes_are_unknown(gateway: RunningGateway) -> None:
    """PostgreSQL refuses a NUL in a text."""
    assert ask(gateway, "?account=a%00b").status_code == 404
    answer = ask(gateway, "/refund", json={"generation": "gen-\0", "reason": "x"})
    assert (answer.status_code, answer.json()["error"]["param"]) == (404, "generation")


@pytest.mark.parametrize("management", [False, True])
def test_no_key_grants(gateway: RunningGateway, management: bool) -> None:
    """Neither an inference key nor a management key: the admin token alone."""
    key = new_key(gateway.store, account="e", management=management)
    for path in ("/grant", "/adjust", "/refund"):
        answer = ask(gateway, path, key=key, json={"account": "e", "amount": 5, "reason": "please"})
        assert (answer.status_code, answer.json()["error"]["type"]) == (401, "authentication_error")
    assert ask(gateway, "?account=e", key=key).status_code == 401
    assert [kind for kind, *_ in entries(gateway, "e")] == ["grant"], "that of `new_key` alone"


def test_a_running_request_has_the_credits_at_once(gateway: RunningGateway) -> None:
    key = new_key(gateway.store, account="f")
    balance = ask(gateway, "?account=f").json()["balance"]
    ask(gateway, "/adjust", json={"account": "f", "amount": -balance, "reason": "emptied"})
    headers = {"Authorization": f"Bearer {key}"}
    body = {"model": "local/large", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 20}
    url = gateway.base_url + "/chat/completions"
    assert httpx2.post(url, headers=headers, json=body, timeout=60).status_code == 402
    ask(gateway, "/grant", json={"account": "f", "amount": 1000})
    assert httpx2.post(url, headers=headers, json=body, timeout=60).status_code == 200
    assert chat(gateway, "local/large", "Hello").status_code == 200
