"""Schemas and names of functions, as GigaChat takes them."""

from typing import Any

import pytest
from gigachat_kit import answered, calls, function_call, sent_body, tool, whole
from hypothesis import given
from hypothesis import strategies as st

from xrouter.errors import BadRequest
from xrouter.providers.gigachat_functions import FunctionNames
from xrouter.providers.gigachat_schema import SchemaNormaliser


def normalised(schema: dict[str, Any]) -> dict[str, Any]:
    return SchemaNormaliser().object_schema(schema, "tools[0].function.parameters")


def prop(schema: dict[str, Any], **root: Any) -> dict[str, Any]:
    return normalised({"type": "object", "properties": {"x": schema}, **root})["properties"]["x"]


def test_gigachat_21_schemas_are_normalised() -> None:
    schema = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$defs": {"City": {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}},
        "properties": {
            "city": {"$ref": "#/$defs/City", "description": "Где"},
            "day": {"anyOf": [{"type": "null"}, {"type": "string", "format": "date"}], "default": None},
            "level": {"type": "integer", "enum": [1, 2, 3], "description": "Уровень."},
            "unit": {"enum": ["C", "F", None]},
        },
        "required": ["city", "gone"],
    }
    body = sent_body(tools=[tool(**schema)])
    assert body["functions"][0]["parameters"] == {
        "type": "object",
        "properties": {
            "city": {
                "type": "object",
                "description": "Где",
                "properties": {"name": {"type": "string"}},
                "required": ["name"],
            },
            "day": {"type": "string", "format": "date", "default": None},
            "level": {"type": "integer", "description": "Уровень. One of: 1, 2, 3"},
            "unit": {"type": "string", "enum": ["C", "F"]},
        },
        "required": ["city"],
    }


@pytest.mark.parametrize("name", ["web_search", "text2image", "2nd try", "_private", "получить", "a" * 300])
def test_gigachat_21_names_survive_the_round_trip(name: str) -> None:
    body = sent_body(tools=[tool(name), tool("get_weather")])
    sent_name = body["functions"][0]["name"]
    assert sent_name != name
    (call,) = calls(answered(whole(function_call({}, sent_name), "function_call"), tools=[tool(name)]))
    assert call.name == name


@given(st.lists(st.text("ab1_-. web_search", min_size=1, max_size=8), unique=True, max_size=8))
def test_names_are_one_to_one_and_fit(clients: list[str]) -> None:
    names = FunctionNames()
    sent = [names.sent(name) for name in [*clients, *clients]]
    assert len(set(sent)) == len(clients)
    assert [names.client(name) for name in sent] == [*clients, *clients]
    for name in sent:
        assert name[0].isalpha()
        assert all(letter.isalnum() or letter in "_.-" for letter in name)


@pytest.mark.parametrize(
    ("schema", "expected"),
    [
        ({}, {"type": "string"}),
        (True, {"type": "string"}),
        ({"type": ["null", "integer"]}, {"type": "integer"}),
        ({"type": "object"}, {"type": "object", "properties": {}}),
        ({"type": "array"}, {"type": "array", "items": {"type": "string"}}),
        ({"items": {"type": "number"}}, {"type": "array", "items": {"type": "number"}}),
        ({"prefixItems": [{"type": "number"}]}, {"type": "array", "items": {"type": "number"}}),
        ({"const": "a"}, {"type": "string", "enum": ["a"]}),
        ({"const": 5}, {"type": "integer", "description": "One of: 5"}),
        ({"enum": ["a", 1]}, {"type": "string", "description": 'One of: "a", 1'}),
        ({"type": "string", "format": "uuid"}, {"type": "string"}),
        ({"type": "string", "format": "date-time"}, {"type": "string", "format": "date-time"}),
        ({"oneOf": [{"type": "null"}, {"minimum": 1}]}, {"type": "number", "minimum": 1}),
        (
            {"allOf": [{"properties": {"a": {}}, "required": ["a"]}, {"properties": {"b": {}}, "required": ["b"]}]},
            {"type": "object", "properties": {"a": {"type": "string"}, "b": {"type": "string"}}, "required": ["b", "a"]},
        ),
        ({"type": "object", "additionalProperties": {"$ref": "#/$defs/N"}},
         {"type": "object", "properties": {}, "additionalProperties": {"type": "integer"}}),
        ({"type": "object", "additionalProperties": False, "patternProperties": {"a": {}}},
         {"type": "object", "properties": {}, "additionalProperties": False}),
        ({"properties": {"type": {"type": "string"}, "$ref": {"type": "string"}}},
         {"type": "object", "properties": {"type": {"type": "string"}, "$ref": {"type": "string"}}}),
    ],
)  # fmt: skip
def test_each_rule(schema: dict[str, Any], expected: dict[str, Any]) -> None:
    assert prop(schema, **{"$defs": {"N": {"type": "integer"}}}) == expected


def test_a_recursive_schema_ends() -> None:
    node = {"type": "object", "properties": {"value": {"type": "string"}, "next": {"$ref": "#/$defs/Node"}}}
    once = prop({"$ref": "#/$defs/Node"}, **{"$defs": {"Node": node}})
    assert once["properties"]["next"] == {"type": "object", "properties": {}}
    assert (
        normalised({"type": "object", "properties": {"next": {"$ref": "#"}}})["properties"]["next"]["type"] == "object"
    )


def test_what_is_no_object_or_refers_nowhere_is_refused() -> None:
    for schema in (
        {"type": "string"},
        {"type": "object", "properties": {"x": {"$ref": "#/$defs/Gone"}}},
        {"type": "object", "properties": {"x": {"$ref": "other.json"}}},
    ):
        with pytest.raises(BadRequest) as caught:
            normalised(schema)
        assert caught.value.param == "tools[0].function.parameters"


def test_a_schema_that_would_explode_is_refused_at_once() -> None:
    levels = {f"L{at}": {"type": "object", "properties": {name: {"$ref": f"#/$defs/L{at + 1}"} for name in "abcd"}}
              for at in range(30)}  # fmt: skip
    with pytest.raises(BadRequest, match="too large"):
        prop({"$ref": "#/$defs/L0"}, **{"$defs": {**levels, "L30": {"type": "string"}}})
    deep: dict[str, Any] = {}
    for _ in range(200):
        deep = {"allOf": [deep]}
    with pytest.raises(BadRequest, match="too large"):
        prop(deep)


plain_json = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.floats(allow_nan=False) | st.text("abc", max_size=3),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(
        st.sampled_from(
            ["type", "properties", "items", "$ref", "anyOf", "oneOf", "allOf", "enum", "const", "required", "format", "a",
             "additionalProperties", "description"]
        ),
        inner | st.sampled_from(["#", "#/properties/a", "object", "array", "string", "null"]),
        max_size=4,
    ),
    max_leaves=20,
)  # fmt: skip


def check(schema: Any) -> None:
    assert isinstance(schema, dict)
    assert schema["type"] in {"string", "number", "integer", "boolean", "array", "object"}
    assert not schema.keys() & {"$ref", "anyOf", "oneOf", "allOf", "const"}
    assert all(isinstance(value, str) for value in schema.get("enum", ()))
    if schema["type"] == "object":
        for value in schema["properties"].values():
            check(value)
    if schema["type"] == "array":
        check(schema["items"])


@given(st.dictionaries(st.text("ab", max_size=2), plain_json, max_size=3))
def test_any_schema_is_normalised_or_refused(properties: dict[str, Any]) -> None:
    try:
        schema = normalised({"type": "object", "properties": properties})
    except BadRequest:
        return
    check(schema)
