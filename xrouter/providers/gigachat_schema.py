"""JSON Schemas as GigaChat takes them: section 6 of the sheet, each rule of which avoids a 422.

`$ref` is written out, `allOf` merged, of `anyOf`, `oneOf` and lists of types the first that is not null is kept; objects
have `properties`, arrays `items`, everything a `type`; `enum` holds strings only; `format` is a date's or a time's. What is
lost on the way and a person would want to know (allowed numbers, say) goes into `description`, which the model reads.
"""

from collections.abc import Mapping
from typing import Any, Final

from xrouter.errors import BadRequest
from xrouter.wire import encode_json

Schema = dict[str, Any]

_MAX_DEPTH: Final = 64
_MAX_NODES: Final = 50_000
_TYPES: Final = frozenset({"string", "number", "integer", "boolean", "array", "object"})
_FORMATS: Final = frozenset({"date", "date-time", "time"})
_DROPPED: Final = frozenset(
    {
        *(
            "$schema",
            "$id",
            "$anchor",
            "$comment",
            "$defs",
            "definitions",
            "$dynamicRef",
            "$dynamicAnchor",
            "$vocabulary",
        ),
        *("anyOf", "oneOf", "allOf", "not", "if", "then", "else", "const", "nullable", "discriminator"),
        *("prefixItems", "contains", "additionalItems", "unevaluatedItems", "unevaluatedProperties"),
        *("patternProperties", "propertyNames", "dependentSchemas", "dependencies", "dependentRequired"),
        *("contentSchema", "enum", "format", "items", "properties", "required", "additionalProperties", "type"),
    }
)
_TYPE_BY_KEYWORD: Final = {
    "properties": "object",
    "additionalProperties": "object",
    "required": "object",
    "items": "array",
    "prefixItems": "array",
    "minItems": "array",
    "maxItems": "array",
    "minimum": "number",
    "maximum": "number",
    "exclusiveMinimum": "number",
    "exclusiveMaximum": "number",
    "multipleOf": "number",
}
_TYPE_BY_CLASS: Final = {str: "string", bool: "boolean", int: "integer", float: "number", list: "array", dict: "object"}


