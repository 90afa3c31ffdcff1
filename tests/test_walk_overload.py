"""A request that is shed is nowhere: not in a limit, the ledger or the log, nor at the upstream. The others are as ever."""

import os
import re
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

from kit.filter_source import filter_source
from kit.gateway import RunningGateway, running_gateway
from kit.hostile import answering, chat_answer
from kit.scripted import scripted_upstream

from xrouter.wire import encode_json

CONFIG = """
server: {queue_s: 0.2}
upstreams:
  up: {provider: openai, base_url: "${URL}", concurrency: 1000}
models:
  paid/chat: {price: {input: "1", output: "2", per: 1}, max_output: 100, routes: [{upstream: up, model: m}]}
tiers:
  default: {requests: [100000/hour], concurrency: 10000}
filters: [auth, rate_limit, "busy:Busy", body, routing, token_count, quota]
"""
BUSY = filter_source("Busy", first="import time", on_request="time.sleep(0.004)")  # so that 250 a second are too many
COST = 10 * 1 + 3 * 2
BODY = {"model": "paid/chat", "messages": [{"role": "user", "content": "?"}]}


def crowd(gateway: RunningGateway, connections: int, seconds: float) -> Counter[int]:
    """So many clients of the gateway's key, each of whom asks again at once: how they were answered."""
    host, port = gateway.url.removeprefix("http://").split(":")
    body = encode_json(BODY)
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {gateway.key}\r\n"
    request = f"{head}Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body
    command = [sys.executable, "-m", "kit.crowd", host, port, str(connections), request.hex()]
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environ) as process:
        while shed(gateway)[0] < 200:
            time.sleep(0.05)
        time.sleep(seconds)
        told, _ = process.communicate(timeout=20)
    return Counter(map(int, told.split()))


def shed(gateway: RunningGateway) -> tuple[int, str]:
    """How many were shed, and all metrics."""
    text = gateway.client.get("/metrics").text
    numbers = re.findall(r"^xrouter_requests_shed_total\{.*\} (\S+)$", text, re.MULTILINE)
    return int(sum(map(float, numbers))), text


def test_a_shed_request_is_counted_nowhere(tmp_path: Path) -> None:
    (tmp_path / "busy.py").write_text(BUSY)
    with scripted_upstream() as upstream:
        upstream.set(answering(chat_answer()))
        with running_gateway(CONFIG, {"URL": upstream.url}, tmp_path) as gateway:
            statuses = crowd(gateway, 200, 1.0)
            assert set(statuses) == {200, 503}
            last = gateway.client.post("/v1/chat/completions", json=BODY)
            begun = statuses[200] + 1
            assert last.headers["x-ratelimit-remaining-requests"] == str(100_000 - begun)
            assert len(upstream.requests) == begun
            assert gateway.client.get("/api/v1/key").json()["data"]["usage"] == begun * COST
            number, metrics = shed(gateway)
            assert number == statuses[503]
            assert f"xrouter_ratelimit_admitted_total {begun:.1f}" in metrics
            gateway.log.request(last.headers["x-request-id"])
            assert sum(record["endpoint"] == "chat" for record in gateway.log.requests()) == begun
