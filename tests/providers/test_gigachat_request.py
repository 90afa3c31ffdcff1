"""What is sent to GigaChat for a chat or a completion; numbers are those of the sheet's section 15."""

import json
import uuid
from typing import Any

import pytest
from gigachat_kit import (
    BASE_URL,
    STATE_ID,
    header,
    provider,
    sent,
    sent_body,
    sent_messages,
    settings,
    tool,
    tool_call,
    translator,
)
from hypothesis import given
from hypothesis import strategies as st

from xrouter.errors import BadRequest
from xrouter.providers.gigachat_http import uuid5

USER = {"role": "user", "content": "Погода?"}


def assistant(*calls: dict[str, Any], content: str | None = None) -> dict[str, Any]:
    return {"role": "assistant", "content": content, **({"tool_calls": list(calls)} if calls else {})}


def result(call_id: str, content: Any = '{"t":8}') -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": call_id, "content": content}


def test_address_and_headers() -> None:
    request = sent(translator(stream=True))
    assert (request.method, request.url) == ("POST", f"{BASE_URL}/chat/completions")
    assert header(request, b"accept") == b"text/event-stream"
    assert header(request, b"content-type") == b"application/json"
    assert header(request, b"user-agent").startswith(b"xrouter/")
    assert header(request, b"x-request-id") == b"4d0c1f0e-8f5c-4f5e-9f59-0a3c8a8a5d11"
    assert header(request, b"authorization") is None  # signed by the caller
    assert header(sent(translator()), b"accept") == b"application/json"


def test_a_request_id_that_is_no_uuid_becomes_one() -> None:
    ids = {header(sent(translator(request_id=text)), b"x-request-id") for text in ("client 1", "client 1", "client 2")}
    assert len(ids) == 2
    assert all(len(value) == 36 for value in ids if value)


@given(st.text(st.characters(exclude_categories=["Cs"])), st.uuids())
def test_uuid5_is_the_librarys(name: str, namespace: uuid.UUID) -> None:
    assert uuid5(namespace.bytes, name) == str(uuid.uuid5(namespace, name))


def test_gigachat_31_the_session_is_one_conversation_of_one_client() -> None:
    """Cross-tenant by construction: `conversation` is unlike for any two clients, and so is the session id."""
    sessions = [header(sent(translator(conversation=text)), b"x-session-id") for text in ("a/talk", "a/talk", "b/talk")]
    assert sessions[0] == sessions[1] != sessions[2]


def test_the_body_is_compact_json_with_what_was_asked_only() -> None:
    assert sent(translator()).body == (
        '{"model":"GigaChat-2","messages":[{"role":"user","content":"Столица Перу?"}]}'.encode()
    )


@pytest.mark.parametrize(
    ("content", "text"),
    [("8°C", '{"result":"8°C"}'), ("42", '{"result":42}'), ("[]", '{"result":[]}'), ("null", "{}"), ("", "{}"),
     ('{"a":1}', '{"a":1}'), ("NaN", '{"result":"NaN"}'), ("[" * 5000, '{"result":"' + "[" * 5000 + '"}')],
)  # fmt: skip
def test_gigachat_14_a_tool_result_is_an_object(content: str, text: str) -> None:
    *_, last = sent_messages(USER, assistant(tool_call("a")), result("a", content))
    assert last == {"role": "function", "name": "get_weather", "content": text}


def test_gigachat_15_parallel_calls_become_pairs_whatever_the_order_of_results() -> None:
    for results in ((result("a", "1"), result("b", "2")), (result("b", "2"), result("a", "1"))):
        messages = sent_messages(USER, assistant(tool_call("a", "f"), tool_call("b", "g")), *results)
        assert [(message["role"], message.get("name")) for message in messages] == [
            ("user", None),
            ("assistant", None),
            ("function", "f"),
            ("assistant", None),
            ("function", "g"),
        ]
        assert [messages[at]["function_call"]["name"] for at in (1, 3)] == ["f", "g"]
        assert [messages[at]["content"] for at in (2, 4)] == ['{"result":1}', '{"result":2}']


