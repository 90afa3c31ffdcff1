"""GigaChat through real sockets: the provider and the upstream engine against the sandbox's emulator.

Numbers are those of the sheet's section 15. What only the whole gateway shows is in tests of the whole gateway.
"""

import asyncio
import base64
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
from gigachat_kit import calls, finish, image, png, said, settings, thought, tool, tool_call, translator
from kit.runs import alone

from xrouter.errors import UpstreamAuthError, UpstreamError, UpstreamProtocolError, XRouterError
from xrouter.events import Embedding, Event
from xrouter.providers.base import Translator
from xrouter.providers.gigachat import GigaChat
from xrouter.sandbox.credentials import SANDBOX_GIGACHAT_KEYS, SANDBOX_GIGACHAT_PASSWORD, SANDBOX_GIGACHAT_USER
from xrouter.sandbox.running import Sandbox, running_sandbox
from xrouter.secret import Secret
from xrouter.upstream.base import UpstreamResponse, read_whole
from xrouter.upstream.caller import Caller
from xrouter.world import RealWorld

KEYS = {scope: key for key, scope in SANDBOX_GIGACHAT_KEYS.items()}
PERSON, COMPANY = "GIGACHAT_API_PERS", "GIGACHAT_API_CORP"


@pytest.fixture(scope="module")
def module_sandbox() -> Iterator[Sandbox]:
    with running_sandbox() as sandbox:
        yield sandbox


@pytest.fixture
def sandbox(module_sandbox: Sandbox) -> Sandbox:
    module_sandbox.state.reset()
    return module_sandbox


class Upstream:
    """One configured GigaChat with its connections. `ask` does what the dispatch does with one call.

    It reads to the body's end although the answer is complete before: the provider frees a person's one place then, and
    the sandbox a turn of its own loop later, which is waited for.
    """

    def __init__(self, sandbox: Sandbox, scope: str, **config: Any) -> None:
        if "user" not in config:
            config.setdefault("credentials", Secret(KEYS[scope]))
        made = GigaChat.Config(
            provider="gigachat",
            base_url=sandbox.gigachat_url,
            auth_url=sandbox.gigachat_auth_url,
            scope=scope,  # type: ignore[arg-type]
            **config,
        )
        world = RealWorld()
        self._generations = sandbox.state.generations.get
        self._one_at_a_time = scope == PERSON
        self.provider = GigaChat(made, world)
        self.caller = Caller("giga", made, self.provider.sign_in(), self.provider.default_concurrency, world)

    async def ask(self, **body: Any) -> list[Event]:
        return [event async for event in self.stream(translator(of=self.provider, **body))]

    async def stream(self, asked: Translator) -> AsyncIterator[Event]:
        async with self.caller.gate.place("account"):
            response = await self._opened(asked)
            try:
                async for data in response:
                    for event in alone(asked.feed(data)):
                        yield event
            finally:
                await response.aclose()
                await self._place_is_free()
            for event in asked.finish():
                yield event

    async def _place_is_free(self) -> None:
        async with asyncio.timeout(1):
            while self._one_at_a_time and (gauge := self._generations("gigachat sandbox-client")) and gauge.now:
                await asyncio.sleep(0.001)

    async def _opened(self, asked: Translator) -> UpstreamResponse:
        exchange = asked.exchange()
        try:
            request = next(exchange)
            while True:
                request = exchange.send(await self.caller.fetch(request))
        except StopIteration as end:
            response = await self.caller.open(end.value)
        if not 200 <= response.status < 300:
            raise asked.error(await read_whole(response, 1 << 20))
        asked.started(response.status, response.headers)
        return response


@asynccontextmanager
async def upstream(sandbox: Sandbox, scope: str = COMPANY, **config: Any) -> AsyncIterator[Upstream]:
    made = Upstream(sandbox, scope, **config)
    try:
        yield made
    finally:
        await made.caller.aclose()


def user(text: str) -> list[dict[str, Any]]:
    return [{"role": "user", "content": text}]


@pytest.mark.parametrize("stream", [False, True])
async def test_a_talk(sandbox: Sandbox, stream: bool) -> None:
    async with upstream(sandbox) as giga:
        asked = translator(of=giga.provider, messages=user("Расскажи о Лиме"), stream=stream)
        events = [event async for event in giga.stream(asked)]
    assert said(events)
    assert finish(events).reason == "stop"
    assert asked.usage is not None
    assert asked.usage.input_tokens > 0
    assert asked.upstream_model is not None
    assert asked.upstream_model.startswith("GigaChat-2:")
    assert asked.upstream_id == sandbox.state.last("gigachat", "chat/completions").headers["x-request-id"]


