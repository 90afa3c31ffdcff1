"""GigaChat's own JSON shapes: API v1 as the sheet's sections 3, 4, 5, 8, 9 and 10 have it.

What is sent is exact. What is read names only what is used and forgives what has been seen to vary: absent keys, `null`,
unknown fields.
"""

from typing import Any, Literal

from msgspec import UNSET, Raw, Struct, UnsetType

Effort = Literal["low", "medium", "high"]


class SentCall(Struct):
    """A call in the history. `arguments` is JSON of an object: real traffic has objects, where the text says string."""

    name: str
    arguments: Raw


class SentMessage(Struct):
    role: Literal["system", "user", "assistant", "function"]
    content: str
    name: str | UnsetType = UNSET  # of the function, with the role `function`
    function_call: SentCall | UnsetType = UNSET
    functions_state_id: str | UnsetType = UNSET
    attachments: list[str] | UnsetType = UNSET  # ids of uploaded files


class SentFunction(Struct):
    name: str
    parameters: dict[str, Any]
    description: str | UnsetType = UNSET


class ForcedFunction(Struct):
    name: str


class SentResponseFormat(Struct):
    """Flat, not nested as OpenAI's. `strict` needs a schema with `required`."""

    schema: dict[str, Any]
    strict: bool | UnsetType = UNSET
    type: Literal["json_schema"] = "json_schema"


class SentChat(Struct):
    """Body of `POST /chat/completions`."""

    model: str
    messages: list[SentMessage]
    stream: bool | UnsetType = UNSET
    temperature: float | UnsetType = UNSET
    top_p: float | UnsetType = UNSET
    max_tokens: int | UnsetType = UNSET
    repetition_penalty: float | UnsetType = UNSET
    functions: list[SentFunction] | UnsetType = UNSET
    function_call: Literal["none", "auto"] | ForcedFunction | UnsetType = UNSET
    response_format: SentResponseFormat | UnsetType = UNSET
    reasoning_effort: Effort | UnsetType = UNSET
    profanity_check: bool | UnsetType = UNSET
    update_interval: float | UnsetType = UNSET


class SentEmbeddings(Struct):
    """Body of `POST /embeddings`."""

    model: str
    input: list[str]


class SentTexts(Struct):
    """Body of `POST /tokens/count`."""

    model: str
    input: list[str]


class ReadCall(Struct, gc=False):
    name: str
    arguments: Raw = Raw(b"null")  # an object; a string in the specification's text


class ReadMessage(Struct, gc=False):
    """A `message`, or a `delta` of one."""

    role: str | None = None
    content: str | None = None
    reasoning_content: str | None = None
    function_call: ReadCall | None = None
    functions_state_id: str | None = None


class ReadChoice(Struct, gc=False):
    index: int = 0
    delta: ReadMessage | None = None
    message: ReadMessage | None = None
    finish_reason: str | None = None


class ReadUsage(Struct, gc=False):
    """`prompt_tokens` does not include `precached_prompt_tokens` (section 9)."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    precached_prompt_tokens: int | None = None


class ReadChat(Struct, gc=False):
    """An answer, one event of a streamed one, or an error in the place of either."""

    choices: list[ReadChoice] | None = None
    model: str | None = None
    usage: Any = None  # read by itself: one that makes no sense is no reason to lose the answer
    status: int | None = None
    message: str | None = None


class ReadError(Struct):
    """The API says `status` and `message`, the token service `code` and `message`."""

    message: str | None = None
    status: int | None = None
    code: int | None = None


class ReadVector(Struct):
    embedding: list[float]
    index: int
    usage: ReadUsage | None = None


class ReadEmbeddings(Struct):
    data: list[ReadVector]
    model: str | None = None


class ReadModel(Struct):
    id: str
    type: str = "chat"


class ReadModels(Struct):
    data: list[ReadModel]


class ReadFile(Struct):
    id: str


class ReadTokenCount(Struct):
    tokens: int


class ReadToken(Struct):
    """Both shapes of a token: `access_token` and `expires_at`, or `tok` and `exp`."""

    access_token: str = ""
    tok: str = ""
    expires_at: float | None = None
    exp: float | None = None
