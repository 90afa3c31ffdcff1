"""Limits: what a client may use in a stretch of time, counted in memory or in Redis behind one interface."""
