"""Each scenario of the grammar, seen on the wire by a raw socket, and each way to choose one."""

import itertools
import json
import re
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import msgspec
import plain_http
import pytest

from xrouter.sandbox.credentials import SANDBOX_OPENAI_KEY, SANDBOX_YANDEX_API_KEY
from xrouter.sandbox.running import Sandbox, running_sandbox
from xrouter.sandbox.scenario import NO_SCENARIO, Scenario, ScenarioError, parse
from xrouter.sandbox.state import Token

QUESTION = "Как выучить Go?"
GIGACHAT = "/gigachat/v1/chat/completions"
NATIVE = "/yandex/foundationModels/v1/completion"
COMPATIBLE = "/yandex/v1/chat/completions"
OPENAI = "/openai/v1/chat/completions"
SSE = (GIGACHAT, COMPATIBLE, OPENAI)
ALL = (*SSE, NATIVE)


@dataclass(frozen=True)
class Answer:
    """What came. `chunks`: of the chunked encoding. `ended`: closed | reset | kept (the answer was complete)."""

    status: int
    headers: dict[str, str]
    body: bytes
    chunks: int
    ended: str

    def events(self) -> list[Any]:
        """The parsed frames of a stream, whatever its line ends."""
        lines = [line.removeprefix(b"data: ").strip() for line in self.body.splitlines()]
        return [json.loads(line) for line in lines if line and line != b"[DONE]"]


@pytest.fixture(autouse=True)
def gigachat_token(sandbox: Sandbox) -> None:
    sandbox.state.issue("token", Token("sandbox-client", "GIGACHAT_API_PERS", sandbox.state.now() + 1800))


def body_for(path: str, text: str, *, stream: bool, tools: bool = False) -> dict[str, Any]:
    function = {"name": "f", "description": "", "parameters": {"type": "object", "properties": {}}}
    if path == NATIVE:
        body: dict[str, Any] = {"modelUri": "gpt://b1gsandbox/yandexgpt", "messages": [{"role": "user", "text": text}]}
        body["completionOptions"] = {"stream": stream}
        return body | ({"tools": [{"function": function}]} if tools else {})
    model = {GIGACHAT: "GigaChat-2", COMPATIBLE: "gpt://b1gsandbox/yandexgpt", OPENAI: "sandbox-large"}[path]
    body = {"model": model, "messages": [{"role": "user", "content": text}], "stream": stream}
    if tools and path == GIGACHAT:
        body["functions"] = [function]
    elif tools:
        body["tools"] = [{"type": "function", "function": function}]
    return body


def ask(
    sandbox: Sandbox,
    path: str,
    scenario: str | None = None,
    *,
    stream: bool = True,
    text: str = QUESTION,
    tools: bool = False,
) -> Answer:
    authorization = {
        GIGACHAT: "Bearer token",
        NATIVE: f"Api-Key {SANDBOX_YANDEX_API_KEY}",
        COMPATIBLE: f"Api-Key {SANDBOX_YANDEX_API_KEY}",
        OPENAI: f"Bearer {SANDBOX_OPENAI_KEY}",
    }[path]
    body = json.dumps(body_for(path, text, stream=stream, tools=tools), ensure_ascii=False).encode()
    head = [f"POST {path} HTTP/1.1", "Host: sandbox", "User-Agent: test", f"Authorization: {authorization}"]
    head += [f"Content-Length: {len(body)}", *([f"X-Emu-Scenario: {scenario}"] if scenario is not None else [])]
    port = int(sandbox.url.rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        connection.sendall("\r\n".join([*head, "", ""]).encode() + body)
        return receive(connection)


def receive(connection: socket.socket) -> Answer:
    data, ended = b"", "kept"
    while not is_complete(data):
        try:
            piece = connection.recv(65536)
        except ConnectionResetError:
            ended = "reset"
            break
        if not piece:
            ended = "closed"
            break
        data += piece
    if not data:
        return Answer(0, {}, b"", 0, ended)
    head, _, rest = data.partition(b"\r\n\r\n")
    lines = head.decode().split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines[1:])}
    chunks = list(dechunked(rest)) if headers.get("transfer-encoding") == "chunked" else [rest]
    return Answer(int(lines[0].split()[1]), headers, b"".join(chunks), len(chunks), ended)


