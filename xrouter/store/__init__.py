"""The database: one schema, one module per aggregate."""
