"""docs/fault-rows.md: each row names a test that exists and carries the row's number, and says when it was seen to fail."""

import ast
import datetime
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
ROW = re.compile(r"^\| (F\d\d) \| `(tests/\S+\.py)::(\w+)` \| (.+) \| (\d{4}-\d\d-\d\d) \|$")


def table() -> list[str]:
    text = (ROOT / "docs" / "fault-rows.md").read_text(encoding="utf-8")
    return [line for line in text.splitlines() if line.startswith("|")][2:]


def functions_in(path: Path) -> set[str]:
    functions = ast.FunctionDef | ast.AsyncFunctionDef
    return {node.name for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, functions)}


def test_every_fault_that_is_claimed_has_its_test() -> None:
    lines = table()
    assert lines
    for line in lines:
        row = ROW.match(line)
        assert row, line
        fault, path, name, change, day = row.groups()
        assert f"_{fault.lower()}_" in name, line
        assert name in functions_in(ROOT / path), line
        assert len(change.split()) >= 4, line
        assert datetime.date.fromisoformat(day) <= datetime.datetime.now(tz=datetime.UTC).date(), line


def test_the_rows_are_in_order_and_none_stands_twice() -> None:
    """So that several people can add rows without a conflict that hides one."""
    faults = [line.split()[1] for line in table()]

    assert faults == sorted(faults)
    assert len(set(table())) == len(table())
