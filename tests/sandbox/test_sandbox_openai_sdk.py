"""The OpenAI SDK, pointed straight at the sandbox's OpenAI and at Yandex's compatible surface."""

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass

import openai
import pytest
from openai import AsyncOpenAI, OpenAI

from xrouter.sandbox.credentials import SANDBOX_OPENAI_KEY, SANDBOX_YANDEX_API_KEY
from xrouter.sandbox.running import Sandbox

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Погода в городе",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
CLOCK = {"type": "function", "function": {"name": "current_time", "description": "Текущее время", "parameters": {}}}
QUESTION = [{"role": "user", "content": "Как выучить Go?"}]


@dataclass
class Target:
    """One of the two surfaces that speak this protocol."""

    base_url: str
    api_key: str
    model: str
    embedding_model: str

    def client(self) -> OpenAI:
        return OpenAI(base_url=self.base_url, api_key=self.api_key, max_retries=0)


@pytest.fixture(params=["openai", "yandex"])
def target(request: pytest.FixtureRequest, sandbox: Sandbox) -> Target:
    if request.param == "openai":
        return Target(sandbox.openai_url, SANDBOX_OPENAI_KEY, "sandbox-large", "text-embedding-sandbox")
    uris = ("gpt://b1gsandbox/yandexgpt/rc", "emb://b1gsandbox/text-search-doc/latest")
    return Target(sandbox.yandex_openai_url, SANDBOX_YANDEX_API_KEY, *uris)


@pytest.fixture
def client(target: Target) -> Iterator[OpenAI]:
    with target.client() as client:
        yield client


def test_openai_sdk_chat(client: OpenAI, target: Target) -> None:
    answer = client.chat.completions.create(model=target.model, messages=QUESTION)
    assert "Как выучить Go" in (answer.choices[0].message.content or "")
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


def test_openai_sdk_stream_says_what_chat_says(client: OpenAI, target: Target) -> None:
    whole = client.chat.completions.create(model=target.model, messages=QUESTION)
    chunks = list(client.chat.completions.create(model=target.model, messages=QUESTION, stream=True))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == whole.choices[0].message.content
    assert {chunk.object for chunk in chunks} == {"chat.completion.chunk"}
    assert len({chunk.id for chunk in chunks}) == 1
    assert chunks[-1].choices[0].finish_reason == "stop"


async def test_openai_sdk_async(target: Target) -> None:
    async with AsyncOpenAI(base_url=target.base_url, api_key=target.api_key) as client:
        whole = await client.chat.completions.create(model=target.model, messages=QUESTION)
        stream = await client.chat.completions.create(model=target.model, messages=QUESTION, stream=True)
        text = "".join([chunk.choices[0].delta.content or "" async for chunk in stream])
    assert text == whole.choices[0].message.content


def test_openai_sdk_tools(client: OpenAI, target: Target) -> None:
    history: list[object] = [{"role": "user", "content": "Погода в Омске?"}]
    answer = client.chat.completions.create(model=target.model, messages=history, tools=[CLOCK, WEATHER])
    assert answer.choices[0].finish_reason == "tool_calls"
    [call] = answer.choices[0].message.tool_calls or []
    assert (call.function.name, json.loads(call.function.arguments)) == ("get_weather", {"city": "Омск"})
    history += [
        {"role": "assistant", "tool_calls": [call.model_dump()]},
        {"role": "tool", "tool_call_id": call.id, "content": "8°C"},
    ]
    told = client.chat.completions.create(model=target.model, messages=history, tools=[CLOCK, WEATHER])
    assert "8°C" in (told.choices[0].message.content or "")
    assert "get_weather" in (told.choices[0].message.content or "")


def test_openai_sdk_tools_in_a_stream(client: OpenAI, target: Target) -> None:
    messages = [{"role": "user", "content": "Погода в Омске? [[emu:tool=2]]"}]
    stream = client.chat.completions.create(model=target.model, messages=messages, tools=[WEATHER, CLOCK], stream=True)
    names: dict[int, str] = {}
    arguments: dict[int, str] = {}
    for chunk in stream:
        for call in chunk.choices[0].delta.tool_calls or ():
            assert call.function is not None
            if call.id:
                names[call.index] = call.function.name or ""
            arguments[call.index] = arguments.get(call.index, "") + (call.function.arguments or "")
    assert names == {0: "get_weather", 1: "current_time"}
    assert {index: json.loads(text) for index, text in arguments.items()} == {0: {"city": "Омск"}, 1: {}}


def test_openai_sdk_structured_output(client: OpenAI, target: Target) -> None:
    schema = {"type": "object", "properties": {"days": {"type": "integer", "maximum": 2}}, "required": ["days"]}
    wanted = {"type": "json_schema", "json_schema": {"name": "plan", "schema": schema, "strict": True}}
    messages = [{"role": "user", "content": "План на 3 дня"}]
    answer = client.chat.completions.create(model=target.model, messages=messages, response_format=wanted)
    assert json.loads(answer.choices[0].message.content or "") == {"days": 2}
    messages = [{"role": "user", "content": "Ответь в JSON"}]
    answer = client.chat.completions.create(
        model=target.model, messages=messages, response_format={"type": "json_object"}
    )
    assert isinstance(json.loads(answer.choices[0].message.content or ""), dict)


