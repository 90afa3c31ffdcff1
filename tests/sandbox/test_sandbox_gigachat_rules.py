"""GigaChat's emulator refuses what GigaChat refuses, in its words (gigachat.md sections 2, 3, 6, 9 and 11)."""

import base64
import re
import uuid
from typing import Any

import httpx
import plain_http
import pytest

from xrouter.sandbox.credentials import SANDBOX_GIGACHAT_CREDENTIALS, SANDBOX_GIGACHAT_KEYS
from xrouter.sandbox.running import Sandbox, running_sandbox

USER = {"role": "user", "content": "Погода?"}
CALL = {"role": "assistant", "content": "", "function_call": {"name": "f", "arguments": {}}}
RESULT = {"role": "function", "name": "f", "content": "{}"}
FUNCTION: dict[str, Any] = {"name": "f", "parameters": {"type": "object", "properties": {}}}


def sign_in(sandbox: Sandbox, key: str = SANDBOX_GIGACHAT_CREDENTIALS, **changes: Any) -> httpx.Response:
    headers = {"Authorization": f"Basic {key}", "RqUID": str(uuid.uuid4()), **changes.pop("headers", {})}
    return plain_http.post(
        sandbox.gigachat_auth_url,
        headers=headers,
        data=changes.pop("data", {"scope": SANDBOX_GIGACHAT_KEYS.get(key, "")}),
    )


@pytest.fixture
def bearer(sandbox: Sandbox) -> dict[str, str]:
    return {"Authorization": f"Bearer {sign_in(sandbox).json()['access_token']}"}


def chat(sandbox: Sandbox, headers: dict[str, str], **body: Any) -> httpx.Response:
    body = {"model": "GigaChat-2", "messages": [USER], **body}
    return plain_http.post(f"{sandbox.gigachat_url}/chat/completions", headers=headers, json=body)


# Sign-in


def test_a_token_is_opaque_and_its_expiry_in_milliseconds(sandbox: Sandbox) -> None:
    answer = sign_in(sandbox)
    assert answer.status_code == 200
    assert len(answer.json()["access_token"]) > 1100
    assert answer.json()["expires_at"] == pytest.approx((sandbox.state.now() + 1800) * 1000, abs=5000)


@pytest.mark.parametrize(
    ("changes", "status", "code", "message"),
    [
        ({"data": {}}, 400, 5, "scope is empty"),
        ({"data": {"scope": "GIGACHAT"}}, 400, 1, "scope data format invalid"),
        ({"data": {"scope": ["GIGACHAT_API_PERS", "GIGACHAT_API_B2B"]}}, 400, 1, "scope data format invalid"),
        ({"data": {"scope": "GIGACHAT_API_B2B"}}, 400, 7, "scope from db not fully includes consumed scope"),
        ({"headers": {"Authorization": "Basic %%%"}}, 400, 4, "Can't decode 'Authorization' header"),
        ({"headers": {"Authorization": "Basic YWJj"}}, 400, 4, "Can't decode 'Authorization' header"),
        ({"headers": {"RqUID": "1"}}, 400, 2, "RqUID is missing or is not a uuid4"),
        ({"headers": {"RqUID": str(uuid.uuid1())}}, 400, 2, "RqUID is missing or is not a uuid4"),
    ],
)
def test_oauth_errors(sandbox: Sandbox, changes: dict[str, Any], status: int, code: int, message: str) -> None:
    answer = sign_in(sandbox, **changes)
    assert (answer.status_code, answer.json()) == (status, {"code": code, "message": message})


def test_an_unknown_key(sandbox: Sandbox) -> None:
    stranger = base64.b64encode(b"a:b").decode()
    answer = sign_in(sandbox, stranger, data={"scope": "GIGACHAT_API_PERS"})
    assert (answer.status_code, answer.json()) == (401, {"code": 6, "message": "credentials doesn't match db data"})


def test_the_key_may_come_as_bearer(sandbox: Sandbox) -> None:
    assert sign_in(sandbox, headers={"Authorization": f"Bearer {SANDBOX_GIGACHAT_CREDENTIALS}"}).status_code == 200


def test_ten_sign_ins_a_second() -> None:
    with running_sandbox() as sandbox:
        statuses = [sign_in(sandbox).status_code for _ in range(11)]
        assert statuses == [200] * 10 + [429]
        sandbox.state.advance(1)
        assert sign_in(sandbox).status_code == 200


