"""One gateway before one sandbox, for every client."""

from collections.abc import Iterator

import pytest
from kit.gateway import CHAIN, RunningGateway, running_gateway
from kit.walk import MODELS, UPSTREAMS, forget

from xrouter.sandbox.running import Sandbox, running_sandbox


@pytest.fixture(scope="session")
def clients_sandbox() -> Iterator[Sandbox]:
    with running_sandbox() as sandbox:
        yield sandbox


@pytest.fixture
def sandbox(clients_sandbox: Sandbox) -> Sandbox:
    return forget(clients_sandbox)


@pytest.fixture(scope="session")
def clients_gateway(clients_sandbox: Sandbox, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    folder = tmp_path_factory.mktemp("gateway")
    with running_gateway(UPSTREAMS + MODELS + CHAIN, clients_sandbox.environ, folder) as gateway:
        yield gateway


@pytest.fixture
def gateway(sandbox: Sandbox, clients_gateway: RunningGateway) -> RunningGateway:
    return clients_gateway
