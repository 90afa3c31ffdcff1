"""A value that is valid for a JSON schema and plausible for a question: function arguments and structured output.

The schema has passed `schema_check`. Covered: what clients generate from their types (pydantic, zod, dataclasses), `$ref`
into the same document included. What a schema demands by `pattern`, `not`, `if` or `uniqueItems` beyond the listed samples
is not searched for.
"""

import contextlib
import re
from collections.abc import Callable
from typing import Any

Schema = dict[str, Any]

_DEPTH = 8
_MOST_VALUES = 10_000  # a schema may branch without end; what would come after these is null
_LARGEST_NUMBER = 1e15
_NUMBER = re.compile(r"-?\d+(?:[.,]\d+)?")
_CAPITALISED = re.compile(r"(?<![.!?]\s)(?<!^)\b[A-ZА-ЯЁ][a-zа-яё]+(?:-[A-ZА-ЯЁ][a-zа-яё]+)?")
_QUOTED = re.compile(r"[«\"“]([^»\"”]{1,200})[»\"”]")

_FORMATS = {
    "date": "2026-10-01",
    "date-time": "2026-10-01T12:00:00Z",
    "time": "12:00:00Z",
    "duration": "PT1H",
    "email": "ivan.petrov@example.com",
    "hostname": "example.com",
    "ipv4": "192.0.2.1",
    "ipv6": "2001:db8::1",
    "uri": "https://example.com/",
    "uuid": "3f0c6a3e-5b1d-4c57-9a53-0d4d8f3f6a11",
}
_SAMPLES = (
    *_FORMATS.values(),
    "a",
    "abc",
    "ABC",
    "1",
    "42",
    "12345",
    "1234567890",
    "+79991234567",
    "RUB",
    "ru",
    "ru-RU",
    "A1",
)

_NOMINATIVE = {  # "погода в Омске" is about Омск
    "Москве": "Москва",
    "Петербурге": "Петербург",
    "Санкт-Петербурге": "Санкт-Петербург",
    "Омске": "Омск",
    "Томске": "Томск",
    "Казани": "Казань",
    "Новосибирске": "Новосибирск",
    "Екатеринбурге": "Екатеринбург",
    "Сочи": "Сочи",
    "Перми": "Пермь",
    "Самаре": "Самара",
}
_PLACES = {
    "city",
    "location",
    "place",
    "town",
    "region",
    "country",
    "address",
    "destination",
    "origin",
    "город",
    "место",
}
_TEXTS = {"query", "question", "text", "q", "search", "prompt", "message", "input", "content", "запрос", "текст"}
_PEOPLE = {"name", "person", "user", "author", "имя"}


