"""Requests to a running gateway as a client makes them, and what came back, for tests of the whole walk."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx2
from kit.gateway import RunningGateway

from xrouter.sandbox.running import Sandbox
from xrouter.wire import decode_json

UPSTREAMS = """
upstreams:
  giga:
    provider: gigachat
    credentials: ${GIGACHAT_CREDENTIALS}
    base_url: ${GIGACHAT_BASE_URL}
    auth_url: ${GIGACHAT_AUTH_URL}
  yandex:
    provider: yandexgpt
    api_key: ${YANDEX_API_KEY}
    folder: ${YANDEX_FOLDER_ID}
    base_url: ${YANDEX_BASE_URL}
  local:
    provider: openai
    base_url: ${LOCAL_BASE_URL}
    api_key: ${LOCAL_API_KEY}
"""

MODELS = """
models:
  gigachat/max:
    context: 131072
    aliases: [gigachat-max]
    price: free
    routes: [{upstream: giga, model: GigaChat-2-Max}]
  gigachat/embeddings:
    kind: embedding
    price: free
    routes: [{upstream: giga, model: Embeddings}]
  yandexgpt/pro:
    context: 32768
    aliases: ["yandexgpt"]
    variants: {latest: latest, rc: rc, deprecated: deprecated}
    price: free
    routes: [{upstream: yandex, model: yandexgpt, surface: native}]
  qwen/qwen3:
    context: 262144
    price: free
    routes: [{upstream: yandex, model: qwen3-235b-a22b-fp8}]
  yandex/doc:
    kind: embedding
    price: free
    routes: [{upstream: yandex, model: text-search-doc}]
  local/large:
    context: 131072
    price: free
    routes: [{upstream: local, model: sandbox-large}]
  local/embedding:
    kind: embedding
    price: free
    routes: [{upstream: local, model: text-embedding-sandbox}]
  both/gigachat-first:
    price: free
    routes: [{upstream: giga, model: GigaChat-2-Max}, {upstream: local, model: sandbox-large}]
"""


def forget(sandbox: Sandbox) -> Sandbox:
    """The sandbox as new, but for the tokens that it has issued: the gateway goes on with those that it has."""
    tokens, iam_tokens = sandbox.state.tokens, sandbox.state.iam_tokens
    sandbox.state.reset()
    sandbox.state.tokens, sandbox.state.iam_tokens = tokens, iam_tokens
    return sandbox


def user(text: str) -> list[dict[str, Any]]:
    """A conversation of one question."""
    return [{"role": "user", "content": text}]


def post(gateway: RunningGateway, path: str, *, headers: dict[str, str] | None = None, **body: Any) -> httpx2.Response:
    """`path` with its prefix, such as /v1/chat/completions; `body` are the JSON object's fields."""
    return gateway.client.post(path, json=body, headers=headers)


def chat(gateway: RunningGateway, model: str, text: str, *, prefix: str = "/v1", **fields: Any) -> httpx2.Response:
    return post(gateway, prefix + "/chat/completions", model=model, messages=user(text), **fields)


@dataclass
class Stream:
    """A stream read to its end: the JSON of its data events, its comments, whether [DONE] came."""

    status: int
    headers: httpx2.Headers
    body: bytes
    events: list[dict[str, Any]] = field(default_factory=list)
    comments: list[str] = field(default_factory=list)
    done: bool = False

    def __post_init__(self) -> None:
        for line in self.body.decode().split("\n"):
            if line == "data: [DONE]":
                self.done = True
            elif line.startswith("data: "):
                assert not self.done, "an event after [DONE]"
                self.events.append(decode_json(line.removeprefix("data: ")))
            elif line.startswith(":"):
                self.comments.append(line[1:].strip())
            else:
                assert not line, f"a line that is no server-sent event: {line!r}"

    @property
    def text(self) -> str:
        """What the deltas say together."""
        return "".join(choice["delta"].get("content") or "" for event in self.events for choice in event["choices"])

    @property
    def finish(self) -> list[str]:
        """Every finish reason that was given; one, in a stream as it should be."""
        return [c["finish_reason"] for event in self.events for c in event["choices"] if c["finish_reason"] is not None]

    @property
    def usage(self) -> dict[str, Any] | None:
        found = [event["usage"] for event in self.events if event.get("usage") is not None]
        assert len(found) <= 1, "usage more than once"
        return found[0] if found else None

    @property
    def error(self) -> dict[str, Any] | None:
        found = [event["error"] for event in self.events if "error" in event]
        assert len(found) <= 1, "more than one error event"
        return found[0] if found else None


def read_stream(response: httpx2.Response) -> Stream:
    assert response.headers["content-type"].startswith("text/event-stream"), response.text
    return Stream(response.status_code, response.headers, response.content)


def chat_stream(gateway: RunningGateway, model: str, text: str, *, prefix: str = "/v1", **fields: Any) -> Stream:
    return read_stream(chat(gateway, model, text, prefix=prefix, stream=True, **fields))


@contextmanager
def open_chat(
    gateway: RunningGateway,
    model: str,
    text: str,
    *,
    timeout_s: float = 30,
    headers: dict[str, str] | None = None,
    **fields: Any,
) -> Iterator[httpx2.Response]:
    """A chat whose answer is read by the test; leaving the block closes the connection."""
    body = {"model": model, "messages": user(text), "stream": True, **fields}
    with (
        httpx2.Client(base_url=gateway.url, headers=gateway.auth, verify=False, timeout=timeout_s) as client,
        client.stream("POST", "/v1/chat/completions", json=body, headers=headers) as response,
    ):
        yield response


def record_of(gateway: RunningGateway, response: httpx2.Response | Stream) -> dict[str, Any]:
    """The log line of the request that `response` answers."""
    return gateway.log.request(response.headers["x-request-id"])


def metric(gateway: RunningGateway, name: str, **labels: str) -> float:
    """The value of one series; 0 if it is not there."""
    return gateway.app.metrics.registry.get_sample_value(name, labels) or 0.0


def until(condition: Callable[[], bool], *, timeout_s: float = 5.0) -> float:
    """Wait for `condition`, which another thread makes true; returns the seconds that it took."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < timeout_s, "it did not happen in time"
        time.sleep(0.005)
    return time.monotonic() - began
