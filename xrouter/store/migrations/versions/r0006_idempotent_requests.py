"""Inference requests under an `Idempotency-Key`: who runs which, and the answers of those that have ended."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision: str | None = "0005"
LOSES = "the answers kept for an Idempotency-Key of inference: a request that is repeated is done, and charged, again"


def upgrade() -> None:
    op.create_table(
        "idempotent_requests",
        sa.Column("owner", sa.String(length=64), nullable=False),
        sa.Column("name_digest", sa.String(length=64), nullable=False),
        sa.Column("request_digest", sa.String(length=64), nullable=False),
        sa.Column("generation_id", sa.String(length=30), nullable=False),
        sa.Column("holder", sa.String(length=26), nullable=False),
        sa.Column("sealed", sa.Text(), nullable=True),
        sa.Column("created_at_us", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("owner", "name_digest", name="pk_idempotent_requests"),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_idempotent_requests_created_at_us", "idempotent_requests", ["created_at_us"])


def downgrade() -> None:
    op.drop_table("idempotent_requests")
