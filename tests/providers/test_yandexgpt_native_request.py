"""What is sent to the native surface. Numbers are those of the sheet's section 16."""

import json
from typing import Any

import pytest
from yandexgpt_kit import (
    API_KEY,
    FOLDER,
    calls,
    header,
    provider,
    read,
    sent,
    sent_body,
    settings,
    tool_line,
    translator,
)

from xrouter.errors import BadRequest, ContextLengthExceeded, XRouterError

WEATHER = {"type": "function", "function": {"name": "weather", "description": "?", "parameters": {"type": "object"}}}
TIME = {"type": "function", "function": {"name": "time", "strict": True}}
IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
QUESTION = {"role": "user", "content": "Погода?"}


def assistant_calls(*calls: tuple[str, str, str], content: str | None = None) -> dict[str, Any]:
    listed = [
        {"id": id_, "type": "function", "function": {"name": name, "arguments": arguments}}
        for id_, name, arguments in calls
    ]
    return {"role": "assistant", "content": content, "tool_calls": listed}


def tool(call_id: str, content: Any) -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": call_id, "content": content}


def messages(*listed: dict[str, Any]) -> list[dict[str, Any]]:
    body: list[dict[str, Any]] = sent_body(messages=list(listed))["messages"]
    return body


def test_the_request_is_the_one_of_the_sheet() -> None:
    body = sent_body(
        "yandexgpt-lite",
        messages=[{"role": "system", "content": "Отвечай кратко."}, {"role": "user", "content": "Столица Перу?"}],
        temperature=0.3,
        max_tokens=2000,
    )
    assert body == {
        "modelUri": f"gpt://{FOLDER}/yandexgpt-lite/latest",
        "completionOptions": {"stream": False, "temperature": 0.3, "maxTokens": "2000"},
        "messages": [{"role": "system", "text": "Отвечай кратко."}, {"role": "user", "text": "Столица Перу?"}],
    }


def test_the_url_and_the_headers() -> None:
    request = sent(translator())
    assert (request.method, request.url) == ("POST", "https://yandex.test/foundationModels/v1/completion")
    assert not request.idempotent
    names = {name for name, _ in request.headers}
    assert names == {b"content-type", b"x-folder-id", b"x-data-logging-enabled", b"x-client-request-id"}
    assert header(request, b"x-folder-id") == FOLDER.encode()


@pytest.mark.parametrize(
    ("logging", "preferences", "expected"),
    [(False, None, b"false"), (True, None, b"true"), (True, {"data_collection": "deny"}, b"false")],
)
@pytest.mark.parametrize("model", ["yandexgpt", "qwen3-235b-a22b-fp8"])
def test_yandexgpt_35_the_data_logging_header(
    logging: bool, preferences: dict[str, str] | None, expected: bytes, model: str
) -> None:
    request = sent(translator(model, of=provider(data_logging=logging), provider=preferences))
    assert header(request, b"x-data-logging-enabled") == expected


def test_yandexgpt_35_every_call_has_an_id_of_its_own() -> None:
    upstream = provider()
    ids = {header(sent(translator(model, of=upstream)), b"x-client-request-id") for model in ("yandexgpt", "gemma") * 5}
    assert len(ids) == 10
    assert all(name and len(name) == 36 for name in ids)


def test_yandexgpt_35_no_secret_is_in_what_can_be_printed() -> None:
    upstream = provider()
    request = sent(translator(of=upstream))
    assert API_KEY not in f"{request!r} {upstream._config!r} {upstream!r}"


def test_yandexgpt_20_a_call_becomes_text_arguments_and_a_stable_id() -> None:
    body = tool_line(("weather", {"city": "Омск", "days": 2}), ("weather", {"city": "Томск"}), ("time", {}))
    first = calls(read(translator(), body))
    assert [(part.index, part.name, part.arguments) for part in first] == [
        (0, "weather", '{"city":"Омск","days":2}'),
        (1, "weather", '{"city":"Томск"}'),
        (2, "time", "{}"),
    ]
    assert first == calls(read(translator(stream=True), body))
    ids = [part.id or "" for part in first]
    assert len(set(ids)) == 3
    assert all(name.startswith("call_") for name in ids)
    others = calls(read(translator(generation_id="gen-2"), body))
    assert not set(ids) & {part.id for part in others}


