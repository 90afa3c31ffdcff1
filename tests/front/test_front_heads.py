"""F26: heads that another reader could read differently never reach the app, and get one answer or none."""

import pytest
from front_app import Served
from kit.raw_client import Answer

from xrouter.config.settings import Server

GET = b"GET /a HTTP/1.1\r\nHost: a\r\n"
POST = b"POST /a HTTP/1.1\r\nHost: a\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"


def target(path: bytes) -> bytes:
    return b"GET " + path + b" HTTP/1.1\r\nHost: a\r\n\r\n"


def host(value: bytes) -> bytes:
    return b"GET /a HTTP/1.1\r\nHost: " + value + b"\r\n\r\n"


REFUSED: dict[str, tuple[int, bytes]] = {
    # Host
    "host missing": (400, b"GET /a HTTP/1.1\r\nX: y\r\n\r\n"),
    "host empty": (400, host(b"")),
    "host blank": (400, host(b"  ")),
    "host twice": (400, GET + b"Host: a\r\n\r\n"),
    "host twice, different": (400, GET + b"hOST: b\r\n\r\n"),
    "host list": (400, host(b"a, b")),
    "host with a path": (400, host(b"a/admin")),
    "host with a query": (400, host(b"a?b")),
    "host with a fragment": (400, host(b"a#b")),
    "host with user information": (400, host(b"user@a")),
    "host with a scheme": (400, host(b"http://a")),
    "host with a space": (400, host(b"a b")),
    "host with a backslash": (400, host(b"a\\b")),
    "host with an escape": (400, host(b"a%2eb")),
    "host not ASCII": (400, host("я".encode())),
    "host with an empty port": (400, host(b"a:")),
    "host with two ports": (400, host(b"a:1:2")),
    "host with a long port": (400, host(b"a:123456")),
    "host with a lettered port": (400, host(b"a:http")),
    "host with an open bracket": (400, host(b"[::1")),
    "host too long": (400, host(b"a" * 256)),
    "host in HTTP/1.0 odd": (400, b"GET /a HTTP/1.0\r\nHost: a/b\r\n\r\n"),
    # Framing
    "length and chunked": (400, POST + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    "chunked and length": (400, POST + b"Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n"),
    "two lengths": (400, POST + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nab"),
    "two equal lengths": (400, POST + b"Content-Length: 1\r\nContent-Length: 1\r\n\r\na"),
    "list of lengths": (400, POST + b"Content-Length: 1, 1\r\n\r\na"),
    "length with a plus": (400, POST + b"Content-Length: +1\r\n\r\na"),
    "length below zero": (400, POST + b"Content-Length: -1\r\n\r\na"),
    "length in hexadecimal": (400, POST + b"Content-Length: 0x1\r\n\r\na"),
    "length empty": (400, POST + b"Content-Length: \r\n\r\na"),
    "length with a space": (400, POST + b"Content-Length: 1 1\r\n\r\na"),
    "length above 64 bits": (400, POST + b"Content-Length: 99999999999999999999\r\n\r\na"),
    "coding gzip": (400, POST + b"Transfer-Encoding: gzip\r\n\r\n"),
    "coding gzip, chunked": (400, POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n"),
    "coding chunked, gzip": (400, POST + b"Transfer-Encoding: chunked, gzip\r\n\r\n"),
    "coding xchunked": (400, POST + b"Transfer-Encoding: xchunked\r\n\r\n"),
    "coding identity": (400, POST + b"Transfer-Encoding: identity\r\n\r\n"),
    "coding empty": (400, POST + b"Transfer-Encoding: \r\n\r\n"),
    "coding quoted": (400, POST + b'Transfer-Encoding: "chunked"\r\n\r\n0\r\n\r\n'),
    "coding with a parameter": (400, POST + b"Transfer-Encoding: chunked;a=b\r\n\r\n0\r\n\r\n"),
    "coding twice": (400, POST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    "coding after a vertical tab": (400, POST + b"Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n"),
    "coding in HTTP/1.0": (400, b"POST /a HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    # Lines and fields
    "bare line feeds": (400, b"GET /a HTTP/1.1\nHost: a\n\n"),
    "bare line feed after a field": (400, GET + b"A: b\nC: d\r\n\r\n"),
    "bare line feed at the end": (400, GET + b"A: b\r\n\n"),
    "bare carriage return": (400, GET + b"A: b\rC: d\r\n\r\n"),
    "folded field": (400, GET + b"A: b\r\n c\r\n\r\n"),
    "field before any name": (400, b"GET /a HTTP/1.1\r\n Host: a\r\n\r\n"),
    "NUL in a value": (400, GET + b"A: b\0c\r\n\r\n"),
    "control character in a value": (400, GET + b"A: b\x01c\r\n\r\n"),
    "DEL in a value": (400, GET + b"A: b\x7fc\r\n\r\n"),
    "space before the colon": (400, GET + b"A : b\r\n\r\n"),
    "tab before the colon": (400, GET + b"A\t: b\r\n\r\n"),
    "space before a length's colon": (400, POST + b"Content-Length : 1\r\n\r\na"),
    "no colon": (400, GET + b"A\r\n\r\n"),
    "empty name": (400, GET + b": b\r\n\r\n"),
    "parenthesis in a name": (400, GET + b"A(: b\r\n\r\n"),
    "name not ASCII": (400, GET + b"A\xff: b\r\n\r\n"),
    # Versions and methods
    "HTTP/0.9": (400, b"GET /a\r\n\r\n"),
    "HTTP/0.9, said": (400, b"GET /a HTTP/0.9\r\nHost: a\r\n\r\n"),
    "HTTP/1.2": (400, b"GET /a HTTP/1.2\r\nHost: a\r\n\r\n"),
    "HTTP/2.0": (400, b"GET /a HTTP/2.0\r\nHost: a\r\n\r\n"),
    "HTTP/1.11": (400, b"GET /a HTTP/1.11\r\nHost: a\r\n\r\n"),
    "http/1.1": (400, b"GET /a http/1.1\r\nHost: a\r\n\r\n"),
    "HTTP/2 preface": (400, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    "TLS": (400, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"),
    "method unknown": (400, b"FOO /a HTTP/1.1\r\nHost: a\r\n\r\n"),
    "method in lower case": (400, b"get /a HTTP/1.1\r\nHost: a\r\n\r\n"),
    "CONNECT": (405, b"CONNECT a:80 HTTP/1.1\r\nHost: a\r\n\r\n"),
    "TRACE": (405, b"TRACE /a HTTP/1.1\r\nHost: a\r\n\r\n"),
    "PURGE": (405, b"PURGE /a HTTP/1.1\r\nHost: a\r\n\r\n"),
    "RTSP": (405, b"PLAY /a RTSP/1.0\r\nHost: a\r\n\r\n"),
    # Targets
    "absolute form": (400, target(b"http://a/a")),
    "absolute form, another host": (400, target(b"http://evil/a")),
    "asterisk": (400, b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n"),
    "relative": (400, target(b"a")),
    "fragment": (400, target(b"/a#b")),
    "fragment in the query": (400, target(b"/a?b#c")),
    "tabs for spaces": (400, b"GET\t/a\tHTTP/1.1\r\nHost: a\r\n\r\n"),
    "control character": (400, target(b"/a\x01")),
    "NUL": (400, target(b"/a\0")),
    "not ASCII": (400, target("/я".encode())),
    "backslash": (400, target(b"/a\\b")),
    "encoded NUL": (400, target(b"/a%00")),
    "encoded line end": (400, target(b"/a%0d%0aX:%20y")),
    "encoded line feed": (400, target(b"/a%0A")),
    "encoded DEL": (400, target(b"/a%7f")),
    "encoded backslash": (400, target(b"/a%5c..%5cb")),
    "encoding not UTF-8": (400, target(b"/a%ff")),
    "encoding overlong": (400, target(b"/%c0%ae%c0%ae/a")),
    "encoding broken": (400, target(b"/a%zz")),
    "encoding cut": (400, target(b"/a%4")),
    "dot segment": (400, target(b"/v1/./models")),
    "dots segment": (400, target(b"/v1/../admin")),
    "dots at the end": (400, target(b"/v1/..")),
    "dots first": (400, target(b"/../a")),
    "encoded dots": (400, target(b"/v1/%2e%2e/admin")),
    "half encoded dots": (400, target(b"/v1/.%2E/admin")),
    "dots behind an encoded slash": (400, target(b"/v1%2f..%2fadmin")),
    "too long": (414, target(b"/" + b"a" * 8192)),
    "query too long": (414, target(b"/?" + b"a" * 8192)),
    # Bodies that come with the head
    "chunk longer than said": (400, CHUNKED + b"3\r\nabcd\r\n0\r\n\r\n"),
    "chunk size with a space": (400, CHUNKED + b"3 \r\nabc\r\n0\r\n\r\n"),
    "chunk size with 0x": (400, CHUNKED + b"0x3\r\nabc\r\n0\r\n\r\n"),
    "chunk size with a plus": (400, CHUNKED + b"+3\r\nabc\r\n0\r\n\r\n"),
    "chunk size below zero": (400, CHUNKED + b"-3\r\nabc\r\n0\r\n\r\n"),
    "chunk size above 64 bits": (400, CHUNKED + b"fffffffffffffffff\r\nabc\r\n0\r\n\r\n"),
    "chunk size empty": (400, CHUNKED + b"\r\nabc\r\n0\r\n\r\n"),
    "chunk lines with bare line feeds": (400, CHUNKED + b"3\nabc\n0\n\n"),
    "chunk extension with a bare line feed": (400, CHUNKED + b"3;a\nabc\r\n0\r\n\r\n"),
    "chunk without its end": (400, CHUNKED + b"3\r\nabcXX0\r\n\r\n"),
    "trailer with a length": (400, CHUNKED + b"3\r\nabc\r\n0\r\nContent-Length: 5\r\n\r\n"),
    "trailer with a coding": (400, CHUNKED + b"3\r\nabc\r\n0\r\nA : b\r\n\r\n"),
}

ACCEPTED: dict[str, tuple[str, bytes]] = {
    "plain": ("/a", GET + b"\r\n"),
    "line ends first": ("/a", b"\r\n\r\n" + GET + b"\r\n"),
    "host with a port": ("/a", host(b"a.example:8080")),
    "host with an underscore": ("/a", host(b"x_router")),
    "host an address": ("/a", host(b"127.0.0.1")),
    "host an IPv6 address": ("/a", host(b"[::1]:8080")),
    "white space around the host": ("/a", host(b" \t a \t ")),
    "HTTP/1.0 without a host": ("/a", b"GET /a HTTP/1.0\r\n\r\n"),
    "query with anything": ("/a", target(b"/a?b=/../c%00\\d&%zz")),
    "encoded slash": ("/v1/models/gigachat/max", target(b"/v1/models/gigachat%2Fmax")),
    "encoded Cyrillic": ("/я", target(b"/%D1%8F")),
    "encoded twice, decoded once": ("/%2e%2e/a", target(b"/%252e%252e/a")),
    "dots inside a name": ("/a..b/.c/d.", target(b"/a..b/.c/d.")),
    "colon in a name": ("/v1/models/yandexgpt/pro:rc", target(b"/v1/models/yandexgpt/pro:rc")),
    "value not ASCII": ("/a", GET + "X-Name: я\r\n\r\n".encode()),
    "empty value": ("/a", GET + b"X-Empty:\r\n\r\n"),
    "length with a blank": ("/a", POST + b"Content-Length: 1 \r\n\r\na"),
    "length in odd case": ("/a", POST + b"cONTENT-lENGTH: 1\r\n\r\na"),
    "chunked in odd case": ("/a", POST + b"Transfer-Encoding: CHUNKED\r\n\r\n1\r\na\r\n0\r\n\r\n"),
    "chunk extensions": ("/a", CHUNKED + b'1;a=b;c="d e"\r\na\r\n0;last\r\n\r\n'),
    "name with an underscore": ("/a", GET + b"Content_Length: 5\r\n\r\n"),
}


def assert_refusal(answer: Answer, status: int) -> None:
    assert answer.status == status
    assert answer.header("connection") == "close"
    assert answer.header("content-type") == "application/json"
    assert answer.header("date") is not None
    assert answer.header("server") is None
    assert answer.header("x-request-id")
    error = answer.json()["error"]
    assert error["code"] == status
    assert set(error) == {"code", "type", "message", "param", "metadata"}
    assert error["message"].isprintable()


@pytest.mark.parametrize("name", REFUSED)
def test_f26_one_refusal_before_the_app(served: Served, name: str) -> None:
    """Broken on purpose: without the check of Host or of `chunked` in head.py, the app sees the request."""
    status, request = REFUSED[name]
    with served.client() as client:
        client.send(request)
        (answer,) = client.answers()
    assert_refusal(answer, status)
    assert served.probe.started == []
    assert [refusal.error.status for refusal in served.probe.refusals] == [status]
    assert served.probe.refusals[0].request_id == answer.header("x-request-id")
    assert served.probe.refusals[0].client == "127.0.0.1"


@pytest.mark.parametrize("name", REFUSED)
def test_f26_byte_by_byte(served: Served, name: str) -> None:
    """The same in single bytes. Only a body's framing may break after the app has begun: it sees a client that leaves."""
    status, request = REFUSED[name]
    with served.client() as client:
        client.send_in_pieces(request[i : i + 1] for i in range(len(request)))
        (answer,) = client.answers()
    assert_refusal(answer, status)
    assert served.probe.seen == []
    if served.probe.started:
        assert request.startswith(CHUNKED)
        served.probe.wait(lambda: served.probe.left == ["/a"])


@pytest.mark.parametrize("name", REFUSED)
def test_f26_behind_a_good_request(served: Served, name: str) -> None:
    """On a connection that has just served, the next head is judged alike."""
    status, request = REFUSED[name]
    with served.client() as client:
        client.send(GET + b"\r\n")
        assert client.answer().status == 200
        client.send(request)
        (answer,) = client.answers()
    assert_refusal(answer, status)
    assert len(served.probe.started) == 1


@pytest.mark.parametrize("name", REFUSED)
def test_f26_smuggled_behind_a_request_under_way(served: Served, name: str) -> None:
    """What comes while a request is answered is never answered itself."""
    _, request = REFUSED[name]
    with served.client() as client:
        client.send(b"GET /slow HTTP/1.1\r\nHost: a\r\n\r\n" + request)
        (answer,) = client.answers()
    assert (answer.status, answer.body) == (200, b"slow")
    assert answer.header("connection") == "close"
    assert served.probe.started == ["/slow"]


@pytest.mark.parametrize("name", ACCEPTED)
@pytest.mark.parametrize("pieces", [False, True], ids=["whole", "byte by byte"])
def test_accepted(served: Served, name: str, pieces: bool) -> None:
    path, request = ACCEPTED[name]
    with served.client() as client:
        client.send_in_pieces([request[i : i + 1] for i in range(len(request))] if pieces else [request])
        answer = client.answer()
    assert answer.status == 200
    ((scope, _),) = served.probe.seen
    assert scope["path"] == path
    assert served.probe.refusals == []


def test_the_scope(served: Served) -> None:
    with served.client() as client:
        client.send(b"POST /a%2Fb?c=%64 HTTP/1.1\r\nHost: h:1\r\nX-One: 1 \r\nx-ONE:\t2\r\nContent-Length: 1\r\n\r\n!")
        client.answer()
        local = client.socket.getsockname()
    ((scope, body),) = served.probe.seen
    assert body == b"!"
    assert callable(scope.pop("xrouter.on_disconnect"))
    headers = [(b"host", b"h:1"), (b"x-one", b"1"), (b"x-one", b"2"), (b"content-length", b"1")]
    assert scope == {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "server": (served.threaded.host, served.threaded.port),
        "client": local,
        "scheme": "http",
        "method": "POST",
        "root_path": "",
        "path": "/a/b",
        "raw_path": b"/a%2Fb",
        "query_string": b"c=%64",
        "headers": headers,
        "state": {},
    }


LIMITS = Server()


def padded(size: int) -> bytes:
    """A head whose header section counts as `size` bytes: names, values and four bytes for each line."""
    name = b"X-Pad: "
    used = len(b"Host: a\r\n") + len(name) + 2
    return GET + name + b"p" * (size - used) + b"\r\n\r\n"


def test_largest_headers(served: Served) -> None:
    with served.client() as client:
        client.send(padded(LIMITS.max_header_bytes - 200))
        assert client.answer().status == 200


@pytest.mark.parametrize("excess", [1, 1000, 300_000])
def test_headers_too_large(served: Served, excess: int) -> None:
    with served.client() as client:
        client.send_in_pieces([padded(LIMITS.max_header_bytes + excess)])
        (answer,) = client.answers()
    assert_refusal(answer, 431)
    assert served.probe.started == []


def test_headers_without_end(served: Served) -> None:
    """A flood of small fields is cut off when the limit is passed, not when the sender is done."""
    field = b"A: b\r\n" * 100
    with served.client() as client:
        client.send(GET)
        sent = 0
        while client.send_in_pieces([field]) and sent < 10_000_000:
            sent += len(field)
        (answer,) = client.answers()
    assert_refusal(answer, 431)
    assert sent < 10_000_000


def test_one_name_without_end(served: Served) -> None:
    with served.client() as client:
        client.send(GET)
        while client.send_in_pieces([b"A" * 1000]):
            pass
        (answer,) = client.answers()
    assert_refusal(answer, 431)


def test_line_ends_without_end(served: Served) -> None:
    with served.client() as client:
        while client.send_in_pieces([b"\r\n" * 500]):
            pass
        (answer,) = client.answers()
    assert_refusal(answer, 431)


def test_number_of_headers(served: Served) -> None:
    with served.client() as client:
        client.send(GET + b"A: b\r\n" * (LIMITS.max_headers - 1) + b"\r\n")
        assert client.answer().status == 200
        client.send(GET + b"A: b\r\n" * LIMITS.max_headers + b"\r\n")
        (answer,) = client.answers()
    assert_refusal(answer, 431)


def test_url_limit_byte_by_byte(served: Served) -> None:
    with served.client() as client:
        client.send(b"GET /")
        client.send_in_pieces([b"a" * 100] * 1000)
        (answer,) = client.answers()
    assert_refusal(answer, 414)
