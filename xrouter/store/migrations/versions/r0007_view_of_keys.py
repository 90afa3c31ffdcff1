"""A view of the keys beside those of the ledger: limits as decimal credits, times as text, and of a key its hash only."""

from alembic import op

revision = "0007"
down_revision: str | None = "0006"
LOSES = "the view of the keys for SQL; no data"


def upgrade() -> None:
    sqlite = op.get_bind().dialect.name == "sqlite"
    times = ", ".join(f"{_time(f'{name}_at_us', sqlite)} AS {name}_at" for name in _TIMES)
    columns = f"{_COLUMNS}, {_credits('limit_nano', sqlite)} AS limit_credits, {times}"
    op.execute(f"CREATE VIEW v_keys AS SELECT {columns} FROM api_keys")  # noqa: S608  nothing comes from outside
    if not sqlite:  # it would pass changes on to the table; the function is that of the other views (0004)
        op.execute(
            "CREATE TRIGGER v_keys_forbid_change INSTEAD OF INSERT OR UPDATE OR DELETE ON v_keys"
            " FOR EACH ROW EXECUTE FUNCTION view_is_read_only()"
        )


def downgrade() -> None:
    op.execute("DROP VIEW v_keys")


_COLUMNS = "hash, label, name, account, tier, models, networks, limit_reset, management, disabled, rotated_from"
_TIMES = ("created", "updated", "expires", "revoked")


def _credits(nano: str, sqlite: bool) -> str:
    """A decimal with all nine digits, or NULL. No limit is negative."""
    if not sqlite:
        return f"({nano} / 1000000000.0::numeric)::numeric(28, 9)"
    return f"CASE WHEN {nano} NOT NULL THEN printf('%d.%09d', {nano} / 1000000000, {nano} % 1000000000) END"


def _time(us: str, sqlite: bool) -> str:
    return f"strftime('%Y-%m-%dT%H:%M:%SZ', {us} / 1000000, 'unixepoch')" if sqlite else f"to_timestamp({us} / 1e6)"
