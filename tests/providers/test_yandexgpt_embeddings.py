"""Embeddings on both surfaces. Numbers are those of the sheet's section 16."""

import json
from typing import Any

import pytest
from yandexgpt_kit import FOLDER, answer, dumps, header, settings, translator

from xrouter.errors import BadRequest, UpstreamError, UpstreamProtocolError
from xrouter.events import Embedding, Event, Usage
from xrouter.providers.base import Translator
from xrouter.upstream.base import UpstreamAnswer, UpstreamRequest

TEXTS = [f"текст {index}" for index in range(20)]


def embedding(model: str = "text-search-doc", surface: str | None = None, **body: Any) -> Translator:
    return translator(model, surface, kind="embeddings", facts=settings(kind="embedding"), **body)


def native(vector: list[float], tokens: Any = "14") -> UpstreamAnswer:
    counted = {} if tokens is None else {"numTokens": tokens}
    return answer(200, {"embedding": vector, **counted, "modelVersion": "06.12.2023"})


def compatible(vector: list[float], tokens: int = 14) -> UpstreamAnswer:
    data = [{"object": "embedding", "index": 0, "embedding": vector}]
    return answer(200, {"object": "list", "data": data, "model": "x", "usage": {"prompt_tokens": tokens}})


def run(translator: Translator, answers: list[UpstreamAnswer]) -> tuple[list[UpstreamRequest], list[Event]]:
    """Answer every request in turn: the yielded ones whole, the returned one in pieces."""
    exchange = translator.exchange()
    requests: list[UpstreamRequest] = []
    try:
        requests.append(next(exchange))
        for each in answers:
            requests.append(exchange.send(each))
    except StopIteration as end:
        requests.append(end.value)
    last = answers[len(requests) - 1]
    translator.started(last.status, last.headers)
    events = [event for byte in last.body for event in translator.feed(bytes([byte]))]
    return requests, [*events, *translator.finish()]


@pytest.mark.parametrize(("surface", "form"), [(None, native), ("openai", compatible)])
def test_yandexgpt_32_twenty_inputs_are_twenty_paced_calls_in_order(surface: str | None, form: Any) -> None:
    made = embedding(surface=surface, input=TEXTS)
    requests, events = run(made, [form([float(index), 0.5], index + 1) for index in range(20)])
    assert events == [Embedding(index, [float(index), 0.5]) for index in range(20)]
    assert made.usage == Usage(sum(range(1, 21)), 0)
    assert len(requests) == 20
    [(kind, calls_per_s)] = {request.pace for request in requests if request.pace}
    assert kind == "embeddings"
    assert 5 <= calls_per_s < 10
    assert all(request.idempotent for request in requests)
    assert len({header(request, b"x-client-request-id") for request in requests}) == 20
    key = "text" if surface is None else "input"
    assert [json.loads(request.body)[key] for request in requests] == TEXTS


def test_yandexgpt_32_the_requests_of_both_surfaces() -> None:
    [request], _ = run(embedding(input="текст", dimensions=256), [native([1])])
    assert request.url == "https://yandex.test/foundationModels/v1/textEmbedding"
    assert json.loads(request.body) == {
        "modelUri": f"emb://{FOLDER}/text-search-doc/latest",
        "text": "текст",
        "dim": "256",
    }
    [request], _ = run(embedding(surface="openai", input=["текст"], dimensions=256), [compatible([1])])
    assert request.url == "https://yandex.test/v1/embeddings"
    assert json.loads(request.body) == {
        "model": f"emb://{FOLDER}/text-search-doc/latest",
        "input": "текст",
        "encoding_format": "float",
        "dimensions": 256,
    }


@pytest.mark.parametrize("bad", [answer(429, b""), answer(500, b"<html>"), answer(200, b"{}"), answer(200, b"<html>")])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_yandexgpt_32_one_failure_fails_the_request(bad: UpstreamAnswer, place: int) -> None:
    answers = [native([1.0])] * 3
    answers[place] = bad
    if place == 2 and bad.status != 200:
        return  # the last answer's status is read by whoever sends it, through `error`
    with pytest.raises(UpstreamError):
        run(embedding(input=["а", "б", "в"]), answers)


@pytest.mark.parametrize(
    ("model", "input_type", "asked"),
    [
        ("text-search-doc", None, "text-search-doc"),
        ("text-search-doc", "query", "text-search-query"),
        ("text-search-doc", "search_query", "text-search-query"),
        ("text-search-query", "search_document", "text-search-doc"),
        ("text-search-query", "query", "text-search-query"),
        ("text-embeddings-v2-doc", "query", "text-embeddings-v2-query"),
        ("text-search-doc", "clustering", "text-search-doc"),
        ("text-embeddings", "query", "text-embeddings"),
    ],
)
def test_the_input_type_chooses_between_the_twins(model: str, input_type: str | None, asked: str) -> None:
    [request], _ = run(embedding(model, input="x", input_type=input_type), [native([1])])
    assert json.loads(request.body)["modelUri"] == f"emb://{FOLDER}/{asked}/latest"


@pytest.mark.parametrize("inputs", ["", ["а", ""], [1, 2], [[1, 2], [3]], ["а", [1]]])
def test_what_is_no_text_is_refused(inputs: Any) -> None:
    with pytest.raises(BadRequest):
        next(embedding(input=inputs).exchange())


@pytest.mark.parametrize("tokens", [None, "-1"])
def test_an_unsaid_count_leaves_the_usage_unknown(tokens: str | None) -> None:
    made = embedding(input=["а", "б"])
    run(made, [native([1], tokens), native([1])])
    assert made.usage is None


@pytest.mark.parametrize(
    "body",
    [b"", b"<html>", b"{}", b"[]", b'{"embedding":[]}', b'{"embedding":["nan"]}', b'{"embedding":["x"]}', b'{"data":[{}]}',
     b'{"embedding":[1e400]}', b"[" * 5000],
)  # fmt: skip
def test_garbage_is_a_protocol_error(body: bytes) -> None:
    with pytest.raises(UpstreamProtocolError):
        run(embedding(input="x"), [UpstreamAnswer(200, (), body)])


def test_an_error_under_status_200_is_an_error() -> None:
    body = dumps({"error": {"grpcCode": 14, "httpCode": 503, "message": "unavailable"}})
    with pytest.raises(UpstreamError) as raised:
        run(embedding(input="x"), [UpstreamAnswer(200, (), body)])
    assert raised.value.status == 503


def test_an_endless_answer_is_cut_off() -> None:
    with pytest.raises(UpstreamProtocolError, match="too long"):
        embedding(input="x").feed(b" " * 3_000_000)
