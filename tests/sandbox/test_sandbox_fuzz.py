"""Whatever a request says, the emulators answer by their rules: never an exception, never a 5xx that nobody asked for."""

import copy
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.types import ASGIApp, Message

from xrouter.sandbox.app import create_app
from xrouter.sandbox.config import SandboxConfig
from xrouter.sandbox.credentials import SANDBOX_OPENAI_KEY, SANDBOX_YANDEX_API_KEY
from xrouter.sandbox.state import SandboxState, Token

FUNCTION = {"name": "f", "description": "d", "parameters": {"type": "object", "properties": {"a": {"type": "string"}}}}
SCHEMA = {"type": "object", "properties": {"n": {"type": "integer", "minimum": 1}}, "required": ["n"]}
OPENAI_CHAT = {
    "model": "sandbox-large",
    "messages": [{"role": "system", "content": "s"}, {"role": "user", "content": [{"type": "text", "text": "Hi"}]}],
    "tools": [{"type": "function", "function": FUNCTION}],
    "tool_choice": "auto",
    "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}},
    "stop": ["a"],
    "max_tokens": 5,
    "temperature": 1,
}
BODIES: dict[str, Any] = {
    "/openai/v1/chat/completions": OPENAI_CHAT,
    "/openai/v1/completions": {"model": "sandbox-large", "prompt": ["a", "b"], "n": 2, "stop": "x", "logprobs": 1},
    "/openai/v1/embeddings": {"model": "text-embedding-sandbox", "input": ["a", "b"], "dimensions": 4},
    "/yandex/v1/chat/completions": {
        **{key: OPENAI_CHAT[key] for key in ("messages", "tools", "response_format", "max_tokens")},
        "model": "gpt://b1gsandbox/yandexgpt/latest",
    },
    "/yandex/v1/embeddings": {"model": "emb://b1gsandbox/text-search-doc/latest", "input": "a", "dimensions": 256},
    "/yandex/foundationModels/v1/completion": {
        "modelUri": "gpt://b1gsandbox/yandexgpt/latest",
        "completionOptions": {"stream": True, "temperature": 0.3, "maxTokens": "10"},
        "messages": [{"role": "system", "text": "s"}, {"role": "user", "text": "Hi"}],
        "tools": [{"function": FUNCTION}],
        "toolChoice": {"mode": "AUTO"},
        "jsonSchema": {"schema": SCHEMA},
    },
    "/yandex/foundationModels/v1/textEmbedding": {
        "modelUri": "emb://b1gsandbox/text-search-doc",
        "text": "a",
        "dim": "256",
    },
    "/yandex/iam/v1/tokens": {"jwt": "a.b.c"},
    "/gigachat/v1/chat/completions": {
        "model": "GigaChat-2",
        "messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "Hi", "attachments": []}],
        "functions": [FUNCTION],
        "function_call": "auto",
        "response_format": {"type": "json_schema", "schema": SCHEMA, "strict": True},
        "max_tokens": 5,
    },
    "/gigachat/v1/embeddings": {"model": "Embeddings", "input": ["a"]},
    "/gigachat/v1/tokens/count": {"model": "GigaChat-2", "input": ["a"]},
    "/gigachat/v1/files": {},
    "/gigachat/api/v2/oauth": {},
}
AUTHORIZATION = {
    "gigachat": "Bearer token",
    "yandex": f"Api-Key {SANDBOX_YANDEX_API_KEY}",
    "openai": f"Bearer {SANDBOX_OPENAI_KEY}",
}
JUNK = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


def fresh() -> ASGIApp:
    config = SandboxConfig(oauth_per_s=None, generations=None, embeddings_per_s=None, tokenize_per_s=None)
    state = SandboxState(config)
    state.issue("token", Token("sandbox-client", "GIGACHAT_API_PERS", 1e11))
    return create_app(state=state)


APP = fresh()


async def post(path: str, body: bytes, content_type: bytes = b"application/json") -> tuple[int, bytes]:
    key = {
        "gigachat": "Bearer token",
        "yandex": f"Api-Key {SANDBOX_YANDEX_API_KEY}",
        "openai": f"Bearer {SANDBOX_OPENAI_KEY}",
    }
    authorization = key[path.split("/")[1]].encode()
    headers = [(b"authorization", authorization), (b"user-agent", b"t"), (b"content-type", content_type)]
    incoming: list[Message] = [{"type": "http.request", "body": body, "more_body": False}, {"type": "http.disconnect"}]
    sent: list[Message] = []

    async def receive() -> Message:
        return incoming.pop(0) if len(incoming) > 1 else incoming[0]

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": path, "headers": headers, "query_string": b"", "root_path": ""}
    await APP(scope, receive, send)
    return sent[0]["status"], b"".join(message.get("body", b"") for message in sent[1:])


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths of everything inside `value`."""
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(deeper for key, each in inside for deeper in places(each, (*path, key)))]


def changed(body: Any, place: tuple[Any, ...], junk: Any) -> Any:
    """`body` with `junk` at one place."""
    if not place:
        return junk
    copied = copy.deepcopy(body)
    inner = copied
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = junk
    return copied


@pytest.mark.parametrize("path", [path for path, body in BODIES.items() if body])
async def test_the_bodies_to_be_spoilt_are_good_ones(path: str) -> None:
    status, body = await post(path, msgspec.json.encode(BODIES[path]))
    assert status == (401 if "iam" in path else 200), body


@given(data=st.data())
@settings(deadline=None, max_examples=300)
async def test_junk_in_any_place_is_answered_by_the_rules(data: st.DataObject) -> None:
    path = data.draw(st.sampled_from(sorted(BODIES)))
    place = data.draw(st.sampled_from(places(BODIES[path])))
    body = changed(BODIES[path], place, data.draw(JUNK))
    status, answer = await post(path, msgspec.json.encode(body))
    assert status < 500
    if status >= 400:
        assert isinstance(msgspec.json.decode(answer), dict)


@given(path=st.sampled_from(sorted(BODIES)), body=st.binary(max_size=200))
@settings(deadline=None, max_examples=100)
async def test_any_bytes_are_answered_by_the_rules(path: str, body: bytes) -> None:
    for content_type in (b"application/json", b"multipart/form-data; boundary=b", b"\xff", b""):
        status, _ = await post(path, body, content_type)
        assert status < 500
