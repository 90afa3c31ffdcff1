"""Local token counts: what a hold and a limit go by before the provider has reported, and for what it never reports.

An estimate is by classes of characters, since the tokenizers of GigaChat and YandexGPT are not public. The rates are the
sheets' published ones: YandexGPT 501 Russian characters = 96 tokens and 477 English = 89 (yandexgpt.md section 11), GigaChat
3 to 4 characters a token for Russian, spaces included (gigachat.md section 9). A hold must not be too small, so a class is
counted at the dense end of its range.
"""

from xrouter.context import Call
from xrouter.wire import ChatRequest

_CHARACTERS_PER_TOKEN = 3.6
_ASCII_SYMBOLS_PER_TOKEN = 1.8  # code and JSON: braces, quotes and operators are often tokens of their own
_OTHER_PER_TOKEN = 1.0  # CJK, emoji
_MESSAGE_OVERHEAD = 8  # role marks and separators of a chat template
_SYMBOLS = bytes(set(range(0x21, 0x7F)) - {*b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789,.'-"})
_DELETE_ALL_BUT_WIDE = bytes(range(0xE0))


def count(text: str) -> int:
    """Estimated tokens of `text`. Linear and at C speed: one encoding and two translations, no loop over characters."""
    if not text:
        return 0
    data = text.encode("utf-8", "surrogatepass")
    symbols = len(data) - len(data.translate(None, _SYMBOLS))
    # A lead byte of 0xE0 or more begins a character beyond Cyrillic: three or four bytes, mostly one token or more.
    wide = len(data.translate(None, _DELETE_ALL_BUT_WIDE))
    plain = len(text) - symbols - wide
    tokens = plain / _CHARACTERS_PER_TOKEN + symbols / _ASCII_SYMBOLS_PER_TOKEN + wide / _OTHER_PER_TOKEN
    return max(1, round(tokens))


def count_call(call: Call) -> int:
    """Estimated input tokens of a call: its texts, the chat template around them, the tools' schemas."""
    texts = call.prompt()
    tokens = sum(map(count, texts))
    if isinstance(call.request, ChatRequest):
        tokens += _MESSAGE_OVERHEAD * len(texts)
        for tool in call.body.get("tools") or call.body.get("functions") or ():
            tokens += count(str(tool))
    elif (inputs := call.body.get("input")) and isinstance(inputs, list):
        tokens += sum(len(item) if isinstance(item, list) else 1 for item in inputs if not isinstance(item, str))
    return tokens
