"""The HTTP front: what stands between a client's socket and the ASGI app.

    head.py         which request heads are believed: target, Host, framing
    reader.py       bytes in, checked requests out; limits
    exchange.py     one request and its answer, as ASGI's receive() and send()
    connection.py   one client connection: phases, deadlines, when it closes
    start_queue.py  which request begins next, and which are shed
    glance.py       whose request it is, of one that is shed as it comes
    overload.py     what is answered to those, and what the operator is told
    acceptor.py     accepting many connections at once
    refusal.py      what the front answers in the app's place
    timer.py        one timer for many deadlines
    server.py       listening, serving, stopping
    threaded.py     a server in a thread, for tests and benches

uvicorn runs the event loop, the lifespan and the graceful stop; its own protocol classes are not used.
"""

from xrouter.front.refusal import Refusal
from xrouter.front.server import FrontServer, build_server, listen, serve
from xrouter.front.threaded import ThreadedServer, running

__all__ = ["FrontServer", "Refusal", "ThreadedServer", "build_server", "listen", "running", "serve"]
