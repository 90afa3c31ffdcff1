"""OpenRouter's own SDK for Python, which checks every answer against its schema and refuses what is not exactly right."""

from collections.abc import Iterator
from typing import Any

import pytest
from kit.gateway import RunningGateway
from openrouter import OpenRouter, errors

from xrouter.sandbox.running import Sandbox

CHAT_MODELS = ["gigachat/max", "yandexgpt/pro", "qwen/qwen3", "local/large"]
QUESTION: Any = [{"role": "user", "content": "Столица Перу?"}]


@pytest.fixture
def client(gateway: RunningGateway) -> Iterator[OpenRouter]:
    with OpenRouter(server_url=gateway.url + "/api/v1", api_key=gateway.key) as client:
        yield client


@pytest.mark.parametrize("model", CHAT_MODELS)
def test_a_chat(client: OpenRouter, model: str) -> None:
    answer = client.chat.send(model=model, messages=QUESTION)
    assert answer.model == model
    assert answer.choices[0].message.content
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage
    assert answer.usage.total_tokens > 0


@pytest.mark.parametrize(
    "scenario", ["latency=0", "tool=1", "length", "filter=1", "no-usage", "split=byte", "reasoning"]
)
@pytest.mark.parametrize("model", CHAT_MODELS)
def test_every_kind_of_stream(client: OpenRouter, sandbox: Sandbox, model: str, scenario: str) -> None:
    """Usage comes unasked here."""
    sandbox.state.choose(scenario, path="completions")
    sandbox.state.choose(scenario, path="completion")
    tool: Any = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}
    tools = [tool] if scenario == "tool=1" else None
    with client.chat.send(model=model, messages=QUESTION, stream=True, tools=tools) as stream:
        chunks = list(stream)
    assert chunks[-1].usage
    assert chunks[-1].usage.completion_tokens >= 0
    finish = [choice.finish_reason for chunk in chunks for choice in chunk.choices if choice.finish_reason]
    expected = {"length": "length", "filter=1": "content_filter", "tool=1": "tool_calls"}.get(scenario, "stop")
    assert finish == [expected]


async def test_asynchronously(gateway: RunningGateway) -> None:
    async with OpenRouter(server_url=gateway.url + "/api/v1", api_key=gateway.key) as client:
        whole = await client.chat.send_async(model="gigachat/max", messages=QUESTION)
        async with await client.chat.send_async(model="gigachat/max", messages=QUESTION, stream=True) as stream:
            text = "".join([chunk.choices[0].delta.content or "" async for chunk in stream if chunk.choices])
    assert text == whole.choices[0].message.content


def test_models_page_by_page(client: OpenRouter, gateway: RunningGateway) -> None:
    seen: list[str] = []
    page: Any = client.models.list(limit=5)
    pages = 0
    while page is not None:
        result = getattr(page, "result", page)
        seen += [model.id for model in result.data]
        pages += 1
        page = page.next()
    listed = [model["id"] for model in gateway.client.get("/api/v1/models").json()["data"]]
    assert seen == listed
    assert pages == -(-len(listed) // 5)


@pytest.mark.parametrize("model", [*CHAT_MODELS, "yandexgpt/pro:rc", "gigachat/embeddings"])
def test_a_model_and_its_endpoints(client: OpenRouter, model: str) -> None:
    author, _, slug = model.partition("/")
    described = client.models.get(author=author, slug=slug).data
    assert described.id == model
    endpoints = client.endpoints.list(author=author, slug=slug).data
    assert endpoints.id == model
    assert len(endpoints.endpoints) == 1
    assert endpoints.endpoints[0].provider_name in ("giga", "yandex", "local")


def test_counts_and_providers(client: OpenRouter) -> None:
    assert client.models.count().data.count > 5
    assert {provider.slug for provider in client.providers.list().data} == {"giga", "yandex", "local"}
    page: Any = client.embeddings.list_models()
    names = {model.id for model in page.result.data}
    assert names == {"gigachat/embeddings", "yandex/doc", "local/embedding"}


@pytest.mark.parametrize("model", ["gigachat/embeddings", "yandex/doc", "local/embedding"])
def test_embeddings(client: OpenRouter, model: str) -> None:
    answer: Any = client.embeddings.generate(model=model, input=["кошка", "собака"])
    assert [item.index for item in answer.data] == [0, 1]
    assert all(isinstance(item.embedding, list) for item in answer.data)
    packed: Any = client.embeddings.generate(model=model, input="кошка", encoding_format="base64")
    assert isinstance(packed.data[0].embedding, str)


def test_errors_are_the_sdks_own(client: OpenRouter, gateway: RunningGateway, sandbox: Sandbox) -> None:
    with pytest.raises(errors.NotFoundResponseError) as unknown:
        client.chat.send(model="no/such", messages=QUESTION)
    assert unknown.value.data.error.code == 404
    with pytest.raises(errors.BadRequestResponseError):
        client.chat.send(model="local/large", messages=QUESTION, temperature=9)
    with pytest.raises(errors.NotFoundResponseError):
        client.endpoints.list(author="no", slug="such")
    wrong = OpenRouter(server_url=gateway.url + "/api/v1", api_key="xr-default-wrong")
    with wrong, pytest.raises(errors.UnauthorizedResponseError):
        wrong.chat.send(model="local/large", messages=QUESTION)
    sandbox.state.choose("html502", times=9)
    with pytest.raises(errors.BadGatewayResponseError) as failed:
        client.chat.send(model="local/large", messages=QUESTION, retries=None)
    assert failed.value.data.error.metadata


def test_an_error_inside_a_stream_is_a_chunk(client: OpenRouter) -> None:
    ask: Any = [{"role": "user", "content": "[[emu:cut=4]] расскажи о Перу"}]
    with client.chat.send(model="gigachat/max", messages=ask, stream=True) as stream:
        chunks = list(stream)
    assert chunks[-1].error
    assert chunks[-1].error.code == 502
    assert chunks[-1].choices[0].finish_reason == "error"


def test_routing_fields_are_understood(client: OpenRouter, sandbox: Sandbox) -> None:
    answer = client.chat.send(
        model="no/such",
        models=["both/gigachat-first"],
        provider={"order": ["local"], "allow_fallbacks": False},
        messages=QUESTION,
        session_id="s-1",
        user="u-1",
        x_open_router_title="test",
    )
    assert answer.choices[0].message.content
    assert sandbox.state.count("openai") == 1
    assert sandbox.state.count("gigachat") == 0
