"""What the comparisons share: processes on their cores, the gateway with a key, wrk, CPU and memory of a process."""

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.request import urlopen

HERE = Path(__file__).parent
UPSTREAM_PORT = int(os.environ.get("BENCH_PORT", "9100"))  # the first of some that are used
GATEWAY_PORT, NGINX_PORT = UPSTREAM_PORT + 1, UPSTREAM_PORT + 2
UPSTREAM = f"http://127.0.0.1:{UPSTREAM_PORT}"
GATEWAY_CORE, LOAD_CORE = 0, 1
_CPUCLOCK_SCHED = 2  # include/linux/posix-timers.h
_NGINX = """
worker_processes 1; error_log {folder}/error.log; pid {folder}/pid; daemon off;
events {{ worker_connections 20000; }}
http {{
  access_log off; client_body_temp_path {folder}; proxy_temp_path {folder}; fastcgi_temp_path {folder};
  uwsgi_temp_path {folder}; scgi_temp_path {folder};
  upstream bench {{ server 127.0.0.1:{upstream}; keepalive 256; keepalive_requests 100000000; }}
  server {{
    listen 127.0.0.1:{port} backlog=4096; keepalive_requests 100000000;
    location / {{ proxy_pass http://bench; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_buffering off;
                  proxy_read_timeout 600s; }}
  }}
}}
"""


class Missing(Exception):
    """A program that the comparison needs is not installed."""


@dataclass(frozen=True)
class Server:
    """One server under measurement."""

    name: str
    url: str
    pids: tuple[int, ...]
    headers: Mapping[str, str]
    other_headers: Mapping[str, str] = field(default_factory=dict)  # of a second key

    def cpu_s(self) -> float:
        """Seconds of CPU, user and system, that its processes have used, by their own clocks (clock_getcpuclockid(3))."""
        return sum(time.clock_gettime((~pid << 3) | _CPUCLOCK_SCHED) for pid in self.pids)

    def resident_kb(self) -> int:
        pages = sum(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in self.pids)
        return pages * os.sysconf("SC_PAGE_SIZE") // 1024


def pinned(cores: int | str, *command: str) -> list[str]:
    """`cores`: one, or a list as taskset(1) takes it."""
    return ["taskset", "-c", str(cores), *command]


def needed(program: str) -> str:
    path = shutil.which(program) or shutil.which(program, path="/usr/sbin:/sbin")
    if path is None:
        raise Missing(f"{program} is not installed: apt-get install {program}")
    return path


@contextlib.contextmanager
def process(command: list[str], **options: object) -> Iterator[subprocess.Popen[bytes]]:
    child = subprocess.Popen(command, **options)  # type: ignore[call-overload]
    try:
        yield child
    finally:
        child.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(10)
        child.kill()


def wait_for(url: str, within_s: float = 60, look_s: float = 0.05) -> None:
    deadline = time.monotonic() + within_s
    while True:
        try:
            urlopen(url, timeout=5).close()
        except OSError as error:
            if getattr(error, "code", None) is not None:
                return  # an HTTP error is an answer
            if time.monotonic() > deadline:
                raise
            time.sleep(look_s)
        else:
            return


def alive(child: subprocess.Popen[bytes], port: int) -> None:
    """What answers at `port` is to be `child`, not another measurement's server, which would be measured in its place."""
    if child.poll() is not None:
        raise Missing(f"port {port} is taken: another measurement is running")


@contextlib.contextmanager
def upstream() -> Iterator[None]:
    with process(pinned(LOAD_CORE, sys.executable, str(HERE / "upstream.py"), str(UPSTREAM_PORT))) as child:
        time.sleep(1)
        alive(child, UPSTREAM_PORT)
        yield


@contextlib.contextmanager
def nginx() -> Iterator[Server]:
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "nginx.conf"
        config.write_text(_NGINX.format(folder=folder, upstream=UPSTREAM_PORT, port=NGINX_PORT))
        with process(pinned(GATEWAY_CORE, needed("nginx"), "-c", str(config))) as child:
            time.sleep(1)
            yield Server("nginx", f"http://127.0.0.1:{NGINX_PORT}", children(child.pid), {})


