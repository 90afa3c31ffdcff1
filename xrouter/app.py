"""The composition root: one process of the gateway, from a configuration to an ASGI application."""

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine

from xrouter.auth.keyring import KeyRing
from xrouter.catalog import Catalog
from xrouter.chain import build_chain
from xrouter.config.settings import Settings
from xrouter.edge import Edge
from xrouter.errors import StoreUnavailable
from xrouter.filters.base import ASGIApp, Receive, Scope, Send, Services
from xrouter.front.refusal import Refusal
from xrouter.front.start_queue import Reason
from xrouter.ledger.ledger import Ledger
from xrouter.ledger.old_claims import OldClaims
from xrouter.ledger.opening import journal_of, open_ledger, retention_of
from xrouter.ledger.operations import Balance
from xrouter.ledger.transfers import Wish, to_transfer
from xrouter.limits.open import open_limits
from xrouter.limits.store import LimitStore
from xrouter.observe.components import upstream_components
from xrouter.observe.logs import LogWriter
from xrouter.observe.metrics import CONTENT_TYPE, Metrics, ServicesCollector
from xrouter.observe.snapshots import exposition, merge, take
from xrouter.providers.upstreams import Upstream, UpstreamStock
from xrouter.routing.health import Health
from xrouter.routing.probes import Prober
from xrouter.routing.shared_open import open_sharing
from xrouter.running import Prepared, Running
from xrouter.store.accounts import Accounts, AccountView
from xrouter.store.engine import reason
from xrouter.store.migrate import open_store
from xrouter.waiting import until_there
from xrouter.wire import encode_json
from xrouter.workers.fleet import FleetLink
from xrouter.world import RealWorld, World

if TYPE_CHECKING:
    from xrouter.explain.explainer import Question  # imported when somebody asks
    from xrouter.explain.explanation import Explanation
    from xrouter.routing.shared import SharedHealth  # imported for a Redis only

log = logging.getLogger("xrouter.app")

_OWN_PATHS: Final = frozenset({"/metrics", "/health", "/health/live", "/health/ready"})
_STALE_KEYS_S: Final = 15.0  # without word of revoked keys for so long, another replica serves better than this one


class Stopped(Exception):
    """It was told to stop before it had started."""


