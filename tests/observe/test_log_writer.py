"""Log lines from the request to the pipe: whole, in order, never in a request's way (fault matrix F39)."""

import io
import logging
import os
import threading
import time
from collections.abc import Iterator
from typing import Any, BinaryIO, cast

import pytest

from xrouter.observe import logs
from xrouter.observe.logs import LogWriter, log_through
from xrouter.wire import decode_json


class Slow(io.RawIOBase):
    """Takes a write only when it is let."""

    def __init__(self) -> None:
        self.data = b""
        self.writing = threading.Event()
        self.let = threading.Event()

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self.writing.set()
        assert self.let.wait(5)
        self.data += bytes(data)
        return len(data)

    def records(self) -> list[dict[str, Any]]:
        return [decode_json(line) for line in self.data.splitlines()]


def test_every_line_is_written_in_order_from_any_thread() -> None:
    stream = Slow()
    stream.let.set()
    writer = LogWriter(cast(BinaryIO, stream))

    def write(name: int) -> None:
        for number in range(500):
            writer.write({"name": name, "number": number})

    threads = [threading.Thread(target=write, args=(name,)) for name in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    writer.close()
    records = stream.records()
    assert len(records) == 2000
    for name in range(4):
        assert [record["number"] for record in records if record["name"] == name] == list(range(500))


def test_a_line_that_comes_while_another_is_written_is_not_lost_at_the_end() -> None:
    stream = Slow()
    writer = LogWriter(cast(BinaryIO, stream))
    writer.write({"n": 1})
    assert stream.writing.wait(5)
    writer.write({"n": 2})
    closing = threading.Thread(target=writer.close, args=(5,))
    closing.start()
    stream.let.set()
    closing.join()
    assert [record["n"] for record in stream.records()] == [1, 2]


def test_f39_a_blocked_reader_costs_lines_and_no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "_BACKLOG_LINES", 50)
    stream = Slow()
    writer = LogWriter(cast(BinaryIO, stream))
    writer.write({"n": -1})
    assert stream.writing.wait(5)
    began = time.monotonic()
    for number in range(1000):
        writer.write({"n": number})
    assert time.monotonic() - began < 1
    assert writer.dropped == 950
    stream.let.set()
    while len(stream.records()) < 51:
        time.sleep(0.005)
    writer.write({"n": "after"})
    writer.close()
    records = stream.records()
    assert [record.get("n") for record in records[:51]] == [-1, *range(50)]
    assert records[51]["event"] == "log_lines_dropped"
    assert records[51]["lines"] == 950
    assert records[52]["n"] == "after"


def test_f39_a_reader_that_has_gone() -> None:
    read, write = os.pipe()
    with os.fdopen(write, "wb") as stream:
        writer = LogWriter(stream)
        os.close(read)
        writer.write({"n": 1})
        writer.close()
        assert writer.dropped == 1
        with pytest.raises(BrokenPipeError):
            stream.flush()  # what the buffer still holds
        with pytest.raises(BrokenPipeError):
            stream.close()


@pytest.fixture
def as_before() -> Iterator[None]:
    root, ours = logging.getLogger(), logging.getLogger("xrouter")
    before = root.handlers[:], root.level, ours.level
    yield
    root.handlers[:], root.level, ours.level = before


@pytest.mark.usefixtures("as_before")
def test_the_programs_own_log_is_lines_too() -> None:
    stream = Slow()
    stream.let.set()
    writer = LogWriter(cast(BinaryIO, stream))
    log_through(writer)
    logging.getLogger("xrouter.test").info("one\nline: %s", "\u2028 x")
    logging.getLogger("elsewhere").info("not told")
    try:
        raise ValueError("why\nso")
    except ValueError:
        logging.getLogger("xrouter.test").exception("failed")
    writer.close()
    told, failed = stream.records()
    assert told["message"] == "one\nline: \u2028 x"
    assert told["logger"] == "xrouter.test"
    assert "ValueError: why" in failed["exception"]
    assert stream.data.count(b"\n") == 2
