"""The sandbox as a process, over TLS, in a thread, and its state."""

import json
import re
import signal
import ssl
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import msgspec
import plain_http
import pytest
import trustme
from gigachat import GigaChat

from xrouter.sandbox.config import SandboxConfig
from xrouter.sandbox.credentials import SANDBOX_GIGACHAT_CREDENTIALS, SANDBOX_OPENAI_KEY
from xrouter.sandbox.running import Sandbox, running_sandbox
from xrouter.sandbox.scenario import Scenario
from xrouter.sandbox.serving import TlsFiles
from xrouter.sandbox.state import RecordedRequest, SandboxState

ROOT = Path(__file__).parents[2]
RUN = (
    "import argparse, sys\n"
    "from xrouter.commands import sandbox\n"
    "parser = argparse.ArgumentParser()\n"
    "sandbox.add_parser(parser.add_subparsers())\n"
    "args = parser.parse_args(sys.argv[1:])\n"
    "sys.exit(args.run(args))\n"
)
CHAT = {"model": "sandbox-large", "messages": [{"role": "user", "content": "Hi"}]}
KEY = {"Authorization": f"Bearer {SANDBOX_OPENAI_KEY}"}


@contextmanager
def process(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    running = subprocess.Popen(
        [sys.executable, "-c", RUN, "sandbox", *arguments],
        cwd=ROOT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        yield running
    finally:
        running.kill()
        running.communicate()


def test_command_as_json(tmp_path: Path) -> None:
    key_file = tmp_path / "key.json"
    arguments = ("--port", "0", "--oauth-port", "0", "--json", "--scenario", "length")
    with process(*arguments, "--service-account-key", str(key_file)) as running:
        assert running.stdout is not None
        told = json.loads(running.stdout.readline())
        answer = plain_http.post(f"{told['openai_url']}/chat/completions", headers=KEY, json=CHAT).json()
        assert answer["choices"][0]["finish_reason"] == "length"
        assert httpx.URL(told["gigachat_auth_url"]).port != httpx.URL(told["gigachat_url"]).port
        with GigaChat(
            base_url=told["environ"]["GIGACHAT_BASE_URL"],
            auth_url=told["environ"]["GIGACHAT_AUTH_URL"],
            credentials=told["environ"]["GIGACHAT_CREDENTIALS"],
        ) as client:
            assert client.get_models().data
        assert key_file.stat().st_mode & 0o077 == 0
        assert json.loads(key_file.read_bytes())["key_algorithm"] == "RSA_2048"
        running.send_signal(signal.SIGINT)
        assert running.wait(10) == 0


def test_command_as_text() -> None:
    with process("--port", "0", "--natural") as running:
        assert running.stdout is not None
        lines = [running.stdout.readline() for _ in range(6)]
        address = re.search(r"http://127.0.0.1:\d+/openai/v1", "".join(lines))
        assert address is not None
        assert plain_http.get(f"{address[0]}/models", headers=KEY).status_code == 200
        running.terminate()
        assert running.wait(10) in (0, -signal.SIGTERM)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--scenario", "nothing"], 2, "unknown name 'nothing'"),
        (["--port", "70000"], 2, "is not a port"),
        (["--pers-concurrency", "0"], 2, "is not a positive number"),
        (["--cert", "a.pem"], 2, "--cert and --key belong together"),
        (["--host", "203.0.113.1", "--port", "0"], 1, "xrouter sandbox: "),
    ],
)
def test_command_says_what_is_wrong(arguments: list[str], code: int, message: str) -> None:
    with process(*arguments) as running:
        _, errors = running.communicate(timeout=20)
        assert running.returncode == code
    assert message in errors
    assert "Traceback" not in errors


def test_tls_with_a_private_authority(tmp_path: Path) -> None:
    authority = trustme.CA()
    certificate = authority.issue_cert("localhost")
    files = TlsFiles(str(tmp_path / "cert.pem"), str(tmp_path / "key.pem"))
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    certificate.private_key_pem.write_to_path(files.key_file)
    for blob in certificate.cert_chain_pems:
        blob.write_to_path(files.cert_file, append=True)
    with running_sandbox(tls=files) as sandbox:
        assert sandbox.url.startswith("https://localhost:")
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{sandbox.admin_url}/state", trust_env=False)
        settings: dict[str, Any] = {"auth_url": sandbox.gigachat_auth_url, "credentials": SANDBOX_GIGACHAT_CREDENTIALS}
        with GigaChat(base_url=sandbox.gigachat_url, ssl_context=trusting, **settings) as client:
            assert client.get_models().data


