"""The documentation's promises that a program can hold: links lead somewhere, commands are read, names are the code's."""

import argparse
import ast
import importlib
import re
import shlex
from pathlib import Path

import pytest
from kit.gateway import CHAIN, running_gateway
from kit.walk import MODELS, UPSTREAMS, chat

from xrouter import cli
from xrouter.endpoints import _ENDPOINTS
from xrouter.observe.request_log import AttemptRecord, RequestRecord
from xrouter.sandbox.running import running_sandbox

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("**/*.md"), *(ROOT / "bench").glob("*.md")])
LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")
CODE = re.compile(r"^```[^\n]*\n.*?^```$", re.MULTILINE | re.DOTALL)
FENCE = re.compile(r"^```(?:sh|console|bash)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def anchors(page: Path) -> set[str]:
    """The fragments of a page's headings, as the usual renderers make them."""
    headings = re.findall(r"^#+ (.+)$", CODE.sub("", page.read_text(encoding="utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def relative(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("page", PAGES, ids=relative)
def test_every_relative_link_leads_to_something(page: Path) -> None:
    for target in LINK.findall(CODE.sub("", page.read_text(encoding="utf-8"))):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, fragment = target.partition("#")
        place = (page.parent / path).resolve() if path else page
        assert place.exists(), target
        assert place.is_relative_to(ROOT), target
        if fragment:
            assert fragment in anchors(place), target


def commands(page: Path) -> list[str]:
    """The lines of a page's shell blocks that call `xrouter`, continued lines joined, prompts and comments removed."""
    blocks = "\n".join(FENCE.findall(page.read_text(encoding="utf-8"))).replace("\\\n", " ")
    lines = (line.removeprefix("$ ").removeprefix(".venv/bin/") for line in blocks.splitlines())
    return [line for line in lines if re.match(r"(\w+=\S+ )*xrouter ", line)]


@pytest.mark.parametrize("page", PAGES, ids=relative)
def test_every_command_line_is_one(page: Path) -> None:
    parser = argparse.ArgumentParser()
    subparsers = parser.add_subparsers(required=True)
    for name in cli._COMMANDS:
        importlib.import_module(f"xrouter.commands.{name}").add_parser(subparsers)
    for line in commands(page):
        words = shlex.split(line, comments=True)
        parser.parse_args(words[words.index("xrouter") + 1 :])


def test_the_readmes_show_commands() -> None:
    """Otherwise the test above would hold nothing."""
    for name in ("README.md", "README.ru.md"):
        assert len(commands(ROOT / name)) >= 4


def test_both_readmes_have_the_same_parts() -> None:
    english, russian = ((ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "README.ru.md"))

    assert [len(level) for level in re.findall(r"^(#+) ", CODE.sub("", english), re.MULTILINE)] == [
        len(level) for level in re.findall(r"^(#+) ", CODE.sub("", russian), re.MULTILINE)
    ]
    assert [len(block.splitlines()) for block in CODE.findall(english)] == [
        len(block.splitlines()) for block in CODE.findall(russian)
    ]


@pytest.mark.parametrize(
    "page", [ROOT / "README.md", ROOT / "README.ru.md", ROOT / "docs" / "plugins.md"], ids=relative
)
def test_every_python_block_is_python(page: Path) -> None:
    for block in re.findall(r"^```python\n(.*?)^```$", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL):
        compile(block, page.name, "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT | ast.PyCF_ONLY_AST)


def test_the_plugin_of_the_guide_works(tmp_path: Path) -> None:
    guide = (ROOT / "docs" / "plugins.md").read_text(encoding="utf-8")
    whole = next(block for block in re.findall(r"```python\n(.*?)```", guide, re.DOTALL) if "class Sign" in block)
    (tmp_path / "plugins").mkdir()
    (tmp_path / "plugins" / "sign_of_the_guide.py").write_text(whole)
    chain = CHAIN + "  - plugins.sign_of_the_guide:Sign: {name: north}\n"
    with (
        running_sandbox() as sandbox,
        running_gateway(UPSTREAMS + MODELS + chain, sandbox.environ, tmp_path) as gateway,
    ):
        assert chat(gateway, "local/large", "Hello").headers["x-gateway"] == "north"


def test_docs_have_an_index_of_every_page() -> None:
    listed = set(LINK.findall((ROOT / "docs" / "README.md").read_text(encoding="utf-8")))

    assert {page.name for page in (ROOT / "docs").glob("*.md") if page.name != "README.md"} <= listed


def test_every_call_of_the_api_is_described_and_no_other() -> None:
    text = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    rows = [row.partition(" | ")[0] for row in re.findall(r"^\| (`[A-Z]+ .*)$", text, re.MULTILINE)]
    described = {call for row in rows for call in re.findall(r"`([A-Z]+ [^`]+)`", row)}

    assert described == {f"{endpoint.method} {path}" for path, endpoint in _ENDPOINTS}


def test_every_metric_is_described_and_no_other() -> None:
    """In the code a counter's name has no `_total`; on the wire it has."""
    text = (ROOT / "docs" / "monitoring.md").read_text(encoding="utf-8")
    sources = "\n".join(path.read_text() for path in (ROOT / "xrouter").rglob("*.py"))
    made = set(re.findall(r'(?:Counter|Gauge|Spreads|Family)\w*\(\s*"(xrouter_\w+)"', sources))
    described = {name.removesuffix("_total") for name in re.findall(r"^\| `(xrouter_\w+)` \|", text, re.MULTILINE)}

    assert described == made
    assert len(made) >= 16


def test_every_field_of_the_log_line_is_described_and_no_other() -> None:
    text = (ROOT / "docs" / "monitoring.md").read_text(encoding="utf-8")
    for heading, record in (("The line of a request", RequestRecord), ("`attempts`", AttemptRecord)):
        section = re.search(rf"^#+ {heading}$(.*?)(?=^#|\Z)", text, re.MULTILINE | re.DOTALL)
        assert section, heading
        rows = re.findall(r"^\| ((?:`\w+`(?:, )?)+) \|", section[1], re.MULTILINE)
        described = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
        assert described == set(record.__struct_fields__), heading
