"""The official `gigachat` SDK, pointed straight at the sandbox."""

import base64
from collections.abc import Iterator

import pytest
from gigachat import GigaChat
from gigachat.exceptions import AuthenticationError, NotFoundError, RateLimitError, ResponseError
from gigachat.models import Chat, Function, Messages

from xrouter.sandbox.credentials import (
    SANDBOX_GIGACHAT_CREDENTIALS,
    SANDBOX_GIGACHAT_KEYS,
    SANDBOX_GIGACHAT_PASSWORD,
    SANDBOX_GIGACHAT_USER,
)
from xrouter.sandbox.running import Sandbox
from xrouter.sandbox.tokens import GIGACHAT_TEMPLATE_TOKENS

WEATHER = {
    "name": "get_weather",
    "description": "Погода в городе",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}


def make(sandbox: Sandbox, **settings: object) -> GigaChat:
    return GigaChat(
        base_url=sandbox.gigachat_url,
        auth_url=sandbox.gigachat_auth_url,
        model="GigaChat-2-Pro",
        **{"credentials": SANDBOX_GIGACHAT_CREDENTIALS, **settings},
    )


@pytest.fixture
def client(sandbox: Sandbox) -> Iterator[GigaChat]:
    with make(sandbox) as client:
        yield client


def test_chat(client: GigaChat) -> None:
    answer = client.chat("Как приготовить борщ?")
    assert "Как приготовить борщ" in answer.choices[0].message.content
    assert answer.choices[0].finish_reason == "stop"
    assert answer.model == "GigaChat-2-Pro:2.0.28.2"
    usage = answer.usage
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
    assert client.chat("Как приготовить борщ?").choices == answer.choices


def test_chat_answers_in_the_language_of_the_question(client: GigaChat) -> None:
    assert "How to cook borscht" in client.chat("How to cook borscht?").choices[0].message.content
    assert client.chat("Hello!").choices[0].message.content.startswith("Hello!")
    assert client.chat("Привет!").choices[0].message.content.startswith("Здравствуйте!")


def test_stream_says_what_chat_says(client: GigaChat) -> None:
    whole = client.chat("Как приготовить борщ?")
    chunks = list(client.stream("Как приготовить борщ?"))
    assert "".join(chunk.choices[0].delta.content for chunk in chunks) == whole.choices[0].message.content
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-1].choices[0].finish_reason == "stop"
    assert chunks[-1].usage == whole.usage
    assert all(chunk.usage is None and chunk.choices[0].finish_reason is None for chunk in chunks[:-1])


async def test_async_chat_and_stream(sandbox: Sandbox) -> None:
    async with make(sandbox) as client:
        answer = await client.achat("Расскажи о Байкале")
        pieces = [chunk.choices[0].delta.content async for chunk in client.astream("Расскажи о Байкале")]
    assert "".join(pieces) == answer.choices[0].message.content
    assert sandbox.state.count("gigachat", "/oauth") == 1


def test_max_tokens_finishes_with_length(client: GigaChat) -> None:
    answer = client.chat({"messages": [{"role": "user", "content": "Расскажи о Байкале"}], "max_tokens": 5})
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage.completion_tokens == 5
    assert client.tokens_count([answer.choices[0].message.content], model="GigaChat-2")[0].tokens == 5


def test_a_function_is_called_and_its_result_told(client: GigaChat) -> None:
    history = [Messages(role="user", content="Погода в Омске?")]
    functions = [Function(**WEATHER)]
    answer = client.chat(Chat(messages=history, functions=functions, function_call="auto"))
    choice = answer.choices[0]
    assert choice.finish_reason == "function_call"
    assert choice.message.content == ""
    assert choice.message.function_call.arguments == {"city": "Омск"}
    assert choice.message.functions_state_id
    history += [choice.message, Messages(role="function", name="get_weather", content='{"temperature": "8°C"}')]
    told = client.chat(Chat(messages=history, functions=functions)).choices[0]
    assert told.finish_reason == "stop"
    assert "8°C" in told.message.content


def test_a_call_comes_whole_in_a_stream(client: GigaChat) -> None:
    chat = Chat(messages=[Messages(role="user", content="Погода в Казани?")], functions=[Function(**WEATHER)])
    chunks = list(client.stream(chat))
    assert [chunk.choices[0].delta.function_call is not None for chunk in chunks] == [True, False]
    assert chunks[0].choices[0].delta.function_call.arguments == {"city": "Казань"}
    assert chunks[-1].choices[0].finish_reason == "function_call"


def test_small_talk_calls_no_function_unless_told_to(client: GigaChat) -> None:
    messages = [Messages(role="user", content="Привет!")]
    functions = [Function(**WEATHER)]
    free = client.chat(Chat(messages=messages, functions=functions, function_call="auto"))
    none = client.chat(
        Chat(messages=[Messages(role="user", content="Погода?")], functions=functions, function_call="none")
    )
    forced = client.chat(Chat(messages=messages, functions=functions, function_call={"name": "get_weather"}))
    assert [each.choices[0].finish_reason for each in (free, none, forced)] == ["stop", "stop", "function_call"]


