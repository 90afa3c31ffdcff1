"""Yandex's emulator: the native surface, IAM and the limits (yandexgpt.md sections 2 to 7, 11, 13 and 14)."""

import itertools
import re
import time
from typing import Any

import httpx
import msgspec
import plain_http
import pytest
from joserfc import jwt
from joserfc.jwk import RSAKey

from xrouter.sandbox.credentials import SANDBOX_YANDEX_API_KEY, SANDBOX_YANDEX_EXPIRED_API_KEY
from xrouter.sandbox.running import Sandbox, running_sandbox, service_account_key
from xrouter.sandbox.yandex_iam import AUDIENCE

MODEL = "gpt://b1gsandbox/yandexgpt/latest"
API_KEY = {"Authorization": f"Api-Key {SANDBOX_YANDEX_API_KEY}"}
USER = {"role": "user", "text": "Столица Перу?"}
WEATHER = {
    "function": {
        "name": "weather",
        "description": "Погода в городе",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    }
}


def post(sandbox: Sandbox, method: str, headers: dict[str, str] = API_KEY, **body: Any) -> httpx.Response:
    return plain_http.post(f"{sandbox.yandex_url}/foundationModels/v1/{method}", headers=headers, json=body)


def complete(sandbox: Sandbox, headers: dict[str, str] = API_KEY, **body: Any) -> httpx.Response:
    return post(sandbox, "completion", headers, **{"modelUri": MODEL, "messages": [USER], **body})


def lines(answer: httpx.Response) -> list[dict[str, Any]]:
    return [msgspec.json.decode(line) for line in answer.content.splitlines()]


def test_completion(sandbox: Sandbox) -> None:
    answer = complete(sandbox)
    result = answer.json()["result"]
    [alternative] = result["alternatives"]
    assert alternative["status"] == "ALTERNATIVE_STATUS_FINAL"
    assert "Столица Перу" in alternative["message"]["text"]
    usage = result["usage"]
    assert all(isinstance(usage[key], str) for key in ("inputTextTokens", "completionTokens", "totalTokens"))
    assert int(usage["totalTokens"]) == int(usage["inputTextTokens"]) + int(usage["completionTokens"])
    assert {"x-request-id", "x-server-trace-id"} <= answer.headers.keys()


def test_a_stream_repeats_the_text_from_its_start(sandbox: Sandbox) -> None:
    whole = complete(sandbox).json()
    answer = complete(sandbox, completionOptions={"stream": True})
    assert answer.headers["content-type"] == "application/json"
    results = lines(answer)
    texts = [line["result"]["alternatives"][0]["message"]["text"] for line in results]
    assert len(texts) > 3
    assert all(longer.startswith(shorter) for shorter, longer in itertools.pairwise(texts))
    statuses = [line["result"]["alternatives"][0]["status"] for line in results]
    assert statuses == ["ALTERNATIVE_STATUS_PARTIAL"] * (len(results) - 1) + ["ALTERNATIVE_STATUS_FINAL"]
    assert results[-1] == whole


def test_max_tokens_as_string_or_number(sandbox: Sandbox) -> None:
    for limit in ("3", 3):
        result = complete(sandbox, completionOptions={"maxTokens": limit}).json()["result"]
        assert result["alternatives"][0]["status"] == "ALTERNATIVE_STATUS_TRUNCATED_FINAL"
        assert result["usage"]["completionTokens"] == "3"


def test_tools(sandbox: Sandbox) -> None:
    asked = {"role": "user", "text": "Погода в Омске?"}
    result = complete(sandbox, messages=[asked], tools=[WEATHER]).json()["result"]
    [alternative] = result["alternatives"]
    assert alternative["status"] == "ALTERNATIVE_STATUS_TOOL_CALLS"
    assert alternative["message"] == {
        "role": "assistant",
        "toolCallList": {"toolCalls": [{"functionCall": {"name": "weather", "arguments": {"city": "Омск"}}}]},
    }
    results = {"toolResults": [{"functionResult": {"name": "weather", "content": "8°C"}}]}
    history = [asked, alternative["message"], {"role": "user", "toolResultList": results}]
    told = complete(sandbox, messages=history, tools=[WEATHER]).json()["result"]["alternatives"][0]
    assert told["status"] == "ALTERNATIVE_STATUS_FINAL"
    assert "8°C" in told["message"]["text"]


