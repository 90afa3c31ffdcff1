"""Whether a JSON schema is one: the keywords that `schema.example` reads have the types that JSON Schema (2020-12) gives."""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

Kind = Literal["object", "array", "string", "integer", "number", "boolean", "null"]
Bound = Annotated[float, Meta(ge=-1e15, le=1e15)]
Size = Annotated[int, Meta(ge=0, le=10_000)]


class SchemaNode(Struct, rename={"ref": "$ref", "defs": "$defs"}):
    """One schema. Bounds and sizes are limited, so that a value can be made for it."""

    type: Kind | list[Kind] | None = None
    properties: "dict[str, SchemaNode | bool] | None" = None
    required: list[str] | None = None
    additionalProperties: "SchemaNode | bool | None" = None
    items: "SchemaNode | bool | None" = None
    prefixItems: "list[SchemaNode | bool] | None" = None
    minItems: Size | None = None
    maxItems: Size | None = None
    enum: Annotated[list[Any], Meta(min_length=1)] | None = None
    examples: list[Any] | None = None
    anyOf: "list[SchemaNode | bool] | None" = None
    oneOf: "list[SchemaNode | bool] | None" = None
    allOf: "list[SchemaNode | bool] | None" = None
    defs: "dict[str, SchemaNode | bool] | None" = None
    ref: str | None = None
    format: str | None = None
    pattern: str | None = None
    description: str | None = None
    minLength: Size | None = None
    maxLength: Size | None = None
    minimum: Bound | None = None
    maximum: Bound | None = None
    exclusiveMinimum: Bound | None = None
    exclusiveMaximum: Bound | None = None
    multipleOf: Annotated[float, Meta(gt=1e-6, le=1e15)] | None = None


def problem_of(schema: Any) -> str | None:
    """What is wrong with `schema`, and where; None if nothing is."""
    try:
        msgspec.convert(schema, SchemaNode)
    except msgspec.ValidationError as problem:
        return str(problem)
    except RecursionError:
        return "the schema is nested too deeply"
    return None
