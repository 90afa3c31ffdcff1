"""The sandbox's tokenizer: about four characters a token, the same text always the same tokens.

The providers' tokenizers are not public. What matters to a client is that the numbers agree with each other: usage, token
counts and max_tokens all come from here. Joining the tokens of a text gives the text back.
"""

import re
import zlib

_TOKEN = re.compile(r" ?[^\W\d_]{1,5}| ?\d{1,3}|\n|\s+|[^\w\s]|_", re.UNICODE)

GIGACHAT_TEMPLATE_TOKENS = 8
"""What GigaChat's chat template adds to each request in the sandbox, whatever its messages."""

YANDEX_MESSAGE_TOKENS = 3
"""Yandex's role mark, line end and separator around each message."""

OPENAI_MESSAGE_TOKENS = 3
OPENAI_REPLY_TOKENS = 3
"""OpenAI's published rule of thumb: three tokens a message, three for the reply's start."""

_VOCABULARY = 128_000


def split(text: str) -> list[str]:
    """The tokens of `text`, in order."""
    return _TOKEN.findall(text)


def count(text: str) -> int:
    return len(_TOKEN.findall(text))


def token_id(token: str) -> int:
    """A number for a token, the same in every run; 0 to 2 are Yandex's marks."""
    return 3 + zlib.crc32(token.encode("utf-8", "surrogatepass")) % (_VOCABULARY - 3)
