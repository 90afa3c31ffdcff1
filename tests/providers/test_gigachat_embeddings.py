"""Embeddings, models and token counts; numbers are those of the sheet's section 15."""

import json
from typing import Any

import pytest
from gigachat_kit import BASE_URL, JSON, answer, dumps, provider, sent, settings, translator
from hypothesis import given
from hypothesis import strategies as st

from xrouter.context import Target
from xrouter.errors import BadRequest, UpstreamError, UpstreamProtocolError, XRouterError
from xrouter.events import Embedding, Usage


def embeddings(*items: tuple[int, list[float], int | None]) -> bytes:
    data = [
        {"object": "embedding", "index": index, "embedding": vector}
        | ({"usage": {"prompt_tokens": tokens}} if tokens is not None else {})
        for index, vector, tokens in items
    ]
    return dumps({"object": "list", "model": "Embeddings", "data": data})


def test_gigachat_29_three_vectors_in_order_and_their_usage() -> None:
    made = translator(kind="embeddings", input=["a", "b", "c"])
    request = sent(made)
    assert request.url == f"{BASE_URL}/embeddings"
    assert json.loads(request.body) == {"model": "GigaChat-2", "input": ["a", "b", "c"]}
    made.started(200, JSON)
    body = embeddings((2, [3, -1.8], 4), (0, [0.5, 1e-9], 2), (1, [2, 2], 3))
    for at in range(len(body)):
        assert made.feed(body[at : at + 1]) == ()
    assert made.finish() == [Embedding(0, [0.5, 1e-9]), Embedding(1, [2, 2]), Embedding(2, [3, -1.8])]
    assert made.usage == Usage(input_tokens=9, output_tokens=0)
    assert made.upstream_model == "Embeddings"


def test_one_text_is_a_list_of_one() -> None:
    assert json.loads(sent(translator(kind="embeddings", input="a")).body)["input"] == ["a"]


@pytest.mark.parametrize("body", [{"input": [1, 2]}, {"input": [[1, 2]]}, {"input": "a", "dimensions": 256}])
def test_what_it_cannot_embed(body: dict[str, Any]) -> None:
    with pytest.raises(BadRequest):
        sent(translator(kind="embeddings", **body))


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>",
        b"{}",
        embeddings(),
        embeddings((0, [1], 1), (1, [1], 1)),
        embeddings((1, [1], 1)),
        embeddings((0, [1], 1)).replace(b"[1]", b'["x"]'),
        dumps({"status": 500, "message": "Internal Server Error"}),
    ],
)
def test_vectors_that_are_none(body: bytes) -> None:
    made = translator(kind="embeddings", input="a")
    sent(made)
    made.feed(body)
    with pytest.raises(UpstreamProtocolError):
        made.finish()


def test_usage_that_is_missing_is_unknown() -> None:
    made = translator(kind="embeddings", input="a")
    sent(made)
    made.feed(embeddings((0, [1.5], None)))
    assert made.finish() == [Embedding(0, [1.5])]
    assert made.usage is None


def test_an_error_of_embeddings() -> None:
    made = translator(kind="embeddings", input="a")
    assert made.error(answer(404, {"status": 404, "message": "No such model"})).status == 404


@given(st.binary(max_size=200))
def test_garbage_is_only_ever_our_own_error(data: bytes) -> None:
    made = translator(kind="embeddings", input="a")
    sent(made)
    made.feed(data)
    with pytest.raises(XRouterError):
        made.finish()


def test_gigachat_30_models_are_those_that_chat_or_embed() -> None:
    giga = provider()
    request = giga.list_models()
    assert (request.method, request.url) == ("GET", f"{BASE_URL}/models")
    listed = [("GigaChat-2", "chat"), ("Embeddings", "embedder"), ("GigaFilter", "filter"), ("GigaCheck", "aicheck")]
    data = [{"id": name, "object": "model", "owned_by": "salutedevices", "type": kind} for name, kind in listed]
    assert giga.read_models(answer(200, {"object": "list", "data": data})) == ["GigaChat-2", "Embeddings"]
    with pytest.raises(UpstreamError):
        giga.read_models(answer(503, b"<html>"))
    with pytest.raises(UpstreamProtocolError):
        giga.read_models(answer(200, b"<html>"))


def test_token_counts() -> None:
    giga = provider()
    request = giga.count_tokens(["Первый", "Второй"], "GigaChat-2")
    assert request.url == f"{BASE_URL}/tokens/count"
    assert json.loads(request.body) == {"model": "GigaChat-2", "input": ["Первый", "Второй"]}
    counted = [{"object": "tokens", "tokens": tokens, "characters": 6} for tokens in (2, 3)]
    assert giga.read_token_counts(answer(200, counted)) == [2, 3]
    with pytest.raises(UpstreamProtocolError):
        giga.read_token_counts(answer(200, {"tokens": 1}))


def test_parameters_follow_the_model() -> None:
    giga, target = provider(), Target("giga", "GigaChat-2", "gigachat/lite")
    plain = giga.parameters(settings(), target)
    assert plain >= {
        "tools",
        "tool_choice",
        "temperature",
        "stop",
        "response_format",
        "structured_outputs",
        "max_tokens",
    }
    assert not plain & {"reasoning", "seed", "logprobs", "n", "logit_bias"}
    assert "tools" not in giga.parameters(settings(tools=False), target)
    assert "reasoning" in giga.parameters(settings(reasoning=True), target)
    assert "stop" not in provider(strict=True).parameters(settings(), target)
    assert giga.parameters(settings(kind="embedding"), target) == {"encoding_format"}