def test_yandexgpt_20_the_round_trip_pairs_two_calls_of_one_function_by_their_order() -> None:
    parts = calls(read(translator(), tool_line(("weather", {"city": "Омск"}), ("weather", {"city": "Томск"}))))
    omsk, tomsk = (part.id or "" for part in parts)
    history = assistant_calls(*((part.id or "", part.name or "", part.arguments) for part in parts))
    # The client answers in another order than it was asked in.
    written = messages(QUESTION, history, tool(tomsk, "5°C"), tool(omsk, "8°C"))
    assert written[1:] == [
        {
            "role": "assistant",
            "toolCallList": {
                "toolCalls": [
                    {"functionCall": {"name": "weather", "arguments": {"city": "Омск"}}},
                    {"functionCall": {"name": "weather", "arguments": {"city": "Томск"}}},
                ]
            },
        },
        {
            "role": "user",
            "toolResultList": {
                "toolResults": [
                    {"functionResult": {"name": "weather", "content": "8°C"}},
                    {"functionResult": {"name": "weather", "content": "5°C"}},
                ]
            },
        },
    ]


def test_yandexgpt_20_calls_of_one_id_are_paired_by_order() -> None:
    history = assistant_calls(("", "time", "{}"), ("", "weather", "{}"))
    written = messages(QUESTION, history, tool("", "12"), tool("", "8°C"))
    assert [result["functionResult"] for result in written[2]["toolResultList"]["toolResults"]] == [
        {"name": "time", "content": "12"},
        {"name": "weather", "content": "8°C"},
    ]


def test_yandexgpt_20_text_beside_a_call_is_a_message_of_its_own() -> None:
    written = messages(QUESTION, assistant_calls(("a", "time", ""), content="Смотрю."), tool("a", "12"))
    assert [sorted(message) for message in written] == [
        ["role", "text"],
        ["role", "text"],
        ["role", "toolCallList"],
        ["role", "toolResultList"],
    ]
    assert written[1] == {"role": "assistant", "text": "Смотрю."}
    assert written[2]["toolCallList"]["toolCalls"] == [{"functionCall": {"name": "time", "arguments": {}}}]


def test_yandexgpt_20_openais_older_function_call_is_understood() -> None:
    call = {"role": "assistant", "function_call": {"name": "time", "arguments": "{}"}}
    written = messages(QUESTION, call, {"role": "function", "name": "time", "content": "12"})
    assert written[2]["toolResultList"] == {"toolResults": [{"functionResult": {"name": "time", "content": "12"}}]}


@pytest.mark.parametrize("arguments", ["{", "[]", '"x"', "1", "{}x", "[" * 100_000])
def test_yandexgpt_20_arguments_that_are_no_object_are_refused(arguments: str) -> None:
    with pytest.raises(BadRequest):
        messages(QUESTION, assistant_calls(("a", "time", arguments)), tool("a", "12"))


@pytest.mark.parametrize(
    "listed",
    [
        [QUESTION, tool("a", "12")],
        [QUESTION, assistant_calls(("a", "time", "")), tool("b", "12")],
        [QUESTION, assistant_calls(("a", "time", "")), tool("a", "12"), tool("a", "12")],
        [QUESTION, assistant_calls(("a", "time", ""))],
        [QUESTION, assistant_calls(("a", "time", "")), QUESTION, tool("a", "12")],
        [QUESTION, assistant_calls(("a", "time", ""), ("b", "time", "")), tool("a", "12"), QUESTION],
        [QUESTION, assistant_calls(("a", "time", "")), {"role": "tool", "content": "12"}],
    ],
)
@pytest.mark.parametrize("surface", ["native", "openai"])
def test_yandexgpt_20_calls_and_results_that_do_not_match_are_refused(listed: list[Any], surface: str) -> None:
    with pytest.raises(BadRequest):
        sent_body("yandexgpt", surface, messages=listed)


