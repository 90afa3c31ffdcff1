"""Bad input: the documented 4xx in the contract's shape, nothing sent upstream (fault matrix F23 to F25, F34, F35)."""

import time
from collections.abc import Iterator
from typing import Any

import pytest
from kit.gateway import CHAIN, RunningGateway, running_gateway
from kit.walk import MODELS, UPSTREAMS, forget, metric, post, record_of, user

from xrouter.sandbox.running import Sandbox, running_sandbox
from xrouter.wire import encode_json

GOOD: dict[str, Any] = {"model": "local/large", "messages": user("Привет")}


@pytest.fixture(scope="module")
def running() -> Iterator[Sandbox]:
    with running_sandbox() as sandbox:
        yield sandbox


@pytest.fixture
def sandbox(running: Sandbox) -> Sandbox:
    return forget(running)


@pytest.fixture(scope="module")
def gateway(running: Sandbox, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    config = UPSTREAMS + MODELS + CHAIN.replace("20MB", "200KB")
    with running_gateway(config, running.environ, tmp_path_factory.mktemp("gateway")) as gateway:
        yield gateway


def refused(
    gateway: RunningGateway,
    sandbox: Sandbox,
    content: bytes,
    status: int = 400,
    *,
    path: str = "/v1/chat/completions",
    headers: dict[str, str] | None = None,
) -> dict[str, Any]:
    """Send `content`, check everything that every refusal has in common, return its `error`."""
    began = time.monotonic()
    answer = gateway.client.post(path, content=content, headers={"Content-Type": "application/json", **(headers or {})})
    assert time.monotonic() - began < 0.5
    assert answer.status_code == status, answer.text
    body = answer.json()
    assert set(body) == {"error"}
    error: dict[str, Any] = body["error"]
    assert set(error) == {"code", "type", "message", "param", "metadata"}
    assert error["code"] == status
    assert error["message"]
    assert len(error["message"]) < 500
    assert "Traceback" not in answer.text
    assert answer.headers["content-type"] == "application/json"
    assert record_of(gateway, answer)["status"] == status
    assert sandbox.state.count("gigachat") == sandbox.state.count("yandex") == sandbox.state.count("openai") == 0
    return error


NOT_JSON: dict[str, bytes] = {
    "empty": b"",
    "space": b" \r\n",
    "half": b'{"model": "local/large", "messages": [',
    "text": b"hello",
    "trailing": encode_json(GOOD) + b"}",
    "two": encode_json(GOOD) * 2,
    "trailing-comma": b'{"model": "local/large",}',
    "comment": b'{"model": "local/large" /* no */}',
    "single-quotes": b"{'model': 'local/large'}",
    "array": b"[]",
    "string": b'"x"',
    "number": b"1",
    "null": b"null",
    "nan": b'{"model": "local/large", "messages": [], "temperature": NaN}',
    "infinity": b'{"model": "local/large", "messages": [], "temperature": -Infinity}',
    "1e400": b'{"model": "local/large", "messages": [{"role":"user","content":"x"}], "temperature": 1e400}',
    "leading-zero": b'{"model": "local/large", "seed": 012}',
    "digits": b'{"model": "local/large", "messages": [{"role":"user","content":"x"}], "seed": ' + b"9" * 5000 + b"}",
    "nested-arrays": b"[" * 100_000,
    "nested-objects": b'{"a":' * 30_000 + b"1" + b"}" * 30_000,
    "nested-field": b'{"model": "local/large", "metadata": ' + b"[" * 20_000 + b"]" * 20_000 + b"}",
    "bom": b"\xef\xbb\xbf" + encode_json(GOOD),
    "utf-16": encode_json(GOOD).decode().encode("utf-16"),
    "utf-32": encode_json(GOOD).decode().encode("utf-32"),
    "latin-1": '{"model": "local/large", "messages": [{"role":"user","content":"é"}]}'.encode("latin-1"),
    "cut-utf-8": b'{"model": "local/large", "messages": [{"role":"user","content":"\xd0"}]}',
    "overlong": b'{"model": "local/large", "messages": [{"role":"user","content":"\xc0\xaf"}]}',
    "surrogate-bytes": b'{"model": "local/large", "messages": [{"role":"user","content":"\xed\xa0\x80"}]}',
    "lone-surrogate": b'{"model": "local/large", "messages": [{"role":"user","content":"\\ud83d"}]}',
    "reversed-surrogates": b'{"model": "local/large", "messages": [{"role":"user","content":"\\ude00\\ud83d"}]}',
    "raw-nul": b'{"model": "local/large\x00"}',
    "raw-newline": b'{"model": "local\nlarge"}',
    "bad-escape": b'{"model": "\\x41"}',
}


@pytest.mark.parametrize("name", NOT_JSON)
def test_f24_what_is_no_json_object(sandbox: Sandbox, gateway: RunningGateway, name: str) -> None:
    error = refused(gateway, sandbox, NOT_JSON[name])
    assert error["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    ("content", "param"),
    [
        (b'{"model":"local/large","model":"gigachat/max","messages":[{"role":"user","content":"x"}]}', "model"),
        (b'{"model":"local/large","mod\\u0065l":"gigachat/max","messages":[{"role":"user","content":"x"}]}', "model"),
        (b'{"model":"local/large","messages":[{"role":"user","content":"x","content":"y"}]}', "content"),
        (b'{"model":"local/large","max_tokens":1,"max_tokens":999,"messages":[]}', "max_tokens"),
    ],
)
def test_f24_a_name_that_stands_twice(sandbox: Sandbox, gateway: RunningGateway, content: bytes, param: str) -> None:
    assert refused(gateway, sandbox, content)["param"] == param


WRONG: list[tuple[str, dict[str, Any], str]] = [
    ("chat", {"model": None}, "model"),
    ("chat", {"model": ""}, "model"),
    ("chat", {"model": 5}, "model"),
    ("chat", {"model": ["local/large"]}, "model"),
    ("chat", {"models": "local/large"}, "models"),
    ("chat", {"messages": None}, "messages"),
    ("chat", {"messages": []}, "messages"),
    ("chat", {"messages": "hello"}, "messages"),
    ("chat", {"messages": [5]}, "messages[0]"),
    ("chat", {"messages": [{}]}, "messages[0].role"),
    ("chat", {"messages": [{"role": "robot", "content": "x"}]}, "messages[0].role"),
    ("chat", {"messages": [{"role": "user", "content": 5}]}, "messages[0].content"),
    ("chat", {"messages": [{"role": "user", "content": [{"text": "x"}]}]}, "messages[0].content[0].type"),
    ("chat", {"messages": [{"role": "assistant", "tool_calls": [{}]}]}, "messages[0].tool_calls[0].function"),
    ("chat", {"stream": "yes"}, "stream"),
    ("chat", {"stream": 1}, "stream"),
    ("chat", {"temperature": True}, "temperature"),
    ("chat", {"temperature": "hot"}, "temperature"),
    ("chat", {"temperature": -0.1}, "temperature"),
    ("chat", {"temperature": 2.1}, "temperature"),
    ("chat", {"top_p": 1.5}, "top_p"),
    ("chat", {"frequency_penalty": 3}, "frequency_penalty"),
    *(("chat", {name: value}, name) for name in ("max_tokens", "n", "max_completion_tokens")
      for value in (-1, 0, 1.5, "5", True, 18446744073686646784, 10**30)),
    ("chat", {"n": 1_000_000_000}, "n"),
    ("chat", {"max_tokens": 2**31}, "max_tokens"),
    ("chat", {"tools": {}}, "tools"),
    ("chat", {"tools": [{"type": "function", "function": {}}]}, "tools[0].function.name"),
    ("chat", {"tool_choice": "always"}, "tool_choice"),
    ("chat", {"response_format": "json"}, "response_format"),
    ("chat", {"stop": [1]}, "stop[0]"),
    ("chat", {"stream_options": []}, "stream_options"),
    ("chat", {"provider": "giga"}, "provider"),
    ("chat", {"provider": {"order": "giga"}}, "provider.order"),
    ("chat", {"logit_bias": {"1": "x"}}, "logit_bias[...]"),
    ("chat", {"prompt": "both"}, "prompt"),
    ("completions", {"messages": user("both")}, "prompt"),
    ("completions", {"prompt": None}, "prompt"),
    ("completions", {"prompt": {}}, "prompt"),
    ("embeddings", {"input": None}, "input"),
    ("embeddings", {"input": []}, "input"),
    ("embeddings", {"input": {"a": 1}}, "input"),
    ("embeddings", {"input": ["x"] * 2049}, "input"),
    ("embeddings", {"encoding_format": "hex"}, "encoding_format"),
    ("embeddings", {"dimensions": 0}, "dimensions"),
    ("embeddings", {"stream": True}, "stream"),
]  # fmt: skip
BASES: dict[str, tuple[str, dict[str, Any]]] = {
    "chat": ("/v1/chat/completions", GOOD),
    "completions": ("/v1/completions", {"model": "local/large", "prompt": "x"}),
    "embeddings": ("/api/v1/embeddings", {"model": "local/embedding", "input": "x"}),
}


@pytest.mark.parametrize(("kind", "change", "param"), WRONG, ids=lambda value: str(value)[:40])
def test_f24_f34_the_field_at_fault_is_named(
    sandbox: Sandbox, gateway: RunningGateway, kind: str, change: dict[str, Any], param: str
) -> None:
    path, base = BASES[kind]
    error = refused(gateway, sandbox, encode_json({**base, **change}), path=path)
    assert error["param"] == param


NAMES = [
    "local/LARGE", "Local/large", " local/large", "local/large ", "local/large\x00", "local/large\r\nX-Evil: 1",
    "../local/large", "local/../local/large", "local%2Flarge", "local／large", "lосаl/large", "local/large:free",
    "x" * 10_240, "🦜" * 2000, "\u2028", "{model}", "%s%n", "'; drop table keys;--", "openrouter/auto", "local/large\u200b",
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES, ids=lambda name: repr(name)[:20])
def test_f35_names_are_matched_exactly(sandbox: Sandbox, gateway: RunningGateway, name: str) -> None:
    lines = gateway.log.text.count(b"\n")
    error = refused(gateway, sandbox, encode_json({**GOOD, "model": name}), 404)
    assert error["type"] == "model_not_found"
    assert error["param"] == "model"
    assert gateway.log.text.count(b"\n") == lines + 1, "user text never starts a second line"
    assert b"X-Evil" not in b"".join(line[:20] for line in gateway.log.text.splitlines())


def test_f35_labels_come_from_the_configuration(sandbox: Sandbox, gateway: RunningGateway) -> None:
    for name in NAMES:
        refused(gateway, sandbox, encode_json({**GOOD, "model": name}), 404)
    exposition = gateway.client.get("/metrics").text
    models = {line.split('model="')[1].split('"')[0] for line in exposition.splitlines() if 'model="' in line}
    assert models <= {"unknown", *gateway.app.settings.models}
    assert metric(gateway, "xrouter_requests_total", endpoint="chat", model="unknown", upstream="unknown", status="404")


def test_a_model_of_another_kind(sandbox: Sandbox, gateway: RunningGateway) -> None:
    error = refused(gateway, sandbox, encode_json({**GOOD, "model": "local/embedding"}))
    assert error["param"] == "model"
    path, base = BASES["embeddings"]
    assert refused(gateway, sandbox, encode_json({**base, "model": "local/large"}), path=path)["param"] == "model"


def test_an_image_for_a_model_without_eyes(sandbox: Sandbox, gateway: RunningGateway) -> None:
    content = [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}]
    body = {**GOOD, "messages": [{"role": "user", "content": content}]}
    assert refused(gateway, sandbox, encode_json(body))["param"] == "messages"


