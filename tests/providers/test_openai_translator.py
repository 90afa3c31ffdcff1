"""OpenAI-compatible upstreams: what is passed on untouched, what is changed, what is understood. Without a network."""

from typing import Any

import pytest
from kit.runs import alone

from xrouter.config.settings import ModelSettings, RouteSettings
from xrouter.context import Call, Target
from xrouter.errors import UpstreamProtocolError, XRouterError
from xrouter.events import Answer, Event, Finish, Usage, Verbatim
from xrouter.providers.base import Purpose
from xrouter.providers.openai import OpenAI
from xrouter.secret import Secret
from xrouter.surfaces.openai import read_call
from xrouter.upstream.base import UpstreamAnswer, UpstreamRequest
from xrouter.wire import decode_json, encode_json
from xrouter.world import RealWorld

KEY = "sk-upstream-key-1234567"
MODEL = ModelSettings(routes=(RouteSettings(upstream="u", model="m"),))
PURPOSE = Purpose("gen-1", "req-1", "c", MODEL)
HEADERS = ((b"content-type", b"text/event-stream"),)
JSON = ((b"content-type", b"application/json"),)
CHAT: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "Привет 👋"}]}


def provider(**config: Any) -> OpenAI:
    settings = OpenAI.Config(provider="openai", base_url="http://u/v1/", api_key=Secret(KEY), **config)
    return OpenAI(settings, RealWorld())


def call(body: dict[str, Any], kind: str = "chat") -> Call:
    return read_call(kind, encode_json(body))


def sent(asked: Call, **config: Any) -> UpstreamRequest:
    request = provider(**config).translator(asked, Target("u", "m", "a/m"), PURPOSE).exchange()
    assert isinstance(request, UpstreamRequest)
    return request


def translator(stream: bool, kind: str = "chat") -> Any:
    body = {"model": "m", "input": "x"} if kind == "embeddings" else {**CHAT, "stream": stream}
    return provider().translator(call(body, kind), Target("u", "m", "a/m"), PURPOSE)


def test_a_request_that_needs_no_change_is_the_very_bytes() -> None:
    for body in (
        CHAT,
        {**CHAT, "seed": 7, "unknown_field": {"a": [1, None]}},
        {**CHAT, "stream": True, "stream_options": {"include_usage": True}},
    ):
        asked = call(body)
        request = sent(asked)
        assert request.body is asked.raw
        assert request.url == "http://u/v1/chat/completions"
        assert request.method == "POST"


def test_what_is_changed_and_nothing_else() -> None:
    body = {**CHAT, "model": "alias", "provider": {"order": ["u"]}, "models": ["b"], "usage": {"include": True},
            "session_id": "s", "unknown_field": 1, "user": "u-1"}  # fmt: skip
    assert decode_json(sent(call(body)).body) == {**CHAT, "unknown_field": 1, "user": "u-1"}


@pytest.mark.parametrize(
    ("fields", "stream_usage", "expected"),
    [
        ({"stream": True}, True, {"include_usage": True}),
        ({"stream": True, "stream_options": {"include_usage": False, "x": 1}}, True, {"include_usage": True, "x": 1}),
        ({"stream": True, "stream_options": {"include_usage": True}}, False, None),
        ({"stream": True}, False, None),
        ({"stream_options": {"include_usage": True}}, True, None),
        ({"stream": False, "stream_options": None}, True, None),
    ],
)
def test_usage_is_asked_for_in_streams(
    fields: dict[str, Any], stream_usage: bool, expected: dict[str, Any] | None
) -> None:
    assert decode_json(sent(call({**CHAT, **fields}), stream_usage=stream_usage).body).get("stream_options") == expected


@pytest.mark.parametrize(
    ("kind", "body", "path"),
    [
        ("completions", {"model": "m", "prompt": "x"}, "/completions"),
        ("embeddings", {"model": "m", "input": [[1, 2]]}, "/embeddings"),
    ],
)
def test_the_other_endpoints(kind: str, body: dict[str, Any], path: str) -> None:
    request = sent(call(body, kind))
    assert request.url == "http://u/v1" + path
    assert decode_json(request.body) == body


