"""`xrouter explain`: what the gateway would do with a request, and why."""

import argparse
import asyncio
import os
import sys
from pathlib import Path
from typing import Final, cast

import httpx2
import msgspec

from xrouter.auth.keyring import KeyRing
from xrouter.catalog import Catalog
from xrouter.config.load import ConfigError, load
from xrouter.config.settings import Settings
from xrouter.errors import XRouterError
from xrouter.explain.explainer import Explainer, Question
from xrouter.explain.explanation import Explanation, as_text
from xrouter.filters.base import Services
from xrouter.ledger.credits_left import CreditsLeft
from xrouter.ledger.direct import apply_once
from xrouter.ledger.ledger import Ledger
from xrouter.ledger.operations import HoldGranted, OpenHold
from xrouter.limits.open import open_limits
from xrouter.providers.upstreams import build_upstreams
from xrouter.routing.health import Health
from xrouter.store.engine import StoreError
from xrouter.store.migrate import open_store
from xrouter.wire import decode_json, encode_json
from xrouter.world import RealWorld

_GATEWAY: Final = "as the running gateway sees it"
_CONFIGURATION: Final = (
    "from the configuration, the store and Redis: no gateway was asked, so health and counts in memory are unknown"
)


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = subparsers.add_parser(
        "explain",
        help="what the gateway would do with a request, and why",
        description="Tell each filter's decision about a request, the limits it meets, the credits it would hold, the"
        " upstreams in the order they would be tried and why others would not. Nothing is counted, held or sent. The running"
        " gateway is asked, which knows its upstreams' health and, without Redis, its counts; it takes the admin token. With"
        " none running (or no token) the answer comes from the configuration, the store and Redis.",
    )
    parser.add_argument("-c", "--config", type=Path, required=True, metavar="FILE", help="the configuration")
    parser.add_argument("--key", required=True, metavar="K", help="an API key, or the beginning of a key's hash")
    parser.add_argument("--body", type=Path, metavar="FILE", help="the request's JSON body (without: a greeting)")
    parser.add_argument("--path", default="/api/v1/chat/completions", help="where it would be sent")
    parser.add_argument("--session", metavar="ID", help="the conversation it belongs to (x-session-id)")
    parser.add_argument("--ip", default="127.0.0.1", help="the client's address")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of text")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    try:
        settings = load(args.config, os.environ)
        body = args.body.read_bytes() if args.body else _greeting(settings)
        question = Question(
            key=args.key, body=msgspec.Raw(body), path=args.path, session_id=args.session, client_ip=args.ip
        )
        decode_json(body)  # so that what is asked is JSON, whoever is asked
        told, source = _of_the_gateway(settings, question), _GATEWAY
        if told is None:
            told, source = asyncio.run(_of_the_configuration(settings, question)), _CONFIGURATION
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 1
    except (StoreError, XRouterError, OSError, ValueError) as error:
        print(f"xrouter explain: {error}", file=sys.stderr)
        return 1
    print(encode_json(told).decode() if args.json else f"{as_text(told)}\n\n{source}")
    return 0


def _greeting(settings: Settings) -> bytes:
    model = next((name for name, model in settings.models.items() if model.kind == "chat"), "")
    return encode_json({"model": model, "messages": [{"role": "user", "content": "Hello"}]})


def _of_the_gateway(settings: Settings, question: Question) -> Explanation | None:
    """None if there is no gateway that would answer. Raises ValueError for what it refuses."""
    token = settings.admin.token.reveal()
    if not token or settings.server.port == 0:
        return None
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.server.host, settings.server.host)  # noqa: S104
    url = f"http://{f'[{host}]' if ':' in host else host}:{settings.server.port}/admin/api/explain"
    try:
        answer = httpx2.post(
            url, content=encode_json(question), headers={"Authorization": f"Bearer {token}"}, timeout=30
        )
    except httpx2.TransportError:
        return None
    if answer.status_code != 200:
        raise ValueError(decode_json(answer.content)["error"]["message"])
    return msgspec.json.decode(answer.content, type=Explanation)


class _NoLedger:
    """Nobody but who only looks asks for a ledger here, and of what keys have left nothing has been heard."""

    def __init__(self) -> None:
        self.credits_left = CreditsLeft()


async def _of_the_configuration(settings: Settings, question: Question) -> Explanation:
    world = RealWorld()
    engine = await open_store(settings.store)
    keys, limits = KeyRing(engine, world), open_limits(settings, world)

    async def look(wanted: OpenHold) -> HoldGranted:
        return cast(HoldGranted, await apply_once(engine, world, wanted))

    services = Services(
        settings=settings,
        world=world,
        catalog=Catalog(settings),
        store=engine,
        keys=keys,
        ledger=cast(Ledger, _NoLedger()),
        upstreams=build_upstreams(settings.upstreams, world),
        health=Health(world),
        limits=limits,
    )
    explainer = Explainer(services, look)
    await keys.start()
    await limits.start()
    try:
        await explainer.start()
        return await explainer.explain(question)
    finally:
        await explainer.aclose()
        for upstream in services.upstreams.values():
            await upstream.credentials.aclose()
        await limits.aclose()
        await keys.aclose()
        await engine.dispose()
