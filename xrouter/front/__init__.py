"""The HTTP front: what stands between a client's socket and the ASGI app.

    head.py         which request heads are believed: target, Host, framing
    exchange.py     one request and its answer, as ASGI's receive() and send()
    connection.py   one client connection: parser, limits, deadlines, refusals
    server.py       listening, serving, stopping; a server in a thread for tests

uvicorn runs the event loop, the lifespan and the graceful stop; its own protocol classes are not used.
"""

from xrouter.front.server import FrontServer, ThreadedServer, build_server, listen, running, serve

__all__ = ["FrontServer", "ThreadedServer", "build_server", "listen", "running", "serve"]
