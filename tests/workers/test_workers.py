"""Several processes that serve as one: real ones, killed, reloaded, replaced and stopped under load."""

import asyncio
import os
import re
import signal
import socket
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
from kit.filter_source import filter_source
from kit.gateway import new_key
from kit.money import problems
from kit.redis_server import running_redis
from kit.serving import Serving, command, serving, until

from xrouter.sandbox.running import Sandbox
from xrouter.wire import decode_json
from xrouter.workers.control import Question, ask
from xrouter.workers.messages import WorkerState

SECOND = "  local/second: {price: free, routes: [{upstream: local, model: sandbox-large}]}\n"
# A filter of the operator's own whose import takes its time.
SLOW = filter_source(
    "Slow",
    first="""
    import time
    from pathlib import Path

    Path(__file__).with_name("imported").touch()
    time.sleep(1)
    """,
)
BODY = {"model": "local/large", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 8}


def workers(gateway: Serving) -> list[WorkerState]:
    return ask(gateway.config, Question("fleet")).workers


def all_serve(gateway: Serving, many: int = 3) -> bool:
    return [worker.state for worker in workers(gateway)] == ["serving"] * many


def key_of(config: Path) -> dict[str, str]:
    return {"Authorization": "Bearer " + new_key(f"sqlite:///{config.parent}/gateway.db")}


def metrics(gateway: Serving) -> dict[str, float]:
    lines = httpx2.get(gateway.url + "/metrics", timeout=30).text.splitlines()
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines if line[0] != "#")}


class Load:
    """Clients, each with a connection that it keeps, or a new one for each request, until they are told to stop.

    Counts how their requests went.
    """

    def __init__(self, url: str, headers: dict[str, str], clients: int, *, path: str = "", keep: bool = True) -> None:
        self._path, self._keep = path, keep
        self.outcomes: Counter[str] = Counter()
        self._url, self._headers, self._clients = url, headers, clients
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()))

    async def _run(self) -> None:
        await asyncio.gather(*(self._client() for _ in range(self._clients)))

    async def _client(self) -> None:
        limits = httpx2.Limits(max_keepalive_connections=None if self._keep else 0)
        async with httpx2.AsyncClient(base_url=self._url, headers=self._headers, timeout=60, limits=limits) as client:
            while not self._stopped.is_set():
                try:
                    if self._path:
                        answer = await client.get(self._path)
                    else:
                        answer = await client.post("/v1/chat/completions", json=BODY)
                except httpx2.TransportError as error:
                    self.outcomes[type(error).__name__] += 1
                else:
                    self.outcomes[str(answer.status_code)] += 1
                await asyncio.sleep(0.01 if self._keep else 0)

    def passed(self, more: int) -> None:
        """Wait until so many more requests have ended."""
        wanted = self.outcomes.total() + more
        until(lambda: self.outcomes.total() >= wanted, f"{more} more requests")

    def __enter__(self) -> "Load":
        self._thread.start()
        self.passed(20)
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()

    def stop(self) -> None:
        self._stopped.set()
        self._thread.join()


def test_workers_answer_as_one(config: Path, sandbox: Sandbox) -> None:
    """One address, one count in the metrics, one table of processes; SIGTERM ends all with exit code 0."""
    headers = key_of(config)
    with serving(config, sandbox.environ) as gateway:
        assert all_serve(gateway)
        assert len({worker.pid for worker in workers(gateway)}) == 3
        with Load(gateway.url, headers, 6) as load:
            load.passed(60)
        assert set(load.outcomes) == {"200"}
        served = 'xrouter_requests_total{endpoint="chat",model="local/large",status="200",upstream="local"}'
        until(lambda: metrics(gateway).get(served) == load.outcomes["200"], "the workers' counts as one")
        until(lambda: sum(w.requests for w in workers(gateway)) == load.outcomes["200"], "the same in the table")
        table = command({}, "top", "-c", str(config))
        assert table.returncode == 0
        assert len(table.stdout.splitlines()) == 4
        assert len(decode_json(command({}, "top", "-c", str(config), "--json").stdout)["workers"]) == 3
        assert gateway.stop() == 0
        requests = [record for record in gateway.log() if record.get("event") == "request"]
        assert len(requests) == load.outcomes["200"]
    assert asyncio.run(problems(f"sqlite:///{config.parent}/gateway.db")) == ()


