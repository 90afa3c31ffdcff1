"""`keys` over HTTP: who may do what, strict bodies, effects at once, one effect for one Idempotency-Key."""

import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from kit.accounts import TOKEN, Accounts

Fresh = Callable[[str], str]


def test_a_made_key_works_until_it_is_disabled_and_deleted(accounts: Accounts, fresh_account: Fresh) -> None:
    manager = accounts.new_key(account=fresh_account("maker"), management=True)
    made = accounts.ask(manager, "POST", "keys", json={"name": "one", "limit": 12.5, "limit_reset": "daily"})
    assert made.status_code == 201
    key, secret = made.json()["data"], made.json()["key"]
    assert (key["limit"], key["limit_remaining"], key["limit_reset"], key["workspace_id"]) == (
        12.5,
        12.5,
        "daily",
        "maker",
    )
    assert accounts.chat(secret).status_code == 200
    path = f"keys/{key['hash']}"
    seen = accounts.data(manager, "GET", path)
    assert seen["usage"] > 0
    assert seen["limit_remaining"] == pytest.approx(12.5 - seen["usage_daily"])
    assert seen["last_used_at"] is not None
    assert accounts.data(manager, "PATCH", path, json={"disabled": True, "name": "off"})["disabled"] is True
    assert accounts.chat(secret).status_code == 401  # at once, in this process
    assert key["hash"] not in [each["hash"] for each in accounts.data(manager, "GET", "keys")]
    assert key["hash"] in [each["hash"] for each in accounts.data(manager, "GET", "keys?include_disabled=true")]
    assert accounts.data(manager, "PATCH", path, json={"disabled": False, "limit": None})["limit"] is None
    assert accounts.chat(secret).status_code == 200
    assert accounts.ask(manager, "DELETE", path).json() == {"deleted": True}
    assert accounts.chat(secret).status_code == 401
    assert accounts.ask(manager, "GET", path).status_code == 404
    assert accounts.ask(manager, "DELETE", path).status_code == 404


def test_an_inference_key_manages_nothing(accounts: Accounts) -> None:
    secret = accounts.new_key()
    for method, path in (
        ("GET", "keys"),
        ("POST", "keys"),
        ("GET", "keys/x"),
        ("PATCH", "keys/x"),
        ("DELETE", "keys/x"),
        ("GET", "credits"),
        ("GET", "activity"),
    ):
        assert accounts.ask(secret, method, path).status_code == 403, path
    assert accounts.ask(secret, "PUT", "keys/x").status_code == 405


def test_a_management_key_sees_its_own_account_s_inference_keys_only(accounts: Accounts) -> None:
    mine = accounts.new_key(account="mine", management=True)
    theirs = accounts.data(TOKEN, "POST", "keys", json={"name": "t", "workspace_id": "theirs"})["hash"]
    boss = accounts.data(
        TOKEN, "POST", "keys", json={"name": "m", "workspace_id": "mine", "xrouter": {"management": True}}
    )
    assert boss["xrouter"]["management"] is True
    for hidden in (theirs, boss["hash"], "0" * 64):
        for method, body in (("GET", None), ("PATCH", {"name": "x"}), ("DELETE", None)):
            assert accounts.ask(mine, method, f"keys/{hidden}", json=body).status_code == 404
    assert accounts.data(mine, "GET", "keys") == []
    for query in ("keys?workspace_id=theirs", "credits?account=theirs", "activity?account=nobody"):
        assert accounts.ask(mine, "GET", query).status_code == 403
    listed = {key["hash"] for key in accounts.data(TOKEN, "GET", "keys?workspace_id=theirs")}
    assert listed == {theirs}
    assert accounts.ask(TOKEN, "GET", "credits?account=nobody").status_code == 404


@pytest.mark.parametrize(
    ("field", "body"),
    [
        ("workspace_id", {"workspace_id": "theirs"}),
        ("tier", {"xrouter": {"tier": "pro"}}),
        ("tier", {"xrouter": {"tier": None}}),
        ("models", {"xrouter": {"models": ["yandexgpt/pro"]}}),
        ("models", {"xrouter": {"models": ["gigachat/*"]}}),
        ("networks", {"xrouter": {"networks": ["0.0.0.0/0"]}}),
        ("expires_at", {"expires_at": "2999-01-01T00:00:00Z"}),
        ("limit", {"limit": 6}),
        ("limit", {"limit": 5, "limit_reset": "daily"}),
        ("xrouter.management", {"xrouter": {"management": True}}),
    ],
)
def test_a_management_key_gives_no_more_than_it_has(accounts: Accounts, field: str, body: dict[str, Any]) -> None:
    manager = accounts.new_key(
        account="narrow",
        management=True,
        tier="free",
        models=("gigachat/max",),
        networks=("127.0.0.0/8",),
        expires_at_us=32_000_000_000_000_000,
        limit_nano=5 * 10**9,
        limit_reset="monthly",
    )
    refused = accounts.ask(manager, "POST", "keys", json={"name": "more", **body})
    assert refused.status_code == 403, refused.text
    assert refused.json()["error"]["param"] == field
    inherited = accounts.data(manager, "POST", "keys", json={"name": "same"})
    assert inherited["xrouter"]["models"] == ["gigachat/max"]
    assert inherited["xrouter"]["networks"] == ["127.0.0.0/8"]
    assert (inherited["limit"], inherited["limit_reset"], inherited["xrouter"]["tier"]) == (5, "monthly", "free")
    changed = {name: value for name, value in body.items() if name != "workspace_id"}
    if changed and field != "xrouter.management":
        path = f"keys/{inherited['hash']}"
        assert accounts.ask(manager, "PATCH", path, json=changed).status_code == 403


