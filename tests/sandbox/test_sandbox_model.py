"""What the sandbox's model is made of: tokens, JSON for a schema, sentences, vectors."""

import json
import math
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xrouter.sandbox import tokens
from xrouter.sandbox.assistant import Function, Prompt, Turn, generate, grouped
from xrouter.sandbox.scenario import NO_SCENARIO, Scenario
from xrouter.sandbox.schema import example
from xrouter.sandbox.vectors import unit_vector, vector

TEXT = st.text(max_size=200)


def ask(question: str, *more: Turn, **prompt: Any) -> str:
    return generate(Prompt([Turn("user", question), *more], **prompt), NO_SCENARIO).text


# Tokens


@given(TEXT)
@settings(deadline=None)
def test_tokens_of_a_text_join_to_it(text: str) -> None:
    assert "".join(tokens.split(text)) == text
    assert tokens.count(text) == len(tokens.split(text))


@given(TEXT)
@settings(deadline=None)
def test_token_ids_leave_room_for_the_marks(text: str) -> None:
    assert all(tokens.token_id(token) >= 3 for token in tokens.split(text))


@pytest.mark.parametrize(
    "text",
    ["Обратите внимание на ограничения и качество исходных данных.", "Mind the constraints and the quality of data."],
)
def test_a_token_is_about_four_characters(text: str) -> None:
    assert 3 <= len(text) / tokens.count(text) <= 5.5


# JSON


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object"},
        {
            "type": "object",
            "properties": {"a": {"type": "string"}},
            "required": ["a", "b"],
            "additionalProperties": True,
        },
        {"type": "object", "properties": {"when": {"type": "string", "format": "date-time"}}},
        {"properties": {"n": {"type": "integer", "minimum": 5, "maximum": 6}}},
        {"properties": {"n": {"type": "integer", "exclusiveMinimum": 5, "exclusiveMaximum": 7}}},
        {"properties": {"n": {"type": "number", "multipleOf": 5, "minimum": 7}}},
        {"properties": {"s": {"type": "string", "minLength": 30, "maxLength": 31}}},
        {"properties": {"s": {"type": "string", "pattern": "^[0-9]{5}$"}}},
        {"properties": {"s": {"enum": ["red", "green"]}, "c": {"const": 7}, "d": {"default": [1]}}},
        {"properties": {"a": {"type": "array", "items": {"type": "boolean"}, "minItems": 3}}},
        {"properties": {"a": {"type": "array", "prefixItems": [{"type": "integer"}, {"type": "string"}]}}},
        {"properties": {"u": {"anyOf": [{"type": "null"}, {"type": "integer"}]}, "t": {"type": ["null", "string"]}}},
        {"properties": {"o": {"oneOf": [{"type": "integer"}, {"type": "string"}]}}},
        {
            "allOf": [
                {"properties": {"a": {"type": "integer"}}, "required": ["a"]},
                {"properties": {"b": {"type": "string"}}},
            ]
        },
        {
            "$defs": {
                "Node": {
                    "type": "object",
                    "properties": {"next": {"anyOf": [{"$ref": "#/$defs/Node"}, {"type": "null"}]}},
                }
            },
            "properties": {"root": {"$ref": "#/$defs/Node"}},
        },
        {
            "$defs": {
                "T": {"properties": {"kids": {"type": "array", "items": {"$ref": "#/$defs/T"}}}, "required": ["kids"]}
            },
            "$ref": "#/$defs/T",
        },
    ],
)
@pytest.mark.parametrize("question", ["", "Погода в Казани на 3 дня?", "What is green in Paris, 12.5?"])
def test_an_example_is_valid_for_its_schema(schema: dict[str, Any], question: str) -> None:
    jsonschema.validate(json.loads(json.dumps(example(schema, question))), schema)


SCALARS = st.sampled_from(
    [
        {"type": "string"},
        {"type": "integer"},
        {"type": "number", "minimum": -1.5},
        {"type": "boolean"},
        {"type": "null"},
        {"enum": ["a", 1, None]},
        {"type": ["string", "null"]},
    ]
)
SCHEMAS = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.builds(lambda items: {"type": "array", "items": items, "minItems": 1}, inner),
        st.builds(lambda each: {"anyOf": each}, st.lists(inner, min_size=1, max_size=3)),
        st.builds(
            lambda properties: {"type": "object", "properties": properties, "required": list(properties)},
            st.dictionaries(st.sampled_from(["city", "date", "count", "query", "цена"]), inner, max_size=3),
        ),
    ),
    max_leaves=8,
)


