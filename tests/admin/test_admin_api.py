"""The operator's API over HTTP, of a real process."""

import asyncio
from collections.abc import Iterator

import httpx2
import pytest
from kit.serving import Serving, serving

from xrouter.sandbox.running import running_sandbox

TOKEN = "the-operators-own-token"
YAML = """
store: sqlite:///{folder}/gateway.db
server: {{port: 0}}
admin: {{token: "${{XROUTER_ADMIN_TOKEN}}"}}
upstreams: {{local: {{provider: openai, base_url: "${{LOCAL_BASE_URL}}", api_key: "${{LOCAL_API_KEY}}"}}}}
models: {{local/large: {{price: free, routes: [{{upstream: local, model: sandbox-large}}]}}}}
filters: [auth, body, routing, token_count]
"""


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    folder = tmp_path_factory.mktemp("admin")
    config = folder / "xrouter.yaml"
    config.write_text(YAML.format(folder=folder))
    with running_sandbox() as sandbox:
        environ = {**sandbox.environ, "XROUTER_ADMIN_TOKEN": TOKEN, "XDG_RUNTIME_DIR": str(folder)}
        with serving(config, environ) as running:
            yield running


def ask(gateway: Serving, method: str, path: str, token: str | None = TOKEN) -> httpx2.Response:
    headers = {} if token is None else {b"Authorization": f"Bearer {token}".encode()}
    return httpx2.request(method, f"{gateway.url}/admin/api/{path}", headers=headers, timeout=60)


@pytest.mark.parametrize("token", [None, "wrong", TOKEN + "x", "ключ"])
def test_only_the_admin_token_is_let_in(gateway: Serving, token: str | None) -> None:
    answer = ask(gateway, "POST", "reload", token)
    assert (answer.status_code, answer.json()["error"]["type"]) == (401, "authentication_error")
    assert answer.headers["www-authenticate"] == "Bearer"  # it had none


def test_what_is_not_there_is_refused_in_the_usual_shape(gateway: Serving) -> None:
    assert ask(gateway, "GET", "nothing").json()["error"]["code"] == 404
    assert ask(gateway, "GET", "reload").json()["error"]["code"] == 405


def test_f19_reload_tells_what_is_wrong_and_changes_nothing(gateway: Serving) -> None:
    good = gateway.config.read_text()
    gateway.config.write_text(good + "surprise: 1\n")
    answer = ask(gateway, "POST", "reload")
    gateway.config.write_text(good)
    assert answer.status_code == 422
    (problem,) = answer.json()["error"]["metadata"]["problems"]
    assert problem.startswith(f"{gateway.config}:8:1: unknown key 'surprise'")
    assert TOKEN not in answer.text
    done = ask(gateway, "POST", "reload")
    assert (done.status_code, done.json()) == (200, {"ok": True})


def test_workers_are_listed(gateway: Serving) -> None:
    (worker,) = ask(gateway, "GET", "workers").json()["workers"]
    assert (worker["pid"], worker["state"]) == (gateway.process.pid, "serving")


def test_many_reloads_at_once_are_all_answered(gateway: Serving) -> None:
    async def storm() -> list[int]:
        headers = {"Authorization": f"Bearer {TOKEN}"}
        async with httpx2.AsyncClient(base_url=gateway.url, headers=headers, timeout=60) as client:
            answers = await asyncio.gather(*(client.post("/admin/api/reload") for _ in range(10)))
        return [answer.status_code for answer in answers]

    assert asyncio.run(storm()) == [200] * 10
