"""The provider against the emulator: real sockets, the real caller. Numbers are those of the sheet's section 16."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from joserfc.jwk import RSAKey
from yandexgpt_kit import call, calls, finish, said, settings, translator

from xrouter.context import Target
from xrouter.errors import (
    BadRequest,
    ContextLengthExceeded,
    NotFound,
    UpstreamAuthError,
    UpstreamError,
    UpstreamProtocolError,
    UpstreamTimeout,
    XRouterError,
)
from xrouter.events import Embedding, Event, Finish, ReasoningText, Text
from xrouter.providers.base import Purpose, Translator
from xrouter.providers.yandexgpt import YandexGPT
from xrouter.providers.yandexgpt_async import run as run_async
from xrouter.providers.yandexgpt_native import NativeTranslator
from xrouter.sandbox.credentials import SANDBOX_YANDEX_API_KEY, SANDBOX_YANDEX_FOLDER
from xrouter.sandbox.running import Sandbox, running_sandbox, service_account_key
from xrouter.secret import Secret
from xrouter.upstream.base import UpstreamAnswer, UpstreamRequest, read_whole
from xrouter.upstream.caller import Caller
from xrouter.world import RealWorld, World

QWEN = "qwen3-235b-a22b-fp8"
NATIVE, COMPATIBLE = "yandexgpt", QWEN
REFUSAL = "Я не могу обсуждать эту тему"
TARGET = Target("yandex", "yandexgpt", "yandexgpt/pro")
PURPOSE = Purpose("gen-1", "req-1", "conversation", settings())
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Погода в городе",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


@pytest.fixture(scope="module")
def running() -> Iterator[Sandbox]:
    with running_sandbox() as sandbox:
        yield sandbox


@pytest.fixture
def sandbox(running: Sandbox) -> Sandbox:
    running.state.reset()
    return running


@pytest.fixture(scope="module")
def key_file(running: Sandbox, tmp_path_factory: pytest.TempPathFactory) -> str:
    path: Path = tmp_path_factory.mktemp("key") / "key.json"
    path.write_text(json.dumps(service_account_key(running)))
    return str(path)


@asynccontextmanager
async def connected(
    sandbox: Sandbox, world: World | None = None, **config: Any
) -> AsyncIterator[tuple[YandexGPT, Caller]]:
    """The provider and the caller of one upstream that is the sandbox."""
    if not config.keys() & {"service_account_key_file", "iam_token"}:
        config.setdefault("api_key", Secret(SANDBOX_YANDEX_API_KEY))
    settings = YandexGPT.Config(
        **{
            "provider": "yandexgpt",
            "folder": SANDBOX_YANDEX_FOLDER,
            "base_url": sandbox.yandex_url,
            "iam_url": sandbox.yandex_iam_url,
            "operations_url": f"{sandbox.yandex_url}/operations",
            **config,
        }
    )
    upstream = YandexGPT(settings, world or RealWorld())
    caller = Caller("yandex", settings, upstream.sign_in(), upstream.default_concurrency, RealWorld())
    try:
        yield upstream, caller
    finally:
        await caller.aclose()


async def events_of(caller: Caller, translator: Translator) -> AsyncIterator[Event]:
    """One call, as dispatch makes it: a place for as long as it lasts, the first requests whole, the last one streamed."""
    async with caller.gate.place("account"):
        exchange = translator.exchange()
        try:
            request = next(exchange)
            while True:
                request = exchange.send(await caller.fetch(request))
        except StopIteration as end:
            request = end.value
        response = await caller.open(request)
        try:
            if response.status != 200:
                raise translator.error(await read_whole(response, 1_000_000))
            translator.started(response.status, response.headers)
            async for piece in response:
                for event in translator.feed(piece):
                    yield event
                if translator.complete:
                    response.finish()
                    break
            for event in translator.finish():
                yield event
        finally:
            await response.aclose()


async def ask(caller: Caller, upstream: YandexGPT, model: str = NATIVE, **body: Any) -> list[Event]:
    return [event async for event in events_of(caller, translator(model, of=upstream, **body))]


async def until_error(caller: Caller, translator: Translator) -> tuple[list[Event], XRouterError]:
    """What came, and the error that it ended in."""
    events: list[Event] = []
    try:
        async for event in events_of(caller, translator):
            events.append(event)
    except XRouterError as error:
        return events, error
    raise AssertionError("no error")


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("model", [NATIVE, COMPATIBLE, "yandexgpt/rc", "yandexgpt-lite/latest@tuned", "aliceai-llm"])
async def test_an_answer_from_every_surface(sandbox: Sandbox, model: str, stream: bool) -> None:
    async with connected(sandbox) as (upstream, caller):
        made = translator(model, of=upstream, stream=stream, temperature=0.2, max_tokens=500, top_p=0.9, stop=["#"])
        events = [event async for event in events_of(caller, made)]
    assert len(said(events)) > 10
    assert finish(events).reason == "stop"
    assert made.usage
    assert made.usage.input_tokens > 3
    assert made.usage.output_tokens > 3
    assert made.upstream_id
    assert made.upstream_model
    headers = dict(sandbox.state.last("yandex").headers)
    assert headers["x-data-logging-enabled"] == "false"
    assert len(headers["x-client-request-id"]) == 36
    assert headers["authorization"] == f"Api-Key {SANDBOX_YANDEX_API_KEY}"


FORMS = ["crlf", "no-newline", "no-defaults", "no-usage", "repeat", "sse", "upper", "empty-choices"]


@pytest.mark.parametrize("model", [NATIVE, COMPATIBLE])
@pytest.mark.parametrize("scenario", ["split=byte", "split=utf8", *FORMS])
async def test_yandexgpt_02_and_26_the_text_is_the_same_in_every_form(
    sandbox: Sandbox, model: str, scenario: str
) -> None:
    async with connected(sandbox) as (upstream, caller):
        plain = await ask(caller, upstream, model, stream=True)
        sandbox.state.choose(scenario, provider="yandex")
        made = translator(model, of=upstream, stream=True)
        events = [event async for event in events_of(caller, made)]
    assert said(events).removesuffix(" 🙂") == said(plain)  # the emulator adds it to have something to split
    assert finish(events).reason == finish(plain).reason == "stop"
    assert all(event.content for event in events if isinstance(event, Text))
    assert (made.usage is None) == (scenario == "no-usage")


async def test_yandexgpt_03_a_rewritten_stream(sandbox: Sandbox) -> None:
    async with connected(sandbox) as (upstream, caller):
        plain = said(await ask(caller, upstream, stream=True))
        sandbox.state.choose("rewrite", provider="yandex")
        made = translator(of=upstream, stream=True)
        events = [event async for event in events_of(caller, made)]
    assert isinstance(made, NativeTranslator)
    assert made.rewrites == 1
    assert finish(events).reason == "stop"
    assert said(events) != plain
    assert not said(events).count(plain[:20]) > 1


@pytest.mark.parametrize("model", [NATIVE, COMPATIBLE])
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("scenario", "reason"), [("length", "length"), ("filter", "content_filter")])
async def test_yandexgpt_06_and_27_ends(sandbox: Sandbox, model: str, stream: bool, scenario: str, reason: str) -> None:
    async with connected(sandbox) as (upstream, caller):
        sandbox.state.choose(scenario, provider="yandex")
        events = await ask(caller, upstream, model, stream=stream)
    assert finish(events).reason == reason
    assert (REFUSAL in said(events)) == (scenario == "filter")


async def test_yandexgpt_06_a_filter_in_the_middle_of_a_stream(sandbox: Sandbox) -> None:
    async with connected(sandbox) as (upstream, caller):
        sandbox.state.choose("filter=2", provider="yandex")
        events = await ask(caller, upstream, stream=True)
    assert finish(events).reason == "content_filter"
    assert said(events)
    assert REFUSAL not in said(events)


@pytest.mark.parametrize("model", [NATIVE, COMPATIBLE])
@pytest.mark.parametrize("scenario", ["cut=2", "no-finish", "empty", "content-type=text/html", "gzip"])
async def test_yandexgpt_07_a_broken_stream_is_an_error_and_frees_its_place(
    sandbox: Sandbox, model: str, scenario: str
) -> None:
    async with connected(sandbox) as (upstream, caller):
        sandbox.state.choose(scenario, provider="yandex")
        events, error = await until_error(caller, translator(model, of=upstream, stream=True))
        assert isinstance(error, UpstreamError)
        assert not any(isinstance(event, Finish) for event in events)
        assert caller.gate.active == 0


@pytest.mark.parametrize("model", [NATIVE, COMPATIBLE])
@pytest.mark.parametrize(
    ("scenario", "texts"), [("stream-error=2", True), ("stream-error=0", False), ("error-200", False)]
)
async def test_yandexgpt_08_errors_under_status_200(sandbox: Sandbox, model: str, scenario: str, texts: bool) -> None:
    async with connected(sandbox) as (upstream, caller):
        sandbox.state.choose(scenario, provider="yandex")
        events, error = await until_error(caller, translator(model, of=upstream, stream=True))
    expected = ContextLengthExceeded if (scenario, model) == ("error-200", COMPATIBLE) else UpstreamError
    assert isinstance(error, expected)
    assert bool(said(events)) == texts


async def test_yandexgpt_10_the_emulators_iam_takes_the_jwt_and_refuses_a_foreign_one(
    sandbox: Sandbox, key_file: str, tmp_path: Path
) -> None:
    async with connected(sandbox, service_account_key_file=key_file) as (upstream, caller):
        assert said(await ask(caller, upstream))
    headers = dict(sandbox.state.last("yandex", "/completion").headers)
    assert headers["authorization"].startswith("Bearer t1.")
    forged = json.loads(Path(key_file).read_text())
    forged["private_key"] = RSAKey.generate_key(2048, private=True).as_pem(private=True).decode()
    (tmp_path / "forged.json").write_text(json.dumps(forged))
    async with connected(sandbox, service_account_key_file=str(tmp_path / "forged.json")) as (upstream, caller):
        with pytest.raises(UpstreamAuthError):
            await ask(caller, upstream)


async def test_yandexgpt_11_thirty_calls_make_one_iam_request_and_a_refused_token_no_loop(
    sandbox: Sandbox, key_file: str
) -> None:
    async with connected(sandbox, service_account_key_file=key_file) as (upstream, caller):
        answers = await asyncio.gather(*(ask(caller, upstream) for _ in range(30)))
        assert all(said(events) for events in answers)
        assert sandbox.state.count("yandex", "/iam/v1/tokens") == 1
        # The token is refused, and IAM gives the very same one again: one more request each, then an error.
        sandbox.state.choose("401", times=10, provider="yandex", path="/completion")
        with pytest.raises(UpstreamAuthError):
            await ask(caller, upstream)
        assert sandbox.state.count("yandex", "/iam/v1/tokens") == 2
        assert sandbox.state.count("yandex", "/completion") == 32


async def test_yandexgpt_12_a_token_is_renewed_before_its_end_and_streams_go_on(key_file: str) -> None:
    with running_sandbox(iam_ttl_s=0.4) as sandbox:
        path = Path(key_file)
        short = json.dumps(service_account_key(sandbox))
        path = path.with_name("short.json")
        path.write_text(short)
        async with connected(sandbox, service_account_key_file=str(path)) as (upstream, caller):
            sandbox.state.choose("drip=0.1", times=100, provider="yandex", path="/completion")
            streams = [asyncio.create_task(ask(caller, upstream, stream=True)) for _ in range(2)]
            while not all(stream.done() for stream in streams):
                assert said(await ask(caller, upstream))
            assert all(finish(stream.result()).reason == "stop" for stream in streams)
        assert sandbox.state.count("yandex", "/iam/v1/tokens") >= 2
        assert sandbox.state.snapshot().statuses.get("yandex 401", 0) == 0


async def test_yandexgpt_13_an_api_key_never_asks_iam(sandbox: Sandbox) -> None:
    async with connected(sandbox) as (upstream, caller):
        await ask(caller, upstream)
        await ask(caller, upstream, COMPATIBLE)
    assert sandbox.state.count("yandex", "/iam/v1/tokens") == 0


async def test_yandexgpt_14_a_refused_token_is_replaced_once_and_a_refused_key_is_not(
    sandbox: Sandbox, key_file: str
) -> None:
    async with connected(sandbox, service_account_key_file=key_file) as (upstream, caller):
        await ask(caller, upstream)
        sandbox.state.revoke_tokens()
        assert said(await ask(caller, upstream))
        assert sandbox.state.count("yandex", "/iam/v1/tokens") == 2
        assert sandbox.state.count("yandex", "/completion") == 3
    sandbox.state.reset()
    async with connected(sandbox, api_key=Secret("unknown")) as (upstream, caller):
        with pytest.raises(UpstreamAuthError):
            await ask(caller, upstream)
    assert sandbox.state.count("yandex") == 1


@pytest.mark.parametrize("model", [NATIVE, COMPATIBLE])
async def test_yandexgpt_15_a_folder_of_others_is_the_operators_error(sandbox: Sandbox, model: str) -> None:
    async with connected(sandbox, folder="b1gsomebodyelses0001") as (upstream, caller):
        with pytest.raises(UpstreamError) as raised:
            await ask(caller, upstream, model)
    assert raised.value.status == 500
    assert "b1g" not in str(raised.value.body())


async def test_yandexgpt_16_twenty_five_calls_share_ten_places(sandbox: Sandbox) -> None:
    async with connected(sandbox) as (upstream, caller):
        sandbox.state.choose("latency=0.05", times=25, provider="yandex")
        seen: list[tuple[int, int]] = []

        async def patient() -> list[Event]:
            """As dispatch does: a 429 is tried again. The emulator frees a place only after the last byte is out."""
            while True:
                seen.append((caller.gate.active, caller.gate.waiting))
                try:
                    return await ask(caller, upstream)
                except UpstreamError as error:
                    if error.status != 429:
                        raise

        answers = await asyncio.gather(*(patient() for _ in range(25)))
    assert all(said(events) for events in answers)
    assert max(seen)[0] == 10
    assert max(waiting for _, waiting in seen) == 14  # the last of the first twenty-five finds fourteen before it
    assert max(sandbox.state.snapshot().peak_generations.values()) == 10


@pytest.mark.parametrize("model", [NATIVE, COMPATIBLE])
async def test_yandexgpt_16_a_client_that_leaves_frees_its_place(sandbox: Sandbox, model: str) -> None:
    async with connected(sandbox, concurrency=1) as (upstream, caller):
        sandbox.state.choose("drip=0.2", provider="yandex")
        begun = asyncio.Event()

        async def leave_after_the_first_text() -> None:
            async for event in events_of(caller, translator(model, of=upstream, stream=True)):
                if event.text:
                    begun.set()

        leaving = asyncio.create_task(leave_after_the_first_text())
        await begun.wait()
        leaving.cancel()
        await asyncio.wait([leaving])
        assert caller.gate.active == 0
        assert said(await ask(caller, upstream, model))


@pytest.mark.parametrize("model", [NATIVE, COMPATIBLE])
async def test_yandexgpt_17_a_busy_upstream_says_when_to_come_again(sandbox: Sandbox, model: str) -> None:
    async with connected(sandbox) as (upstream, caller):
        for scenario, status, wait_s in (("429", 429, None), ("429,retry-after=7", 429, 7.0), ("503", 503, None)):
            sandbox.state.choose(scenario, provider="yandex")
            with pytest.raises(UpstreamError) as raised:
                await ask(caller, upstream, model, stream=True)
            assert (raised.value.status, raised.value.retry, raised.value.retry_after_s) == (status, True, wait_s)
        assert said(await ask(caller, upstream, model, stream=True))


@pytest.mark.parametrize("model", [NATIVE, COMPATIBLE])
@pytest.mark.parametrize(
    ("scenario", "status"),
    [("400", 400), ("402", 402), ("403", 403), ("404", 404), ("413", 413), ("500", 502), ("502,html", 502), ("504", 504),
     ("403,html", 403)],
)  # fmt: skip
async def test_yandexgpt_18_statuses_and_pages(sandbox: Sandbox, model: str, scenario: str, status: int) -> None:
    async with connected(sandbox) as (upstream, caller):
        sandbox.state.choose(scenario, provider="yandex")
        with pytest.raises(Exception) as raised:
            await ask(caller, upstream, model)
    assert getattr(raised.value, "status", None) == status
    assert "<" not in str(raised.value)


@pytest.mark.parametrize("model", [NATIVE, "yandexgpt-lite"])
async def test_yandexgpt_19_a_prompt_beyond_the_context(sandbox: Sandbox, model: str) -> None:
    long = [{"role": "user", "content": "слово " * 16_000}, {"role": "assistant", "content": "да"}] * 6
    async with connected(sandbox) as (upstream, caller):
        for surface in ("native", "openai"):
            made = translator(model, surface, of=upstream, messages=[*long, {"role": "user", "content": "?"}])
            with pytest.raises(ContextLengthExceeded):
                _events = [event async for event in events_of(caller, made)]


@pytest.mark.parametrize("model", [NATIVE, COMPATIBLE])
@pytest.mark.parametrize("stream", [False, True])
async def test_yandexgpt_20_a_round_of_tools(sandbox: Sandbox, model: str, stream: bool) -> None:
    question = {"role": "user", "content": "Какая погода в Омске и в Томске?"}
    async with connected(sandbox) as (upstream, caller):
        sandbox.state.choose("tool=2", provider="yandex")
        first = await ask(caller, upstream, model, stream=stream, messages=[question], tools=[WEATHER])
        assert finish(first).reason == "tool_calls"
        gathered: dict[int, dict[str, str]] = {}
        for part in calls(first):
            gathered_call = gathered.setdefault(
                part.index, {"id": part.id or "", "name": part.name or "", "arguments": ""}
            )
            gathered_call["arguments"] += part.arguments
        assert len(gathered) == 2
        assert all("city" in json.loads(call["arguments"]) for call in gathered.values())
        listed = [
            {"id": call["id"], "type": "function", "function": {"name": call["name"], "arguments": call["arguments"]}}
            for call in gathered.values()
        ]
        results = [{"role": "tool", "tool_call_id": call["id"], "content": "8°C"} for call in gathered.values()]
        history = [question, {"role": "assistant", "content": None, "tool_calls": listed}, *reversed(results)]
        second = await ask(caller, upstream, model, stream=stream, messages=history, tools=[WEATHER])
    assert "8°C" in said(second)


@pytest.mark.parametrize("model", [NATIVE, COMPATIBLE])
async def test_yandexgpt_22_tool_choices(sandbox: Sandbox, model: str) -> None:
    named = {"type": "function", "function": {"name": "weather"}}
    async with connected(sandbox) as (upstream, caller):
        for choice, reason in (("required", "tool_calls"), (named, "tool_calls"), ("none", "stop")):
            events = await ask(caller, upstream, model, tools=[WEATHER], tool_choice=choice)
            assert finish(events).reason == reason


@pytest.mark.parametrize("model", [NATIVE, COMPATIBLE])
async def test_yandexgpt_23_json_by_schema_and_without(sandbox: Sandbox, model: str) -> None:
    schema = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema, "strict": True}}
    async with connected(sandbox) as (upstream, caller):
        assert isinstance(json.loads(said(await ask(caller, upstream, model, response_format=form)))["city"], str)
        asked = [{"role": "user", "content": "Столица Перу? Ответ в JSON."}]
        free = await ask(caller, upstream, model, response_format={"type": "json_object"}, messages=asked)
        assert isinstance(json.loads(said(free)), dict)


async def test_yandexgpt_29_reasoning_is_shown_by_open_models(sandbox: Sandbox) -> None:
    async with connected(sandbox) as (upstream, caller):
        for stream in (False, True):
            sandbox.state.choose("reasoning", provider="yandex")
            events = await ask(caller, upstream, COMPATIBLE, stream=stream)
            assert any(isinstance(event, ReasoningText) for event in events)
            assert said(events)


async def test_reasoning_is_asked_of_the_native_surface(sandbox: Sandbox) -> None:
    async with connected(sandbox) as (upstream, caller):
        made = translator(of=upstream, reasoning_effort="high")
        events = [event async for event in events_of(caller, made)]
    assert said(events)
    assert made.usage
    assert (made.usage.reasoning_tokens or 0) > 0


async def test_yandexgpt_30_an_image_reaches_a_model_that_sees(sandbox: Sandbox) -> None:
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}}
    listed = [{"role": "user", "content": [{"type": "text", "text": "Что это?"}, image]}]
    async with connected(sandbox) as (upstream, caller):
        facts = settings(inputs=("text", "image"))
        for model in ("qwen3.6-35b-a3b", "gemma-3-27b-it"):
            assert said(await ask(caller, upstream, model, messages=listed, facts=facts))
        before = sandbox.state.count("yandex")
        with pytest.raises(BadRequest):
            await ask(caller, upstream, messages=listed)
        assert sandbox.state.count("yandex") == before


@pytest.mark.parametrize("model", [NATIVE, COMPATIBLE])
async def test_yandexgpt_31_untidy_messages_are_taken(sandbox: Sandbox, model: str) -> None:
    listed = [
        {"role": "user", "content": "Раз"},
        {"role": "system", "content": "Кратко."},
        {"role": "assistant", "content": ""},
        {"role": "developer", "content": [{"type": "text", "text": "Вежливо."}]},
        {"role": "user", "content": "два"},
        {"role": "user", "content": "три?"},
    ]
    async with connected(sandbox) as (upstream, caller):
        assert said(await ask(caller, upstream, model, messages=listed))


@pytest.mark.parametrize("surface", ["native", "openai"])
async def test_yandexgpt_32_twenty_inputs_at_ten_a_second(sandbox: Sandbox, surface: str) -> None:
    async with connected(sandbox) as (upstream, caller):
        inputs = [f"текст {index}" for index in range(20)]
        made = translator("text-search-doc", surface, of=upstream, kind="embeddings", input=inputs)
        started = time.monotonic()
        events = [event async for event in events_of(caller, made)]
        took_s = time.monotonic() - started
        alone = translator("text-search-doc", surface, of=upstream, kind="embeddings", input=inputs[7])
        [seventh] = [event async for event in events_of(caller, alone)]
    assert [event.index for event in events if isinstance(event, Embedding)] == list(range(20))
    assert isinstance(seventh, Embedding)
    assert isinstance(events[7], Embedding)
    assert seventh.vector == events[7].vector
    assert len(seventh.vector) == 256
    assert took_s >= 1.85
    assert made.usage
    assert made.usage.input_tokens >= 40
    assert sandbox.state.count("yandex", "/textEmbedding" if surface == "native" else "/embeddings") == 21


async def test_yandexgpt_32_one_failure_fails_the_request(sandbox: Sandbox) -> None:
    async with connected(sandbox) as (upstream, caller):
        made = translator("text-search-doc", of=upstream, kind="embeddings", input=["а", "б", "в"])
        sandbox.state.choose("503", provider="yandex", path="/textEmbedding")
        with pytest.raises(UpstreamError):
            _events = [event async for event in events_of(caller, made)]
        assert sandbox.state.count("yandex", "/textEmbedding") == 1


class Patient(RealWorld):
    """A world whose sleeps move the sandbox's clock instead of waiting."""

    def __init__(self, sandbox: Sandbox) -> None:
        super().__init__()
        self.slept: list[float] = []
        self._sandbox = sandbox
        self.monotonic = lambda: sum(self.slept)  # type: ignore[assignment]

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self._sandbox.state.advance(seconds)


