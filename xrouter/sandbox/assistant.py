"""What the sandbox's model says: the same answer to the same request, in the question's language, about the question.

This is no language model. It greets, counts, adds two numbers, repeats what it is told to, calls the function that the
question is about, tells a function's result, fills in a JSON schema, and otherwise gives advice that fits any question.
"""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from xrouter.sandbox import phrases, tokens
from xrouter.sandbox.scenario import MARK, Scenario
from xrouter.sandbox.schema import Schema, example
from xrouter.wire import decode_json

_GREETING = re.compile(r"^\W*(привет|здравствуй|здравствуйте|добр(?:ый|ое) |hello|hi|hey|good (?:morning|day))\b", re.I)
_THANKS = re.compile(r"^\W*(спасибо|благодарю|thanks|thank you)\b", re.I)
_REPEAT = re.compile(r"^\s*(?:повтори|скажи|repeat|say|echo)(?: дословно| exactly| after me)?\s*:\s*(.+)$", re.I | re.S)
_SUM = re.compile(r"(?<![\d.,])(-?\d{1,15})\s*([-+*×/])\s*(-?\d{1,15})(?![\d.,])")
_RANGE = re.compile(r"\b(?:от|с|from)\s+(\d{1,6})\s+(?:до|по|to)\s+(\d{1,6})\b", re.I)
_BRIEF = re.compile(r"кратк|коротк|одним (?:словом|предложением)|brief|concise|short|one (?:word|sentence)", re.I)
_WORD = re.compile(r"[^\W\d_]{3,}")


@dataclass(frozen=True, slots=True)
class Turn:
    """One message. `name`: of the function whose result it is."""

    role: str  # system | user | assistant | tool
    text: str
    name: str = ""
    images: int = 0


@dataclass(frozen=True, slots=True)
class Function:
    name: str
    description: str
    parameters: Schema


@dataclass(frozen=True, slots=True)
class Prompt:
    """What an answer depends on, whatever API it came by. `variation` tells several answers to one prompt apart."""

    turns: Sequence[Turn]
    functions: Sequence[Function] = ()
    choice: str = "auto"  # none | auto | required | = and the name of a function
    parallel: bool = False
    schema: Schema | None = None  # answer with JSON that is valid for it
    max_tokens: int | None = None
    stop: Sequence[str] = ()
    reasoning: bool = False
    variation: int = 0


@dataclass(frozen=True, slots=True)
class Call:
    name: str
    arguments: Any


@dataclass(frozen=True, slots=True)
class Generation:
    """An answer. `pieces` are its tokens; `finish`: stop | length | tool_calls | filter | error.

    Of a filtered one `pieces` are what was told before moderation stepped in: then comes `REFUSAL`.
    """

    pieces: Sequence[str]
    reasoning: Sequence[str]
    calls: Sequence[Call]
    finish: str

    @property
    def text(self) -> str:
        return "".join(self.pieces)

    @property
    def reasoning_text(self) -> str:
        return "".join(self.reasoning)

    @property
    def output_tokens(self) -> int:
        """Reasoning and the refusal that replaces a filtered answer included."""
        called = sum(tokens.count(call.name + msgspec.json.encode(call.arguments).decode()) for call in self.calls)
        refusal = tokens.count(REFUSAL) if self.finish == "filter" else 0
        return len(self.pieces) + len(self.reasoning) + called + refusal


def grouped(pieces: Sequence[str], size: int) -> list[str]:
    """Tokens joined by `size`, as a stream brings them."""
    return ["".join(pieces[at : at + size]) for at in range(0, len(pieces), size)]


REFUSAL = "Я не могу обсуждать эту тему. Давайте поговорим о чём-нибудь ещё."
"""The standard refusal of Yandex's moderation (yandexgpt.md section 14), also used for GigaChat's blacklist."""