class SchemaExample:
    """Makes values for one schema document and one question."""

    def __init__(self, root: Schema, question: str) -> None:
        self._root = root
        self._question = question
        self._english = not re.search("[А-Яа-яЁё]", question)
        self._numbers = _NUMBER.findall(question)
        self._values_left = _MOST_VALUES

    def value(self) -> Any:
        return self._of(self._root, "", 0)

    def _of(self, schema: Any, name: str, depth: int) -> Any:
        self._values_left -= 1
        if self._values_left < 0:
            return None
        if not isinstance(schema, dict):  # `true` allows anything
            return {}
        schema = self._resolved(schema, depth)
        for fixed in ("const", "default"):
            if fixed in schema:
                return schema[fixed]
        if options := schema.get("enum"):
            return self._mentioned(options)
        if examples := schema.get("examples"):
            return examples[0]
        kind = schema.get("type")
        if isinstance(kind, list):
            kind = next((each for each in kind if each != "null"), "null")
        if kind is None:
            kind = "object" if "properties" in schema else "array" if "items" in schema else "string"
        make: Callable[[Schema, str, int], Any] = {
            "object": self._object,
            "array": self._array,
            "string": self._string,
            "integer": self._integer,
            "number": self._number,
            "boolean": lambda *_: True,
            "null": lambda *_: None,
        }.get(kind, self._string)
        return make(schema, name, depth)

    def _resolved(self, schema: Schema, depth: int) -> Schema:
        """`schema` with `$ref`, `allOf` and the first non-null alternative merged into it."""
        merged = dict(schema)
        for _ in range(_DEPTH):
            reference = merged.pop("$ref", None)
            parts = [self._referred(reference)] if isinstance(reference, str) else []
            parts += merged.pop("allOf", ())
            alternatives = merged.pop("anyOf", None) or merged.pop("oneOf", None) or ()
            useful = [each for each in alternatives if isinstance(each, dict) and each.get("type") != "null"]
            if useful and depth >= _DEPTH and len(useful) < len(alternatives):
                return {"type": "null"}
            parts += (useful or list(alternatives))[:1]
            if not parts:
                return merged
            for part in parts:
                if isinstance(part, dict):
                    merged = _merge(merged, part)
        return merged

    def _referred(self, reference: str) -> Schema:
        found: Any = self._root
        if not reference.startswith("#"):
            return {}
        for step in reference[1:].strip("/").split("/"):
            if step:
                found = found.get(step.replace("~1", "/").replace("~0", "~"), {}) if isinstance(found, dict) else {}
        return found if isinstance(found, dict) else {}

    def _object(self, schema: Schema, name: str, depth: int) -> Schema:
        properties: Schema = schema.get("properties") or {}
        required = schema.get("required") or []
        wanted = [key for key in properties if depth < _DEPTH or key in required]
        if depth >= _DEPTH * 2:
            wanted = []
        value = {key: self._of(properties[key], key, depth + 1) for key in wanted}
        extra = schema.get("additionalProperties")
        for key in required:
            if key not in value:
                value[key] = self._of(extra if isinstance(extra, dict) else {"type": "string"}, key, depth + 1)
        return value

    def _array(self, schema: Schema, name: str, depth: int) -> list[Any]:
        prefix = schema.get("prefixItems") or []
        items = [self._of(each, name, depth + 1) for each in prefix]
        least = schema.get("minItems", 0)
        size = max(least, min(len(prefix) or 1, schema.get("maxItems", 1 << 30)))
        if depth >= _DEPTH:
            size = least
        each = schema.get("items", {"type": "string"})
        singular = name[:-1] if name.endswith("s") else name
        while len(items) < size:
            items.append(self._of(each, singular, depth + 1))
        return items

    def _string(self, schema: Schema, name: str, depth: int) -> str:
        if (form := schema.get("format")) in _FORMATS:
            return _FORMATS[form]
        text = self._plausible(name, str(schema.get("description") or ""))
        if pattern := schema.get("pattern"):
            with contextlib.suppress(re.error):
                matcher = re.compile(pattern)
                text = next((sample for sample in (text, *_SAMPLES) if matcher.search(sample)), text)
        longest, least = schema.get("maxLength"), schema.get("minLength", 0)
        if longest is not None:
            text = text[:longest]
        return text if len(text) >= least else (text + " " + "x" * least)[:least]

    def _plausible(self, name: str, description: str) -> str:
        words = set(re.split(r"[_\W]+|(?<=[a-zа-яё])(?=[A-ZА-ЯЁ])", name.lower() if name.islower() else name))
        words = {word.lower() for word in words}
        if words & _TEXTS:
            return self._question or "…"
        if quoted := _QUOTED.search(self._question):
            return quoted.group(1)
        if words & _PLACES:
            place = self._proper_noun() or ("Moscow" if self._english else "Москва")
            return _NOMINATIVE.get(place, place)
        if words & _PEOPLE:
            return self._proper_noun() or ("John Smith" if self._english else "Иван Петров")
        if "date" in words or "дата" in words:
            return _FORMATS["date"]
        if "currency" in words:
            return "RUB"
        if "email" in words:
            return _FORMATS["email"]
        if "url" in words:
            return _FORMATS["uri"]
        if found := self._proper_noun():
            return found
        return self._topic() or description or name or "…"

    def _proper_noun(self) -> str | None:
        found = _CAPITALISED.search(self._question)
        return found.group() if found else None

    def _topic(self) -> str:
        return " ".join(self._question.split()[:6]).strip(" ?!.,")

    def _integer(self, schema: Schema, name: str, depth: int) -> int:
        return int(self._number(schema, name, depth, step=1))

    def _number(self, schema: Schema, name: str, depth: int, step: float = 0) -> float:
        least, most = schema.get("minimum"), schema.get("maximum")
        if isinstance(above := schema.get("exclusiveMinimum"), int | float):
            least = max(above + (step or 0.5), least if least is not None else above)
        if isinstance(below := schema.get("exclusiveMaximum"), int | float):
            most = min(below - (step or 0.5), most if most is not None else below)
        value: float = float(self._numbers[0].replace(",", ".")) if self._numbers else 1
        value = min(max(value, -_LARGEST_NUMBER), _LARGEST_NUMBER)
        if step:
            value = int(value)
        if least is not None:
            value = max(value, -(-least // 1) if step else least)
        if most is not None:
            value = min(value, most // 1 if step else most)
        if multiple := schema.get("multipleOf"):
            value = -(-(value if least is None else least) // multiple) * multiple
        return value

    def _mentioned(self, options: list[Any]) -> Any:
        """The option that the question names, else the first."""
        question = self._question.lower()
        named = (each for each in options if isinstance(each, str) and each and each.lower() in question)
        return next(named, options[0])


def example(schema: Schema, question: str) -> Any:
    """A value that is valid for `schema`, with what `question` says where it fits."""
    return SchemaExample(schema, question).value()


def _merge(left: Schema, right: Schema) -> Schema:
    """Both schemas at once; on the keys that lists or maps of properties have, their union."""
    merged = {**right, **left}
    if "properties" in left and "properties" in right:
        merged["properties"] = {**right["properties"], **left["properties"]}
    if "required" in left and "required" in right:
        merged["required"] = [*left["required"], *(key for key in right["required"] if key not in left["required"])]
    return merged
