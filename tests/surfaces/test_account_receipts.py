"""What an answer says it cost, and what the account can read about it afterwards, agree to the last nanocredit."""

from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest
from kit.accounts import TOKEN, Accounts
from msgspec import json

Fresh = Callable[[str], str]
_exact = json.Decoder(float_hook=Decimal).decode


def exact(body: bytes) -> Any:
    """JSON with its numbers as they were written."""
    return _exact(body)


def test_a_receipt_agrees_with_the_answer_to_the_last_nanocredit(accounts: Accounts, fresh_account: Fresh) -> None:
    account = fresh_account("receipt")
    secret = accounts.new_key(account=account)
    answer = accounts.chat(secret)
    assert answer.status_code == 200, answer.text
    body = exact(answer.content)
    receipt = exact(accounts.ask(secret, "GET", f"generation?id={body['id']}").content)["data"]
    assert body["usage"]["cost"] == receipt["total_cost"] == receipt["usage"] == receipt["xrouter"]["charged"]
    assert Decimal(answer.headers["x-xrouter-cost"]) == receipt["total_cost"] > 0
    assert receipt["tokens_prompt"] == receipt["native_tokens_prompt"] == body["usage"]["prompt_tokens"]
    assert receipt["tokens_completion"] == body["usage"]["completion_tokens"]
    details = body["usage"]["cost_details"]
    prompt, completions = (details[f"upstream_inference_{part}_cost"] for part in ("prompt", "completions"))
    assert prompt + completions == receipt["total_cost"]
    assert completions == body["usage"]["completion_tokens"] * Decimal("0.65") / 1000
    assert receipt["xrouter"]["rule"] == "complete"
    assert receipt["xrouter"]["usage"]["source"] == "reported"
    assert receipt["xrouter"]["hold"]["state"] == "settled"
    assert receipt["xrouter"]["price"]["rates"]["input"] == "0.65"
    # The lines are the charge: rounded up to a nanocredit once, at the end.
    total = sum((Decimal(line["amount"]) for line in receipt["xrouter"]["lines"]), Decimal(0))
    assert 0 <= receipt["total_cost"] - total < Decimal("1e-9")
    (charge,) = receipt["xrouter"]["entries"]
    assert (charge["kind"], charge["debit"], charge["amount"]) == ("charge", account, receipt["total_cost"])
    # And the same number in every other place.
    key = exact(accounts.ask(secret, "GET", "key").content)["data"]
    assert key["usage"] == key["usage_daily"] == key["usage_weekly"] == key["usage_monthly"] == receipt["total_cost"]
    credits = exact(accounts.ask(TOKEN, "GET", f"credits?account={account}").content)["data"]
    assert credits == {"total_credits": 100, "total_usage": receipt["total_cost"]}


def test_a_receipt_names_the_attempts_and_the_application(accounts: Accounts, fresh_account: Fresh) -> None:
    secret = accounts.new_key(account=fresh_account("application"))
    body = {"model": "gigachat-max", "messages": [{"role": "user", "content": "Привет"}], "user": "u-1", "stream": True}
    headers = {"HTTP-Referer": "https://app.example", "X-Title": "App", "User-Agent": "agent/1", "x-session-id": "s-1"}
    answer = accounts.ask(secret, "POST", "chat/completions", json=body, headers=headers)
    receipt = accounts.data(secret, "GET", f"generation?id={answer.headers['x-generation-id']}")
    assert receipt["model"] == "gigachat/max"
    assert (receipt["http_referer"], receipt["user_agent"]) == ("https://app.example", "agent/1")
    assert (receipt["external_user"], receipt["session_id"], receipt["streamed"]) == ("u-1", "s-1", True)
    assert receipt["request_id"] == answer.headers["x-request-id"]
    assert [attempt["status"] for attempt in receipt["provider_responses"]] == [200]
    assert receipt["xrouter"]["requested_model"] == "gigachat-max"
    assert receipt["xrouter"]["title"] == "App"
    assert 0 <= receipt["latency"] <= receipt["xrouter"]["duration_ms"]
    assert 0 < receipt["xrouter"]["overhead_ms"] <= receipt["latency"]
    assert receipt["xrouter"]["pieces"] > 1


