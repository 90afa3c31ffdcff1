"""docs/configuration.md names every key that there is, with its default, and none that there is not."""

import re
from dataclasses import MISSING, Field, fields, is_dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from xrouter import registry
from xrouter.config import settings
from xrouter.config.decode import hints
from xrouter.config.document import MAX_BYTES, MAX_DEPTH, MAX_NODES
from xrouter.config.size import ByteSize, parse_size
from xrouter.secret import Secret

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
SECTIONS = {
    "The file": settings.Settings,
    "`server`": settings.Server,
    "`admin`": settings.Admin,
    "`upstreams`": settings.UpstreamSettings,
    "`upstreams.*.tls`": settings.Tls,
    "`upstreams.*.timeouts`": settings.Timeouts,
    "`upstreams.*.probe`": settings.Probe,
    "`models`": settings.ModelSettings,
    "`models.*.routes`": settings.RouteSettings,
    "`models.*.price`": settings.Price,
    "`models.*.price.cost`": settings.Rates,
    "`ledger`": settings.Ledger,
    "`tiers`": settings.Tier,
    "`tiers.*.quota`": settings.TierQuota,
}
PROVIDERS = {"gigachat": "GigaChat", "yandexgpt": "YandexGPT", "openai": "OpenAI"}
BUILT = [name for name, path in registry.PROVIDERS.items() if find_spec(path.partition(":")[0])]
FILTERS = [name for name, path in registry.FILTERS.items() if find_spec(path.partition(":")[0])]
IN_WORDS = {
    None: re.compile(r"none|unknown|the id|`input`|`output`|the provider's|the API's|as the contract has it|`http1`"),
    (): re.compile(r"none"),
}


def _rows(heading: str) -> dict[str, str]:
    """Key → default, of the first table below `heading`."""
    match = re.search(rf"^#+ {re.escape(heading)}$(.*?)(?=^#|\Z)", TEXT, re.MULTILINE | re.DOTALL)
    assert match, f"docs/configuration.md has no heading {heading}"
    rows = re.findall(r"^\| `(\w+)` \| ([^|]+) \| ([^|]+) \|", match[1], re.MULTILINE)
    return {name: default.strip() for name, _, default in rows}


def _default_fits(field: Field[Any], annotation: Any, written: str) -> bool:
    if field.default_factory is not MISSING:
        return written in ("its defaults", "none")
    value = field.default
    if is_dataclass(value):
        return written == "its defaults"
    if annotation is ByteSize:
        return parse_size(written.strip("`")) == value
    if value is MISSING:
        return written == "required"
    if value is None or value == ():
        return bool(IN_WORDS[value].fullmatch(written))
    if value == Secret(""):
        return written == "empty"
    if isinstance(value, bool):
        return written == f"`{str(value).lower()}`"
    if isinstance(value, int | float):
        return written == f"`{value:.15g}`"
    if isinstance(value, tuple):
        return written == f"`[{', '.join(map(str, value))}]`"
    return written in (f"`{value}`", f'`"{value}"`')


def _holds(cls: type[Any], heading: str, inherited: frozenset[str] = frozenset()) -> None:
    rows = _rows(heading)
    own = {field.name: field for field in fields(cls)}
    types = hints(cls)
    assert rows.keys() <= own.keys()
    assert own.keys() - rows.keys() <= inherited
    for name, written in rows.items():
        assert _default_fits(own[name], types[name], written), (
            f"{heading}: the default of {name} is {own[name].default!r}, not {written}"
        )


@pytest.mark.parametrize("heading", SECTIONS)
def test_section_names_its_keys_and_their_defaults(heading):
    _holds(SECTIONS[heading], heading)


def test_every_settings_class_has_a_section():
    classes = {
        value for value in vars(settings).values() if isinstance(value, type) and hasattr(value, "__dataclass_fields__")
    }
    assert classes - {settings.FilterEntry} == set(SECTIONS.values())


@pytest.mark.parametrize("name", BUILT)
def test_provider_names_its_keys_and_their_defaults(name):
    config = registry.provider_class(name, ROOT).Config
    common = frozenset(field.name for field in fields(settings.UpstreamSettings))
    _holds(config, PROVIDERS[name], inherited=common)


@pytest.mark.parametrize("name", FILTERS)
def test_filter_names_its_keys_and_their_defaults(name):
    config = registry.filter_class(name, ROOT).Config
    if fields(config):
        _holds(config, f"`filters`: `{name}`")
    else:
        assert f"`{name}`" in TEXT


def test_every_heading_that_is_linked_exists():
    headings = {
        re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        for heading in re.findall(r"^#+ (.*)$", TEXT, re.MULTILINE)
    }
    assert set(re.findall(r"\]\(#([^)]*)\)", TEXT)) <= headings


def test_limits_of_the_file_are_the_real_ones():
    assert f"{MAX_BYTES // 1024} KiB" in TEXT
    assert f"{MAX_DEPTH} levels" in TEXT
    assert f"{MAX_NODES:,} values".replace(",", " ") in TEXT