def is_complete(data: bytes) -> bool:
    head, end, rest = data.partition(b"\r\n\r\n")
    if not end:
        return False
    length = re.search(rb"content-length: (\d+)", head)
    return len(rest) >= int(length[1]) if length else rest.endswith(b"0\r\n\r\n")


def dechunked(data: bytes) -> Iterator[bytes]:
    while data:
        size, _, data = data.partition(b"\r\n")
        if not size or int(size, 16) == 0:
            return
        yield data[: int(size, 16)]
        data = data[int(size, 16) + 2 :]


def without_time(body: bytes) -> bytes:
    return re.sub(rb'"created":\d+', b"", body)


# Errors instead of answers


@pytest.mark.parametrize("path", ALL)
@pytest.mark.parametrize("status", [400, 402, 413, 429, 500, 503])
def test_scenario_status(sandbox: Sandbox, path: str, status: int) -> None:
    answer = ask(sandbox, path, str(status))
    assert (answer.status, answer.headers["content-type"]) == (status, "application/json")
    assert json.loads(answer.body)
    assert "retry-after" not in answer.headers


def test_scenario_retry_after(sandbox: Sandbox) -> None:
    assert ask(sandbox, OPENAI, "429,retry-after=1.5").headers["retry-after"] == "1.5"


@pytest.mark.parametrize("scenario", ["403,html", "html502"])
def test_scenario_html(sandbox: Sandbox, scenario: str) -> None:
    answer = ask(sandbox, GIGACHAT, scenario)
    assert (answer.status, answer.headers["content-type"]) == (int(re.findall(r"\d+", scenario)[0]), "text/html")
    assert b"<html>" in answer.body


@pytest.mark.parametrize("path", ALL)
def test_scenario_error_200(sandbox: Sandbox, path: str) -> None:
    answer = ask(sandbox, path, "error-200")
    assert answer.status == 200
    assert "error" in json.loads(answer.body) or json.loads(answer.body)["status"] == 500


@pytest.mark.parametrize("path", ALL)
def test_scenario_empty(sandbox: Sandbox, path: str) -> None:
    for stream in (True, False):
        answer = ask(sandbox, path, "empty", stream=stream)
        assert (answer.status, answer.body, answer.ended) == (200, b"", "kept")


def test_scenario_gzip(sandbox: Sandbox) -> None:
    answer = ask(sandbox, OPENAI, "gzip", stream=False)
    assert answer.headers["content-encoding"] == "gzip"
    assert answer.body.startswith(b"\x1f\x8b")


def test_scenario_content_type(sandbox: Sandbox) -> None:
    assert ask(sandbox, OPENAI, "content-type").headers["content-type"] == "text/html"
    assert ask(sandbox, OPENAI, "content-type=application/json").headers["content-type"] == "application/json"


# Broken connections


@pytest.mark.parametrize("path", ALL)
def test_scenario_cut(sandbox: Sandbox, path: str) -> None:
    whole, cut = ask(sandbox, path), ask(sandbox, path, "cut=2")
    assert (whole.ended, cut.ended, len(cut.events())) == ("kept", "closed", 2)
    assert without_time(whole.body).startswith(without_time(cut.body))


def test_scenario_cut_of_a_whole_answer(sandbox: Sandbox) -> None:
    cut = ask(sandbox, OPENAI, "cut=0", stream=False)
    assert (cut.status, cut.body, cut.ended) == (200, b"", "closed")
    assert int(cut.headers["content-length"]) > 0
    assert ask(sandbox, OPENAI, "cut=2", stream=False).ended == "kept"  # a whole answer is one frame


@pytest.mark.parametrize("stream", [True, False])
def test_scenario_cut_bytes(sandbox: Sandbox, stream: bool) -> None:
    whole = ask(sandbox, GIGACHAT, stream=stream).body
    for count in (1, 40, len(whole) - 1):
        cut = ask(sandbox, GIGACHAT, f"cut-bytes={count}", stream=stream)
        assert (len(cut.body), cut.ended) == (count, "closed")


def test_scenario_reset(sandbox: Sandbox) -> None:
    before = ask(sandbox, OPENAI, "reset")
    assert (before.status, before.ended) == (0, "reset")
    assert ask(sandbox, OPENAI, "reset=2").ended == "reset"


# Time


def test_scenario_latency(sandbox: Sandbox) -> None:
    start = time.monotonic()
    ask(sandbox, OPENAI, "latency=0.1", stream=False)
    assert time.monotonic() - start >= 0.1


