"""The conversation as GigaChat takes it: sections 3, 6 and 12 of the sheet.

One system message, first. Content is a string. One call a message, each followed at once by its result, which is JSON of an
object. One image a message. Neighbours of one role are joined. What cannot be said so is a BadRequest here, before anything
is sent.
"""

from collections import defaultdict, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from msgspec import UNSET, Raw

from xrouter.errors import BadRequest
from xrouter.providers.gigachat_calls import object_text, read_state_id
from xrouter.providers.gigachat_functions import FunctionNames
from xrouter.providers.gigachat_images import MAX_IMAGES, Image, decode_image
from xrouter.providers.gigachat_wire import SentCall, SentMessage
from xrouter.wire import FunctionCall, Message

_IGNORED_PARTS: Final = frozenset({"refusal"})


@dataclass(slots=True)
class Conversation:
    """`images`: those to upload, each with the message whose `attachments`, still empty, is to name it."""

    messages: list[SentMessage] = field(default_factory=list)
    images: list[tuple[SentMessage, Image]] = field(default_factory=list)

    @property
    def ends_with_result(self) -> bool:
        return bool(self.messages) and self.messages[-1].role == "function"


def conversation(messages: Sequence[Message], names: FunctionNames, *, echo_state_id: bool) -> Conversation:
    """`echo_state_id`: send back the state id that came with a call, as the specification asks."""
    return _Builder(messages, names, echo_state_id).build()


class _Builder:
    def __init__(self, messages: Sequence[Message], names: FunctionNames, echo_state_id: bool) -> None:
        self._source = messages
        self._names = names
        self._echo_state_id = echo_state_id
        self._result = Conversation()
        self._system: list[str] = []
        self._calls: set[str] = set()  # keys of the calls so far
        self._results: defaultdict[str, deque[int]] = defaultdict(deque)  # a call's key → places of its results
        self._last_result = -1  # the place of the last result that belongs to a call so far
        self._used: set[int] = set()
        for index, message in enumerate(messages):
            if message.role in ("tool", "function"):
                self._results[_result_key(message, index)].append(index)

    def build(self) -> Conversation:
        for index, message in enumerate(self._source):
            match message.role:
                case "system" | "developer":
                    if text := self._text(message, index):
                        self._system.append(text)
                case "user":
                    self._user(message, index)
                case "assistant":
                    self._assistant(message, index)
                case "tool" | "function":
                    self._check_result(message, index)
        if self._system:
            # A conversation of nothing but a system message would leave the model without a turn to answer.
            text = "\n\n".join(self._system)
            first = SentMessage("system", text) if self._result.messages else SentMessage("user", text)
            self._result.messages.insert(0, first)
        if not self._result.messages:
            raise BadRequest("The messages have no content", param="messages")
        return self._result

    def _user(self, message: Message, index: int) -> None:
        texts: list[str] = []
        images: list[Image] = []
        for number, part in enumerate(message.content if isinstance(message.content, list) else ()):
            param = f"messages[{index}].content[{number}]"
            if part.type == "text":
                texts.append(part.text or "")
            elif part.type == "image_url" and part.image_url is not None:
                if len(self._result.images) + len(images) >= MAX_IMAGES:
                    raise BadRequest(f"GigaChat takes at most {MAX_IMAGES} images a request", param=param)
                images.append(decode_image(part.image_url.url, param))
            else:
                raise _unknown_part(part.type, param)
        text = message.content if isinstance(message.content, str) else "\n".join(texts)
        first, *others = dict.fromkeys(images) or (None,)
        self._add_user(text, first)
        for image in others:
            self._add_user("", image)

    def _add_user(self, text: str, image: Image | None) -> None:
        sent = self._add(SentMessage("user", text, attachments=UNSET if image is None else []))
        if image is not None:
            self._result.images.append((sent, image))

    def _assistant(self, message: Message, index: int) -> None:
        text = self._text(message, index)
        calls = _calls(message)
        if not calls:
            # Text between a call and its result would come after the result, as an answer that never was: it is dropped.
            if text and index > self._last_result:
                self._add(SentMessage("assistant", text))
            return
        for key, call in calls:
            self._calls.add(key)
            result = self._result_of(key, index)
            if result is None:
                raise BadRequest(
                    f"The call of {call.name!r} has no result in the messages", param=f"messages[{index}].tool_calls"
                )
            name = self._names.sent(call.name)
            state_id = read_state_id(key) if self._echo_state_id else None
            self._add(
                SentMessage(
                    "assistant",
                    text,
                    function_call=SentCall(name, Raw(object_text(call.arguments, "arguments").encode())),
                    functions_state_id=state_id or UNSET,
                )
            )
            content = object_text(self._text(self._source[result], result), "result")
            self._result.messages.append(SentMessage("function", content, name=name))
            text = ""

    def _result_of(self, key: str, call_index: int) -> int | None:
        """The place of the first unused result of the call `key` that comes after it."""
        places = self._results[key]
        while places:
            place = places.popleft()
            if place > call_index:
                self._used.add(place)
                self._last_result = max(self._last_result, place)
                return place
        return None

    def _check_result(self, message: Message, index: int) -> None:
        if index in self._used:
            return
        if _result_key(message, index) not in self._calls:
            raise BadRequest("This result belongs to no call in the messages", param=f"messages[{index}].tool_call_id")
        # A second result of one call: GigaChat would refuse it, and the first one is what the model went on with.

    def _add(self, message: SentMessage) -> SentMessage:
        """Append `message`, or join it to a neighbour of its role. The message that now holds it."""
        last = self._result.messages[-1] if self._result.messages else None
        if last is None or not _can_join(last, message):
            self._result.messages.append(message)
            return message
        last.content = "\n".join(filter(None, (last.content, message.content)))
        last.function_call = message.function_call
        last.functions_state_id = message.functions_state_id
        if message.attachments is not UNSET:
            last.attachments = message.attachments
        return last

    @staticmethod
    def _text(message: Message, index: int) -> str:
        """The content of a message that can hold text only."""
        if isinstance(message.content, list):
            for number, part in enumerate(message.content):
                if part.type != "text" and part.type not in _IGNORED_PARTS:
                    raise _unknown_part(part.type, f"messages[{index}].content[{number}]")
        return message.text()


def _can_join(last: SentMessage, message: SentMessage) -> bool:
    """Whether two neighbours can be one message: it holds one call at most, and one image (section 10)."""
    two_images = last.attachments is not UNSET and message.attachments is not UNSET
    return last.role == message.role and last.function_call is UNSET and not two_images


def _calls(message: Message) -> list[tuple[str, FunctionCall]]:
    """The calls of an assistant's message, each with the key that its result goes by."""
    if message.tool_calls:
        return [(call.id, call.function) for call in message.tool_calls]
    if message.function_call is not None:
        return [(_legacy_key(message.function_call.name), message.function_call)]
    return []


def _result_key(message: Message, index: int) -> str:
    if message.role == "function":
        return _legacy_key(message.name or "")
    if message.tool_call_id is None:
        raise BadRequest("A tool's message names its call", param=f"messages[{index}].tool_call_id")
    return message.tool_call_id


def _legacy_key(name: str) -> str:
    """The older `function_call` has no id: a result belongs to the call of its name."""
    return f"function {name}"


def _unknown_part(kind: str, param: str) -> BadRequest:
    return BadRequest(f"GigaChat does not take content of the type {kind!r} here", param=param)
