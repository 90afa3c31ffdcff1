"""The innermost frame: send the call to its targets until one answers, and pass the answer on as it comes.

frame          the ASGI frame: watches for the client's leaving
relay          one request: which targets are tried, in which order, how often, and how it ended
upstream_call  one call at one target with one credential, as events
answer         what the client is sent
hedge          two calls at a time, of which the first to answer wins
shadow         copies of calls whose answers nobody sees
"""

from xrouter.dispatch.frame import Dispatch

__all__ = ["Dispatch"]
