"""Views of the ledger for people who ask with SQL: times as text, amounts as decimal credits. docs/money.md lists them."""

from collections.abc import Iterable

from alembic import op

revision = "0004"
down_revision: str | None = "0003"
LOSES = "the views for SQL; no data"


def upgrade() -> None:
    sqlite = op.get_bind().dialect.name == "sqlite"
    for name, selections in _views(sqlite=sqlite).items():
        selects = (f"SELECT {columns} FROM {table}" for table, columns in selections)  # noqa: S608  nothing comes from outside
        op.execute(f"CREATE VIEW {name} AS {' UNION ALL '.join(selects)}")
    if not sqlite:
        _forbid_changes(_views(sqlite=False))


def downgrade() -> None:
    sqlite = op.get_bind().dialect.name == "sqlite"
    for name in _views(sqlite=sqlite):
        op.execute(f"DROP VIEW {name}")
    if not sqlite:
        op.execute("DROP FUNCTION view_is_read_only()")


def _forbid_changes(views: Iterable[str]) -> None:
    """PostgreSQL would pass changes of a plain view on to its table."""
    op.execute(
        "CREATE FUNCTION view_is_read_only() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN RAISE EXCEPTION 'cannot modify % because it is a view', TG_TABLE_NAME; END $$"
    )
    for name in views:
        op.execute(
            f"CREATE TRIGGER {name}_forbid_change INSTEAD OF INSERT OR UPDATE OR DELETE ON {name}"
            " FOR EACH ROW EXECUTE FUNCTION view_is_read_only()"
        )


def _views(*, sqlite: bool) -> dict[str, list[tuple[str, str]]]:
    """View → the tables that it shows, with the columns of each."""

    def credits(*names: str) -> str:
        return ", ".join(f"{_credits(f'{name}_nano', sqlite)} AS {name}" for name in names)

    def at(*names: str) -> str:
        return ", ".join(f"{_time(f'{name}_at_us', sqlite)} AS {name}_at" for name in names)

    tokens = "input_tokens, output_tokens, cached_tokens, reasoning_tokens"
    sums = f"account, key_hash, model, upstream, requests, {tokens}, {credits('charged', 'provider_cost')}"
    hour, day = _time("hour * 3600000000", sqlite), _time("day * 86400000000", sqlite)
    generation = (
        f"id, account, key_hash, model, upstream, upstream_model, outcome, rule, finish_reason, {tokens}, usage_source,"
        f" images, price_version, {credits('cost', 'charged', 'overrun', 'hold', 'provider_cost')},"
        f" {at('created', 'settled')}, details"
    )
    entry = (
        f"id, kind, debit_account, credit_account, {credits('amount')}, generation_id, reason, author,"
        f" {_time('at_us', sqlite)} AS posted_at"
    )
    hold = f"generation_id, account, key_hash, {credits('amount')}, state, holder, {at('opened', 'closed')}"
    return {
        "v_accounts": [("accounts", f"name, kind, {credits('balance', 'held', 'floor')}, {at('created')}")],
        "v_entries": [("entries", entry)],
        "v_holds": [("holds", hold)],
        "v_generations": [("generations", generation)],
        "v_prices": [("prices", f"version, model, since, rates, {at('first_used')}")],
        "v_key_usage": [
            ("key_usage", f"key_hash, {credits('used', 'held', 'day', 'week', 'month')}, {day} AS day_began_at")
        ],
        "v_usage": [
            ("usage_hours", f"{hour} AS began_at, 'hour' AS period, {sums}"),
            ("usage_days", f"{day}, 'day', {sums}"),
        ],
    }


def _credits(nano: str, sqlite: bool) -> str:
    """A decimal with all nine digits: exact, where a division of SQLite would be a binary fraction."""
    if not sqlite:
        return f"({nano} / 1000000000.0::numeric)::numeric(28, 9)"
    sign = f"CASE WHEN {nano} < 0 THEN '-' ELSE '' END"
    return f"{sign} || printf('%d.%09d', abs({nano}) / 1000000000, abs({nano}) % 1000000000)"


def _time(us: str, sqlite: bool) -> str:
    return f"strftime('%Y-%m-%dT%H:%M:%SZ', ({us}) / 1000000, 'unixepoch')" if sqlite else f"to_timestamp(({us}) / 1e6)"
