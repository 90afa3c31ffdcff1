"""Several processes that serve as one: their supervisor, and what they and it tell each other."""