def test_scenario_drip(sandbox: Sandbox) -> None:
    start = time.monotonic()
    events = ask(sandbox, OPENAI, "drip=0.01,long=10").events()
    assert time.monotonic() - start >= 0.01 * (len(events) - 1)


# Bytes


@pytest.mark.parametrize("path", ALL)
@pytest.mark.parametrize("how", ["byte", "utf8", "field"])
def test_scenario_split(sandbox: Sandbox, path: str, how: str) -> None:
    whole = ask(sandbox, path).events()
    answer = ask(sandbox, path, f"split={how}")
    assert "🙂".encode() in answer.body  # a character of four bytes is there to be cut
    least = {"byte": len(answer.body), "utf8": 2 * len(whole), "field": 0 if path == NATIVE else 2 * len(whole)}[how]
    assert answer.chunks >= least  # HTTP chunks, each written by itself
    assert len(answer.events()) >= len(whole)


@pytest.mark.parametrize("path", ALL)
def test_scenario_crlf_and_no_newline(sandbox: Sandbox, path: str) -> None:
    plain, crlf = ask(sandbox, path).body, ask(sandbox, path, "crlf").body
    assert b"\r\n" in crlf
    assert without_time(crlf.replace(b"\r\n", b"\n")) == without_time(plain)
    short = ask(sandbox, path, "no-newline").body
    assert plain.endswith(b"\n")
    assert not short.endswith(b"\n")


# The meaning of streams


@pytest.mark.parametrize("path", ALL)
def test_scenario_stream_error(sandbox: Sandbox, path: str) -> None:
    answer = ask(sandbox, path, "stream-error=2")
    assert (answer.status, answer.ended, len(answer.events())) == (200, "kept", 3)
    assert "error" in answer.events()[-1] or answer.events()[-1]["status"] == 500


@pytest.mark.parametrize("path", ALL)
def test_scenario_no_usage(sandbox: Sandbox, path: str) -> None:
    assert b'"usage"' in ask(sandbox, path, stream=False).body
    for stream in (True, False):
        assert b'"usage"' not in ask(sandbox, path, "no-usage", stream=stream).body


@pytest.mark.parametrize("path", ALL)
def test_scenario_no_finish(sandbox: Sandbox, path: str) -> None:
    answer = ask(sandbox, path, "no-finish")
    assert answer.ended == "kept"
    assert b"[DONE]" not in answer.body
    assert b"FINAL" not in answer.body
    assert b'"stop"' not in answer.body


@pytest.mark.parametrize("path", SSE)
def test_scenario_upper(sandbox: Sandbox, path: str) -> None:
    assert b'"finish_reason":"STOP"' in ask(sandbox, path, "upper").body


def test_scenario_empty_choices(sandbox: Sandbox) -> None:
    usual, apart = ask(sandbox, COMPATIBLE).events(), ask(sandbox, COMPATIBLE, "empty-choices").events()
    assert "usage" in usual[-1]
    assert usual[-1]["choices"]
    assert (apart[-1]["choices"], "usage" in apart[-1], "usage" in apart[-2]) == ([], True, False)


def text_of(event: dict[str, Any]) -> str:
    return event["result"]["alternatives"][0]["message"].get("text", "")


def test_scenario_rewrite(sandbox: Sandbox) -> None:
    texts = [text_of(event) for event in ask(sandbox, NATIVE, "rewrite").events()]
    kept = [longer.startswith(shorter) for shorter, longer in itertools.pairwise(texts)]
    assert kept.count(False) == 1
    assert texts[-1] == text_of(ask(sandbox, NATIVE).events()[-1])


def test_scenario_repeat(sandbox: Sandbox) -> None:
    plain, twice = ask(sandbox, NATIVE).events(), ask(sandbox, NATIVE, "repeat").events()
    assert twice == [event for event in plain for _ in range(2)]


def test_scenario_sse(sandbox: Sandbox) -> None:
    answer = ask(sandbox, NATIVE, "sse")
    assert all(line.startswith(b"data: ") for line in answer.body.splitlines() if line)
    assert answer.events() == ask(sandbox, NATIVE).events()


def test_scenario_no_defaults(sandbox: Sandbox) -> None:
    result = json.loads(ask(sandbox, NATIVE, "no-defaults", stream=False).body)["result"]
    assert "completionTokensDetails" not in result["usage"]


