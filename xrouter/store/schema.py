"""Every table, once, for SQLite and PostgreSQL alike.

Times are integer microseconds since the epoch, UTC (`…_at_us`). Amounts are integers of 10⁻⁹ credit (`…_nano`). Migrations
in `migrations/versions/` build the same tables step by step; `tests/store/test_migrate.py` holds the two against each other.
"""

from typing import Final

from sqlalchemy import JSON, BigInteger, Boolean, Column, Index, MetaData, String, Table

metadata: Final = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    }
)

_JSON: Final = JSON(none_as_null=True)  # absence is SQL's NULL, never JSON's null

# One row a key. The secret is not here: `hash` is its SHA-256 and names the key in the API, in logs and in the ledger.
api_keys: Final = Table(
    "api_keys",
    metadata,
    Column("hash", String(64), primary_key=True),
    Column("label", String(64), nullable=False),  # the secret with its middle left out, for people
    Column("name", String(200), nullable=False),
    Column("account", String(64), nullable=False),  # whose credits it spends
    Column("tier", String(32), nullable=True),  # whose limits it has
    Column("models", _JSON, nullable=True),  # list of the model ids it may use; NULL: all
    Column("networks", _JSON, nullable=True),  # list of the networks it may be used from, in CIDR; NULL: anywhere
    Column("limit_nano", BigInteger, nullable=True),  # the most it may spend; NULL: what the account affords
    Column("limit_reset", String(16), nullable=True),  # daily | weekly | monthly; NULL: never
    Column("management", Boolean, nullable=False),
    Column("disabled", Boolean, nullable=False),  # can be undone
    Column("revoked_at_us", BigInteger, nullable=True),  # cannot
    Column("expires_at_us", BigInteger, nullable=True),
    Column("created_at_us", BigInteger, nullable=False),
    Column("updated_at_us", BigInteger, nullable=True),
    Column("rotated_from", String(64), nullable=True),  # the hash of the key that this one replaces
    Index(None, "created_at_us", "hash"),  # the order of listings
    Index(None, "account"),
    Index("uq_api_keys_rotated_from", "rotated_from", unique=True),  # a key has one successor
)

# What other processes watch: `value` moves in the same transaction as any change of the named thing.
revisions: Final = Table(
    "revisions",
    metadata,
    Column("name", String(32), primary_key=True),
    Column("value", BigInteger, nullable=False),
)