@pytest.mark.parametrize("choice", [{"mode": "REQUIRED"}, {"functionName": "weather"}, {"function_name": "weather"}])
def test_tool_choice(sandbox: Sandbox, choice: dict[str, str]) -> None:
    greeting = {"role": "user", "text": "Привет"}
    free = complete(sandbox, messages=[greeting], tools=[WEATHER]).json()["result"]["alternatives"][0]
    forced = complete(sandbox, messages=[greeting], tools=[WEATHER], toolChoice=choice).json()["result"][
        "alternatives"
    ][0]
    assert [free["status"], forced["status"]] == ["ALTERNATIVE_STATUS_FINAL", "ALTERNATIVE_STATUS_TOOL_CALLS"]


def test_structured_output_in_both_spellings(sandbox: Sandbox) -> None:
    schema = {"type": "object", "properties": {"my_key": {"type": "integer"}}, "required": ["my_key"]}
    for body in ({"jsonSchema": {"schema": schema}}, {"json_schema": {"schema": schema}}):
        text = complete(sandbox, **body).json()["result"]["alternatives"][0]["message"]["text"]
        assert msgspec.json.decode(text) == {"my_key": 1}
    text = complete(sandbox, json_object=True).json()["result"]["alternatives"][0]["message"]["text"]
    assert isinstance(msgspec.json.decode(text), dict)


def test_hidden_reasoning_is_counted_and_not_shown(sandbox: Sandbox) -> None:
    options = {"reasoningOptions": {"mode": "ENABLED_HIDDEN"}}
    result = complete(sandbox, completionOptions=options).json()["result"]
    assert int(result["usage"]["completionTokensDetails"]["reasoningTokens"]) > 0
    assert "Пользователь" not in result["alternatives"][0]["message"]["text"]


def test_tokenizers_agree_with_usage(sandbox: Sandbox) -> None:
    messages = [{"role": "system", "text": "Отвечай кратко.\nПо делу."}, USER]
    tokens = post(sandbox, "tokenizeCompletion", modelUri=MODEL, messages=messages, tools=[WEATHER]).json()["tokens"]
    usage = complete(sandbox, messages=messages, tools=[WEATHER]).json()["result"]["usage"]
    assert len(tokens) == int(usage["inputTextTokens"])
    answer = post(sandbox, "tokenize", modelUri=MODEL, text="Привет, мир\n").json()
    assert [each["text"] for each in answer["tokens"]] == ["<s>", "▁Приве", "т", ",", "▁мир", "[NL]"]
    assert [each["special"] for each in answer["tokens"]] == [True, False, False, False, False, True]
    assert all(isinstance(each["id"], str) for each in answer["tokens"])


def test_embeddings(sandbox: Sandbox) -> None:
    uri = "emb://b1gsandbox/text-search-doc/latest"
    answer = post(sandbox, "textEmbedding", modelUri=uri, text="один").json()
    assert (len(answer["embedding"]), answer["numTokens"]) == (256, "2")
    assert answer == post(sandbox, "textEmbedding", modelUri=uri, text="один", dim="256").json()
    large = post(sandbox, "textEmbedding", modelUri="emb://b1gsandbox/text-embeddings-v2-doc", text="один", dim="768")
    assert len(large.json()["embedding"]) == 768


# Errors

OTHER_FOLDER = "Specified folder ID 'b1gother' does not match with service account folder ID 'b1gsandbox'"


