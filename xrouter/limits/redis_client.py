"""A Redis client for limits, from the configuration's address.

    redis://[user:password@]host[:port][/database]            one server; rediss:// with TLS
    redis+cluster://[user:password@]host[:port]               any node; the others are found from it
    redis+sentinel://[user:password@]host,host[:port]/name    sentinels of the master `name`

`?tls=true` is TLS for the last two. Other query parameters are redis-py's own (`ssl_ca_certs`, `ssl_certfile`, …).
redis-py's defaults are made for clients that may wait: ten retries, each with a pause, hold a request for seconds while a
server is frozen. Here nothing is retried and nothing waits by itself: deadlines are the caller's.
"""

from typing import Any, Final, Protocol, cast
from urllib.parse import SplitResult, parse_qsl, urlencode, urlsplit

from redis.asyncio import Redis, RedisCluster
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel
from redis.backoff import NoBackoff

_SENTINEL_PORT: Final = 26379
_OPTIONS: Final[dict[str, Any]] = {"socket_timeout": None, "socket_connect_timeout": None, "protocol": 2}
_CLUSTER_REDIRECTS: Final = 2  # a slot may have moved, and then its new node too


class Pipeline(Protocol):
    """What is used of redis-py's pipelines."""

    def execute_command(self, *args: Any) -> Any: ...

    async def execute(self, raise_on_error: bool = True) -> list[Any]: ...


class Client(Protocol):
    """What is used of redis-py's clients."""

    def pipeline(self, transaction: bool = True) -> Pipeline: ...

    async def ping(self) -> Any: ...

    async def script_load(self, script: str) -> Any: ...

    async def aclose(self) -> None: ...


def open_client(url: str) -> Client:
    """Does no I/O. Raises ValueError, without the password, for an address that cannot be used."""
    parts = urlsplit(url)
    retry = Retry(NoBackoff(), 0)
    match parts.scheme:
        case "redis+cluster":
            found: Any = RedisCluster.from_url(_plain(parts), retry=Retry(NoBackoff(), _CLUSTER_REDIRECTS), **_OPTIONS)
        case "redis+sentinel":
            found = _sentinel(parts, retry)
        case _:
            found = Redis.from_url(url, retry=retry, **_OPTIONS)
    return cast(Client, found)


def _plain(parts: SplitResult) -> str:
    """The same address under the scheme that redis-py knows."""
    query = dict(parse_qsl(parts.query))
    scheme = "rediss" if query.pop("tls", "false") == "true" else "redis"
    return parts._replace(scheme=scheme, query=urlencode(query)).geturl()


def _sentinel(parts: SplitResult, retry: Retry) -> Any:
    credentials, _, places = parts.netloc.rpartition("@")
    user, _, password = credentials.partition(":")
    name, _, database = parts.path.strip("/").partition("/")
    if not name:
        raise ValueError("redis+sentinel:// needs the master's name after the hosts: redis+sentinel://host/name")
    query = dict(parse_qsl(parts.query))
    options: dict[str, Any] = {"ssl": query.pop("tls", "false") == "true", **query, **_OPTIONS, "retry": retry}
    sentinels = Sentinel(_hosts(places), sentinel_kwargs=dict(options), **options)  # type: ignore[no-untyped-call]
    return sentinels.master_for(name, db=int(database or 0), username=user or None, password=password or None)


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