def test_openai_sdk_max_tokens(client: OpenAI, target: Target) -> None:
    answer = client.chat.completions.create(model=target.model, messages=QUESTION, max_completion_tokens=4)
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 4


def test_openai_sdk_embeddings(client: OpenAI, target: Target) -> None:
    answer = client.embeddings.create(model=target.embedding_model, input="один", encoding_format="float")
    again = client.embeddings.create(model=target.embedding_model, input="один", encoding_format="float")
    assert answer.data == again.data
    assert math.isclose(sum(number * number for number in answer.data[0].embedding), 1, rel_tol=1e-6)


def test_openai_sdk_models(client: OpenAI, target: Target) -> None:
    assert target.model in [model.id for model in client.models.list().data]


def test_openai_sdk_errors(sandbox: Sandbox, target: Target) -> None:
    with (
        OpenAI(base_url=target.base_url, api_key="wrong", max_retries=0) as stranger,
        pytest.raises(openai.AuthenticationError),
    ):
        stranger.chat.completions.create(model=target.model, messages=QUESTION)
    with target.client() as client:
        unknown = target.model.replace("yandexgpt", "gpt9").replace("sandbox-large", "gpt-9")
        with pytest.raises(openai.NotFoundError):
            client.chat.completions.create(model=unknown, messages=QUESTION)
        with pytest.raises(openai.BadRequestError):
            client.chat.completions.create(model=target.model, messages=[])
        with pytest.raises(openai.BadRequestError):
            client.chat.completions.create(model=target.model, messages=QUESTION, extra_body={"typo": 1})
        sandbox.state.choose("503")
        with pytest.raises(openai.InternalServerError):
            client.chat.completions.create(model=target.model, messages=QUESTION)


# What only the OpenAI emulator has


@pytest.fixture
def openai_client(sandbox: Sandbox) -> Iterator[OpenAI]:
    with OpenAI(base_url=sandbox.openai_url, api_key=SANDBOX_OPENAI_KEY, max_retries=0) as client:
        yield client


def test_usage_in_a_stream_only_when_asked(openai_client: OpenAI) -> None:
    plain = list(openai_client.chat.completions.create(model="sandbox-large", messages=QUESTION, stream=True))
    assert all(chunk.usage is None and chunk.choices for chunk in plain)
    options = {"include_usage": True}
    asked = list(
        openai_client.chat.completions.create(
            model="sandbox-large", messages=QUESTION, stream=True, stream_options=options
        )
    )
    assert [chunk.usage is None for chunk in asked] == [True] * (len(asked) - 1) + [False]
    assert asked[-1].choices == []


def test_several_choices_differ(openai_client: OpenAI) -> None:
    answer = openai_client.chat.completions.create(model="sandbox-large", messages=QUESTION, n=8)
    assert [choice.index for choice in answer.choices] == list(range(8))
    assert len({choice.message.content for choice in answer.choices}) > 1


def test_stop_ends_the_text_before_it(openai_client: OpenAI) -> None:
    messages = [{"role": "user", "content": "Повтори: один два три"}]
    answer = openai_client.chat.completions.create(model="sandbox-large", messages=messages, stop=[" два"])
    assert (answer.choices[0].message.content, answer.choices[0].finish_reason) == ("один", "stop")


def test_logprobs(openai_client: OpenAI) -> None:
    answer = openai_client.chat.completions.create(
        model="sandbox-large", messages=QUESTION, logprobs=True, top_logprobs=2
    )
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None
    assert "".join(each.token for each in logprobs.content or ()) == answer.choices[0].message.content
    assert all(len(each.top_logprobs) == 2 and each.logprob <= 0 for each in logprobs.content or ())


def test_legacy_functions(openai_client: OpenAI) -> None:
    answer = openai_client.chat.completions.create(
        model="sandbox-large",
        messages=[{"role": "user", "content": "Погода в Перми?"}],
        functions=[WEATHER["function"]],
    )
    assert answer.choices[0].finish_reason == "function_call"
    assert answer.choices[0].message.function_call is not None


def test_legacy_completions(openai_client: OpenAI) -> None:
    answer = openai_client.completions.create(
        model="sandbox-large", prompt=["say: one", "say: two"], echo=True, logprobs=1, max_tokens=50
    )
    assert [choice.text for choice in answer.choices] == ["say: oneone", "say: twotwo"]
    stream = openai_client.completions.create(model="sandbox-large", prompt="say: one two", stream=True)
    assert "".join(chunk.choices[0].text for chunk in stream) == "one two"


def test_embeddings_of_a_list(openai_client: OpenAI) -> None:
    plain = openai_client.embeddings.create(
        model="text-embedding-sandbox", input=["a", "b"], dimensions=8, encoding_format="float"
    )
    packed = openai_client.embeddings.create(model="text-embedding-sandbox", input=["a", "b"], dimensions=8)
    assert [row.index for row in plain.data] == [0, 1]
    for left, right in zip(plain.data, packed.data, strict=True):  # base64 on the wire, decoded by the SDK
        assert left.embedding == pytest.approx(right.embedding, abs=1e-6)
    numbers = openai_client.embeddings.create(model="text-embedding-sandbox", input=[[1, 2], [3]])
    assert numbers.usage.prompt_tokens == 3
