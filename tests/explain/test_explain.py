"""What `explain` says of a request is what the gateway then does with it, and asking changes nothing."""

import asyncio
import random
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import httpx2
import msgspec
import pytest
from kit.gateway import RunningGateway, new_key, running_gateway
from kit.money import problems
from kit.serving import command, serving

from xrouter.explain.explainer import Question
from xrouter.explain.explanation import Explanation
from xrouter.sandbox.running import Sandbox, running_sandbox
from xrouter.wire import decode_json, encode_json

CONFIGURATIONS = 6
REQUESTS = 25
MODELS = ("one/model", "free/model", "alias", "two/model", "no/such", "one/model:floor")


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with running_sandbox() as running:
        yield running


def configuration(chance: random.Random) -> str:
    """Three upstreams that all answer, two models, limits that some requests meet and credits that run out."""
    weights = [chance.choice(["", f", weight: {chance.randrange(0, 5)}"]) for _ in range(3)]
    routes = ", ".join(f"{{upstream: u{n}, model: sandbox-large{weights[n]}}}" for n in range(3))
    balance = chance.choice(["order", "weighted", "cheapest", "least_busy", "latency"])
    limits = chance.choice(
        [
            "",
            "{per: key, requests: 15/day}",
            "{per: account, tokens: 900/day}, {per: key, requests: 8/day, shadow: true}",
            "{per: model, output_tokens: 200/day, strategy: fixed_window}",
        ]
    )
    upstreams = "\n".join(
        f'  u{n}: {{provider: openai, base_url: "${{LOCAL_BASE_URL}}", api_key: "${{LOCAL_API_KEY}}"}}'
        for n in range(3)
    )
    quota = chance.choice(["", "quota: {day: '0.3'}, ", "quota: {total: '2'}, "])
    return f"""
upstreams:
{upstreams}
models:
  one/model:
    balance: {balance}
    aliases: [alias]
    price: {{input: "{chance.choice([1, 30])}", output: "2"}}
    routes: [{routes}]
  two/model:
    price: {{input: "1", output: "1"}}
    routes: [{{upstream: u1, model: sandbox-large}}, {{upstream: u2, model: sandbox-large}}]
  free/model: {{price: free, routes: [{{upstream: u1, model: sandbox-large}}]}}
tiers: {{default: {{{quota}requests: [{chance.randrange(10, 40)}/day], concurrency: 3}}}}
filters:
  - auth
  - rate_limit: {{limits: [{limits}]}}
  - body: {{max_bytes: 2000}}
  - routing: {{retries: 0, fallback: {chance.choice(["true", "false"])}}}
  - token_count
  - quota
"""


def request(chance: random.Random) -> dict[str, Any]:
    body: dict[str, Any] = {"model": chance.choice(MODELS), "session_id": f"s{chance.randrange(4)}"}
    body["messages"] = [{"role": "user", "content": "слово " * chance.choice([1, 20, 150, 600])}]
    if chance.random() < 0.6:
        body["max_tokens"] = chance.choice([1, 20, 100, -1])
    if chance.random() < 0.5:
        body["provider"] = chance.choice(
            [
                {"order": ["u2"], "allow_fallbacks": False},
                {"only": ["u1", "u2"]},
                {"ignore": ["u0"]},
                {"only": ["nobody"]},
                {"sort": "price"},
                {"max_price": {"prompt": 2}},
            ]
        )
    if chance.random() < 0.1:
        body = {"model": body["model"]}
    return body


def explained(gateway: RunningGateway, key: str, body: dict[str, Any]) -> Explanation:
    found: Explanation = gateway.call(
        gateway.app.explain(Question(key=key, body=msgspec.Raw(encode_json(body)), client_ip="127.0.0.1"))
    )
    return found


@pytest.mark.parametrize("seed", range(CONFIGURATIONS))
def test_what_is_explained_is_what_is_done(sandbox: Sandbox, tmp_path: Path, seed: int) -> None:
    """Fails where a filter would decide otherwise of a request that is only looked at: a limit that counts what it is
    asked about, a balance that is read without its holds, an order that is not routing's.
    """
    chance = random.Random(seed)
    key = {"limit_nano": chance.choice([None, 10**9])}
    with running_gateway(configuration(chance), sandbox.environ, tmp_path, key=key) as gateway:
        statuses = set()
        for _ in range(REQUESTS):
            body = request(chance)
            told = explained(gateway, gateway.key, body)
            assert explained(gateway, gateway.key, body) == told, "asking has changed something"
            answer = gateway.client.post("/api/v1/chat/completions", json=body)
            statuses.add(answer.status_code)
            if told.refused is not None:
                assert (answer.status_code, answer.json()["error"]) == (told.refused.status, told.refused.error), told
                continue
            assert answer.status_code == 200, (answer.text, told)
            assert answer.headers["x-xrouter-upstream"] == told.candidates[0].upstream, told
            nearest = [limit for limit in told.limits if limit.kind == "requests" and not limit.shadow and limit.wanted]
            left = min(nearest, key=lambda limit: int(limit.left) / int(limit.limit))
            assert int(answer.headers["x-ratelimit-remaining-requests"]) == int(left.left) - 1
        assert len(statuses) > 1, "the requests of this seed all went the same way"