def test_f17_a_killed_worker_is_replaced_and_only_its_connections_break(config: Path, sandbox: Sandbox) -> None:
    """Fails without a supervisor that looks after its children: the third worker never comes back."""
    headers = key_of(config)
    with serving(config, sandbox.environ) as gateway, Load(gateway.url, headers, 6) as load:
        for _ in range(3):
            victim = workers(gateway)[0]
            os.kill(victim.pid, signal.SIGKILL)
            until(lambda pid=victim.pid: pid not in [w.pid for w in workers(gateway)] and all_serve(gateway), "three")
            load.passed(30)
        broken = sum(many for outcome, many in load.outcomes.items() if outcome != "200")
        assert broken <= 3 * 6, load.outcomes  # what its clients had under way; the others notice nothing
        assert metrics(gateway)['xrouter_worker_restarts_total{worker="1"}'] == 3
        until(lambda: not open_holds(config), "an end of the dead workers' holds")
    assert asyncio.run(problems(f"sqlite:///{config.parent}/gateway.db")) == ()


def open_holds(config: Path) -> int:
    import sqlite3
    from contextlib import closing

    with closing(sqlite3.connect(config.parent / "gateway.db")) as connection:
        (count,) = connection.execute("SELECT count(*) FROM holds WHERE state = 'open'").fetchone()
        return int(count)


@pytest.mark.parametrize("redis", ["there", "killed"])
def test_f32_every_worker_refuses_a_revoked_key(config: Path, sandbox: Sandbox, tmp_path: Path, redis: str) -> None:
    """On connections to all of them. Fails where a key ring does not follow the store.

    The second of the fault matrix is for a machine that has time; here each worker gets four.
    """
    headers = key_of(config)
    with running_redis(tmp_path) as own:
        text = re.sub(r"redis: \S+", f"redis: {own.url}", config.read_text())
        config.write_text(text.replace(" rate_limit,", " {rate_limit: {on_store_failure: local_share}},"))
        with serving(config, sandbox.environ) as gateway, ExitStack() as stack:
            clients = [stack.enter_context(httpx2.Client(base_url=gateway.url, headers=headers)) for _ in range(15)]
            assert [client.get("/v1/models").status_code for client in clients] == [200] * 15
            until(lambda: all_have_served(gateway), "an answer of each worker")
            if redis == "killed":
                own.kill()
            (key,) = decode_json(command(sandbox.environ, "keys", "list", "-c", str(config), "--json").stdout)
            assert command(sandbox.environ, "keys", "revoke", "-c", str(config), key["hash"]).returncode == 0
            revoked, last = time.monotonic(), 0.0
            while {client.get("/v1/models").status_code for client in clients} != {401}:
                last = time.monotonic() - revoked
                assert last < 4
            assert [client.get("/v1/models").status_code for client in clients] == [401] * 15


def all_have_served(gateway: Serving) -> bool:
    return all(worker.requests for worker in workers(gateway))


def test_f19_all_workers_reload_or_none(config: Path, sandbox: Sandbox) -> None:
    """A broken file changes nothing and is told with its place; a good one holds for every worker at once."""
    headers = key_of(config)
    good = config.read_text()
    with serving(config, sandbox.environ) as gateway, Load(gateway.url, headers, 4) as load:
        config.write_text(good.replace("token_count, quota]", "token_count, qouta]"))
        refused = command(sandbox.environ, "reload", "-c", str(config))
        assert refused.returncode == 1
        assert f"{config}:10:57: unknown filter 'qouta'" in refused.stderr
        until(lambda: any("reload refused" in message for message in gateway.messages()), "a line in the log")
        assert metrics(gateway)['xrouter_reload_total{result="rejected"}'] >= 1
        config.write_text(good.replace("models:\n", "models:\n" + SECOND))
        done = command(sandbox.environ, "reload", "-c", str(config))
        assert (done.returncode, done.stdout) == (0, "reloaded\n")
        for _ in range(12):  # whichever worker the kernel gives the connection to
            models = httpx2.get(gateway.url + "/v1/models", headers=headers).json()["data"]
            assert "local/second" in [model["id"] for model in models]
        load.passed(20)
    assert set(load.outcomes) == {"200"}


