"""`activity` from the ledger's own sums: whole days, filters, and fast however many generations there were."""

import sqlite3
import time
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest
from kit.accounts import TOKEN, Accounts

DAY_S = 86_400


def this_day() -> int:
    return int(time.time()) // DAY_S


def write_days(accounts: Accounts, rows: list[tuple[object, ...]]) -> None:
    accounts.gateway.spoilt.append("sums of generations that there never were")
    path = Path(accounts.gateway.store.removeprefix("sqlite:///"))
    connection = sqlite3.connect(path, timeout=10)
    with connection:
        connection.executemany("INSERT INTO usage_days VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", rows)
    connection.close()


@pytest.fixture(scope="module")
def history(accounts: Accounts) -> int:
    """Two keys of account `past`, for 33 days up to today, each with other sums."""
    today = this_day()
    rows: list[tuple[object, ...]] = []
    for back in range(33):
        for key in ("a", "b"):
            rows.append(
                (today - back, "past", key * 64, "gigachat/max", "giga", 2, 20, 10, 4, 2, 2 * 10**9 + 2 * back, 10**8)
            )
    rows.append((today - 1, "elsewhere", "c" * 64, "gigachat/max", "giga", 9, 9, 9, 9, 9, 9, 9))
    write_days(accounts, rows)
    return today


def test_activity_is_of_thirty_whole_days(accounts: Accounts, history: int) -> None:
    manager = accounts.new_key(account="past", management=True)
    rows = accounts.data(manager, "GET", "activity")
    dates = [row["date"] for row in rows]
    today = datetime.now(UTC).date()
    assert dates == [(today - timedelta(days=back)).isoformat() for back in range(1, 31)]
    assert {row["requests"] for row in rows} == {4}
    first = rows[0]
    assert (first["prompt_tokens"], first["completion_tokens"], first["reasoning_tokens"]) == (40, 20, 4)
    assert first["usage"] == pytest.approx(4 * (1 + 1e-9))
    assert (first["model"], first["provider_name"]) == ("gigachat/max", "giga")
    assert "workspace_id" not in first
    assert not {"provider_cost", "margin"} & set(first), "what the operator pays is none of the account's business"
    told = accounts.data(TOKEN, "GET", "activity?account=past")[0]
    assert (told["provider_cost"], told["margin"]) == (0.2, pytest.approx(3.8 + 4e-9))


def test_activity_can_be_narrowed(accounts: Accounts, history: int) -> None:
    manager = accounts.new_key(account="past", management=True)
    yesterday = (date(1970, 1, 1) + timedelta(days=history - 1)).isoformat()
    (row,) = accounts.data(manager, "GET", f"activity?date={yesterday}&api_key_hash={'a' * 64}")
    assert (row["date"], row["requests"]) == (yesterday, 2)
    assert accounts.data(manager, "GET", f"activity?api_key_hash={'c' * 64}") == []  # another account's
    assert accounts.data(manager, "GET", "activity?user_id=someone") == []
    (grouped,) = accounts.data(TOKEN, "GET", f"activity?date={yesterday}&workspace_id=elsewhere&group_by=workspace")
    assert (grouped["workspace_id"], grouped["requests"]) == ("elsewhere", 9)
    everyone = accounts.data(TOKEN, "GET", f"activity?date={yesterday}&group_by=workspace")
    assert {"past", "elsewhere"} <= {row["workspace_id"] for row in everyone}


@pytest.mark.parametrize("text", ["today", "2026-02-30", "1970-01-01", "2999-01-01", "20260101", ""])
def test_a_date_that_is_none_of_those_days_is_refused(accounts: Accounts, text: str) -> None:
    refused = accounts.ask(TOKEN, "GET", f"activity?date={text}")
    assert refused.status_code == 400
    assert refused.json()["error"]["param"] == "date"
