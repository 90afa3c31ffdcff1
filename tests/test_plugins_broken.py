"""A broken filter breaks its own requests and no others (fault matrix F38)."""

import asyncio
from collections.abc import Iterator

import httpx2
import pytest
from kit.gateway import CHAIN, RunningGateway, running_gateway
from kit.walk import MODELS, UPSTREAMS, chat, chat_stream, forget, metric, open_chat, read_stream, record_of, until

from xrouter import leaving
from xrouter.sandbox.running import Sandbox, running_sandbox

BROKEN = CHAIN + "  - kit.broken_filter:Broken: {}\n"


@pytest.fixture(scope="module")
def running() -> Iterator[Sandbox]:
    with running_sandbox() as sandbox:
        yield sandbox


@pytest.fixture
def sandbox(running: Sandbox) -> Sandbox:
    return forget(running)


@pytest.fixture
def gateway(sandbox: Sandbox, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    with running_gateway(UPSTREAMS + MODELS + BROKEN, sandbox.environ, tmp_path_factory.mktemp("x")) as gateway:
        yield gateway
        assert chat_stream(gateway, "gigachat/max", "привет").done, "the others go on"
        until(lambda: metric(gateway, "xrouter_in_flight") == 0, timeout_s=6)


def tasks(gateway: RunningGateway) -> set[str]:
    async def names() -> set[str]:
        return {task.get_name() for task in asyncio.all_tasks() if task is not asyncio.current_task()}

    found: set[str] = gateway.call(names())
    return found


@pytest.mark.parametrize("how", ["raises before", "answers nothing", "cancels itself"])
def test_f38_before_the_answer(gateway: RunningGateway, sandbox: Sandbox, how: str) -> None:
    answer = chat(gateway, "local/large", how)
    assert answer.status_code == 500
    error = answer.json()["error"]
    assert error["type"] == "internal_error"
    assert "secret detail" not in answer.text
    assert answer.headers["x-request-id"], "leads to the operator's log"
    record = record_of(gateway, answer)
    assert record["status"] == 500
    assert record["origin"] == "internal"
    assert sandbox.state.count("openai") == 0


@pytest.mark.parametrize("stream", [False, True])
def test_f38_after_the_answer(gateway: RunningGateway, stream: bool) -> None:
    """The client has its answer whole; only the log can tell of it."""
    answer = chat(gateway, "local/large", "raises after", stream=stream)
    assert answer.status_code == 200
    assert read_stream(answer).done if stream else answer.json()["choices"]
    record = record_of(gateway, answer)
    assert record["outcome"] == "complete"
    assert record["error"] == "internal_error"


def test_f38_in_the_middle_of_a_stream(gateway: RunningGateway, sandbox: Sandbox) -> None:
    stream = chat_stream(gateway, "gigachat/max", "raises in send")
    assert stream.finish == ["error"]
    assert stream.error is not None
    assert stream.error["code"] == 500
    assert b"secret detail" not in stream.body
    record = record_of(gateway, stream)
    assert record["outcome"] == "upstream_error"
    assert record["error"] == "internal_error"
    assert until(lambda: sandbox.state.generations["gigachat sandbox-client"].now == 0) < 1


def test_f38_a_filter_that_hangs_ends_with_its_client(
    gateway: RunningGateway, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(leaving, "GRACE_S", 0.3)
    before = tasks(gateway)
    with (
        pytest.raises(httpx2.ReadTimeout),
        open_chat(gateway, "local/large", "hangs before", timeout_s=0.3, headers={"x-request-id": "hanging"}),
    ):
        pass
    assert 0.2 < until(lambda: metric(gateway, "xrouter_in_flight") == 0) < 1
    assert gateway.log.request("hanging")["status"] == 499
    assert "hanging" in caplog.text
    until(lambda: tasks(gateway) <= before)


def test_f38_a_filter_that_eats_its_cancellation(gateway: RunningGateway, sandbox: Sandbox) -> None:
    """The dispatch has stopped the upstream call before the filter could see anything."""
    sandbox.state.choose("long=3000,drip=0.05", provider="gigachat", path="/chat/completions")
    with open_chat(gateway, "gigachat/max", "eats") as response:
        pieces = response.iter_bytes()  # kept: an iterator that is dropped closes the connection
        next(pieces)
    assert until(lambda: sandbox.state.generations["gigachat sandbox-client"].now == 0) < 1
    assert gateway.log.request(response.headers["x-request-id"])["status"] == 499
