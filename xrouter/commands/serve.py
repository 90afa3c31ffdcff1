"""`xrouter serve`: the gateway.

SIGTERM drains, SIGINT without `server.drain_delay_s`. SIGHUP reloads, SIGUSR2 replaces the workers one after the other.
"""

import argparse
import asyncio
import gc
import logging
import signal
import socket
import sys
from collections.abc import Callable, Coroutine
from functools import partial
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, BinaryIO, Final

import uvloop

from xrouter.app import Gateway, Stopped
from xrouter.config.load import ConfigError
from xrouter.config.settings import Settings
from xrouter.front.server import FrontServer, address, build_server, inherited_listener, listen, raise_descriptor_limit
from xrouter.observe.logs import LogWriter, SupervisorLines, log_through
from xrouter.waiting_room import WaitingRoom
from xrouter.workers.source import Source

log = logging.getLogger("xrouter.app")

# Sent to a process that starts, they wait until it can obey. By themselves they would end it.
_KEPT: Final = (signal.SIGHUP, signal.SIGUSR2)


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
    signal.pthread_sigmask(signal.SIG_BLOCK, _KEPT)
    source = Source(args.config, args.host, args.port, args.workers)
    try:
        settings = source.load()
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 1
    raise_descriptor_limit()
    try:
        listener = inherited_listener() or listen(settings.server, reuse_port=settings.server.reuse_port)
    except OSError as error:
        place = f"{settings.server.host}:{settings.server.port}"
        print(f"xrouter serve: cannot listen at {place}: {error.strerror or error}", file=sys.stderr)
        return 1
    told = partial(_print_json if args.json else announce or _silent, address(listener))
    if settings.server.workers == 1:
        return _serve_alone(settings, source, listener, told)
    return _serve_with_workers(settings, source, listener, told)


def _print_json(url: str) -> None:
    print(f'{{"url": "{url}"}}', flush=True)


def _silent(url: str) -> None:
    """Nobody asked where."""


def _serve_alone(settings: Settings, source: Source, listener: socket.socket, announce: Callable[[], None]) -> int:
    from xrouter.workers.alone import Alone
    from xrouter.workers.control import NO_OTHER

    async def serve(gateway: Gateway, server: FrontServer, room: WaitingRoom) -> None:
        fleet = gateway.fleet = Alone(gateway, source)
        await fleet.start()
        gateway.on_wait = room.open
        reloads: set[asyncio.Task[str | None]] = set()

        def reload() -> None:
            task = asyncio.create_task(fleet.reload(), name="reload")
            reloads.add(task)
            task.add_done_callback(reloads.discard)

        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGHUP, reload)
        loop.add_signal_handler(signal.SIGUSR2, log.warning, "nothing is restarted: %s", NO_OTHER)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _KEPT)
        server.on_started = announce
        try:
            if await _started(gateway):
                room.close()
                await server.serve()
        finally:
            await fleet.aclose()

    return _run_process(settings, listener, serve)


def _serve_with_workers(
    settings: Settings, source: Source, listener: socket.socket, announce: Callable[[], None]
) -> int:
    from xrouter.workers.link import SupervisorLink
    from xrouter.workers.supervisor import Supervisor

    def serve_worker(channel: socket.socket, number: int, settings: Settings) -> int:
        supervisor_log.handlers.clear()  # a worker has a log writer of its own

        async def serve(gateway: Gateway, server: FrontServer, room: WaitingRoom) -> None:
            def stop() -> None:
                _drain(gateway, server)

            link = gateway.fleet = SupervisorLink(channel, gateway, source, turn_away=room.open, stop=stop)
            await link.start()
            gateway.on_wait = link.waits
            server.on_started = link.ready
            try:
                if await _started(gateway):
                    await link.built()
                    room.close()
                    await server.serve()
            finally:
                await link.aclose()

        return _run_process(settings, listener, serve, turns)

    logs = logging.StreamHandler(sys.stderr)
    logs.setFormatter(SupervisorLines())
    supervisor_log = logging.getLogger("xrouter.workers")
    supervisor_log.addHandler(logs)
    supervisor_log.setLevel(logging.INFO)
    try:
        with TemporaryFile() as turns:
            return Supervisor(settings, source, listener, serve_worker, announce).run()
    finally:
        listener.close()


def _run_process(
    settings: Settings,
    listener: socket.socket,
    serve: Callable[[Gateway, FrontServer, WaitingRoom], Coroutine[Any, Any, None]],
    log_turns: BinaryIO | None = None,
) -> int:
    """One process that answers requests, until a signal has ended it and everything is settled."""
    writer = LogWriter(turns=log_turns)
    log_through(writer)
    gateway = Gateway(settings, log_writer=writer)
    server = build_server(
        gateway,
        settings.server,
        sockets=[listener],
        lifespan="on",
        on_refusal=gateway.refused,
        on_shed=gateway.shed,
    )

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, partial(_drain, gateway, server, at_once=False))
        loop.add_signal_handler(signal.SIGINT, _drain, gateway, server)
        settle_garbage_collection()
        room = WaitingRoom(listener, settings.server, gateway.world, gateway.refused)
        try:
            await serve(gateway, server, room)
        finally:
            await room.aclose()

    try:
        uvloop.run(main())
    finally:
        writer.close()
    return 0 if server.started or gateway.draining else 1


async def _started(gateway: Gateway) -> bool:
    """Start it. Whether it can serve; if not, the log has the reason."""
    try:
        await gateway.start()
    except Stopped as stopped:
        log.info("%s", stopped)
        return False
    except Exception as error:  # a filter of the operator's own may fail in any way
        log.error("cannot start: %s", error)
        return False
    return True


def _drain(gateway: Gateway, server: FrontServer, *, at_once: bool = True) -> None:
    gateway.drain()
    server.stop(at_once=at_once)


def settle_garbage_collection() -> None:
    """Spare the collector what lives for ever, and look for cycles less often: requests leave hardly any.

    With the defaults a fifth of the loop's time went into collections (bench/README.md).
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)
