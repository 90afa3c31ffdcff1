"""`POST completions`, OpenAI's older form: a prompt in, text out."""

from collections.abc import Sequence
from typing import Any

from xrouter.context import Cost
from xrouter.errors import XRouterError
from xrouter.events import Answer, Event, Finish, Text, TextRun, Usage, Verbatim
from xrouter.surfaces.base import Renderer, encode, usage_object
from xrouter.surfaces.openai_chat import wants_usage
from xrouter.surfaces.splice import Splicer
from xrouter.surfaces.sse_out import DONE, error_event, event, text_events

_KIND = "text_completion"


class CompletionStream(Renderer):
    streams = True

    def feed(self, events: Sequence[Event]) -> bytes:
        pieces: list[bytes] = []
        for part in events:
            match part:
                case TextRun():
                    pieces.append(self._run(part))
                case Verbatim():
                    pieces.append(event(self._splicer.chunk(part)))
                    self._verbatim = True
                case Text(content):
                    pieces.append(self._chunk({"text": content, "index": 0, "logprobs": None, "finish_reason": None}))
                case Finish(reason, _) if not self._verbatim:
                    pieces.append(self._chunk({"text": "", "index": 0, "logprobs": None, "finish_reason": reason}))
                case Answer(body):
                    pieces.extend(self._chunk(choice) for choice in body.get("choices") or ())
                    self._verbatim = True
        return b"".join(pieces)

    def end(self, usage: Usage | None, cost: Cost | None) -> bytes:
        if usage is None or not wants_usage(self.call, self.head):
            return DONE
        return event(encode({**self._head(), "choices": [], "usage": usage_object(usage, cost)})) + DONE

    def failed(self, error: XRouterError) -> bytes:
        return error_event(self._splicer.head, _KIND, error, {"text": ""})

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._splicer = Splicer(self.head)
        self._verbatim = False

    def _head(self) -> dict[str, Any]:
        head = self._splicer.head
        return {
            "id": head.id,
            "object": _KIND,
            "created": head.created,
            "model": head.model,
            "provider": head.provider,
        }

    def _run(self, run: TextRun) -> bytes:
        if run.before:
            self._verbatim = True
            return self._splicer.run(run)
        choice = {"text": "", "index": 0, "logprobs": None, "finish_reason": None}
        before, mark, after = encode({**self._head(), "choices": [choice]}).partition(b'"text":"')
        return text_events(run, before + mark, after)

    def _chunk(self, choice: dict[str, Any]) -> bytes:
        return event(encode({**self._head(), "choices": [choice]}))


class CompletionAnswer(Renderer):
    streams = False

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._text: list[str] = []
        self._finish: str | None = None
        self._whole: dict[str, Any] | None = None

    def feed(self, events: Sequence[Event]) -> bytes:
        for part in events:
            match part:
                case Text(content):
                    self._text.append(content)
                case Finish(reason, _):
                    self._finish = reason
                case Answer(body):
                    self._whole = body
        return b""

    def end(self, usage: Usage | None, cost: Cost | None) -> bytes:
        head = self.head
        body = self._whole or {
            "created": head.created,
            "choices": [
                {"text": "".join(self._text), "index": 0, "logprobs": None, "finish_reason": self._finish or "stop"}
            ],
        }
        body = {**body, "id": head.id, "object": _KIND, "model": head.model, "provider": head.provider}
        body.setdefault("created", head.created)
        if usage is not None:
            body["usage"] = usage_object(usage, cost)
        return encode(body)
