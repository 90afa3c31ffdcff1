from pathlib import Path

import pytest

from xrouter.config.problems import ConfigError
from xrouter.workers.source import Source

YAML = """\
upstreams: {up: {provider: openai, base_url: "http://127.0.0.1:9/v1"}}
models: {a/b: {routes: [{upstream: up, model: m}], price: free}}
filters: [auth, body, routing]
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    file = tmp_path / "xrouter.yaml"
    file.write_text(YAML)
    return file


def test_the_command_line_goes_before_the_file(config: Path) -> None:
    server = Source(config, "0.0.0.0", 0, 1).load().server
    assert (server.host, server.port, server.workers) == ("0.0.0.0", 0, 1)


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({"port": 99999}, "--port: expected a number from 0 to 65535"),
        ({"host": ""}, "--host: expected an address or a host's name"),
        ({"workers": 0}, "--workers: expected a number from 1 to 1024"),
        ({"workers": 2}, "--workers: 2 workers need `redis`: that is where they count together"),
    ],
)
def test_what_the_file_may_not_say_the_command_line_may_not_either(
    config: Path, given: dict[str, int | str], problem: str
) -> None:
    """Each was taken as it came: a port ended in a traceback, and two workers counted every limit by themselves."""
    with pytest.raises(ConfigError) as refused:
        Source(config, **given).load()  # type: ignore[arg-type]  # each value is of its field's type
    assert str(refused.value) == problem
