"""The rules of money, applied to one batch of operations inside one transaction.

A `Book` reads each row that it needs once, under the write lock, applies the operations in memory one after the other, and
writes every changed row once. An operation is checked before it changes anything, so one that is refused leaves the others
of its batch alone. Nothing here knows of tasks, threads or databases.
"""

from typing import Final, assert_never

from xrouter.errors import (
    BadRequest,
    InternalError,
    NotFound,
    PaymentRequired,
    StoreUnavailable,
    Unprocessable,
    XRouterError,
)
from xrouter.ledger.limits import SpendingLimit, left_of, own_limit
from xrouter.ledger.operations import (
    Balance,
    Expire,
    ExtendHold,
    HoldGranted,
    OpenHold,
    Operation,
    Prune,
    ReleaseHold,
    Renew,
    Result,
    RollUp,
    Settled,
    Settlement,
    TakeBack,
    Transfer,
)
from xrouter.ledger.refusals import insufficient
from xrouter.ledger.windows import day_of, hour_of, roll
from xrouter.store.ledger import LedgerTables
from xrouter.store.ledger_rows import (
    Account,
    Entry,
    EntryKind,
    Generation,
    Hold,
    HoldState,
    KeyTerms,
    KeyUsage,
    PriceVersion,
    UsagePlace,
    UsageSum,
)
from xrouter.store.pg_tables import PgTables

REVENUE: Final = "@revenue"  # what owners paid
PROMOTIONS: Final = "@promotions"  # where grants come from
ADJUSTMENTS: Final = "@adjustments"
PROVIDER_COST: Final = "@provider_cost"  # what generations cost the operator
PROVIDERS: Final = "@providers"  # what providers are owed
_SOURCES: Final = {"grant": PROMOTIONS, "adjustment": ADJUSTMENTS, "refund": REVENUE}
LARGEST_NANO: Final = 2**62  # of one amount; a balance is kept below twice that, which is what BIGINT holds
_CAPACITY: Final = 2**63 - 1
KEPT_HOURS_DAYS: Final = 62  # sums by hour that are older are dropped; those by day stay


