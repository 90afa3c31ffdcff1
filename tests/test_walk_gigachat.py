"""GigaChat through the whole gateway, against the sandbox: the tests of the sheet's section 15 that need more than the
provider's own files. The numbers are the sheet's; the others are in tests/providers/."""

import base64
import struct
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import pytest
from kit.gateway import CHAIN, RunningGateway, new_key, running_gateway
from kit.walk import MODELS, UPSTREAMS, chat, chat_stream, forget, open_chat, post, record_of, until, user

from xrouter.sandbox.running import Sandbox, running_sandbox
from xrouter.wire import decode_json

HOLDER = "gigachat sandbox-client"


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


def test_gigachat_07_the_client_gets_valid_objects_with_one_id(sandbox: Sandbox, gateway: RunningGateway) -> None:
    """GigaChat gives its answers no id and its chunks an `object` of its own."""
    whole = chat(gateway, "gigachat/max", "Столица Перу?")
    body = whole.json()
    assert body["object"] == "chat.completion"
    assert body["id"] == whole.headers["x-generation-id"]
    assert body["created"] > 1_700_000_000
    stream = chat_stream(gateway, "gigachat/max", "Столица Перу?")
    assert {event["object"] for event in stream.events} == {"chat.completion.chunk"}
    assert {event["id"] for event in stream.events} == {stream.headers["x-generation-id"]}
    assert len({event["created"] for event in stream.events}) == 1
    assert {event["model"] for event in stream.events} == {"gigachat/max"}


def test_gigachat_09_a_cut_stream_ends_with_an_error_event(sandbox: Sandbox, gateway: RunningGateway) -> None:
    stream = chat_stream(gateway, "gigachat/max", "[[emu:cut=3]] Расскажи подробно о Перу")
    assert stream.finish == ["error"]
    assert stream.error is not None
    assert stream.error["code"] == 502
    assert not stream.done
    assert stream.text
    record = record_of(gateway, stream)
    assert record["outcome"] == "upstream_error"
    assert record["output_tokens"] > 0
    assert record["usage_source"] == "counted"
    assert sandbox.state.generations[HOLDER].now == 0
    assert chat(gateway, "gigachat/max", "Привет").status_code == 200, "the one place is free again"


@pytest.mark.parametrize(
    ("prefix", "fields", "told"),
    [
        ("/v1", {}, False),
        ("/v1", {"stream_options": {"include_usage": False}}, False),
        ("/v1", {"stream_options": {"include_usage": True}}, True),
        ("/v1", {"usage": {"include": True}}, True),
        ("/api/v1", {}, True),
    ],
)
def test_gigachat_10_usage_in_streams_where_it_is_asked_for(
    sandbox: Sandbox, gateway: RunningGateway, prefix: str, fields: dict[str, object], told: bool
) -> None:
    stream = chat_stream(gateway, "gigachat/max", "Столица Перу?", prefix=prefix, **fields)
    record = record_of(gateway, stream)
    assert record["usage_source"] == "reported"
    assert record["input_tokens"] > 0
    assert record["output_tokens"] > 0
    assert stream.done
    assert (stream.usage is not None) == told
    if stream.usage is not None:
        assert stream.events[-1]["choices"] == []
        assert stream.usage["prompt_tokens"] == record["input_tokens"]
        assert stream.usage["completion_tokens"] == record["output_tokens"]
        assert stream.usage["total_tokens"] == record["input_tokens"] + record["output_tokens"]


