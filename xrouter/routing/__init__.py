"""Where a call goes: the candidates for it, their order, and what is known of how well each place does."""