def test_ids_used_again_in_a_later_turn_pair_within_their_turn() -> None:
    messages = sent_messages(
        USER,
        assistant(tool_call("call_0", "f")),
        result("call_0", "1"),
        result("call_0", "of the first turn again"),
        assistant(content="Раз"),
        USER,
        assistant(tool_call("call_0", "g")),
        result("call_0", "2"),
    )
    assert [message["content"] for message in messages if message["role"] == "function"] == [
        '{"result":1}',
        '{"result":2}',
    ]


@pytest.mark.parametrize(
    ("history", "param"),
    [
        ([assistant(tool_call("a"))], "messages[1].tool_calls"),
        ([assistant(tool_call("a"), tool_call("b")), result("a")], "messages[1].tool_calls"),
        ([result("a"), assistant(tool_call("a"))], "messages[1].tool_call_id"),
        ([result("a")], "messages[1].tool_call_id"),
        ([{"role": "tool", "content": "1"}], "messages[1].tool_call_id"),
    ],
)
def test_gigachat_16_a_call_without_result_or_a_result_without_call_is_refused(
    history: list[dict[str, Any]], param: str
) -> None:
    with pytest.raises(BadRequest) as caught:
        sent_messages(USER, *history)
    assert caught.value.param == param


def test_a_second_result_of_one_call_is_dropped() -> None:
    messages = sent_messages(USER, assistant(tool_call("a")), result("a", "1"), result("a", "2"))
    assert [message["role"] for message in messages] == ["user", "assistant", "function"]


def test_gigachat_17_one_leading_system_message() -> None:
    messages = sent_messages(
        USER,
        {"role": "system", "content": "Кратко."},
        {"role": "developer", "content": [{"type": "text", "text": "По-русски."}]},
        assistant(content="Да"),
        {"role": "system", "content": "Вежливо."},
    )
    assert messages == [
        {"role": "system", "content": "Кратко.\n\nПо-русски.\n\nВежливо."},
        USER,
        {"role": "assistant", "content": "Да"},
    ]


def test_a_system_message_alone_is_a_users() -> None:
    assert sent_messages({"role": "system", "content": "Привет"}) == [{"role": "user", "content": "Привет"}]


def test_gigachat_18_text_parts_are_one_string() -> None:
    parts = [{"type": "text", "text": "Раз"}, {"type": "text", "text": "два"}]
    assert sent_messages({"role": "user", "content": parts}) == [{"role": "user", "content": "Раз\nдва"}]


@pytest.mark.parametrize("role", ["user", "system", "assistant"])
def test_an_unknown_part_is_refused(role: str) -> None:
    with pytest.raises(BadRequest) as caught:
        sent_messages(USER, {"role": role, "content": [{"type": "input_audio"}]})
    assert caught.value.param == "messages[1].content[0]"


def test_gigachat_19_no_null_content_and_no_empty_assistant() -> None:
    messages = sent_messages(USER, assistant(), assistant(content=""), assistant(tool_call("a")), result("a"))
    assert [message["role"] for message in messages] == ["user", "assistant", "function"]
    assert messages[1]["content"] == ""
    with pytest.raises(BadRequest):
        sent_messages(assistant())


def test_neighbours_of_one_role_are_joined() -> None:
    messages = sent_messages(USER, USER, assistant(content="Раз"), assistant(content="два"), USER)
    assert [message["content"] for message in messages] == ["Погода?\nПогода?", "Раз\nдва", "Погода?"]


def test_text_between_a_call_and_its_result_is_dropped() -> None:
    messages = sent_messages(USER, assistant(tool_call("a")), assistant(content="Смотрю"), result("a"))
    assert [message["role"] for message in messages] == ["user", "assistant", "function"]


def test_arguments_go_as_an_object_and_the_state_id_comes_back_from_the_calls_id() -> None:
    history = (
        USER,
        assistant(tool_call("call_" + STATE_ID.replace("-", ""))),
        result("call_" + STATE_ID.replace("-", "")),
    )
    _, echoed, _ = sent_messages(*history)
    assert echoed["function_call"] == {"name": "get_weather", "arguments": {"city": "Омск"}}
    assert echoed["functions_state_id"] == STATE_ID
    _, kept, _ = json.loads(sent(translator(of=provider(echo_state_id=False), messages=list(history))).body)["messages"]
    assert "functions_state_id" not in kept


