"""What is seen from outside: one log line a request, metrics, health."""