def test_gigachat_11_cached_tokens_are_part_of_the_prompt(sandbox: Sandbox, gateway: RunningGateway) -> None:
    """GigaChat's `prompt_tokens` are net of the cached ones, OpenAI's are gross."""
    first = chat(gateway, "gigachat/max", "Назови столицу Перу одним словом").json()["usage"]
    assert first["prompt_tokens_details"] == {"cached_tokens": 0}
    again = chat(gateway, "gigachat/max", "Назови столицу Перу одним словом")
    usage = again.json()["usage"]
    cached = usage["prompt_tokens_details"]["cached_tokens"]
    assert 0 < cached < usage["prompt_tokens"] == first["prompt_tokens"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    assert record_of(gateway, again)["cached_tokens"] == cached


def test_gigachat_24_429_is_waited_out(sandbox: Sandbox, gateway: RunningGateway) -> None:
    sandbox.state.choose("429,retry-after=1", times=2, provider="gigachat", path="/chat/completions")
    answer = chat(gateway, "gigachat/max", "Привет")
    assert answer.status_code == 200
    first, second, third = (request.at for request in sandbox.state.requests_of("gigachat", "/chat/completions"))
    assert second - first >= 1
    assert third - second >= 1
    record = record_of(gateway, answer)
    assert [attempt["status"] for attempt in record["attempts"]] == [429, 429, 200]


def test_gigachat_24_without_a_header_the_wait_grows(sandbox: Sandbox, gateway: RunningGateway) -> None:
    sandbox.state.choose("429", times=2, provider="gigachat", path="/chat/completions")
    assert chat(gateway, "gigachat/max", "Привет").status_code == 200
    first, second, third = (request.at for request in sandbox.state.requests_of("gigachat", "/chat/completions"))
    assert 0.25 <= second - first < 1
    assert 0.5 <= third - second < 2


def test_gigachat_24_the_deadline_is_kept(sandbox: Sandbox, tmp_path: Path) -> None:
    """A wait that the call's total time does not leave is not begun: the client is told how long to wait itself."""
    quick = UPSTREAMS.replace("    auth_url: ", "    timeouts: {total_s: 3}\n    auth_url: ")
    sandbox.state.choose("429,retry-after=7", times=9, provider="gigachat", path="/chat/completions")
    with running_gateway(quick + MODELS + CHAIN, sandbox.environ, tmp_path) as gateway:
        answer = chat(gateway, "gigachat/max", "Привет")
    assert answer.status_code == 429
    assert answer.headers["retry-after"] == "7"
    assert answer.json()["error"]["type"] == "rate_limit_exceeded"
    assert answer.elapsed.total_seconds() < 2
    assert sandbox.state.count("gigachat", "/chat/completions") == 1


def test_gigachat_25_a_second_stream_waits_for_the_first(sandbox: Sandbox, gateway: RunningGateway) -> None:
    with ThreadPoolExecutor(2) as pool:
        slow = [pool.submit(chat_stream, gateway, "gigachat/max", f"[[emu:drip=0.02]] вопрос {n}") for n in range(2)]
        streams = [each.result() for each in slow]
    assert all(stream.finish == ["stop"] for stream in streams)
    assert sandbox.state.statuses["gigachat 429"] == 0
    assert sandbox.state.generations[HOLDER].peak == 1


def test_gigachat_25_a_client_that_leaves_frees_the_place(sandbox: Sandbox, gateway: RunningGateway) -> None:
    with open_chat(gateway, "gigachat/max", "[[emu:long=3000,drip=0.05]] Расскажи") as response:
        pieces = response.iter_bytes()  # kept: an iterator that is dropped closes the connection
        first = next(pieces)
        assert sandbox.state.generations[HOLDER].now == 1, first
    assert until(lambda: sandbox.state.generations[HOLDER].now == 0) < 1
    assert sandbox.state.aborted["gigachat"] == 1
    answer = chat(gateway, "gigachat/max", "Привет")
    assert answer.status_code == 200
    assert answer.elapsed.total_seconds() < 1
    record = record_of(gateway, httpx2.Response(200, headers=response.headers))
    assert record["status"] == 499
    assert record["outcome"] == "client_abort"


def test_gigachat_26_402_moves_on_and_is_not_tried_again(sandbox: Sandbox, gateway: RunningGateway) -> None:
    sandbox.state.choose("402", provider="gigachat", path="/chat/completions")
    answer = chat(gateway, "both/gigachat-first", "Привет")
    assert answer.status_code == 200
    assert answer.headers["x-xrouter-upstream"] == "local"
    assert sandbox.state.count("gigachat", "/chat/completions") == 1


@pytest.mark.parametrize(
    ("scenario", "status", "kind", "calls"),
    [
        ("402", 402, "insufficient_quota", 1),
        ("413", 400, "context_length_exceeded", 1),
        ("422", 400, "invalid_request_error", 1),
    ],
)
def test_gigachat_26_what_its_errors_mean(
    sandbox: Sandbox, gateway: RunningGateway, scenario: str, status: int, kind: str, calls: int
) -> None:
    sandbox.state.choose(scenario, times=9, provider="gigachat", path="/chat/completions")
    answer = chat(gateway, "gigachat/max", "Привет")
    assert answer.status_code == status
    assert answer.json()["error"]["code"] == status
    assert answer.json()["error"]["type"] == kind
    assert sandbox.state.count("gigachat", "/chat/completions") == calls


def test_gigachat_26_422_says_what_is_wrong(sandbox: Sandbox, gateway: RunningGateway) -> None:
    sandbox.state.choose("422", provider="gigachat", path="/chat/completions")
    message = chat(gateway, "gigachat/max", "Привет").json()["error"]["message"]
    assert "param" in message.lower(), "GigaChat's own words, fit to show"


def test_gigachat_26_a_page_stays_outside(sandbox: Sandbox, gateway: RunningGateway) -> None:
    sandbox.state.choose("html403", times=9, provider="gigachat", path="/chat/completions")
    answer = chat(gateway, "gigachat/max", "Привет")
    assert answer.status_code == 502
    assert "<" not in answer.text
    assert "<html" not in gateway.log.text.decode()


def test_gigachat_27_an_html_answer_to_a_stream_is_502(sandbox: Sandbox, gateway: RunningGateway) -> None:
    sandbox.state.choose("content-type=text/html", times=9, provider="gigachat", path="/chat/completions")
    answer = chat(gateway, "gigachat/max", "Привет", stream=True)
    assert answer.status_code == 502
    assert answer.json()["error"]["type"] == "upstream_protocol_error"


def test_gigachat_29_embeddings_keep_their_order(sandbox: Sandbox, gateway: RunningGateway) -> None:
    texts = ["кошка", "собака и ещё несколько слов", "молоко"]
    body = post(gateway, "/v1/embeddings", model="gigachat/embeddings", input=texts).json()
    assert [item["index"] for item in body["data"]] == [0, 1, 2]
    alone = [post(gateway, "/v1/embeddings", model="gigachat/embeddings", input=text).json() for text in texts]
    assert [item["embedding"] for item in body["data"]] == [each["data"][0]["embedding"] for each in alone]
    assert body["usage"]["prompt_tokens"] == sum(each["usage"]["prompt_tokens"] for each in alone)
    assert body["model"] == "gigachat/embeddings"


def test_gigachat_29_base64_is_little_endian_float32(sandbox: Sandbox, gateway: RunningGateway) -> None:
    fields: dict[str, Any] = {"model": "gigachat/embeddings", "input": ["кошка"]}
    numbers = post(gateway, "/v1/embeddings", **fields).json()["data"][0]["embedding"]
    packed = post(gateway, "/v1/embeddings", **fields, encoding_format="base64").json()["data"][0]["embedding"]
    values = struct.unpack(f"<{len(numbers)}f", base64.b64decode(packed, validate=True))
    assert values == pytest.approx(numbers, rel=1e-6)


def test_gigachat_30_the_list_of_models_needs_no_upstream(sandbox: Sandbox, gateway: RunningGateway) -> None:
    """The list is the configuration's: chat and embedding models with their aliases, whatever the upstream says now."""
    sandbox.state.choose("500", times=9)
    body = gateway.client.get("/v1/models").json()
    ids = [model["id"] for model in body["data"]]
    assert {"gigachat/max", "gigachat-max", "gigachat/embeddings"} <= set(ids)
    assert len(ids) == len(set(ids))
    assert {tuple(model["architecture"]["output_modalities"]) for model in body["data"]} == {("text",), ("embeddings",)}
    assert sandbox.state.count("gigachat") == 0


def test_gigachat_31_sessions_are_never_shared_between_keys(sandbox: Sandbox, gateway: RunningGateway) -> None:
    other = {"Authorization": f"Bearer {new_key(gateway.store, name='other')}"}
    for headers in (None, None, other):
        fields = {"model": "gigachat/max", "messages": user("Привет"), "session_id": "беседа-1"}
        assert post(gateway, "/v1/chat/completions", headers=headers, **fields).status_code == 200
    seen = [request.headers for request in sandbox.state.requests_of("gigachat", "/chat/completions")]
    sessions = [headers["x-session-id"] for headers in seen]
    assert sessions[0] == sessions[1] != sessions[2]
    assert len({headers["x-request-id"] for headers in seen}) == 3


def test_nothing_but_the_call_is_sent(sandbox: Sandbox, gateway: RunningGateway) -> None:
    """OpenRouter's fields and the client's own headers stay here."""
    answer = post(
        gateway,
        "/api/v1/chat/completions",
        headers={"X-Title": "an app", "HTTP-Referer": "https://example.org"},
        model="gigachat-max",
        messages=user("Привет"),
        provider={"order": ["giga"]},
        models=["yandexgpt/pro"],
        user="user-17",
        temperature=0.3,
    )
    assert answer.status_code == 200
    assert answer.json()["model"] == "gigachat-max"
    sent = sandbox.state.last("gigachat", "/chat/completions")
    assert decode_json(sent.body)["model"] == "GigaChat-2-Max"
    assert set(decode_json(sent.body)) <= {"model", "messages", "temperature", "stream", "profanity_check"}
    assert not {"x-title", "http-referer", "x-forwarded-for"} & set(sent.headers)
    assert gateway.key not in str(sent.headers)
