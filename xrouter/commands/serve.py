"""`xrouter serve`: the gateway. SIGTERM drains, SIGHUP reloads the configuration."""

import argparse
import asyncio
import gc
import logging
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import uvloop

from xrouter.app import Gateway
from xrouter.config.load import ConfigError, load
from xrouter.config.settings import Settings
from xrouter.front.server import FrontServer, build_server, listen, raise_descriptor_limit
from xrouter.observe.logs import LogWriter, log_through

log = logging.getLogger("xrouter.serve")


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = subparsers.add_parser("serve", help="serve the gateway", description=__doc__)
    parser.add_argument("-c", "--config", type=Path, required=True, metavar="FILE", help="the configuration")
    parser.add_argument("--host", help="listen there instead of server.host")
    parser.add_argument("--port", type=int, help="listen there instead of server.port")
    parser.add_argument("--workers", type=int, help="processes, instead of server.workers")
    parser.add_argument("--json", action="store_true", help="print one JSON line when the gateway serves")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace, announce: Callable[[str], None] | None = None) -> int:
    """Serve until a signal. `announce` is told the address once requests are served."""
    try:
        settings = _settings(args)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 1
    if settings.server.workers != 1:
        print("xrouter serve: this version serves with one worker", file=sys.stderr)
        return 1
    raise_descriptor_limit()
    try:
        listener = listen(settings.server)
    except OSError as error:
        place = f"{settings.server.host}:{settings.server.port}"
        print(f"xrouter serve: cannot listen at {place}: {error.strerror or error}", file=sys.stderr)
        return 1
    writer = LogWriter()
    log_through(writer)
    gateway = Gateway(settings, log_writer=writer)
    server = build_server(gateway, settings.server, sockets=[listener], lifespan="on", on_refusal=gateway.refused)
    if args.json:
        announce = _print_json
    if announce is not None:
        server.on_started = partial(announce, server.url)
    try:
        uvloop.run(_serve(gateway, server, args))
    finally:
        writer.close()
    return 0 if server.started else 1


def _print_json(url: str) -> None:
    print(f'{{"url": "{url}"}}', flush=True)


def _settings(args: argparse.Namespace) -> Settings:
    settings = load(args.config, os.environ)
    given = {name: getattr(args, name) for name in ("host", "port", "workers") if getattr(args, name) is not None}
    return replace(settings, server=replace(settings.server, **given))


async def _serve(gateway: Gateway, server: FrontServer, args: argparse.Namespace) -> None:
    loop = asyncio.get_running_loop()
    reloads: set[asyncio.Task[None]] = set()

    def stop() -> None:
        gateway.draining = True
        server.stop()

    def reload() -> None:
        task = asyncio.create_task(_reload(gateway, args), name="reload")
        reloads.add(task)
        task.add_done_callback(reloads.discard)

    settle_garbage_collection()
    loop.add_signal_handler(signal.SIGTERM, stop)
    loop.add_signal_handler(signal.SIGINT, stop)
    loop.add_signal_handler(signal.SIGHUP, reload)
    await server.serve()


def settle_garbage_collection() -> None:
    """Spare the collector what lives for ever, and look for cycles less often: requests leave hardly any.

    With the defaults a fifth of the loop's time went into collections (bench/README.md).
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)


async def _reload(gateway: Gateway, args: argparse.Namespace) -> None:
    try:
        settings = await asyncio.to_thread(_settings, args)
        await gateway.reload(settings)
    except ConfigError as error:
        log.error("reload refused, the running configuration stays: %s", error)
    except Exception as error:  # a filter of the operator's own may fail in any way; the running chain stays
        log.error("reload failed, the running configuration stays: %s: %s", type(error).__name__, error)
    else:
        log.info("reloaded")