class Book:
    """One transaction. `at_us` is its time; `seen_prices` are versions known to be stored, to which it adds."""

    def __init__(self, tables: LedgerTables | PgTables, at_us: int, seen_prices: set[str]) -> None:
        self._tables = tables
        self._at_us = at_us
        self._day = day_of(at_us)
        self._seen_prices = seen_prices
        self._accounts: dict[str, Account] = {}
        self._holds: dict[str, Hold] = {}
        self._terms: dict[str, KeyTerms] = {}
        self._keys: dict[str, KeyUsage] = {}  # by the first key of a chain of rotations
        self._entries: list[Entry] = []
        self._idempotent: dict[str, Entry] = {}
        self._generations: dict[str, Generation] = {}
        self._prices: dict[str, PriceVersion] = {}
        self._sums: dict[UsagePlace, UsageSum] = {}

    def foresee(self, operations: "list[Operation]") -> None:
        """Before they are applied, look at once for what most of them will look for."""
        self._tables.foresee(one.generation_id for one in operations if isinstance(one, OpenHold | Settlement))

    def apply(self, operation: Operation) -> Result:
        """Raises XRouterError for an operation that is refused; it has then changed nothing."""
        match operation:
            case Settlement():
                return self._settle(operation)
            case OpenHold():
                return self._open(operation)
            case ReleaseHold():
                self._release(operation)
                return None
            case TakeBack():
                self._take_back(operation)
                return None
            case ExtendHold():
                return self._extend(operation)
            case Transfer():
                return self._transfer(operation)
            case Renew():
                self._tables.renew(operation.holder, self._at_us + operation.lease_us)
                return None
            case Expire():
                return self._expire(operation)
            case RollUp():
                return self._tables.roll_up(self._day - KEPT_HOURS_DAYS)
            case Prune():
                return self._prune(operation)
            case _:
                assert_never(operation)

    def write(self) -> None:
        """Everything that has changed, each row once. Committing is the caller's."""
        tables = self._tables
        if self._prices:
            tables.write_prices(self._prices.values(), self._at_us)
        if self._holds:
            tables.write_holds(self._holds.values())
        if self._entries:
            tables.write_entries(self._entries)
        if self._generations:
            tables.write_generations(list(self._generations.values()))
        if self._sums:
            tables.add_to_sums(self._sums.items())
        if self._keys:
            tables.write_keys(self._keys.values())
        if self._accounts:
            tables.write_accounts(self._accounts.values(), self._at_us)

    def stored(self) -> None:
        """The transaction is committed."""
        self._seen_prices.update(self._prices)

    # Holds

    def _open(self, wanted: OpenHold) -> HoldGranted:
        _check_amount(wanted.wanted_nano)
        account, key = self._account_or_empty(wanted.account), self._key(wanted.key_hash)
        hold = self._hold(wanted.generation_id)
        limits = self._limits(wanted.key_hash, wanted.quota)
        left = _left(account, key, limits)
        if hold is not None:  # sent again after a lost answer
            if hold.state == "expired":  # so late that others took this process for dead
                raise StoreUnavailable(retry_after_s=1, detail=f"the hold of {wanted.generation_id} has expired")
            if hold.state != "open":
                raise InternalError(detail=f"the hold of {wanted.generation_id} is {hold.state} already")
            return HoldGranted(hold.amount_nano, hold.amount_nano + max(0, left))
        if self._generation(wanted.generation_id):
            raise InternalError(detail=f"{wanted.generation_id} is settled already, and was never held")
        amount = min(wanted.wanted_nano, left)
        if amount < wanted.least_nano or left < 0:
            raise insufficient(account, key, limits, wanted.least_nano)
        if wanted.look:
            return HoldGranted(amount, left)
        self._holds[wanted.generation_id] = Hold(
            generation_id=wanted.generation_id,
            account=wanted.account,
            key_hash=wanted.key_hash,
            amount_nano=amount,
            holder=wanted.holder,
            state="open",
            opened_at_us=self._at_us,
            closed_at_us=None,
        )
        account.held_nano += amount
        key.held_nano += amount
        return HoldGranted(amount, left)

    def _extend(self, wanted: ExtendHold) -> HoldGranted:
        _check_amount(wanted.more_nano)
        hold = self._hold(wanted.generation_id)
        if hold is None or hold.state != "open":
            state = "missing" if hold is None else hold.state
            raise PaymentRequired("The credits set aside for this request have been released", detail=f"hold {state}")
        account, key = self._account_or_empty(hold.account), self._key(hold.key_hash)
        limits = self._limits(hold.key_hash, wanted.quota)
        left = _left(account, key, limits)
        more = min(wanted.more_nano, left)
        if more < wanted.least_nano or more < 0:
            raise insufficient(account, key, limits, wanted.least_nano)
        hold.amount_nano += more
        account.held_nano += more
        key.held_nano += more
        return HoldGranted(hold.amount_nano, hold.amount_nano + left - more)

    def _release(self, operation: ReleaseHold) -> None:
        hold = self._hold(operation.generation_id)
        if hold is not None and hold.state == "open":
            self._close(hold, "released")

    def _take_back(self, operation: TakeBack) -> None:
        self._release(ReleaseHold(operation.generation_id))
        generation = self._generation(operation.generation_id)
        if generation is None:
            return
        left = generation.charged_nano - self._refunded(generation.id)
        if left > 0:
            self._post(
                "refund",
                REVENUE,
                operation.account,
                left,
                generation.id,
                "the answer was never given",
                "the gateway",
                None,
            )

    def _close(self, hold: Hold, state: HoldState) -> None:
        self._account_or_empty(hold.account).held_nano -= hold.amount_nano
        self._key(hold.key_hash).held_nano -= hold.amount_nano
        hold.state = state
        hold.closed_at_us = self._at_us

    def _expire(self, operation: Expire) -> int:
        dead = [
            hold
            for row in self._tables.dead_holds(self._at_us, operation.lease_us)
            if (hold := self._holds.setdefault(row.generation_id, row)).state == "open"
        ]
        for hold in dead:
            self._close(hold, "expired")
        if not dead:
            self._tables.forget_dead_holders(self._at_us)
        return len(dead)

    def _prune(self, operation: Prune) -> int:
        dropped = 0
        if operation.keep_holds_us is not None:
            dropped += self._tables.drop_holds(self._at_us - operation.keep_holds_us)
        if operation.keep_details_us is not None:
            dropped += self._tables.drop_details(self._at_us - operation.keep_details_us)
        return dropped

    # Settlements

    def _settle(self, end: Settlement) -> Settled:
        _check_amount(end.cost_nano)
        _check_amount(end.provider_cost_nano)
        hold = self._hold(end.generation_id)
        if (hold is None or hold.state != "open") and (before := self._generation(end.generation_id)):
            return Settled(before.id, before.cost_nano, before.charged_nano, before.overrun_nano, repeated=True)
        if hold is not None and (hold.account, hold.key_hash) != (end.account, end.key_hash):
            raise InternalError(detail=f"{end.generation_id} is held for another account or key than it is settled for")
        account, key = self._account_or_empty(end.account), self._key(end.key_hash)
        # Without an open hold (it has expired, or the store was away) the whole cost is an overrun, covered by what is left.
        held = hold.amount_nano if hold is not None and hold.state == "open" else 0
        covered = min(end.cost_nano, held)
        overrun = 0
        if covered < end.cost_nano:
            left = account.available_nano + held - covered
            overrun = max(0, min(end.cost_nano - covered, left))
        charged = covered + overrun
        self._check_capacity(end, charged)
        if hold is not None and hold.state == "open":
            self._close(hold, "released" if end.input_tokens is None else "settled")
        self._post("charge", end.account, REVENUE, covered, end.generation_id)
        self._post("overrun", end.account, REVENUE, overrun, end.generation_id)
        self._post("cost", PROVIDER_COST, PROVIDERS, end.provider_cost_nano, end.generation_id)
        key.used_nano += charged
        key.day_nano += charged
        key.week_nano += charged
        key.month_nano += charged
        self._record(end, held, charged, overrun, key.day)
        return Settled(end.generation_id, end.cost_nano, charged, overrun)

    def _record(self, end: Settlement, held: int, charged: int, overrun: int, day: int) -> None:
        if end.price.version not in self._seen_prices:
            self._prices[end.price.version] = end.price
        self._generations[end.generation_id] = Generation(
            end.generation_id, end.account, end.key_hash, end.model, end.upstream, end.upstream_model, end.outcome,
            end.rule, end.finish_reason, end.input_tokens, end.output_tokens, end.cached_tokens, end.reasoning_tokens,
            end.usage_source, end.images, end.price.version, end.cost_nano, end.provider_cost_nano, held, charged,
            overrun, end.created_at_us, self._at_us, day, end.details,
        )  # fmt: skip
        place = UsagePlace(hour_of(self._at_us), end.account, end.key_hash, end.model, end.upstream or "")
        total = self._sums.get(place)
        if total is None:
            total = self._sums[place] = UsageSum()
        total.requests += 1
        total.input_tokens += end.input_tokens or 0
        total.output_tokens += end.output_tokens or 0
        total.cached_tokens += end.cached_tokens or 0
        total.reasoning_tokens += end.reasoning_tokens or 0
        total.charged_nano += charged
        total.provider_cost_nano += end.provider_cost_nano

    # Grants, adjustments, refunds

    def _transfer(self, wanted: Transfer) -> Balance:
        if wanted.account.startswith("@"):
            raise BadRequest("The gateway's own accounts take no grants", param="account")
        amount = abs(wanted.amount_nano)
        if amount == 0 or (wanted.amount_nano < 0 and wanted.kind != "adjustment"):
            raise BadRequest("The amount is more than 0", param="amount")
        if amount > LARGEST_NANO:
            raise BadRequest("The account cannot hold so much", param="amount")
        source = _SOURCES[wanted.kind]
        debit, credit = (source, wanted.account) if wanted.amount_nano > 0 else (wanted.account, source)
        if wanted.idempotency_key is not None and (before := self._entry(wanted.idempotency_key)):
            if (before.kind, before.debit_account, before.credit_account, before.amount_nano) != (
                wanted.kind, debit, credit, amount,
            ):  # fmt: skip
                raise Unprocessable("This idempotency key was used for something else", param="idempotency_key")
            return _balance(self._account_or_empty(wanted.account))
        if wanted.kind == "refund":
            self._check_refund(wanted)
        account = self._account_or_empty(wanted.account)
        if account.read_balance_nano is None:
            self._accounts[account.name] = account
        if max(abs(account.balance_nano), abs(self._account_or_empty(source).balance_nano)) + amount > _CAPACITY:
            raise BadRequest("The account cannot hold so much", param="amount")
        self._post(
            wanted.kind, debit, credit, amount, wanted.generation_id,
            wanted.reason, wanted.author, wanted.idempotency_key,
        )  # fmt: skip
        return _balance(account)

    def _check_refund(self, wanted: Transfer) -> None:
        generation = self._generation(wanted.generation_id or "")
        if generation is None or generation.account != wanted.account:
            raise NotFound("No charge of this account has this generation id")
        if self._refunded(generation.id) + wanted.amount_nano > generation.charged_nano:
            raise BadRequest("No more can be refunded than was charged", param="amount")

    def _refunded(self, generation_id: str) -> int:
        """So far, this batch's refunds included."""
        return self._tables.refunded_nano(generation_id) + sum(
            entry.amount_nano
            for entry in self._entries
            if entry.kind == "refund" and entry.generation_id == generation_id
        )

    # Rows

    def _post(
        self,
        kind: EntryKind,
        debit: str,
        credit: str,
        amount_nano: int,
        generation_id: str | None,
        reason: str | None = None,
        author: str | None = None,
        idempotency_key: str | None = None,
    ) -> None:
        if amount_nano == 0:
            return
        entry = Entry(kind, debit, credit, amount_nano, generation_id, reason, author, idempotency_key, self._at_us)
        self._account_or_empty(debit).balance_nano -= amount_nano
        self._account_or_empty(credit).balance_nano += amount_nano
        self._entries.append(entry)
        if idempotency_key is not None:
            self._idempotent[idempotency_key] = entry

    def _check_capacity(self, end: Settlement, charged: int) -> None:
        """Invariant I8: what the gateway's own accounts hold stays within 64 bits. An owner's balance only shrinks here."""
        revenue, owed = self._account_or_empty(REVENUE).balance_nano, self._account_or_empty(PROVIDERS).balance_nano
        if max(revenue + charged, owed + end.provider_cost_nano) > _CAPACITY:
            raise InternalError(detail="an account of the gateway is full")

    def _account_or_empty(self, name: str) -> Account:
        """The account; one that does not exist has nothing, and is kept only once something is posted to it."""
        account = self._accounts.get(name)
        if account is None:
            account = self._tables.account(name) or Account(name, "owner", 0, 0, 0)
            if account.read_balance_nano is not None:
                self._accounts[name] = account
        return account

    def _key(self, key_hash: str) -> KeyUsage:
        root = self._key_terms(key_hash).root
        key = self._keys.get(root)
        if key is None:
            key = self._keys[root] = self._tables.key_usage(root, self._day)
            roll(key, self._day)
        return key

    def _key_terms(self, key_hash: str) -> KeyTerms:
        terms = self._terms.get(key_hash)
        if terms is None:
            terms = self._terms[key_hash] = self._tables.key_terms(key_hash)
        return terms

    def _limits(self, key_hash: str, quota: tuple[SpendingLimit, ...]) -> tuple[SpendingLimit, ...]:
        return own_limit(self._key_terms(key_hash)) + quota

    def _hold(self, generation_id: str) -> Hold | None:
        hold = self._holds.get(generation_id)
        if hold is None and (hold := self._tables.hold(generation_id)):
            self._holds[generation_id] = hold
        return hold

    def _generation(self, generation_id: str) -> Generation | None:
        return self._generations.get(generation_id) or self._tables.generation(generation_id)

    def _entry(self, idempotency_key: str) -> Entry | None:
        return self._idempotent.get(idempotency_key) or self._tables.entry_by_idempotency_key(idempotency_key)


def apply_all(book: Book, operations: "list[Operation]") -> list[Result | XRouterError]:
    """Each operation's result, or why it alone was refused."""
    book.foresee(operations)
    results: list[Result | XRouterError] = []
    for operation in operations:
        try:
            results.append(book.apply(operation))
        except XRouterError as error:
            results.append(error)
    return results


def _left(account: Account, key: KeyUsage, limits: tuple[SpendingLimit, ...]) -> int:
    """What may still be held: as far as the account, the key's limit and its tier's quota all go."""
    left = account.available_nano
    for limit in limits:
        left = min(left, left_of(limit, key))
    return left


def _balance(account: Account) -> Balance:
    return Balance(account.name, account.balance_nano, account.held_nano, account.floor_nano)


def _check_amount(nano: int) -> None:
    """Invariant I8: an amount is not negative and far from the end of 64 bits, or its request is aborted (incident I-11)."""
    if not 0 <= nano <= LARGEST_NANO:
        raise InternalError(detail=f"an amount of {nano} nanocredits cannot be right")