@pytest.mark.parametrize(
    ("body", "grpc", "status", "message"),
    [
        ({"modelUri": "yandexgpt"}, 3, 400, "invalid model_uri"),
        ({"modelUri": "gpt://b1gother/yandexgpt"}, 3, 400, OTHER_FOLDER),
        ({"modelUri": "gpt://b1gsandbox/yandexgpt-9"}, 5, 404, "Failed to get model"),
        ({"modelUri": "gpt://b1gsandbox/yandexgpt/nightly"}, 5, 404, "Failed to get model"),
        ({"modelUri": "gpt://b1gsandbox/gpt-oss-20b"}, 5, 404, "Failed to get model"),
        ({"messages": [{"role": "user", "text": ""}]}, 3, 400, "empty message text"),
        ({"messages": [{"role": "tool", "text": "a"}]}, 3, 400, None),
        ({"messages": [{"role": "user"}]}, 3, 400, None),
        ({"messages": [{**USER, "toolResultList": {"toolResults": []}}]}, 3, 400, None),
        ({"completionOptions": {"temperature": 1.1}}, 3, 400, "temperature must be in range [0, 1]"),
        ({"completionOptions": {"maxTokens": "0"}}, 3, 400, "max_tokens must be a positive int64"),
        ({"completionOptions": {"maxTokens": "x"}}, 3, 400, "max_tokens must be a positive int64"),
        ({"completionOptions": {"top_p": 1}}, 3, 400, None),
        ({"jsonObject": True, "jsonSchema": {"schema": {}}}, 3, 400, None),
        ({"messages": [{"role": "user", "text": "а" * 100_001}]}, 3, 400, None),
        ({"messages": [{"role": "user", "text": "да " * 32_800}]}, 3, 400, None),
        ({"tools": [WEATHER], "toolChoice": {"functionName": "other"}}, 3, 400, None),
    ],
)
def test_completion_errors(sandbox: Sandbox, body: dict[str, Any], grpc: int, status: int, message: str | None) -> None:
    answer = complete(sandbox, **body)
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert (error["grpcCode"], error["httpCode"], error["details"]) == (grpc, status, [])
    assert message is None or error["message"] == message


def test_texts_of_too_long_prompts(sandbox: Sandbox) -> None:
    long = complete(sandbox, messages=[{"role": "user", "text": "а" * 100_001}]).json()["error"]["message"]
    assert long == "text length is 100001, which is outside the range (0, 100000]"
    many = complete(sandbox, messages=[{"role": "user", "text": "да " * 32_800}]).json()["error"]["message"]
    assert re.fullmatch(r"number of input tokens must be no more than 32768, got \d+", many)


def test_calls_and_results_must_match(sandbox: Sandbox) -> None:
    call = {
        "role": "assistant",
        "toolCallList": {"toolCalls": [{"functionCall": {"name": "weather", "arguments": {}}}]},
    }
    wrong = {"role": "user", "toolResultList": {"toolResults": [{"functionResult": {"name": "other", "content": "1"}}]}}
    for messages in ([USER, call], [USER, call, USER], [USER, call, wrong], [USER, wrong]):
        assert complete(sandbox, messages=messages).status_code == 400


def test_unary_errors_have_their_own_shape(sandbox: Sandbox) -> None:
    answer = post(sandbox, "tokenize", {}, modelUri=MODEL, text="a")
    assert answer.status_code == 401
    assert answer.json()["code"] == 16
    assert answer.json()["message"] == "IAM token or API key has to be passed in request"
    assert answer.json()["details"][0]["@type"] == "type.googleapis.com/google.rpc.RequestInfo"


@pytest.mark.parametrize(
    ("authorization", "message"),
    [
        ("", "IAM token or API key has to be passed in request"),
        ("Bearer y0_abc", "IAM token or API key has to be passed in request"),
        (f"Bearer {SANDBOX_YANDEX_API_KEY}", "IAM token or API key has to be passed in request"),
        ("Api-Key wrong", "Unknown api key"),
        (f"Api-Key {SANDBOX_YANDEX_EXPIRED_API_KEY}", "The apikey has expired"),
        ("Bearer t1.abc.def", "The token is invalid"),
    ],
)
def test_sign_in_errors(sandbox: Sandbox, authorization: str, message: str) -> None:
    answer = complete(sandbox, {"Authorization": authorization})
    assert (answer.status_code, answer.json()["error"]["message"]) == (401, message)


def test_folder_headers_must_match(sandbox: Sandbox) -> None:
    answer = complete(sandbox, {**API_KEY, "x-folder-id": "b1gother"})
    assert (answer.status_code, answer.json()["error"]["message"]) == (400, OTHER_FOLDER)
    assert complete(sandbox, {**API_KEY, "x-folder-id": "b1gsandbox"}).status_code == 200


# IAM


def signed(key: dict[str, str], algorithm: str = "PS256", header: dict[str, str] | None = None, **claims: Any) -> str:
    now = int(time.time())
    pem = key["private_key"].partition("\n")[2]
    payload = {"iss": key["service_account_id"], "aud": AUDIENCE, "iat": now, "exp": now + 3600, **claims}
    headers = {"typ": "JWT", "alg": algorithm, "kid": key["id"], **(header or {})}
    return jwt.encode(headers, payload, RSAKey.import_key(pem), algorithms=[algorithm])


