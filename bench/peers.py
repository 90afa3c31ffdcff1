"""The gateways that ours is compared with, each as its makers package it, in an environment of its own under .run/bench/.

    python bench/peers.py        installs what is missing, and says what is there

What cannot be installed is named in the report with the reason.
"""

import contextlib
import os
import secrets
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from parts import GATEWAY_CORE, HERE, UPSTREAM, Server, alive, children, needed, pinned, process, wait_for

HOME = HERE.parent / ".run" / "bench"
PLAIN_PYTHON = "/usr/bin/python3.11"  # Debian's, built with profile-guided optimisation
_KEY = f"sk-{secrets.token_hex(32)}"  # LiteLLM serves nobody without a key of its own
_LITELLM = """
model_list:
  - model_name: bench
    litellm_params: {{model: openai/bench, api_base: "{upstream}/v1", api_key: bench}}
general_settings: {{master_key: {key}}}
"""


@dataclass(frozen=True)
class Peer:
    """`command` may say {config}, the path of a file with `config` in it."""

    name: str
    package: str  # of PyPI, or of npm where it begins with @
    port: int
    command: tuple[str, ...]
    environ: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    config: str = ""

    @property
    def folder(self) -> Path:
        return HOME / self.name


PEERS = {
    peer.name: peer
    for peer in (
        Peer(
            "sglang-router",
            "sglang-router",
            9103,
            ("bin/python", "-m", "sglang_router.launch_router", "--host", "127.0.0.1", "--port", "9103",
             "--worker-urls", UPSTREAM, "--backend", "openai", "--log-level", "error", "--prometheus-port", "9203"),
        ),
        Peer(
            "litellm",
            "litellm[proxy]",
            9104,
            ("bin/litellm", "--config", "{config}", "--host", "127.0.0.1", "--port", "9104", "--num_workers", "1",
             "--telemetry", "False"),
            {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_LOG": "ERROR"},
            {"Authorization": f"Bearer {_KEY}"},
            _LITELLM.format(upstream=UPSTREAM, key=_KEY),
        ),
        Peer(
            "portkey",
            "@portkey-ai/gateway",
            9105,
            ("node_modules/@portkey-ai/gateway/build/start-server.js", "--port=9105", "--headless"),
            {"TRUSTED_CUSTOM_HOSTS": "127.0.0.1"},
            {"x-portkey-provider": "openai", "x-portkey-custom-host": f"{UPSTREAM}/v1", "Authorization": "Bearer bench"},
        ),
        Peer(
            "gpt2giga",
            "gpt2giga",
            9106,
            ("bin/gpt2giga", "--proxy.host", "127.0.0.1", "--proxy.port", "9106", "--proxy.log-level", "ERROR"),
            {
                "GIGACHAT_CREDENTIALS": "YmVuY2g6YmVuY2g=",
                "GIGACHAT_SCOPE": "GIGACHAT_API_CORP",
                "GIGACHAT_BASE_URL": f"{UPSTREAM}/giga/v1",
                "GIGACHAT_AUTH_URL": f"{UPSTREAM}/giga/oauth",
            },
        ),
    )
}  # fmt: skip


def _run(*command: str, cwd: Path | None = None) -> str:
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=True).stdout


def install(peer: Peer) -> str:
    """Its version, after it has been installed if it was not. Raises CalledProcessError or OSError: it cannot be."""
    npm = peer.package.startswith("@")
    program = peer.folder / peer.command[0]
    if npm:
        if not program.exists():
            peer.folder.mkdir(parents=True, exist_ok=True)
            _run(needed("npm"), "install", "--no-fund", "--no-audit", "--prefix", ".", peer.package, cwd=peer.folder)
        listed = _run(needed("npm"), "ls", "--prefix", ".", peer.package, cwd=peer.folder)
        return listed.rsplit("@", 1)[1].strip()
    if not program.exists():
        make_environment(peer.folder)
        _run(str(peer.folder / "bin/pip"), "install", "--quiet", peer.package)
    return _version(peer.folder, peer.package.partition("[")[0])


def make_environment(folder: Path) -> None:
    python = PLAIN_PYTHON if Path(PLAIN_PYTHON).exists() else sys.executable
    _run(python, "-m", "venv", str(folder))


def _version(folder: Path, package: str) -> str:
    code = f"import importlib.metadata; print(importlib.metadata.version({package!r}))"
    return _run(str(folder / "bin/python"), "-c", code).strip()


def own_environment() -> str:
    """A Python with what the gateway needs, made by Debian's interpreter: the same code on a faster build."""
    folder = HOME / "xrouter"
    if not (folder / "bin/uvicorn").exists():
        make_environment(folder)
        lock = HERE.parent / ".ci" / "requirements-run.lock"
        _run(str(folder / "bin/pip"), "install", "--quiet", "--require-hashes", "-r", str(lock))
    return str(folder / "bin/python")


@contextlib.contextmanager
def running(peer: Peer) -> Iterator[Server]:
    command = [str(peer.folder / peer.command[0]), *peer.command[1:]]
    if peer.package.startswith("@"):
        command.insert(0, needed("node"))
    with tempfile.TemporaryDirectory() as folder, open(HOME / f"{peer.name}.log", "wb") as log:
        config = Path(folder) / "config.yaml"
        config.write_text(peer.config)
        started = pinned(GATEWAY_CORE, *(part.format(config=config) for part in command))
        with process(started, env={**os.environ, **peer.environ}, cwd=folder, stdout=log, stderr=log) as child:
            wait_for(f"http://127.0.0.1:{peer.port}/", within_s=90)
            alive(child, peer.port)
            pids = (child.pid, *children(child.pid))
            yield Server(peer.name, f"http://127.0.0.1:{peer.port}", pids, peer.headers)


def main() -> None:
    for peer in PEERS.values():
        try:
            print(peer.name, install(peer))
        except (subprocess.CalledProcessError, OSError) as error:
            print(f"{peer.name}: {getattr(error, 'stderr', '') or error}")
    print("own:", own_environment())


if __name__ == "__main__":
    main()