@pytest.mark.parametrize(
    ("shape", "keys"), [("s", {"access_token", "expires_at"}), ("tok", {"tok", "exp"}), ("absent", {"access_token"})]
)
def test_other_shapes_of_a_token(shape: str, keys: set[str]) -> None:
    with running_sandbox(token_shape=shape) as sandbox:
        answer = sign_in(sandbox).json()
    assert answer.keys() == keys
    assert answer.get("expires_at", 0) < 1e11


def test_api_sign_in_errors(sandbox: Sandbox, bearer: dict[str, str]) -> None:
    unknown = chat(sandbox, {"Authorization": "Bearer nonsense"})
    assert (unknown.status_code, unknown.json()) == (401, {"status": 401, "message": "Unauthorized"})
    sandbox.state.advance(1800)
    expired = chat(sandbox, bearer)
    assert (expired.status_code, expired.json()) == (401, {"status": 401, "message": "Token has expired"})


def test_user_agent_is_required(sandbox: Sandbox, bearer: dict[str, str]) -> None:
    answer = chat(sandbox, {**bearer, "User-Agent": ""})
    assert (answer.status_code, answer.json()) == (403, {"message": "Unauthorized"})


def test_request_and_session_ids_are_echoed_or_made(sandbox: Sandbox, bearer: dict[str, str]) -> None:
    answer = chat(sandbox, {**bearer, "X-Request-ID": "r", "X-Session-ID": "s"})
    assert (answer.headers["x-request-id"], answer.headers["x-session-id"]) == ("r", "s")
    fresh = chat(sandbox, bearer).headers
    assert uuid.UUID(fresh["x-request-id"]).version == uuid.UUID(fresh["x-session-id"]).version == 4


# The request

BAD_NAMES = (
    "Invalid params: Invalid function names. Only Latin letters (A-Z or a-z), underscore (_), hyphen (-), dot (.) and digits"
    " (not leading) are allowed.: [1bad]"
)
NO_RESULT = "Invalid params: every assistant function call must have a result in history"
NO_CALL = "Invalid params: every assistant function result must have an assistant function call in history"
NOT_AMONG = "Invalid params: function g is not among functions"
NOT_FIRST = "Invalid params: system message must be the first message"
SYSTEM = {"role": "system", "content": "Кратко."}
INVALID = "Your request contains invalid JSON syntax."


def parameters(**schema: Any) -> dict[str, Any]:
    return {"functions": [{"name": "f", "parameters": {"type": "object", "properties": {"x": schema}}}]}


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        ({"model": "GigaChat-9"}, 404, "No such model"),
        ({"model": "Embeddings"}, 404, "No such model"),
        ({"messages": []}, 400, INVALID),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}]}]}, 400, INVALID),
        ({"messages": [{"role": "user", "content": None}]}, 400, INVALID),
        ({"messages": [{"role": "developer", "content": "a"}]}, 400, INVALID),
        ({"messages": [{**USER, "tool_call_id": "a"}]}, 400, INVALID),
        ({"messages": [USER, SYSTEM]}, 422, NOT_FIRST),
        ({"messages": [SYSTEM, SYSTEM, USER]}, 422, NOT_FIRST),
        ({"messages": [USER, CALL, USER]}, 422, NO_RESULT),
        ({"messages": [USER, CALL]}, 422, NO_RESULT),
        ({"messages": [USER, CALL, CALL, RESULT]}, 422, NO_RESULT),
        ({"messages": [USER, RESULT]}, 422, NO_CALL),
        ({"messages": [USER, CALL, {**RESULT, "name": "g"}]}, 422, NO_CALL),
        ({"messages": [USER, CALL, RESULT, RESULT]}, 422, NO_CALL),
        ({"functions": [{"name": "1bad"}]}, 422, BAD_NAMES),
        ({"functions": [FUNCTION], "function_call": {"name": "g"}}, 422, NOT_AMONG),
        ({"temperature": -1}, 422, "Invalid params: temperature must be in range (0, +inf)"),
        ({"temperature": 0}, 422, "Invalid params: temperature must be in range (0, +inf)"),
        ({"top_p": 1.5}, 422, "Invalid params: top_p must be in range [0, 1]"),
        ({"repetition_penalty": 0}, 422, "Invalid params: repetition_penalty must be in range (0, +inf)"),
        ({"max_tokens": 0}, 422, "Invalid params: max_tokens must be in range (0, +inf)"),
        ({"max_tokens": "5"}, 400, INVALID),
        ({"response_format": {"type": "json_object"}}, 400, 'Unknown type "json_object" in response_format'),
        ({"response_format": {"type": "json_schema"}}, 400, "Empty schema with json format type is not supported"),
        ({"response_format": {"type": "json_schema", "json_schema": {"schema": {}}}}, 400, INVALID),
        ({"stop": ["a"], "seed": 1}, 422, "Invalid params: unknown fields: [seed stop]"),
        ({"n": 2}, 422, "Invalid params: unknown fields: [n]"),
        ({"reasoning_effort": "xhigh"}, 400, INVALID),
        ({"messages": [{**USER, "attachments": ["no"]}]}, 404, "No such file"),
        (
            parameters(anyOf=[{"type": "string"}]),
            422,
            "Invalid params: anyOf is not supported in parameters of function f",
        ),
        ({"functions": [{"name": "f", "parameters": {"$ref": "#/$defs/a"}}]}, 422, None),
        (parameters(type=["string", "null"]), 422, "Invalid params: type must be a string in parameters of function f"),
        (parameters(type="object"), 422, "Invalid params: object without properties in parameters of function f"),
        (parameters(type="array"), 422, "Invalid params: array without items in parameters of function f"),
        (
            parameters(type="integer", enum=[1]),
            422,
            "Invalid params: enum must hold strings in parameters of function f",
        ),
        (
            parameters(type="string", format="uuid"),
            422,
            "Invalid params: unknown format uuid in parameters of function f",
        ),
    ],
)
def test_chat_errors(
    sandbox: Sandbox, bearer: dict[str, str], body: dict[str, Any], status: int, message: str | None
) -> None:
    answer = chat(sandbox, bearer, **body)
    assert answer.status_code == status, answer.text
    assert answer.json()["status"] == status
    assert message is None or answer.json()["message"] == message