async def test_gigachat_01_fifty_first_calls_make_one_token(sandbox: Sandbox) -> None:
    async with upstream(sandbox) as giga:
        answers = await asyncio.gather(*(giga.ask(messages=user(f"Вопрос {number}")) for number in range(50)))
    assert all(said(answer) for answer in answers)
    assert sandbox.state.count("gigachat", "/oauth") == 1
    assert sandbox.state.count("gigachat", "chat/completions") == 50


async def test_gigachat_02_a_token_that_dies_in_a_burst_is_replaced_once(sandbox: Sandbox) -> None:
    async with upstream(sandbox) as giga:
        await giga.ask()
        sandbox.state.revoke_tokens()
        answers = await asyncio.gather(*(giga.ask(messages=user(f"Вопрос {number}")) for number in range(10)))
    assert all(said(answer) for answer in answers)
    assert sandbox.state.count("gigachat", "/oauth") == 2
    refused = sandbox.state.statuses["gigachat 401"]
    assert 1 <= refused <= 10
    assert sandbox.state.count("gigachat", "chat/completions") == 11 + refused


@pytest.mark.parametrize("shape", ["ms", "s", "tok", "absent"])
async def test_gigachat_04_every_shape_of_a_token_signs(shape: str) -> None:
    with running_sandbox(token_shape=shape) as sandbox:
        async with upstream(sandbox) as giga:
            assert said(await giga.ask())
            assert said(await giga.ask())
        assert sandbox.state.count("gigachat", "/oauth") == 1


async def test_gigachat_05_a_wrong_key_makes_one_request_and_is_not_shown(
    sandbox: Sandbox, caplog: pytest.LogCaptureFixture
) -> None:
    key = base64.b64encode(b"canary-client:canary-secret").decode()
    async with upstream(sandbox, credentials=Secret(key)) as giga:
        failed = await asyncio.gather(*(giga.ask() for _ in range(5)), return_exceptions=True)
    assert sandbox.state.count("gigachat", "/oauth") == 1
    for error in failed:
        assert isinstance(error, UpstreamAuthError)
        assert error.status == 502
        assert "code 6" in (error.detail or "")
        shown = f"{error!r} {error.detail} {error.body()} {caplog.text}"
        assert not [secret for secret in (key, "canary-client", "canary-secret") if secret in shown]


async def test_gigachat_06_a_caller_that_leaves_during_the_fetch_harms_nobody(sandbox: Sandbox) -> None:
    sandbox.state.choose("latency=0.2", provider="gigachat", path="/oauth")
    async with upstream(sandbox) as giga:
        tasks = [asyncio.create_task(giga.ask()) for _ in range(3)]
        async with asyncio.timeout(5):
            while sandbox.state.count("gigachat", "/oauth") == 0:
                await asyncio.sleep(0.005)
        tasks[0].cancel()
        left, *others = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(left, asyncio.CancelledError)
    assert all(isinstance(answer, list) and said(answer) for answer in others)
    assert sandbox.state.count("gigachat", "/oauth") == 1


@pytest.mark.parametrize("split", ["split=byte", "split=utf8", "split=field", "split=byte,crlf"])
async def test_gigachat_08_bytes_split_anywhere(sandbox: Sandbox, split: str) -> None:
    async with upstream(sandbox) as giga:
        plain = await giga.ask(messages=user("Привет, как дела?"), stream=True)
        sandbox.state.choose(split, provider="gigachat", path="chat/completions")
        split_up = await giga.ask(messages=user("Привет, как дела?"), stream=True)
    assert said(split_up) == f"{said(plain)} 🙂"  # the sandbox adds a character of four bytes to split
    assert finish(split_up) == finish(plain)


@pytest.mark.parametrize("cut", ["cut=3", "cut-bytes=300", "no-finish"])
async def test_gigachat_09_a_cut_stream_is_an_error_and_frees_its_place(sandbox: Sandbox, cut: str) -> None:
    async with upstream(sandbox, PERSON) as giga:
        sandbox.state.choose(f"{cut},long=50", provider="gigachat", path="chat/completions")
        asked = translator(of=giga.provider, messages=user("Расскажи длинную историю"), stream=True)
        events: list[Event] = []
        with pytest.raises(UpstreamError):
            events += [event async for event in giga.stream(asked)]
        assert giga.caller.gate.active == 0
        assert said(await giga.ask(stream=True))