@pytest.mark.parametrize(
    ("result", "expected"), [("8°C, ясно", "8°C, ясно"), ('{"t": 8}', '{"t": 8}'), ("", ""), (None, "")]
)
def test_yandexgpt_21_a_result_is_passed_as_the_string_that_it_is(result: str | None, expected: str) -> None:
    written = messages(QUESTION, assistant_calls(("a", "weather", "{}")), tool("a", result))
    assert written[2]["toolResultList"]["toolResults"][0]["functionResult"] == {"name": "weather", "content": expected}


def test_yandexgpt_21_a_result_of_200_kb_is_refused_here() -> None:
    with pytest.raises(BadRequest) as raised:
        messages(QUESTION, assistant_calls(("a", "weather", "{}")), tool("a", "x" * 200_000))
    assert raised.value.status == 400


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ("none", {"mode": "NONE"}),
        ("auto", {"mode": "AUTO"}),
        ("required", {"mode": "REQUIRED"}),
        ({"type": "function", "function": {"name": "time"}}, {"functionName": "time"}),
        (None, None),
    ],
)
def test_yandexgpt_22_tool_choices(choice: Any, expected: Any) -> None:
    body = sent_body(tools=[WEATHER, TIME], tool_choice=choice, parallel_tool_calls=False)
    assert body["tools"] == [
        {"function": {"name": "weather", "description": "?", "parameters": {"type": "object"}}},
        {"function": {"name": "time", "strict": True}},
    ]
    assert body.get("toolChoice") == expected
    assert body["parallelToolCalls"] is False


def test_yandexgpt_22_openais_older_functions_are_tools() -> None:
    body = sent_body(functions=[{"name": "time"}], function_call={"name": "time"})
    assert (body["tools"], body["toolChoice"]) == ([{"function": {"name": "time"}}], {"functionName": "time"})


def test_yandexgpt_22_tools_go_to_the_surface_that_runs_them() -> None:
    alice = {"model": "aliceai-llm", "surface": "native"}
    assert sent(translator(**alice)).url.endswith("/foundationModels/v1/completion")
    assert sent(translator(**alice, tools=[WEATHER])).url.endswith("/v1/chat/completions")
    assert sent(translator("yandexgpt-5.1", tools=[WEATHER])).url.endswith("/foundationModels/v1/completion")


@pytest.mark.parametrize("model", ["yandexgpt", "gemma-3-27b-it"])
def test_yandexgpt_22_tools_on_a_model_without_them_are_refused(model: str) -> None:
    with pytest.raises(BadRequest, match="cannot call tools"):
        translator(model, facts=settings(tools=False), tools=[WEATHER])


@pytest.mark.parametrize(
    "body",
    [
        {"tools": [{"type": "web_search"}]},
        {"tools": [{"type": "function"}]},
        {"tool_choice": "required"},
        {"tools": [TIME], "tool_choice": {"type": "function", "function": {"name": "weather"}}},
        {"n": 2},
        {"logprobs": True},
        {"top_logprobs": 3},
        {"modalities": ["text", "audio"]},
        {"audio": {"voice": "x"}},
        {"response_format": {"type": "grammar"}},
        {"response_format": {"type": "json_schema"}},
        {"messages": [{"role": "user", "content": ""}]},
        {"messages": [{"role": "assistant", "content": ""}]},
        {"messages": [QUESTION, {"role": "assistant", "content": "?"}, {"role": "user", "content": []}]},
        {"messages": [{"role": "user", "content": [{"type": "input_audio"}]}]},
        {"stop": ["x"] * 40},
    ],
)
@pytest.mark.parametrize("model", ["yandexgpt", "qwen3-235b-a22b-fp8"])
def test_yandexgpt_22_what_cannot_be_done_is_refused(body: dict[str, Any], model: str) -> None:
    with pytest.raises(BadRequest):
        sent(translator(model, **body))


