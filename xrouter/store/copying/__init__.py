"""Moving a running SQLite store into PostgreSQL: `xrouter db copy` (docs/moving-to-postgresql.md)."""
