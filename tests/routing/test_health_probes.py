"""Active probes: an idle upstream is found dead before a client finds it, and one that is reachable again is used again."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from kit.gateway import CHAIN, RunningGateway, running_gateway
from kit.health import Watched
from kit.hostile import Peer, answer, answering
from kit.redis_server import free_port
from kit.scripted import Scripted, scripted_upstream
from kit.walk import MODELS, UPSTREAMS, chat, metric, until

from xrouter.config.load import load
from xrouter.routing.probes import Prober
from xrouter.sandbox.running import running_sandbox

JSON = "content-type: application/json"
LIST = answer(b'{"object": "list", "data": []}', JSON)
WHOLE = answer(
    b'{"id":"up","model":"m","choices":[{"index":0,"message":{"role":"assistant","content":"Lima"},'
    b'"finish_reason":"stop"}],"usage":{"prompt_tokens":2,"completion_tokens":1}}',
    JSON,
)
BROKEN = answer(b"{}", JSON, status="500 No")
PROBE = "probe: {interval_s: 0.2, timeout_s: 5, failures: 2}"


async def only_lists(peer: Peer) -> None:
    """The list of models is there, and every model fails."""
    while True:
        request = await peer.request()
        peer.send(LIST if request.startswith(b"GET /v1/models ") else BROKEN)
        await peer.drain()


async def silent(peer: Peer) -> None:
    await peer.request()
    await peer.left()


@pytest.fixture
def upstream() -> Iterator[Scripted]:
    with scripted_upstream() as scripted:
        yield scripted


def config(url: str, probe: str = PROBE) -> str:
    return f"""
upstreams:
  up: {{provider: openai, base_url: "{url}", {probe}}}
models:
  a/chat: {{price: free, routes: [{{upstream: up, model: m}}, {{upstream: up, model: n}}]}}
""" + CHAIN.replace("retries: 2", "retries: 0, breaker: {failures: 2, open_s: 300}")


def ejected(gateway: RunningGateway, model: str = "m") -> bool:
    return metric(gateway, "xrouter_upstream_ejected", upstream="up", model=model) == 1


def probes(gateway: RunningGateway, result: str, upstream: str = "up") -> float:
    return metric(gateway, "xrouter_upstream_probes_total", upstream=upstream, result=result)


@pytest.mark.parametrize("fault", [answering(BROKEN), answering(answer(b"{}", JSON, status="401 No"))])
def test_an_idle_upstream_is_found_dead_and_found_well(upstream: Scripted, tmp_path: Path, fault: object) -> None:
    """No client asks anything. Fails without probes: it is taken for well until somebody's request fails."""
    upstream.set(fault)  # type: ignore[arg-type]
    with running_gateway(config(upstream.url), {}, tmp_path) as gateway:
        until(lambda: ejected(gateway, "m") and ejected(gateway, "n"), timeout_s=20)
        assert probes(gateway, "failed") >= 2
        assert metric(gateway, "xrouter_upstream_ejections_total", upstream="up", reason="probe") == 2
        assert all(request.startswith(b"GET /v1/models ") for request in upstream.requests), "probes cost nothing"
        upstream.set(answering(LIST))
        until(lambda: not ejected(gateway, "m") and not ejected(gateway, "n"), timeout_s=20)


def test_silence_is_a_failure(upstream: Scripted, tmp_path: Path) -> None:
    upstream.set(silent)
    probe = "probe: {interval_s: 0.1, timeout_s: 0.2, failures: 1}"
    with running_gateway(config(upstream.url, probe), {}, tmp_path) as gateway:
        until(lambda: ejected(gateway), timeout_s=20)


def test_an_upstream_without_such_a_list_is_alive(upstream: Scripted, tmp_path: Path) -> None:
    upstream.set(answering(answer(b"{}", JSON, status="404 No")))
    with running_gateway(config(upstream.url), {}, tmp_path) as gateway:
        until(lambda: probes(gateway, "ok") >= 2, timeout_s=20)
        assert probes(gateway, "failed") == 0


def test_what_is_reachable_again_is_used_again_though_no_request_dares(tmp_path: Path) -> None:
    """The breaker alone would wait for five minutes."""
    port = free_port()
    with running_gateway(config(f"http://127.0.0.1:{port}/v1"), {}, tmp_path) as gateway:
        until(lambda: chat(gateway, "a/chat", "Peru?").status_code == 502 and ejected(gateway), timeout_s=20)
        with listening(port) as upstream:
            until(lambda: not ejected(gateway), timeout_s=20)
            upstream.set(answering(WHOLE))
            assert chat(gateway, "a/chat", "Peru?").status_code == 200


def test_a_list_of_models_says_nothing_of_a_model_that_fails(upstream: Scripted, tmp_path: Path) -> None:
    """Fails when a good probe brings everything back: the clients then run into the same failures every interval."""
    upstream.set(only_lists)
    with running_gateway(config(upstream.url), {}, tmp_path) as gateway:
        for _ in range(2):
            assert chat(gateway, "a/chat", "Peru?").status_code == 502
        assert ejected(gateway, "m")
        before = probes(gateway, "ok")
        until(lambda: probes(gateway, "ok") >= before + 3, timeout_s=20)
        assert ejected(gateway, "m")


def test_a_reload_ends_the_probes_of_the_old_configuration(upstream: Scripted, tmp_path: Path) -> None:
    upstream.set(answering(LIST))

    async def probing() -> list[str]:
        return [task.get_name() for task in asyncio.all_tasks() if task.get_name().startswith("probes of")]

    with running_gateway(config(upstream.url), {}, tmp_path) as gateway:
        assert gateway.call(probing()) == ["probes of up"]
        for probe, tasks in (("queue_s: 30", []), (PROBE, ["probes of up"])):
            (tmp_path / "next.yaml").write_text(f"store: {gateway.store}\n{config(upstream.url, probe)}")
            gateway.call(gateway.app.reload(load(tmp_path / "next.yaml", {})))
            assert gateway.call(probing()) == tasks


def test_every_provider_answers_probes(tmp_path: Path) -> None:
    """With the sandbox's strict emulators: signed in, and at the right path."""
    upstreams = UPSTREAMS.replace("    provider:", f"    {PROBE}\n    provider:")
    with (
        running_sandbox() as sandbox,
        running_gateway(upstreams + MODELS + CHAIN, sandbox.environ, tmp_path) as gateway,
    ):
        for name in ("giga", "yandex", "local"):
            until(lambda name=name: probes(gateway, "ok", name) >= 1, timeout_s=20)  # type: ignore[misc]
            assert probes(gateway, "failed", name) == 0


def test_one_whose_requests_go_well_is_not_probed() -> None:
    seen, places = Watched(), [("up", "m"), ("up", "n")]
    prober = Prober({}, places, seen.health, seen.world, lambda: True)
    assert not prober._is_served(places, 15), "nothing is known"
    seen.serve(places[0])
    assert prober._is_served(places, 15)
    seen.world.advance(16)
    assert not prober._is_served(places, 15), "idle"
    seen.serve(places[0])
    seen.fail(places[1], 5)
    assert not prober._is_served(places, 15), "one of its models is in trouble"


@contextmanager
def listening(port: int) -> Iterator[Scripted]:
    with scripted_upstream(port=port) as upstream:
        upstream.set(answering(LIST))
        yield upstream
