"""A sandbox in a thread of its own, for tests and for `make run`.

with running_sandbox() as sandbox:
    client = OpenAI(base_url=sandbox.openai_url, api_key=SANDBOX_OPENAI_KEY)
    sandbox.state.choose("429,retry-after=1", times=2, provider="gigachat")
"""

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from xrouter.sandbox import credentials
from xrouter.sandbox.app import create_app
from xrouter.sandbox.config import SandboxConfig
from xrouter.sandbox.serving import TlsFiles, listen, server
from xrouter.sandbox.state import SandboxState
from xrouter.sandbox.yandex_iam import new_service_account_key
from xrouter.world import World

_START_S = 30.0


class Sandbox:
    """Where a running sandbox is, and what it has seen. URLs have no slash at their end."""

    def __init__(self, url: str, state: SandboxState) -> None:
        self.url = url
        self.state = state
        self.gigachat_url = f"{url}/gigachat/v1"
        self.gigachat_auth_url = f"{url}/gigachat/api/v2/oauth"
        self.yandex_url = f"{url}/yandex"
        self.yandex_openai_url = f"{url}/yandex/v1"
        self.yandex_iam_url = f"{url}/yandex/iam/v1/tokens"
        self.openai_url = f"{url}/openai/v1"

    @property
    def environ(self) -> Mapping[str, str]:
        """The variables of config/xrouter.yaml that point the gateway here."""
        return {
            "GIGACHAT_CREDENTIALS": credentials.SANDBOX_GIGACHAT_CREDENTIALS,
            "GIGACHAT_BASE_URL": self.gigachat_url,
            "GIGACHAT_AUTH_URL": self.gigachat_auth_url,
            "YANDEX_API_KEY": credentials.SANDBOX_YANDEX_API_KEY,
            "YANDEX_FOLDER_ID": credentials.SANDBOX_YANDEX_FOLDER,
            "YANDEX_BASE_URL": self.yandex_url,
            "YANDEX_IAM_URL": self.yandex_iam_url,
            "LOCAL_BASE_URL": self.openai_url,
            "LOCAL_API_KEY": credentials.SANDBOX_OPENAI_KEY,
        }


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
        host = "localhost" if tls else "127.0.0.1"
        yield Sandbox(f"{'https' if tls else 'http'}://{host}:{port}", state)
    finally:
        running.should_exit = True
        thread.join()
        listener.close()
