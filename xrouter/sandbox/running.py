"""A sandbox in a thread of its own, for tests and for `make run`.

with running_sandbox() as sandbox:
    client = OpenAI(base_url=sandbox.openai_url, api_key=SANDBOX_OPENAI_KEY)
    sandbox.state.choose("429,retry-after=1", times=2, provider="gigachat")
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from xrouter.sandbox.addresses import Addresses
from xrouter.sandbox.app import create_app
from xrouter.sandbox.config import SandboxConfig
from xrouter.sandbox.serving import TlsFiles, listen, server
from xrouter.sandbox.state import SandboxState
from xrouter.sandbox.yandex_iam import new_service_account_key
from xrouter.world import World

_START_S = 30.0


class Sandbox(Addresses):
    """Where a running sandbox is, and what it has seen."""

    def __init__(self, port: int, state: SandboxState, *, tls: bool) -> None:
        super().__init__("localhost" if tls else "127.0.0.1", port, tls=tls)
        self.state = state


def service_account_key(sandbox: Sandbox) -> dict[str, str]:
    """A fresh key of a service account, in the form of Yandex's key file, that the sandbox's IAM accepts."""
    return new_service_account_key(sandbox.state)


@contextmanager
def running_sandbox(*, tls: TlsFiles | None = None, world: World | None = None, **config: Any) -> Iterator[Sandbox]:
    """A sandbox on a port of the kernel's choice, until the block ends. `config`: the fields of SandboxConfig."""
    state = SandboxState(SandboxConfig(**config), world)
    listener = listen("127.0.0.1", 0)
    port = listener.getsockname()[1]
    ready = threading.Event()
    running = server(create_app(state=state), tls, ready.set)
    thread = threading.Thread(target=running.run, args=([listener],), name=f"sandbox-{port}", daemon=True)
    thread.start()
    try:
        if not ready.wait(_START_S):
            raise RuntimeError("the sandbox did not start")
        yield Sandbox(port, state, tls=tls is not None)
    finally:
        running.should_exit = True
        thread.join()
        listener.close()
