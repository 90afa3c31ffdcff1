"""The contract's file and every file in config/ load as they stand."""

import json
from decimal import Decimal
from pathlib import Path

import pytest
import trustme
from joserfc.jwk import RSAKey

from xrouter.config.load import ConfigError, load
from xrouter.config.settings import Price
from xrouter.sandbox import gigachat_models, yandex_models
from xrouter.sandbox.addresses import Addresses

ROOT = Path(__file__).parents[2]
CONTRACT = Path(__file__).with_name("contract.yaml")
SHIPPED = sorted((ROOT / "config").rglob("*.yaml"), key=lambda path: path.name)
SANDBOX = Addresses("127.0.0.1", 9).environ
ENVIRON = {"GIGACHAT_CREDENTIALS": "Zm9vOmJhcg==", "YANDEX_API_KEY": "k", "YANDEX_FOLDER_ID": "b1g"}  # the contract's


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    """Every variable that a shipped file needs."""
    pem = tmp_path / "file.pem"
    trustme.CA().cert_pem.write_to_path(str(pem))
    key = RSAKey.generate_key(2048)
    account = {"id": "k", "service_account_id": "s", "private_key": key.as_pem(private=True).decode()}
    key_file = tmp_path / "key.json"
    key_file.write_text(json.dumps(account))
    return {
        **SANDBOX,
        "GIGACHAT_SPARE_CREDENTIALS": SANDBOX["GIGACHAT_CREDENTIALS"],
        "XROUTER_ADMIN_TOKEN": "admin",
        "DATABASE_PASSWORD": "p@ss".replace("@", "%40"),
        "CA_FILE": str(pem),
        "CLIENT_CERT_FILE": str(pem),
        "CLIENT_KEY_FILE": str(pem),
    }


@pytest.mark.parametrize("path", [*SHIPPED, CONTRACT], ids=lambda path: path.name)
def test_file_loads_as_it_stands(path, environ, tmp_path):
    if path.name == "corporate-network.yaml":
        environ["YANDEX_KEY_FILE"] = str(tmp_path / "key.json")
    assert load(path, environ).filters


def test_contract_stands_here_as_it_was_written():
    settings = load(CONTRACT, ENVIRON)
    assert settings.models["yandexgpt/pro"].aliases == ("yandexgpt", "yandexgpt:latest")
    assert settings.models["gigachat/max"].price == Price(input=Decimal("0.65"), output=Decimal("0.65"))
    assert settings.tiers["free"].requests == ("20/minute", "200/day")
    assert settings.redis is None
    assert not settings.admin.token


@pytest.mark.parametrize("missing", ENVIRON)
def test_contract_tells_the_line_of_a_variable_that_is_not_set(missing):
    environ = {name: value for name, value in ENVIRON.items() if name != missing}
    with pytest.raises(ConfigError) as caught:
        load(CONTRACT, environ)
    line, text = next(
        (number, text)
        for number, text in enumerate(CONTRACT.read_text(encoding="utf-8").splitlines(), 1)
        if f"${{{missing}}}" in text
    )
    place = f"{CONTRACT}:{line}:{text.index('${') + 1}"
    assert [problem.place for problem in caught.value.problems if missing in problem.message] == [place]


def test_sandbox_can_stand_in_for_every_provider():
    text = (ROOT / "config" / "xrouter.yaml").read_text(encoding="utf-8")
    assert all(f"${{{name}:-" in text for name in SANDBOX)


# Ruble prices per 1000 tokens: gigachat.md section 9, yandexgpt.md section 12.
PRICES = {
    "gigachat/lite": "0.065 0.065", "gigachat/pro": "0.50 0.50", "gigachat/max": "0.65 0.65",
    "gigachat/embeddings": "0.014 0", "gigachat/embeddings-2": "0.014 0", "gigachat/embeddings-gigar": "0.014 0",
    "yandexgpt/lite": "0.20 0.20", "yandexgpt/pro": "1.20 1.20", "yandexgpt/pro-5.1": "0.80 0.80",
    "alice/llm": "0.50 1.20", "alice/llm-flash": "0.10 0.20 0.025",
    "deepseek/deepseek-v3.2": "0.50 0.80 0.13", "deepseek/deepseek-v4-flash": "0.30 0.50 0.075",
    "qwen/qwen3-235b-a22b": "0.50 0.50", "openai/gpt-oss-120b": "0.30 0.30", "openai/gpt-oss-20b": "0.10 0.10",
    "google/gemma-3-27b-it": "0.40 0.40", "yandex/text-search-doc": "0.0102 0", "yandex/text-search-query": "0.0102 0",
}  # fmt: skip


def test_models_of_the_shipped_file():
    settings = load(ROOT / "config" / "xrouter.yaml", SANDBOX)
    known = {*gigachat_models.MODELS, *(name for _, name in yandex_models.MODELS), "sandbox-small"}
    assert {route.model for model in settings.models.values() for route in model.routes} <= known
    prices = {}
    for model_id, model in settings.models.items():
        if isinstance(model.price, Price):
            assert model.price.per == 1000
            parts = (model.price.input, model.price.output, model.price.cached_input)
            prices[model_id] = " ".join(str(part) for part in parts if part is not None)
    assert prices == PRICES