def test_the_numbers_are_those_of_the_limits_and_the_hold(sandbox: Sandbox, tmp_path: Path) -> None:
    yaml = """
upstreams: {local: {provider: openai, base_url: "${LOCAL_BASE_URL}", api_key: "${LOCAL_API_KEY}"}}
models:
  paid/chat:
    price: {input: "1", output: "2"}
    routes: [{upstream: local, model: sandbox-large}, {upstream: local, model: sandbox-small}]
tiers: {pro: {requests: [20/minute], tokens: [1000/minute], concurrency: 2}}
filters: [auth, rate_limit, body, routing, token_count, quota]
"""
    body = {"model": "paid/chat", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 100}
    with running_gateway(yaml, sandbox.environ, tmp_path, key={"tier": "pro"}) as gateway:
        told = explained(gateway, gateway.key, body)
        assert told.refused is None
        assert [step.filter for step in told.chain] == ["auth", "rate_limit", "body", "routing", "token_count", "quota"]
        assert {(limit.kind, limit.left, limit.limit, limit.wanted) for limit in told.limits} == {
            ("requests", 20, 20, 1),
            ("concurrency", 2, 2, 1),
            ("tokens", 1000, 1000, 0),
            ("tokens", 1000, 1000, (told.input_tokens or 0) + 100),
        }
        assert told.hold is not None
        assert told.hold.granted == told.hold.wanted == f"{((told.input_tokens or 0) + 200) / 1000:g}"
        assert [candidate.model for candidate in told.candidates] == ["sandbox-large", "sandbox-small"]
        by_hash = explained(gateway, sha256(gateway.key.encode()).hexdigest()[:12], body)
        assert by_hash == told
    assert asyncio.run(problems(gateway.store)) == ()


YAML = """
store: sqlite:///{folder}/gateway.db
server: {{port: {port}}}
admin: {{token: "${{XROUTER_ADMIN_TOKEN:-}}"}}
upstreams: {{local: {{provider: openai, base_url: "${{LOCAL_BASE_URL}}", api_key: "${{LOCAL_API_KEY}}"}}}}
models: {{local/large: {{price: {{input: "1", output: "1"}}, routes: [{{upstream: local, model: sandbox-large}}]}}}}
tiers: {{default: {{requests: [5/minute]}}}}
filters: [auth, rate_limit, body, routing, token_count, quota]
"""


def test_the_command_asks_the_gateway_or_answers_by_itself(sandbox: Sandbox, tmp_path: Path) -> None:
    from kit.redis_server import free_port

    config, body = tmp_path / "xrouter.yaml", tmp_path / "body.json"
    config.write_text(YAML.format(folder=tmp_path, port=free_port()))
    body.write_text('{"model": "local/large", "messages": [{"role": "user", "content": "Hi"}]}')
    environ = {**sandbox.environ, "XROUTER_ADMIN_TOKEN": "operator", "XDG_RUNTIME_DIR": str(tmp_path)}
    key = new_key(f"sqlite:///{tmp_path}/gateway.db")
    ask = ["explain", "-c", str(config), "--key", key, "--body", str(body)]

    alone = command(environ, *ask)
    assert (alone.returncode, alone.stderr) == (0, "")
    assert alone.stdout.startswith("chat: goes to local: sandbox-large (local/large)\n")
    assert "5 of 5 requests left per key, takes 1" in alone.stdout
    assert key not in alone.stdout
    body.write_text(body.read_text()[:-1] + ', "models": ["no/such"], "provider": {"ignore": ["local"]}}')
    left_out = command(environ, *ask).stdout
    assert "\n  -  local: sandbox-large (local/large), left out by provider.ignore\n" in left_out
    assert "\n  -  There is no model 'no/such'\n" in left_out
    body.write_text('{"model": "local/large", "messages": [{"role": "user", "content": "Hi"}]}')

    with serving(config, environ) as gateway:
        headers = {"Authorization": f"Bearer {key}"}
        for _ in range(3):
            sent = httpx2.post(
                f"{gateway.url}/v1/chat/completions", headers=headers, content=body.read_bytes(), timeout=60
            )
            assert sent.status_code == 200
        asked = decode_json(command(environ, *ask, "--json").stdout)
        assert [(limit["left"], limit["wanted"]) for limit in asked["limits"]] == [(2, 1)]
        wrong = command(environ, *ask[:4], "xr-not-a-key", *ask[5:], "--json")
        assert decode_json(wrong.stdout)["refused"]["status"] == 401


@pytest.mark.parametrize(
    "question", [b"", b"{}", b'{"key": 1}', b'{"key": "k", "body": {}, "more": 1}', b'"\xff"', b"[" * 9999]
)
def test_what_is_no_question_is_refused(sandbox: Sandbox, tmp_path: Path, question: bytes) -> None:
    config = YAML.format(folder=tmp_path, port=0).replace('"${XROUTER_ADMIN_TOKEN:-}"', "operator")
    with running_gateway(config, sandbox.environ, tmp_path) as gateway:
        answer = httpx2.post(
            gateway.url + "/admin/api/explain", content=question, headers={"Authorization": "Bearer operator"}
        )
        assert answer.status_code == 400
        assert answer.json()["error"]["type"] == "invalid_request_error"