def test_structured_output(client: GigaChat) -> None:
    schema = {
        "type": "object",
        "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
        "required": ["city"],
    }
    messages = [{"role": "user", "content": "План поездки в Казань на 3 дня"}]
    answer = client.chat(
        {"messages": messages, "response_format": {"type": "json_schema", "schema": schema, "strict": True}}
    )
    assert answer.choices[0].message.content == '{"city":"Казань","days":3}'


def test_embeddings(client: GigaChat) -> None:
    answer = client.embeddings(["один", "два", "один"], model="Embeddings")
    first, second, third = (row.embedding for row in answer.data)
    assert [row.index for row in answer.data] == [0, 1, 2]
    assert len(first) == 1024
    assert first == third != second
    assert max(map(abs, first)) > 1
    assert [row.usage.prompt_tokens for row in answer.data] == [1, 1, 1]


def test_token_count_agrees_with_usage(client: GigaChat) -> None:
    text = "Count from 1 to 3, or: один, два, три"
    count = client.tokens_count([text, ""], model="GigaChat-2")
    assert [each.characters for each in count] == [len(text), 0]
    usage = client.chat(text).usage
    assert usage.prompt_tokens == count[0].tokens + GIGACHAT_TEMPLATE_TOKENS


def test_models(client: GigaChat) -> None:
    names = [model.id_ for model in client.get_models().data]
    assert {"GigaChat-2", "GigaChat-2-Pro", "GigaChat-2-Max", "Embeddings", "GigaFilter"} <= set(names)
    assert client.get_model("GigaChat-2").owned_by == "salutedevices"
    with pytest.raises(NotFoundError, match="No such model"):
        client.get_model("GigaChat-9")


def test_balance(sandbox: Sandbox, client: GigaChat) -> None:
    assert {row.usage for row in client.get_balance().balance} >= {"GigaChat-2", "Embeddings"}
    corporate = next(key for key, scope in SANDBOX_GIGACHAT_KEYS.items() if scope == "GIGACHAT_API_CORP")
    with (
        make(sandbox, credentials=corporate, scope="GIGACHAT_API_CORP") as pays_as_it_goes,
        pytest.raises(ResponseError, match="Permission denied"),
    ):
        pays_as_it_goes.get_balance()


def test_files_keep_their_bytes(client: GigaChat) -> None:
    content = bytes(range(256)) + b"\r\n--boundary\r\n\n\r" + bytes(range(255, -1, -1))
    stored = client.upload_file(("кот.png", content, "image/png"))
    assert (stored.bytes_, stored.filename, stored.purpose) == (len(content), "кот.png", "general")
    assert client.get_file(stored.id_).id_ == stored.id_
    assert [each.id_ for each in client.get_files().data] == [stored.id_]
    assert base64.b64decode(client.get_image(stored.id_).content) == content
    seen = client.chat({"messages": [{"role": "user", "content": "Что здесь?", "attachments": [stored.id_]}]})
    assert "вложений: 1" in seen.choices[0].message.content
    assert client.delete_file(stored.id_).deleted
    with pytest.raises(NotFoundError):
        client.get_file(stored.id_)


def test_sign_in_by_password(sandbox: Sandbox) -> None:
    with make(sandbox, credentials=None, user=SANDBOX_GIGACHAT_USER, password=SANDBOX_GIGACHAT_PASSWORD) as client:
        assert client.chat("Привет").choices
    assert sandbox.state.count("gigachat", "/oauth") == 0
    assert sandbox.state.count("gigachat", "/v1/token") == 1


def test_a_revoked_token_is_renewed_once(sandbox: Sandbox, client: GigaChat) -> None:
    client.chat("Привет")
    sandbox.state.revoke_tokens()
    client.chat("Привет")
    assert sandbox.state.count("gigachat", "/oauth") == 2
    assert sandbox.state.statuses["gigachat 401"] == 1


def test_a_token_expires_by_the_sandboxs_clock(sandbox: Sandbox, client: GigaChat) -> None:
    token = client.get_token()
    assert token is not None
    sandbox.state.advance(1801)
    with (
        make(sandbox, credentials=None, access_token=token.access_token) as old,
        pytest.raises(AuthenticationError, match="Token has expired"),
    ):
        old.chat("Привет")


def test_a_scenario_for_the_next_requests(sandbox: Sandbox, client: GigaChat) -> None:
    client.get_token()
    sandbox.state.choose("429,retry-after=7", provider="gigachat", path="/completions")
    with pytest.raises(RateLimitError) as refused:
        client.chat("Привет")
    assert refused.value.headers is not None
    assert refused.value.headers["retry-after"] == "7"
    assert client.chat("Привет").choices


def test_blacklist_keeps_the_status(client: GigaChat) -> None:
    answer = client.chat("Расскажи тайну [[emu:blacklist]]")
    assert answer.choices[0].finish_reason == "blacklist"
    assert answer.choices[0].message.content.startswith("Я не могу обсуждать")
