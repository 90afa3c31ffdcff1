"""Starting, stopping, and too many connections (F21, F28)."""

import asyncio
import inspect
import logging
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
import uvicorn
import uvloop
from front_app import Served
from kit.raw_client import Answer, NotAnAnswer, RawClient
from uvicorn.server import ServerState

from xrouter.config.settings import Server
from xrouter.front import ThreadedServer, build_server, listen, running
from xrouter.front.server import max_connections

GET = b"GET /a HTTP/1.1\r\nHost: a\r\n\r\n"
SLOW = GET.replace(b"/a", b"/slow")


def stop(served: Served) -> threading.Thread:
    """Stop `served` from another thread, as its `with` block will again do at its end."""
    served.threaded.server.stop()
    thread = threading.Thread(target=served.threaded._thread.join)
    thread.start()
    return thread


def refused(served: Served) -> bool:
    try:
        served.client().close()
    except ConnectionRefusedError:
        return True
    return False


async def hello(scope: dict[str, Any], receive: Any, send: Any) -> None:
    assert scope["type"] == "http"
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"hello"})


def test_running_serves_any_app() -> None:
    with running(hello, lifespan="off") as url:
        assert httpx2.get(url).text == "hello"


def test_running_over_ipv6() -> None:
    with running(hello, Server(host="::1", port=0, drain_s=1), lifespan="off") as url:
        assert url.startswith("http://[::1]:")
        assert httpx2.get(url).text == "hello"


def test_lifespan_state_reaches_the_scope() -> None:
    events: list[str] = []

    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            scope["state"]["answer"] = "42"
            for event in ("startup", "shutdown"):
                assert (await receive())["type"] == f"lifespan.{event}"
                events.append(event)
                await send({"type": f"lifespan.{event}.complete"})
            return
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": scope["state"]["answer"].encode()})

    with running(app, lifespan="on") as url:
        assert httpx2.get(url).text == "42"
    assert events == ["startup", "shutdown"]


def test_failing_lifespan_is_told(caplog: pytest.LogCaptureFixture) -> None:
    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        raise RuntimeError("no database")

    with pytest.raises(RuntimeError, match="did not start"), running(app, lifespan="on"):
        pass
    assert "no database" in caplog.text
    caplog.clear()


def test_f21_stop_lets_requests_end() -> None:
    with Served(drain_s=20) as served, served.client() as busy, served.client() as idle, served.client() as begun:
        idle.send(GET)
        assert idle.answer().status == 200
        begun.send(GET[:-2])
        busy.send(SLOW.replace(b"/slow", b"/hold"))
        served.probe.wait(lambda: "/hold" in served.probe.started)
        thread = stop(served)
        assert idle.ends()
        begun.send(GET[-2:])
        (answer,) = begun.answers()
        assert (answer.status, answer.header("connection")) == (200, "close")
        assert refused(served)
        busy.close()
        thread.join(2)
        assert not thread.is_alive()


def test_f21_a_request_that_is_on_its_way_when_the_server_stops_is_answered() -> None:
    """Fails where idle connections are closed at once: the client's request meets a closed connection."""
    with Served(drain_s=20) as served, served.client() as client, served.client() as other:
        for idle in (client, other):
            idle.send(GET)
            assert idle.answer().status == 200
        thread = stop(served)
        while not refused(served):
            time.sleep(0.01)
        client.send(GET)
        answer = client.answer()
        assert (answer.status, answer.header("connection")) == (200, "close")
        assert client.ends()
        assert other.ends()
        thread.join(10)
        assert not thread.is_alive()


def test_f21_a_request_right_after_a_stream_that_outlived_the_stop_is_answered() -> None:
    """The stream's head had promised to keep the connection. Fails where it is closed at the stream's end."""
    begun, go_on = threading.Event(), threading.Event()

    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"first", "more_body": True})
        begun.set()
        await asyncio.to_thread(go_on.wait)
        await send({"type": "http.response.body", "body": b"last"})

    with (
        ThreadedServer(app, Server(port=0, drain_s=20), lifespan="off") as threaded,
        RawClient((threaded.host, threaded.port)) as client,
    ):
        client.send(GET)
        assert begun.wait(5)
        threaded.server.stop()
        time.sleep(1.2)  # longer than what waits between two requests is kept
        go_on.set()
        stream = client.answer()
        client.send(GET)
        answer = client.answer()
        assert client.ends()
    assert stream.header("connection") is None
    assert (answer.status, answer.header("connection"), answer.body) == (200, "close", b"firstlast")


def test_f21_what_outlives_the_drain_is_answered_for() -> None:
    """A request without an answer gets 503; the app's own cleanup runs before the lifespan ends."""
    order: list[str] = []

    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            for event in ("startup", "shutdown"):
                await receive()
                order.append(event)
                await send({"type": f"lifespan.{event}.complete"})
            return
        order.append("request")
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0.2)
            order.append("settled")

    with (
        ThreadedServer(app, Server(port=0, drain_s=0.2)) as threaded,
        RawClient((threaded.host, threaded.port)) as client,
    ):
        client.send(GET)
        while "request" not in order:
            time.sleep(0.01)
        threaded.server.stop()
        (answer,) = client.answers()
    assert (answer.status, answer.json()["error"]["type"]) == (503, "shutting_down")
    assert order == ["startup", "request", "settled", "shutdown"]


def test_f21_lingering_connection_does_not_delay_the_stop() -> None:
    with Served() as served, served.client() as client:
        client.send(b"garbage\r\n\r\n")
        assert client.answer().status == 400
        began = time.monotonic()
        stop(served).join()
        assert time.monotonic() - began < 0.8


