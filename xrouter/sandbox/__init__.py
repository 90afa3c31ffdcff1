"""Provider emulators: try, demo and test without credentials."""
