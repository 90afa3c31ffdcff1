"""LangChain's OpenAI classes, pointed at the gateway."""

from typing import Any

import pytest
from kit.gateway import RunningGateway
from langchain_core.messages import HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI, OpenAIEmbeddings
from pydantic import BaseModel, SecretStr

CHAT_MODELS = ["gigachat/max", "yandexgpt/pro", "local/large"]


def chat(gateway: RunningGateway, model: str, **fields: Any) -> ChatOpenAI:
    return ChatOpenAI(base_url=gateway.base_url, api_key=SecretStr(gateway.key), model=model, max_retries=0, **fields)


@tool
def get_weather(city: str) -> str:
    """Погода в городе."""
    return f"{city}: +17°, дождь"


class City(BaseModel):
    """A city and how many live there."""

    city: str
    people: int


@pytest.mark.parametrize("model", CHAT_MODELS)
def test_invoke_and_stream(gateway: RunningGateway, model: str) -> None:
    whole = chat(gateway, model).invoke("повтори: раз, два, три")
    assert whole.content
    assert whole.usage_metadata
    chunks = list(chat(gateway, model, stream_usage=True).stream("повтори: раз, два, три"))
    assert "".join(str(chunk.content) for chunk in chunks) == whole.content
    usage = [chunk.usage_metadata for chunk in chunks if chunk.usage_metadata]
    assert usage[-1]["total_tokens"] == whole.usage_metadata["total_tokens"]


async def test_asynchronously(gateway: RunningGateway) -> None:
    """One test for all: LangChain keeps one asynchronous HTTP client, which belongs to its first event loop."""
    for model in CHAT_MODELS:
        chunks = [chunk async for chunk in chat(gateway, model).astream("повтори: раз, два, три")]
        assert "раз, два, три" in "".join(str(chunk.content) for chunk in chunks)


@pytest.mark.parametrize("model", CHAT_MODELS)
def test_tools(gateway: RunningGateway, model: str) -> None:
    able = chat(gateway, model).bind_tools([get_weather])
    question = HumanMessage("Какая погода в Омске?")
    asked: Any = able.invoke([question])
    (call,) = asked.tool_calls
    assert call["name"] == "get_weather"
    result = ToolMessage(get_weather.invoke(call["args"]), tool_call_id=call["id"])
    assert "17" in str(able.invoke([question, asked, result]).content)


@pytest.mark.parametrize("model", CHAT_MODELS)
@pytest.mark.parametrize("method", ["json_schema", "function_calling"])
def test_structured_output(gateway: RunningGateway, model: str, method: Any) -> None:
    assert isinstance(chat(gateway, model).with_structured_output(City, method=method).invoke("Лима"), City)


@pytest.mark.parametrize("model", ["gigachat/embeddings", "yandex/doc", "local/embedding"])
def test_embeddings(gateway: RunningGateway, model: str) -> None:
    """Texts, not token ids: `check_embedding_ctx_length` would send ids of OpenAI's own tokenizer."""
    embeddings = OpenAIEmbeddings(
        base_url=gateway.base_url, api_key=SecretStr(gateway.key), model=model, check_embedding_ctx_length=False
    )
    documents = embeddings.embed_documents(["кошка", "собака"])
    assert len(documents) == 2
    assert documents[0] == pytest.approx(embeddings.embed_query("кошка"))