def children(pid: int) -> tuple[int, ...]:
    return tuple(map(int, subprocess.run(["pgrep", "-P", str(pid)], capture_output=True, text=True).stdout.split()))


@contextlib.contextmanager
def gateway(
    config: Path,
    name: str = "xrouter",
    credits: str | None = None,
    *,
    port: int = GATEWAY_PORT,
    cores: int | str = GATEWAY_CORE,
    python: str = sys.executable,
    more_environ: Mapping[str, str] | None = None,
    options: Sequence[str] = (),
    two_keys: bool = False,
) -> Iterator[Server]:
    """The gateway with a key of its own, or two. Its store: BENCH_STORE of `more_environ`, or a fresh SQLite file."""
    with tempfile.TemporaryDirectory() as folder:
        environ = {
            **os.environ,
            "PYTHONPATH": str(HERE.parent),
            "BENCH_STORE": f"sqlite:///{folder}/bench.db",
            "BENCH_HOST": UPSTREAM,
            "BENCH_UPSTREAM": f"{UPSTREAM}/v1",
            **(more_environ or {}),
        }
        xrouter = [python, "-m", "xrouter.cli"]
        subprocess.run([*xrouter, "db", "upgrade", "-c", str(config)], env=environ, capture_output=True, check=True)

        def new_key(name: str) -> dict[str, str]:
            command = [*xrouter, "keys", "create", "-c", str(config), "--name", name, "--json"]
            command += ["--credits", credits] if credits else []
            made = subprocess.run(command, env=environ, capture_output=True, check=True)
            return {"Authorization": f"Bearer {json.loads(made.stdout)['key']}"}

        key, other_key = new_key("bench"), new_key("other") if two_keys else {}
        with open(f"{folder}/log", "wb") as log:
            serve = [*xrouter, "serve", "-c", str(config), "--port", str(port), *options]
            with process(pinned(cores, *serve), env=environ, stderr=log) as child:
                wait_for(f"http://127.0.0.1:{port}/health/ready")
                alive(child, port)
                pids = (child.pid, *children(child.pid))
                yield Server(name, f"http://127.0.0.1:{port}", pids, key, other_key)


@dataclass(frozen=True)
class Load:
    requests: int
    seconds: float
    bytes: int
    failures: int
    cpu_s: float
    p50_ms: float
    p99_ms: float

    @property
    def per_s(self) -> float:
        return self.requests / self.seconds

    @property
    def cpu_us(self) -> float:
        return self.cpu_s / max(self.requests, 1) * 1e6


_LUA = """
wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
{headers}
wrk.body = [==[{body}]==]
done = function(summary, latency)
  local e = summary.errors
  io.write(string.format("RESULT %d %d %d %d %d %d\\n", summary.requests, summary.duration, summary.bytes,
    e.connect + e.read + e.write + e.status + e.timeout, latency:percentile(50), latency:percentile(99)))
end
"""


def wrk(server: Server, body: str, connections: int, seconds: int, path: str = "/v1/chat/completions") -> Load:
    """Load `server` with as much as it takes for `seconds`."""
    headers = "\n".join(f'wrk.headers["{name}"] = "{value}"' for name, value in server.headers.items())
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as script:
        script.write(_LUA.format(headers=headers, body=body))
        script.flush()
        before = server.cpu_s()
        run = subprocess.run(
            pinned(
                LOAD_CORE, needed("wrk"), "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "20s", "--latency",
                "-s", script.name, f"{server.url}{path}",
            ),
            capture_output=True,
            text=True,
            check=True,
        )  # fmt: skip
    numbers = re.search(r"RESULT (\d+) (\d+) (\d+) (\d+) (\d+) (\d+)", run.stdout)
    assert numbers, run.stdout
    requests, micros, size, failures, p50_us, p99_us = map(int, numbers.groups())
    return Load(requests, micros / 1e6, size, failures, server.cpu_s() - before, p50_us / 1000, p99_us / 1000)
