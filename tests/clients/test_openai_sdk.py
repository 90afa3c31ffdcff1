"""OpenAI's own SDK, pointed at the gateway: what most clients are built on."""

import struct
from collections.abc import AsyncIterator, Iterator
from typing import Any

import openai
import pytest
from kit.gateway import RunningGateway
from openai import AsyncOpenAI, OpenAI
from pydantic import BaseModel

from xrouter.sandbox.running import Sandbox

CHAT_MODELS = ["gigachat/max", "yandexgpt/pro", "qwen/qwen3", "local/large"]
EMBEDDING_MODELS = ["gigachat/embeddings", "yandex/doc", "local/embedding"]
WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Погода в городе",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
QUESTION: Any = [{"role": "user", "content": "Какая погода в Омске?"}]


@pytest.fixture
def client(gateway: RunningGateway) -> Iterator[OpenAI]:
    with OpenAI(base_url=gateway.base_url, api_key=gateway.key, max_retries=0) as client:
        yield client


@pytest.fixture
async def async_client(gateway: RunningGateway) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(base_url=gateway.base_url, api_key=gateway.key, max_retries=0) as client:
        yield client


@pytest.mark.parametrize("model", CHAT_MODELS)
def test_a_chat(client: OpenAI, model: str) -> None:
    answer = client.chat.completions.create(model=model, messages=[{"role": "user", "content": "Столица Перу?"}])
    assert answer.model == model
    assert answer.id.startswith("gen-")
    assert answer.choices[0].message.content
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


@pytest.mark.parametrize("model", CHAT_MODELS)
def test_a_stream(client: OpenAI, model: str) -> None:
    """The same words as without a stream, and usage because it is asked for."""
    ask: dict[str, Any] = {"model": model, "messages": [{"role": "user", "content": "повтори: раз, два, три"}]}
    whole = client.chat.completions.create(**ask)
    chunks = list(client.chat.completions.create(**ask, stream=True, stream_options={"include_usage": True}))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "stop"
    assert chunks[-1].usage
    assert whole.usage
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens
    assert {chunk.id for chunk in chunks} == {chunks[0].id}


@pytest.mark.parametrize("model", CHAT_MODELS)
async def test_both_asynchronously(async_client: AsyncOpenAI, model: str) -> None:
    ask: dict[str, Any] = {"model": model, "messages": [{"role": "user", "content": "повтори: раз, два, три"}]}
    whole = await async_client.chat.completions.create(**ask)
    async with async_client.chat.completions.stream(**ask) as stream:
        async for _ in stream:
            pass
        final = await stream.get_final_completion()
    assert final.choices[0].message.content == whole.choices[0].message.content


@pytest.mark.parametrize("model", CHAT_MODELS)
@pytest.mark.parametrize("stream", [False, True])
def test_a_tool_is_called_and_its_result_is_used(client: OpenAI, model: str, stream: bool) -> None:
    ask: dict[str, Any] = {"model": model, "tools": [WEATHER]}
    if stream:
        with client.chat.completions.stream(**ask, messages=QUESTION) as events:
            choice = events.get_final_completion().choices[0]
    else:
        choice = client.chat.completions.create(**ask, messages=QUESTION).choices[0]
    assert choice.finish_reason == "tool_calls"
    assert choice.message.tool_calls
    call = choice.message.tool_calls[0]
    assert call.function.name == "get_weather"
    assert "Омск" in call.function.arguments
    history = [
        *QUESTION,
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [
                {
                    "id": call.id,
                    "type": "function",
                    "function": {"name": call.function.name, "arguments": call.function.arguments},
                }
            ],
        },
        {"role": "tool", "tool_call_id": call.id, "content": "+17°, дождь"},
    ]
    after = client.chat.completions.create(**ask, messages=history)
    assert "17" in (after.choices[0].message.content or "")


class City(BaseModel):
    city: str
    people: int


@pytest.mark.parametrize("model", CHAT_MODELS)
def test_structured_output(client: OpenAI, model: str) -> None:
    parsed = client.chat.completions.parse(model=model, messages=QUESTION, response_format=City)
    assert isinstance(parsed.choices[0].message.parsed, City)


