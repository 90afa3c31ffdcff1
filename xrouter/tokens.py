"""Local token counts: what a hold and a limit go by before the provider has reported, and for what it never reports.

An estimate goes by classes of characters, since the tokenizers of GigaChat and YandexGPT are not public. Each family of
models has rates of its own: bench/tokens.py shows how far off they are, docs/tokens.md says where they come from. A hold
must not be too small, so a rate that is not known is taken from the dense end of what is.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from xrouter.context import Call
from xrouter.wire import ChatRequest

_MESSAGE_OVERHEAD: Final = 8  # role marks and separators of a chat template (yandexgpt.md section 11)
_DIGITS: Final = b"0123456789"
_LETTERS: Final = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
_SYMBOLS: Final = bytes(set(range(0x21, 0x7F)) - {*_LETTERS, *_DIGITS, *b",.'-"})
_ALL_BUT_CYRILLIC: Final = bytes(set(range(0x100)) - set(range(0xD0, 0xD4)))  # lead bytes of U+0400 to U+04FF
_ALL_BUT_WIDE: Final = bytes(range(0xE0))  # a lead byte above begins a character of three or four bytes


@dataclass(frozen=True, slots=True)
class Profile:
    """Characters per token of one family of tokenizers.

    `latin` is for everything that is in no other class, blanks and the commonest punctuation included; `symbol` for the
    rest of ASCII, which code and JSON are full of; `wide` for CJK and emoji.
    """

    cyrillic: float
    latin: float
    digit: float
    symbol: float
    wide: float = 1.0

    def count(self, text: str) -> int:
        """Estimated tokens of `text`. Linear and at C speed: one encoding and four translations, no loop over characters."""
        if not text:
            return 0
        data = text.encode("utf-8", "surrogatepass")
        digits = len(data) - len(data.translate(None, _DIGITS))
        symbols = len(data) - len(data.translate(None, _SYMBOLS))
        if len(data) == len(text):
            latin = len(data) - digits - symbols
            tokens = latin / self.latin + digits / self.digit + symbols / self.symbol
            return round(tokens) or 1
        cyrillic = len(data.translate(None, _ALL_BUT_CYRILLIC))
        wide = len(data.translate(None, _ALL_BUT_WIDE))
        latin = len(text) - digits - symbols - cyrillic - wide
        tokens = (
            cyrillic / self.cyrillic
            + latin / self.latin
            + digits / self.digit
            + symbols / self.symbol
            + wide / self.wide
        )
        return max(1, round(tokens))

    def count_call(self, call: Call) -> int:
        """Estimated input tokens of a call: its texts, the chat template around them, the tools' schemas."""
        texts = call.prompt()
        tokens = sum(map(self.count, texts))
        if isinstance(call.request, ChatRequest):
            tokens += _MESSAGE_OVERHEAD * len(texts)
            for tool in call.body.get("tools") or call.body.get("functions") or ():
                tokens += self.count(str(tool))
        elif (inputs := call.body.get("input")) and isinstance(inputs, list):
            tokens += sum(len(item) if isinstance(item, list) else 1 for item in inputs if not isinstance(item, str))
        return tokens


UNKNOWN: Final = Profile(cyrillic=2.8, latin=4.4, digit=1.0, symbol=1.4)
GIGACHAT: Final = Profile(cyrillic=2.8, latin=4.4, digit=1.0, symbol=1.4)
YANDEX: Final = Profile(cyrillic=4.1, latin=5.0, digit=1.0, symbol=1.4)
GPT_OSS: Final = Profile(cyrillic=3.6, latin=5.0, digit=3.0, symbol=1.4)
QWEN: Final = Profile(cyrillic=2.8, latin=5.0, digit=1.0, symbol=1.4)
_FAMILIES: Final = (
    ("gigachat", GIGACHAT),
    ("yandexgpt", YANDEX),
    ("aliceai", YANDEX),
    ("gpt-oss", GPT_OSS),
    ("gpt-4o", GPT_OSS),
    ("gpt-5", GPT_OSS),
    ("qwen", QWEN),
)


@lru_cache(maxsize=1024)
def profile(model: str) -> Profile:
    """The rates for `model`, by the name that its provider has for it."""
    name = model.lower()
    return next((rates for family, rates in _FAMILIES if family in name), UNKNOWN)


count: Final = UNKNOWN.count
"""Of a model of which nothing is known but that it is one."""
