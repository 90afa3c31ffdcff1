"""A real PostgreSQL of the tests' own, from the PATH or from where Debian puts it: started, killed and frozen by pid.

It refuses to run as root, so a root gives it to a plain user. Its folder is not pytest's, into which no other user can look.
Nothing waits for the disk: a test about durability says `fsync=on`.
"""

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, Final

from kit.redis_server import free_port

DATABASE: Final = "xrouter"
USER: Final = "xrouter"
_START_S: Final = 60.0
_PLAIN_USERS: Final = ("postgres", "nobody")
# Its input ends when this process does, however. A pid of which /proc tells something else is another's by now.
_WATCH: Final = """
read -r nothing
pid=$(head -n 1 "$1/data/postmaster.pid" 2>/dev/null)
if [ -n "$pid" ] && grep -q "$1/data" "/proc/$pid/cmdline" 2>/dev/null; then
    kill -QUIT "$pid" && kill -CONT "$pid"
    while kill -0 "$pid" 2>/dev/null; do sleep 0.1; done
fi
rm -rf "$1"
"""
_SETTINGS: Final = {
    "fsync": "off",
    "full_page_writes": "off",
    "shared_buffers": "16MB",
    "max_connections": "200",
    "unix_socket_directories": "",
    "listen_addresses": "127.0.0.1",
    "timezone": "UTC",
    "log_min_messages": "warning",
}


@cache
def _programs() -> Path:
    """The folder of one version's programs: that of `postgres` on the PATH, else the newest of Debian's."""
    if found := shutil.which("postgres"):
        return Path(found).resolve().parent
    debian = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=lambda path: float(path.parts[-3]))
    assert debian, "PostgreSQL is not installed: Debian's package postgresql has it"
    return debian[-1].parent


def program(name: str) -> str:
    return str(_programs() / name)


def as_plain_user() -> dict[str, Any]:
    """Arguments of subprocess by which root becomes a user that PostgreSQL accepts; nothing for anybody else."""
    if os.geteuid() != 0:
        return {}
    known = {user.pw_name: user for user in pwd.getpwall()}
    user = next(known[name] for name in _PLAIN_USERS if name in known)
    return {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": [], "cwd": "/"}


class PostgresServer:
    """`folder` is made by `running_postgres`; `settings` go over those of all tests."""

    def __init__(self, folder: Path, settings: Mapping[str, str] | None = None) -> None:
        self.folder = folder
        self.data = folder / "data"
        self.port = free_port()
        self.settings = {**_SETTINGS, **(settings or {})}
        self._process: subprocess.Popen[bytes] | None = None
        self._databases = 0

    def url(self, database: str = DATABASE) -> str:
        return f"postgresql://{USER}@127.0.0.1:{self.port}/{database}"

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def init(self) -> None:
        options = ["--auth=trust", f"--username={USER}", "--encoding=UTF8", "--locale=C", "--no-sync"]
        self.run("initdb", *options, "-D", str(self.data))

    def copy_of(self, primary: "PostgresServer") -> None:
        """Become a standby that follows `primary`, instead of `init`."""
        source = f"postgresql://{USER}@127.0.0.1:{primary.port}/?application_name=standby"
        self.run("pg_basebackup", "-D", str(self.data), "-d", source, "-R", "-X", "stream", "--no-sync", "-c", "fast")

    def start(self) -> None:
        """Returns when it takes connections."""
        options = [word for name, value in self.settings.items() for word in ("-c", f"{name}={value}")]
        command = [program("postgres"), "-D", str(self.data), "-p", str(self.port), *options]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, **as_plain_user())
        deadline = time.monotonic() + _START_S
        while self.sql("SELECT 1", database="postgres", check=False) != "1":
            assert self._process.poll() is None, f"postgres ended at once: {(self.folder / 'log').read_text()[-2000:]}"
            assert time.monotonic() < deadline, "postgres takes no connections"
            time.sleep(0.02)

    def sql(self, text: str, database: str = DATABASE, *, check: bool = True) -> str:
        """One transaction of statements by psql; returns what it prints, unaligned."""
        result = subprocess.run(
            [program("psql"), "-XqtA", "-v", "ON_ERROR_STOP=1", "-d", self.url(database), "-c", text],
            capture_output=True,
            text=True,
        )
        assert result.returncode == 0 or not check, result.stderr
        return result.stdout.strip()

    def new_database(self, template: str | None = None) -> str:
        """The URL of a fresh one, a copy of the database `template` if that is named."""
        self._databases += 1
        name = f"test_{self._databases}"
        copied = f" TEMPLATE {template}" if template else ""
        self.sql(f"CREATE DATABASE {name}{copied}", database="postgres")
        return self.url(name)

    def drop_database(self, name: str) -> None:
        self.sql(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)", database="postgres")

    def disconnect(self, database: str) -> None:
        """As an administrator would; returns when nobody is connected to it any more."""
        others = f"FROM pg_stat_activity WHERE datname = '{database}'"
        self.sql(f"SELECT pg_terminate_backend(pid, 10000) {others}", database="postgres")

    def stop(self, number: int = signal.SIGINT) -> None:
        """SIGINT: its "fast" shutdown. SIGKILL is a crash: what was not on the disk is gone, if the disk forgets it."""
        if self._process is None or self._process.poll() is not None:
            return
        if number != signal.SIGKILL:  # that one reaches the frozen too
            self.thaw()
        children = self._children()
        self._process.send_signal(number)
        self._process.wait()
        if number == signal.SIGKILL:
            for child in children:
                _send(child, number)

    def freeze(self) -> None:
        """Connections stay open and nothing answers."""
        self._send_all(signal.SIGSTOP)

    def thaw(self) -> None:
        self._send_all(signal.SIGCONT)

    def promote(self) -> None:
        self.sql("SELECT pg_promote()", database="postgres")

    def run(self, name: str, *arguments: str) -> None:
        command = [program(name), *arguments]
        result = subprocess.run(command, capture_output=True, text=True, **as_plain_user())
        assert result.returncode == 0, result.stderr

    def _send_all(self, number: int) -> None:
        assert self._process is not None
        _send(self._process.pid, number)  # the postmaster first: it starts no more of them
        for child in self._children():
            _send(child, number)

    def _children(self) -> list[int]:
        assert self._process is not None
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children")
        return [int(pid) for pid in children.read_text().split()]


def _send(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return  # it has ended by itself meanwhile


@contextmanager
def server_folder() -> Iterator[Path]:
    """A folder that the server's user may write to. If this process is killed, the server in it ends, and it goes too."""
    folder = Path(tempfile.mkdtemp(prefix="xrouter-postgres-"))
    plain = as_plain_user()
    if plain:
        os.chown(folder, plain["user"], plain["group"])
    watch = ["sh", "-c", _WATCH, "watch", str(folder)]
    # A session of its own: what ends all processes of a terminal or of a group leaves it to its work.
    with subprocess.Popen(watch, stdin=subprocess.PIPE, start_new_session=True):
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def running_postgres(settings: Mapping[str, str] | None = None) -> Iterator[PostgresServer]:
    """A fresh server with the empty database `xrouter`."""
    with server_folder() as folder:
        server = PostgresServer(folder, settings)
        server.init()
        server.start()
        try:
            server.sql(f"CREATE DATABASE {DATABASE}", database="postgres")
            yield server
        finally:
            server.stop()
