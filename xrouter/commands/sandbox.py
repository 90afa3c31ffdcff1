"""`xrouter sandbox`: the provider emulators alone."""

import argparse
import os
import sys
from collections.abc import Mapping
from pathlib import Path

from xrouter.sandbox import credentials
from xrouter.sandbox.addresses import Addresses
from xrouter.sandbox.config import SandboxConfig
from xrouter.sandbox.scenario import NO_SCENARIO, Scenario, ScenarioError, parse
from xrouter.sandbox.serving import TlsFiles, run_until_signal
from xrouter.sandbox.state import SandboxState
from xrouter.sandbox.yandex_iam import new_service_account_key
from xrouter.wire import encode_json


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = subparsers.add_parser(
        "sandbox",
        help="run the provider emulators alone",
        description="Run the emulators of GigaChat, YandexGPT and OpenAI: no credentials, no network, no cost. It prints the"
        " addresses and the credentials that it accepts. docs/sandbox.md tells what it can do.",
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument("--port", type=_port, default=8090, help="port; 0: any free one (default: %(default)s)")
    parser.add_argument("--oauth-port", type=_port, help="a second port, for GigaChat's sign-in")
    parser.add_argument(
        "--scenario",
        type=_scenario,
        default=NO_SCENARIO,
        metavar="LIST",
        help="how to answer requests that do not choose themselves, such as latency=0.5 or 429,times=2",
    )
    pace = parser.add_mutually_exclusive_group()
    pace.add_argument("--natural", action="store_true", help="answer at a model's pace")
    pace.add_argument("--fast", action="store_true", help="keep no requests for /admin/requests: for measurements")
    parser.add_argument("--pers-concurrency", type=_positive, default=1, metavar="N", help=_CONCURRENCY_HELP)
    parser.add_argument(
        "--generations", type=_positive, default=10, metavar="N", help="simultaneous YandexGPT generations"
    )
    parser.add_argument("--cert", metavar="FILE", help="serve TLS with this certificate (PEM, with its chain)")
    parser.add_argument("--key", metavar="FILE", help="the certificate's key (PEM)")
    parser.add_argument(
        "--service-account-key", type=Path, metavar="FILE", help="write a fresh Yandex service account key to FILE"
    )
    parser.add_argument(
        "--json", action="store_true", help="when ready, print one JSON object with addresses and credentials"
    )
    parser.set_defaults(run=run)


_CONCURRENCY_HELP = "simultaneous requests of a GigaChat individual (default: %(default)s, as the real one)"


def run(args: argparse.Namespace) -> int:
    if bool(args.cert) != bool(args.key):
        print("xrouter sandbox: --cert and --key belong together", file=sys.stderr)
        return 2
    tls = TlsFiles(args.cert, args.key) if args.cert else None
    config = SandboxConfig(
        scenario=args.scenario,
        natural=args.natural,
        recorded_requests=0 if args.fast else 50,
        pers_concurrency=args.pers_concurrency,
        generations=args.generations,
    )
    state = SandboxState(config)

    def announce(ports: tuple[int, ...]) -> None:
        addresses = Addresses(args.host, ports[0], tls=tls is not None, oauth_port=ports[-1])
        print(_as_json(addresses) if args.json else _as_text(addresses), flush=True)

    try:
        if args.service_account_key is not None:
            _write_private(args.service_account_key, encode_json(new_service_account_key(state)))
        ports = (args.port,) if args.oauth_port is None else (args.port, args.oauth_port)
        run_until_signal(state, args.host, ports, tls, announce)
    except OSError as problem:
        print(f"xrouter sandbox: {problem}", file=sys.stderr)
        return 1
    return 0


def _write_private(path: Path, content: bytes) -> None:
    """A file that only its owner may read, as a key's is to be."""
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(content)


def _credentials() -> Mapping[str, str]:
    return {
        "gigachat_credentials": credentials.SANDBOX_GIGACHAT_CREDENTIALS,
        "yandex_api_key": credentials.SANDBOX_YANDEX_API_KEY,
        "yandex_folder": credentials.SANDBOX_YANDEX_FOLDER,
        "openai_key": credentials.SANDBOX_OPENAI_KEY,
    }


def _as_json(addresses: Addresses) -> str:
    told = {
        "url": addresses.url,
        "gigachat_url": addresses.gigachat_url,
        "gigachat_auth_url": addresses.gigachat_auth_url,
        "yandex_url": addresses.yandex_url,
        "yandex_openai_url": addresses.yandex_openai_url,
        "yandex_iam_url": addresses.yandex_iam_url,
        "openai_url": addresses.openai_url,
        "admin_url": addresses.admin_url,
        **_credentials(),
        "environ": addresses.environ,
    }
    return encode_json(told).decode()


def _as_text(addresses: Addresses) -> str:
    lines = [
        "The sandbox answers as:",
        f"  GigaChat      {addresses.gigachat_url}   sign-in {addresses.gigachat_auth_url}",
        f"  YandexGPT     {addresses.yandex_url}   OpenAI-compatible {addresses.yandex_openai_url}",
        f"  OpenAI        {addresses.openai_url}",
        f"  its controls  {addresses.admin_url}/state",
        "To point a gateway here:",
        *(f"  export {name}={value}" for name, value in addresses.environ.items()),
    ]
    return "\n".join(lines)


def _port(text: str) -> int:
    if not text.isdigit() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port")
    return int(text)


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive number")
    return int(text)


def _scenario(text: str) -> Scenario:
    try:
        return parse(text)
    except ScenarioError as problem:
        raise argparse.ArgumentTypeError(str(problem)) from None