async def test_yandexgpt_33_an_operation_is_polled_until_it_is_done(sandbox: Sandbox) -> None:
    world = Patient(sandbox)
    async with connected(sandbox, world) as (upstream, caller):
        made = upstream.async_completion(call(), TARGET, PURPOSE)
        result = await run_async(made.flow(), caller.fetch, world)
    assert said(result.events)
    assert finish(result.events).reason == "stop"
    assert result.usage
    assert result.model_version
    assert world.slept == [10.0]
    assert sandbox.state.count("yandex", "/completionAsync") == 1


async def test_yandexgpt_33_a_failed_operation_is_an_error(sandbox: Sandbox) -> None:
    world = Patient(sandbox)
    async with connected(sandbox, world) as (upstream, caller):
        made = upstream.async_completion(call(), TARGET, PURPOSE)
        sandbox.state.choose("error", provider="yandex")
        with pytest.raises(BadRequest, match="the model failed"):
            await run_async(made.flow(), caller.fetch, world)


async def test_yandexgpt_33_an_operation_of_three_days_ago_is_not_found(sandbox: Sandbox) -> None:
    world = Patient(sandbox)
    async with connected(sandbox, world) as (upstream, caller):
        made = upstream.async_completion(call(), TARGET, PURPOSE)
        result = await run_async(made.flow(), caller.fetch, world)
        assert (await run_async(made.resume(result.operation_id), caller.fetch, world)).events == result.events
        sandbox.state.advance(4 * 86_400)
        with pytest.raises(NotFound, match="three days"):
            await run_async(made.resume(result.operation_id), caller.fetch, world)
        for bad in ("../../v1/models", "", "a" * 200, "a?b", "a\r\nb"):
            with pytest.raises(UpstreamProtocolError):
                await run_async(made.resume(bad), caller.fetch, world)


