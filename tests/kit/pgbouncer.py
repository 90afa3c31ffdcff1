"""A real PgBouncer in transaction mode before a test's PostgreSQL."""

import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager

from kit.postgres_server import USER, PostgresServer, as_plain_user, server_folder
from kit.redis_server import free_port

_CONFIGURATION = """
[databases]
* = host=127.0.0.1 port={server} user={user}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = any
pool_mode = transaction
default_pool_size = {size}
server_reset_query =
"""


@contextmanager
def running_pgbouncer(server: PostgresServer, *, pool_size: int) -> Iterator[int]:
    """The port that it listens on. Its clients share `pool_size` processes of the server."""
    program = shutil.which("pgbouncer") or "/usr/sbin/pgbouncer"
    with server_folder() as folder:
        port = free_port()
        configuration = folder / "pgbouncer.ini"
        configuration.write_text(_CONFIGURATION.format(server=server.port, user=USER, port=port, size=pool_size))
        configuration.chmod(0o644)
        with (folder / "log").open("ab") as log:
            process = subprocess.Popen([program, str(configuration)], stdout=log, stderr=log, **as_plain_user())
        try:
            deadline = time.monotonic() + 30
            while True:
                try:
                    socket.create_connection(("127.0.0.1", port), timeout=1).close()
                    break
                except OSError:
                    assert process.poll() is None, (folder / "log").read_text()
                    assert time.monotonic() < deadline, "pgbouncer does not listen"
                    time.sleep(0.02)
            yield port
        finally:
            process.kill()
            process.wait()
