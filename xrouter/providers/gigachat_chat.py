"""One chat completion, or one completion of the older kind, at GigaChat."""

import re
from collections.abc import Generator, Sequence
from typing import Final

import msgspec

from xrouter.config.settings import ModelSettings
from xrouter.errors import UpstreamProtocolError, XRouterError
from xrouter.events import Event
from xrouter.providers.base import Exchange, Purpose, Translator
from xrouter.providers.gigachat_answer import ChatReader
from xrouter.providers.gigachat_config import GigaChatConfig
from xrouter.providers.gigachat_errors import ErrorReader, header_id
from xrouter.providers.gigachat_http import GigaChatApi, trace_headers
from xrouter.providers.gigachat_images import Image, UploadedImages
from xrouter.providers.gigachat_request import as_chat, chat_plan
from xrouter.providers.gigachat_wire import ReadFile
from xrouter.providers.safe_text import safe_type
from xrouter.upstream.base import Headers, UpstreamAnswer, UpstreamRequest, header
from xrouter.wire import ChatRequest, CompletionRequest
from xrouter.world import World

_FILE_ID: Final = re.compile(r"[A-Za-z0-9_-]{1,128}")  # it becomes a part of an address
_MAY_BE_A_LOST_FILE: Final = frozenset({400, 404, 422})


class ChatTranslator(Translator):
    def __init__(
        self,
        request: ChatRequest | CompletionRequest,
        model: str,
        purpose: Purpose,
        *,
        api: GigaChatApi,
        config: GigaChatConfig,
        errors: ErrorReader,
        uploads: UploadedImages,
        world: World,
    ) -> None:
        self._request = request
        self._model = model
        self._settings: ModelSettings = purpose.model
        self._trace = trace_headers(purpose.request_id, purpose.conversation)
        self._api = api
        self._config = config
        self._errors = errors
        self._uploads = uploads
        self._world = world
        self._stream = bool(request.stream)
        self._attached: list[str] = []  # ids of this call's files
        self._reader: ChatReader | None = None

    def exchange(self) -> Exchange:
        request = as_chat(self._request) if isinstance(self._request, CompletionRequest) else self._request
        plan = chat_plan(request, self._model, self._settings, self._config)
        self.downgrades = tuple(plan.downgrades)
        self._reader = ChatReader(
            plan.names, plan.stop, self._errors, self._world, stream=self._stream, structured=plan.structured
        )
        for message, image in plan.images:
            message.attachments = [(yield from self._file(image))]
        return self._api.post("/chat/completions", plan.body, self._trace, stream=self._stream)

    def started(self, status: int, headers: Headers) -> None:
        self.upstream_id = header_id(headers)
        kind = (header(headers, b"content-type") or b"").partition(b";")[0].strip().lower()
        if self._stream and kind != b"text/event-stream":
            raise UpstreamProtocolError(
                "The upstream did not answer with a stream", detail=f"content type {safe_type(kind)}, status {status}"
            )

    def feed(self, data: bytes) -> Sequence[Event]:
        try:
            return self._answer.feed(data)
        finally:
            self.usage, self.upstream_model = self._answer.usage, self._answer.model

    def finish(self) -> Sequence[Event]:
        try:
            return self._answer.finish()
        finally:
            self.usage, self.upstream_model = self._answer.usage, self._answer.model

    @property
    def complete(self) -> bool:
        return self._answer.done

    def error(self, answer: UpstreamAnswer) -> XRouterError:
        if answer.status in _MAY_BE_A_LOST_FILE:
            for file_id in self._attached:
                self._uploads.forget(file_id)
        return self._errors.answer(answer)

    @property
    def _answer(self) -> ChatReader:
        assert self._reader is not None, "an answer is read after exchange() has returned its request"
        return self._reader

    def _file(self, image: Image) -> Generator[UpstreamRequest, UpstreamAnswer, str]:
        """The id of the file that holds `image`: a known one, or a new one. Deletes one that is no longer needed."""
        file_id = self._uploads.find(image)
        if file_id is None:
            boundary = self._world.random_bytes(16).hex()
            answer = yield self._api.upload(image.filename, image.content_type, image.data, boundary, self._trace)
            file_id = self._uploaded(answer)
            self._uploads.add(image, file_id)
            if unneeded := self._uploads.next_to_delete():
                yield self._api.delete_file(unneeded, self._trace)  # whatever the answer: it was the last we know of it
        self._attached.append(file_id)
        return file_id

    def _uploaded(self, answer: UpstreamAnswer) -> str:
        if not 200 <= answer.status < 300:
            raise self._errors.answer(answer)
        try:
            file_id = msgspec.json.decode(answer.body, type=ReadFile).id
        except (ValueError, RecursionError):
            file_id = ""
        if not _FILE_ID.fullmatch(file_id):
            raise UpstreamProtocolError("The upstream did not say what it calls the image", detail="no id of a file")
        return file_id
