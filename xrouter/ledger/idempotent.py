"""Inference requests under an `Idempotency-Key`: each is charged at most once, whatever is sent again, crashes or is lost.

Why that is so. A name's claim (`xrouter.store.idempotent_requests`) holds one generation's id, and a request settles its own
generation only. So a name is charged twice only if its claim has passed on from a generation that is charged. It passes on
in three ways:

1. The process that ran it gives it up. It does so only after the generation's end is known and nothing was charged, or the
   hold was released, after which nothing settles it.
2. It is found settled for nothing. A generation settles once (the ledger's own rule): a later settlement of it, of a
   journal or of a process that was only slow, changes nothing.
3. Its process is gone. It is then settled here, for nothing, and looked at again. If it had been charged before, that
   settlement changes nothing and the claim stays; if not, this is case 2, and its own settlement, should there be one, comes
   too late.

A day after it was taken a claim is forgotten (`xrouter.ledger.old_claims`).
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from hashlib import sha256
from typing import Any, Final

from msgspec import Struct, json
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine

from xrouter.auth import sealing
from xrouter.errors import Conflict, StoreUnavailable, Unprocessable
from xrouter.ledger.ledger import Ledger
from xrouter.ledger.operations import Settlement
from xrouter.secret import Secret
from xrouter.store.engine import reason
from xrouter.store.idempotent_requests import Claim, Claims, Taken
from xrouter.world import World

_log = logging.getLogger(__name__)
_LOOKS: Final = 4  # a claim that others take as often as that is under way
_RETRY_AFTER_S: Final = 1.0
_STORE_ERRORS: Final = (SQLAlchemyError, OSError, TimeoutError)


class KeptAnswer(Struct, frozen=True):
    """A whole answer: what its client was sent. `headers` are those that the answer alone determines."""

    generation_id: str
    headers: list[tuple[str, str]]
    body: bytes


class IdempotentRequests:
    """Of one process and configuration. `aclose()` ends what is still being tried."""

    def __init__(self, engine: AsyncEngine, ledger: Ledger, world: World) -> None:
        self._claims = Claims(engine)
        self._ledger = ledger
        self._world = world
        self._tasks: set[asyncio.Task[None]] = set()

    async def aclose(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._claims.aclose()

    def claim(self, owner: str, name: str, request: bytes, generation_id: str) -> Claim:
        """What is to be taken. `request`: all that makes another request another one."""
        return Claim(
            owner=owner,
            name_digest=sha256(name.encode()).hexdigest(),
            request_digest=sha256(request).hexdigest(),
            generation_id=generation_id,
            holder=self._ledger.holder,
            created_at_us=self._now_us(),
        )

    async def take(self, claim: Claim, void: Callable[[str], Settlement]) -> str | None:
        """Take the claim: None. Or the sealed answer of the request that had it, which has ended.

        `void`: a settlement for nothing of the generation with this id. Raises Conflict while it runs, or if its answer is
        not kept; Unprocessable if it was another request; StoreUnavailable.
        """
        try:
            return await self._take(claim, void)
        except (asyncio.CancelledError, StoreUnavailable):
            self._own(self._until_given_up(claim, None))  # the commit may have come through; nothing runs under it
            raise

    async def _take(self, claim: Claim, void: Callable[[str], Settlement]) -> str | None:
        for _ in range(_LOOKS):
            taken = await self._reach(self._claims.take(claim))
            if taken is None:
                return None
            if taken.request_digest != claim.request_digest:
                raise Unprocessable("This Idempotency-Key was used for another request")
            if taken.sealed is not None:
                return taken.sealed
            if taken.settled:
                raise _done(taken)
            if taken.holder_lives:
                break
            await self._ledger.settle(void(taken.generation_id), delivered=False)
        raise Conflict("A request with this Idempotency-Key is under way", retry_after_s=_RETRY_AFTER_S)

    async def keep(self, claim: Claim, answer: KeptAnswer, credential: Secret, name: str) -> None:
        """Keep an answer, sealed. If the store fails it is not kept, and the request goes on.

        A caller who is cancelled cancels only his own waiting.
        """
        await asyncio.shield(self._own(self._keep(claim, answer, credential, name)))

    async def give_up(self, claim: Claim) -> None:
        """The generation is charged nothing, for certain: the name is free again. While the store fails, that is put off."""
        await asyncio.shield(self._own(self._give_up(claim)))

    def settle_doubt(self, claim: Claim, void: Settlement) -> None:
        """Whether the generation was charged is unknown, and its client was told that it failed: make it known, in time."""
        self._own(self._until_given_up(claim, void))

    async def _keep(self, claim: Claim, answer: KeptAnswer, credential: Secret, name: str) -> None:
        sealed = await asyncio.to_thread(_seal, answer, credential, name)
        try:
            await self._claims.keep_answer(claim, sealed)
        except _STORE_ERRORS as error:
            _log.warning("the answer of %s is not kept: %s", claim.generation_id, reason(error))

    async def _give_up(self, claim: Claim) -> None:
        if not await self._given_up(claim, None):
            self._own(self._until_given_up(claim, None))

    async def _until_given_up(self, claim: Claim, void: Settlement | None) -> None:
        while not await self._given_up(claim, void):
            await self._world.sleep(_RETRY_AFTER_S)

    async def _given_up(self, claim: Claim, void: Settlement | None) -> bool:
        """One try. With `void` the generation is settled for nothing first, unless it is settled already."""
        try:
            if void is None:
                await self._claims.give_up(claim)
            else:
                await self._ledger.settle(void, delivered=False)
                await self._claims.give_up_if_free(claim)
        except (*_STORE_ERRORS, StoreUnavailable) as error:
            _log.warning("a claim of %s is given up later: %s", claim.generation_id, type(error).__name__)
            return False
        return True

    async def _reach(self, work: Awaitable[Taken | None]) -> Taken | None:
        try:
            return await work
        except _STORE_ERRORS as error:
            raise StoreUnavailable(retry_after_s=_RETRY_AFTER_S, detail=f"idempotency: {reason(error)}") from error

    def _own(self, work: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _now_us(self) -> int:
        return int(self._world.now() * 1e6)


def unsealed(sealed: str, credential: Secret, name: str) -> KeptAnswer:
    """Raises Unprocessable if it was sealed for another credential."""
    opened = sealing.unseal(sealed, sealing.sealing_key(credential, name))
    if opened is None:
        raise Unprocessable("This Idempotency-Key was used with another credential")
    return json.decode(opened.reveal(), type=KeptAnswer)


def _seal(answer: KeptAnswer, credential: Secret, name: str) -> str:
    return sealing.seal(Secret(json.encode(answer).decode()), sealing.sealing_key(credential, name))


def _done(taken: Taken) -> Conflict:
    return Conflict(
        f"The request with this Idempotency-Key is done, as generation {taken.generation_id}; its answer is not kept",
        metadata={"generation_id": taken.generation_id},
    )