def test_f19_a_changed_file_is_loaded_by_itself(config: Path, sandbox: Sandbox) -> None:
    headers = key_of(config)
    with serving(config, sandbox.environ) as gateway:
        config.write_text(config.read_text().replace("local/large:", "local/renamed:"))
        until(lambda: "reloaded" in gateway.messages(), "a reload")
        models = httpx2.get(gateway.url + "/v1/models", headers=headers).json()["data"]
        assert [model["id"] for model in models] == ["local/renamed"]


def test_f19_reloads_one_after_the_other_cost_no_request(config: Path, sandbox: Sandbox) -> None:
    headers = key_of(config)
    with serving(config, sandbox.environ) as gateway, Load(gateway.url, headers, 6) as load:
        for _ in range(15):
            assert ask(config, Question("reload")).problem is None
        load.passed(20)
        assert metrics(gateway)['xrouter_reload_total{result="applied"}'] >= 15
    assert set(load.outcomes) == {"200"}


def test_a_rolling_restart_costs_no_request(config: Path, sandbox: Sandbox) -> None:
    """Each worker is replaced by one that serves before the old one drains."""
    headers = key_of(config)
    with serving(config, sandbox.environ) as gateway, Load(gateway.url, headers, 6) as load:
        before = {worker.pid for worker in workers(gateway)}
        gateway.signal(signal.SIGUSR2)
        until(lambda: not before & {w.pid for w in workers(gateway)} and all_serve(gateway), "three new workers")
        load.passed(20)
    assert set(load.outcomes) == {"200"}


def test_workers_end_with_their_supervisor(config: Path, sandbox: Sandbox) -> None:
    with serving(config, sandbox.environ) as gateway:
        port = int(gateway.url.rpartition(":")[2])
        gateway.signal(signal.SIGKILL)

        def free() -> bool:
            with socket.socket() as probe:
                return probe.connect_ex(("127.0.0.1", port)) != 0

        until(free, "a free port")


def test_a_start_that_fails_is_told_once_it_is_known(config: Path, sandbox: Sandbox) -> None:
    config.write_text(config.read_text().replace("/gateway.db", "/nowhere/gateway.db"))
    ended = command(sandbox.environ, "serve", "-c", str(config))
    assert ended.returncode == 1
    assert "nowhere does not exist" in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize("what", ["reload", "top"])
def test_a_command_without_a_gateway_says_so(config: Path, sandbox: Sandbox, what: str) -> None:
    ended = command(sandbox.environ, what, "-c", str(config))
    assert ended.returncode == 1
    assert ended.stderr == f"xrouter {what}: no gateway of this user serves {config} on this machine\n"


def test_one_process_reloads_the_same_way(alone: Path, sandbox: Sandbox) -> None:
    headers = key_of(alone)
    good = alone.read_text()
    with serving(alone, sandbox.environ) as gateway, Load(gateway.url, headers, 4) as load:
        alone.write_text(good + "surprise: 1\n")
        refused = command(sandbox.environ, "reload", "-c", str(alone))
        assert refused.returncode == 1
        assert f"{alone}:11:1: unknown key 'surprise'" in refused.stderr
        alone.write_text(good.replace("models:\n", "models:\n" + SECOND))
        assert decode_json(command(sandbox.environ, "reload", "-c", str(alone), "--json").stdout) == {
            "ok": True,
            "problem": None,
        }
        load.passed(10)
        counts = metrics(gateway)
        assert counts['xrouter_reload_total{result="applied"}'] >= 1
        assert counts['xrouter_reload_total{result="rejected"}'] >= 1
        assert [worker.pid for worker in workers(gateway)] == [gateway.process.pid]
    assert set(load.outcomes) == {"200"}


