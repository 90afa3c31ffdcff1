"""What a request has used is freed by itself: what is left to the collector stops the loop, most of all under load."""

import gc
import time
from pathlib import Path

import pytest
from kit.gateway import running_gateway
from kit.hostile import answer, answering, chat_answer
from kit.scripted import scripted_upstream

from xrouter.context import RequestContext

CONFIG = """
upstreams:
  up: {provider: openai, base_url: "${URL}"}
models:
  paid/chat: {price: {input: "1", output: "2", per: 1}, max_output: 100, routes: [{upstream: up, model: m}]}
tiers:
  default: {requests: [10/day], tokens: [100000/minute], concurrency: 10}
filters: [auth, rate_limit, body, {routing: {retries: 0}}, token_count, quota]
"""
STREAM = answer(
    b'data: {"id":"u","model":"m","choices":[{"index":0,"delta":{"content":"yes"},"finish_reason":"stop"}]}\n\n'
    b"data: [DONE]\n\n",
    "content-type: text/event-stream",
)
MESSAGES = [{"role": "user", "content": "?"}]


@pytest.mark.parametrize(
    ("upstream_answer", "body", "times", "status"),
    [
        (chat_answer(), {"model": "paid/chat"}, 3, 200),
        (STREAM, {"model": "paid/chat", "stream": True}, 3, 200),
        (chat_answer(), {"model": "paid/chat", "max_tokens": "many"}, 3, 400),
        (chat_answer(), {"model": "no/such"}, 3, 404),
        (chat_answer(), {"model": "paid/chat"}, 12, 429),
        (answer(b"{}", "content-type: application/json", status="500 Oops"), {"model": "paid/chat"}, 3, 502),
    ],
    ids=["whole", "stream", "bad request", "no model", "over its limit", "upstream failed"],
)
def test_a_request_leaves_nothing_for_the_collector(
    upstream_answer: bytes, body: dict[str, object], times: int, status: int, tmp_path: Path
) -> None:
    """Fails where the admission of `rate_limit` stays in the stash: 45 objects a request, a sixth of the loop's time."""
    with scripted_upstream() as upstream:
        upstream.set(answering(upstream_answer))
        with running_gateway(CONFIG, {"URL": upstream.url}, tmp_path) as gateway:
            gc.collect()
            gc.disable()
            try:
                for _ in range(times):
                    response = gateway.client.post("/v1/chat/completions", json={"messages": MESSAGES, **body})
                assert response.status_code == status
                del response
                deadline = time.monotonic() + 5
                while alive := [item for item in gc.get_objects() if isinstance(item, RequestContext)]:
                    assert time.monotonic() < deadline, len(alive)
                    del alive
                    time.sleep(0.01)
            finally:
                gc.enable()
