"""The native surface's asynchronous mode: about half the price, minutes to hours of waiting. Source: the sheet's section 6.

A flow in the manner of `Exchange`: it yields requests and pauses, and returns the finished answer. `run` drives one; when
its task is cancelled it asks no more, while the operation itself runs on at Yandex, which knows no cancellation.
"""

from collections.abc import Generator, Sequence
from dataclasses import dataclass

import msgspec
from msgspec import Struct

from xrouter.context import Call
from xrouter.errors import NotFound, UpstreamProtocolError, UpstreamTimeout
from xrouter.events import Event, Usage
from xrouter.providers.base import Purpose
from xrouter.providers.yandexgpt_access import Access
from xrouter.providers.yandexgpt_completion import CompletionReader
from xrouter.providers.yandexgpt_models import YandexModel
from xrouter.providers.yandexgpt_native_request import native_request
from xrouter.providers.yandexgpt_native_wire import Completion
from xrouter.providers.yandexgpt_request import wanted
from xrouter.upstream.base import UpstreamAnswer, UpstreamRequest
from xrouter.upstream.signin import Send
from xrouter.wire import decode_json, encode_json
from xrouter.world import World


@dataclass(frozen=True, slots=True)
class Pause:
    """Wait before the next request."""

    seconds: float


@dataclass(frozen=True, slots=True)
class AsyncAnswer:
    """A finished operation's answer."""

    operation_id: str
    events: Sequence[Event]
    usage: Usage | None
    model_version: str | None


AsyncFlow = Generator[UpstreamRequest | Pause, UpstreamAnswer | None, AsyncAnswer]
"""Each yielded request is answered by sending its answer in, each pause by sending None once it is over."""


class _Operation(Struct):
    id: str = ""
    done: bool = False
    error: object = None
    response: Completion | None = None  # not wrapped in `result`, unlike a direct answer


_operation_decoder = msgspec.json.Decoder(_Operation, strict=False)


class AsyncCompletion:
    """One completion in asynchronous mode: asked for every `poll_s` seconds, given up after `give_up_s`."""

    def __init__(
        self,
        access: Access,
        model: YandexModel,
        call: Call,
        purpose: Purpose,
        *,
        poll_s: float = 10,
        give_up_s: float = 3600,
    ) -> None:
        self._access = access
        self._model = model
        self._call = call
        self._facts = purpose.model
        self._generation_id = purpose.generation_id
        self._poll_s = poll_s
        self._give_up_s = give_up_s

    def flow(self) -> AsyncFlow:
        """Submit, then ask until it is done.

        Raises BadRequest before anything is sent, UpstreamTimeout when patience ends, NotFound when the operation's three
        days are over, else what the operation's error means.
        """
        asked = wanted(
            self._call,
            self._model,
            self._facts,
            reasons=self._model.reasons_hidden,
            strict=self._access.settings.strict,
        )
        body = encode_json(native_request(asked, self._model, stream=False))
        operation = self._read((yield self._access.native("completionAsync", body, private=asked.private)))
        return (yield from self.resume(operation.id, operation))

    def resume(self, operation_id: str, operation: _Operation | None = None) -> AsyncFlow:
        """Wait for an operation that was submitted before, by this process or another."""
        deadline = self._access.world.monotonic() + self._give_up_s
        while operation is None or not operation.done:
            if self._access.world.monotonic() >= deadline:
                raise UpstreamTimeout("The asynchronous answer took too long", retry=False, detail=operation_id)
            if operation is not None:
                yield Pause(self._poll_s)
            operation = self._read((yield self._access.operation(operation_id)))
        if operation.error:
            raise self._access.error_in_body({"error": operation.error})
        if operation.response is None:
            raise UpstreamProtocolError(detail=f"operation {operation_id} is done but has no response")
        reader = CompletionReader(self._generation_id)
        events = [*reader.take(operation.response), *reader.end()]
        return AsyncAnswer(operation_id, events, reader.usage, reader.model_version)

    def _read(self, answer: UpstreamAnswer | None) -> _Operation:
        assert answer is not None, "a request is answered by an answer"
        if answer.status == 404:
            raise NotFound("There is no such asynchronous answer; Yandex keeps one for three days")
        if answer.status != 200:
            raise self._access.error(answer)
        try:
            operation = _operation_decoder.decode(answer.body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise UpstreamProtocolError(detail=f"not an operation: {type(error).__name__}") from None
        if not operation.id:
            raise self._access.error_in_body(decode_json(answer.body))
        return operation


async def run(flow: AsyncFlow, send: Send, world: World) -> AsyncAnswer:
    """Drive `flow` to its end. Being cancelled stops the asking at once."""
    answer: UpstreamAnswer | None = None
    while True:
        try:
            step = flow.send(answer)
        except StopIteration as end:
            result: AsyncAnswer = end.value
            return result
        match step:
            case Pause(seconds=seconds):
                await world.sleep(seconds)
                answer = None
            case UpstreamRequest():
                answer = await send(step)