@pytest.mark.parametrize("model", EMBEDDING_MODELS)
def test_embeddings_come_as_base64_unless_asked_otherwise(client: OpenAI, model: str) -> None:
    """The SDK asks for base64 by itself and unpacks it."""
    default = client.embeddings.create(model=model, input=["кошка", "собака"])
    floats = client.embeddings.create(model=model, input=["кошка", "собака"], encoding_format="float")
    assert [item.index for item in default.data] == [0, 1]
    for packed, plain in zip(default.data, floats.data, strict=True):
        assert packed.embedding == pytest.approx(plain.embedding, rel=1e-6)
    raw: Any = client.embeddings.with_raw_response.create(model=model, input="x", encoding_format="base64")
    assert isinstance(raw.http_response.json()["data"][0]["embedding"], str)
    assert default.usage.prompt_tokens == default.usage.total_tokens > 0
    assert struct.calcsize("<f") == 4


def test_completions(client: OpenAI) -> None:
    ask: dict[str, Any] = {"model": "local/large", "prompt": "Столица Перу — это", "max_tokens": 20}
    whole = client.completions.create(**ask)
    assert whole.object == "text_completion"
    assert whole.choices[0].text
    chunks = list(client.completions.create(**ask, stream=True))
    assert "".join(chunk.choices[0].text for chunk in chunks if chunk.choices) == whole.choices[0].text
    assert {chunk.id for chunk in chunks} == {chunks[0].id}


@pytest.mark.parametrize("model", ["gigachat/max", "yandexgpt/pro"])
def test_completions_of_models_that_only_chat(client: OpenAI, model: str) -> None:
    """A prompt is a conversation of one message to them."""
    answer = client.completions.create(model=model, prompt="Столица Перу?")
    assert answer.choices[0].text
    chunks = list(client.completions.create(model=model, prompt="Столица Перу?", stream=True))
    assert "".join(chunk.choices[0].text for chunk in chunks) == answer.choices[0].text


def test_models(client: OpenAI) -> None:
    models = list(client.models.list())
    assert {"gigachat/max", "yandexgpt/pro:rc", "local/large"} <= {model.id for model in models}
    assert all(model.object == "model" and model.owned_by for model in models)
    assert client.models.retrieve("gigachat-max").id == "gigachat-max"
    assert client.models.retrieve("gigachat/max").id == "gigachat/max"


def test_errors_are_the_sdks_own(client: OpenAI, gateway: RunningGateway, sandbox: Sandbox) -> None:
    ask: dict[str, Any] = {"messages": [{"role": "user", "content": "x"}]}
    with pytest.raises(openai.NotFoundError) as unknown:
        client.chat.completions.create(model="no/such", **ask)
    assert unknown.value.param == "model"
    assert unknown.value.type == "model_not_found"
    assert unknown.value.request_id
    with pytest.raises(openai.BadRequestError) as wrong:
        client.chat.completions.create(model="local/large", temperature=9, **ask)
    assert wrong.value.param == "temperature"
    with pytest.raises(openai.AuthenticationError):
        client.with_options(api_key="xr-default-wrong").chat.completions.create(model="local/large", **ask)
    sandbox.state.choose("503", times=9)
    with pytest.raises(openai.InternalServerError):
        client.chat.completions.create(model="local/large", extra_body={"provider": {"only": ["local"]}}, **ask)


def test_an_error_inside_a_stream_is_raised(client: OpenAI) -> None:
    ask: Any = [{"role": "user", "content": "[[emu:cut=4]] расскажи о Перу"}]
    text: list[str] = []
    with (
        pytest.raises(openai.APIError, match="upstream"),
        client.chat.completions.create(model="gigachat/max", messages=ask, stream=True) as chunks,
    ):
        text.extend(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert "".join(text)


def test_leaving_a_stream_early(client: OpenAI, sandbox: Sandbox) -> None:
    ask: Any = [{"role": "user", "content": "[[emu:long=2000,drip=0.02]] расскажи"}]
    with client.chat.completions.create(model="gigachat/max", messages=ask, stream=True) as stream:
        next(iter(stream))
    assert client.chat.completions.create(model="gigachat/max", messages=QUESTION).choices
    assert sandbox.state.aborted["gigachat"] == 1