def test_signals_are_left_alone() -> None:
    """Whoever runs the server owns SIGTERM. uvicorn's own server would replace the handlers in the main thread."""

    def handlers() -> tuple[Any, Any]:
        return signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)

    async def serve() -> None:
        before = handlers()
        server = build_server(hello, Server(port=0), lifespan="off")
        serving = asyncio.create_task(server.serve())
        await asyncio.to_thread(server.running.wait)
        assert handlers() == before
        server.stop()
        await serving

    uvloop.run(serve())


def test_stop_before_the_start_is_kept() -> None:
    server = build_server(hello, Server(port=0), lifespan="off")
    server.stop()
    uvloop.run(asyncio.wait_for(server.serve(), 5))


def test_refusals_are_logged_in_one_line(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "xrouter.front")
    with (
        ThreadedServer(hello, Server(port=0, drain_s=1), lifespan="off") as threaded,
        RawClient((threaded.host, threaded.port)) as client,
    ):
        client.send(b"GET / HTTP/1.1\r\nX: {secret}\r\n\r\n")
        (answer,) = client.answers()
    (line,) = [record.getMessage() for record in caplog.records if record.name == "xrouter.front"]
    assert line == (f"refused: 400 The request has no Host request_id={answer.header('x-request-id')} client=127.0.0.1")


def test_accepted_sockets_inherit_the_kernels_limits() -> None:
    with (
        listen(Server(port=0, write_timeout_s=7.5)) as listener,
        socket.create_connection(listener.getsockname()[:2]),
        listener.accept()[0] as accepted,
    ):
        assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 7500
        assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT) == 65536


@pytest.fixture
def few_descriptors() -> Iterator[None]:
    """A front made meanwhile allows 16 connections."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (96, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_f28_connections_above_the_cap_are_told(few_descriptors: None) -> None:
    assert max_connections() == 16
    served = Served()
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    with served:
        clients = [served.client() for _ in range(16)]
        for client in clients:
            client.send(GET)
            assert client.answer().status == 200
        with served.client() as surplus:
            (answer,) = surplus.answers()
            assert (answer.status, answer.json()["error"]["type"]) == (503, "too_many_connections")
            assert answer.header("retry-after") == "1"
        for client in clients:
            client.close()
        served.wait_until_idle(1)
        with served.client() as client:
            client.send(GET)
            assert client.answer().status == 200


EXHAUSTED = """
import os, resource, sys
from xrouter.config.settings import Server
from xrouter.front import build_server
import uvloop

taken = []

async def app(scope, receive, send):
    if scope["path"] == "/take":
        try:
            while True:
                taken.append(os.open("/dev/null", os.O_RDONLY))
        except OSError:
            pass
    if scope["path"] == "/give":
        while taken:
            os.close(taken.pop())
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"%d" % len(taken)})

resource.setrlimit(resource.RLIMIT_NOFILE, (256, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
server = build_server(app, Server(port=0), lifespan="off")
print(server.sockets[0].getsockname()[1], flush=True)
uvloop.run(server.serve())
"""


def cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def ask(client: RawClient, path: str) -> Answer:
    client.send(f"GET {path} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
    return client.answer()


def test_f28_descriptors_exhausted() -> None:
    """libuv keeps one descriptor back and closes what it cannot keep with it, so nothing spins; afterwards all is well."""
    with subprocess.Popen(
        [sys.executable, "-c", EXHAUSTED], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            address = ("127.0.0.1", int(process.stdout.readline()))
            with RawClient(address) as kept:
                assert int(ask(kept, "/take").body) > 100
                began, used = time.monotonic(), cpu_s(process.pid)
                dropped = 0
                for _ in range(50):
                    with RawClient(address) as client:
                        try:
                            ask(client, "/a")
                        except (NotAnAnswer, ConnectionError):
                            dropped += 1
                time.sleep(max(0.0, began + 1.0 - time.monotonic()))
                assert dropped == 50
                assert cpu_s(process.pid) - used < 0.5
                assert ask(kept, "/give").body == b"0"
            began = time.monotonic()
            with RawClient(address) as client:
                assert ask(client, "/a").status == 200
            assert time.monotonic() - began < 1.0
        finally:
            process.kill()
        assert process.stderr is not None
        assert "Traceback" not in process.stderr.read()


def test_f28_churn(shared: Served) -> None:
    """Connections that come and go, half of them with a reset, leave nothing behind."""
    for i in range(300):
        client = shared.client()
        client.send(GET if i % 3 else GET[:10])
        client.reset() if i % 2 else client.close()
    with shared.client() as client:
        client.send(GET)
        assert client.answer().status == 200
    shared.wait_until_idle(2)


def test_what_uvicorn_asks_of_a_protocol() -> None:
    """The front stands on these parts of uvicorn alone; when one of them changes, read its server.py again."""
    assert set(vars(ServerState())) == {"total_requests", "connections", "tasks", "default_headers"}
    startup = inspect.getsource(uvicorn.Server.startup)
    assert "config.http_protocol_class(  # type: ignore[call-arg]" in startup
    for keyword in ("config=config", "server_state=self.server_state", "app_state=self.lifespan.state", "_loop=_loop"):
        assert keyword in startup
    source = inspect.getsource(uvicorn.Server)
    assert source.count("connection.") == 1
    assert "connection.shutdown()" in source
    for method in ("serve", "startup", "main_loop", "on_tick", "shutdown"):
        assert inspect.iscoroutinefunction(getattr(uvicorn.Server, method))
    assert inspect.isfunction(uvicorn.Server.capture_signals)
