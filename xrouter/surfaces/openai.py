"""OpenAI's API towards clients: which endpoint is read and answered how."""

from collections.abc import Mapping
from typing import Final

import msgspec

from xrouter.context import Call
from xrouter.errors import BadRequest
from xrouter.surfaces.base import AnswerHead, Renderer
from xrouter.surfaces.openai_chat import ChatAnswer, ChatStream
from xrouter.surfaces.openai_completions import CompletionAnswer, CompletionStream
from xrouter.surfaces.openai_embeddings import EmbeddingAnswer
from xrouter.surfaces.strict_json import decode_object, field_fault
from xrouter.wire import ChatRequest, CompletionRequest, EmbeddingRequest, Request

_REQUESTS: Final[Mapping[str, type[Request]]] = {
    "chat": ChatRequest,
    "completions": CompletionRequest,
    "embeddings": EmbeddingRequest,
}
_RENDERERS: Final[Mapping[tuple[str, bool], type[Renderer]]] = {
    ("chat", True): ChatStream,
    ("chat", False): ChatAnswer,
    ("completions", True): CompletionStream,
    ("completions", False): CompletionAnswer,
    ("embeddings", False): EmbeddingAnswer,
}


def read_call(kind: str, raw: bytes) -> Call:
    """The call in a request's body. Raises BadRequest, naming the field at fault."""
    body = decode_object(raw)
    if "prompt" in body and "messages" in body:
        raise BadRequest(
            "`prompt` and `messages` exclude each other: send the one that the endpoint takes", param="prompt"
        )
    try:
        request = msgspec.convert(body, _REQUESTS[kind])
    except msgspec.ValidationError as error:
        raise field_fault(error) from None
    if kind == "embeddings" and body.get("stream"):
        raise BadRequest(
            "Embeddings are not streamed", param="stream"
        )  # some upstreams would, and no client could read it
    call = Call(kind, request, body, raw)  # type: ignore[arg-type]  # kind is a key of _REQUESTS
    if not call.models:
        raise BadRequest("`model` is missing", param="model")
    return call


def renderer(call: Call, head: AnswerHead) -> Renderer:
    """What turns the events of this call's answer into the client's bytes."""
    return _RENDERERS[call.kind, call.stream](head, call)
