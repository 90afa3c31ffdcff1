import argparse
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from kit.keys import write_configuration

from xrouter import cli
from xrouter.commands import credits, db, keys
from xrouter.wire import decode_json


class Result:
    def __init__(self, code: int, out: str, error: str) -> None:
        self.code, self.out, self.error = code, out, error

    @property
    def json(self) -> Any:
        return decode_json(self.out)


Command = Callable[..., Result]


@pytest.fixture
def xrouter(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Command:
    configuration = write_configuration(tmp_path)

    def run(group: str, command: str, *arguments: str) -> Result:
        parser = argparse.ArgumentParser("xrouter")
        subparsers = parser.add_subparsers(required=True)
        for module in (credits, db, keys):
            module.add_parser(subparsers)
        try:
            args = parser.parse_args([group, command, "-c", str(configuration), *arguments])
            code = args.run(args)
        except SystemExit as stopped:
            code = stopped.code
        out, error = capsys.readouterr()
        return Result(code, out, error)

    return run


def test_grants_add_up_and_show_tells_them(xrouter: Command) -> None:
    first = xrouter("credits", "grant", "--account", "acme", "--amount", "12.5", "--json")
    assert (first.code, first.error) == (0, "")
    assert first.json == {"account": "acme", "balance": "12.5", "held": "0", "available": "12.5"}
    xrouter("credits", "grant", "--account", "acme", "--amount", "0.000000001")
    shown = xrouter("credits", "show", "--account", "acme", "--json").json
    assert shown == {"account": "acme", "balance": "12.500000001", "held": "0", "available": "12.500000001"}
    assert xrouter("credits", "show", "--account", "acme").out == (
        "acme: 12.500000001 credits available (12.500000001 less 0 held)\n"
    )


def test_a_grant_with_an_idempotency_key_happens_once(xrouter: Command) -> None:
    for _ in range(3):
        again = xrouter("credits", "grant", "--account", "a", "--amount", "5", "--idempotency-key", "k", "--json")
        assert again.json["balance"] == "5"
    other = xrouter("credits", "grant", "--account", "a", "--amount", "6", "--idempotency-key", "k")
    assert (other.code, other.out) == (1, "")
    assert "used for something else" in other.error


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--account", "a", "--amount", "-1"], "amount"),
        (["--account", "a", "--amount", "0"], "more than 0"),
        (["--account", "a", "--amount", "1e3"], "at most 9 decimals"),
        (["--account", "a", "--amount", "NaN"], "at most 9 decimals"),
        (["--account", "a", "--amount", "9999999999"], "less than"),
        (["--account", "a", "--amount", "9223372036"], "cannot hold so much"),
        (["--account", "@revenue", "--amount", "1"], "An account's name"),
        (["--account", "a b", "--amount", "1"], "An account's name"),
        (["--account", "a", "--amount", "1", "--reason", "a\nb"], "printable"),
    ],
)
def test_what_cannot_be_granted_is_told_in_one_line(xrouter: Command, arguments: list[str], told: str) -> None:
    result = xrouter("credits", "grant", *arguments)
    assert result.code != 0
    assert result.out == ""
    assert told in result.error.strip().splitlines()[-1]
    assert xrouter("credits", "show", "--account", "a").code == 1


def test_an_unknown_account_is_told(xrouter: Command) -> None:
    result = xrouter("credits", "show", "--account", "nobody")
    assert (result.code, result.out) == (1, "")
    assert result.error == "xrouter credits: There is no account 'nobody'; an account begins with its first grant\n"


