"""F08: a client that leaves after any byte of the upstream's answer, from every provider, under every policy.

The upstream sends so many bytes and waits; the client leaves when it has every word in them. XROUTER_EVERY_BYTE=1 stops at
each byte; otherwise it is each 41st, and those around the ends of events.
"""

import asyncio
import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any, Final

import pytest
from kit.gateway import RunningGateway, running_gateway
from kit.hostile import Peer
from kit.raw_client import RawClient
from kit.scripted import Scripted, scripted_upstream
from kit.walk import until, user
from test_walk_cut import CONFIG, IN, OUT, STREAMS, TOKEN, WORDS

from xrouter import tokens
from xrouter.wire import encode_json

STRIDE: Final = 1 if os.environ.get("XROUTER_EVERY_BYTE") else 41
UPSTREAM_MODEL: Final = {"a/local": "m", "a/giga": "GigaChat-2", "a/native": "yandexgpt", "a/compatible": "yandexgpt"}
REPORTED: Final = 21 * IN + 34 * OUT  # the usage that each stream ends with


@pytest.fixture(scope="module")
def upstream() -> Iterator[Scripted]:
    with scripted_upstream() as scripted:
        yield scripted


@pytest.fixture(scope="module", params=["cancel", "drain_and_bill", "bill_delivered"])
def served(
    request: pytest.FixtureRequest, upstream: Scripted, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, RunningGateway]]:
    """A policy, and a gateway that has it."""
    config = CONFIG.replace("quota: {}", f"quota: {{client_abort: {request.param}}}")
    with running_gateway(config, {"URL": upstream.url}, tmp_path_factory.mktemp("gateway")) as running:
        yield request.param, running


def offsets(stream: bytes) -> list[int]:
    ends = [at + 1 for at, byte in enumerate(stream) if byte == 0x0A and stream[at - 1] != 0x0A]
    near = {end + by for end in ends for by in (-1, 0, 1)} if STRIDE > 1 else set()
    return sorted(offset for offset in {*range(0, len(stream), STRIDE), *near} if offset < len(stream))


def words_in(model: str, stream: bytes) -> int:
    """How many of the words are in whole events of this beginning of a stream."""
    mark = b"\n" if model == "a/native" else b"\n\n"
    whole = stream[: stream.rfind(mark) + len(mark)] if mark in stream else b""
    return sum(word.encode() in whole for word in WORDS)


@contextmanager
def asked(gateway: RunningGateway, model: str) -> Iterator[RawClient]:
    """A stream asked for on a connection that is closed at the end of the block."""
    client = RawClient((gateway.server.host, gateway.server.port))
    data = encode_json({"model": model, "messages": user("?"), "stream": True})
    client.send(
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {gateway.key}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n".encode()
        + data
    )
    try:
        yield client
    finally:
        client.close()


def newest(gateway: RunningGateway, before: int) -> dict[str, Any]:
    """The receipt of the request that came after `before` others, once it and its hold are at their end."""
    with closing(sqlite3.connect(gateway.store.removeprefix("sqlite:///"))) as connection:
        connection.row_factory = sqlite3.Row
        until(lambda: generations(connection) == before + 1, timeout_s=30)
        row = dict(connection.execute("SELECT * FROM generations ORDER BY rowid DESC LIMIT 1").fetchone())
        hold = connection.execute("SELECT state FROM holds WHERE generation_id = ?", (row["id"],)).fetchone()
        assert hold["state"] == ("released" if row["input_tokens"] is None else "settled")
        entered = connection.execute("SELECT sum(amount_nano) FROM entries WHERE generation_id = ?", (row["id"],))
        assert (entered.fetchone()[0] or 0) == row["charged_nano"]
        return row


def generations(connection: sqlite3.Connection) -> int:
    found: int = connection.execute("SELECT count(*) FROM generations").fetchone()[0]
    return found


@pytest.mark.parametrize("model", STREAMS)
def test_f08_left_at_any_byte_the_charge_is_the_policy_s_formula(
    upstream: Scripted, served: tuple[str, RunningGateway], model: str
) -> None:
    """Fails if `cancel` bills what was counted, and if a client that left is always billed by the local count."""
    policy, gateway = served
    content_type, stream = STREAMS[model]
    with closing(sqlite3.connect(gateway.store.removeprefix("sqlite:///"))) as connection:
        before = generations(connection)
    for offset in offsets(stream):
        left, begun = threading.Event(), threading.Event()

        async def script(peer: Peer, offset: int = offset, left: Any = left, begun: Any = begun) -> None:
            while b"/oauth " in await peer.request():
                peer.send(TOKEN)
                await peer.drain()
            head = f"HTTP/1.1 200 OK\r\ncontent-type: {content_type}\r\nconnection: close\r\n\r\n".encode()
            peer.send(head + stream[:offset])
            await peer.drain()
            begun.set()
            await asyncio.to_thread(left.wait, 30)
            if policy == "drain_and_bill":
                peer.send(stream[offset:])
                await peer.drain()
            else:
                await peer.left()

        upstream.set(script)
        delivered = WORDS[: words_in(model, stream[:offset])]
        with asked(gateway, model) as client:
            received = b""
            while not all(word.strip().encode() in received for word in delivered):
                received += client.read(65536)
            assert begun.wait(30)
        left.set()
        row = newest(gateway, before)
        before += 1
        told = (offset, row["rule"], row["usage_source"], row["output_tokens"], row["charged_nano"])
        if row["rule"] == "nothing_generated":
            assert not delivered, told
            assert row["charged_nano"] == 0, told
        elif row["usage_source"] == "reported":
            assert row["charged_nano"] == REPORTED, told
        elif policy == "cancel":
            assert row["charged_nano"] == 0, told
        else:
            assert policy == "bill_delivered", told
            assert row["output_tokens"] == tokens.profile(UPSTREAM_MODEL[model]).count("".join(delivered)), told
            assert row["charged_nano"] == row["input_tokens"] * IN + row["output_tokens"] * OUT, told
        assert row["rule"] in ("nothing_generated", "complete", f"client_abort:{policy}"), told
