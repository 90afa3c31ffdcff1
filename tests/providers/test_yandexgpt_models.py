"""Names, surfaces, the list of models, and what each model honours."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from yandexgpt_kit import FOLDER, answer, dumps, header, provider, sent, settings, translator

from xrouter.context import Target
from xrouter.errors import UpstreamAuthError, UpstreamProtocolError, XRouterError
from xrouter.providers.yandexgpt_models import ForeignFolder, YandexModel


@pytest.mark.parametrize(
    ("text", "uri", "short"),
    [
        ("yandexgpt", "gpt://f/yandexgpt/latest", "yandexgpt"),
        ("yandexgpt/latest", "gpt://f/yandexgpt/latest", "yandexgpt"),
        ("yandexgpt/rc", "gpt://f/yandexgpt/rc", "yandexgpt/rc"),
        ("yandexgpt/deprecated", "gpt://f/yandexgpt/deprecated", "yandexgpt/deprecated"),
        ("yandexgpt-5.1", "gpt://f/yandexgpt-5.1/latest", "yandexgpt-5.1"),
        ("qwen3-235b-a22b-fp8", "gpt://f/qwen3-235b-a22b-fp8/latest", "qwen3-235b-a22b-fp8"),
        ("yandexgpt-lite/latest@abc", "gpt://f/yandexgpt-lite/latest@abc", "yandexgpt-lite@abc"),
        ("yandexgpt-lite@abc", "gpt://f/yandexgpt-lite/latest@abc", "yandexgpt-lite@abc"),
        ("gpt://f/yandexgpt", "gpt://f/yandexgpt/latest", "yandexgpt"),
        ("gpt://f/yandexgpt/rc@x", "gpt://f/yandexgpt/rc@x", "yandexgpt/rc@x"),
    ],
)
def test_a_name_becomes_a_uri_and_back(text: str, uri: str, short: str) -> None:
    model = YandexModel.parse(text, "f", "gpt")
    assert (model.uri("gpt"), model.short) == (uri, short)
    assert YandexModel.parse(uri, "f", "gpt") == YandexModel.parse(short, "f", "gpt") == model


@pytest.mark.parametrize(
    "text", ["", "/", "gpt://", "gpt://f/", "gpt://f", "a/b/c", "emb://f/x", "art://f/x", "@x", "://f/x"]
)
def test_what_is_no_model_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        YandexModel.parse(text, "f", "gpt")


def test_another_folder_is_refused_without_being_named() -> None:
    with pytest.raises(ForeignFolder) as raised:
        YandexModel.parse("gpt://b1gforeign/yandexgpt", FOLDER, "gpt")
    assert "b1g" not in str(raised.value)


@given(st.text(max_size=30))
def test_any_text_is_a_model_or_a_value_error(text: str) -> None:
    try:
        model = YandexModel.parse(text, "f", "gpt")
    except ValueError:
        return
    assert YandexModel.parse(model.uri("gpt"), "f", "gpt") == model


NATIVE = "https://yandex.test/foundationModels/v1/completion"
COMPATIBLE = "https://yandex.test/v1/chat/completions"


@pytest.mark.parametrize(
    ("model", "surface", "url"),
    [
        ("yandexgpt", None, NATIVE),
        ("yandexgpt-lite/rc", None, NATIVE),
        ("yandexgpt-5.1", None, NATIVE),
        ("yandexgpt", "openai", COMPATIBLE),
        ("aliceai-llm", None, COMPATIBLE),
        ("aliceai-llm", "native", NATIVE),
        ("qwen3-235b-a22b-fp8", None, COMPATIBLE),
        ("gpt-oss-20b", "openai", COMPATIBLE),
    ],
)
def test_the_surface_is_the_routes_or_the_models(model: str, surface: str | None, url: str) -> None:
    assert sent(translator(model, surface)).url == url


def test_a_base_url_with_a_slash_or_a_path_serves_both() -> None:
    for base in ("http://127.0.0.1:1/yandex", "http://127.0.0.1:1/yandex/"):
        upstream = provider(base_url=base)
        assert sent(translator(of=upstream)).url == "http://127.0.0.1:1/yandex/foundationModels/v1/completion"
        assert sent(translator("gemma", of=upstream)).url == "http://127.0.0.1:1/yandex/v1/chat/completions"


LISTED = [
    f"gpt://{FOLDER}/yandexgpt-lite/latest",
    f"gpt://{FOLDER}/yandexgpt/rc",
    f"gpt://{FOLDER}/yandexgpt-lite",
    f"emb://{FOLDER}/text-search-doc/latest",
    f"art://{FOLDER}/yandex-art/latest",
    "gpt://b1gforeignfolder0001/yandexgpt/latest",
    f"cls://{FOLDER}/x",
    "plain",
    "",
]


def test_yandexgpt_36_only_the_own_folders_text_and_embedding_models_are_listed() -> None:
    upstream = provider()
    request = upstream.list_models()
    assert (request.method, request.url, request.idempotent) == ("GET", "https://yandex.test/v1/models", True)
    assert header(request, b"openai-project") == FOLDER.encode()
    body = {"object": "list", "data": [{"id": uri, "object": "model"} for uri in LISTED]}
    assert upstream.read_models(answer(200, body)) == ["yandexgpt-lite", "yandexgpt/rc", "text-search-doc"]


@pytest.mark.parametrize("body", [b"", b"<html>", b"{}", b"[]", b'{"data":[5]}', b"[" * 5000])
def test_yandexgpt_36_an_unreadable_list_is_a_protocol_error(body: bytes) -> None:
    with pytest.raises(UpstreamProtocolError):
        provider().read_models(answer(200, body))


def test_yandexgpt_36_without_sign_in_there_is_no_list() -> None:
    with pytest.raises(UpstreamAuthError):
        provider().read_models(answer(401, dumps({"error": {"message": "Unknown api key", "code": "401"}})))


CHAT = {"temperature", "max_tokens", "max_completion_tokens", "stop", "response_format", "structured_outputs"}
TOOLS = {"tools", "tool_choice", "parallel_tool_calls"}
REASONING = {"reasoning", "reasoning_effort"}


@pytest.mark.parametrize(
    ("model", "facts", "expected"),
    [
        ("yandexgpt", settings(), CHAT | TOOLS | REASONING),
        ("yandexgpt/rc", settings(), CHAT | TOOLS),
        ("yandexgpt-lite", settings(reasoning=True), CHAT | TOOLS),
        ("yandexgpt-lite", settings(tools=False), CHAT),
        ("qwen3-235b-a22b-fp8", settings(reasoning=True), CHAT | TOOLS | REASONING),
        ("gemma-3-27b-it", settings(), CHAT | TOOLS),
        ("text-search-doc", settings(kind="embedding"), {"dimensions", "encoding_format", "input_type"}),
    ],
)
def test_the_parameters_of_a_model(model: str, facts: object, expected: set[str]) -> None:
    upstream = provider()
    honoured = upstream.parameters(facts, Target("yandex", model, model))  # type: ignore[arg-type]
    assert honoured == expected
    assert honoured <= upstream.supported_parameters


def test_a_route_to_another_folder_has_no_parameters() -> None:
    with pytest.raises(XRouterError):
        provider().parameters(settings(), Target("yandex", "gpt://other/yandexgpt", "x"))
