"""A Redis client for limits, from the configuration's address.

    redis://[user:password@]host[:port][/database]            one server; rediss:// with TLS
    redis+cluster://[user:password@]host[:port]               any node; the others are found from it
    redis+sentinel://[user:password@]host,host[:port]/name    sentinels of the master `name`

`?tls=true` is TLS for the last two. `?replicas=1` (not for a cluster): a reply counts once that many replicas have what
the script wrote, so a failover forgets no admission that was answered; Redis' own replication loses acknowledged writes.
Other query parameters are redis-py's own (`ssl_ca_certs`, `ssl_certfile`, …).

redis-py's defaults are made for clients that may wait: ten retries, each with a pause, hold a request for seconds while a
server is frozen. Here nothing is retried and nothing waits by itself: deadlines are the caller's.
"""

from typing import Any, Final, Protocol
from urllib.parse import SplitResult, parse_qsl, urlencode, urlsplit

from redis.asyncio import Redis, RedisCluster
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel
from redis.backoff import NoBackoff
from redis.exceptions import RedisError, ResponseError

_SENTINEL_PORT: Final = 26379
_OPTIONS: Final[dict[str, Any]] = {"socket_timeout": None, "socket_connect_timeout": None, "protocol": 2}
_REPLICA_COUNTS: Final = "123456789"
_CLUSTER_REDIRECTS: Final = 2  # a slot may have moved, and then its new node too

Call = tuple[list[str], str]
"""The keys and the one argument of the script."""
Reply = bytes


class NotReplicated(RedisError):
    """The server has run the calls, and they may be forgotten in a failover."""


class Client(Protocol):
    """A Redis that runs a script. Raises redis-py's RedisError, and OSError."""

    async def run(self, sha: str, calls: list[Call]) -> list[Reply | Exception]:
        """The reply to each call, sent together; an error that the server answers is a reply too."""

    async def load(self, script: str) -> None: ...

    async def ping(self) -> None: ...

    async def aclose(self) -> None:
        """Close the connections. The next use makes new ones."""


class Server:
    """One server, or the master that sentinels name.

    The commands are encoded here: redis-py's encoder looks at every argument in several ways and takes most of the time
    of a call. Connecting, TLS, signing in and reading are its own.

    `replicas`: a pipeline ends with WAIT for so many, without a bound of its own, since the caller has a deadline: one
    more round trip, from the master to its replica, for all calls of the pipeline together.
    """

    def __init__(self, redis: Redis, sentinels: Sentinel | None = None, *, replicas: int = 0) -> None:
        self._redis = redis
        self._sentinels = sentinels
        self._replicas = replicas
        self._wait = _wait(replicas) if replicas else b""

    async def run(self, sha: str, calls: list[Call]) -> list[Reply | Exception]:
        pool = self._redis.connection_pool
        connection = await pool.get_connection()  # type: ignore[no-untyped-call]
        try:
            await connection.send_packed_command(_encoded(sha, calls) + self._wait)
            replies: list[Reply | Exception] = []
            for _ in calls:
                try:
                    replies.append(await connection.read_response())
                except ResponseError as error:
                    replies.append(error)
            if self._wait and (confirmed := await connection.read_response()) < self._replicas:
                raise NotReplicated(f"{confirmed} of {self._replicas} replicas have confirmed")
            return replies
        except BaseException:
            await connection.disconnect(nowait=True)  # what is still to come of it would answer the next call
            raise
        finally:
            await pool.release(connection)

    async def load(self, script: str) -> None:
        await self._redis.script_load(script)

    async def ping(self) -> None:
        await self._redis.execute_command("PING")  # type: ignore[no-untyped-call]

    async def aclose(self) -> None:
        await self._redis.aclose()
        for sentinel in self._sentinels.sentinels if self._sentinels else ():
            await sentinel.aclose()


class Cluster:
    """The nodes of a cluster; each call goes to the one that has its keys."""

    def __init__(self, cluster: RedisCluster) -> None:
        self._cluster = cluster

    async def run(self, sha: str, calls: list[Call]) -> list[Reply | Exception]:
        pipeline = self._cluster.pipeline()
        for keys, argument in calls:
            # Not its `evalsha`: that refuses in a pipeline, though the command itself is sent well.
            pipeline.execute_command("EVALSHA", sha, len(keys), *keys, argument)
        replies: list[Reply | Exception] = await pipeline.execute(raise_on_error=False)
        return replies

    async def load(self, script: str) -> None:
        await self._cluster.script_load(script)

    async def ping(self) -> None:
        await self._cluster.execute_command("PING")

    async def aclose(self) -> None:
        await self._cluster.aclose()


