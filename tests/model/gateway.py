"""The processes of the protocol model: what xrouter/ledger/{ledger,sweeper,journal,billing}.py do, one step at a time.

A step is whatever can happen between two moments at which somebody else can see or kill the process. The faults (`Faults`)
are bounded by how often each may happen; everything else may happen in any order.
"""

from collections.abc import Iterator
from typing import Any

from model.books import REFUSED, UNAVAILABLE, Generation, Op, Result, Rules, Store, jumped, passed, replaced
from model.properties import problems
from model.state import OVER, Faults, Process, Request, State, Sweep

IDLE = Sweep("idle")
Step = tuple[str, State]


class Protocol:
    """The right protocol. mutants.py has wrong ones. `edges`: every change of the store that was seen, if it is a dict."""

    rules_class: type[Rules] = Rules

    def __init__(self, generations: tuple[Generation, ...], faults: Faults, *, balance: int, slots: int = 2) -> None:
        self.generations = generations
        self.faults = faults
        self.opening_balance = balance
        self.slots = slots
        self.incarnations = faults.crash + 1
        self.rules = self.rules_class(generations)
        self.edges: dict[tuple[Store, Any], tuple[Store, Any]] | None = None

    # The model's interface to the explorer

    def initial(self) -> State:
        count = len(self.generations)
        holders = range(self.slots * self.incarnations)
        store = Store(
            balance=self.opening_balance,
            held=0,
            revenue=0,
            promotions=-self.opening_balance,
            holds=(None,) * count,
            charges=((),) * count,
            refunds=(0,) * count,
            leases=tuple("absent" if holder % self.incarnations else "valid" for holder in holders),
        )
        return State(
            store=store,
            up=True,
            processes=(Process("up", kept=True),) * self.slots,
            requests=(Request("new"),) * count,
            journals=((),) * len(holders),
            left=self.faults,
        )

    def steps(self, state: State) -> Iterator[Step]:
        for p, process in enumerate(state.processes):
            if process.mode in ("up", "starting"):
                yield from self.commits(state, p)
                yield from self.sweeps(state, p)
            yield from self.lives(state, p)
        for g, request in enumerate(state.requests):
            if request.stage not in OVER and state.processes[self.generations[g].home].mode == "up":
                yield from self.serves(state, g, request)
        yield from self.weather(state)
        yield from self.people(state)

    # Committing

    def commits(self, state: State, p: int) -> Iterator[Step]:
        process, left = state.processes[p], state.left
        for size in range(1, len(process.pending) + 1):
            batch = process.pending[:size]
            names = f"p{p} commits {' '.join(f'{op.kind}:{op.generation}' for op in batch)}"
            waiting = state.with_process(p, process._replace(pending=process.pending[size:]))
            failed = (UNAVAILABLE,) * size
            if not state.up:
                yield f"{names}, the store is away", self.told(waiting, p, batch, failed)
                continue
            after, results, broken = self.committed(state, p, batch)
            done = waiting._replace(store=after, broken=broken)
            yield names, self.told(done, p, batch, results)
            if left.fail:
                spent = waiting._replace(left=left._replace(fail=left.fail - 1))
                yield f"{names}, which fails", self.told(spent, p, batch, failed)
            if left.lost:
                spent = done._replace(left=left._replace(lost=left.lost - 1))
                yield f"{names}, and the answer is lost", self.told(spent, p, batch, failed)

    def committed(self, state: State, p: int, batch: tuple[Op, ...]) -> tuple[Store, tuple[Result, ...], str]:
        before, holder = state.store, self.holder(state, p)
        after, results = self.rules.commit(before, batch, holder)
        if self.edges is not None:
            plain = tuple(op._replace(asker="", seen=0) for op in batch)
            self.edges[before, (plain, holder)] = (after, results)
        return after, results, self.expired_alive(state, p, before, after)

    def expired_alive(self, state: State, p: int, before: Store, after: Store) -> str:
        """F20 and I5: a sweep ends no hold of a process that runs and has renewed its lease."""
        for g, (old, new) in enumerate(zip(before.holds, after.holds, strict=True)):
            if old is not None and new is not None and new.state == "expired" and old.state == "open":
                slot, incarnation = divmod(old.holder, self.incarnations)
                process = state.processes[slot]
                living = process.mode == "up" and process.incarnation == incarnation and process.kept
                if living and not self.is_known_limit(state, p, process):
                    return f"the hold of {g} expires under a living process"
        return state.broken

    def is_known_limit(self, state: State, p: int, living: Process) -> bool:
        """A process that has just come does not know that the clock was set, or that the store was away: it expires what the
        living, who do know, have not renewed yet."""
        return living.quiet and (state.processes[p].mode == "starting" or not state.processes[p].quiet)

    def holder(self, state: State, p: int) -> int:
        return p * self.incarnations + state.processes[p].incarnation

    def told(self, state: State, p: int, batch: tuple[Op, ...], results: tuple[Result, ...]) -> State:
        for op, result in zip(batch, results, strict=True):
            match op.asker:
                case "request":
                    state = self.request_told(state, p, op, result)
                case "undo":
                    if result == UNAVAILABLE:
                        state = self.put_off(state, p, op)
                case "sweep":
                    state = self.sweep_told(state, p, result)
                case "client":
                    state = state._replace(granted=state.granted or result != UNAVAILABLE)
        return state

    # Requests

    def serves(self, state: State, g: int, request: Request) -> Iterator[Step]:
        spec, p = self.generations[g], self.generations[g].home
        match request.stage:
            case "new":
                opening = Op("open", g, asker="request", seen=state.store.left)
                yield f"{g} arrives", self.asks(state, p, opening).at(g, stage="opening")
            case "opening" if request.attended and spec.leaves:
                yield f"{g}'s client leaves", state.at(g, attended=False)
            case "running":
                cost = spec.cost if request.extended or not spec.more else spec.wanted
                yield f"{g} is complete", self.settles(state, g, cost)
                if spec.fails:
                    yield f"{g}'s upstream fails", self.settles(state, g, 0)
                    yield f"{g} is refused by a filter", self.released(state, g)
                if spec.leaves:
                    yield f"{g}'s client leaves", self.settles(state.at(g, attended=False), g, spec.partial)
                if spec.more and not request.extended:
                    extend = Op("extend", g, spec.more, "request")
                    yield f"{g} outgrows its hold", self.asks(state, p, extend).at(g, stage="extending", extended=True)
            case "extending" if spec.leaves:
                yield f"{g}'s client leaves", self.settles(state.at(g, attended=False), g, spec.partial)
            case "settling" if request.attended and spec.leaves:
                yield f"{g}'s client leaves", state.at(g, attended=False)
            case "failing":
                yield f"{g} is settled again", self.settles(state, g, request.cost)
                yield f"{g} goes to the journal", self.journaled(state, g)
                if state.left.disk:
                    yield f"{g} finds the disk full", self.unjournaled(state, g)
            case "settled":
                yield f"{g}'s last byte leaves", state.at(g, stage="finished")

    def settles(self, state: State, g: int, cost: int) -> State:
        settle = Op("settle", g, cost, "request")
        return self.asks(state, self.generations[g].home, settle).at(g, stage="settling", cost=cost, due=True)

    def released(self, state: State, g: int) -> State:
        return self.asks(state, self.generations[g].home, Op("release", g, asker="undo")).at(g, stage="ended")

    def journaled(self, state: State, g: int) -> State:
        request, holder = state.requests[g], self.holder(state, self.generations[g].home)
        journal = (*state.journals[holder], (g, request.cost))
        state = state._replace(journals=replaced(state.journals, holder, journal))
        return state.at(g, stage="settled" if request.attended else "ended")

    def unjournaled(self, state: State, g: int) -> State:
        """Nothing can keep it: what the client has a part of is settled later, of the other the hold is released."""
        request, spec = state.requests[g], self.generations[g]
        state = state._replace(left=state.left._replace(disk=state.left.disk - 1))
        later = Op("settle", g, request.cost) if spec.streamed else Op("release", g)
        return self.put_off(state, spec.home, later).at(g, stage="ended", due=spec.streamed)

    def request_told(self, state: State, p: int, op: Op, result: Result) -> State:
        g, request, spec = op.generation, state.requests[op.generation], self.generations[op.generation]
        match op.kind, request.stage:
            case "open", "opening":
                if result == REFUSED:
                    return state.at(g, stage="ended")
                if result == UNAVAILABLE or not request.attended:
                    state = self.undone(state, p, g)
                    goes_on = spec.allow and request.attended and result == UNAVAILABLE
                    return state.at(g, stage="running" if goes_on else "ended")
                return state.at(g, stage="running")
            case "extend", "extending":
                if result == REFUSED:  # the credits are used up: what was sent is charged
                    return self.settles(state, g, spec.wanted)
                return state.at(g, stage="running")
            case "settle", "settling":
                if result == UNAVAILABLE:
                    return state.at(g, stage="failing")
                return state.at(g, stage="settled" if request.attended else "ended")
        return state

    def undone(self, state: State, p: int, g: int) -> State:
        return self.asks(state, p, Op("release", g, asker="undo"))

    def asks(self, state: State, p: int, op: Op) -> State:
        process = state.processes[p]
        return state.with_process(p, process._replace(pending=(*process.pending, op)))

    def put_off(self, state: State, p: int, op: Op) -> State:
        process = state.processes[p]
        return state.with_process(p, process._replace(put_off=(*process.put_off, op._replace(asker=""))))

    # The sweeper

    def sweeps(self, state: State, p: int) -> Iterator[Step]:
        process = state.processes[p]
        sweep = process.sweep
        match sweep.stage:
            case "idle":
                if process.mode == "starting" or self.has_work(state, p):
                    yield f"p{p} sweeps", self.sweeping(state, p, Sweep("renew"), Op("renew", asker="sweep"))
            case "recover":
                for file in self.readable(state, p):
                    yield (
                        f"p{p} reads journal {file}",
                        self.settles_page(state, p, Sweep("page", file, state.journals[file])),
                    )
                if not any(True for _ in self.readable(state, p)):  # another was quicker
                    yield f"p{p} finds no journal left", self.catches_up(state, p)
            case "away":
                yield f"p{p} puts journal {sweep.file} away", self.catches_up(self.put_away(state, p, sweep), p)

    def has_work(self, state: State, p: int) -> bool:
        """Other sweeps change nothing: they are left out."""
        return (
            bool(state.processes[p].put_off)
            or any(True for _ in self.readable(state, p))
            or any(lease in ("lapsed", "far") for lease in state.store.leases)
            or state.store.leases[self.holder(state, p)] != "valid"
            or any(hold is not None and hold.old for hold in state.store.holds)
        )

    def readable(self, state: State, p: int) -> Iterator[int]:
        for file, journal in enumerate(state.journals):
            if journal and (file == self.holder(state, p) or not self.locked(state, file)):
                yield file

    def locked(self, state: State, file: int) -> bool:
        slot, incarnation = divmod(file, self.incarnations)
        owner = state.processes[slot]
        if owner.mode != "dead" and owner.incarnation == incarnation:
            return True
        return any(process.sweep.file == file for process in state.processes)

    def settles_page(self, state: State, p: int, sweep: Sweep) -> State:
        g, cost = sweep.page[sweep.at]
        return self.sweeping(state, p, sweep, Op("settle", g, cost, "sweep"))

    def sweeping(self, state: State, p: int, sweep: Sweep, op: Op) -> State:
        return self.asks(state.with_process(p, state.processes[p]._replace(sweep=sweep)), p, op)

    def sweep_told(self, state: State, p: int, result: Result) -> State:
        process = state.processes[p]
        if result == UNAVAILABLE:
            return state.with_process(p, process._replace(sweep=IDLE, quiet=process.mode == "up"))
        sweep = process.sweep
        match sweep.stage:
            case "renew":
                state = state.with_process(p, process._replace(sweep=Sweep("recover"), kept=True))
                return state if any(True for _ in self.readable(state, p)) else self.catches_up(state, p)
            case "page":
                if sweep.at + 1 < len(sweep.page):
                    return self.settles_page(state, p, sweep._replace(at=sweep.at + 1))
                return state.with_process(p, process._replace(sweep=sweep._replace(stage="away")))
            case "catch up":
                caught = state.with_process(p, process._replace(put_off=process.put_off[1:]))
                return self.catches_up(caught, p)
            case _:
                return state.with_process(p, process._replace(sweep=IDLE, mode="up"))

    def put_away(self, state: State, p: int, sweep: Sweep) -> State:
        """A dead process's file goes, one's own is emptied unless something was added meanwhile."""
        if sweep.file == self.holder(state, p) and state.journals[sweep.file] != sweep.page:
            return state
        return state._replace(journals=replaced(state.journals, sweep.file, ()))

    def catches_up(self, state: State, p: int) -> State:
        process = state.processes[p]
        if process.put_off:
            return self.sweeping(state, p, Sweep("catch up"), process.put_off[0]._replace(asker="sweep"))
        if self.holds_still(process):
            return state.with_process(p, process._replace(sweep=IDLE))
        return self.sweeping(state, p, Sweep("expire"), Op("expire", asker="sweep"))

    def holds_still(self, process: Process) -> bool:
        """The clock was set, or the store was away: nothing expires until all had the time to renew their leases."""
        return process.mode == "up" and process.quiet

    # What happens to processes, to the store and to time

    def lives(self, state: State, p: int) -> Iterator[Step]:
        process, left = state.processes[p], state.left
        match process.mode:
            case "dead":
                born = Process("starting", process.incarnation + 1)
                yield f"p{p} starts again", state.with_process(p, born)
                return
            case "up" if left.pause:
                paused = process._replace(mode="paused", kept=False)
                yield (
                    f"p{p} is stopped",
                    state.with_process(p, paused)._replace(left=left._replace(pause=left.pause - 1)),
                )
            case "paused":
                yield f"p{p} goes on", state.with_process(p, process._replace(mode="up"))
        if left.crash:
            dead = state.with_process(p, Process("dead", process.incarnation))
            for g, request in enumerate(state.requests):
                if self.generations[g].home == p and request.stage not in ("new", *OVER):
                    dead = dead.at(g, stage="gone")
            yield f"p{p} is killed", dead._replace(left=left._replace(crash=left.crash - 1))

    def weather(self, state: State) -> Iterator[Step]:
        left = state.left
        if not state.up:
            yield "the store is back", state._replace(up=True)
        elif left.outage:
            yield "the store goes away", state._replace(up=False, left=left._replace(outage=left.outage - 1))
        if self.time_matters(state):
            after = self.a_lease_passes(state)
            if after != state:
                yield "a lease passes", after
        if left.jump and all(process.sweep.stage != "expire" for process in state.processes):
            for forward in (True, False):
                store = jumped(state.store, forward)
                self.note(state.store, ("jump", forward), store)
                processes = tuple(process._replace(quiet=process.mode != "dead") for process in state.processes)
                yield (
                    f"the clock is set {'forward' if forward else 'back'}",
                    state._replace(store=store, processes=processes, left=left._replace(jump=left.jump - 1)),
                )

    def time_matters(self, state: State) -> bool:
        """Whether something was held up. In an outage, whatever was asked has failed long before a lease is over."""
        if not state.up:
            return not any(process.mode == "up" and process.pending for process in state.processes)
        left, faults = state.left, self.faults
        return (left.pause, left.crash, left.jump) != (faults.pause, faults.crash, faults.jump)

    def a_lease_passes(self, state: State) -> State:
        """Each process that runs has renewed its own meanwhile, four times over, or has seen that the store is away."""
        running = tuple(p for p, process in enumerate(state.processes) if process.mode == "up")
        renewed = tuple(self.holder(state, p) for p in running) if state.up else ()
        store = passed(state.store, renewed)
        self.note(state.store, ("pass", renewed), store)
        processes = tuple(
            process._replace(
                kept=p in running and (state.up or process.kept),
                quiet=not state.up if p in running else process.quiet,
            )
            for p, process in enumerate(state.processes)
        )
        return state._replace(store=store, processes=processes)

    def people(self, state: State) -> Iterator[Step]:
        """A client asks for one grant until he is told that it is done; an operator refunds."""
        left = state.left
        running = [p for p, process in enumerate(state.processes) if process.mode == "up"]
        if left.grant and not state.granted and running:
            spent = state._replace(left=left._replace(grant=left.grant - 1))
            for p in running:
                yield f"the grant is asked of p{p}", self.asks(spent, p, Op("grant", asker="client"))
        if left.refund and running:
            spent = state._replace(left=left._replace(refund=left.refund - 1))
            yield "0 is refunded", self.asks(spent, running[0], Op("refund", 0, 2))

    def note(self, before: Store, event: Any, after: Store) -> None:
        if self.edges is not None:
            self.edges[before, event] = (after, ())

    # Properties

    def problem(self, state: State) -> str | None:
        return next(problems(state, self.generations, self.opening_balance), None)

    def quiescent(self, state: State) -> bool:
        return (
            state.up
            and all(hold is None or hold.state != "open" for hold in state.store.holds)
            and not any(state.journals)
            and all(
                not process.pending and not process.put_off and process.sweep == IDLE for process in state.processes
            )
            and all(request.stage in ("new", *OVER) for request in state.requests)
        )
