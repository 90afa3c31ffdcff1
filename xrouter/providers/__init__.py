"""One file per provider protocol: sans-IO translators."""