@pytest.mark.parametrize(
    ("arguments", "sent_as"),
    [("", {}), ("null", {}), ("не JSON", {"arguments": "не JSON"}), ("[1]", {"arguments": [1]})],
)
def test_arguments_that_are_no_object_are_made_one(arguments: str, sent_as: dict[str, Any]) -> None:
    _, call, _ = sent_messages(USER, assistant(tool_call("a", arguments=arguments)), result("a"))
    assert call["function_call"]["arguments"] == sent_as


def test_the_older_function_messages() -> None:
    messages = sent_messages(
        USER,
        {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": "{}"}},
        {"role": "function", "name": "f", "content": "8"},
        functions=[{"name": "f"}],
        function_call={"name": "f"},
    )
    assert messages[1:] == [
        {"role": "assistant", "content": "", "function_call": {"name": "f", "arguments": {}}},
        {"role": "function", "content": '{"result":8}', "name": "f"},
    ]
    body = sent_body(functions=[{"name": "f"}], function_call={"name": "f"})
    assert body["functions"] == [{"name": "f", "parameters": {"type": "object", "properties": {}}}]
    assert body["function_call"] == {"name": "f"}


def test_gigachat_20_temperature_zero_is_top_p_zero() -> None:
    body = sent_body(temperature=0, top_p=0.9)
    assert "temperature" not in body
    assert body["top_p"] == 0
    assert sent_body(temperature=0.3, top_p=0.9).items() >= {"temperature": 0.3, "top_p": 0.9}.items()


def test_gigachat_28_what_it_lacks_is_refused_or_dropped() -> None:
    for refused in (
        {"n": 2},
        {"logprobs": True},
        {"top_logprobs": 3},
        {"modalities": ["text", "audio"]},
        {"audio": {}},
    ):
        with pytest.raises(BadRequest) as caught:
            sent_body(**refused)
        assert caught.value.param in refused
    dropped = {
        "seed": 1,
        "user": "u",
        "frequency_penalty": 1,
        "presence_penalty": 1,
        "logit_bias": {"1": 1},
        "metadata": {"a": "b"},
        "top_k": 5,
        "n": 1,
        "logprobs": False,
        "parallel_tool_calls": True,
        "modalities": ["text"],
    }
    assert sent_body(**dropped) == sent_body()


def test_the_parameters_that_it_has() -> None:
    body = sent_body(max_tokens=5, repetition_penalty=1.1, reasoning_effort="high", stream=True)
    assert (
        body.items() >= {"max_tokens": 5, "repetition_penalty": 1.1, "reasoning_effort": "high", "stream": True}.items()
    )
    assert sent_body(max_tokens=5, max_completion_tokens=7)["max_tokens"] == 7
    assert sent_body(reasoning={"effort": "low"})["reasoning_effort"] == "low"
    assert "reasoning_effort" not in sent_body(reasoning_effort="minimal")


def test_the_operators_own_parameters() -> None:
    asked = translator(of=provider(profanity_check=False, update_interval_s=0.5))
    assert json.loads(sent(asked).body).items() >= {"profanity_check": False, "update_interval": 0.5}.items()


@pytest.mark.parametrize(
    ("choice", "sent_as"),
    [(None, "auto"), ("auto", "auto"), ("required", {"name": "get_weather"}),
     ({"type": "function", "function": {"name": "get_weather"}}, {"name": "get_weather"})],
)  # fmt: skip
def test_tool_choice(choice: Any, sent_as: Any) -> None:
    body = sent_body(tools=[tool()], tool_choice=choice)
    assert body["function_call"] == sent_as
    assert body["functions"] == [
        {
            "name": "get_weather",
            "description": "Погода",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
        }
    ]


def test_tool_choice_none_sends_no_functions() -> None:
    assert sent_body(tools=[tool()], tool_choice="none") == sent_body()


def test_tool_choice_required_of_several_is_a_downgrade() -> None:
    asked = translator(tools=[tool("f"), tool("g")], tool_choice="required")
    assert json.loads(sent(asked).body)["function_call"] == "auto"
    assert asked.downgrades == ("tool_choice",)
    with pytest.raises(BadRequest) as caught:
        sent(translator(of=provider(strict=True), tools=[tool("f"), tool("g")], tool_choice="required"))
    assert caught.value.param == "tool_choice"


@pytest.mark.parametrize(
    "body",
    [
        {"tools": [{"type": "web_search"}]},
        {"tools": [tool()], "tool_choice": {"type": "function", "function": {"name": "other"}}},
        {"tools": [tool("")]},
        {"tool_choice": "required"},
        {"tools": [], "tool_choice": "required"},
    ],
)
def test_tools_that_cannot_be(body: dict[str, Any]) -> None:
    with pytest.raises(BadRequest):
        sent_body(**body)


def test_function_call_after_a_result_is_a_switch() -> None:
    body: dict[str, Any] = {"messages": [USER, assistant(tool_call("a")), result("a")], "tools": [tool()]}
    assert sent_body(**body)["function_call"] == "auto"
    omitted = json.loads(sent(translator(of=provider(omit_function_call_after_result=True), **body)).body)
    assert "function_call" not in omitted
    assert omitted["functions"]


SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}