async def test_yandexgpt_33_patience_ends(sandbox: Sandbox) -> None:
    world = Patient(sandbox)
    async with connected(sandbox, world) as (upstream, caller):
        made = upstream.async_completion(call(), TARGET, PURPOSE, poll_s=10.0, give_up_s=25.0)

        async def fetch(request: UpstreamRequest) -> UpstreamAnswer:
            sandbox.state.advance(-10)  # so that the operation never gets any older
            return await caller.fetch(request)

        with pytest.raises(UpstreamTimeout):
            await run_async(made.flow(), fetch, world)
    assert world.slept == [10.0, 10.0, 10.0]


async def test_yandexgpt_33_cancelling_stops_the_asking(sandbox: Sandbox) -> None:
    waiting = asyncio.Event()

    class Waiting(RealWorld):
        async def sleep(self, seconds: float) -> None:
            waiting.set()
            await asyncio.Event().wait()

    async with connected(sandbox) as (upstream, caller):
        made = upstream.async_completion(call(), TARGET, PURPOSE)
        running = asyncio.create_task(run_async(made.flow(), caller.fetch, Waiting()))
        await waiting.wait()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
    assert sandbox.state.count("yandex") == 1


async def test_tokens_are_counted_as_they_are_billed(sandbox: Sandbox) -> None:
    async with connected(sandbox) as (upstream, caller):
        counter = upstream.token_counter(TARGET)
        made = translator(of=upstream)
        assert [event async for event in events_of(caller, made)]
        assert made.usage
        assert counter.read(await caller.fetch(counter.call(call(), PURPOSE))) == made.usage.input_tokens
        alone = counter.read(await caller.fetch(counter.text("Привет, мир")))
        assert 3 <= alone < made.usage.input_tokens
        sandbox.state.choose("429", provider="yandex")
        busy = await caller.fetch(counter.text("Привет"))
        with pytest.raises(UpstreamError):
            counter.read(busy)
        foreign = upstream.token_counter(Target("yandex", QWEN, "x"))
        refused = await caller.fetch(foreign.call(call(), PURPOSE))
        with pytest.raises(UpstreamError) as raised:
            foreign.read(refused)
        assert raised.value.status == 404


async def test_yandexgpt_36_the_models_of_the_folder(sandbox: Sandbox) -> None:
    async with connected(sandbox) as (upstream, caller):
        names = upstream.read_models(await caller.fetch(upstream.list_models()))
    assert {"yandexgpt", "yandexgpt/rc", "yandexgpt-lite", QWEN, "text-search-doc"} <= set(names)
    assert not any("://" in name or "art" in name for name in names)
