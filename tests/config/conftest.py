from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest

from xrouter.config.load import ConfigError, load
from xrouter.config.settings import Settings

LoadText = Callable[..., Settings]
ProblemsOf = Callable[..., list[str]]


@pytest.fixture
def load_text(tmp_path: Path) -> LoadText:
    """Load a configuration from text or bytes; keyword arguments are its environment."""

    def load_it(text: str | bytes, **environ: str) -> Settings:
        path = tmp_path / "x.yaml"
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        return load(path, environ)

    return load_it


@pytest.fixture
def problems_of(load_text: LoadText) -> ProblemsOf:
    """The problems of a configuration, each as `line:col: message`."""

    def problems(text: str | bytes, **environ: str) -> list[str]:
        with pytest.raises(ConfigError) as caught:
            load_text(text, **environ)
        prefix = "x.yaml:"
        lines = str(caught.value).splitlines()
        assert len(lines) == len(caught.value.problems)
        assert all(str(problem) == line for problem, line in zip(caught.value.problems, lines, strict=True))
        return [line.partition(prefix)[2] for line in lines]

    return problems


class Sheet:
    """A whole configuration of which a test changes one section.

    The section under test comes first, so that its lines are counted from the top.
    """

    sections: ClassVar = {
        "upstreams": 'upstreams: {up: {provider: "toy_parts:Toy"}}',
        "models": "models: {}",
        "filters": 'filters: ["toy_parts:Reader", "toy_parts:Router"]',
    }

    def __call__(self, section: str, text: str) -> str:
        rest = [line for name, line in self.sections.items() if name != section]
        return "\n".join([text.strip("\n"), *rest, ""])


@pytest.fixture
def sheet() -> Sheet:
    return Sheet()


@pytest.fixture
def filter_config(load_text: LoadText, sheet: Sheet) -> Callable[..., Any]:
    """The decoded Config of the filter Everything, written as flow or block YAML below its name."""

    def config(text: str, **environ: str) -> Any:
        body = "\n".join(f"      {line}" for line in text.strip("\n").splitlines())
        filters = f"filters:\n  - toy_parts:Reader\n  - toy_parts:Router\n  - toy_parts:Everything:\n{body}"
        return load_text(sheet("filters", filters), **environ).filters[-1].config

    return config
