"""OpenAI's emulator refuses what OpenAI refuses, and names the parameter at fault."""

from typing import Any

import httpx
import plain_http
import pytest

from xrouter.sandbox.credentials import SANDBOX_OPENAI_KEY
from xrouter.sandbox.running import Sandbox, running_sandbox

KEY = {"Authorization": f"Bearer {SANDBOX_OPENAI_KEY}"}
USER = {"role": "user", "content": "Hi"}
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}
CALL = {
    "role": "assistant",
    "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}],
}
RESULT = {"role": "tool", "tool_call_id": "c1", "content": "1"}


def chat(sandbox: Sandbox, headers: dict[str, str] = KEY, **body: Any) -> httpx.Response:
    body = {"model": "sandbox-large", "messages": [USER], **body}
    return plain_http.post(f"{sandbox.openai_url}/chat/completions", headers=headers, json=body)


def test_a_key_is_needed(sandbox: Sandbox) -> None:
    assert chat(sandbox, {}).status_code == 401
    wrong = chat(sandbox, {"Authorization": "Bearer wrong"})
    assert (wrong.status_code, wrong.json()["error"]["code"]) == (401, "invalid_api_key")
    assert "wrong" not in wrong.text


@pytest.mark.parametrize(
    ("body", "status", "param", "code"),
    [
        ({"model": "gpt-9"}, 404, "model", "model_not_found"),
        ({"model": "text-embedding-sandbox"}, 400, "model", None),
        ({"model": 1}, 400, "model", "invalid_value"),
        ({"messages": []}, 400, "messages", "invalid_value"),
        ({"messages": [{"role": "robot", "content": "a"}]}, 400, "messages[0].role", "invalid_value"),
        ({"messages": [{"role": "user", "content": 5}]}, 400, "messages[0].content", "invalid_value"),
        ({"messages": [{"role": "user"}]}, 400, "messages.[0].content", "invalid_type"),
        ({"messages": [{"content": "a"}]}, 400, "messages[0].role", "missing_required_parameter"),
        ({"messages": [{**USER, "typo": 1}]}, 400, "messages[0].typo", "unknown_parameter"),
        ({"typo": 1}, 400, "typo", "unknown_parameter"),
        ({"temperature": 2.1}, 400, "temperature", "invalid_value"),
        ({"temperature": "1"}, 400, "temperature", "invalid_value"),
        ({"n": 0}, 400, "n", "invalid_value"),
        ({"max_tokens": 1, "max_completion_tokens": 1}, 400, "max_tokens", "invalid_parameter_combination"),
        ({"stream_options": {"include_usage": True}}, 400, "stream_options", None),
        ({"top_logprobs": 2}, 400, "top_logprobs", None),
        ({"tool_choice": "auto"}, 400, "tool_choice", None),
        ({"parallel_tool_calls": True}, 400, "parallel_tool_calls", None),
        ({"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "g"}}}, 400, "tool_choice", None),
        ({"tools": [TOOL], "functions": [TOOL["function"]]}, 400, "functions", None),
        (
            {"tools": [{"type": "function", "function": {"name": "b d"}}]},
            400,
            "tools[0].function.name",
            "invalid_value",
        ),
        ({"response_format": {"type": "json_object"}}, 400, "messages", None),
        (
            {"response_format": {"type": "json_schema"}},
            400,
            "response_format.json_schema",
            "missing_required_parameter",
        ),
        ({"stop": ["a", "b", "c", "d", "e"]}, 400, "stop", "invalid_value"),
        ({"messages": [USER, RESULT]}, 400, "messages.[1].role", None),
        ({"messages": [USER, CALL]}, 400, "messages", None),
        ({"messages": [USER, CALL, USER]}, 400, "messages", None),
        ({"messages": [USER, CALL, {**RESULT, "tool_call_id": "c2"}]}, 400, "messages.[2].role", None),
        ({"messages": [{"role": "assistant"}]}, 400, "messages.[0].content", "invalid_type"),
        ({"model": "sandbox-small", "max_tokens": 8192}, 400, "messages", "context_length_exceeded"),
    ],
)
def test_chat_errors(sandbox: Sandbox, body: dict[str, Any], status: int, param: str, code: str | None) -> None:
    answer = chat(sandbox, **body)
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert (error["param"], error["code"]) == (param, code)
    assert error["message"]


def test_calls_and_results_in_order(sandbox: Sandbox) -> None:
    assert chat(sandbox, messages=[USER, CALL, RESULT]).status_code == 200


def test_malformed_json(sandbox: Sandbox) -> None:
    for body in (b"", b"{", b'{"model": NaN}', b"\xff", b'{"audio": {"a": ' + b"[" * 100_000):
        answer = plain_http.post(f"{sandbox.openai_url}/chat/completions", headers=KEY, content=body)
        assert answer.status_code == 400
        assert answer.json()["error"]["message"].startswith("We could not parse")


def test_usage_is_null_until_the_last_chunk_when_it_is_asked_for(sandbox: Sandbox) -> None:
    for options, expected in (({"include_usage": True}, True), ({}, False)):
        lines = chat(sandbox, stream=True, stream_options=options).text.split("\n\n")[:-2]
        assert all('"usage":null' in line for line in lines[:-1]) is expected
        assert ('"usage":{' in lines[-1]) is expected


def test_unknown_fields_may_be_let_through() -> None:
    with running_sandbox(refuse_unknown_fields=False) as sandbox:
        assert chat(sandbox, typo=1).status_code == 200
        assert chat(sandbox, temperature=3).status_code == 400


def test_a_limit_of_simultaneous_requests() -> None:
    with running_sandbox(openai_concurrency=1) as sandbox:
        body = {"model": "sandbox-large", "messages": [USER], "stream": True}
        url = f"{sandbox.openai_url}/chat/completions"
        with plain_http.stream("POST", url, headers={**KEY, "X-Emu-Scenario": "drip=30"}, json=body) as stream:
            assert stream.status_code == 200
            assert chat(sandbox).status_code == 429


@pytest.mark.parametrize(
    ("body", "status", "param"),
    [
        ({"model": "sandbox-large", "input": "a"}, 403, "model"),
        ({"model": "nothing", "input": "a"}, 404, "model"),
        ({"input": []}, 400, "input"),
        ({"input": ""}, 400, "input"),
        ({"input": ["a", 1]}, 400, "input"),
        ({"input": "a", "dimensions": 4000}, 400, "dimensions"),
        ({"input": "a", "encoding_format": "hex"}, 400, "encoding_format"),
    ],
)
def test_embedding_errors(sandbox: Sandbox, body: dict[str, Any], status: int, param: str) -> None:
    body = {"model": "text-embedding-sandbox", **body}
    answer = plain_http.post(f"{sandbox.openai_url}/embeddings", headers=KEY, json=body)
    assert (answer.status_code, answer.json()["error"]["param"]) == (status, param)


def test_other_paths(sandbox: Sandbox) -> None:
    unknown = plain_http.get(f"{sandbox.openai_url}/assistants", headers=KEY)
    assert (unknown.status_code, unknown.json()["error"]["message"]) == (404, "Invalid URL (GET /v1/assistants)")
    assert plain_http.get(f"{sandbox.openai_url}/models/sandbox-large", headers=KEY).json()["id"] == "sandbox-large"
    assert plain_http.get(f"{sandbox.openai_url}/models/nothing", headers=KEY).status_code == 404
