"""API keys, and the revisions by which other processes notice their changes."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision: str | None = None
LOSES = "all keys"


def upgrade() -> None:
    op.create_table(
        "api_keys",
        sa.Column("hash", sa.String(64), nullable=False),
        sa.Column("label", sa.String(64), nullable=False),
        sa.Column("name", sa.String(200), nullable=False),
        sa.Column("account", sa.String(64), nullable=False),
        sa.Column("tier", sa.String(32), nullable=True),
        sa.Column("models", sa.JSON(), nullable=True),
        sa.Column("networks", sa.JSON(), nullable=True),
        sa.Column("limit_nano", sa.BigInteger(), nullable=True),
        sa.Column("limit_reset", sa.String(16), nullable=True),
        sa.Column("management", sa.Boolean(), nullable=False),
        sa.Column("disabled", sa.Boolean(), nullable=False),
        sa.Column("revoked_at_us", sa.BigInteger(), nullable=True),
        sa.Column("expires_at_us", sa.BigInteger(), nullable=True),
        sa.Column("created_at_us", sa.BigInteger(), nullable=False),
        sa.Column("updated_at_us", sa.BigInteger(), nullable=True),
        sa.Column("rotated_from", sa.String(64), nullable=True),
        sa.PrimaryKeyConstraint("hash", name="pk_api_keys"),
    )
    op.create_index("ix_api_keys_created_at_us_hash", "api_keys", ["created_at_us", "hash"])
    op.create_index("ix_api_keys_account", "api_keys", ["account"])
    op.create_index("uq_api_keys_rotated_from", "api_keys", ["rotated_from"], unique=True)
    revisions = op.create_table(
        "revisions",
        sa.Column("name", sa.String(32), nullable=False),
        sa.Column("value", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_revisions"),
    )
    op.bulk_insert(revisions, [{"name": "keys", "value": 0}])


def downgrade() -> None:
    op.drop_table("revisions")
    op.drop_table("api_keys")
