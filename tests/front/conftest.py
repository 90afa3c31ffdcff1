"""A front with ordinary limits for tests that need no others, and a watch over what is logged."""

import logging
from collections.abc import Iterator

import pytest
from front_app import Served


@pytest.fixture(scope="module")
def shared() -> Iterator[Served]:
    with Served() as served:
        yield served


@pytest.fixture
def served(shared: Served) -> Served:
    """The module's server with nothing open and nothing seen yet."""
    shared.wait_until_idle()
    probe = shared.probe
    probe.started.clear()
    probe.seen.clear()
    probe.left.clear()
    probe.refusals.clear()
    probe.sent = 0
    return shared


@pytest.fixture(autouse=True)
def nothing_unexpected(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """No error in the log, of the app or of the event loop ("protocol.data_received() call failed").

    A test whose app breaks on purpose clears `caplog`.
    """
    yield
    assert [record.getMessage() for record in caplog.get_records("call") if record.levelno >= logging.ERROR] == []
