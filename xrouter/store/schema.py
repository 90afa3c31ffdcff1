"""Every table, once, for SQLite and PostgreSQL alike.

Times are integer microseconds since the epoch, UTC (`…_at_us`). Amounts are integers of 10⁻⁹ credit (`…_nano`). Migrations
in `migrations/versions/` build the same tables step by step; `tests/store/test_migrate.py` holds the two against each other.

The partial indexes are in whole_schema.py, which a gateway does not need.
"""

from typing import Final

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
)

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

# The ledger. xrouter/ledger/ is the only writer of the tables below; docs/money.md tells their meaning.

# Double entry: a movement debits one account and credits another. An account's balance is its credits less its debits, so
# that all balances together are 0. `held_nano` is the sum of its open holds; no hold takes balance - held below the floor.
accounts: Final = Table(
    "accounts",
    metadata,
    Column("name", String(64), primary_key=True),  # @… are the gateway's own
    Column("kind", String(8), nullable=False),  # owner | system
    Column("balance_nano", BigInteger, nullable=False),
    Column("held_nano", BigInteger, nullable=False),
    Column("floor_nano", BigInteger, nullable=False),  # negative: so much credit is given
    Column("created_at_us", BigInteger, nullable=False),
    CheckConstraint("held_nano >= 0", name="held"),
    sqlite_with_rowid=False,
)

# Append-only: triggers refuse any change (invariant I7). Ids follow the order of the commits.
entries: Final = Table(
    "entries",
    metadata,
    Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True),
    Column("kind", String(16), nullable=False),  # grant | charge | overrun | cost | refund | adjustment
    Column("debit_account", String(64), nullable=False),
    Column("credit_account", String(64), nullable=False),
    Column("amount_nano", BigInteger, nullable=False),
    Column("generation_id", String(30), nullable=True),
    Column("reason", String(500), nullable=True),
    Column("author", String(100), nullable=True),
    Column("idempotency_key", String(255), nullable=True),
    Column("at_us", BigInteger, nullable=False),
    CheckConstraint("amount_nano > 0", name="amount"),
    CheckConstraint("debit_account <> credit_account", name="accounts"),
)

# One row a request that was admitted. It is open until it ends in one of the other states, once.
holds: Final = Table(
    "holds",
    metadata,
    Column("generation_id", String(30), primary_key=True),
    Column("account", String(64), nullable=False),
    Column("key_hash", String(64), nullable=False),
    Column("amount_nano", BigInteger, nullable=False),
    Column("holder", String(26), nullable=False),  # the process that answers for it
    Column("state", String(8), nullable=False),  # open | settled | released | expired
    Column("opened_at_us", BigInteger, nullable=False),
    Column("closed_at_us", BigInteger, nullable=True),
    CheckConstraint("state IN ('open', 'settled', 'released', 'expired')", name="state"),
    CheckConstraint("amount_nano >= 0", name="amount"),
    sqlite_with_rowid=False,
)

# One row a running process. Its open holds expire when it has not renewed its lease: then it is dead.
holders: Final = Table(
    "holders",
    metadata,
    Column("id", String(26), primary_key=True),
    Column("lease_until_us", BigInteger, nullable=False),
)

# The receipt: what a charge can be recomputed from. Written once, in the transaction of its entries.
generations: Final = Table(
    "generations",
    metadata,
    Column("id", String(30), primary_key=True),
    Column("account", String(64), nullable=False),
    Column("key_hash", String(64), nullable=False),
    Column("model", String(200), nullable=False),  # the public id that served, or would have
    Column("upstream", String(64), nullable=True),
    Column("upstream_model", String(200), nullable=True),
    Column("outcome", String(16), nullable=False),  # complete | client_abort | upstream_error | shutdown
    Column("rule", String(32), nullable=False),  # which rule made the charge: docs/money.md
    Column("finish_reason", String(32), nullable=True),
    Column("input_tokens", BigInteger, nullable=True),  # NULL: nothing was generated
    Column("output_tokens", BigInteger, nullable=True),
    Column("cached_tokens", BigInteger, nullable=True),
    Column("reasoning_tokens", BigInteger, nullable=True),
    Column("usage_source", String(8), nullable=True),  # reported | counted
    Column("images", Integer, nullable=False),
    Column("price_version", String(16), nullable=False),
    Column("cost_nano", BigInteger, nullable=False),  # price × usage
    Column("provider_cost_nano", BigInteger, nullable=False),  # what the provider asks
    Column("hold_nano", BigInteger, nullable=False),
    Column("charged_nano", BigInteger, nullable=False),  # cost, as far as hold and balance covered it
    Column("overrun_nano", BigInteger, nullable=False),  # the part of it that the hold did not cover
    Column("created_at_us", BigInteger, nullable=False),  # the request came
    Column("settled_at_us", BigInteger, nullable=False),
    Column("day", Integer, nullable=False),  # days since 1970, UTC: the key's windows that it counts in
    Column("details", Text, nullable=False),  # JSON, xrouter.ledger.receipts.Details
    Index(None, "account", "id"),
)

