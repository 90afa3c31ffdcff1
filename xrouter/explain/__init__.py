"""What the gateway would do with a request, found by sending it down the real chain with nothing at the end of it.

The filters are the configured ones. Only what they would change is replaced: the store of limits by one that takes nothing,
the ledger by one that holds nothing, dispatch by the end. So an explanation cannot drift from what is done.
"""