def iam(sandbox: Sandbox, **body: Any) -> httpx.Response:
    return plain_http.post(sandbox.yandex_iam_url, json=body)


@pytest.fixture(scope="module")
def key(module_sandbox: Sandbox) -> dict[str, str]:
    return service_account_key(module_sandbox)


def test_iam_token_of_a_service_account(sandbox: Sandbox, key: dict[str, str]) -> None:
    assert key["private_key"].startswith("PLEASE DO NOT REMOVE THIS LINE! Yandex.Cloud SA Key ID <")
    answer = iam(sandbox, jwt=signed(key)).json()
    assert re.fullmatch(r"t1\.[A-Za-z0-9_-]+={0,2}\.[A-Za-z0-9_-]{86}={0,2}", answer["iamToken"])
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z", answer["expiresAt"])
    bearer = {"Authorization": f"Bearer {answer['iamToken']}"}
    assert complete(sandbox, bearer).status_code == 200
    assert iam(sandbox, jwt=signed(key)).json() == answer  # the same one, while it is young
    sandbox.state.advance(43200)
    expired = complete(sandbox, bearer)
    assert (expired.status_code, expired.json()["error"]["message"]) == (401, "Token is invalid or has expired.")


def test_a_new_iam_token_after_half_of_its_life() -> None:
    with running_sandbox(iam_ttl_s=1200) as sandbox:
        key = service_account_key(sandbox)
        first = iam(sandbox, jwt=signed(key)).json()["iamToken"]
        sandbox.state.advance(601)
        second = iam(sandbox, jwt=signed(key)).json()["iamToken"]
        assert first != second
        assert complete(sandbox, {"Authorization": f"Bearer {first}"}).status_code == 200
        plain_http.post(f"{sandbox.yandex_iam_url}:revoke", json={"iamToken": second})
        assert complete(sandbox, {"Authorization": f"Bearer {second}"}).status_code == 401


@pytest.mark.parametrize(
    ("algorithm", "header", "claims"),  # times are told from when the test runs
    [
        ("RS256", {}, {}),
        ("PS256", {"kid": "aje-unknown"}, {}),
        ("PS256", {"typ": "JWS"}, {}),
        ("PS256", {}, {"aud": "https://example.com/iam/v1/tokens"}),
        ("PS256", {}, {"iss": "ajeother"}),
        ("PS256", {}, {"exp": 4000}),
        ("PS256", {}, {"iat": -3601, "exp": -1}),
        ("PS256", {}, {"iat": 1000, "exp": 2000}),
        ("PS256", {}, {"exp": None}),
    ],
)
def test_iam_refuses_a_wrong_jwt(
    sandbox: Sandbox, key: dict[str, str], algorithm: str, header: dict[str, str], claims: dict[str, Any]
) -> None:
    now = int(time.time())
    told = {name: now + value if isinstance(value, int) else value for name, value in claims.items()}
    answer = iam(sandbox, jwt=signed(key, algorithm, header, **told))
    assert (answer.status_code, answer.json()["code"]) == (401, 16)


def test_iam_refuses_another_keys_signature(sandbox: Sandbox, key: dict[str, str]) -> None:
    other = service_account_key(sandbox)
    assert iam(sandbox, jwt=signed({**other, "id": key["id"]})).status_code == 401
    assert iam(sandbox, jwt="nonsense").status_code == 401
    assert iam(sandbox, jwt="a.b.c").status_code == 401
    assert iam(sandbox).status_code == 400
    assert iam(sandbox, yandexPassportOauthToken="y0_sandbox").status_code == 200


# Asynchronous generation


def test_an_operation(sandbox: Sandbox) -> None:
    expected = complete(sandbox).json()["result"]
    started = post(sandbox, "completionAsync", modelUri=MODEL, messages=[USER]).json()
    assert started["done"] is False
    url = f"{sandbox.yandex_url}/operations/{started['id']}"
    done = plain_http.get(url, headers=API_KEY).json()
    kind = done["response"].pop("@type")
    assert kind == "type.googleapis.com/yandex.cloud.ai.foundation_models.v1.CompletionResponse"
    assert (done["done"], done["response"]) == (True, expected)
    sandbox.state.advance(3 * 86400 + 1)
    expired = plain_http.get(url, headers=API_KEY)
    assert (expired.status_code, expired.json()["code"]) == (404, 5)


