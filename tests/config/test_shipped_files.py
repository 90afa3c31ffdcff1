"""The contract's file and every file in config/ load as they stand."""

import json
import re
from collections.abc import Mapping
from decimal import Decimal
from importlib.util import find_spec
from pathlib import Path

import pytest
from joserfc.jwk import RSAKey

from xrouter import registry
from xrouter.config.load import ConfigError, load
from xrouter.config.settings import Price, Settings
from xrouter.sandbox import gigachat_models, yandex_models
from xrouter.sandbox.addresses import Addresses

ROOT = Path(__file__).parents[2]
CONTRACT = Path(__file__).with_name("contract.yaml")
SHIPPED = sorted((ROOT / "config").rglob("*.yaml"), key=lambda path: path.name)
SANDBOX = Addresses("127.0.0.1", 9).environ
# What the registry names before it is written cannot load yet; of everything else no problem is excused.
UNWRITTEN = {
    module
    for module in (path.partition(":")[0] for path in (*registry.FILTERS.values(), *registry.PROVIDERS.values()))
    if not find_spec(module)
}
if not (ROOT / "plugins" / "mask_phone.py").exists():
    UNWRITTEN |= {"plugins", "plugins.mask_phone"}
UNREGISTERED = {"rate_limit", "quota"} - registry.FILTERS.keys()


def _load(path: Path, environ: Mapping[str, str]) -> Settings | None:
    """The settings, or None where nothing but an unwritten part stands in the way."""
    try:
        return load(path, environ)
    except ConfigError as error:
        left = [problem for problem in error.problems if not _excused(problem.message)]
        assert not left, "\n".join(map(str, left))
        assert UNWRITTEN or UNREGISTERED
        return None


def _excused(message: str) -> bool:
    missing = re.search(r"No module named '([\w.]+)'", message)
    unknown = re.match(r"unknown filter '(\w+)'", message)
    return bool((missing and missing[1] in UNWRITTEN) or (unknown and unknown[1] in UNREGISTERED))


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    """Every variable that a shipped file needs."""
    pem = tmp_path / "file.pem"
    pem.write_text("-----BEGIN CERTIFICATE-----\n")
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
    _load(path, environ)


def test_contract_stands_here_as_it_was_written():
    settings = _load(
        CONTRACT, {"GIGACHAT_CREDENTIALS": "Zm9vOmJhcg==", "YANDEX_API_KEY": "k", "YANDEX_FOLDER_ID": "b1g"}
    )
    if settings is not None:
        assert settings.models["yandexgpt/pro"].aliases == ("yandexgpt", "yandexgpt:latest")
        assert settings.models["gigachat/max"].price == Price(input=Decimal("0.65"), output=Decimal("0.65"))
        assert settings.tiers["free"].requests == ("20/minute", "200/day")
        assert settings.redis is None
        assert not settings.admin.token


@pytest.mark.parametrize("missing", ["GIGACHAT_CREDENTIALS", "YANDEX_API_KEY", "YANDEX_FOLDER_ID"])
def test_contract_tells_the_line_of_a_variable_that_is_not_set(missing):
    environ = {"GIGACHAT_CREDENTIALS": "Zm9vOmJhcg==", "YANDEX_API_KEY": "k", "YANDEX_FOLDER_ID": "b1g"}
    del environ[missing]
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
    settings = _load(ROOT / "config" / "xrouter.yaml", SANDBOX)
    if settings is None:
        return
    known = {*gigachat_models.MODELS, *(name for _, name in yandex_models.MODELS), "sandbox-small"}
    assert {route.model for model in settings.models.values() for route in model.routes} <= known
    prices = {}
    for model_id, model in settings.models.items():
        if isinstance(model.price, Price):
            assert model.price.per == 1000
            parts = (model.price.input, model.price.output, model.price.cached_input)
            prices[model_id] = " ".join(str(part) for part in parts if part is not None)
    assert prices == PRICES