async def test_gigachat_11_cached_tokens_move_with_the_session(sandbox: Sandbox) -> None:
    async with upstream(sandbox) as giga:
        seen = []
        for conversation in ("a", "a", "b"):
            asked = translator(of=giga.provider, messages=user("Расскажи о Лиме подробно"), conversation=conversation)
            assert said([event async for event in giga.stream(asked)])
            assert asked.usage is not None
            seen.append(asked.usage)
    assert [usage.cached_tokens == 0 for usage in seen] == [True, False, True]
    assert len({usage.input_tokens for usage in seen}) == 1


@pytest.mark.parametrize("stream", [False, True])
async def test_gigachat_12_13_a_call_and_its_result(sandbox: Sandbox, stream: bool) -> None:
    question = user("Какая погода в городе Омск?")
    async with upstream(sandbox) as giga:
        sandbox.state.choose("tool", provider="gigachat", path="chat/completions")
        events = await giga.ask(messages=question, tools=[tool("web_search")], stream=stream)
        (call,) = calls(events)
        assert finish(events).reason == "tool_calls"
        assert call.name == "web_search"
        assert call.id is not None
        history = [
            *question,
            {"role": "assistant", "content": None, "tool_calls": [tool_call(call.id, call.name, call.arguments)]},
            {"role": "tool", "tool_call_id": call.id, "content": "8°C"},
        ]
        events = await giga.ask(messages=history, tools=[tool("web_search")], stream=stream)
    assert said(events)
    assert finish(events).reason == "stop"


async def test_gigachat_15_parallel_calls_pass_the_providers_own_checks(sandbox: Sandbox) -> None:
    both = {"role": "assistant", "content": None, "tool_calls": [tool_call("a", "f"), tool_call("b", "g")]}
    results = [{"role": "tool", "tool_call_id": name, "content": "[]"} for name in "ba"]
    system = {"role": "system", "content": "Кратко."}
    async with upstream(sandbox) as giga:
        assert said(await giga.ask(messages=[*user("Погода?"), system, both, *results, *user("И?")]))


async def test_gigachat_18_an_image_is_uploaded_once(sandbox: Sandbox) -> None:
    def look(*pictures: dict[str, Any]) -> list[dict[str, Any]]:
        return [{"role": "user", "content": [{"type": "text", "text": "Что тут?"}, *pictures]}]

    async with upstream(sandbox) as giga:
        for _ in range(2):
            assert said(await giga.ask(messages=look(image(), image(png(300)))))
        assert sandbox.state.count("gigachat", "/files") == 2
        sandbox.state.files.clear()  # lost upstream: the next call fails, the one after it uploads again
        with pytest.raises(XRouterError):
            await giga.ask(messages=look(image()))
        assert said(await giga.ask(messages=look(image())))
    assert sandbox.state.count("gigachat", "/files") == 3


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("mode", ["native", "function"])
async def test_gigachat_22_structured_answers(sandbox: Sandbox, mode: Any, stream: bool) -> None:
    schema = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
    wanted = {"type": "json_schema", "json_schema": {"name": "card", "schema": schema, "strict": True}}
    async with upstream(sandbox) as giga:
        events = await giga.ask(
            messages=user("Где мы?"), response_format=wanted, stream=stream, model=settings(json_schema=mode)
        )
        assert said(events).startswith('{"city":')
        assert finish(events).reason == "stop"
        free = await giga.ask(messages=user("Где мы? Ответь в JSON"), response_format={"type": "json_object"})
    assert said(free).startswith("{")


@pytest.mark.parametrize("stream", [False, True])
async def test_gigachat_23_a_filtered_answer(sandbox: Sandbox, stream: bool) -> None:
    async with upstream(sandbox) as giga:
        sandbox.state.choose("blacklist", provider="gigachat", path="chat/completions")
        events = await giga.ask(stream=stream)
    assert said(events)
    assert (finish(events).reason, finish(events).native) == ("content_filter", "blacklist")


async def test_gigachat_25_a_person_has_one_stream_at_a_time(sandbox: Sandbox) -> None:
    async with upstream(sandbox, PERSON) as giga:
        answers = await asyncio.gather(*(giga.ask(messages=user(f"Вопрос {n}"), stream=True) for n in range(5)))
        assert all(said(answer) for answer in answers)
        assert sandbox.state.statuses["gigachat 429"] == 0
        assert sandbox.state.generations["gigachat sandbox-client"].peak == 1