@pytest.mark.parametrize("path", ALL)
@pytest.mark.parametrize("scenario", ["filter", "blacklist", "replace", "filter=1"])
def test_scenario_filter(sandbox: Sandbox, path: str, scenario: str) -> None:
    finish = {GIGACHAT: b'"blacklist"', NATIVE: b'"ALTERNATIVE_STATUS_CONTENT_FILTER"'}.get(path, b'"content_filter"')
    whole = ask(sandbox, path, scenario, stream=False)
    assert finish in whole.body
    assert "Я не могу обсуждать".encode() in whole.body
    stream = ask(sandbox, path, scenario)
    before = {"replace": 2, "filter=1": 1}.get(scenario, 0)
    frames = len(stream.events())
    assert frames == before + {GIGACHAT: 2, NATIVE: 1}.get(path, 3)
    assert finish in stream.body


@pytest.mark.parametrize("path", ALL)
def test_scenario_length(sandbox: Sandbox, path: str) -> None:
    finish = b"TRUNCATED_FINAL" if path == NATIVE else b'"length"'
    assert finish in ask(sandbox, path, "length").body


@pytest.mark.parametrize("path", ALL)
def test_scenario_long(sandbox: Sandbox, path: str) -> None:
    body = ask(sandbox, path, "long=500", stream=False).body
    assert re.search(rb'"completion_?[tT]okens":"?500"?', body)


@pytest.mark.parametrize("path", ALL)
def test_scenario_tool(sandbox: Sandbox, path: str) -> None:
    greeting = ask(sandbox, path, text="Привет", stream=False, tools=True).body
    called = ask(sandbox, path, "tool", text="Привет", stream=False, tools=True).body
    assert [b'"name":"f"' in body for body in (greeting, called)] == [False, True]
    many = ask(sandbox, path, "tool=3", stream=False, tools=True).body
    assert many.count(b'"name":"f"') == (1 if path == GIGACHAT else 3)


def test_scenario_error(sandbox: Sandbox) -> None:
    assert b'"finish_reason":"error"' in ask(sandbox, GIGACHAT, "error").body


@pytest.mark.parametrize("path", SSE)
def test_scenario_reasoning(sandbox: Sandbox, path: str) -> None:
    for stream in (True, False):
        answer = ask(sandbox, path, "reasoning", stream=stream).body.decode()
        assert "reasoning_content" in answer
        assert "<think>" not in answer


@pytest.mark.parametrize("path", ALL)
def test_scenario_think(sandbox: Sandbox, path: str) -> None:
    assert "<think>Пользователь" in ask(sandbox, path, "think", stream=False).body.decode()


# Ways to choose


def test_the_header_wins_over_the_mark_and_the_mark_over_the_queue(sandbox: Sandbox) -> None:
    sandbox.state.choose("503")
    marked = f"{QUESTION} [[emu:500]]"
    assert ask(sandbox, OPENAI, "429", text=marked).status == 429
    assert ask(sandbox, OPENAI, text=marked).status == 500
    assert ask(sandbox, OPENAI).status == 503
    assert ask(sandbox, OPENAI).status == 200


@pytest.mark.parametrize("path", ALL)
def test_a_mark_is_not_part_of_the_question(sandbox: Sandbox, path: str) -> None:
    answer = ask(sandbox, path, text=f"{QUESTION} [[emu:latency=0]]", stream=False)
    assert answer.status == 200
    assert b"emu" not in answer.body


def test_only_the_newest_message_chooses(sandbox: Sandbox) -> None:
    messages = [
        {"role": "user", "content": "[[emu:500]]"},
        {"role": "assistant", "content": "…"},
        {"role": "user", "content": [{"type": "text", "text": "Привет"}]},
    ]
    headers = {"Authorization": f"Bearer {SANDBOX_OPENAI_KEY}"}
    body = {"model": "sandbox-large", "messages": messages}
    assert plain_http.post(f"{sandbox.openai_url}/chat/completions", headers=headers, json=body).status_code == 200
    messages[2]["content"][0]["text"] = "Привет [[emu:429]]"
    assert plain_http.post(f"{sandbox.openai_url}/chat/completions", headers=headers, json=body).status_code == 429