def test_f23_a_body_that_is_too_large(sandbox: Sandbox, gateway: RunningGateway) -> None:
    error = refused(gateway, sandbox, encode_json({**GOOD, "user": "x" * 200_000}), 413)
    assert error["type"] == "payload_too_large"
    declared = gateway.client.post("/v1/chat/completions", content=iter([b" " * 100_000] * 3))  # no Content-Length
    assert declared.status_code == 413


def test_a_compressed_body(sandbox: Sandbox, gateway: RunningGateway) -> None:
    refused(gateway, sandbox, encode_json(GOOD), headers={"Content-Encoding": "gzip"})


@pytest.mark.parametrize("path", ["/v1/chat", "/v1/", "/v1/chat/completions/", "/v2/chat/completions", "/v1//models"])
def test_a_path_that_is_not_there(sandbox: Sandbox, gateway: RunningGateway, path: str) -> None:
    refused(gateway, sandbox, encode_json(GOOD), 404, path=path)


def test_a_method_that_a_path_does_not_take(sandbox: Sandbox, gateway: RunningGateway) -> None:
    answer = gateway.client.get("/v1/chat/completions")
    assert answer.status_code == 405
    assert answer.json()["error"]["type"] == "method_not_allowed"
    assert answer.headers["allow"] == "POST"
    assert refused(gateway, sandbox, b"{}", 405, path="/v1/models")["message"]


@pytest.mark.parametrize("query", ["offset=-1", "limit=x", "offset=1e3", "limit=99999999999999999999", "context=%00"])
def test_a_query_that_is_no_number(gateway: RunningGateway, query: str) -> None:
    answer = gateway.client.get("/v1/models?" + query)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == query.partition("=")[0]


def test_f25_strange_text_arrives_byte_for_byte(sandbox: Sandbox, gateway: RunningGateway) -> None:
    text = "NUL \x00, \u2028, \u2029, \x7f, 👩‍👩‍👧, \ufeff, \ufffd, e\u0301, \U0010ffff, \\u0041, \t"
    answer = post(gateway, "/v1/chat/completions", model="local/large", messages=user(text), user=text)
    assert answer.status_code == 200
    sent = sandbox.state.last("openai").body
    assert encode_json(text) in sent
    assert record_of(gateway, answer)["status"] == 200
