"""The ways to a Redis: TLS, Sentinel with a failover, Cluster. Real servers all."""

import asyncio
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme
from kit.redis_server import RedisServer, free_port, running_redis
from limits_kit import admitted, change, claim, limit, start_well

from xrouter.config.settings import Settings
from xrouter.limits.limit import Claim
from xrouter.limits.memory import MemoryStore
from xrouter.limits.open import open_limits
from xrouter.limits.redis_client import _hosts, open_client
from xrouter.limits.redis_store import RedisStore
from xrouter.limits.store import StoreDown
from xrouter.world import RealWorld

THREE = claim(limit(window_s=60))


def of(url: str, deadline_s: float = 2) -> RedisStore:
    return RedisStore(open_client(url), cluster=url.startswith("redis+cluster:"), deadline_s=deadline_s)


async def started(url: str) -> RedisStore:
    store = of(url)
    await store.start()
    return store


async def test_tls(tmp_path: Path) -> None:
    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1")
    paths = {name: tmp_path / f"{name}.pem" for name in ("ca", "chain", "key")}
    authority.cert_pem.write_to_path(paths["ca"])
    certificate.cert_chain_pems[0].write_to_path(paths["chain"])
    certificate.private_key_pem.write_to_path(paths["key"])
    options = ["--tls-cert-file", str(paths["chain"]), "--tls-key-file", str(paths["key"]), "--tls-auth-clients", "no"]
    options += ["--tls-ca-cert-file", str(paths["ca"])]
    with running_redis(tmp_path, *options, tls=True) as server:
        store = await start_well(of(f"rediss://127.0.0.1:{server.port}/0?ssl_ca_certs={paths['ca']}"))
        assert [await admitted(store, [THREE]) for _ in range(4)] == [True] * 3 + [False]
        await store.aclose()
        stranger = await started(f"rediss://127.0.0.1:{server.port}/0")
        assert stranger.degraded, "a certificate of an unknown authority was accepted"
        await stranger.aclose()


async def test_a_password(tmp_path: Path) -> None:
    with running_redis(tmp_path, "--requirepass", "sesame") as server:
        store = await start_well(of(f"redis://:sesame@127.0.0.1:{server.port}/0"))
        assert await admitted(store, [THREE])
        await store.aclose()
        wrong = await started(f"redis://:wrong@127.0.0.1:{server.port}/0")
        assert wrong.degraded
        with pytest.raises(StoreDown):
            await wrong.admit("r", [THREE])
        await wrong.aclose()


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[list[RedisServer]]:
    """Three masters, each with a third of the slots."""
    nodes = []
    for number in range(3):
        folder = tmp_path / str(number)
        folder.mkdir()
        node = RedisServer(folder, "--cluster-enabled", "yes", "--cluster-node-timeout", "15000", port=cluster_port())
        node.start()
        nodes.append(node)
    addresses = [f"127.0.0.1:{node.port}" for node in nodes]
    subprocess.run(
        ["redis-cli", "--cluster", "create", *addresses, "--cluster-yes"], check=True, stdout=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 20
    while not all("cluster_state:ok" in str(node.client().execute_command("CLUSTER", "INFO")) for node in nodes):
        assert time.monotonic() < deadline, "a node does not know that the cluster is whole"
        time.sleep(0.05)  # redis-cli asks one node only; another refuses its slots until the gossip has reached it
    yield nodes
    for node in nodes:
        node.stop()


def cluster_port() -> int:
    """Below 55536: the nodes talk to each other on a port 10 000 higher."""
    while (port := free_port()) >= 55_536:
        continue
    return port


def elsewhere(name: str, amount: int, tag: str) -> Claim:
    wanted = limit(name=name, amount=amount, window_s=60)
    return Claim(wanted, f"xrl:{{{tag}}}:{name}:s60:k", 1)


async def test_a_cluster(cluster: list[RedisServer]) -> None:
    """Limits of one account are one call; of several subjects several, and still all or none."""
    store = await start_well(of(f"redis+cluster://127.0.0.1:{cluster[0].port}", deadline_s=10))
    assert [await admitted(store, [THREE]) for _ in range(4)] == [True] * 3 + [False]
    tags = ("acme", "ip", "model", "tier")
    wide = [elsewhere("w", 50, tag) for tag in tags]
    narrow = elsewhere("n", 7, "upstream")
    answers = await asyncio.gather(*(admitted(store, [*wide, narrow], f"r{n}") for n in range(40)))
    assert sum(answers) == 7
    looks = await store.admit("look", [Claim(one.limit, one.key, 0) for one in (*wide, narrow)])
    assert [state.remaining for state in looks.states] == [43, 43, 43, 43, 0]
    slot = claim(limit(name="c", kind="concurrency", amount=1, window_s=0), subject="slot")
    decision = await store.admit("r", [wide[0], slot])
    store.settle([change(wide[0], decision, -1), change(slot, decision, -1, 1)])
    assert (await store.admit("s", [slot])).admitted
    assert sum(len(node.client().keys("xrl:*")) > 0 for node in cluster) >= 2
    await store.aclose()


def test_what_is_wrong_with_an_address_is_said() -> None:
    for count in ("0", "10", "-1", "one", ""):
        with pytest.raises(ValueError, match="whole number from 1 to 9"):
            open_client(f"redis://:CANARY@h/0?replicas={count}&x=")
    with pytest.raises(ValueError, match="cluster's nodes are not waited for"):
        open_client("redis+cluster://:CANARY@h?replicas=1")


def test_sentinels_are_named_by_host_and_port() -> None:
    assert _hosts("a") == [("a", 26379)]
    assert _hosts("a,b:5,c:6") == [("a", 5), ("b", 5), ("c", 6)]
    with pytest.raises(ValueError, match="master's name"):
        open_client("redis+sentinel://:CANARY@a,b")


def test_the_configuration_chooses_the_store() -> None:
    plain = Settings(upstreams={}, models={}, filters=())
    assert isinstance(open_limits(plain, RealWorld()), MemoryStore)
    for url in ("redis://h", "redis+sentinel://h/name", "redis+cluster://h"):
        chosen = Settings(upstreams={}, models={}, filters=(), redis=url)
        assert isinstance(open_limits(chosen, RealWorld()), RedisStore)