def test_a_receipt_keeps_the_parameters_and_the_configuration_and_no_text(
    accounts: Accounts, fresh_account: Fresh
) -> None:
    secret = accounts.new_key(account=fresh_account("parameters"))
    body = {
        "model": "gigachat/max",
        "messages": [{"role": "user", "content": "Привет"}],
        "temperature": 0.3,
        "top_p": 0.9,
        "max_tokens": 50,
        "seed": 2**60,
        "stop": ["КОНЕЦ"],
        "metadata": {"secret": "text"},
        "tools": [{"type": "function", "function": {"name": n, "parameters": {"type": "object"}}} for n in ("a", "b")],
    }
    answer = accounts.ask(secret, "POST", "chat/completions", json=body)
    assert answer.status_code == 200, answer.text
    receipts = [
        accounts.data(secret, "GET", f"generation?id={one.headers['x-generation-id']}")["xrouter"]
        for one in (answer, accounts.chat(secret))
    ]
    assert receipts[0]["parameters"] == {"max_tokens": 50, "stop": 1, "temperature": 0.3, "tools": 2, "top_p": 0.9}
    assert receipts[1]["parameters"] == {}
    assert receipts[0]["configuration"] == receipts[1]["configuration"]
    assert len(receipts[0]["configuration"]["version"]) == 12


def test_a_receipt_is_its_account_s_alone(accounts: Accounts, fresh_account: Fresh) -> None:
    owner, stranger = accounts.new_key(account=fresh_account("owner")), accounts.new_key(account="stranger")
    path = f"generation?id={accounts.chat(owner).json()['id']}"
    assert accounts.ask(owner, "GET", path).status_code == 200
    refused = accounts.ask(stranger, "GET", path)
    absent = accounts.ask(stranger, "GET", "generation?id=gen-" + "0" * 26)
    assert refused.status_code == absent.status_code == 404
    assert refused.json()["error"]["type"] == absent.json()["error"]["type"] == "not_found"
    manager = accounts.new_key(account="owner", management=True)
    assert accounts.ask(manager, "GET", path).status_code == 200
    assert accounts.ask(accounts.new_key(account="other", management=True), "GET", path).status_code == 404


def test_what_providers_are_paid_is_told_to_the_operator_alone(accounts: Accounts, fresh_account: Fresh) -> None:
    secret = accounts.new_key(account=fresh_account("margin"))
    path = f"generation?id={accounts.chat(secret).json()['id']}"
    told = accounts.ask(secret, "GET", path).text
    assert "provider_cost" not in told
    assert "@providers" not in told
    own = accounts.data(TOKEN, "GET", path)["xrouter"]
    assert 0 < own["provider_cost"] < own["cost"]
    assert own["provider_rates"]["input"] == "0.5"
    assert [entry["kind"] for entry in own["entries"]] == ["charge", "cost"]


def test_a_free_generation_has_a_receipt_of_nothing(accounts: Accounts) -> None:
    secret = accounts.new_key(account="poor")
    answer = accounts.chat(secret, "gigachat/free")
    receipt = accounts.data(secret, "GET", f"generation?id={answer.json()['id']}")
    assert receipt["total_cost"] == 0
    assert receipt["xrouter"]["hold"] is None
    assert receipt["xrouter"]["entries"] == []
    key = accounts.data(secret, "GET", "key")
    assert key["is_free_tier"] is True
    assert key["free_model_daily_requests"]["used"] == 1


@pytest.mark.parametrize(
    "query", ["", "?id=", "?id=x", "?id=" + "9" * 500, "?id=gen-%00", "?id=%D1%8F", "?id=gen-%27--"]
)
def test_an_id_that_is_none_is_refused(accounts: Accounts, query: str) -> None:
    response = accounts.ask(accounts.new_key(), "GET", "generation" + query)
    assert response.status_code in (400, 404)
    assert response.json()["error"]["param"] == "id"