def _encoded(sha: str, calls: list[Call]) -> bytes:
    """EVALSHA commands in the Redis serialization protocol: arrays of texts, each with its length in bytes."""
    head = f"\r\n$7\r\nEVALSHA\r\n$40\r\n{sha}\r\n"
    return "".join([_command(head, keys, argument) for keys, argument in calls]).encode("utf-8", "surrogatepass")


def _command(head: str, keys: list[str], argument: str) -> str:
    texts = "".join([f"${len(text) if text.isascii() else _size(text)}\r\n{text}\r\n" for text in (*keys, argument)])
    return f"*{len(keys) + 4}{head}${len(str(len(keys)))}\r\n{len(keys)}\r\n{texts}"


def _wait(replicas: int) -> bytes:
    count = str(replicas)
    return f"*3\r\n$4\r\nWAIT\r\n${len(count)}\r\n{count}\r\n$1\r\n0\r\n".encode()


def _size(text: str) -> int:
    return len(text.encode("utf-8", "surrogatepass"))


def open_client(url: str) -> Client:
    """Does no I/O. Raises ValueError, without the password, for an address that cannot be used."""
    parts, replicas = _replicas(urlsplit(url))
    retry = Retry(NoBackoff(), 0)
    match parts.scheme:
        case "redis+cluster":
            if replicas:
                raise ValueError("replicas=N is for one server or sentinels: a cluster's nodes are not waited for")
            redirects = Retry(NoBackoff(), _CLUSTER_REDIRECTS)
            return Cluster(RedisCluster.from_url(_plain(parts), retry=redirects, **_OPTIONS))
        case "redis+sentinel":
            return _sentinel(parts, retry, replicas)
        case _:
            return Server(Redis.from_url(parts.geturl(), retry=retry, **_OPTIONS), replicas=replicas)


def _replicas(parts: SplitResult) -> tuple[SplitResult, int]:
    """The address without `replicas`, which is ours and not redis-py's, and its value."""
    query = dict(parse_qsl(parts.query, keep_blank_values=True))
    text = query.pop("replicas", None)
    if text is None:
        return parts, 0
    if len(text) != 1 or text not in _REPLICA_COUNTS:
        raise ValueError("replicas=N is a whole number from 1 to 9")
    return parts._replace(query=urlencode(query)), int(text)


def _plain(parts: SplitResult) -> str:
    """The same address under the scheme that redis-py knows."""
    query = dict(parse_qsl(parts.query))
    scheme = "rediss" if query.pop("tls", "false") == "true" else "redis"
    return parts._replace(scheme=scheme, query=urlencode(query)).geturl()


def _sentinel(parts: SplitResult, retry: Retry, replicas: int) -> Server:
    credentials, _, places = parts.netloc.rpartition("@")
    user, _, password = credentials.partition(":")
    name, _, database = parts.path.strip("/").partition("/")
    if not name:
        raise ValueError("redis+sentinel:// needs the master's name after the hosts: redis+sentinel://host/name")
    query = dict(parse_qsl(parts.query))
    options: dict[str, Any] = {"ssl": query.pop("tls", "false") == "true", **query, **_OPTIONS, "retry": retry}
    sentinels = Sentinel(_hosts(places), sentinel_kwargs=dict(options), **options)  # type: ignore[no-untyped-call]
    master: Redis = sentinels.master_for(name, db=int(database or 0), username=user or None, password=password or None)
    return Server(master, sentinels, replicas=replicas)


def _hosts(places: str) -> list[tuple[str, int]]:
    """`a,b:26380` → both at 26380: a port stands for the hosts before it that have none."""
    hosts: list[tuple[str, int]] = []
    port = _SENTINEL_PORT
    for place in reversed(places.split(",")):
        host, colon, own = place.rpartition(":")
        if colon:
            port = int(own)
        hosts.insert(0, (host if colon else place, port))
    return hosts