# Every price that was ever charged by.
prices: Final = Table(
    "prices",
    metadata,
    Column("version", String(16), primary_key=True),  # hash of what follows
    Column("model", String(200), nullable=False),
    Column("since", String(10), nullable=True),  # the date from which it is in force; NULL: from the beginning
    Column("rates", Text, nullable=False),  # JSON, xrouter.ledger.prices.Rates
    Column("first_used_at_us", BigInteger, nullable=False),
)

# One row a key that was put in the place of another by rotation; `root` is the first of them all. It outlives the keys: what
# a deleted key has spent still counts for its successors.
key_roots: Final = Table(
    "key_roots",
    metadata,
    Column("key_hash", String(64), primary_key=True),
    Column("root", String(64), nullable=False),
    sqlite_with_rowid=False,
)

# What each key, together with those that it was rotated from and to, has spent: ever, and in the windows that `day` lies in
# (UTC; weeks begin on Monday).
key_usage: Final = Table(
    "key_usage",
    metadata,
    Column("key_hash", String(64), primary_key=True),  # of the first key of a chain of rotations: key_roots.root
    Column("held_nano", BigInteger, nullable=False),
    Column("used_nano", BigInteger, nullable=False),
    Column("day", Integer, nullable=False),
    Column("day_nano", BigInteger, nullable=False),
    Column("week_nano", BigInteger, nullable=False),
    Column("month_nano", BigInteger, nullable=False),
    CheckConstraint("held_nano >= 0", name="held"),
    sqlite_with_rowid=False,
)


def _usage_sums(name: str, period: str, *indexes: Index) -> Table:
    """Sums over generations. They are made in the transaction of each settlement, so they always agree with the ledger."""
    return Table(
        name,
        metadata,
        Column(period, Integer, primary_key=True, autoincrement=False),  # since 1970, UTC
        Column("account", String(64), primary_key=True),
        Column("key_hash", String(64), primary_key=True),
        Column("model", String(200), primary_key=True),
        Column("upstream", String(64), primary_key=True),  # '' where none served
        Column("requests", BigInteger, nullable=False),
        Column("input_tokens", BigInteger, nullable=False),
        Column("output_tokens", BigInteger, nullable=False),
        Column("cached_tokens", BigInteger, nullable=False),
        Column("reasoning_tokens", BigInteger, nullable=False),
        Column("charged_nano", BigInteger, nullable=False),
        Column("provider_cost_nano", BigInteger, nullable=False),
        *indexes,
        sqlite_with_rowid=False,
    )


usage_hours: Final = _usage_sums("usage_hours", "hour")  # of the last 62 days
usage_days: Final = _usage_sums("usage_days", "day", Index(None, "key_hash", "day"))  # of all days

# How far rows have been dropped because they were old (`ledger.keep_…_days`).
retention: Final = Table(
    "retention",
    metadata,
    Column("subject", String(16), primary_key=True),  # holds | details | hours
    Column(
        "upto", String(30), nullable=False
    ),  # a generation's id, which is ordered by time; of hours: the day, 8 digits
    sqlite_with_rowid=False,
)

# What was made under an Idempotency-Key; xrouter/store/idempotency.py. No secret can be read here.
idempotent_answers: Final = Table(
    "idempotent_answers",
    metadata,
    Column("owner", String(64), primary_key=True),  # the hash of the key that asked
    Column("name_digest", String(64), primary_key=True),  # SHA-256 of the Idempotency-Key
    Column("request_digest", String(64), nullable=False),  # SHA-256 of the request's body
    Column("subject", String(64), nullable=False),  # what was made: a key's hash
    Column("sealed", Text, nullable=False),  # a JWE, opened only with the asking key's own secret
    Column("created_at_us", BigInteger, nullable=False),
    Index(None, "created_at_us"),
    sqlite_with_rowid=False,
)

# Inference requests under an Idempotency-Key; xrouter/store/idempotent_requests.py. No answer can be read here.
idempotent_requests: Final = Table(
    "idempotent_requests",
    metadata,
    Column("owner", String(64), primary_key=True),  # the hash of the key that asked
    Column("name_digest", String(64), primary_key=True),  # SHA-256 of the Idempotency-Key
    Column("request_digest", String(64), nullable=False),  # SHA-256 of endpoint and body
    Column("generation_id", String(30), nullable=False),  # the only one under this name that may be charged
    Column("holder", String(26), nullable=False),  # the process that runs it: holders.id
    Column("sealed", Text, nullable=True),  # the answer, a JWE; NULL: none yet, a stream, or too large
    Column("created_at_us", BigInteger, nullable=False),
    Index(None, "created_at_us"),
    sqlite_with_rowid=False,
)
