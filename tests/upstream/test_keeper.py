"""The token keeper: one fetch for any burst, renewal in time, a refused token replaced once, no caller in charge."""

import asyncio
from collections.abc import Callable

import pytest
from hand_clock import HandClock, settle
from kit.cancel import cancel_at_every_await

from xrouter.errors import ShuttingDown, UpstreamAuthError, UpstreamError, UpstreamProtocolError, UpstreamUnreachable
from xrouter.upstream.base import Headers, UpstreamAnswer, UpstreamRequest
from xrouter.upstream.keeper import TokenKeeper
from xrouter.upstream.signin import SignIn, Token, TokenFlow


class Flow:
    """Tokens that live 100 s and are renewed 10 s before their end, unless the body says `value lifetime`."""

    def request(self) -> UpstreamRequest:
        return UpstreamRequest("POST", "http://auth/")

    def token(self, answer: UpstreamAnswer) -> Token:
        if answer.status == 401:
            raise UpstreamAuthError(detail="credentials doesn't match db data")
        value, _, lifetime = answer.body.decode().partition(" ")
        return Token(value, float(lifetime or 100), 10)

    def headers(self, token: str) -> Headers:
        return ((b"authorization", b"Bearer " + token.encode()),)


class Provider:
    """Answers token requests when told to."""

    def __init__(self) -> None:
        self.calls = 0
        self.answers: list[asyncio.Future[UpstreamAnswer]] = []

    async def fetch(self, request: UpstreamRequest) -> UpstreamAnswer:
        self.calls += 1
        answer: asyncio.Future[UpstreamAnswer] = asyncio.get_running_loop().create_future()
        self.answers.append(answer)
        return await answer

    async def give(self, body: str, status: int = 200) -> None:
        await settle()
        self.answers.pop(0).set_result(UpstreamAnswer(status, (), body.encode()))
        await settle()

    async def fail(self, error: Exception) -> None:
        await settle()
        self.answers.pop(0).set_exception(error)
        await settle()


class Scene:
    def __init__(self) -> None:
        self.clock = HandClock()
        self.provider = Provider()
        self.keeper = TokenKeeper(Flow(), self.provider.fetch, self.clock)

    def ask(self, times: int = 1) -> list["asyncio.Task[Headers]"]:
        return [asyncio.create_task(self.keeper.headers()) for _ in range(times)]

    async def signed(self, body: str = "t1") -> Headers:
        (task,) = self.ask()
        await self.provider.give(body)
        return await task


def bearer(token: str) -> Headers:
    return ((b"authorization", b"Bearer " + token.encode()),)


@pytest.fixture
async def scene() -> Scene:
    return Scene()


def test_a_flow_is_told_from_a_sign_in() -> None:
    assert isinstance(Flow(), TokenFlow)
    keeper: SignIn = TokenKeeper(Flow(), Provider().fetch, HandClock())
    assert not isinstance(keeper, TokenFlow)


async def test_one_fetch_for_a_burst(scene: Scene) -> None:
    tasks = scene.ask(100)
    await scene.provider.give("t1")
    assert set(await asyncio.gather(*tasks)) == {bearer("t1")}
    assert await scene.keeper.headers() == bearer("t1")
    assert scene.provider.calls == 1


async def test_renewed_in_the_background_before_its_end(scene: Scene) -> None:
    await scene.signed()
    await scene.clock.advance(89)
    assert await scene.keeper.headers() == bearer("t1")
    assert scene.provider.calls == 1
    await scene.clock.advance(2)
    for _ in range(10):
        assert await scene.keeper.headers() == bearer("t1")
    await settle()
    assert scene.provider.calls == 2
    await scene.provider.give("t2")
    assert await scene.keeper.headers() == bearer("t2")


async def test_expired_token_is_never_handed_out(scene: Scene) -> None:
    await scene.signed()
    await scene.clock.advance(100)
    (task,) = scene.ask()
    await settle()
    assert not task.done()
    await scene.provider.give("t2")
    assert await task == bearer("t2")


async def test_renewal_that_fails_leaves_the_old_one_in_use(scene: Scene) -> None:
    await scene.signed()
    await scene.clock.advance(95)
    assert await scene.keeper.headers() == bearer("t1")
    await scene.provider.fail(UpstreamUnreachable())
    for _ in range(10):
        assert await scene.keeper.headers() == bearer("t1")
    await settle()
    assert scene.provider.calls == 2  # not one for each call
    await scene.clock.advance(1.5)
    assert await scene.keeper.headers() == bearer("t1")
    await scene.provider.give("t2")
    assert await scene.keeper.headers() == bearer("t2")


async def test_renewal_that_fails_until_the_end(scene: Scene) -> None:
    await scene.signed()
    await scene.clock.advance(99.5)
    await scene.keeper.headers()
    await scene.provider.fail(UpstreamUnreachable())
    await scene.clock.advance(0.6)
    with pytest.raises(UpstreamUnreachable):
        await scene.keeper.headers()


async def test_failed_fetch_wakes_everyone_and_is_not_repeated_in_a_loop(scene: Scene) -> None:
    tasks = scene.ask(50)
    await scene.provider.give("", 401)
    errors = await asyncio.gather(*tasks, return_exceptions=True)
    assert {type(error) for error in errors} == {UpstreamAuthError}
    assert len({id(error) for error in errors}) == 50
    for _ in range(20):  # the rest of a burst with wrong credentials
        with pytest.raises(UpstreamAuthError) as caught:
            await scene.keeper.headers()
        assert caught.value.detail == "credentials doesn't match db data"
    assert scene.provider.calls == 1
    await scene.clock.advance(1.1)
    assert await scene.signed("t1") == bearer("t1")
    assert scene.provider.calls == 2


