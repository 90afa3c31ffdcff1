import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from kit.keys import write_configuration

from xrouter.auth import keyformat
from xrouter.commands import db, keys
from xrouter.store.migrate import NEWEST
from xrouter.wire import decode_json


@dataclass
class Result:
    code: int
    out: str
    error: str

    @property
    def json(self) -> Any:
        return decode_json(self.out)


Command = Callable[..., Result]


@pytest.fixture
def xrouter(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Command:
    """Run `xrouter` with the configuration of `kit.keys`, given as `-c` after the subcommand."""
    configuration = write_configuration(tmp_path)

    def run(group: str, command: str, *arguments: str) -> Result:
        parser = argparse.ArgumentParser("xrouter")
        subparsers = parser.add_subparsers(required=True)
        keys.add_parser(subparsers)
        db.add_parser(subparsers)
        try:
            args = parser.parse_args([group, command, "-c", str(configuration), *arguments])
            code = args.run(args)
        except SystemExit as stopped:
            code = stopped.code
        out, error = capsys.readouterr()
        return Result(code, out, error)

    return run


def test_create_on_a_fresh_machine_shows_the_secret_once(xrouter: Command) -> None:
    created = xrouter("keys", "create", "--name", "Первый", "--json")
    assert (created.code, created.error) == (0, "")
    secret = created.json["key"]
    assert keyformat.digest(secret).hex() == created.json["hash"]
    assert (created.json["name"], created.json["account"], created.json["tier"]) == ("Первый", "default", None)
    for command in (
        ["list"],
        ["list", "--json"],
        ["show", created.json["hash"]],
        ["show", created.json["hash"], "--json"],
    ):
        shown = xrouter("keys", *command)
        assert shown.code == 0
        assert "Первый" in shown.out
        assert secret not in shown.out


def test_every_choice_is_stored(xrouter: Command) -> None:
    created = xrouter(
        "keys", "create", "--name", "n", "--tier", "free", "--account", "acme", "--limit", "12.50", "--limit-reset", "daily",
        "--models", "max, gigachat/pro:rc,gigachat/max", "--expires", "2101-01-31T12:00+03:00", "--ip", "10.0.0.0/8,::1",
        "--management", "--json",
    ).json  # fmt: skip
    shown = xrouter("keys", "show", created["hash"][:8], "--json").json
    assert created == shown | {"key": created["key"]}
    assert created["key"].startswith("xr-free-")
    assert {
        name: shown[name]
        for name in ("tier", "account", "limit", "limit_reset", "models", "expires_at", "ip", "management", "status")
    } == {
        "tier": "free",
        "account": "acme",
        "limit": "12.5",
        "limit_reset": "daily",
        "models": ["gigachat/max", "gigachat/pro:rc"],
        "expires_at": "2101-01-31T09:00:00Z",
        "ip": ["10.0.0.0/8", "::1"],
        "management": True,
        "status": "active",
    }


def test_text_output_says_the_same(xrouter: Command) -> None:
    created = xrouter("keys", "create", "--name", "n", "--ip", "10.0.0.0/8,::1")
    lines = dict(line.split(maxsplit=1) for line in created.out.splitlines())
    assert keyformat.is_wellformed(lines["key"])
    assert created.out.startswith("key ")
    assert (lines["ip"], lines["management"]) == ("10.0.0.0/8, ::1", "no")
    table = xrouter("keys", "list").out.splitlines()
    assert table[0].split() == ["HASH", "KEY", "NAME", "ACCOUNT", "TIER", "STATUS", "EXPIRES"]
    assert table[1].split() == [lines["hash"][:12], lines["label"], "n", "default", "-", "active", "never"]


def test_a_time_without_offset_is_utc(xrouter: Command) -> None:
    assert xrouter("keys", "create", "--name", "n", "--expires", "2101-01-01", "--json").json["expires_at"] == (
        "2101-01-01T00:00:00Z"
    )


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--tier", "gold"], "unknown tier 'gold'; known: free, pro"),
        (["--models", "gpt-4"], "unknown model 'gpt-4'; known: gigachat/max, gigachat/pro, gigachat/pro:rc"),
        (["--models", ""], "unknown model ''"),
        (["--expires", "2020-01-01T00:00:00Z"], "lies in the future"),
        (["--expires", "tomorrow"], "is not an ISO 8601 time"),
        (["--ip", "10.0.0.1/8"], "CIDR without host bits"),
        (["--ip", ""], "CIDR"),
        (["--account", "a b"], "An account's name"),
        (["--limit", "-1"], "limit"),
        (["--limit", "1e3"], "at most 9 decimals"),
        (["--limit-reset", "hourly"], "invalid choice"),
        (["--name", "a\nb"], "printable"),
    ],
)
def test_what_cannot_be_is_told_in_one_line_and_makes_no_key(xrouter: Command, arguments: list[str], told: str) -> None:
    result = xrouter("keys", "create", "--name", "n", *arguments)
    assert result.code != 0
    assert result.out == ""
    last = result.error.strip().splitlines()[-1]
    assert told in last
    assert result.error.startswith("usage") or result.error.count("\n") == 1
    assert xrouter("keys", "list", "--json").json == []


