"""What workers and their supervisor tell each other over a socket pair: one length-prefixed JSON message after the other.

A reload is a two-phase commit, so that either every worker serves by the new configuration or none does: the supervisor
sends each the same bytes of the file (`Prepare`), hears from all that it is built (`Prepared`), then all swap (`Commit`).
"""

from collections.abc import Iterator
from typing import Final

import msgspec

from xrouter.observe.snapshots import Snapshot

_LENGTH_BYTES: Final = 4


class Waiting(msgspec.Struct, tag=True, frozen=True):
    """The worker waits for its store. Said again and again; `TurnAway` is the answer while no other serves."""


class TurnAway(msgspec.Struct, tag=True, frozen=True):
    """Accept connections and answer 503."""


class Built(msgspec.Struct, tag=True, frozen=True):
    """The worker could serve, and takes part in reloads from now on. It accepts nothing before it has heard `Serve`."""


class Serve(msgspec.Struct, tag=True, frozen=True):
    """The answer to Built, after what has been agreed since the worker was forked."""


class Ready(msgspec.Struct, tag=True, frozen=True):
    """The worker accepts connections."""


class Pulse(msgspec.Struct, tag=True, frozen=True):
    """How the worker is, told every half second if anything has changed."""

    in_flight: int
    requests: int
    draining: bool
    metrics: Snapshot


class Prepare(msgspec.Struct, tag=True, frozen=True):
    """Build what the file's `text` says beside what is running."""

    reload: int
    text: bytes


class Prepared(msgspec.Struct, tag=True, frozen=True):
    """`problem`: why it cannot be built; None if it is ready to take over."""

    reload: int
    problem: str | None


class Commit(msgspec.Struct, tag=True, frozen=True):
    """Let what was prepared take over."""

    reload: int


class Abort(msgspec.Struct, tag=True, frozen=True):
    """Forget what was prepared."""

    reload: int


class AskReload(msgspec.Struct, tag=True, frozen=True):
    """A request to the worker wants the whole fleet to read its configuration again."""

    question: int


class Reloaded(msgspec.Struct, tag=True, frozen=True):
    """The answer to AskReload. `problem`: why everything has stayed as it was."""

    question: int
    problem: str | None


class AskFleet(msgspec.Struct, tag=True, frozen=True):
    """A request to the worker wants to know of all of them."""

    question: int


class WorkerState(msgspec.Struct, frozen=True):
    """One worker as its supervisor sees it. Times in seconds, memory in bytes."""

    number: int
    pid: int
    state: str  # starting | serving | draining
    in_flight: int
    requests: int
    age_s: float
    cpu_s: float
    resident_bytes: int
    restarts: int  # of this number's predecessors, since the supervisor started


class Fleet(msgspec.Struct, tag=True, frozen=True):
    """The answer to AskFleet: every worker, and the metrics of the others and of those that are gone."""

    question: int
    workers: list[WorkerState]
    metrics: list[Snapshot]


ToSupervisor = Waiting | Built | Ready | Pulse | Prepared | AskReload | AskFleet
ToWorker = TurnAway | Serve | Prepare | Commit | Abort | Reloaded | Fleet

_encoder: Final = msgspec.json.Encoder()
to_supervisor: Final = msgspec.json.Decoder(ToSupervisor)
to_worker: Final = msgspec.json.Decoder(ToWorker)


def frame(message: ToSupervisor | ToWorker) -> bytes:
    body = _encoder.encode(message)
    return len(body).to_bytes(_LENGTH_BYTES, "big") + body


class Frames:
    """The bodies of the messages in a stream of bytes, whichever way it is cut."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[bytes]:
        self._buffer += data
        while len(self._buffer) >= _LENGTH_BYTES:
            end = _LENGTH_BYTES + int.from_bytes(self._buffer[:_LENGTH_BYTES], "big")
            if len(self._buffer) < end:
                return
            yield bytes(self._buffer[_LENGTH_BYTES:end])
            del self._buffer[:end]