@pytest.mark.parametrize("workers", [1, 3])
def test_signals_that_come_while_it_starts_do_not_end_it(config: Path, sandbox: Sandbox, workers: int) -> None:
    """Fails where SIGHUP and SIGUSR2 are left to the system until somebody obeys: `systemctl reload` may come at once."""
    (config.parent / "slow.py").write_text(SLOW)
    text = config.read_text().replace("workers: 3", f"workers: {workers}")
    config.write_text(text.replace("filters: [auth,", "filters: [slow:Slow, auth,"))

    def start(*arguments: Any, **options: Any) -> "subprocess.Popen[bytes]":
        process = subprocess.Popen(*arguments, **options)
        until((config.parent / "imported").exists, "it reads its configuration")
        for number in (signal.SIGHUP, signal.SIGUSR2):
            process.send_signal(number)
        return process

    with serving(config, sandbox.environ, start=start) as gateway:
        until(lambda: "reloaded" in gateway.messages(), "the reload that was asked for")
        assert httpx2.get(gateway.url + "/health/ready").status_code == 200
        assert gateway.stop() == 0


def test_one_process_says_that_it_cannot_be_replaced(alone: Path, sandbox: Sandbox) -> None:
    """Fails where SIGUSR2 is left to the system: that ends the only process, with all that is under way in it."""
    with serving(alone, sandbox.environ) as gateway:
        gateway.signal(signal.SIGUSR2)
        until(lambda: any("no other that could serve meanwhile" in text for text in gateway.messages()), "it says so")
        assert httpx2.get(gateway.url + "/health/ready").status_code == 200
        assert gateway.stop() == 0


def test_another_instance_takes_over_the_port(alone: Path, sandbox: Sandbox) -> None:
    """A new version beside the old one, which then drains: no request fails. The kernel has its own test: test_takeover.py.

    Fails without `reuse_port`: the new one cannot listen.
    """
    headers = key_of(alone)
    alone.write_text(alone.read_text().replace("drain_s: 5", "drain_s: 5, reuse_port: true"))
    with serving(alone, sandbox.environ) as old:
        port = old.url.rpartition(":")[2]
        with (
            Load(old.url, headers, 16, path="/health/live", keep=False) as load,
            serving(alone, sandbox.environ, "--port", port) as new,
        ):
            assert old.stop() == 0
            load.passed(30)
            assert [worker.pid for worker in workers(new)] == [new.process.pid]
            load.stop()
        assert set(load.outcomes) == {"200"}


def test_f21_new_connections_are_answered_until_a_balancer_has_noticed(config: Path, sandbox: Sandbox) -> None:
    """SIGTERM is not ready at once, and refuses nobody before `drain_delay_s` has passed. SIGINT cuts the delay short.

    Fails with `drain_delay_s: 0`: the connections that the balancer makes before it has looked again are refused.
    """
    config.write_text(config.read_text().replace("drain_s: 5", "drain_s: 5, drain_delay_s: 60"))
    with (
        serving(config, sandbox.environ) as gateway,
        Load(gateway.url, key_of(config), 4, path="/health/live", keep=False) as load,
    ):
        gateway.signal(signal.SIGTERM)
        until(lambda: [worker.state for worker in workers(gateway)] == ["draining"] * 3, "three that drain")
        assert httpx2.get(gateway.url + "/health/ready").status_code == 503
        load.passed(60)
        load.stop()
        assert set(load.outcomes) == {"200"}
        for worker in workers(gateway):
            os.kill(worker.pid, signal.SIGINT)
        assert gateway.process.wait(60) == 0


@contextmanager
def activated(listener: socket.socket) -> Iterator[Any]:
    """A way to start a process as systemd does for a socket unit: it listens, the process inherits."""

    def start(arguments: Sequence[str], env: dict[str, str], **pipes: Any) -> "subprocess.Popen[bytes]":
        script = 'exec 3<&"$FD"; LISTEN_PID=$$ LISTEN_FDS=1 exec "$@"'
        fd = listener.fileno()
        return subprocess.Popen(
            ["/bin/bash", "-c", script, "start", *arguments], env={**env, "FD": str(fd)}, pass_fds=[fd], **pipes
        )

    yield start


def test_socket_activation_refuses_nobody_while_versions_change(alone: Path, sandbox: Sandbox) -> None:
    """The socket outlives both processes: a client that comes in between waits, and is answered."""
    headers = key_of(alone)
    with socket.create_server(("127.0.0.1", 0), backlog=100) as listener, activated(listener) as start:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        with serving(alone, sandbox.environ, start=start) as old, Load(url, headers, 6) as load:
            assert old.url == url
            assert old.stop() == 0
            with serving(alone, sandbox.environ, start=start):
                load.passed(30)
                load.stop()
        assert set(load.outcomes) == {"200"}