def test_a_management_key_does_not_wake_a_key_that_may_do_more(accounts: Accounts) -> None:
    manager = accounts.new_key(account="sleep", management=True, models=("gigachat/max",))
    wide = accounts.data(TOKEN, "POST", "keys", json={"name": "wide", "workspace_id": "sleep", "limit": 10})
    path = f"keys/{wide['hash']}"
    assert accounts.data(manager, "PATCH", path, json={"disabled": True, "limit": 9})["limit"] == 9
    assert accounts.ask(manager, "PATCH", path, json={"disabled": False}).status_code == 403
    assert accounts.ask(manager, "PATCH", path, json={"limit": 11}).status_code == 403
    assert accounts.data(TOKEN, "PATCH", path, json={"disabled": False})["disabled"] is False


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b'{"name": "x", "limit": NaN}',
        b'{"name": "x", "limit": -1}',
        b'{"name": "x", "limit": -0.000000001}',
        b'{"name": "x", "limit": 1e400}',
        b'{"name": "x", "limit": 1e30}',
        b'{"name": "x", "limit": 9223372036.9}',
        b'{"name": "x", "limit": 0.0000000001}',
        b'{"name": "x", "limit": 1e-300}',
        b'{"name": "x", "limit": "5"}',
        b'{"name": "x", "limit": true}',
        b'{"name": "x", "limit": [5]}',
        b'{"name": "x", "limit": 5, "limit": 50}',
        b'{"name": "x", "limit_reset": "hourly"}',
        b'{"name": ""}',
        b'{"name": 5}',
        b'{"name": "x", "nmae": "y"}',
        b'{"name": "x", "expires_at": "2030-01-01"}',
        b'{"name": "x", "expires_at": "2030-01-01T00:00:00"}',
        b'{"name": "x", "expires_at": "2030-13-01T00:00:00Z"}',
        b'{"name": "x", "expires_at": "2001-01-01T00:00:00Z"}',
        b'{"name": "x", "workspace_id": "@revenue"}',
        b'{"name": "x", "external": {"user": "u"}}',
        b'{"name": "x", "xrouter": {"tier": "nowhere"}}',
        b'{"name": "x", "xrouter": {"models": ["no/such"]}}',
        b'{"name": "x", "xrouter": {"models": []}}',
        b'{"name": "x", "xrouter": {"secret": "s"}}',
        b'{"name": "\xff"}',
    ],
)
def test_a_doubtful_body_is_refused(accounts: Accounts, body: bytes) -> None:
    manager = accounts.new_key(account="strict", management=True)
    refused = accounts.ask(manager, "POST", "keys", content=body)
    assert refused.status_code in (400, 403), refused.text
    path = f"keys/{accounts.data(manager, 'POST', 'keys', json={'name': 'ok'})['hash']}"
    assert accounts.ask(manager, "PATCH", path, content=body).status_code in (400, 403)


def test_a_body_is_read_up_to_its_bound(accounts: Accounts) -> None:
    assert accounts.ask(TOKEN, "POST", "keys", content=b" " * 65_537).status_code == 413


EXACT = [
    ("0.1", 10**8),
    ("9223372035", 9223372035 * 10**9),
    ("1234567.123456789", 1234567123456789),
    ("5e-1", 5 * 10**8),
    ("0", 0),
]


@pytest.mark.parametrize(("text", "nano"), EXACT)
def test_a_limit_is_kept_exactly(accounts: Accounts, text: str, nano: int) -> None:
    made = accounts.data(TOKEN, "POST", "keys", content=f'{{"name": "x", "workspace_id": "exact", "limit": {text}}}')
    with sqlite3.connect(accounts.gateway.store.removeprefix("sqlite:///")) as connection:
        stored = connection.execute("SELECT limit_nano FROM api_keys WHERE hash = ?", (made["hash"],)).fetchone()
    connection.close()
    assert stored == (nano,)


def test_f29_one_idempotency_key_makes_one_key(accounts: Accounts) -> None:
    manager = accounts.new_key(account="once", management=True)
    body, headers = {"name": "once"}, {"Idempotency-Key": "request-1"}
    with ThreadPoolExecutor(8) as threads:
        answers = list(
            threads.map(lambda _: accounts.ask(manager, "POST", "keys", json=body, headers=headers), range(8))
        )
    assert {answer.status_code for answer in answers} == {201}
    assert len({answer.json()["key"] for answer in answers}) == 1
    assert len(accounts.data(manager, "GET", "keys")) == 1
    assert accounts.ask(answers[0].json()["key"], "GET", "key").status_code == 200
    other_body = accounts.ask(manager, "POST", "keys", json={"name": "two"}, headers=headers)
    assert other_body.status_code == 422
    stranger = accounts.new_key(account="other-once", management=True)
    theirs = accounts.ask(stranger, "POST", "keys", json=body, headers=headers)
    assert theirs.status_code == 201
    assert theirs.json()["key"] != answers[0].json()["key"]
    with sqlite3.connect(accounts.gateway.store.removeprefix("sqlite:///")) as connection:
        dump = "\n".join(connection.iterdump())
    connection.close()
    assert answers[0].json()["key"] not in dump
    assert answers[0].json()["key"] not in accounts.gateway.log.text.decode()
    accounts.ask(manager, "DELETE", f"keys/{answers[0].json()['data']['hash']}")
    assert accounts.ask(manager, "POST", "keys", json=body, headers=headers).status_code == 404


@pytest.mark.parametrize("name", ["", "x" * 256, "\xff"])
def test_an_idempotency_key_that_is_none_is_refused(accounts: Accounts, name: str) -> None:
    headers: Any = {"Idempotency-Key": name.encode("latin-1")}
    assert (
        accounts.ask(TOKEN, "POST", "keys", json={"name": "x", "workspace_id": "w"}, headers=headers).status_code == 400
    )
