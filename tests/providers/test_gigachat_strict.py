"""Whatever a client sends, GigaChat's own checks never have to refuse it: it is sent in a shape that they accept, or not at
all. The sandbox's emulator has those checks, with the provider's texts."""

from typing import Any

import pytest
from gigachat_kit import sent, translator
from hypothesis import given, settings
from hypothesis import strategies as st

from xrouter.errors import BadRequest
from xrouter.sandbox.config import SandboxConfig
from xrouter.sandbox.gigachat_wire import read_chat
from xrouter.sandbox.reply import Refusal
from xrouter.sandbox.state import SandboxState

SANDBOX = SandboxState(SandboxConfig())
NAMES = st.sampled_from(["f", "web_search", "2nd", "имя", "user_web_search", "g.h-i"])
IDS = st.sampled_from(["a", "b", "", "call_77d3fb14457a46ba937e8d856156d003"])
TEXTS = st.sampled_from(["", " ", "Привет", "42", "null", '{"a":1}', "[1]", '"x"', "{", "NaN"])
CONTENT = TEXTS | st.none() | st.lists(st.builds(lambda text: {"type": "text", "text": text}, TEXTS), max_size=2)


def plain(role: str) -> st.SearchStrategy[dict[str, Any]]:
    return st.builds(lambda content: {"role": role, "content": content}, CONTENT)


calls = st.lists(
    st.builds(lambda at, name, text: {"id": at, "function": {"name": name, "arguments": text}}, IDS, NAMES, TEXTS),
    min_size=1,
    max_size=3,
)
messages = (
    plain("user")
    | st.builds(lambda content, made: {"role": "assistant", "content": content, "tool_calls": made}, CONTENT, calls)
    | st.builds(lambda at, content: {"role": "tool", "tool_call_id": at, "content": content}, IDS, CONTENT)
    | st.builds(lambda name: {"role": "assistant", "function_call": {"name": name, "arguments": "{}"}}, NAMES)
    | st.builds(lambda name, content: {"role": "function", "name": name, "content": content}, NAMES, CONTENT)
)


def turn(made: list[dict[str, Any]], contents: list[Any], order: list[int]) -> list[dict[str, Any]]:
    """An assistant's calls, and a result of each, in any order."""
    results = [
        {"role": "tool", "tool_call_id": made[at]["id"], "content": contents[at]} for at in order if at < len(made)
    ]
    return [{"role": "assistant", "content": "", "tool_calls": made}, *results]


turns = st.builds(turn, calls, st.lists(CONTENT, min_size=3, max_size=3), st.permutations([0, 1, 2]))
talk = plain("system") | plain("developer") | plain("user") | plain("assistant")
histories = st.lists(talk.map(lambda message: [message]) | turns, min_size=1, max_size=6).map(
    lambda groups: [message for group in groups for message in group]
) | st.lists(messages, min_size=1, max_size=8)
schemas = st.recursive(
    st.sampled_from(
        [{}, True, {"type": "integer", "enum": [1, 2]}, {"type": ["null", "string"], "format": "uuid"}, {"const": 1}]
    ),
    lambda inner: (
        st.builds(lambda one: {"items": one}, inner)
        | st.builds(lambda one, two: {"anyOf": [{"type": "null"}, one, two]}, inner, inner)
        | st.builds(lambda one: {"properties": {"x": one}, "required": ["x", "y"]}, inner)
        | st.builds(lambda one: {"allOf": [one, {"description": "и"}]}, inner)
    ),
    max_leaves=5,
)
tools = st.lists(
    st.builds(
        lambda name, schema: {"type": "function", "function": {"name": name, "parameters": schema}},
        NAMES,
        st.none() | st.builds(lambda one: {"type": "object", "properties": {"p": one}}, schemas),
    ),
    max_size=3,
    unique_by=lambda tool: tool["function"]["name"],  # type: ignore[no-any-return]
)
formats = st.none() | st.sampled_from(
    [
        {"type": "text"},
        {"type": "json_object"},
        {"type": "json_schema", "json_schema": {"name": "2nd", "schema": {"properties": {"a": {}}}, "strict": True}},
    ]
)


@settings(max_examples=400)
@given(
    histories,
    tools,
    st.sampled_from([None, "none", "auto", "required"]),
    formats,
    st.sampled_from([None, 0, 0.5]),
    st.booleans(),
)
def test_what_is_sent_is_accepted(
    history: list[dict[str, Any]],
    functions: list[dict[str, Any]],
    choice: str | None,
    wanted: Any,
    temperature: float | None,
    stream: bool,
) -> None:
    asked = translator(
        messages=history,
        **({"tools": functions, "tool_choice": choice} if functions else {}),
        response_format=wanted,
        temperature=temperature,
        stream=stream,
    )
    try:
        body = sent(asked).body
    except BadRequest:
        return
    try:
        read_chat(SANDBOX, body)
    except Refusal as refusal:
        if b"functions may be used only" in b"".join(refusal.reply.frames):
            return  # after an assistant's own text, which some third parties report (section 6): theirs to explain
        pytest.fail(f"{b''.join(refusal.reply.frames).decode()} for {body.decode()}")
