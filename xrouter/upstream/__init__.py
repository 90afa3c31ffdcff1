"""Bytes to and from an upstream: pool, TLS, deadlines, cancellation, sign-in."""