@given(SCHEMAS, st.text(max_size=40))
@settings(deadline=None)
def test_an_example_is_valid_for_any_schema(schema: dict[str, Any], question: str) -> None:
    jsonschema.validate(example(schema, question), schema)


def test_what_the_question_says_goes_into_the_example() -> None:
    properties: dict[str, Any] = {
        "city": {"type": "string"},
        "days": {"type": "integer"},
        "unit": {"enum": ["celsius", "fahrenheit"]},
        "query": {"type": "string"},
    }
    question = "Погода в Омске на 3 дня, fahrenheit"
    value = example({"type": "object", "properties": properties}, question)
    assert value == {"city": "Омск", "days": 3, "unit": "fahrenheit", "query": question}


# Sentences


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("Сколько будет 17 * 3?", "17 * 3 = 51."),
        ("What is 10 / 4?", "10 / 4 = 2.5."),
        ("1 / 0", "1 / 0 = undefined."),
        ("Count from 1 to 3", "1, 2, 3."),
        ("Посчитай от 8 до 11", "8, 9, 10, 11."),
        ("Повтори: да, ёлки «палки»", "да, ёлки «палки»"),
        ("Thank you!", "You are welcome! Let me know if anything else comes up."),
    ],
)
def test_answers_one_can_check(question: str, answer: str) -> None:
    assert ask(question) == answer


def test_the_same_question_has_the_same_answer_and_another_another() -> None:
    answers = {ask(f"Как выучить язык {name}?") for name in ("Go", "C", "Rust", "Java")}
    assert len(answers) == 4
    assert ask("Как выучить язык Go?") in answers


def test_a_brief_answer_when_the_system_asks_for_it() -> None:
    long = ask("Как выучить Go?")
    prompt = Prompt([Turn("system", "Отвечай кратко."), Turn("user", "Как выучить Go?")])
    assert len(generate(prompt, NO_SCENARIO).text) < len(long) / 2


def test_results_of_functions_are_told_in_order() -> None:
    told = ask("?", Turn("assistant", ""), Turn("tool", '{"t": 8}', "one"), Turn("tool", "8°C", "two"))
    assert told.index("one") < told.index("t: 8") < told.index("two") < told.index("8°C")


def test_the_function_that_the_question_is_about() -> None:
    functions = [
        Function("get_time", "Текущее время", {}),
        Function("get_weather", "Прогноз погоды", {"properties": {"city": {"type": "string"}}}),
    ]
    [call] = generate(Prompt([Turn("user", "Какая погода в Перми?")], functions), NO_SCENARIO).calls
    assert (call.name, call.arguments) == ("get_weather", {"city": "Пермь"})


@given(st.text(max_size=80), st.integers(1, 30), st.booleans())
@settings(deadline=None)
def test_max_tokens_holds_for_any_question(question: str, limit: int, reasoning: bool) -> None:
    prompt = Prompt([Turn("user", question)], max_tokens=limit, reasoning=reasoning)
    generation = generate(prompt, NO_SCENARIO)
    assert generation.output_tokens <= limit
    assert generation.finish in ("stop", "length")
    assert tokens.count(generation.text) == len(generation.pieces)


@given(st.integers(1, 50))
@settings(deadline=None)
def test_grouped_tokens_join_to_the_text(size: int) -> None:
    pieces = generate(Prompt([Turn("user", "Как выучить Go?")]), Scenario(long=100)).pieces
    assert len(pieces) == 100
    assert "".join(grouped(pieces, size)) == "".join(pieces)


# Vectors


def test_vectors() -> None:
    assert vector("a", "m", 8, scale=1.8) == vector("a", "m", 8, scale=1.8) != vector("b", "m", 8, scale=1.8)
    assert vector("a", "m", 8, scale=1.8) != vector("a", "n", 8, scale=1.8)
    assert max(map(abs, vector("a", "m", 1000, scale=1.8))) <= 1.8
    assert math.isclose(sum(number**2 for number in unit_vector("a", "m", 256)), 1)
