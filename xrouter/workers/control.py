"""The door for commands on the same machine (`xrouter reload`, `xrouter top`): a Unix socket that only its owner may use.

Its place follows from the configuration's path, so a command finds the gateway that serves that file without a port or a
token. One line of JSON asks, one line answers, and the connection is closed. Of two gateways on one file (an upgrade) the
newer one answers.
"""

import contextlib
import os
import socket
import stat
import tempfile
from hashlib import sha256
from pathlib import Path
from typing import Final, Literal

import msgspec

from xrouter.workers.messages import WorkerState

NO_OTHER: Final = "a gateway with one worker has no other that could serve meanwhile"
LONGEST_LINE: Final = 64 * 1024
_LONGEST_PATH: Final = 95  # of a socket's 107 (unix(7)); its name grows by a process id while it is made
_ANSWER_S: Final = 60.0


class Question(msgspec.Struct, frozen=True):
    ask: Literal["reload", "fleet", "restart"]


class Answer(msgspec.Struct, frozen=True):
    """`problem`: why it was not done, one line for each problem of a configuration; None if it was."""

    problem: str | None = None
    workers: list[WorkerState] = []


class NoGateway(Exception):
    """None serves that configuration on this machine under this user."""


question: Final = msgspec.json.Decoder(Question)
_answer: Final = msgspec.json.Decoder(Answer)


def encoded(message: Question | Answer) -> bytes:
    return msgspec.json.encode(message) + b"\n"


def socket_path(config: Path) -> Path:
    """Where the gateway that serves `config` listens. The folder may not exist yet."""
    name = f"{sha256(str(config.resolve()).encode()).hexdigest()[:20]}.sock"
    bases = (os.environ.get("XDG_RUNTIME_DIR") or tempfile.gettempdir(), "/tmp")  # noqa: S108  the folder in it is private
    paths = [Path(base, f"xrouter-{os.getuid()}", name) for base in bases]
    return next((path for path in paths if len(str(path)) <= _LONGEST_PATH), paths[-1])


class Door:
    """The listening end. Raises OSError where no safe place for it can be had."""

    def __init__(self, config: Path) -> None:
        self._path = socket_path(config)
        _make_private(self._path.parent)
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        beside = self._path.with_suffix(f".{os.getpid()}")
        with contextlib.suppress(FileNotFoundError):
            beside.unlink()
        self.listener.bind(str(beside))
        self.listener.listen(16)
        self._inode = beside.stat().st_ino
        beside.rename(self._path)  # at once, over that of an older gateway

    def close(self) -> None:
        """And take the name away, unless a newer gateway has it by now."""
        self.listener.close()
        with contextlib.suppress(FileNotFoundError):
            if self._path.stat().st_ino == self._inode:
                self._path.unlink()


def ask(config: Path, message: Question) -> Answer:
    """Ask the gateway that serves `config` and wait for its answer. Raises NoGateway."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(_ANSWER_S)
        try:
            connection.connect(str(socket_path(config)))
        except (FileNotFoundError, ConnectionRefusedError):
            raise NoGateway(f"no gateway of this user serves {config} on this machine") from None
        connection.sendall(encoded(message))
        with connection.makefile("rb") as reader:
            line = reader.readline()
    if not line:
        raise NoGateway(f"the gateway that serves {config} ended before it answered")
    return _answer.decode(line)


def _make_private(folder: Path) -> None:
    """A folder that nobody else can look or write into. One that somebody else has put there first is not taken."""
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise PermissionError(f"{folder} is not a private folder of this user")