async def test_gigachat_25_a_client_that_leaves_frees_the_place_and_closes_the_socket(sandbox: Sandbox) -> None:
    async with upstream(sandbox, PERSON) as giga:
        sandbox.state.choose("drip=0.05,long=500", provider="gigachat", path="chat/completions")
        first = giga.stream(translator(of=giga.provider, stream=True))
        assert await anext(first)
        async with asyncio.timeout(1):
            await first.aclose()  # type: ignore[attr-defined]
        assert giga.caller.gate.active == 0
        assert giga.caller.stats().active == 0
        assert said(await giga.ask(stream=True))
    assert sandbox.state.aborted["gigachat"] == 1


@pytest.mark.parametrize(
    ("scenario", "status", "type_"),
    [
        ("402", 402, "insufficient_quota"),
        ("413", 400, "context_length_exceeded"),
        ("422", 400, "invalid_request_error"),
        ("429,retry-after=3", 429, "rate_limit_exceeded"),
        ("html403", 502, "upstream_protocol_error"),
        ("html502", 502, "upstream_error"),
        ("503", 503, "upstream_error"),
        ("error", 502, "upstream_error"),
        ("empty", 502, "upstream_protocol_error"),
        ("error-200", 502, "upstream_error"),
        ("gzip", 502, "upstream_protocol_error"),
    ],
)
async def test_gigachat_26_failures(sandbox: Sandbox, scenario: str, status: int, type_: str) -> None:
    async with upstream(sandbox) as giga:
        sandbox.state.choose(scenario, provider="gigachat", path="chat/completions")
        with pytest.raises(XRouterError) as caught:
            await giga.ask()
    assert (caught.value.status, caught.value.type) == (status, type_)
    assert "<" not in str(caught.value.body())
    if scenario.startswith("429"):
        assert caught.value.retry_after_s == 3


async def test_gigachat_27_a_stream_of_another_content_type(sandbox: Sandbox) -> None:
    async with upstream(sandbox) as giga:
        sandbox.state.choose("content-type=text/html", provider="gigachat", path="chat/completions")
        with pytest.raises(UpstreamProtocolError):
            await giga.ask(stream=True)


async def test_gigachat_29_embeddings(sandbox: Sandbox) -> None:
    async with upstream(sandbox) as giga:
        target = "Embeddings"
        asked = translator(of=giga.provider, kind="embeddings", input=["раз", "два", "три"], target=target)
        events = [event async for event in giga.stream(asked)]
    assert [event.index for event in events if isinstance(event, Embedding)] == [0, 1, 2]
    assert asked.usage is not None
    assert asked.usage.input_tokens > 0


async def test_gigachat_30_models(sandbox: Sandbox) -> None:
    async with upstream(sandbox) as giga:
        models: Sequence[str] = giga.provider.read_models(await giga.caller.fetch(giga.provider.list_models()))
        assert {"GigaChat-2", "GigaChat-2-Max", "Embeddings"} <= set(models)
        assert "GigaFilter" not in models
        with pytest.raises(UpstreamError, match="does not know this model") as raised:
            await giga.ask(target="GigaChat-9")
        assert raised.value.status == 404


async def test_token_counts(sandbox: Sandbox) -> None:
    async with upstream(sandbox) as giga:
        request = giga.provider.count_tokens(["Первый", "Второй и третий"], "GigaChat-2")
        first, second = giga.provider.read_token_counts(await giga.caller.fetch(request))
    assert 0 < first < second


async def test_reasoning(sandbox: Sandbox) -> None:
    async with upstream(sandbox) as giga:
        for scenario in ("reasoning", "think"):
            for stream in (False, True):
                sandbox.state.choose(scenario, provider="gigachat", path="chat/completions")
                events = await giga.ask(stream=stream)
                assert thought(events)
                assert said(events)
                assert "<think>" not in said(events)


async def test_a_user_and_a_password(sandbox: Sandbox) -> None:
    password = Secret(SANDBOX_GIGACHAT_PASSWORD)
    async with upstream(sandbox, user=SANDBOX_GIGACHAT_USER, password=password) as giga:
        assert said(await giga.ask())
    assert sandbox.state.count("gigachat", "/token") == 1
