"""Tools as GigaChat's functions, and the names they go by there: section 6 of the sheet."""

import re
from collections.abc import Sequence
from typing import Final

from msgspec import UNSET

from xrouter.errors import BadRequest
from xrouter.providers.gigachat_schema import SchemaNormaliser
from xrouter.providers.gigachat_wire import SentFunction
from xrouter.wire import ChatRequest, FunctionSpec

_NAME: Final = re.compile(r"[A-Za-z][A-Za-z0-9_.-]*")
_NOT_IN_NAMES: Final = re.compile(r"[^A-Za-z0-9_.-]+")
_BUILT_IN: Final = frozenset({"web_search", "text2image", "text2model3d"})
_MAX_NAME_CHARS: Final = 256


class FunctionNames:
    """The client's names and GigaChat's, one to one for the time of one request.

    GigaChat refuses names that OpenAI takes (`2nd_try`) and takes the names of its built-in functions for those. Such a
    name is replaced, and put back in the answer.
    """

    def __init__(self) -> None:
        self._sent: dict[str, str] = {}
        self._client: dict[str, str] = {}

    def sent(self, name: str) -> str:
        """The name that goes to GigaChat for the client's `name`."""
        if name not in self._sent:
            base = name[:_MAX_NAME_CHARS]
            if not _NAME.fullmatch(base) or base in _BUILT_IN:
                base = "user_" + _NOT_IN_NAMES.sub("_", base)
            sent, count = base, 1
            while sent in self._client:
                count += 1
                sent = f"{base}_{count}"
            self._sent[name] = sent
            self._client[sent] = name
        return self._sent[name]

    def client(self, sent: str) -> str:
        """The client's name for what GigaChat called; an invented name is passed on as it is."""
        return self._client.get(sent, sent)


def requested_functions(request: ChatRequest) -> Sequence[FunctionSpec]:
    """The functions of `tools`, or of the older `functions`. Raises BadRequest for tools of other types."""
    if request.tools is None:
        return request.functions or ()
    functions = []
    for index, tool in enumerate(request.tools):
        if tool.type != "function" or tool.function is None:
            raise BadRequest("GigaChat has tools of the type `function` only", param=f"tools[{index}].type")
        functions.append(tool.function)
    return functions


def sent_function(spec: FunctionSpec, names: FunctionNames, schemas: SchemaNormaliser, param: str) -> SentFunction:
    if not spec.name:
        raise BadRequest("A function has a name", param=f"{param}.name")
    return SentFunction(
        name=names.sent(spec.name),
        description=spec.description or UNSET,
        parameters=schemas.object_schema(spec.parameters, f"{param}.parameters"),
    )