def test_revoke_and_rotate(xrouter: Command) -> None:
    old = xrouter("keys", "create", "--name", "n", "--json").json
    new = xrouter("keys", "rotate", old["hash"], "--grace", "60", "--json").json
    assert (new["rotated_from"], new["status"]) == (old["hash"], "active")
    assert new["key"] != old["key"]
    assert xrouter("keys", "show", old["hash"], "--json").json["expires_at"] is not None
    assert xrouter("keys", "rotate", new["hash"]).code == 0
    assert xrouter("keys", "show", new["hash"], "--json").json["status"] == "revoked"
    assert xrouter("keys", "revoke", old["hash"][:10], "--json").json["status"] == "revoked"
    assert len(xrouter("keys", "list").out.splitlines()) == 4
    again = xrouter("keys", "rotate", old["hash"])
    assert (again.code, again.error) == (1, "xrouter keys: This key is revoked; create a new one\n")


@pytest.mark.parametrize(("hash", "told"), [("0" * 64, "No key has this hash"), ("123", "at least the first 8")])
def test_a_key_that_is_not_there(xrouter: Command, hash: str, told: str) -> None:
    for command in ("show", "revoke", "rotate"):
        result = xrouter("keys", command, hash)
        assert (result.code, result.out) == (1, "")
        assert told in result.error


@pytest.mark.parametrize("grace", ["-1", "nan", "inf", "soon", "1e9"])
def test_grace_is_a_number_of_seconds(xrouter: Command, grace: str) -> None:
    assert "not a number of seconds" in xrouter("keys", "rotate", "0" * 64, f"--grace={grace}").error


def test_problems_of_configuration_and_store_are_told(xrouter: Command, tmp_path: Path) -> None:
    (tmp_path / "keys.db").write_text("this is no database\n" * 100)
    for group, command in (("keys", "list"), ("db", "upgrade")):
        result = xrouter(group, command)
        assert (result.code, result.out) == (1, "")
        assert "file is not a database" in result.error
        assert result.error.count("\n") == 1
    (tmp_path / "x.yaml").write_text("upstreams: 1\n")
    for group, command in (("keys", "list"), ("db", "upgrade")):
        result = xrouter(group, command)
        assert result.code == 1
        assert "x.yaml:1:12" in result.error


def test_upgrade_says_what_it_did(xrouter: Command, tmp_path: Path) -> None:
    store = f"sqlite:///{tmp_path / 'keys.db'}"
    assert xrouter("db", "upgrade", "--json").json == {"store": store, "before": None, "after": NEWEST}
    assert xrouter("db", "upgrade").out == f"{store} has schema {NEWEST} already\n"