def test_a_running_sandbox_ends_at_once_with_streams_open(sandbox: Sandbox) -> None:
    with running_sandbox() as other:
        body = {**CHAT, "stream": True}
        url = f"{other.openai_url}/chat/completions"
        headers = {**KEY, "X-Emu-Scenario": "drip=600"}
        client = httpx.Client(verify=False)
        stream = client.send(client.build_request("POST", url, headers=headers, json=body), stream=True)
        assert other.state.snapshot().in_flight == {"openai": 1}
    stream.close()
    client.close()


def test_environ_points_the_gateways_configuration_here(sandbox: Sandbox) -> None:
    text = (ROOT / "config" / "xrouter.yaml").read_text()
    assert set(sandbox.environ) <= set(re.findall(r"\$\{(\w+)", text))


def test_a_body_over_the_limit_is_413() -> None:
    with running_sandbox(max_body_bytes=1000) as sandbox:
        answer = plain_http.post(f"{sandbox.openai_url}/chat/completions", headers=KEY, content=b"x" * 100_000)
        assert answer.status_code == 413


# The state


def test_everything_is_the_same_after_a_reset(sandbox: Sandbox) -> None:
    def run() -> list[dict[str, str]]:
        url = f"{sandbox.openai_url}/chat/completions"
        answers = [plain_http.post(url, headers=KEY, json=CHAT) for _ in range(2)]
        return [{"body": each.text, "id": each.headers["x-request-id"]} for each in answers]

    first = run()
    sandbox.state.reset()
    second = run()
    strip = re.compile(r'"created":\d+')
    assert [(strip.sub("", each["body"]), each["id"]) for each in first] == [
        (strip.sub("", each["body"]), each["id"]) for each in second
    ]


def test_requests_are_kept_and_found(sandbox: Sandbox) -> None:
    plain_http.post(f"{sandbox.openai_url}/chat/completions", headers=KEY, json=CHAT)
    plain_http.get(f"{sandbox.openai_url}/models/sandbox-large", headers=KEY)
    state = sandbox.state
    assert state.last("openai", "/completions").headers["authorization"] == f"Bearer {SANDBOX_OPENAI_KEY}"
    assert msgspec.json.decode(state.last("openai", "/completions").body) == CHAT
    assert [each.method for each in state.requests_of("openai")] == ["POST", "GET"]
    assert (state.count("openai"), state.count("openai", "/v1/models/{id}"), state.count("gigachat")) == (2, 1, 0)
    with pytest.raises(LookupError):
        state.last("gigachat")


def test_only_the_newest_requests_are_kept_and_long_bodies_shortened() -> None:
    state = SandboxState(SandboxConfig(recorded_requests=2))
    for number in range(3):
        recorded = RecordedRequest("openai", "POST", f"/{number}", {}, b"x" * (2 << 20), 0.0)
        with state.request(recorded, "/"):
            assert state.in_flight["openai"].now == 1
    assert [each.path for each in state.requests] == ["/1", "/2"]
    assert {len(each.body) for each in state.requests} == {1 << 20}


def test_chosen_scenarios_are_used_up_in_order() -> None:
    state = SandboxState(SandboxConfig())
    state.choose("429", provider="yandex", times=2)
    state.choose(Scenario(status=500), path="/embeddings")
    taken = [
        state.queued(*each)
        for each in (("yandex", "/a"), ("openai", "/embeddings"), ("yandex", "/a"), ("yandex", "/a"))
    ]
    assert taken == [Scenario(status=429), Scenario(status=500), Scenario(status=429), None]


def test_an_issued_token_costs_no_memory_for_ever() -> None:
    with running_sandbox(oauth_per_s=None, token_ttl_s=60) as sandbox:
        state = sandbox.state
        with httpx.Client(verify=False) as client:
            for _ in range(3):
                for _ in range(401):
                    headers = {
                        "Authorization": f"Basic {SANDBOX_GIGACHAT_CREDENTIALS}",
                        "RqUID": str(state.unique_id("test")),
                    }
                    client.post(sandbox.gigachat_auth_url, headers=headers, data={"scope": "GIGACHAT_API_PERS"})
                state.advance(61)
        assert len(state.tokens) < 1000