@pytest.mark.parametrize(
    "spoil",
    [lambda provider: provider.give("t1 0"), lambda provider: provider.give("t1 -5")],
    ids=["no life", "negative life"],
)
async def test_token_that_is_dead_on_arrival(scene: Scene, spoil: Callable[[Provider], object]) -> None:
    (task,) = scene.ask()
    await spoil(scene.provider)  # type: ignore[misc]
    with pytest.raises(UpstreamProtocolError):
        await task


async def test_broken_flow_does_not_hang_its_callers(scene: Scene) -> None:
    tasks = scene.ask(3)
    await scene.provider.give("t1 soon")
    assert {type(error) for error in await asyncio.gather(*tasks, return_exceptions=True)} == {ValueError}


async def test_token_shorter_than_its_margin_is_not_renewed_at_every_call(scene: Scene) -> None:
    await scene.signed("t1 4")
    for _ in range(10):
        await scene.keeper.headers()
    await settle()
    assert scene.provider.calls == 1
    await scene.clock.advance(2.1)
    await scene.keeper.headers()
    await settle()
    assert scene.provider.calls == 2


# Refused tokens.


async def test_refused_token_is_replaced_once_in_a_storm(scene: Scene) -> None:
    old = await scene.signed()
    assert all(scene.keeper.refused(old) for _ in range(50))
    tasks = scene.ask(50)
    await scene.provider.give("t2")
    assert set(await asyncio.gather(*tasks)) == {bearer("t2")}
    assert scene.provider.calls == 2


async def test_late_refusal_of_a_replaced_token(scene: Scene) -> None:
    old = await scene.signed()
    assert scene.keeper.refused(old)
    await scene.signed("t2")
    assert scene.keeper.refused(old)  # trying again helps: there is another token
    assert await scene.keeper.headers() == bearer("t2")
    assert scene.provider.calls == 2


async def test_same_token_after_a_refusal_ends_the_attempts(scene: Scene) -> None:
    assert scene.keeper.refused(await scene.signed())
    await scene.clock.advance(5)
    again = await scene.signed("t1")
    assert not scene.keeper.refused(again)
    await scene.clock.advance(5)
    assert not scene.keeper.refused(again)
    assert scene.provider.calls == 2


async def test_same_token_that_was_taken_after_a_refusal_may_be_refused_again(scene: Scene) -> None:
    assert scene.keeper.refused(await scene.signed())
    again = await scene.signed("t1")
    scene.keeper.accepted(again)
    assert scene.keeper.refused(again)


async def test_a_replaced_token_that_is_taken_late_tells_nothing_of_the_new_one(scene: Scene) -> None:
    old = await scene.signed()
    assert scene.keeper.refused(old)
    new = await scene.signed("t2")
    scene.keeper.accepted(old)
    assert not scene.keeper.refused(new)


async def test_upstream_that_refuses_every_token(scene: Scene) -> None:
    """Each fetch gives another token and each is refused: one fetch a second, not one for each request."""
    headers = await scene.signed("t1")
    fetched = 1
    for number in range(100):
        await scene.clock.advance(0.1)
        if scene.keeper.refused(headers):
            headers = await scene.signed(f"x{number}")
            fetched += 1
    assert fetched <= 12


# Cancellation and the end.


async def test_cancelled_waiter_does_not_cancel_the_fetch(scene: Scene) -> None:
    first, second = scene.ask(2)
    await settle()
    first.cancel()
    await settle()
    assert first.cancelled()
    await scene.provider.give("t1")
    assert await second == bearer("t1")
    assert scene.provider.calls == 1


async def test_fetch_goes_on_when_everyone_has_left(scene: Scene) -> None:
    tasks = scene.ask(3)
    await settle()
    for task in tasks:
        task.cancel()
    await scene.provider.give("t1")
    assert await scene.keeper.headers() == bearer("t1")
    assert scene.provider.calls == 1


@pytest.mark.parametrize("late", [False, True])
async def test_cancelled_at_every_await(late: bool) -> None:
    scenes: list[Scene] = []

    async def call() -> None:
        scene = Scene()
        scenes.append(scene)
        asyncio.get_running_loop().call_later(0.001, lambda: asyncio.ensure_future(scene.provider.give("t1")))
        await scene.keeper.headers()

    async def check() -> None:
        assert await scenes[-1].keeper.headers() == bearer("t1")
        assert scenes[-1].provider.calls == 1

    assert await cancel_at_every_await(call, check, late=late) >= 1


async def test_closing_stops_the_fetch(scene: Scene) -> None:
    tasks = scene.ask(3)
    await settle()
    await scene.keeper.aclose()
    await scene.keeper.aclose()
    assert {type(error) for error in await asyncio.gather(*tasks, return_exceptions=True)} == {ShuttingDown}
    with pytest.raises(ShuttingDown):
        await scene.keeper.headers()
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_closed_keeper_still_signs_what_is_under_way(scene: Scene) -> None:
    await scene.signed()
    await scene.keeper.aclose()
    await scene.clock.advance(95)
    assert await scene.keeper.headers() == bearer("t1")


def test_errors_are_copied_whole() -> None:
    from xrouter.upstream.keeper import _copy

    error = UpstreamError("m", status=503, type="t", retry=False, upstream_status=500, retry_after_s=2, detail="d")
    copied = _copy(error)
    assert copied is not error
    assert vars(copied) == vars(error)
    assert str(copied) == "m"