class SchemaNormaliser:
    """Normalises the schemas of one request, which together have a bound: written-out references can grow exponentially."""

    def __init__(self) -> None:
        self._spent = 0
        self._root: Mapping[str, Any] = {}
        self._param = ""

    def object_schema(self, schema: Mapping[str, Any] | None, param: str) -> Schema:
        """`schema` as GigaChat takes it. Raises BadRequest, naming `param`, if it is not an object's, or too large."""
        if not schema:
            return {"type": "object", "properties": {}}
        self._root, self._param = schema, param
        normalised = self._schema(schema, 0, ())
        if normalised["type"] != "object":
            raise BadRequest(f"The schema in {param} must describe an object", param=param)
        return normalised

    def _schema(self, node: object, depth: int, within: tuple[str, ...]) -> Schema:
        """One schema. `within`: the references being written out around it, since a recursive one has no end."""
        self._spend(1, depth)
        if not isinstance(node, dict):
            return {"type": "string"}  # `true`, the schema of anything
        node, within = self._flattened(node, depth, within)
        kind = _type(node)
        normalised = {key: value for key, value in node.items() if key not in _DROPPED}
        normalised["type"] = kind
        if kind == "object":
            self._object(node, normalised, depth, within)
        elif kind == "array":
            items = node.get("items", node.get("prefixItems"))
            first = items[0] if isinstance(items, list) and items else items
            normalised["items"] = self._schema(first, depth + 1, within)
        wanted = node.get("format")
        if isinstance(wanted, str) and wanted in _FORMATS:
            normalised["format"] = wanted
        _allowed_values(node, normalised)
        return normalised

    def _spend(self, nodes: int, depth: int) -> None:
        self._spent += nodes
        if depth > _MAX_DEPTH or self._spent > _MAX_NODES:
            raise BadRequest(f"The schema in {self._param} is too large or too deep", param=self._param)

    def _object(self, node: Schema, normalised: Schema, depth: int, within: tuple[str, ...]) -> None:
        properties = node.get("properties")
        properties = properties if isinstance(properties, dict) else {}
        normalised["properties"] = {name: self._schema(value, depth + 1, within) for name, value in properties.items()}
        required = node.get("required")
        if isinstance(required, list):
            normalised["required"] = [name for name in required if isinstance(name, str) and name in properties]
        others = node.get("additionalProperties")
        if isinstance(others, dict):
            normalised["additionalProperties"] = self._schema(others, depth + 1, within)
        elif isinstance(others, bool):
            normalised["additionalProperties"] = others

    def _flattened(self, node: Schema, depth: int, within: tuple[str, ...]) -> tuple[Schema, tuple[str, ...]]:
        """`node` with its reference written out, its `allOf` merged and its first alternative chosen."""
        while True:
            self._spend(1, depth)
            if "$ref" in node:
                siblings = {key: value for key, value in node.items() if key != "$ref"}
                name = node["$ref"]
                target = self._referenced(name) if isinstance(name, str) and name not in within else {"type": "object"}
                within = (*within, str(name))
                node = self._merged(target, siblings)
            elif isinstance(parts := node.get("allOf"), list):
                rest = {key: value for key, value in node.items() if key != "allOf"}
                around = within
                for part in parts:
                    if isinstance(part, dict):
                        part, inner = self._flattened(part, depth + 1, around)
                        rest = self._merged(part, rest)
                        within = (*within, *inner[len(around) :])
                node = rest
            elif isinstance(variants := node.get("anyOf") or node.get("oneOf"), list):
                rest = {key: value for key, value in node.items() if key not in ("anyOf", "oneOf")}
                chosen = next((one for one in variants if isinstance(one, dict) and not _is_null(one)), {})
                node = self._merged(chosen, rest)
            else:
                return node, within

    def _merged(self, base: Schema, over: Schema) -> Schema:
        """Both schemas at once: `over` wins, properties and required names are united."""
        merged = {**base, **over}
        for key, unite in (("properties", _united_properties), ("required", _united_names)):
            if key in base and key in over:
                merged[key] = unite(base[key], over[key])
                self._spend(len(merged[key]) if isinstance(merged[key], dict | list) else 0, 0)
        return merged

    def _referenced(self, pointer: str) -> Schema:
        """The schema at a JSON pointer (RFC 6901) into the document, e.g. `#/$defs/City`."""
        found: object = self._root
        if not pointer.startswith("#"):
            raise BadRequest(f"The schema in {self._param} refers to another document", param=self._param)
        for step in pointer[1:].split("/")[1:]:
            key = step.replace("~1", "/").replace("~0", "~")
            found = found.get(key) if isinstance(found, dict) else None
        if not isinstance(found, dict):
            raise BadRequest(
                f"The schema in {self._param} refers to {pointer!r}, which it does not hold", param=self._param
            )
        return found


def _united_properties(base: object, over: object) -> object:
    return {**base, **over} if isinstance(base, dict) and isinstance(over, dict) else over


def _united_names(base: object, over: object) -> object:
    if not (isinstance(base, list) and isinstance(over, list)):
        return over
    return list(dict.fromkeys(name for name in (*base, *over) if isinstance(name, str)))


def _is_null(schema: Schema) -> bool:
    return schema.get("type") == "null" or ("const" in schema and schema["const"] is None)


def _type(node: Schema) -> str:
    """The type as stated, else as the other keywords imply it, else a string."""
    stated = node.get("type")
    kinds = stated if isinstance(stated, list) else [stated]
    for kind in kinds:
        if isinstance(kind, str) and kind in _TYPES:
            return kind
    values = _values(node)
    if values:
        return _TYPE_BY_CLASS.get(type(values[0]), "string")
    return next((kind for keyword, kind in _TYPE_BY_KEYWORD.items() if keyword in node), "string")


def _values(node: Schema) -> list[Any]:
    """The values that `enum` or `const` allows, but null."""
    enum = node.get("enum")
    values = enum if isinstance(enum, list) else [node["const"]] if "const" in node else []
    return [value for value in values if value is not None]


def _allowed_values(node: Schema, normalised: Schema) -> None:
    """`enum` of strings stays; other values are told to the model in words."""
    values = _values(node)
    if not values:
        return
    if normalised["type"] == "string" and all(isinstance(value, str) for value in values):
        normalised["enum"] = values
        return
    told = "One of: " + ", ".join(encode_json(value).decode() for value in values)
    description = normalised.get("description")
    normalised["description"] = f"{description} {told}" if isinstance(description, str) and description else told
