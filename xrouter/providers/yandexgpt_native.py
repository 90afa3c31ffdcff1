"""Chat over Yandex's native surface: cumulative lines in, events out. Source: the sheet's sections 3 to 5 and 7."""

from collections.abc import Sequence

from xrouter.context import Call
from xrouter.errors import UpstreamProtocolError, XRouterError
from xrouter.events import Event
from xrouter.providers.base import Exchange, Purpose, Translator
from xrouter.providers.ndjson import NdjsonSplitter
from xrouter.providers.stop import StopCutter
from xrouter.providers.whole_body import WholeBody
from xrouter.providers.yandexgpt_access import Access
from xrouter.providers.yandexgpt_completion import CompletionReader
from xrouter.providers.yandexgpt_errors import answer_name, refuse_markup
from xrouter.providers.yandexgpt_models import YandexModel, served_name
from xrouter.providers.yandexgpt_native_request import native_request
from xrouter.providers.yandexgpt_native_wire import Completion, decode_line, newest
from xrouter.providers.yandexgpt_request import wanted
from xrouter.upstream.base import Headers, UpstreamAnswer
from xrouter.wire import decode_json, encode_json

_MAX_ANSWER_BYTES = 8 * 1024 * 1024


class NativeTranslator(Translator):
    """One completion. A whole answer is a stream of one line, which need not stand on one line."""

    def __init__(self, access: Access, model: YandexModel, call: Call, purpose: Purpose) -> None:
        self._access = access
        self._model = model
        self._call = call
        self._facts = purpose.model
        self._stream = call.stream
        self._cutter = StopCutter(())
        self._reader = CompletionReader(purpose.generation_id, access.settings.hold_back_chars)
        self._lines = NdjsonSplitter()
        self._whole = WholeBody(_MAX_ANSWER_BYTES)
        self._failed: XRouterError | None = None

    @property
    def rewrites(self) -> int:
        """How often the model took back text that was already sent: for a metric."""
        return self._reader.text.rewrites

    def exchange(self) -> Exchange:
        asked = wanted(
            self._call,
            self._model,
            self._facts,
            reasons=self._model.reasons_hidden,
            strict=self._access.settings.strict,
        )
        self.downgrades = asked.downgrades
        self._cutter = StopCutter(asked.stop)
        request = native_request(asked, self._model, stream=self._stream)
        yield from ()  # no requests before the completion itself
        return self._access.native("completion", encode_json(request), private=asked.private)

    def started(self, status: int, headers: Headers) -> None:
        refuse_markup(headers)
        self.upstream_id = answer_name(headers)

    def feed(self, data: bytes) -> Sequence[Event]:
        if not self._stream:
            self._whole.add(data)
            return ()
        return self._read(newest(self._lines.feed(data)))

    def finish(self) -> Sequence[Event]:
        if self._failed is not None and not self._cutter.cut:
            raise self._failed
        events = self._read(self._lines.finish() if self._stream else [self._whole.joined()])
        if not self._cutter.cut:  # else the answer has ended for the client, whatever became of the rest
            events += self._cutter.apply(self._reader.end())
        return events

    @property
    def complete(self) -> bool:
        return self._failed is not None or self._reader.ended

    def error(self, answer: UpstreamAnswer) -> XRouterError:
        return self._access.error(answer)

    def _read(self, lines: Sequence[bytes]) -> list[Event]:
        """The events of some lines. Those before a line that is an error are delivered first, `finish` then raises it."""
        events: list[Event] = []
        for data in lines:
            if self.complete:
                break
            try:
                news = self._reader.take(self._completion(data))
            except XRouterError as error:
                self._failed = error
                if events or self._cutter.cut:
                    break
                raise
            if self._reader.filtered:
                self._cutter.flush()  # text that waits for its stop sequence is dropped with the rest
            events += self._cutter.apply(news)
        self.usage = self._reader.usage
        if self._reader.model_version:
            self.upstream_model = served_name(self._reader.model_version)
        return events

    def _completion(self, data: bytes) -> Completion:
        line = decode_line(data)
        if line.result is not None:
            return line.result
        if line.error or line.message:
            raise self._access.error_in_body(decode_json(data))
        raise UpstreamProtocolError(detail="a line with neither a result nor an error")
