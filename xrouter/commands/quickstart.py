"""`xrouter quickstart`: the gateway for somebody who has just met it.

It serves the configuration as `xrouter serve` does. What is missing to try it is supplied first: the sandbox in the place of
every provider whose credentials are not in the environment, and a first key.
"""

import argparse
import asyncio
import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import Final

from xrouter.commands import serve
from xrouter.commands.first_key import first_key, key_file, quickstart_folder
from xrouter.commands.owned_sandbox import SandboxFailed, owned_sandbox
from xrouter.commands.private_file import write_private
from xrouter.config.load import ConfigError, load
from xrouter.config.settings import Settings
from xrouter.errors import XRouterError
from xrouter.front.server import listen
from xrouter.store.engine import StoreError
from xrouter.wire import encode_json
from xrouter.world import RealWorld


@dataclass(frozen=True, slots=True)
class _Provider:
    """A provider that the sandbox can play."""

    title: str
    name: str  # as `provider:` in the configuration
    credentials: tuple[str, ...]  # variables: any of them means that the real one is to be called
    prefix: str  # of all its variables

    def given(self, environ: Mapping[str, str]) -> str | None:
        return next((name for name in self.credentials if environ.get(name)), None)


_PROVIDERS: Final = (
    _Provider("GigaChat", "gigachat", ("GIGACHAT_CREDENTIALS",), "GIGACHAT_"),
    _Provider("YandexGPT", "yandexgpt", ("YANDEX_API_KEY", "YANDEX_KEY_FILE", "YANDEX_IAM_TOKEN"), "YANDEX_"),
    _Provider("OpenAI-compatible", "openai", ("LOCAL_BASE_URL",), "LOCAL_"),
)


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = subparsers.add_parser(
        "quickstart",
        help="serve with a first key, and the sandbox for what has no credentials",
        description="Serve the gateway. The sandbox plays every provider whose credentials are not in the environment, and a"
        " first key is made (or found again) and shown.",
    )
    parser.add_argument("-c", "--config", type=Path, required=True, metavar="FILE", help="the configuration")
    parser.add_argument(
        "--json", action="store_true", help="print one JSON line instead of text when the gateway serves"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    played = [provider for provider in _PROVIDERS if not provider.given(os.environ)]
    try:
        with ExitStack() as stack:
            sandbox = stack.enter_context(owned_sandbox()) if played else {}
            variables = _of(played, sandbox)
            os.environ.update(variables)
            return _serve(args, played, variables)
    except KeyboardInterrupt:  # before the gateway took over the signals: there is nothing to drain
        return 0
    except ConfigError as error:
        print(error, file=sys.stderr)
    except (SandboxFailed, StoreError, XRouterError, OSError) as error:
        print(f"xrouter quickstart: {error}", file=sys.stderr)
    return 1


def _of(played: Sequence[_Provider], sandbox: Mapping[str, str]) -> Mapping[str, str]:
    """The sandbox's variables for the providers that it plays, and for no other."""
    prefixes = tuple(provider.prefix for provider in played)
    return {name: value for name, value in sandbox.items() if name.startswith(prefixes)}


def _serve(args: argparse.Namespace, played: Sequence[_Provider], variables: Mapping[str, str]) -> int:
    settings = load(args.config, os.environ)
    try:
        listen(settings.server).close()
    except OSError as error:
        place = f"{settings.server.host}:{settings.server.port}"
        print(
            f"xrouter quickstart: cannot listen at {place}: {error.strerror or error}. Choose another port with"
            f" XROUTER_PORT (XROUTER_PORT=8081 make run), or server.port in {args.config}.",
            file=sys.stderr,
        )
        return 1
    key = asyncio.run(first_key(settings, RealWorld())).reveal()
    write_private(_environment(settings), "".join(f"export {name}={quote(text)}\n" for name, text in variables.items()))

    def announce(url: str) -> None:
        url = url.replace("//0.0.0.0:", "//127.0.0.1:").replace("//[::]:", "//[::1]:")
        print(_as_json(url, key, played) if args.json else _as_text(url, key, settings, played), flush=True)

    serving = argparse.Namespace(config=args.config, host=None, port=None, workers=None, json=False)
    return serve.run(serving, announce)


def _as_json(url: str, key: str, played: Sequence[_Provider]) -> str:
    return encode_json({"url": url, "key": key, "sandbox": [provider.name for provider in played]}).decode()


def _as_text(url: str, key: str, settings: Settings, played: Sequence[_Provider]) -> str:
    lines = ["", f"XRouter serves at {url}", ""]
    lines += [f"  {provider.title + ':':<19}{_played_by(provider, played)}" for provider in _used(settings)]
    lines += ["", f"Your key: {key}", f"  (kept in {key_file(settings.store)})", "", *_examples(url, key, settings)]
    lines += [
        "For xrouter keys, check and the other commands, in another shell:",
        f"  . {quote(str(_environment(settings)))}",
        "",
        f"Models: {url}/v1/models   Health: {url}/health   Metrics: {url}/metrics",
        "Ctrl-C stops it. One line of JSON for each request follows.",
        "",
    ]
    return "\n".join(lines)


def _examples(url: str, key: str, settings: Settings) -> list[str]:
    """Commands that work as they are printed, with models of two upstreams if there are such."""
    chats = [(id, model.routes[0].upstream) for id, model in settings.models.items() if model.kind == "chat"]
    if not chats:
        return []
    model, upstream = chats[0]
    streamed = next((id for id, other in chats if other != upstream), model)
    return [
        "Try it:",
        _curl(url, key, model, "Привет! Кто ты?"),
        "",
        "The same as a stream:",
        _curl(url, key, streamed, "Tell me about Lake Baikal", stream=True),
        "",
        "With the OpenAI SDK (pip install openai):",
        "  from openai import OpenAI",
        f'  client = OpenAI(base_url="{url}/v1", api_key="{key}")',
        '  messages = [{"role": "user", "content": "Привет!"}]',
        f'  print(client.chat.completions.create(model="{model}", messages=messages).choices[0].message.content)',
        "",
    ]


def _environment(settings: Settings) -> Path:
    """What makes other commands read the configuration as this one does, for a shell's `.`."""
    return quickstart_folder(settings.store) / "environment"


def _used(settings: Settings) -> list[_Provider]:
    used = {upstream.provider for upstream in settings.upstreams.values()}
    return [provider for provider in _PROVIDERS if provider.name in used]


def _played_by(provider: _Provider, played: Sequence[_Provider]) -> str:
    if provider in played:
        return f"sandbox (set {' or '.join(provider.credentials)} for the real one)"
    return f"the real one, since {provider.given(os.environ)} is set"


def _curl(url: str, key: str, model: str, question: str, *, stream: bool = False) -> str:
    body = encode_json(
        {"model": model, **({"stream": True} if stream else {}), "messages": [{"role": "user", "content": question}]}
    ).decode()
    return (
        f"curl {'-N ' if stream else ''}{url}/v1/chat/completions -H 'Authorization: Bearer {key}'"
        f" -H 'Content-Type: application/json' -d '{body}'"
    )