class Gateway:
    """The ASGI application. The store, the keys, the metrics and the log are the process's; the chain can be swapped."""

    def __init__(self, settings: Settings, *, world: World | None = None, log_writer: LogWriter | None = None) -> None:
        self.settings = settings
        self.world = world or RealWorld()
        self.log_writer = log_writer or LogWriter()
        self.metrics = Metrics()
        self.health = Health(self.world)
        self.draining = False
        self.in_flight = 0  # requests of the data plane
        self.served = 0
        self.fleet: FleetLink | None = None  # who else serves with this process; set by who starts it
        self.on_wait: Callable[[], None] = lambda: None  # called again and again while the start waits for the store
        self._starting: asyncio.Task[None] | None = None
        self._started = asyncio.Event()
        self._engine: AsyncEngine | None = None
        self._keys: KeyRing | None = None
        self._ledger: Ledger | None = None
        self._old_claims: OldClaims | None = None
        self._limits: LimitStore | None = None
        self._sharing: SharedHealth | None = None
        self._running: Running | None = None
        self._prepared: set[Prepared] = set()
        self._closed = False
        self._stock = UpstreamStock(self.world)
        self._closings: set[asyncio.Task[None]] = set()
        self._admin: ASGIApp | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            path = scope["path"]
            if path in _OWN_PATHS or path.startswith("/admin/"):
                await self._answer_for_itself(path, scope, receive, send)
                return
            # The data plane stands here and not in a method of its own: a coroutine's frame, kept by each open stream.
            running = self._running
            assert running is not None
            running.requests += 1
            self.in_flight += 1
            try:
                await running.edge(scope, receive, send)
            finally:
                self.in_flight -= 1
                self.served += 1
                self._leave(running)
        elif scope["type"] == "lifespan":
            await self._lifespan(receive, send)

    async def start(self) -> None:
        """Open the store, which is waited for, and start the parts.

        Raises StoreError, what a filter's start() raises, and Stopped after `drain`.
        """
        if self.draining:
            raise Stopped("the gateway was told to stop")
        self._starting = asyncio.create_task(self._start(), name="start")
        try:
            await self._starting
        except asyncio.CancelledError:
            if self.state != "draining":
                raise
            await self.aclose()
            raise Stopped("the gateway was told to stop before it had started") from None
        self._started.set()

    @property
    def state(self) -> str:
        """As in WorkerState."""
        return "draining" if self.draining else "serving" if self._started.is_set() else "starting"

    def drain(self) -> None:
        """Be ready no more; what is under way goes on, unless it is the start."""
        self.draining = True
        if self._starting is not None:
            self._starting.cancel()  # nothing to one that is done

    async def _start(self) -> None:
        if self.settings.admin.token.reveal():
            self._administration()
        self._engine = await until_there(self._open_store, self.world, self.on_wait)
        self._keys = KeyRing(self._engine, self.world)
        await until_there(self._keys.start, self.world, self.on_wait)
        self._ledger = open_ledger(
            self._engine,
            self.world,
            lease_s=self.settings.ledger.hold_lease_s,
            journal=journal_of(self.settings.ledger),
            retention=retention_of(self.settings.ledger),
        )
        await until_there(self._ledger.start, self.world, self.on_wait)
        self._old_claims = OldClaims(self._engine, self.world)
        self._old_claims.start()
        self._limits = open_limits(self.settings, self.world)
        await self._limits.start()
        self._running = await self._build(self.settings)
        self.health.configure(self._running.health)
        self.health.keep(self._running.services.catalog.places())
        self._sharing = open_sharing(self.settings, self.health, self.world)
        if self._sharing is not None:
            self._sharing.start()
        self._running.prober.start()
        self.metrics.registry.register(self._running.collector)

    async def _open_store(self) -> AsyncEngine:
        return await open_store(self.settings.store, serving=True)

    async def aclose(self) -> None:
        self._closed = True
        for prepared in list(self._prepared):
            await self.drop(prepared)
        if self._running is not None:
            self._running.retired = True
            self._running.requests = 0
            await self._running.close_if_done()
        await asyncio.gather(*self._closings)
        if self._sharing is not None:
            await self._sharing.aclose()
        if self._old_claims is not None:
            await self._old_claims.aclose()
        if self._ledger is not None:
            await self._ledger.aclose()
        if self._limits is not None:
            await self._limits.aclose()
        if self._keys is not None:
            await self._keys.aclose()
        if self._engine is not None:
            await self._engine.dispose()

    async def reload(self, settings: Settings) -> None:
        """Serve new requests by `settings`. Built and started beside the old; if that fails, nothing has changed.

        The store and what belongs to the listener stay as they were started.
        """
        await self.commit(await self.prepare(settings))

    async def prepare(self, settings: Settings) -> Prepared:
        """The first half of a reload: build and start what `settings` say. Raises what a filter's start() raises.

        Asked for while the gateway still starts, it comes right after that.
        """
        await self._started.wait()
        prepared = Prepared(settings, await self._build(settings))
        self._prepared.add(prepared)
        if self._closed:
            await self.drop(prepared)
            raise RuntimeError("the gateway has stopped")
        return prepared

    async def drop(self, prepared: Prepared) -> None:
        """It is not to take over: close it."""
        self._prepared.discard(prepared)
        prepared.running.retired = True
        await prepared.running.close_if_done()

    async def commit(self, prepared: Prepared) -> None:
        """The second half: it takes over, and what began under the old configuration ends under it."""
        self._prepared.discard(prepared)
        old, new = self._running, prepared.running
        self._running, self.settings = new, prepared.settings
        self.health.configure(new.health)
        self.health.keep(new.services.catalog.places())
        new.prober.start()
        if old is not None:
            self.metrics.registry.unregister(old.collector)
        self.metrics.registry.register(new.collector)  # before anything is awaited: another reload may come meanwhile
        if old is not None:
            old.retired = True
            await old.close_if_done()

    async def explain(self, question: "Question") -> "Explanation":
        """What would be done with a request, by the configuration that is in force. Nothing is taken, held or sent."""
        running = self._running
        assert running is not None
        assert self._ledger is not None
        running.requests += 1
        try:
            if running.explainer is None:
                from xrouter.explain.explainer import Explainer

                explainer = Explainer(running.services, self._ledger.look)
                await explainer.start()
                running.explainer = explainer
            return await running.explainer.explain(question)
        finally:
            self._leave(running)

    async def transfer(self, wish: Wish) -> Balance:
        """Move credits by hand. Raises BadRequest, NotFound, Unprocessable and StoreUnavailable."""
        assert self._engine is not None
        assert self._ledger is not None
        try:
            transfer = await to_transfer(self._engine, wish)
        except (SQLAlchemyError, OSError) as error:
            raise StoreUnavailable(detail=reason(error)) from error
        return await self._ledger.transfer(transfer)

    async def account(self, name: str) -> AccountView | None:
        """What an account has. Raises StoreUnavailable."""
        assert self._engine is not None
        try:
            return await Accounts(self._engine).view(name)
        except (SQLAlchemyError, OSError) as error:
            raise StoreUnavailable(detail=reason(error)) from error

    def refused(self, refusal: Refusal) -> None:
        """The front has answered a request that never became one."""
        self.metrics.front_refusals.labels(str(refusal.error.status)).inc()
        self.log_writer.write(
            {
                "ts": round(self.world.now(), 3),
                "level": "info",
                "event": "refusal",
                "request_id": refusal.request_id,
                "status": refusal.error.status,
                "message": refusal.error.message,
                "client": str(refusal.client),
            }
        )

    def shed(self, reason: Reason) -> None:
        """The front has answered a request that there are too many."""
        self.metrics.shed.labels(reason).inc()

    async def _build(self, settings: Settings) -> Running:
        upstreams = self._stock.take(settings.upstreams)
        try:
            return await self._build_around(upstreams, settings)
        except BaseException:
            await self._stock.give_back(upstreams)
            raise

    async def _build_around(self, upstreams: Mapping[str, Upstream], settings: Settings) -> Running:
        assert self._engine is not None
        assert self._keys is not None
        assert self._ledger is not None
        assert self._limits is not None
        services = Services(
            settings=settings,
            world=self.world,
            catalog=Catalog(settings),
            store=self._engine,
            keys=self._keys,
            ledger=self._ledger,
            upstreams=upstreams,
            health=self.health,
            limits=self._limits,
        )
        before = self.health.settings
        try:
            chain = build_chain(settings.filters, services)
            wanted = self.health.settings
        finally:
            self.health.configure(before)  # what the new filters want of it holds from the moment that they serve
        await chain.start()
        prober = Prober(upstreams, services.catalog.places(), self.health, self.world, self._leads)
        edge = Edge(chain, self.world, self.log_writer, self.metrics, settings.server.trusted_proxies)
        collector = ServicesCollector(services, self.log_writer)
        return Running(services, self._stock, chain, edge, collector, wanted, prober)

    async def _answer_for_itself(self, path: str, scope: Scope, receive: Receive, send: Send) -> None:
        """The operator's paths."""
        if path == "/metrics":
            await self._prove()
            await _answer(send, 200, await self._exposition(), CONTENT_TYPE)
        elif path == "/health/live":
            await _answer_json(send, 200, {"status": "ok"})
        elif path == "/health/ready":
            ready = self._ready()
            await _answer_json(send, 200 if ready else 503, {"status": "ready" if ready else "not ready"})
        elif path == "/health":
            components = self._components()
            well = all(component["status"] == "ok" for component in components.values())
            await _answer_json(
                send, 200 if well else 503, {"status": "ok" if well else "degraded", "components": components}
            )
        else:
            await self._administration()(scope, receive, send)

    def _leave(self, running: Running) -> None:
        """A request has ended; the last one of an old configuration closes it."""
        running.requests -= 1
        if running.retired and running.requests == 0:
            closing = asyncio.create_task(running.close_if_done(), name="closing an old configuration")
            self._closings.add(closing)
            closing.add_done_callback(self._closings.discard)

    async def _prove(self) -> None:
        """Look at the ledger's sums for the metric. While the store does not answer, what was seen last stays."""
        assert self._engine is not None
        try:
            self.metrics.ledger_imbalance.set(await Accounts(self._engine).imbalance_nano())
        except (SQLAlchemyError, OSError, TimeoutError) as error:
            log.warning("the ledger's sums cannot be read: %s", reason(error))

    def _administration(self) -> ASGIApp:
        """The operator's API, imported when there is somebody who may use it."""
        if self._admin is None:
            from xrouter.admin.api import create_admin

            self._admin = create_admin(self)
        return self._admin

    async def _exposition(self) -> bytes:
        """The metrics of all processes that serve with this one."""
        others = (await self.fleet.view()).metrics if self.fleet is not None else []
        return exposition(merge([take(self.metrics.registry), *others]))

    def _leads(self) -> bool:
        """Whether this process makes the probes of upstreams."""
        return self._sharing is None or self._sharing.leads

    def _ready(self) -> bool:
        return not self.draining and self._keys is not None and self._keys.lag_s < _STALE_KEYS_S

    def _components(self) -> Mapping[str, dict[str, Any]]:
        assert self._keys is not None
        assert self._running is not None
        store_ok = self._keys.lag_s < _STALE_KEYS_S
        components: dict[str, dict[str, Any]] = {
            "store": {"status": "ok" if store_ok else "unreachable", "lag_s": round(self._keys.lag_s, 3)},
            "serving": {"status": "draining" if self.draining else "ok"},
        }
        components.update(upstream_components(self._running.services.upstreams, self.health, self.world.monotonic()))
        return components

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        await receive()
        if not self._started.is_set():  # else whoever serves it has started it
            try:
                await self.start()
            except Exception as error:
                log.error("cannot start: %s", error)
                await send({"type": "lifespan.startup.failed", "message": str(error)})
                return
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await self.aclose()
        await send({"type": "lifespan.shutdown.complete"})


async def _answer_json(send: Send, status: int, body: Any) -> None:
    await _answer(send, status, encode_json(body), "application/json")


async def _answer(send: Send, status: int, body: bytes, content_type: str) -> None:
    headers = [(b"content-type", content_type.encode()), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": False})
