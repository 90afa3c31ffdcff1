"""`xrouter quickstart` as a stranger meets it: a real process, the commands that it prints, and how it ends."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx2
import pytest
from kit.filter_source import filter_source

from xrouter.wire import decode_json

ROOT = Path(__file__).parents[2]
OURS = re.compile(r"(GIGACHAT|YANDEX|LOCAL|XROUTER)_")
START_S = 60


@dataclass
class Quickstart:
    process: subprocess.Popen[str]
    printed: str

    @property
    def url(self) -> str:
        return self.found(r"XRouter serves at (\S+)")

    @property
    def key(self) -> str:
        return self.found(r"Your key: (\S+)")

    @property
    def curls(self) -> list[str]:
        return re.findall(r"^curl .*$", self.printed, re.MULTILINE)

    def found(self, pattern: str) -> str:
        match = re.search(pattern, self.printed, re.MULTILINE)
        assert match, self.printed
        return match[1]

    def sandbox(self) -> int:
        """The process id of its sandbox."""
        return int(Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()[0])

    def stop(self) -> int:
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(20)


SANDBOX_SAYS: Mapping[str, str] = {
    "GIGACHAT_CREDENTIALS": "c2FuZGJveC1jbGllbnQ6c2FuZGJveC1zZWNyZXQ=",
    "YANDEX_API_KEY": "sandbox-yandex-key",
    "YANDEX_FOLDER_ID": "b1gsandbox",
}


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "xrouter.cli", *arguments]


def environment(**variables: str) -> dict[str, str]:
    """This process's, without what would say something to the configuration."""
    return (
        {name: value for name, value in os.environ.items() if not OURS.match(name)} | {"XROUTER_PORT": "0"} | variables
    )


@contextmanager
def quickstart(folder: Path, **variables: str) -> Iterator[Quickstart]:
    """The shipped configuration, served from `folder` until the block ends."""
    arguments = command("quickstart", "-c", str(ROOT / "config" / "xrouter.yaml"))
    with (
        open(folder / "stderr", "a") as stderr,
        subprocess.Popen(
            arguments, cwd=folder, env=environment(**variables), stdout=subprocess.PIPE, stderr=stderr, text=True
        ) as process,
    ):
        try:
            assert process.stdout is not None
            lines = []
            for line in process.stdout:
                lines.append(line)
                if line.startswith("Ctrl-C"):
                    break
            else:
                pytest.fail((folder / "stderr").read_text())
            yield Quickstart(process, "".join(lines))
        finally:
            process.kill()


def refused(folder: Path, **variables: str) -> str:
    """What a quickstart that cannot serve says."""
    ended = subprocess.run(
        command("quickstart", "-c", str(ROOT / "config" / "xrouter.yaml")),
        cwd=folder,
        env=environment(**variables),
        capture_output=True,
        text=True,
        timeout=START_S,
    )
    assert ended.returncode == 1
    assert ended.stdout == ""
    return ended.stderr


def until(condition: Callable[[], bool], seconds: float = 10) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def alive(pid: int) -> bool:
    """Whether it runs; a zombie, whose parent has not asked yet, does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def ask(url: str, key: str, model: str) -> httpx2.Response:
    body = {"model": model, "messages": [{"role": "user", "content": "Hello"}]}
    return httpx2.post(f"{url}/v1/chat/completions", headers={"Authorization": f"Bearer {key}"}, json=body, timeout=30)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Quickstart]:
    with quickstart(tmp_path_factory.mktemp("quickstart")) as running:
        yield running


def curl(line: str) -> str:
    return subprocess.run(
        f"{line} --silent --show-error --fail", shell=True, check=True, capture_output=True, text=True, timeout=60
    ).stdout


def test_the_printed_curl_lines_work_as_they_are(served: Quickstart) -> None:
    plain, streamed = served.curls

    answer = decode_json(curl(plain))
    events = curl(streamed).split("\n\n")

    assert answer["choices"][0]["message"]["content"]
    assert answer["choices"][0]["finish_reason"] == "stop"
    assert events[-2] == "data: [DONE]"
    assert len(events) > 5


def test_the_printed_program_works_as_it_is(served: Quickstart) -> None:
    program = "\n".join(re.findall(r"^  ((?:from|client|messages|print)\b.*)$", served.printed, re.MULTILINE))

    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)

    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.strip()


@pytest.mark.parametrize("model", ["gigachat/max", "yandexgpt/pro:rc", "deepseek/deepseek-v3.2", "local/chat"])
def test_models_of_every_provider_answer(served: Quickstart, model: str) -> None:
    assert ask(served.url, served.key, model).status_code == 200


def test_it_says_that_the_sandbox_plays_and_how_to_have_the_real_one(served: Quickstart) -> None:
    assert re.search(r"GigaChat: +sandbox \(set GIGACHAT_CREDENTIALS for the real one\)", served.printed)
    assert re.search(r"YandexGPT: +sandbox \(set YANDEX_API_KEY or YANDEX_KEY_FILE or YANDEX_IAM_TOKEN", served.printed)
    assert re.search(r"OpenAI-compatible: +sandbox \(set LOCAL_BASE_URL", served.printed)


def test_the_printed_addresses_answer(served: Quickstart) -> None:
    for path in ("health", "metrics"):
        address = served.found(rf"(http\S+/{path})\b")
        assert httpx2.get(address).status_code == 200


def test_ctrl_c_ends_everything_and_the_next_run_shows_the_same_key(tmp_path: Path) -> None:
    with quickstart(tmp_path) as first:
        sandbox = first.sandbox()
        assert first.stop() == 0
    assert not alive(sandbox)
    kept = tmp_path / ".xrouter" / "first-key"
    assert kept.stat().st_mode & 0o777 == 0o600
    assert kept.parent.stat().st_mode & 0o777 == 0o700

    with quickstart(tmp_path) as second:
        assert second.key == first.key
        assert ask(second.url, second.key, "gigachat/max").status_code == 200


def xrouter(folder: Path, *arguments: str) -> Any:
    """The JSON of another command on the same database."""
    command_line = command(*arguments, "-c", str(ROOT / "config" / "xrouter.yaml"), "--json")
    ended = subprocess.run(
        command_line, cwd=folder, env=environment(**SANDBOX_SAYS), capture_output=True, check=True, timeout=60
    )
    return decode_json(ended.stdout)


def test_a_kept_key_that_is_revoked_is_replaced_and_credits_are_granted_once(tmp_path: Path) -> None:
    with quickstart(tmp_path) as first:
        pass
    (key,) = xrouter(tmp_path, "keys", "list")
    assert key["tier"] == "pro"
    xrouter(tmp_path, "keys", "revoke", key["hash"])

    with quickstart(tmp_path) as second:
        assert second.key != first.key
        assert ask(second.url, second.key, "local/chat").status_code == 200
    assert Decimal(xrouter(tmp_path, "credits", "show", "--account", "default")["balance"]) == 1000


def test_the_sandbox_dies_with_a_killed_quickstart(tmp_path: Path) -> None:
    with quickstart(tmp_path) as killed:
        sandbox = killed.sandbox()
        assert alive(sandbox)
        killed.process.kill()
        killed.process.wait(10)

        assert until(lambda: not alive(sandbox))


def test_credentials_in_the_environment_are_left_as_they_are(tmp_path: Path) -> None:
    """The address is nobody's: what matters is that the sandbox is not asked in the provider's place."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        nowhere = f"http://127.0.0.1:{unused.getsockname()[1]}/v1"
        real = {"GIGACHAT_CREDENTIALS": "cmVhbDprZXk=", "GIGACHAT_BASE_URL": nowhere, "GIGACHAT_AUTH_URL": nowhere}
        with quickstart(tmp_path, **real) as running:
            assert re.search(r"GigaChat: +the real one, since GIGACHAT_CREDENTIALS is set", running.printed)
            assert re.search(r"YandexGPT: +sandbox", running.printed)
            assert ask(running.url, running.key, "gigachat/max").status_code in (502, 503)
            assert ask(running.url, running.key, "yandexgpt/pro").status_code == 200


