"""Shared by all tests. That it stands here also makes `tests/kit` importable as `kit` (pytest's prepend import mode)."""
