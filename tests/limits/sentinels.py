"""A Redis that fails over: a master, its replicas, and a sentinel that watches them. All are killed and frozen by pid."""

import subprocess
import time
from pathlib import Path

import redis
from kit.redis_server import RedisServer, free_port


class Sentinels:
    """A master, replicas of it and one sentinel that watches them. `replica` is the first of the replicas."""

    def __init__(self, folder: Path, replicas: int = 1) -> None:
        self.master = RedisServer(folder)
        self.master.start()
        follows = ("--replicaof", "127.0.0.1", str(self.master.port), "--repl-diskless-sync-delay", "0")
        self.replicas = [RedisServer(folder, *follows) for _ in range(replicas)]
        for replica in self.replicas:
            replica.start()
        self.replica = self.replicas[0]
        self.port = free_port()
        config = folder / "sentinel.conf"
        config.write_text(
            f"port {self.port}\nbind 127.0.0.1\ndir {folder}\n"
            f"sentinel monitor main 127.0.0.1 {self.master.port} 1\n"
            "sentinel down-after-milliseconds main 500\nsentinel failover-timeout main 3000\n"
        )
        self.process = subprocess.Popen(["redis-server", str(config), "--sentinel"], stdout=subprocess.DEVNULL)

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()
        for server in (self.master, *self.replicas):
            server.stop()

    @property
    def url(self) -> str:
        return f"redis+sentinel://127.0.0.1:{self.port}/main"

    def wait_until_whole(self) -> None:
        """The replicas follow, and the sentinel knows it: before that there is nothing to fail over to."""
        sentinel = redis.Redis(host="127.0.0.1", port=self.port, decode_responses=True)
        deadline = time.monotonic() + 60
        with sentinel, self.master.client() as master:
            while True:
                known = [one for one in sentinel.sentinel_slaves("main") if one["master-link-status"] == "ok"]
                if master.info("replication")["connected_slaves"] == len(known) == len(self.replicas):
                    return
                assert time.monotonic() < deadline, "the replica did not come up"
                time.sleep(0.05)

    def fail_over(self) -> None:
        """Wait until the replica is the master, then start the old one again, which the sentinel makes a replica of it.

        The sentinel itself has to say so: one that finds the old master back before it has finished gives up, and makes the
        replica follow what is now an empty server.
        """
        sentinel = redis.Redis(host="127.0.0.1", port=self.port, decode_responses=True)
        deadline = time.monotonic() + 60
        with sentinel, self.replica.client() as replica:
            while (
                replica.info("replication")["role"] != "master"
                or int(sentinel.sentinel_get_master_addr_by_name("main")[1]) != self.replica.port
            ):
                assert time.monotonic() < deadline, "the sentinel did not fail over"
                time.sleep(0.05)
            # One failover is wanted: a busy machine that pauses for half a second is no reason to go back to an empty one.
            sentinel.sentinel_set("main", "down-after-milliseconds", 60_000)
        self.master.start()

    def part(self) -> None:
        """The master is cut off from its replica, and clients still reach it.

        Frozen alone, the replica would find in its socket's buffer what the master wrote meanwhile. So the link goes too.
        """
        self.replica.freeze()
        with self.master.client() as master:
            master.client_kill_filter(_type="replica")
