"""Many connections that ask again as soon as they are answered, in a process of their own.

    python -m kit.crowd HOST PORT CONNECTIONS REQUEST-IN-HEXADECIMAL

With its stdin it asks no more, waits for what it has asked, and prints the status of every answer.
"""

import selectors
import sys
from contextlib import ExitStack

from kit.raw_client import RawClient


def main(host: str, port: str, number: str, request: str) -> None:
    statuses: list[int] = []
    with ExitStack() as stack:
        answered = stack.enter_context(selectors.DefaultSelector())
        answered.register(sys.stdin, selectors.EVENT_READ)
        for _ in range(int(number)):
            client = stack.enter_context(RawClient((host, int(port)), timeout_s=20))
            answered.register(client.socket, selectors.EVENT_READ, client)
            client.send(bytes.fromhex(request))
        asking, waiting = True, int(number)
        while waiting:
            for ready, _ in answered.select():
                if ready.data is None:
                    asking = False
                    answered.unregister(sys.stdin)
                    continue
                statuses.append(ready.data.answer().status)
                if asking:
                    ready.data.send(bytes.fromhex(request))
                else:
                    waiting -= 1
    print(*statuses)


if __name__ == "__main__":
    main(*sys.argv[1:])
