"""`tokens/count`: the provider's own number where it has one, an estimate that says so where it has not."""

from typing import Any

import pytest
from kit.accounts import TOKEN, Accounts

TEXTS = ["Первый текст", "", "Second text, a little longer"]


def count(accounts: Accounts, **body: Any) -> Any:
    response = accounts.ask(accounts.new_key(), "POST", "tokens/count", json=body)
    assert response.status_code == 200, response.text
    return response.json()


def test_yandex_counts_a_chat_as_it_bills_it(accounts: Accounts) -> None:
    body = {"model": "yandexgpt/pro", "messages": [{"role": "user", "content": "Столица Перу?"}]}
    counted = count(accounts, **body)
    assert (counted["source"], counted["upstream"]) == ("provider", "yandex")
    accounts.grant("tests", 10**11)
    answer = accounts.ask(accounts.new_key(), "POST", "chat/completions", json=body).json()
    assert counted["input_tokens"] == answer["usage"]["prompt_tokens"]


@pytest.mark.parametrize("model", ["gigachat-max", "yandexgpt/pro"])
def test_texts_are_counted_each_by_itself(accounts: Accounts, model: str) -> None:
    texts = TEXTS if model == "gigachat-max" else [text for text in TEXTS if text]
    counted = count(accounts, model=model, input=texts)
    assert counted["source"] == "provider"
    assert len(counted["counts"]) == len(texts)
    assert sum(counted["counts"]) == counted["input_tokens"] > 0
    alone = count(accounts, model=model, input=texts[0])
    assert alone["counts"] == counted["counts"][:1]


def test_a_gigachat_chat_is_counted_without_its_template(accounts: Accounts) -> None:
    chat = count(accounts, model="gigachat/max", messages=[{"role": "user", "content": TEXTS[0]}])
    assert chat["input_tokens"] == count(accounts, model="gigachat/max", input=TEXTS[0])["input_tokens"]
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}
    more = count(accounts, model="gigachat/max", messages=[{"role": "user", "content": TEXTS[0]}], tools=[tool])
    assert more["input_tokens"] > chat["input_tokens"]


def test_what_no_provider_counts_is_estimated(accounts: Accounts) -> None:
    counted = count(accounts, model="local/large", input=TEXTS)
    assert (counted["source"], counted["upstream"]) == ("estimated", None)
    assert counted["input_tokens"] > 0


def test_a_count_costs_nothing(accounts: Accounts) -> None:
    secret = accounts.new_key(account="counts")
    accounts.ask(secret, "POST", "tokens/count", json={"model": "gigachat/max", "input": "text"})
    assert accounts.data(secret, "GET", "key")["usage"] == 0


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (400, {"model": "gigachat/max"}),
        (400, {"model": "gigachat/max", "input": "x", "prompt": "y"}),
        (400, {"model": "gigachat/max", "input": [1, 2]}),
        (400, {"model": "gigachat/max", "input": ["x"] * 129}),
        (400, {"input": "x"}),
        (404, {"model": "no/such", "input": "x"}),
        (413, {"model": "gigachat/max", "input": "x" * 1_100_000}),
    ],
)
def test_a_wrong_request_is_refused(accounts: Accounts, status: int, body: dict[str, Any]) -> None:
    assert accounts.ask(TOKEN, "POST", "tokens/count", json=body).status_code == status


def test_the_drift_of_estimates_is_a_metric(accounts: Accounts) -> None:
    accounts.grant("tests", 10**11)
    registry, name = accounts.gateway.app.metrics.registry, "xrouter_token_estimate_ratio"
    before = registry.get_sample_value(f"{name}_count", {"model": "gigachat/max"}) or 0
    answer = accounts.chat(accounts.new_key())
    assert answer.status_code == 200
    accounts.gateway.log.request(answer.headers["x-request-id"])
    assert registry.get_sample_value(f"{name}_count", {"model": "gigachat/max"}) == before + 1
    assert 0 < (registry.get_sample_value(f"{name}_sum", {"model": "gigachat/max"}) or 0) < 10 * (before + 1)
