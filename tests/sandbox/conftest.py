"""One sandbox for a module's tests, fresh before each."""

from collections.abc import Iterator

import pytest

from xrouter.sandbox.running import Sandbox, running_sandbox


@pytest.fixture(scope="module")
def module_sandbox() -> Iterator[Sandbox]:
    with running_sandbox(oauth_per_s=None, operation_delay_s=0.0) as sandbox:
        yield sandbox


@pytest.fixture
def sandbox(module_sandbox: Sandbox) -> Sandbox:
    module_sandbox.state.reset()
    return module_sandbox
