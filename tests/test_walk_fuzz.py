"""Bodies that nobody would write: whatever comes in, what goes out is an answer or a documented 4xx (fault matrix F24)."""

from collections.abc import Iterator
from typing import Any

import httpx2
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from kit.gateway import CHAIN, RunningGateway, running_gateway
from kit.walk import MODELS, UPSTREAMS, user

from xrouter.sandbox.running import running_sandbox
from xrouter.wire import ChatRequest, CompletionRequest, EmbeddingRequest, encode_json

BASES: dict[str, tuple[tuple[str, ...], tuple[str, ...], dict[str, Any]]] = {
    "chat/completions": (
        ("local/large", "gigachat/max", "yandexgpt/pro", "qwen/qwen3"),
        ChatRequest.__struct_fields__,
        {"messages": user("Привет"), "max_tokens": 5},
    ),
    "completions": (("local/large", "gigachat/max"), CompletionRequest.__struct_fields__, {"prompt": "x"}),
    "embeddings": (("local/embedding", "gigachat/embeddings"), EmbeddingRequest.__struct_fields__, {"input": "x"}),
}
LEAVES = (
    st.none()
    | st.booleans()
    | st.integers(-(2**66), 2**66)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=20)
    | st.sampled_from(
        ["", "user", "tool", "function", "auto", "none", "required", "json_object", "json_schema", "low", "{}"]
    )
)
VALUES = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(
                ["role", "content", "type", "text", "function", "name", "arguments", "id", "schema", "order"]
            )
            | st.text(max_size=8),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
CALLS = st.lists(
    st.fixed_dictionaries(
        {
            "id": TEXTS,
            "type": st.just("function"),
            "function": st.fixed_dictionaries({"name": TEXTS, "arguments": TEXTS}),
        }
    ),
    max_size=3,
)
PARTS = st.lists(st.fixed_dictionaries({"type": st.just("text"), "text": TEXTS}), max_size=2)
MESSAGES = st.lists(
    st.fixed_dictionaries(
        {"role": st.sampled_from(["system", "developer", "user", "assistant", "tool", "function"])},
        optional={
            "content": TEXTS | st.none() | PARTS,
            "name": TEXTS,
            "tool_calls": CALLS,
            "tool_call_id": TEXTS,
        },
    ),
    min_size=1,
    max_size=5,
)
TOOLS = st.lists(
    st.fixed_dictionaries(
        {
            "type": st.just("function"),
            "function": st.fixed_dictionaries(
                {"name": TEXTS},
                optional={"description": TEXTS, "parameters": st.dictionaries(TEXTS, VALUES, max_size=3)},
            ),
        }
    ),
    max_size=3,
)
FEW = settings(max_examples=120, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    config = UPSTREAMS + MODELS + CHAIN.replace("retries: 2", "retries: 0, breaker: {failures: 100000}")
    folder = tmp_path_factory.mktemp("gateway")
    with (
        running_sandbox(recorded_requests=1) as sandbox,
        running_gateway(config, sandbox.environ, folder) as gateway,
    ):
        yield gateway


def check(gateway: RunningGateway, path: str, content: bytes) -> httpx2.Response:
    answer = gateway.client.post("/v1/" + path, content=content)
    assert answer.status_code < 500, answer.text
    if answer.status_code != 200:
        error = answer.json()["error"]
        assert error["code"] == answer.status_code
        assert error["type"]
        assert error["message"]
    elif answer.headers["content-type"].startswith("text/event-stream"):
        assert b'"finish_reason":"error"' not in answer.content, answer.text
        assert answer.content.endswith(b"data: [DONE]\n\n")
    else:
        assert answer.json()["model"]
    return answer


@pytest.mark.parametrize("path", BASES)
@given(content=st.binary(max_size=200))
@FEW
def test_f24_any_bytes(gateway: RunningGateway, path: str, content: bytes) -> None:
    check(gateway, path, content)


@pytest.mark.parametrize("path", BASES)
@given(data=st.data())
@FEW
def test_f24_any_value_in_any_field(gateway: RunningGateway, path: str, data: st.DataObject) -> None:
    models, fields, base = BASES[path]
    changes = data.draw(st.dictionaries(st.sampled_from(fields), VALUES, min_size=1, max_size=3))
    body = {"model": data.draw(st.sampled_from(models)), **base, **changes}
    check(gateway, path, encode_json(body))


@given(
    model=st.sampled_from(BASES["chat/completions"][0]),
    messages=MESSAGES,
    tools=st.none() | TOOLS,
    stream=st.booleans(),
)
@example(
    model="gigachat/max", messages=[{"role": "tool", "tool_call_id": "x", "content": "1"}], tools=None, stream=True
)
@FEW
def test_f24_conversations_out_of_order(
    gateway: RunningGateway, model: str, messages: list[Any], tools: list[Any] | None, stream: bool
) -> None:
    body = {"model": model, "messages": messages, "tools": tools, "stream": stream, "max_tokens": 5}
    check(gateway, "chat/completions", encode_json(body))
