"""Whatever the bytes are: a Settings or a ConfigError, soon."""

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from time import process_time

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from xrouter.config.load import ConfigError, Problem, load

LIMIT_S = 2.0  # of processor-starved test machines; a usual file takes milliseconds
KEYS = [
    "server", "port", "host", "drain_s", "store", "redis", "admin", "token", "upstreams", "provider", "base_url", "tls",
    "models", "a/b", "routes", "upstream", "model", "price", "input", "per", "aliases", "variants", "filters", "tiers",
    "requests", "concurrency", "toy_parts:Everything", "toy_parts:Toy", "toy_parts:Reader", "<<", "weight", "up", "free",
]  # fmt: skip
FRAGMENTS = st.lists(
    st.sampled_from(
        [*KEYS, ": ", "\n", "  ", "- ", "{", "}", "[", "]", ",", "&a ", "*a", "!!int ", "${A}", "${B:-c}", "'", '"', "|\n",
         "1", "0.5", "null", "~", "%", "#", "? ", "---\n", "...\n", "\t", "\\", "é", "\0", "\ufeff", "<<: ", ">-\n"]
    ),
    max_size=60,
).map("".join)  # fmt: skip
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=12),
    st.sampled_from([*KEYS, "${A}", "${B:-5}", "${C}", "http://h/v1", "20/minute", "0.65", "20MB"]),
)
TREES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(KEYS) | SCALARS, inner, max_size=5),
    max_leaves=30,
)
SECTIONS = st.dictionaries(
    st.sampled_from(["server", "store", "redis", "admin", "upstreams", "models", "filters", "tiers", "ledger"]),
    TREES | st.dictionaries(st.sampled_from(KEYS), TREES, max_size=4),
    max_size=9,
)
bounded = settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.too_slow])


@pytest.fixture(scope="module")
def file() -> Iterator[Path]:
    with TemporaryDirectory() as folder:
        yield Path(folder) / "x.yaml"


def _holds(file: Path, data: bytes) -> None:
    file.write_bytes(data)
    started = process_time()
    problems = _problems(file)
    assert process_time() - started < LIMIT_S
    for problem in problems:
        line, column = problem.place.removeprefix(f"{file}:").split(":")
        assert int(line) >= 1
        assert int(column) >= 1
        assert problem.message
        assert "\n" not in problem.message


def _problems(file: Path) -> tuple[Problem, ...]:
    try:
        load(file, {"A": "1", "B": ""})
    except ConfigError as error:
        return error.problems
    return ()


@given(data=st.binary(max_size=400))
@bounded
def test_any_bytes(file: Path, data: bytes) -> None:
    _holds(file, data)


@given(text=FRAGMENTS)
@bounded
def test_pieces_of_yaml(file: Path, text: str) -> None:
    _holds(file, text.encode())


@given(tree=TREES | SECTIONS)
@bounded
def test_any_tree(file: Path, tree: object) -> None:
    try:
        text = yaml.safe_dump(tree, allow_unicode=True)
    except (yaml.YAMLError, TypeError):  # a value that YAML cannot hold as a key
        return
    _holds(file, text.encode("utf-8", errors="replace"))


@given(cut=st.integers(min_value=0, max_value=3000))
@bounded
def test_contract_cut_anywhere(file: Path, cut: int) -> None:
    contract = Path(__file__).with_name("contract.yaml").read_bytes()
    _holds(file, contract[:cut])


@given(position=st.integers(min_value=0, max_value=3000), piece=FRAGMENTS)
@bounded
def test_contract_with_something_in_it(file: Path, position: int, piece: str) -> None:
    contract = Path(__file__).with_name("contract.yaml").read_bytes()
    _holds(file, contract[:position] + piece.encode() + contract[position:])
