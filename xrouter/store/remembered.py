"""Rows of the ledger that a connection to SQLite need not read again: nobody else has written since it did.

SQLite counts the commits of other connections (`PRAGMA data_version`). A transaction that holds the write lock and finds
that number as it was knows that every row is as its own connection left it.
"""

from typing import Final

from xrouter.store.ledger_rows import Account, Hold, KeyTerms, KeyUsage

_MOST_ROWS: Final = 20_000  # some 10 MB


class Remembered:
    """Of one connection. After a transaction that was not committed it is wrong: it then has to be thrown away."""

    __slots__ = ("_version", "accounts", "holds", "keys", "terms")

    def __init__(self) -> None:
        self._version: int | None = None
        self.accounts: dict[str, Account] = {}
        self.holds: dict[str, Hold] = {}  # those that this connection has opened, as long as they are open
        self.keys: dict[str, KeyUsage] = {}
        self.terms: dict[str, KeyTerms] = {}

    def keep_if(self, version: int) -> None:
        """Forget everything if others have written: `version` is SQLite's, read under the write lock."""
        if version != self._version:
            self._version = version
            self.holds.clear()
        elif len(self.accounts) + len(self.keys) + len(self.terms) < _MOST_ROWS:
            return
        self.accounts.clear()
        self.keys.clear()
        self.terms.clear()