@pytest.mark.parametrize("content", ["8°C", "42", "[]", "null", ""])
def test_a_functions_result_must_be_an_object(sandbox: Sandbox, bearer: dict[str, str], content: str) -> None:
    answer = chat(sandbox, bearer, messages=[USER, CALL, {**RESULT, "content": content}])
    assert answer.status_code == 422
    found = re.match(r"invalid function result for function f json string (.*), error: .+", answer.json()["message"])
    assert found is not None
    assert found[1] == content


def test_what_is_accepted(sandbox: Sandbox, bearer: dict[str, str]) -> None:
    assert chat(sandbox, bearer, temperature=None, top_p=0, stream=False, profanity_check=True).status_code == 200
    as_text = {**CALL, "function_call": {"name": "f", "arguments": "{}"}, "functions_state_id": str(uuid.uuid4())}
    assert chat(sandbox, bearer, messages=[SYSTEM, USER, as_text, RESULT], functions=[FUNCTION]).status_code == 200


def test_malformed_json(sandbox: Sandbox, bearer: dict[str, str]) -> None:
    for body in (b"{", b"[1]", b'{"model": NaN}', b"\xff", b"[" * 100_000):
        answer = plain_http.post(f"{sandbox.gigachat_url}/chat/completions", headers=bearer, content=body)
        assert (answer.status_code, answer.json()["message"]) == (400, INVALID)


def test_strictness_can_be_turned() -> None:
    lacking = frozenset({"GigaChat-Plus"})
    with running_sandbox(
        refuse_unknown_fields=False, functions_after_result=False, models_without_functions=lacking
    ) as sandbox:
        headers = {"Authorization": f"Bearer {sign_in(sandbox).json()['access_token']}"}
        assert chat(sandbox, headers, seed=1).status_code == 200
        after = chat(sandbox, headers, messages=[USER, CALL, RESULT], functions=[FUNCTION])
        assert (after.status_code, "last message has role user" in after.text) == (422, True)
        without = chat(sandbox, headers, model="GigaChat-Plus", functions=[FUNCTION])
        assert (without.status_code, without.json()["message"]) == (422, "Requested model does not support functions")


def test_a_prompt_over_the_context(sandbox: Sandbox, bearer: dict[str, str]) -> None:
    answer = chat(sandbox, bearer, model="GigaChat-Plus", messages=[{"role": "user", "content": "да " * 33_000}])
    assert (answer.status_code, answer.json()["message"]) == (413, "Payload too large")


def test_a_wrong_path_is_a_page(sandbox: Sandbox) -> None:
    answer = plain_http.post(f"{sandbox.url}/gigachat/v2/chat/completions")
    assert (answer.status_code, answer.headers["content-type"]) == (404, "text/html")