def test_a_mark_in_a_prompt_and_in_an_input(sandbox: Sandbox) -> None:
    headers = {"Authorization": f"Bearer {SANDBOX_OPENAI_KEY}"}
    for path, body in (("completions", {"prompt": "[[emu:500]]"}), ("embeddings", {"input": ["a", "[[emu:500]]"]})):
        answer = plain_http.post(f"{sandbox.openai_url}/{path}", headers=headers, json={"model": "x", **body})
        assert answer.status_code == 500


def test_times_counts_the_first_requests_and_starts_again(sandbox: Sandbox) -> None:
    marked = f"{QUESTION} [[emu:429,times=2]]"
    assert [ask(sandbox, OPENAI, text=marked).status for _ in range(6)] == [429, 429, 200, 429, 429, 200]
    assert [ask(sandbox, OPENAI, "500,times=1").status for _ in range(4)] == [500, 200, 500, 200]


def test_the_admin_api_chooses_and_looks(sandbox: Sandbox) -> None:
    order = {"name": "429,retry-after=1", "times": 2, "provider": "yandex", "path": "/completion"}
    assert plain_http.post(f"{sandbox.admin_url}/scenario", json=order).json()["times"] == 2
    assert ask(sandbox, OPENAI).status == 200
    assert [ask(sandbox, NATIVE).status for _ in range(3)] == [429, 429, 200]
    seen = plain_http.get(f"{sandbox.admin_url}/state").json()
    assert seen["calls"]["yandex /foundationModels/v1/completion"] == 3
    assert seen["statuses"]["yandex 429"] == 2
    newest = plain_http.get(f"{sandbox.admin_url}/requests").json()[-1]
    assert newest["headers"]["authorization"] == f"Api-Key {SANDBOX_YANDEX_API_KEY}"
    assert json.loads(newest["body"])["messages"][0]["text"] == QUESTION
    assert plain_http.post(f"{sandbox.admin_url}/clock", json={"advance_s": 60}).json()["offset_s"] == 60
    assert plain_http.post(f"{sandbox.admin_url}/reset").status_code == 200
    assert plain_http.get(f"{sandbox.admin_url}/state").json()["clock_offset_s"] == 0
    assert "private_key" in plain_http.post(f"{sandbox.admin_url}/yandex/service-account-key").json()
    assert plain_http.post(f"{sandbox.admin_url}/tokens/revoke").status_code == 200
    assert plain_http.get(f"{sandbox.admin_url}/nothing").status_code == 404


@pytest.mark.parametrize("order", [{"name": "no-such-thing"}, {"name": "429", "times": 0}, {"typo": 1}, []])
def test_the_admin_api_refuses_what_it_does_not_understand(sandbox: Sandbox, order: Any) -> None:
    assert plain_http.post(f"{sandbox.admin_url}/scenario", json=order).status_code == 400


def test_the_configurations_scenario_is_for_all_the_others() -> None:
    with running_sandbox(scenario=parse("503,times=1")) as sandbox:
        assert [ask(sandbox, OPENAI).status for _ in range(3)] == [503, 200, 503]
        assert ask(sandbox, OPENAI, "429").status == 429


def test_an_unreadable_scenario_is_told(sandbox: Sandbox) -> None:
    answer = ask(sandbox, OPENAI, "cuts=3")
    assert answer.status == 400
    assert "unknown name 'cuts'" in json.loads(answer.body)["error"]["message"]


# The grammar


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", NO_SCENARIO),
        ("429", Scenario(status=429)),
        ("429;retry-after=1.5 times=2", Scenario(status=429, retry_after=1.5, times=2)),
        ("Cut=3", Scenario(cut=3)),
        ("cut", Scenario(cut=3)),
        ("stream_error=1", Scenario(stream_error=1)),
        ("crlf,no-newline", Scenario(crlf=True, no_newline=True)),
        ("crlf=false", NO_SCENARIO),
        ("html403", Scenario(status=403, html=True)),
        ("replace", Scenario(filter=2)),
    ],
)
def test_grammar(text: str, expected: Scenario) -> None:
    assert parse(text) == expected


@pytest.mark.parametrize("text", ["200", "600", "cut=-1", "cut=x", "split=half", "times=0", "drip=1e9", "=", "tool=9"])
def test_grammar_refuses(text: str) -> None:
    with pytest.raises(ScenarioError):
        parse(text)


def test_a_scenario_says_itself_shortly() -> None:
    assert msgspec.json.encode(parse("429")) == b'{"status":429}'
