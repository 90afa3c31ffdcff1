"""Commands of this machine, as the supervisor hears them at its door: it has no event loop that could do it."""

import contextlib
import logging
import selectors
import socket
from collections.abc import Callable
from pathlib import Path

from xrouter.workers.control import LONGEST_LINE, Answer, Door, Question, encoded, question

log = logging.getLogger("xrouter.workers")

Reply = Callable[[Answer], None]


class Visitors:
    """`obey(question, reply)` is called for each. Its reply may come later."""

    def __init__(self, selector: selectors.BaseSelector, obey: Callable[[Question, Reply], None]) -> None:
        self._selector = selector
        self._obey = obey
        self._door: Door | None = None

    def open(self, config: Path) -> None:
        try:
            self._door = Door(config)
        except OSError as error:
            log.warning("xrouter reload and top will not find this gateway: %s", error)
        else:
            self._selector.register(self._door.listener, selectors.EVENT_READ, self._on_visitor)

    def close(self) -> None:
        if self._door is not None:
            self._door.close()

    def let_go(self) -> None:
        """In a worker: the door is its supervisor's."""
        if self._door is not None:
            self._door.listener.close()

    def _on_visitor(self) -> None:
        assert self._door is not None
        with contextlib.suppress(OSError):
            connection, _ = self._door.listener.accept()
            connection.setblocking(False)
            heard = bytearray()
            self._selector.register(connection, selectors.EVENT_READ, lambda: self._on_words(connection, heard))

    def _on_words(self, connection: socket.socket, heard: bytearray) -> None:
        try:
            data = connection.recv(4096)
        except OSError:
            data = b""
        heard += data
        if data and b"\n" not in heard and len(heard) < LONGEST_LINE:
            return
        self._selector.unregister(connection)
        try:
            wanted = question.decode(bytes(heard))
        except ValueError:
            connection.close()
            return

        def reply(answer: Answer) -> None:
            with contextlib.suppress(OSError), connection:
                connection.sendall(encoded(answer))

        self._obey(wanted, reply)