@pytest.mark.parametrize(
    ("file", "purpose", "status"),
    [
        (("a.gif", b"GIF", "image/gif"), "general", 422),
        (("a.png", b"x", "image/png"), "assistants", 422),
        (("a.png", b"x" * (15 * 1024 * 1024 + 1), "image/png"), "general", 413),
    ],
)
def test_files_that_are_refused(
    sandbox: Sandbox, bearer: dict[str, str], file: tuple[str, bytes, str], purpose: str, status: int
) -> None:
    url = f"{sandbox.gigachat_url}/files"
    assert plain_http.post(url, headers=bearer, files={"file": file}, data={"purpose": purpose}).status_code == status


def test_files_belong_to_their_holder(sandbox: Sandbox, bearer: dict[str, str]) -> None:
    file = ("a.png", b"x", "image/png")
    url = f"{sandbox.gigachat_url}/files"
    stored = plain_http.post(url, headers=bearer, files={"file": file}, data={"purpose": "general"}).json()
    company = next(key for key, scope in SANDBOX_GIGACHAT_KEYS.items() if scope == "GIGACHAT_API_B2B")
    other = {"Authorization": f"Bearer {sign_in(sandbox, company).json()['access_token']}"}
    assert plain_http.get(f"{url}/{stored['id']}", headers=other).status_code == 404
    assert plain_http.get(url, headers=other).json() == {"data": []}


# Limits and counts


def test_one_request_at_a_time_for_an_individual(sandbox: Sandbox, bearer: dict[str, str]) -> None:
    url = f"{sandbox.gigachat_url}/chat/completions"
    slow = {**bearer, "X-Emu-Scenario": "drip=30"}
    body = {"model": "GigaChat-2", "messages": [USER], "stream": True}
    with plain_http.stream("POST", url, headers=slow, json=body) as stream:
        pieces = stream.iter_raw()
        next(pieces)
        refused = chat(sandbox, bearer)
        assert (refused.status_code, refused.json()["message"]) == (429, "Too many requests")
        company = next(key for key, scope in SANDBOX_GIGACHAT_KEYS.items() if scope == "GIGACHAT_API_B2B")
        other = {"Authorization": f"Bearer {sign_in(sandbox, company).json()['access_token']}"}
        assert chat(sandbox, other).status_code == 200
    wait_until_free(sandbox)
    assert chat(sandbox, bearer).status_code == 200
    assert sandbox.state.generations["gigachat sandbox-client"].peak == 1
    assert sandbox.state.aborted["gigachat"] == 1


def wait_until_free(sandbox: Sandbox) -> None:
    """The client's leaving reaches the sandbox's loop within moments."""
    for _ in range(1000):
        if not sandbox.state.generations["gigachat sandbox-client"].now:
            return
        plain_http.get(f"{sandbox.admin_url}/state")
    raise AssertionError("an abandoned stream kept its place")


def test_the_prompt_cache_moves_the_usage(sandbox: Sandbox, bearer: dict[str, str]) -> None:
    def usage(session: str, *texts: str) -> tuple[int, int]:
        messages = [{"role": "user", "content": text} for text in texts]
        found = chat(sandbox, {**bearer, "X-Session-ID": session}, messages=messages).json()["usage"]
        assert found["total_tokens"] == found["prompt_tokens"] + found["completion_tokens"]
        return found["prompt_tokens"], found["precached_prompt_tokens"]

    whole, cached = usage("a", "один два три", "четыре")
    assert cached == 0
    assert usage("b", "один два три", "четыре") == (whole, 0)  # another session
    net, cached = usage("a", "один два три", "четыре", "пять")
    assert cached == 3 + 2  # "один", " два", " три"; "четыр", "е"
    assert net == whole - cached + 1
    assert usage("a", "другой")[1] == 0
    sandbox.state.advance(31)
    assert usage("a", "другой")[1] == 0  # cooled
    assert usage("a", "другой")[1] > 0


def test_a_used_up_package_is_402() -> None:
    with running_sandbox(package_tokens=20) as sandbox:
        headers = {"Authorization": f"Bearer {sign_in(sandbox).json()['access_token']}"}
        assert chat(sandbox, headers).status_code == 200
        refused = chat(sandbox, headers)
        assert (refused.status_code, refused.json()["message"]) == (402, "Payment Required")
        assert chat(sandbox, headers, model="GigaChat-2-Max").status_code == 200
        rows = plain_http.get(f"{sandbox.gigachat_url}/balance", headers=headers).json()["balance"]
        assert {"usage": "GigaChat-2", "value": 0} in rows
