"""Users of a gateway: several models, several keys, whole answers and streams, and some who leave in the middle.

    XROUTER_KEYS=KEY,KEY… XROUTER_MODELS=bench,… locust -f bench/locustfile.py --host http://127.0.0.1:8080

Each user has one key of the list. A refusal for a limit (429) or for overload (503) has a name of its own and is no failure;
anything else that is not an answer is one.
"""

import itertools
import os
import random
from typing import Any

from locust import FastHttpUser, between, events, task

KEYS = itertools.cycle(os.environ.get("XROUTER_KEYS", "").split(","))
MODELS = os.environ.get("XROUTER_MODELS", "bench").split(",")
_QUESTIONS = ("What is the capital of Peru?", "Назови столицу Перу.", "Расскажи о реках Сибири подробно. " * 20)
_SHED = {429, 503}
_PATH = "/v1/chat/completions"


class ChatUser(FastHttpUser):
    """Asks, reads, thinks, asks again."""

    wait_time = between(0.05, 0.3)

    def on_start(self) -> None:
        self.auth = {"Authorization": f"Bearer {next(KEYS)}"}

    def body(self, **more: Any) -> dict[str, Any]:
        question = random.choice(_QUESTIONS)
        return {
            "model": random.choice(MODELS),
            "messages": [{"role": "user", "content": question}],
            "max_tokens": 60,
            **more,
        }

    @task(6)
    def whole(self) -> None:
        with self.client.post(_PATH, json=self.body(), headers=self.auth, name="whole", catch_response=True) as answer:
            if answer.status_code in _SHED:
                answer.request_meta["name"] = f"refused {answer.status_code}"
                answer.success()
            elif answer.status_code == 200 and not answer.json()["choices"]:
                answer.failure("no choice")

    def stream(self, name: str, most_bytes: int | None) -> None:
        with self.client.post(
            _PATH, json=self.body(stream=True), headers=self.auth, name=name, stream=True, catch_response=True
        ) as answer:
            if answer.status_code in _SHED:
                answer.request_meta["name"] = f"refused {answer.status_code}"
                answer.success()
                return
            if answer.status_code != 200:
                return
            if most_bytes is not None:
                answer.stream.read(most_bytes)
                answer.stream.release()  # closes the connection: the rest is not read
                answer.success()
                return
            text = answer.stream.read()
            if not text.rstrip().endswith(b"data: [DONE]"):
                answer.failure("a stream without its end")

    @task(3)
    def streamed(self) -> None:
        self.stream("streamed", None)

    @task(1)
    def left(self) -> None:
        self.stream("left in the middle", 200)


@events.quitting.add_listener
def fail_on_failures(environment: Any, **_: Any) -> None:
    environment.process_exit_code = 1 if environment.stats.total.num_failures else 0