SCHEMA = {"type": "object", "properties": {"a": {"type": "array", "items": {"type": "object", "properties": {}}}}}


def test_yandexgpt_23_a_nested_schema_and_the_plain_object() -> None:
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA, "strict": True}}
    body = sent_body(response_format=form)
    assert body["jsonSchema"] == {"schema": SCHEMA}
    assert "jsonObject" not in body
    body = sent_body(response_format={"type": "json_object"})
    assert body["jsonObject"] is True
    assert "jsonSchema" not in body
    body = sent_body(response_format={"type": "text"})
    assert not body.keys() & {"jsonObject", "jsonSchema"}


def test_yandexgpt_23_json_is_asked_for_where_the_prompt_does_not() -> None:
    form = {"type": "json_object"}
    assert "JSON" in sent_body(response_format=form)["messages"][0]["text"]
    asked = [{"role": "user", "content": "Answer in json."}]
    assert sent_body(response_format=form, messages=asked)["messages"] == [{"role": "user", "text": "Answer in json."}]


@pytest.mark.parametrize(
    ("body", "options"),
    [
        ({"temperature": 1.7}, {"temperature": 1.0}),
        ({"temperature": 0}, {"temperature": 0.0}),
        ({"temperature": 1}, {"temperature": 1.0}),
        ({"max_tokens": 5}, {"maxTokens": "5"}),
        ({"max_completion_tokens": 7}, {"maxTokens": "7"}),
        ({"max_tokens": 5, "max_completion_tokens": 7}, {"maxTokens": "7"}),
        ({"temperature": None}, {}),
    ],
)
def test_yandexgpt_24_options(body: dict[str, Any], options: dict[str, Any]) -> None:
    sent_options = sent_body("yandexgpt-lite", **body)["completionOptions"]
    assert sent_options == {"stream": False, **options}


@pytest.mark.parametrize(
    ("model", "body", "mode"),
    [
        ("yandexgpt", {}, "DISABLED"),
        ("yandexgpt", {"reasoning_effort": "none"}, "DISABLED"),
        ("yandexgpt", {"reasoning_effort": "minimal"}, "DISABLED"),
        ("yandexgpt", {"reasoning_effort": "low"}, "ENABLED_HIDDEN"),
        ("yandexgpt-5-pro", {"reasoning": {"effort": "high"}}, "ENABLED_HIDDEN"),
        ("yandexgpt", {"reasoning": {"enabled": True}}, "ENABLED_HIDDEN"),
        ("yandexgpt", {"reasoning": {"enabled": False}}, "DISABLED"),
        ("yandexgpt/deprecated", {"reasoning": {"max_tokens": 100}}, "ENABLED_HIDDEN"),
        ("yandexgpt/rc", {"reasoning_effort": "high"}, None),
        ("yandexgpt-5.1", {"reasoning_effort": "high"}, None),
        ("yandexgpt-lite", {"reasoning_effort": "high"}, None),
    ],
)
def test_reasoning_is_asked_of_pro_5_alone(model: str, body: dict[str, Any], mode: str | None) -> None:
    native = translator(model, **body)
    options = json.loads(sent(native).body)["completionOptions"].get("reasoningOptions")
    assert options == (None if mode is None else {"mode": mode})
    assert ("reasoning_effort" in native.downgrades) == (mode is None)


def test_what_is_changed_or_left_out_is_told_or_with_strict_refused() -> None:
    body = {"temperature": 1.7, "top_p": 0.5, "top_k": 3, "seed": 1, "frequency_penalty": 1, "logit_bias": {"1": 2}}
    expected = ["top_p", "top_k", "frequency_penalty", "seed", "logit_bias", "temperature"]
    assert list(translator(**body).downgrades) == expected
    with pytest.raises(BadRequest) as raised:
        sent(translator(of=provider(strict=True), **body))
    assert raised.value.param == "top_p"


def test_values_that_mean_the_default_are_no_downgrade() -> None:
    native = translator(of=provider(strict=True), top_p=1, frequency_penalty=0, presence_penalty=0, top_k=0, user="me")
    assert list(native.downgrades) == []
    assert set(json.loads(sent(native).body)) == {"modelUri", "completionOptions", "messages"}