def generate(prompt: Prompt, scenario: Scenario, *, tokens_per_frame: int = 0) -> Generation:
    """The answer to `prompt`. `tokens_per_frame`: of a stream; 0: the answer comes whole."""
    author = _Author(prompt)
    if scenario.filter is not None:
        told = scenario.filter * tokens_per_frame
        return Generation(tokens.split(author.essay(told)) if told else (), (), (), "filter")
    reasoning = tokens.split(author.thoughts()) if scenario.reasoning or prompt.reasoning else []
    wanted = scenario.tool if scenario.tool and prompt.functions else 0
    if calls := author.calls(wanted):
        return Generation((), reasoning, calls, "error" if scenario.error else "tool_calls")
    text = author.essay(scenario.long) if scenario.long else author.answer()
    if scenario.think:
        text = f"<think>{author.thoughts()}</think>\n\n{text}"
    if scenario.split:
        text += " 🙂"  # a character of four bytes, to be cut in
    for stop in prompt.stop:
        text = text.partition(stop)[0] if stop else text
    pieces = tokens.split(text)
    limit = prompt.max_tokens
    if scenario.length:
        limit = min(limit or 1 << 30, max(1, len(pieces) // 2))
    finish = "error" if scenario.error else "stop"
    if limit is not None and len(reasoning) + len(pieces) > limit:
        reasoning = reasoning[:limit]
        pieces, finish = pieces[: limit - len(reasoning)], "length"
    return Generation(pieces, reasoning, (), finish)


class _Author:
    def __init__(self, prompt: Prompt) -> None:
        self._prompt = prompt
        self._last = prompt.turns[-1] if prompt.turns else Turn("user", "")
        asked = next((turn for turn in reversed(prompt.turns) if turn.role == "user" and turn.text), self._last)
        self._question = MARK.sub("", asked.text).strip()
        self._russian = bool(re.search("[А-Яа-яЁё]", self._question or self._last.text))
        self._phrases = phrases.RUSSIAN if self._russian else phrases.ENGLISH
        seed = "\0".join(f"{turn.role}\0{turn.text}" for turn in prompt.turns) + f"\0{prompt.variation}"
        self._seed = hashlib.blake2b(seed.encode("utf-8", "surrogatepass"), digest_size=32).digest()

    # Text

    def answer(self) -> str:
        prompt, said, question = self._prompt, self._phrases, self._question
        if prompt.schema is not None:
            return msgspec.json.encode(example(prompt.schema, question)).decode()
        if self._last.role == "tool":
            return self._told_result()
        if found := _REPEAT.match(question):
            return found.group(1).strip()
        if found := _RANGE.search(question):
            first, last = int(found.group(1)), int(found.group(2))
            return ", ".join(map(str, range(first, min(last, first + 9999) + 1))) + "."
        if found := _SUM.search(question):
            return self._calculated(int(found.group(1)), found.group(2), int(found.group(3)))
        if _THANKS.match(question):
            return said.welcome
        if _GREETING.match(question) and len(question) < 60:
            return said.greeting
        if self._last.images:
            return said.image.format(count=self._last.images) + " " + self._advice(1)
        brief = any(turn.role == "system" and _BRIEF.search(turn.text) for turn in prompt.turns)
        if brief or _BRIEF.search(question):
            return self._opening()
        return f"{self._opening()} {self._advice(2 + self._seed[1] % 2)} {self._pick(said.closings, 2)}"

    def essay(self, size: int) -> str:
        """About `size` tokens, in numbered paragraphs."""
        parts = [self._opening()]
        length, number = tokens.count(parts[0]), 0
        while length < size:
            number += 1
            sentence = self._pick(self._phrases.advice, number % 24)
            parts.append(f"\n\n{number}. {sentence}")
            length += tokens.count(parts[-1])
        return "".join(tokens.split("".join(parts))[:size])

    def thoughts(self) -> str:
        return self._phrases.thoughts.format(topic=self._topic())

    def _opening(self) -> str:
        return self._pick(self._phrases.openings, 0).format(topic=self._topic())

    def _advice(self, sentences: int) -> str:
        advice = self._phrases.advice
        start = self._seed[3] % len(advice)
        return " ".join(advice[(start + step) % len(advice)] for step in range(sentences))

    def _topic(self) -> str:
        words = " ".join(self._question.split()).rstrip("?!. ")
        if len(words) > 60:
            words = words[:60].rsplit(" ", 1)[0] + "…"
        return words or self._phrases.topic

    def _pick(self, options: Sequence[str], salt: int) -> str:
        return options[self._seed[salt] % len(options)]

    def _calculated(self, left: int, sign: str, right: int) -> str:
        if sign == "/":
            value = f"{left / right:g}" if right else self._phrases.undefined
        else:
            value = str({"+": left + right, "-": left - right}.get(sign, left * right))
        return f"{left} {sign} {right} = {value}."

    def _told_result(self) -> str:
        results = []
        for turn in reversed(self._prompt.turns):
            if turn.role != "tool":
                break
            results.append(self._phrases.result.format(name=turn.name, result=_readable(turn.text)))
        return " ".join(reversed(results))

    # Functions

    def calls(self, wanted: int) -> list[Call]:
        """The calls to make: `wanted` of them whatever the question, or what the choice and the question ask for."""
        prompt = self._prompt
        if not prompt.functions or (prompt.choice == "none" and not wanted):
            return []
        if prompt.choice.startswith("="):
            chosen = [each for each in prompt.functions if each.name == prompt.choice[1:]]
        else:
            chosen = [max(prompt.functions, key=self._relevance)]
            if prompt.choice == "auto" and not wanted and not self._asks():
                return []
        if wanted > 1 and prompt.parallel:
            chosen = [prompt.functions[at % len(prompt.functions)] for at in range(wanted)]
        return [Call(each.name, self._arguments(each)) for each in chosen]

    def _asks(self) -> bool:
        """Whether the newest message is one that a function may answer: a user's, and no small talk."""
        small_talk = _GREETING.match(self._question) and len(self._question) < 30
        return self._last.role == "user" and not small_talk and not _THANKS.match(self._question)

    def _relevance(self, function: Function) -> int:
        """How many words of the question begin as words of the function's name or description do."""
        asked = {word[:4].lower() for word in _WORD.findall(self._question)}
        about = {
            word[:4].lower() for word in _WORD.findall(function.name.replace("_", " ") + " " + function.description)
        }
        return len(asked & about)

    def _arguments(self, function: Function) -> Any:
        value = example({"type": "object", **function.parameters}, self._question)
        return value if isinstance(value, dict) else {}


def _readable(result: str) -> str:
    """A function's result as one would say it: `{"temperature": 8}` is `temperature: 8`."""
    try:
        value = decode_json(result.encode("utf-8", "surrogatepass"))
    except ValueError:
        return result
    if isinstance(value, dict):
        if list(value) == ["result"]:
            return _plain(value["result"])
        return ", ".join(f"{key}: {_plain(each)}" for key, each in value.items()) or "{}"
    return _plain(value)


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()
