"""The ledger: accounts, entries, holds, generations, prices, and sums of usage."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision: str | None = "0001"
LOSES = "all money: accounts, entries, holds, generations, prices, sums of usage"

_SYSTEM_ACCOUNTS = ("@revenue", "@promotions", "@adjustments", "@provider_cost", "@providers")


def upgrade() -> None:
    op.create_table(
        "accounts",
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("kind", sa.String(length=8), nullable=False),
        sa.Column("balance_nano", sa.BigInteger(), nullable=False),
        sa.Column("held_nano", sa.BigInteger(), nullable=False),
        sa.Column("floor_nano", sa.BigInteger(), nullable=False),
        sa.Column("created_at_us", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("held_nano >= 0", name="ck_accounts_held"),
        sa.PrimaryKeyConstraint("name", name="pk_accounts"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "entries",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("debit_account", sa.String(length=64), nullable=False),
        sa.Column("credit_account", sa.String(length=64), nullable=False),
        sa.Column("amount_nano", sa.BigInteger(), nullable=False),
        sa.Column("generation_id", sa.String(length=30), nullable=True),
        sa.Column("reason", sa.String(length=500), nullable=True),
        sa.Column("author", sa.String(length=100), nullable=True),
        sa.Column("idempotency_key", sa.String(length=255), nullable=True),
        sa.Column("at_us", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("amount_nano > 0", name="ck_entries_amount"),
        sa.CheckConstraint("debit_account <> credit_account", name="ck_entries_accounts"),
        sa.PrimaryKeyConstraint("id", name="pk_entries"),
    )
    op.create_index(
        "uq_entries_generation_id_kind",
        "entries",
        ["generation_id", "kind"],
        unique=True,
        sqlite_where=sa.text("kind IN ('charge', 'overrun', 'cost')"),
        postgresql_where=sa.text("kind IN ('charge', 'overrun', 'cost')"),
    )
    op.create_index(
        "uq_entries_idempotency_key",
        "entries",
        ["idempotency_key"],
        unique=True,
        sqlite_where=sa.text("idempotency_key IS NOT NULL"),
        postgresql_where=sa.text("idempotency_key IS NOT NULL"),
    )
    op.create_table(
        "holds",
        sa.Column("generation_id", sa.String(length=30), nullable=False),
        sa.Column("account", sa.String(length=64), nullable=False),
        sa.Column("key_hash", sa.String(length=64), nullable=False),
        sa.Column("amount_nano", sa.BigInteger(), nullable=False),
        sa.Column("holder", sa.String(length=26), nullable=False),
        sa.Column("state", sa.String(length=8), nullable=False),
        sa.Column("opened_at_us", sa.BigInteger(), nullable=False),
        sa.Column("closed_at_us", sa.BigInteger(), nullable=True),
        sa.CheckConstraint("state IN ('open', 'settled', 'released', 'expired')", name="ck_holds_state"),
        sa.CheckConstraint("amount_nano >= 0", name="ck_holds_amount"),
        sa.PrimaryKeyConstraint("generation_id", name="pk_holds"),
        sqlite_with_rowid=False,
    )
    op.create_index(
        "ix_holds_open",
        "holds",
        ["holder"],
        unique=False,
        sqlite_where=sa.text("state = 'open'"),
        postgresql_where=sa.text("state = 'open'"),
    )
    op.create_table(
        "holders",
        sa.Column("id", sa.String(length=26), nullable=False),
        sa.Column("lease_until_us", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_holders"),
    )
    op.create_table(
        "generations",
        sa.Column("id", sa.String(length=30), nullable=False),
        sa.Column("account", sa.String(length=64), nullable=False),
        sa.Column("key_hash", sa.String(length=64), nullable=False),
        sa.Column("model", sa.String(length=200), nullable=False),
        sa.Column("upstream", sa.String(length=64), nullable=True),
        sa.Column("upstream_model", sa.String(length=200), nullable=True),
        sa.Column("outcome", sa.String(length=16), nullable=False),
        sa.Column("rule", sa.String(length=32), nullable=False),
        sa.Column("finish_reason", sa.String(length=32), nullable=True),
        sa.Column("input_tokens", sa.BigInteger(), nullable=True),
        sa.Column("output_tokens", sa.BigInteger(), nullable=True),
        sa.Column("cached_tokens", sa.BigInteger(), nullable=True),
        sa.Column("reasoning_tokens", sa.BigInteger(), nullable=True),
        sa.Column("usage_source", sa.String(length=8), nullable=True),
        sa.Column("images", sa.Integer(), nullable=False),
        sa.Column("price_version", sa.String(length=16), nullable=False),
        sa.Column("cost_nano", sa.BigInteger(), nullable=False),
        sa.Column("provider_cost_nano", sa.BigInteger(), nullable=False),
        sa.Column("hold_nano", sa.BigInteger(), nullable=False),
        sa.Column("charged_nano", sa.BigInteger(), nullable=False),
        sa.Column("overrun_nano", sa.BigInteger(), nullable=False),
        sa.Column("created_at_us", sa.BigInteger(), nullable=False),
        sa.Column("settled_at_us", sa.BigInteger(), nullable=False),
        sa.Column("day", sa.Integer(), nullable=False),
        sa.Column("details", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_generations"),
    )
    op.create_index("ix_generations_account_id", "generations", ["account", "id"], unique=False)
    op.create_table(
        "prices",
        sa.Column("version", sa.String(length=16), nullable=False),
        sa.Column("model", sa.String(length=200), nullable=False),
        sa.Column("since", sa.String(length=10), nullable=True),
        sa.Column("rates", sa.Text(), nullable=False),
        sa.Column("first_used_at_us", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("version", name="pk_prices"),
    )
    op.create_table(
        "key_usage",
        sa.Column("key_hash", sa.String(length=64), nullable=False),
        sa.Column("held_nano", sa.BigInteger(), nullable=False),
        sa.Column("used_nano", sa.BigInteger(), nullable=False),
        sa.Column("day", sa.Integer(), nullable=False),
        sa.Column("day_nano", sa.BigInteger(), nullable=False),
        sa.Column("week_nano", sa.BigInteger(), nullable=False),
        sa.Column("month_nano", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("held_nano >= 0", name="ck_key_usage_held"),
        sa.PrimaryKeyConstraint("key_hash", name="pk_key_usage"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "usage_hours",
        sa.Column("hour", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("account", sa.String(length=64), nullable=False),
        sa.Column("key_hash", sa.String(length=64), nullable=False),
        sa.Column("model", sa.String(length=200), nullable=False),
        sa.Column("upstream", sa.String(length=64), nullable=False),
        sa.Column("requests", sa.BigInteger(), nullable=False),
        sa.Column("input_tokens", sa.BigInteger(), nullable=False),
        sa.Column("output_tokens", sa.BigInteger(), nullable=False),
        sa.Column("cached_tokens", sa.BigInteger(), nullable=False),
        sa.Column("reasoning_tokens", sa.BigInteger(), nullable=False),
        sa.Column("charged_nano", sa.BigInteger(), nullable=False),
        sa.Column("provider_cost_nano", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("hour", "account", "key_hash", "model", "upstream", name="pk_usage_hours"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "usage_days",
        sa.Column("day", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("account", sa.String(length=64), nullable=False),
        sa.Column("key_hash", sa.String(length=64), nullable=False),
        sa.Column("model", sa.String(length=200), nullable=False),
        sa.Column("upstream", sa.String(length=64), nullable=False),
        sa.Column("requests", sa.BigInteger(), nullable=False),
        sa.Column("input_tokens", sa.BigInteger(), nullable=False),
        sa.Column("output_tokens", sa.BigInteger(), nullable=False),
        sa.Column("cached_tokens", sa.BigInteger(), nullable=False),
        sa.Column("reasoning_tokens", sa.BigInteger(), nullable=False),
        sa.Column("charged_nano", sa.BigInteger(), nullable=False),
        sa.Column("provider_cost_nano", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("day", "account", "key_hash", "model", "upstream", name="pk_usage_days"),
        sqlite_with_rowid=False,
    )

    _insert_system_accounts()
    _forbid_changes_of_entries()


def downgrade() -> None:
    for name in (
        "usage_days", "usage_hours", "key_usage", "prices", "generations", "holders", "holds", "entries", "accounts",
    ):  # fmt: skip
        op.drop_table(name)
    if op.get_bind().dialect.name != "sqlite":
        op.execute("DROP FUNCTION entries_append_only()")


def _insert_system_accounts() -> None:
    accounts = sa.table(
        "accounts",
        *(sa.column(name) for name in ("name", "kind", "balance_nano", "held_nano")),
        sa.column("floor_nano"),
        sa.column("created_at_us"),
    )
    op.bulk_insert(
        accounts,
        [
            {"name": name, "kind": "system", "balance_nano": 0, "held_nano": 0, "floor_nano": 0, "created_at_us": 0}
            for name in _SYSTEM_ACCOUNTS
        ],
    )


def _forbid_changes_of_entries() -> None:
    if op.get_bind().dialect.name == "sqlite":
        for change in ("UPDATE", "DELETE"):
            op.execute(
                f"CREATE TRIGGER entries_forbid_{change.lower()} BEFORE {change} ON entries"
                " BEGIN SELECT RAISE(ABORT, 'entries are append-only'); END"
            )
        return
    op.execute(
        "CREATE FUNCTION entries_append_only() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN RAISE EXCEPTION 'entries are append-only'; END $$"
    )
    op.execute(
        "CREATE TRIGGER entries_forbid_change BEFORE UPDATE OR DELETE OR TRUNCATE ON entries"
        " FOR EACH STATEMENT EXECUTE FUNCTION entries_append_only()"
    )
