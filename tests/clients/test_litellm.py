"""LiteLLM as a client, by both of its ways: as an OpenAI-compatible server and as OpenRouter."""

import os
from typing import Any

import pytest
from kit.gateway import RunningGateway

# LiteLLM warns of its own internals (pydantic, asyncio) as it goes; its answers are what is tested.
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def litellm() -> Any:
    os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # or it fetches its price list from the network when imported
    import litellm

    litellm.suppress_debug_info = True
    litellm.telemetry = False
    return litellm


QUESTION: Any = [{"role": "user", "content": "повтори: раз, два, три"}]
WAYS = ["openai/{}", "openrouter/{}"]


def where(gateway: RunningGateway, way: str) -> dict[str, Any]:
    prefix = "/api/v1" if way.startswith("openrouter") else "/v1"
    return {"api_base": gateway.url + prefix, "api_key": gateway.key, "num_retries": 0}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("model", ["gigachat/max", "yandexgpt/pro", "local/large"])
def test_completion_and_stream(litellm: Any, gateway: RunningGateway, way: str, model: str) -> None:
    ask = {"model": way.format(model), "messages": QUESTION, **where(gateway, way)}
    whole = litellm.completion(**ask)
    assert "раз, два, три" in whole.choices[0].message.content
    assert whole.usage.total_tokens > 0
    chunks = list(litellm.completion(**ask, stream=True, stream_options={"include_usage": True}))
    assert (
        "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
        == whole.choices[0].message.content
    )
    usage = [chunk.usage for chunk in chunks if getattr(chunk, "usage", None)]
    assert usage[-1].total_tokens == whole.usage.total_tokens


async def test_asynchronously(litellm: Any, gateway: RunningGateway) -> None:
    answer = await litellm.acompletion(model="openai/gigachat/max", messages=QUESTION, **where(gateway, "openai/{}"))
    assert answer.choices[0].message.content


def test_tools(litellm: Any, gateway: RunningGateway) -> None:
    weather = {
        "name": "get_weather",
        "description": "Погода в городе",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    }
    answer = litellm.completion(
        model="openai/gigachat/max",
        messages=[{"role": "user", "content": "Какая погода в Омске?"}],
        tools=[{"type": "function", "function": weather}],
        **where(gateway, "openai/{}"),
    )
    assert answer.choices[0].finish_reason == "tool_calls"
    assert answer.choices[0].message.tool_calls[0].function.name == "get_weather"


@pytest.mark.parametrize("model", ["gigachat/embeddings", "yandex/doc", "local/embedding"])
def test_embeddings(litellm: Any, gateway: RunningGateway, model: str) -> None:
    answer = litellm.embedding(model="openai/" + model, input=["кошка", "собака"], **where(gateway, "openai/{}"))
    assert len(answer.data) == 2
    assert answer.usage.prompt_tokens > 0


def test_errors(litellm: Any, gateway: RunningGateway) -> None:
    with pytest.raises(litellm.NotFoundError):
        litellm.completion(model="openai/no/such", messages=QUESTION, **where(gateway, "openai/{}"))
    with pytest.raises(litellm.AuthenticationError):
        litellm.completion(
            model="openai/local/large", messages=QUESTION, api_base=gateway.base_url, api_key="xr-default-wrong"
        )