def test_a_model_honours_what_is_of_its_kind() -> None:
    """Fails where an embedding model is listed under `supported_parameters=tools`, as it was."""
    honoured = [
        provider().parameters(ModelSettings(routes=MODEL.routes, **fields), Target("m", "u", "m"))
        for fields in ({"kind": "embedding"}, {}, {"tools": False})
    ]
    embedding, chat, plain = honoured
    assert embedding == {"dimensions", "encoding_format"}
    assert {"tools", "function_call", "temperature"} <= chat
    assert chat.isdisjoint(embedding)
    assert chat - plain == {"tools", "tool_choice", "parallel_tool_calls", "functions", "function_call"}


def chunk(delta: dict[str, Any] | None, finish: str | None = None, **more: Any) -> bytes:
    choices = [] if delta is None else [{"index": 0, "delta": delta, "finish_reason": finish}]
    body = {"id": "up-1", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": choices, **more}
    return b"data: " + encode_json(body) + b"\n\n"


USAGE = {"prompt_tokens": 9, "completion_tokens": 4, "prompt_tokens_details": {"cached_tokens": 2}}
STREAM = (
    chunk({"role": "assistant", "content": ""})
    + b": a comment\n\n"
    + chunk({"content": "Привет, "})
    + chunk({"content": "мир 👋"})
    + chunk({}, "stop")
    + chunk(None, usage=USAGE)
    + b"data: [DONE]\n\n"
)


def test_a_stream_cut_anywhere_is_the_same() -> None:
    for at in range(len(STREAM)):
        reader = translator(stream=True)
        reader.started(200, HEADERS)
        events: list[Event] = [*reader.feed(STREAM[:at]), *reader.feed(STREAM[at:]), *reader.finish()]
        assert "".join(event.text for event in events) == "Привет, мир 👋"
        assert [event for event in events if isinstance(event, Finish)] == [Finish("stop", "stop")]
        assert reader.usage == Usage(9, 4, cached_tokens=2)
        assert reader.complete
        assert reader.upstream_id == "up-1"


def test_chunks_of_text_are_passed_on_untouched() -> None:
    reader = translator(stream=True)
    reader.started(200, HEADERS)
    events = alone(reader.feed(STREAM))
    data = [event.data for event in events if isinstance(event, Verbatim)]
    assert data == [line.removeprefix(b"data: ") for line in STREAM.split(b"\n\n")[:5] if line.startswith(b"data")]


def test_usage_in_every_chunk_is_taken_out() -> None:
    """Some servers count as they go; the client gets usage once, at the end, from the gateway."""
    reader = translator(stream=True)
    reader.started(200, HEADERS)
    events = reader.feed(
        chunk({"content": "a"}, usage={"prompt_tokens": 1, "completion_tokens": 1})
        + chunk({"content": "b"}, "stop", usage={"prompt_tokens": 1, "completion_tokens": 2})
    )
    assert all("usage" not in event.body for event in events if isinstance(event, Verbatim))
    assert reader.usage == Usage(1, 2)


@pytest.mark.parametrize(
    "usage", [{"prompt_tokens": 9}, {"prompt_tokens": 9, "completion_tokens": None}, {"completion_tokens": 4}]
)
def test_usage_that_leaves_out_a_part_is_none(usage: dict[str, int | None]) -> None:
    """Then all is counted here (promise 5). Fails where an answer's tokens that are not told are taken as zero."""
    reader = translator(stream=True)
    reader.started(200, HEADERS)
    reader.feed(chunk({"content": "a"}, "stop") + chunk(None, usage=usage))
    assert reader.usage is None


@pytest.mark.parametrize(
    "data",
    [
        b"data: {}\n\n",
        b"data: []\n\n",
        b"data: {\n\n",
        b'data: {"choices": {}}\n\n',
        b'data: {"error": {"message": "no"}}\n\n',
        b'data: {"error": "no"}\n\n',
        b"data: " + b"[" * 100_000 + b"\n\n",
        b"data: \xff\n\n",
    ],
)
def test_a_chunk_that_is_none(data: bytes) -> None:
    reader = translator(stream=True)
    reader.started(200, HEADERS)
    with pytest.raises(XRouterError):
        reader.feed(data)


@pytest.mark.parametrize(
    ("native", "reason"),
    [("LENGTH", "length"), ("eos", "stop"), ("function_call", "function_call"), ("tool_calls", "tool_calls")],
)
@pytest.mark.parametrize("usage", [{}, {"usage": USAGE}])
def test_clients_get_a_finish_reason_that_they_know(native: str, reason: str, usage: dict[str, Any]) -> None:
    """Fails where an upstream's own word is passed on: `choices[].finish_reason` is an enumeration to clients."""
    reader = translator(stream=True)
    reader.started(200, HEADERS)
    *_, last = [event for event in reader.feed(chunk({}, native, **usage)) if isinstance(event, Verbatim)]
    whole = translator(stream=False)
    whole.started(200, JSON)
    message = {"index": 0, "message": {"role": "assistant", "content": "x"}, "finish_reason": native}
    whole.feed(encode_json({"id": "up-1", "choices": [message], "usage": USAGE}))
    answer = whole.finish()[0]
    assert isinstance(answer, Answer)
    for choice in (decode_json(last.data)["choices"][0], answer.body["choices"][0]):
        assert choice["finish_reason"] == reason
        assert choice.get("native_finish_reason", reason) == native


def test_an_empty_finish_reason_is_none() -> None:
    """Fails where '' is taken for the end: a stream that was cut would then pass for a whole one."""
    reader = translator(stream=True)
    reader.started(200, HEADERS)
    events = reader.feed(chunk({"content": "a"}, "") + chunk({"content": "b"}, ""))
    assert not [event for event in events if isinstance(event, Finish)]
    with pytest.raises(UpstreamProtocolError):
        reader.finish()


def test_counts_in_another_form_are_counts() -> None:
    reader = translator(stream=True)
    reader.started(200, HEADERS)
    reader.feed(chunk({}, "stop", usage={"prompt_tokens": "9", "completion_tokens": 4.0}))
    assert reader.usage == Usage(9, 4)


def test_a_model_may_speak_of_errors_and_usage() -> None:
    """The quick look at a chunk is not fooled by words inside its strings."""
    reader = translator(stream=True)
    reader.started(200, HEADERS)
    words = '{"error": {"message": "x"}, "usage": {}, "finish_reason": "stop", "choices": []}'
    events = [*reader.feed(chunk({"content": ""})), *reader.feed(chunk({"content": words}))]
    assert "".join(event.text for event in events) == words
    assert not [event for event in events if isinstance(event, Finish)]


def test_a_stream_that_just_ends() -> None:
    reader = translator(stream=True)
    reader.started(200, HEADERS)
    reader.feed(chunk({"content": "a"}))
    with pytest.raises(UpstreamProtocolError):
        reader.finish()


def test_a_stream_with_a_finish_and_no_done_is_whole() -> None:
    reader = translator(stream=True)
    reader.started(200, HEADERS)
    reader.feed(chunk({"content": "a"}, "length"))
    reader.finish()


def test_nothing_counts_after_done() -> None:
    reader = translator(stream=True)
    reader.started(200, HEADERS)
    assert reader.feed(STREAM + chunk({"content": "more"}) + b"data: rubbish\n\n")[-1] == Finish("stop", "stop")


def test_a_whole_answer() -> None:
    reader = translator(stream=False)
    reader.started(200, JSON)
    body = {
        "id": "up",
        "model": "m-1",
        "choices": [{"message": {"content": "x"}, "finish_reason": "length"}],
        "usage": USAGE,
    }
    data = encode_json(body)
    assert [*reader.feed(data[:10]), *reader.feed(data[10:])] == []
    assert reader.finish() == [Answer(body), Finish("length", "length")]
    assert reader.usage == Usage(9, 4, cached_tokens=2)
    assert reader.upstream_model == "m-1"


@pytest.mark.parametrize(
    ("stream", "kind"), [(True, b"text/html"), (False, b"text/html"), (False, b"text/event-stream")]
)
def test_a_content_type_that_cannot_be(stream: bool, kind: bytes) -> None:
    with pytest.raises(UpstreamProtocolError):
        translator(stream=stream).started(200, ((b"content-type", kind),))


@pytest.mark.parametrize(
    ("status", "body", "expected", "kind"),
    [
        (400, {"error": {"message": "bad"}}, 400, "invalid_request_error"),
        (422, {"detail": "bad"}, 400, "invalid_request_error"),
        (400, {"error": {"message": "x", "code": "context_length_exceeded"}}, 400, "context_length_exceeded"),
        (400, {"error": {"message": "This model's maximum context length is 8192"}}, 400, "context_length_exceeded"),
        (401, {"error": {"message": f"wrong key {KEY}"}}, 502, "upstream_auth_error"),
        (402, {}, 402, "insufficient_quota"),
        (403, {"error": {"message": "no"}}, 403, "permission_denied"),
        (404, {"error": {"message": "no"}}, 404, "model_not_found"),
        (408, {}, 504, "upstream_timeout"),
        (413, {"error": {}}, 400, "context_length_exceeded"),
        (429, {"error": {"code": "insufficient_quota"}}, 402, "insufficient_quota"),
        (429, {"error": {"message": "slow"}}, 429, "rate_limit_exceeded"),
        (500, {}, 502, "upstream_error"),
        (503, {}, 503, "upstream_error"),
        (504, {}, 504, "upstream_timeout"),
        (418, {}, 502, "upstream_protocol_error"),
        (301, {}, 502, "upstream_protocol_error"),
    ],
)
def test_what_errors_mean(status: int, body: dict[str, Any], expected: int, kind: str) -> None:
    error = translator(stream=False).error(UpstreamAnswer(status, ((b"retry-after", b"3"),), encode_json(body)))
    assert (error.status, error.type) == (expected, kind)
    assert KEY not in error.message + (error.detail or "")
    if status in (429, 500, 503) and kind != "insufficient_quota":
        assert error.retry_after_s == 3


def test_the_list_of_models() -> None:
    this = provider()
    assert this.list_models().url == "http://u/v1/models"
    assert this.read_models(UpstreamAnswer(200, JSON, b'{"data": [{"id": "a"}, {"id": "b"}]}')) == ["a", "b"]
    for answer in (
        UpstreamAnswer(200, JSON, b"[]"),
        UpstreamAnswer(200, JSON, b'{"data": [1]}'),
        UpstreamAnswer(500, (), b""),
    ):
        with pytest.raises(XRouterError):
            this.read_models(answer)


@pytest.mark.parametrize("broken", [b"data: {oops\n\n", b'data: {"error":{"message":"no","code":503}}\n\n'])
def test_what_came_before_an_error_in_the_same_piece_is_given(broken: bytes) -> None:
    reader = translator(stream=True)
    reader.started(200, HEADERS)
    events = reader.feed(chunk({"content": "Ли"}) + chunk({"content": "ма"}) + broken)
    assert "".join(event.text for event in events) == "Лима"
    assert reader.complete
    with pytest.raises(XRouterError):
        reader.finish()


def test_an_organization_is_what_a_header_can_hold() -> None:
    """Fails without the look at it: each request was then a 500."""
    with pytest.raises(ValueError, match="organization"):
        OpenAI.Config(provider="openai", base_url="http://127.0.0.1:9/v1", organization="a\r\nX-Evil: b")
