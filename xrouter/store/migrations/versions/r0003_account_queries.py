"""What the account's own API needs: given credits and refunds found without a walk through all entries; idempotency."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision: str | None = "0002"
LOSES = "the answers kept for an Idempotency-Key of the account's API: a request that is repeated is done again"


def upgrade() -> None:
    given, refunds = sa.text("kind IN ('grant', 'adjustment')"), sa.text("kind = 'refund'")
    op.create_index(
        "ix_entries_given",
        "entries",
        ["credit_account", "debit_account", "amount_nano"],
        sqlite_where=given,
        postgresql_where=given,
    )
    op.create_index("ix_entries_refunds", "entries", ["generation_id"], sqlite_where=refunds, postgresql_where=refunds)
    op.create_table(
        "idempotent_answers",
        sa.Column("owner", sa.String(length=64), nullable=False),
        sa.Column("name_digest", sa.String(length=64), nullable=False),
        sa.Column("request_digest", sa.String(length=64), nullable=False),
        sa.Column("subject", sa.String(length=64), nullable=False),
        sa.Column("sealed", sa.Text(), nullable=False),
        sa.Column("created_at_us", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("owner", "name_digest", name="pk_idempotent_answers"),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_idempotent_answers_created_at_us", "idempotent_answers", ["created_at_us"])


def downgrade() -> None:
    op.drop_table("idempotent_answers")
    op.drop_index("ix_entries_refunds", "entries")
    op.drop_index("ix_entries_given", "entries")