@pytest.mark.parametrize("model", ["yandexgpt", "yandexgpt-lite/rc"])
def test_yandexgpt_30_an_image_to_a_text_model_is_refused_before_any_call(model: str) -> None:
    listed = [{"role": "user", "content": [{"type": "text", "text": "?"}, IMAGE]}]
    for surface in ("native", "openai"):
        with pytest.raises(BadRequest) as raised:
            sent(translator(model, surface, messages=listed))
        assert raised.value.status == 400
    with pytest.raises(BadRequest):
        sent(translator(model, facts=settings(inputs=("text", "image")), messages=listed))


def test_yandexgpt_31_messages_are_put_in_a_form_that_is_taken() -> None:
    written = messages(
        {"role": "user", "content": "Раз"},
        {"role": "system", "content": "Кратко."},
        {"role": "user", "content": [{"type": "text", "text": "два"}, {"type": "text", "text": "три"}]},
        {"role": "assistant", "content": ""},
        {"role": "assistant", "content": None},
        {"role": "developer", "content": "Вежливо."},
        {"role": "user", "content": "четыре"},
        {"role": "assistant", "content": "А"},
        {"role": "assistant", "content": "Б"},
        {"role": "user", "content": "Ну?", "name": "Иван"},
    )
    assert written == [
        {"role": "system", "text": "Кратко.\n\nВежливо."},
        {"role": "user", "text": "Раз\nдва\nтри\nчетыре"},
        {"role": "assistant", "text": "А\nБ"},
        {"role": "user", "text": "Ну?"},
    ]


def test_yandexgpt_31_null_content_with_calls_and_text_between_call_and_result() -> None:
    listed = [QUESTION, assistant_calls(("a", "time", "{}")), {"role": "assistant", "content": "жду"}, tool("a", "12")]
    assert [set(message) - {"role"} for message in messages(*listed)] == [
        {"text"},
        {"toolCallList"},
        {"toolResultList"},
    ]


def test_texts_beyond_the_limit_are_refused_here_and_not_made_by_joining() -> None:
    long = {"role": "user", "content": "я" * 60_000}
    assert [len(message["text"]) for message in messages(long, long)] == [60_000, 60_000]
    with pytest.raises(ContextLengthExceeded):
        messages({"role": "user", "content": "я" * 100_001})
    assert len(messages({"role": "user", "content": "я" * 100_000})[0]["text"]) == 100_000


def test_a_completion_is_one_message() -> None:
    for prompt in ("Жили-были", ["Жили-были"]):
        body = sent_body(kind="completions", prompt=prompt, max_tokens=5, temperature=0.1, stream=True, stop="x")
        assert body["messages"] == [{"role": "user", "text": "Жили-были"}]
        assert body["completionOptions"]["stream"] is True


@pytest.mark.parametrize(
    "body",
    [{"prompt": ["а", "б"]}, {"prompt": "а", "suffix": "б"}, {"prompt": "а", "echo": True},
     {"prompt": "а", "best_of": 2}, {"prompt": "а", "logprobs": 1}, {"prompt": ""}],
)  # fmt: skip
@pytest.mark.parametrize("model", ["yandexgpt", "gpt-oss-20b"])
def test_a_completion_that_is_no_chat_is_refused(body: dict[str, Any], model: str) -> None:
    with pytest.raises(BadRequest):
        sent(translator(model, kind="completions", **body))


def test_a_models_uri_of_another_folder_is_a_configuration_error_that_names_no_folder() -> None:
    with pytest.raises(XRouterError) as raised:
        translator("gpt://b1gforeignfolder0001/yandexgpt/latest")
    assert raised.value.status == 500
    assert "b1gforeign" not in str(raised.value.body())
    assert sent_body(f"gpt://{FOLDER}/yandexgpt/rc")["modelUri"] == f"gpt://{FOLDER}/yandexgpt/rc"
