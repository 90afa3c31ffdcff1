"""YandexGPT through the whole gateway, against the sandbox: the tests of the sheet's section 16 that need more than the
provider's own files. The numbers are the sheet's; the others are in tests/providers/."""

import base64
import struct
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from kit.gateway import CHAIN, RunningGateway, running_gateway
from kit.walk import MODELS, UPSTREAMS, chat, chat_stream, forget, open_chat, post, record_of, until

from xrouter.sandbox.credentials import SANDBOX_YANDEX_API_KEY
from xrouter.sandbox.running import Sandbox, running_sandbox
from xrouter.wire import decode_json

NATIVE, COMPATIBLE = "yandexgpt/pro", "qwen/qwen3"


@pytest.fixture(scope="module")
def running() -> Iterator[Sandbox]:
    with running_sandbox() as sandbox:
        yield sandbox


@pytest.fixture
def sandbox(running: Sandbox) -> Sandbox:
    return forget(running)


@pytest.fixture(scope="module")
def gateway(running: Sandbox, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    folder = tmp_path_factory.mktemp("gateway")
    with running_gateway(UPSTREAMS + MODELS + CHAIN, running.environ, folder) as gateway:
        yield gateway


def generations(sandbox: Sandbox) -> int:
    return sum(gauge.now for name, gauge in sandbox.state.generations.items() if name.startswith("yandex"))


def test_yandexgpt_16_25_requests_share_10_places(sandbox: Sandbox, gateway: RunningGateway) -> None:
    with ThreadPoolExecutor(25) as pool:
        asked = [pool.submit(chat_stream, gateway, NATIVE, f"[[emu:drip=0.01]] вопрос {n}") for n in range(25)]
        streams = [each.result() for each in asked]
    assert all(stream.finish == ["stop"] for stream in streams)
    assert sandbox.state.statuses["yandex 429"] == 0
    assert max(gauge.peak for gauge in sandbox.state.generations.values()) <= 10


@pytest.mark.parametrize("model", [NATIVE, COMPATIBLE])
def test_yandexgpt_16_a_client_that_leaves_frees_its_place(
    sandbox: Sandbox, gateway: RunningGateway, model: str
) -> None:
    with open_chat(gateway, model, "[[emu:long=3000,drip=0.05]] Расскажи") as response:
        pieces = response.iter_bytes()  # kept: an iterator that is dropped closes the connection
        next(pieces)
        assert generations(sandbox) == 1
    assert until(lambda: generations(sandbox) == 0) < 1
    assert sandbox.state.aborted["yandex"] == 1


@pytest.mark.parametrize("model", [NATIVE, COMPATIBLE])
def test_yandexgpt_17_429_and_503_are_tried_again(sandbox: Sandbox, gateway: RunningGateway, model: str) -> None:
    sandbox.state.choose("429,retry-after=1", provider="yandex")
    sandbox.state.choose("503", provider="yandex")
    answer = chat(gateway, model, "Привет")
    assert answer.status_code == 200
    first, second, third = sandbox.state.requests_of("yandex")
    assert second.at - first.at >= 1
    assert 0.5 <= third.at - second.at < 2
    assert [attempt["status"] for attempt in record_of(gateway, answer)["attempts"]] == [429, 503, 200]


@pytest.mark.parametrize("model", [NATIVE, COMPATIBLE])
def test_yandexgpt_17_nothing_is_tried_again_after_the_first_byte(
    sandbox: Sandbox, gateway: RunningGateway, model: str
) -> None:
    stream = chat_stream(gateway, model, "[[emu:cut=2]] Расскажи подробно о Перу")
    assert stream.finish == ["error"]
    assert stream.error is not None
    assert stream.text
    assert not stream.done
    assert sandbox.state.count("yandex") == 1


@pytest.mark.parametrize("scenario", ["", "upper", "empty-choices", "no-usage", "split=byte"])
@pytest.mark.parametrize("asks", [False, True])
def test_yandexgpt_26_usage_to_the_client_if_asked_to_the_log_always(
    sandbox: Sandbox, gateway: RunningGateway, scenario: str, asks: bool
) -> None:
    sandbox.state.choose(scenario or "latency=0", provider="yandex")
    fields: dict[str, Any] = {"stream_options": {"include_usage": True}} if asks else {}
    stream = chat_stream(gateway, COMPATIBLE, "Столица Перу?", **fields)
    assert stream.done
    assert stream.finish == ["stop"]
    assert stream.events[0]["choices"][0]["delta"]["role"] == "assistant"
    assert stream.text
    record = record_of(gateway, stream)
    assert record["usage_source"] == ("counted" if scenario == "no-usage" else "reported")
    assert record["output_tokens"] > 0
    assert (stream.usage is not None) == asks
    if stream.usage is not None:
        assert stream.usage["completion_tokens"] == record["output_tokens"]
    assert "stream_options" not in decode_json(sandbox.state.last("yandex").body)


def test_yandexgpt_28_the_client_sees_the_name_that_it_asked_for(sandbox: Sandbox, gateway: RunningGateway) -> None:
    """Yandex says `latest`, or a URI with the folder."""
    for name in ("yandexgpt", "yandexgpt/pro:latest", "yandexgpt/pro:rc", COMPATIBLE):
        answer = chat(gateway, name, "Привет")
        assert answer.json()["model"] == name
        assert "b1gsandbox" not in answer.text
        stream = chat_stream(gateway, name, "Привет")
        assert {event["model"] for event in stream.events} == {name}
        assert b"b1gsandbox" not in stream.body
    record = record_of(gateway, chat(gateway, "yandexgpt/pro:rc", "Привет"))
    assert record["model"] == "yandexgpt/pro:rc"
    assert decode_json(sandbox.state.last("yandex").body)["modelUri"] == "gpt://b1gsandbox/yandexgpt/rc"


def test_yandexgpt_32_twenty_inputs_are_twenty_calls(sandbox: Sandbox, gateway: RunningGateway) -> None:
    texts = [f"текст номер {number}" for number in range(20)]
    body = post(gateway, "/v1/embeddings", model="yandex/doc", input=texts).json()
    calls = sandbox.state.requests_of("yandex", "/textEmbedding")
    assert [decode_json(call.body)["text"] for call in calls] == texts
    times = [call.at for call in calls]
    assert all(later - earlier >= 0.9 for earlier, later in zip(times, times[10:], strict=False))
    assert sandbox.state.statuses["yandex 429"] == 0
    assert [item["index"] for item in body["data"]] == list(range(20))
    assert len({tuple(item["embedding"]) for item in body["data"]}) == 20
    assert body["usage"]["prompt_tokens"] == body["usage"]["total_tokens"] > 20


def test_yandexgpt_32_base64_and_one_failure(sandbox: Sandbox, gateway: RunningGateway) -> None:
    body = post(gateway, "/v1/embeddings", model="yandex/doc", input="кошка").json()
    numbers = body["data"][0]["embedding"]
    packed = post(gateway, "/v1/embeddings", model="yandex/doc", input="кошка", encoding_format="base64").json()
    raw = base64.b64decode(packed["data"][0]["embedding"], validate=True)
    assert struct.unpack(f"<{len(numbers)}f", raw) == pytest.approx(numbers, rel=1e-6)
    sandbox.state.choose("400", provider="yandex", path="/textEmbedding")
    refused = post(gateway, "/v1/embeddings", model="yandex/doc", input=["кошка", "собака"])
    assert refused.status_code == 400


@pytest.mark.parametrize("model", [NATIVE, COMPATIBLE])
def test_yandexgpt_35_what_every_call_carries(sandbox: Sandbox, gateway: RunningGateway, model: str) -> None:
    answer = chat(gateway, model, "Привет")
    sent = sandbox.state.last("yandex").headers
    assert sent["x-data-logging-enabled"] == "false"
    assert sent["x-client-request-id"]
    record = record_of(gateway, answer)
    assert record["upstream_id"]
    assert record["request_id"] == answer.headers["x-request-id"]
    assert SANDBOX_YANDEX_API_KEY not in gateway.log.text.decode()


def test_yandexgpt_36_models_by_short_names(sandbox: Sandbox, gateway: RunningGateway) -> None:
    """The list is the configuration's: branches as suffixes, no folder anywhere."""
    answer = gateway.client.get("/v1/models")
    ids = {model["id"] for model in answer.json()["data"]}
    assert {"yandexgpt/pro", "yandexgpt/pro:rc", "yandexgpt/pro:latest", "yandexgpt", "yandexgpt:rc"} <= ids
    assert "b1gsandbox" not in answer.text
    assert "gpt://" not in answer.text
