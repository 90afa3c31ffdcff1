"""Filters of an operator's own, through the whole gateway: the two examples, a folder beside the configuration, an
installed package."""

import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent

import pytest
from kit.gateway import CHAIN, RunningGateway, running_gateway
from kit.walk import MODELS, UPSTREAMS, chat, chat_stream, forget, post

from plugins.first_word import FirstWord
from xrouter.sandbox.running import Sandbox, running_sandbox
from xrouter.wire import decode_json

EXAMPLES = CHAIN + "  - plugins.mask_phone:MaskPhone: {}\n  - plugins.first_word:FirstWord: {slow_s: 0.15}\n"


@pytest.fixture(scope="module")
def running() -> Iterator[Sandbox]:
    with running_sandbox() as sandbox:
        yield sandbox


@pytest.fixture
def sandbox(running: Sandbox) -> Sandbox:
    return forget(running)


@pytest.fixture(scope="module")
def gateway(running: Sandbox, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    with running_gateway(UPSTREAMS + MODELS + EXAMPLES, running.environ, tmp_path_factory.mktemp("x")) as gateway:
        yield gateway


NUMBERS = ["+7 912 345-67-89", "89123456789", "8 (912) 345 67 89", "+7(912)345-67-89", "8-912-345-67-89"]


@pytest.mark.parametrize("number", NUMBERS)
def test_mask_phone_in_a_chat(sandbox: Sandbox, gateway: RunningGateway, number: str) -> None:
    assert chat(gateway, "local/large", f"Позвони мне: {number}, спасибо").status_code == 200
    (message,) = decode_json(sandbox.state.last("openai").body)["messages"]
    assert message["content"] == "Позвони мне: [phone], спасибо"


@pytest.mark.parametrize("text", ["заказ 1234567890123456", "123-45-67", "2 + 2 = 4", "https://example.org/89123"])
def test_mask_phone_leaves_other_numbers(sandbox: Sandbox, gateway: RunningGateway, text: str) -> None:
    assert chat(gateway, "local/large", text).status_code == 200
    (message,) = decode_json(sandbox.state.last("openai").body)["messages"]
    assert message["content"] == text


def test_mask_phone_everywhere(sandbox: Sandbox, gateway: RunningGateway) -> None:
    """Content in parts, prompts and inputs, for every provider; what is no text stays as it is."""
    parts = [{"type": "text", "text": f"мой {NUMBERS[0]}"}, {"type": "text", "text": "и всё"}]
    post(gateway, "/v1/chat/completions", model="local/large", messages=[{"role": "user", "content": parts}], seed=7)
    sent = decode_json(sandbox.state.last("openai").body)
    assert sent["messages"][0]["content"] == [
        {"type": "text", "text": "мой [phone]"},
        {"type": "text", "text": "и всё"},
    ]
    assert sent["seed"] == 7
    post(gateway, "/v1/completions", model="local/large", prompt=[f"a {NUMBERS[1]}"])
    assert decode_json(sandbox.state.last("openai").body)["prompt"] == ["a [phone]"]
    post(gateway, "/v1/embeddings", model="local/embedding", input=NUMBERS[2])
    assert decode_json(sandbox.state.last("openai").body)["input"] == "[phone]"
    for model, provider in (("gigachat/max", "gigachat"), ("yandexgpt/pro", "yandex")):
        assert chat(gateway, model, f"мой {NUMBERS[3]}").status_code == 200
        assert "[phone]" in sandbox.state.last(provider).body.decode()
        assert "912" not in sandbox.state.last(provider).body.decode()


def test_first_word_watches_streams(
    sandbox: Sandbox, gateway: RunningGateway, caplog: pytest.LogCaptureFixture
) -> None:
    assert gateway.app._running is not None
    (watcher,) = (step for step in gateway.app._running.chain.filters if isinstance(step, FirstWord))
    seen = watcher.seen
    for model in ("gigachat/max", "yandexgpt/pro", "qwen/qwen3", "local/large"):
        assert chat_stream(gateway, model, "повтори: раз, два, три").text == "раз, два, три"
    assert watcher.seen == seen + 4
    assert watcher.slow == 0
    with caplog.at_level(logging.WARNING, "xrouter.plugins.first_word"):
        chat_stream(gateway, "local/large", "[[emu:latency=0.2]] привет")
    assert watcher.slow == 1
    assert "first word" in caplog.text
    chat(gateway, "local/large", "привет")
    assert watcher.seen == seen + 5, "an answer that is no stream is not watched"


SHOUT = dedent('''
    from dataclasses import dataclass
    from typing import ClassVar

    from xrouter.context import context


    class Shout:
        """Say it louder."""

        needs: ClassVar[frozenset[str]] = frozenset({"call"})
        provides: ClassVar[frozenset[str]] = frozenset()

        @dataclass(frozen=True, slots=True)
        class Config:
            end: str = "!"

        def __init__(self, app, config, services):
            self.app, self.end, self.started = app, config.end, False

        async def start(self):
            self.started = True

        async def aclose(self):
            self.started = False

        async def __call__(self, scope, receive, send):
            assert self.started
            ctx = context(scope)
            ctx.amend_call(ctx.call.map_text(lambda text: text.upper() + self.end))
            ctx.response_headers.append((b"x-shout", b"yes"))
            await self.app(scope, receive, send)
''')


@pytest.fixture
def clean_imports() -> Iterator[None]:
    """Forgets what a test has imported, so that another may use the same names."""
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        del sys.modules[name]


@pytest.mark.usefixtures("clean_imports")
@pytest.mark.parametrize("place", ["plugins/shout_beside.py", "house/filters/shout_deep.py", "shout_alone.py"])
def test_a_plugin_from_a_folder_beside_the_configuration(sandbox: Sandbox, tmp_path: Path, place: str) -> None:
    file = tmp_path / place
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(SHOUT)
    module = place.removesuffix(".py").replace("/", ".")
    config = UPSTREAMS + MODELS + CHAIN + f"  - {module}:Shout: {{end: '?!'}}\n"
    with running_gateway(config, sandbox.environ, tmp_path) as gateway:
        answer = chat(gateway, "local/large", "привет")
    assert answer.status_code == 200
    assert answer.headers["x-shout"] == "yes"
    assert "ПРИВЕТ?!" in sandbox.state.last("openai").body.decode()


@pytest.mark.usefixtures("clean_imports")
def test_a_plugin_of_an_installed_package(sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site = tmp_path / "site"
    about = site / "shouting-1.0.dist-info"
    about.mkdir(parents=True)
    (site / "shouting.py").write_text(SHOUT)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: shouting\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[xrouter.filters]\nshout = shouting:Shout\n")
    monkeypatch.syspath_prepend(site)
    with running_gateway(UPSTREAMS + MODELS + CHAIN + "  - shout: {}\n", sandbox.environ, tmp_path) as gateway:
        assert chat(gateway, "local/large", "привет").headers["x-shout"] == "yes"
    assert "ПРИВЕТ!" in sandbox.state.last("openai").body.decode()
