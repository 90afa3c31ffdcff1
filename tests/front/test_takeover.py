"""Two sockets on one port."""

import socket
from contextlib import ExitStack

from xrouter.config.settings import Server
from xrouter.front.server import listen
from xrouter.front.takeover import send_to_the_newer


def waiting(listener: socket.socket) -> int:
    """How many connections its queue holds."""
    listener.setblocking(False)
    count = 0
    while True:
        try:
            listener.accept()[0].close()
        except BlockingIOError:
            return count
        count += 1


def test_new_connections_go_to_the_newer_socket() -> None:
    """Fails without the program: the kernel then spreads them, and those that wait at the older one are lost with it."""
    with ExitStack() as stack:
        older = stack.enter_context(listen(Server(port=0), reuse_port=True))
        older.listen()
        port = older.getsockname()[1]
        newer = stack.enter_context(listen(Server(port=port), reuse_port=True))
        newer.listen()
        assert send_to_the_newer(older)
        clients = [stack.enter_context(socket.create_connection(("127.0.0.1", port))) for _ in range(40)]
        assert (waiting(older), waiting(newer)) == (0, len(clients))


def test_the_only_socket_keeps_its_connections() -> None:
    with ExitStack() as stack:
        only = stack.enter_context(listen(Server(port=0), reuse_port=True))
        only.listen()
        assert send_to_the_newer(only)
        clients = [stack.enter_context(socket.create_connection(only.getsockname())) for _ in range(10)]
        assert waiting(only) == len(clients)


def test_a_socket_of_its_own_says_no() -> None:
    with listen(Server(port=0)) as alone:
        assert not send_to_the_newer(alone)
