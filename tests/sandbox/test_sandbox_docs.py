"""docs/sandbox.md names every scenario, option and credential, and shows a mark that works."""

import argparse
import re
from pathlib import Path

from xrouter.commands import sandbox as command
from xrouter.sandbox import app, credentials
from xrouter.sandbox.openai_api import MODELS
from xrouter.sandbox.scenario import Scenario, parse
from xrouter.sandbox.yandex_iam import SANDBOX_PASSPORT_TOKEN

DOC = (Path(__file__).parents[2] / "docs" / "sandbox.md").read_text()


def test_every_scenario_is_documented_and_nothing_else() -> None:
    table = DOC[DOC.index("| name | effect |") : DOC.index("## Controls")]
    named = {re.split(r"[=`]", row[3:])[0].replace("-", "_") for row in table.splitlines() if row.startswith("| `")}
    assert named == set(Scenario.__struct_fields__) - {"status"}


def test_the_examples_are_scenarios() -> None:
    for example in ("429,retry-after=1,times=2", *re.findall(r"\[\[emu:(.*?)\]\]", DOC)):
        assert f"{example}" in DOC
        parse(example)


def test_every_option_is_documented() -> None:
    subparsers = argparse.ArgumentParser().add_subparsers()
    command.add_parser(subparsers)
    usage = subparsers.choices["sandbox"].format_help()
    missing = {option for option in re.findall(r"--[a-z-]+", usage) if option not in DOC}
    assert missing == {"--help"}


def test_every_credential_is_documented() -> None:
    values = [
        value for name, value in vars(credentials).items() if name.startswith("SANDBOX_") and isinstance(value, str)
    ]
    missing = [value for value in (*values, SANDBOX_PASSPORT_TOKEN) if value not in DOC]
    assert missing == ["ajesandbox"]  # the service account's id, which is in its key file


def test_every_model_and_prefix_is_documented() -> None:
    assert all(f"`{name}`" in DOC for name in MODELS)
    assert all(f"`{prefix}`" in DOC for prefix, _ in app._TABLES)
