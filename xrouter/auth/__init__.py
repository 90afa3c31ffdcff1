"""Keys: how they are made, kept, checked and revoked."""
