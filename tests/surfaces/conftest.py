"""One gateway with accounts for a module's tests."""

from collections.abc import Callable, Iterator

import pytest
from kit.accounts import ACCOUNTS, Accounts
from kit.gateway import running_gateway
from kit.walk import UPSTREAMS

from xrouter.sandbox.running import Sandbox, running_sandbox


@pytest.fixture(scope="session")
def account_sandbox() -> Iterator[Sandbox]:
    with running_sandbox() as running:
        yield running


@pytest.fixture(scope="module")
def accounts(account_sandbox: Sandbox, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Accounts]:
    folder = tmp_path_factory.mktemp("accounts")
    with running_gateway(UPSTREAMS + ACCOUNTS, account_sandbox.environ, folder) as running:
        yield Accounts(running)


@pytest.fixture
def fresh_account(accounts: Accounts) -> Callable[[str], str]:
    """Give an account 100 credits; returns its name."""

    def make(name: str) -> str:
        accounts.grant(name, 100 * 10**9)
        return name

    return make