def test_an_operation_takes_time_and_may_fail() -> None:
    with running_sandbox(operation_delay_s=60) as sandbox:
        headers = {**API_KEY, "X-Emu-Scenario": "error"}
        started = post(sandbox, "completionAsync", headers, modelUri=MODEL, messages=[USER]).json()
        url = f"{sandbox.yandex_url}/operations/{started['id']}"
        assert plain_http.get(url, headers=API_KEY).json()["done"] is False
        sandbox.state.advance(61)
        assert plain_http.get(url, headers=API_KEY).json()["error"]["code"] == 3


# Limits


def test_ten_generations_at_once(sandbox: Sandbox) -> None:
    with httpx.Client(
        headers={**API_KEY, "X-Emu-Scenario": "drip=30"}, limits=httpx.Limits(max_connections=None)
    ) as client:
        url = f"{sandbox.yandex_url}/foundationModels/v1/completion"
        body = {"modelUri": MODEL, "messages": [USER], "completionOptions": {"stream": True}}
        open_streams = [client.send(client.build_request("POST", url, json=body), stream=True) for _ in range(10)]
        refused = complete(sandbox)
        error = refused.json()["error"]
        assert refused.status_code == 429
        assert error["grpcCode"] == 8
        assert error["message"] == (
            "ai.textGenerationCompletionSessionsCount.count gauge quota limit exceed: allowed 10 requests"
        )
        for stream in open_streams:
            stream.close()
    assert sandbox.state.generations["yandex b1gsandbox"].peak == 10


def test_embeddings_are_limited_by_rate(sandbox: Sandbox) -> None:
    uri = "emb://b1gsandbox/text-search-query/latest"
    with httpx.Client(verify=False, headers=API_KEY) as client:
        url = f"{sandbox.yandex_url}/foundationModels/v1/textEmbedding"
        answers = [client.post(url, json={"modelUri": uri, "text": "a"}) for _ in range(11)]
    assert [each.status_code for each in answers] == [200] * 10 + [429]
    assert "limit exceed: allowed 10 requests" in answers[-1].json()["message"]


# The compatible surface


def compatible(sandbox: Sandbox, headers: dict[str, str] = API_KEY, **body: Any) -> httpx.Response:
    body = {"model": MODEL, "messages": [{"role": "user", "content": "Привет"}], **body}
    return plain_http.post(f"{sandbox.yandex_openai_url}/chat/completions", headers=headers, json=body)


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        ({"model": "yandexgpt"}, 400, "Failed to parse model URI"),
        ({"model": "gpt://b1gother/yandexgpt"}, 400, OTHER_FOLDER),
        ({"model": "gpt://b1gsandbox/nothing"}, 404, "Failed to get model"),
        ({"stream_options": {"include_usage": True}}, 400, "stream_options is currently not supported"),
        ({"stop": ["a"]}, 400, "stop is currently not supported"),
        ({"top_p": 1}, 400, "top_p is currently not supported"),
        ({"temperature": 1.5}, 400, "temperature must be in range [0, 1]"),
        ({"messages": [{"role": "user", "content": ""}]}, 400, "empty message text"),
    ],
)
def test_compatible_errors(sandbox: Sandbox, body: dict[str, Any], status: int, message: str) -> None:
    answer = compatible(sandbox, **body)
    assert (answer.status_code, answer.json()["error"]["message"]) == (status, message)


def test_images_only_for_models_that_see(sandbox: Sandbox) -> None:
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    messages = [{"role": "user", "content": [{"type": "text", "text": "Что это?"}, image]}]
    assert compatible(sandbox, messages=messages).json()["error"]["message"] == "yandexgpt is not a multimodal model"
    assert compatible(sandbox, model="gpt://b1gsandbox/qwen3.6-35b-a3b", messages=messages).status_code == 200


def test_three_ways_to_name_the_folder(sandbox: Sandbox) -> None:
    for header in ("OpenAI-Project", "x-project", "x-folder-id"):
        assert compatible(sandbox, {**API_KEY, header: "b1gsandbox"}).status_code == 200
        assert compatible(sandbox, {**API_KEY, header: "b1gother"}).status_code == 400


def test_an_unknown_path_is_plain_text(sandbox: Sandbox) -> None:
    answer = plain_http.get(f"{sandbox.yandex_openai_url}/nothing", headers=API_KEY)
    assert (answer.status_code, answer.text) == (404, "404 page not found\n")
