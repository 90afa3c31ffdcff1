"""What Yandex's refusals become. Numbers are those of the sheet's section 16."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from yandexgpt_kit import API_KEY, FOLDER, StillWorld, answer, call, dumps, provider, settings, translator

from xrouter.context import Target
from xrouter.errors import (
    BadRequest,
    ContextLengthExceeded,
    UpstreamAuthError,
    UpstreamError,
    UpstreamQuotaExhausted,
    UpstreamTimeout,
    XRouterError,
)
from xrouter.providers.base import Purpose
from xrouter.secret import Secret
from xrouter.upstream.base import Headers

GRPC_TO_HTTP = {1: 499, 2: 500, 3: 400, 4: 504, 5: 404, 7: 403, 8: 429, 12: 501, 13: 500, 14: 503, 15: 500, 16: 401}
MISMATCH = "Specified folder ID 'b1gforeignfolder0001' does not match with service account folder ID 'b1gother'"
GAUGE = "ai.textGenerationCompletionSessionsCount.count gauge quota limit exceed: allowed 10 requests"
TOO_LONG = "number of input tokens must be no more than 32768, got 56832"


def streaming(grpc: int, message: str) -> Any:
    http = GRPC_TO_HTTP[grpc]
    return {"error": {"grpcCode": grpc, "httpCode": http, "message": message, "httpStatus": "?", "details": []}}


def snake(grpc: int, message: str) -> Any:
    return {"error": {"grpc_code": grpc, "http_code": GRPC_TO_HTTP[grpc], "message": message}}


def unary(grpc: int, message: str) -> Any:
    info = {"@type": "type.googleapis.com/google.rpc.RequestInfo", "requestId": "e38e"}
    return {"error": message, "code": grpc, "message": message, "details": [info]}


def compatible(grpc: int, message: str) -> Any:
    return {"error": {"message": message, "type": "invalid_request_error", "code": str(GRPC_TO_HTTP[grpc])}}


SHAPES = [streaming, snake, unary, compatible]


def error(status: int, body: Any = b"", headers: Headers = (), **config: Any) -> XRouterError:
    return translator(of=provider(**config)).error(answer(status, body, headers))


def upstream_error(status: int, body: Any = b"", headers: Headers = ()) -> UpstreamError:
    raised = error(status, body, headers)
    assert isinstance(raised, UpstreamError)
    return raised


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    ("grpc", "message", "kind", "status", "type_", "retry"),
    [
        (3, "temperature must be in range [0, 1]", BadRequest, 400, "invalid_request_error", None),
        (3, "Failed to parse model URI", BadRequest, 400, "invalid_request_error", None),
        (3, TOO_LONG, ContextLengthExceeded, 400, "context_length_exceeded", None),
        (3, "text length is 200000, which is outside the range (0, 100000]", ContextLengthExceeded, 400, None, None),
        (3, MISMATCH, UpstreamError, 500, "upstream_configuration_error", False),
        (16, "Unknown api key", UpstreamAuthError, 502, "upstream_auth_error", False),
        (7, "Permission denied", UpstreamError, 403, "permission_denied", False),
        (7, "The billing account is not active", UpstreamQuotaExhausted, 402, "insufficient_quota", False),
        (5, "Failed to get model", UpstreamError, 404, "model_not_found", False),
        (8, GAUGE, UpstreamError, 429, "rate_limit_exceeded", True),
        (8, "ai.x.rate rate quota limit exceed: allowed 10 requests", UpstreamError, 429, "rate_limit_exceeded", True),
        (1, "cancelled", UpstreamTimeout, 504, "upstream_timeout", False),
        (4, "deadline exceeded", UpstreamTimeout, 504, "upstream_timeout", True),
        (2, "?", UpstreamError, 502, "upstream_error", True),
        (13, "Internal error", UpstreamError, 502, "upstream_error", True),
        (15, "data loss", UpstreamError, 502, "upstream_error", True),
        (12, "not implemented", UpstreamError, 501, "not_supported", False),
        (14, "unavailable", UpstreamError, 503, "upstream_error", True),
    ],
)
def test_yandexgpt_18_every_shape_means_the_same(
    shape: Any, grpc: int, message: str, kind: type, status: int, type_: str | None, retry: bool | None
) -> None:
    raised = error(GRPC_TO_HTTP[grpc], shape(grpc, message))
    assert type(raised) is kind
    assert raised.status == status
    assert type_ is None or raised.type == type_
    assert getattr(raised, "retry", None) == retry
    body = json.loads(raised.encoded())["error"]
    assert body["code"] == status
    assert isinstance(body["message"], str)
    assert body["message"]


@pytest.mark.parametrize("shape", [streaming, snake, unary])
def test_yandexgpt_18_codes_decide_over_the_status_and_over_texts(shape: Any) -> None:
    assert upstream_error(400, shape(8, "quota")).status == 429
    assert upstream_error(500, shape(14, "number")).status == 503
    assert upstream_error(503, shape(14, TOO_LONG)).status == 503


@pytest.mark.parametrize(
    "body",
    [b"404 page not found\n", b"<html><body>nginx</body></html>", b"", b"null", b"[]", b"5", b'{"error":null}', b"{}",
     b'{"error":"x"}', b'{"message":["x"]}', b"\xff\xfe", b"[" * 5000, b'{"error":{"grpcCode":true,"code":[]}}'],
)  # fmt: skip
@pytest.mark.parametrize(
    ("status", "ours"),
    [(400, 400), (401, 502), (402, 402), (403, 403), (404, 404), (413, 413), (429, 429), (500, 502), (502, 502), (503, 503),
     (504, 504), (418, 400), (599, 502), (302, 502)],
)  # fmt: skip
def test_yandexgpt_18_text_pages_and_nothing_go_by_the_status(body: bytes, status: int, ours: int) -> None:
    raised = error(status, body)
    assert raised.status == ours
    assert "<" not in raised.message + (raised.detail or "")


def test_yandexgpt_15_a_folder_mismatch_is_the_operators_error_and_names_no_folder() -> None:
    for body in (streaming(3, MISMATCH), unary(3, MISMATCH), compatible(3, MISMATCH)):
        raised = error(400, body)
        assert raised.status >= 500
        assert raised.origin == "upstream"
        assert "b1g" not in str(raised.body())


def test_yandexgpt_17_retry_after_is_honoured_where_it_is_sent() -> None:
    world = StillWorld(now=1_800_000_000)
    for value, expected in (
        (None, None),
        (b"7", 7.0),
        (b"Fri, 15 Jan 2027 08:00:30 GMT", 30.0),
        (b"Fri, 15 Jan 2027 07:00:00 GMT", 0.0),
        (b"99999999999999", 3600.0),
        (b"soon", None),
        (b"-1", None),
        (b"Fri, 99 Jan 2027 08:00:30 GMT", None),
        (b"\xb2", None),
    ):
        headers: Headers = () if value is None else ((b"retry-after", value),)
        for status, body in ((429, streaming(8, GAUGE)), (503, b"")):
            raised = translator(of=provider(world)).error(answer(status, body, headers))
            assert raised.retry_after_s == expected


def test_yandexgpt_19_both_texts_of_an_overflow() -> None:
    for text in (TOO_LONG, "text length is 200000, which is outside the range (0, 100000]"):
        for status in (400, 422):
            assert (
                error(status, unary(3, text) if status == 400 else b'{"message":"' + text.encode() + b'"}').status
                == 400
            )
            assert isinstance(error(400, streaming(3, text)), ContextLengthExceeded)


def test_a_clients_mistake_is_explained_without_ids_keys_or_pages() -> None:
    raised = error(400, streaming(3, f"temperature: bad\nvalue in gpt://{FOLDER}/yandexgpt-5.1 of {API_KEY}"))
    assert raised.message == "The upstream refused the request: temperature: bad value in gpt://…/yandexgpt-5.1 of …"
    named = error(400, streaming(3, "qwen3-235b-a22b-fp8 is not a multimodal model"))
    assert named.message.endswith("qwen3-235b-a22b-fp8 is not a multimodal model")
    assert error(400, b"<html>x</html>").message == "The request is not valid"
    assert len(error(400, streaming(3, "я" * 100_000)).message) < 400


CANARIES = [API_KEY, "AQVNzzzzzzzzzzzzzz", "t1.9euelZqNzs7.abcDEF-_123==", "y0_AgAAAA123", "b1g8ad42m6he1ooql78r"]


@pytest.mark.parametrize("secret", CANARIES)
@pytest.mark.parametrize("status", [400, 401, 403, 404, 429, 500, 503])
def test_yandexgpt_35_no_key_is_told_to_anybody(secret: str, status: int) -> None:
    text = f"Unknown api key '{secret}', Authorization: Api-Key {secret}; Bearer {secret}"
    bodies = [
        streaming(3, text),
        {"code": 2, "message": text},
        text.encode(),
        {"error": {"message": text, "code": secret}},
    ]
    headers = ((b"x-request-id", secret.encode()), (b"retry-after", secret.encode()))
    for body in bodies:
        raised = error(status, body, headers)
        assert secret not in str(raised.body()) + (raised.detail or "")


def test_yandexgpt_35_a_key_that_looks_like_a_word_is_not_told_either() -> None:
    for name in ("api_key", "iam_token", "oauth_token"):
        raised = error(400, streaming(3, "the key open-sesame is bad"), **{name: Secret("open-sesame")})
        assert raised.message.endswith("the key … is bad")
        assert "sesame" not in (raised.detail or "")


def test_yandexgpt_35_yandexs_names_for_the_answer_are_in_the_operators_detail() -> None:
    headers = ((b"x-request-id", b"e38e0000-0000-4000-8000-000000000000"), (b"x-server-trace-id", b"a1b2:c3:d4:1"))
    detail = error(500, b"", headers).detail or ""
    assert "e38e0000-0000-4000-8000-000000000000/a1b2:c3:d4:1" in detail
    native = translator()
    native.started(200, headers)
    assert native.upstream_id == "e38e0000-0000-4000-8000-000000000000/a1b2:c3:d4:1"


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=12),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["error", "code", "message", "grpcCode", "httpCode", "type", "details"]), inner, max_size=5
        )
    ),
    max_leaves=10,
)


@given(st.integers(300, 599), st.binary(max_size=60) | json_values.map(dumps))
def test_whatever_is_answered_there_is_an_error_for_it(status: int, body: bytes) -> None:
    raised = error(status, body)
    assert 400 <= raised.status <= 599
    assert json.loads(raised.encoded())["error"]["message"]


@pytest.mark.parametrize("model", ["yandexgpt", "qwen3-235b-a22b-fp8", "text-search-doc"])
def test_every_translator_reads_errors(model: str) -> None:
    kind, fields = ("embeddings", {"input": "x"}) if model.startswith("text") else ("chat", {})
    purpose = Purpose("gen-1", "req-1", "c", settings())
    made = provider().translator(call(kind, **fields), Target("yandex", model, model), purpose)
    assert made.error(answer(429, streaming(8, GAUGE))).status == 429