def test_without_need_for_it_no_sandbox_is_started(tmp_path: Path) -> None:
    real = {**SANDBOX_SAYS, "LOCAL_BASE_URL": "http://127.0.0.1:9/v1"}
    with quickstart(tmp_path, **real) as running:
        children = Path(f"/proc/{running.process.pid}/task/{running.process.pid}/children").read_text()

        assert children == ""
        assert "sandbox" not in running.printed


def test_a_taken_port_is_told_with_the_way_to_another(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        said = refused(tmp_path, XROUTER_PORT=str(port))

    assert f"cannot listen at 127.0.0.1:{port}" in said
    assert "XROUTER_PORT" in said
    assert len(said.splitlines()) == 1


def test_credentials_that_are_not_whole_are_told_at_their_place(tmp_path: Path) -> None:
    said = refused(tmp_path, YANDEX_API_KEY="a-key")

    assert re.search(r"xrouter\.yaml:\d+:\d+: .*folder", said)
    assert "a-key" not in said


def test_other_commands_read_the_configuration_with_the_printed_line(served: Quickstart) -> None:
    source = served.found(r"^  (\. /.*/environment)$")
    keys = f"{source}; {' '.join(command('keys', 'list', '-c', str(ROOT / 'config' / 'xrouter.yaml'), '--json'))}"
    folder = Path(source.removeprefix(". ")).parent.parent

    ended = subprocess.run(keys, shell=True, cwd=folder, env=environment(), capture_output=True, timeout=60)

    assert ended.returncode == 0, ended.stderr
    assert [key["name"] for key in decode_json(ended.stdout)] == ["first key"]
    assert (folder / ".xrouter" / "environment").stat().st_mode & 0o777 == 0o600


def test_a_file_that_holds_no_key_is_replaced(tmp_path: Path) -> None:
    kept = tmp_path / ".xrouter" / "first-key"
    kept.parent.mkdir()
    kept.write_text("not a key\n")

    with quickstart(tmp_path) as running:
        assert kept.read_text().strip() == running.key


def test_a_gateway_that_cannot_start_announces_nothing(tmp_path: Path) -> None:
    """The port was free, the configuration right, the key made; then a filter of the operator's own fails to start."""
    (tmp_path / "failing.py").write_text(FAILING)
    config = tmp_path / "x.yaml"
    config.write_text(
        "server: {port: 0}\n"
        "upstreams: {local: {provider: openai, base_url: 'http://127.0.0.1:9'}}\n"
        "models: {a/b: {price: free, routes: [{upstream: local, model: m}]}}\n"
        "filters: [auth, body, routing, failing:Failing]\n"
    )
    ended = subprocess.run(
        command("quickstart", "-c", str(config)),
        cwd=tmp_path,
        env=environment(**SANDBOX_SAYS, LOCAL_BASE_URL="x"),
        capture_output=True,
        text=True,
        timeout=START_S,
    )

    assert ended.returncode == 1
    assert ended.stdout == ""
    assert "no house to filter for" in ended.stderr


FAILING = filter_source("Failing", on_start='raise RuntimeError("no house to filter for")')