def json_schema(**fields: Any) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "city card", "schema": SCHEMA, **fields}}


def test_gigachat_22_json_schema_is_a_forced_function() -> None:
    body = sent_body(response_format=json_schema())
    assert body["functions"][0].items() >= {"name": "user_city_card", "parameters": SCHEMA}.items()
    assert body["function_call"] == {"name": "user_city_card"}
    assert "response_format" not in body


def test_json_schema_the_native_way() -> None:
    native = settings(json_schema="native")
    asked = translator(model=native, response_format=json_schema(strict=True))
    body = json.loads(sent(asked).body)
    assert body["response_format"] == {"type": "json_schema", "schema": SCHEMA, "strict": True}
    assert "functions" not in body
    loose = {"type": "json_schema", "json_schema": {"schema": {"type": "object"}, "strict": True}}
    body = json.loads(sent(translator(model=native, response_format=loose)).body)
    assert body["response_format"] == {"type": "json_schema", "schema": {"type": "object", "properties": {}}}


def test_json_object_is_a_forced_function_of_a_free_object() -> None:
    body = sent_body(response_format={"type": "json_object"})
    assert body["functions"][0]["parameters"] == {"type": "object", "properties": {}}
    assert body["function_call"] == {"name": body["functions"][0]["name"]}


def test_json_beside_tools_is_asked_for_in_words() -> None:
    asked = translator(tools=[tool()], response_format=json_schema())
    body = json.loads(sent(asked).body)
    assert body["messages"][0]["role"] == "system"
    assert '"required":["city"]' in body["messages"][0]["content"]
    assert body["function_call"] == "auto"
    assert asked.downgrades == ("response_format",)


@pytest.mark.parametrize(
    "wanted",
    [{"type": "xml"}, {"type": "json_schema"}, json_schema(schema=None), json_schema(schema={"type": "array"})],
)
def test_response_formats_that_cannot_be(wanted: dict[str, Any]) -> None:
    with pytest.raises(BadRequest):
        sent_body(response_format=wanted)


def test_stop_is_refused_in_strict_mode_only() -> None:
    assert sent_body(stop=["\n"]) == sent_body()
    with pytest.raises(BadRequest):
        sent(translator(of=provider(strict=True), stop="\n"))


def test_a_completion_is_a_chat_of_one_message() -> None:
    body = sent_body(kind="completions", prompt="Раз, два", max_tokens=3, temperature=0.5)
    assert body == {
        "model": "GigaChat-2",
        "messages": [{"role": "user", "content": "Раз, два"}],
        "max_tokens": 3,
        "temperature": 0.5,
    }
    assert sent_body(kind="completions", prompt=["Раз"])["messages"] == [{"role": "user", "content": "Раз"}]
    refused: list[dict[str, Any]] = [
        {"prompt": ["a", "b"]},
        {"prompt": "a", "echo": True},
        {"prompt": "a", "suffix": "b"},
        {"prompt": "a", "best_of": 2},
        {"prompt": "a", "n": 2},
        {"prompt": "a", "logprobs": 1},
    ]
    for body in refused:
        with pytest.raises(BadRequest):
            sent_body(kind="completions", **body)
