"""Local token estimates: near real tokenizers in each script, linear, and the documentation's tables are theirs."""

import runpy
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xrouter import tokens
from xrouter.tokens import GIGACHAT, GPT_OSS, QWEN, UNKNOWN, YANDEX

ROOT = Path(__file__).parent.parent
BENCH = runpy.run_path(str(ROOT / "bench" / "tokens.py"))


def test_the_documented_tables_are_what_is_measured(capsys: pytest.CaptureFixture[str]) -> None:
    BENCH["main"]()
    assert capsys.readouterr().out in (ROOT / "docs" / "tokens.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("sample", BENCH["SAMPLES"], ids=lambda sample: sample.script)
def test_an_estimate_is_within_a_twentieth_of_real_tokenizers(sample: "object") -> None:
    text, o200k, qwen3 = sample.text, sample.o200k, sample.qwen3  # type: ignore[attr-defined]
    assert GPT_OSS.count(text) == pytest.approx(o200k, rel=0.05)
    assert QWEN.count(text) == pytest.approx(qwen3, rel=0.05)


def test_no_estimate_is_far_below_what_is_published() -> None:
    texts = {sample.script: sample.text for sample in BENCH["SAMPLES"]}
    for family, script, characters, count in BENCH["PUBLISHED"]:
        text = texts[script]
        assert characters * BENCH["FAMILIES"][family].count(text) / len(text) >= 0.99 * count, (family, script)


@pytest.mark.parametrize(
    ("model", "rates"),
    [
        ("GigaChat-2-Max", GIGACHAT),
        ("yandexgpt/rc", YANDEX),
        ("gpt://folder/aliceai-llm/latest", YANDEX),
        ("gpt-oss-120b", GPT_OSS),
        ("qwen3-235b-a22b-fp8", QWEN),
        ("sandbox-large", UNKNOWN),
    ],
)
def test_a_model_has_its_family_s_rates(model: str, rates: tokens.Profile) -> None:
    assert tokens.profile(model) is rates


@given(st.text(), st.text())
def test_a_text_has_tokens_and_more_text_never_fewer(text: str, more: str) -> None:
    for rates in (GIGACHAT, YANDEX, GPT_OSS, QWEN, UNKNOWN):
        assert rates.count(text) >= (1 if text else 0)
        assert rates.count(text) <= rates.count(text + more) <= rates.count(text) + rates.count(more) + 1


@given(st.text(st.characters(min_codepoint=0x400, max_codepoint=0x4FF), min_size=1))
def test_every_cyrillic_letter_is_one_of_cyrillic(text: str) -> None:
    assert UNKNOWN.count(text) == max(1, round(len(text) / UNKNOWN.cyrillic))
