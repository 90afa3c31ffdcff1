"""The whole gateway on a real socket, configured by YAML as an operator would, with a key: what a client sees.

with running_gateway(CHAIN + models, sandbox.environ, tmp_path) as gateway:
    gateway.client.post("/v1/chat/completions", json=…)
"""

import asyncio
import io
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx2
from kit import stores

from xrouter.app import Gateway
from xrouter.auth.issue import issue
from xrouter.config.load import load
from xrouter.config.settings import Server
from xrouter.front.threaded import ThreadedServer
from xrouter.ledger.direct import apply_once
from xrouter.ledger.operations import Transfer
from xrouter.ledger.proof import Proof, prove
from xrouter.observe.logs import LogWriter
from xrouter.store.key import NewKey
from xrouter.store.keys import KeyStore
from xrouter.store.migrate import open_store
from xrouter.surfaces.base import NANO
from xrouter.wire import decode_json, encode_json
from xrouter.world import RealWorld, World

CHAIN = """
filters:
  - auth: {}
  - body: {max_bytes: 20MB}
  - routing: {retries: 2, fallback: true}
  - token_count: {}
"""


class LogLines(io.RawIOBase):
    """Collects what the gateway logs, in its thread for the test's."""

    def __init__(self) -> None:
        self.text = b""
        self._more = threading.Condition()

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        with self._more:
            self.text += bytes(data)
            self._more.notify_all()
        return len(data)

    def request(self, request_id: str, timeout_s: float = 5.0) -> dict[str, Any]:
        """The record of one request, once it is written. There must be one, and only one."""

        marked = encode_json(request_id)  # looked for in the bytes: decoding every line at every wake-up takes too long

        def found() -> list[dict[str, Any]]:
            records = [decode_json(line) for line in self.text.splitlines() if marked in line]
            return [
                record for record in records if record.get("event") == "request" and record["request_id"] == request_id
            ]

        with self._more:
            assert self._more.wait_for(found, timeout_s), f"no log line of request {request_id}"
        (record,) = found()
        return record

    def records(self) -> list[dict[str, Any]]:
        return [decode_json(line) for line in self.text.splitlines()]

    def requests(self) -> list[dict[str, Any]]:
        """One record per request that has ended."""
        return [record for record in self.records() if record.get("event") == "request"]


@dataclass(frozen=True)
class RunningGateway:
    url: str
    key: str
    app: Gateway
    server: ThreadedServer
    log: LogLines
    store: str
    client: httpx2.Client  # sends the key
    spoilt: list[str] = field(default_factory=list)  # what a test has written behind the ledger's back

    @property
    def base_url(self) -> str:
        """What an OpenAI client is pointed at."""
        return self.url + "/v1"

    @property
    def auth(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.key}"}

    def call(self, coroutine: Any) -> Any:
        """Run a coroutine on the gateway's own event loop and wait for its result."""
        loop = self.server.server._loop
        assert loop is not None
        return asyncio.run_coroutine_threadsafe(coroutine, loop).result(30)


CREDITS = 1_000_000


def new_key(store: str, **fields: Any) -> str:
    """A key in the database `store`, made as `xrouter keys create --credits` makes it. Returns the secret."""

    async def make() -> str:
        engine = await open_store(stores.with_schema(store))
        try:
            new = NewKey(**{"name": "test", "account": "tests", **fields})
            issued = await issue(KeyStore(engine, RealWorld()), new)
            gift = Transfer(
                kind="grant",
                account=issued.key.account,
                amount_nano=CREDITS * NANO,
                reason="test",
                author="test",
                idempotency_key=f"the first credits of {issued.key.account}",
            )
            await apply_once(engine, RealWorld(), gift)
            return issued.secret.reveal()
        finally:
            await engine.dispose()

    return asyncio.run(make())


@contextmanager
def running_gateway(
    yaml: str,
    environ: Mapping[str, str],
    folder: Path,
    *,
    world: World | None = None,
    server: Mapping[str, Any] | None = None,
    key: Mapping[str, Any] | None = None,
) -> Iterator[RunningGateway]:
    """Serve the configuration `yaml` from `folder`; `key` are the fields of the first key (NewKey).

    When the block ends without an error, and the gateway with it, its ledger is proven and no hold is left, unless the test
    has noted in `spoilt` why it cannot be.
    """
    store = f"sqlite:///{folder / 'gateway.db'}"
    config = folder / "xrouter.yaml"
    config.write_text(yaml if "store:" in yaml else f"store: {store}\n{yaml}")
    settings = load(config, environ)
    settings = replace(settings, server=replace(settings.server, **{"port": 0, "drain_s": 2.0, **(server or {})}))
    secret = new_key(settings.store, **(key or {}))
    lines = LogLines()
    writer = LogWriter(lines)  # type: ignore[arg-type]  # all that is written to is write and flush
    app = Gateway(settings, world=world, log_writer=writer)
    assert isinstance(settings.server, Server)
    with ThreadedServer(app, settings.server, lifespan="on", on_refusal=app.refused, on_shed=app.shed) as running:
        auth = {"Authorization": f"Bearer {secret}"}
        with httpx2.Client(base_url=running.url, headers=auth, timeout=30, verify=False) as client:
            gateway = RunningGateway(running.url, secret, app, running, lines, settings.store, client)
            yield gateway
    writer.close()
    if not gateway.spoilt:
        assert_books_closed(settings.store)


def assert_books_closed(store: str) -> None:
    """Invariants I1 to I8 from the rows of the database `store`, of which no gateway is running any more."""

    async def read() -> Proof:
        engine = await open_store(store)
        try:
            return await prove(engine)
        finally:
            await engine.dispose()

    proof = asyncio.run(read())
    assert proof.problems == ()
    assert proof.holds_open == 0, "the gateway has ended, and left a hold open"