def test_an_adjustment_goes_both_ways_and_begins_no_account(xrouter: Command, tmp_path: Path) -> None:
    refused = xrouter("credits", "adjust", "--account", "acme", "--amount", "-1", "--reason", "typo")
    assert (refused.code, refused.error) == (
        1,
        "xrouter credits: There is no account 'acme'; an account begins with its first grant\n",
    )
    xrouter("credits", "grant", "--account", "acme", "--amount", "5")
    for _ in range(2):  # sent again, it has happened
        adjusted = xrouter(
            "credits", "adjust", "--account", "acme", "--amount", "-7.5", "--reason", "paid twice", "--json",
            "--idempotency-key", "k",
        )  # fmt: skip
        assert adjusted.json["balance"] == "-2.5"
    assert xrouter("credits", "adjust", "--account", "acme", "--amount", "3", "--reason", "no", "--json").json[
        "balance"
    ] == "0.5"  # fmt: skip
    with sqlite3.connect(tmp_path / "keys.db") as connection:
        told = connection.execute("SELECT kind, reason, author FROM entries WHERE id = 2").fetchone()
    connection.close()
    assert told == ("adjustment", "paid twice", "command line")
    assert xrouter("db", "check").code == 0
    assert xrouter("credits", "show", "--account", "@adjustments", "--json").json["balance"] == "4.5"


def test_a_refund_of_what_never_was_is_told(xrouter: Command) -> None:
    result = xrouter("credits", "refund", "--generation", "gen-0", "--reason", "x")
    assert (result.code, result.error) == (1, "xrouter credits: There is no generation 'gen-0'\n")
    assert xrouter("credits", "refund", "--generation", "gen-0").code == 2, "a refund has a reason"


@pytest.mark.parametrize("argument", ["--amount=NaN", "--amount=-1", "--amuont=1"])
def test_a_command_line_that_cannot_be_read_is_told_in_one_line(
    argument: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        cli.main(["credits", "grant", "-c", str(write_configuration(tmp_path)), "--account", "a", argument])
    out, error = capsys.readouterr()
    assert (stopped.value.code, out, error.count("\n")) == (2, "", 1)
    assert error.startswith("xrouter credits grant: ")


def test_a_key_comes_with_credits_or_not_at_all(xrouter: Command, tmp_path: Path) -> None:
    made = xrouter("keys", "create", "--name", "n", "--account", "acme", "--credits", "7", "--json")
    assert made.code == 0
    assert xrouter("credits", "show", "--account", "acme", "--json").json["balance"] == "7"
    with sqlite3.connect(tmp_path / "keys.db") as connection:
        reasons = connection.execute("SELECT reason, author FROM entries").fetchall()
        assert reasons == [("with the key n", "command line")]
        connection.execute("UPDATE accounts SET balance_nano = 9223372036854775807 WHERE name = 'acme'")
    connection.close()
    refused = xrouter("keys", "create", "--name", "m", "--account", "acme", "--credits", "7")
    assert refused.code == 1
    assert "cannot hold so much" in refused.error
    assert [key["name"] for key in xrouter("keys", "list", "--json").json] == ["n"]


def test_db_check_proves_and_names_what_is_wrong(xrouter: Command, tmp_path: Path) -> None:
    xrouter("credits", "grant", "--account", "acme", "--amount", "7")
    proven = xrouter("db", "check", "--json")
    assert proven.code == 0
    assert proven.json == {
        "ok": True,
        "sum": "0",
        "accounts": 6,
        "entries": 1,
        "generations": 0,
        "holds_open": 0,
        "problems": [],
        "dropped": [],
    }
    assert xrouter("db", "check").out.startswith("the ledger is right: 6 accounts, 1 entries")
    with sqlite3.connect(tmp_path / "keys.db") as connection:
        connection.execute("UPDATE accounts SET balance_nano = 1 WHERE name = 'acme'")
    connection.close()
    wrong = xrouter("db", "check", "--json")
    assert (wrong.code, wrong.json["ok"], wrong.json["sum"]) == (1, False, "-6.999999999")
    assert any("account acme" in problem for problem in wrong.json["problems"])
    assert "account acme has the balance 0.000000001, its entries give 7" in xrouter("db", "check").out
