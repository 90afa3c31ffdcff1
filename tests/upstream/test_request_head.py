"""URLs taken apart and heads put together: nothing a value holds may become a line, a host or a header of its own."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xrouter.upstream.base import UpstreamRequest
from xrouter.upstream.request_head import encode_head
from xrouter.upstream.target import Origin, parse_target


@pytest.mark.parametrize(
    ("url", "origin", "path", "authority"),
    [
        ("http://h", Origin("http", "h", 80), b"/", b"h"),
        ("https://H.example/v1?a=b&c", Origin("https", "h.example", 443), b"/v1?a=b&c", b"h.example"),
        ("https://h:9443/api", Origin("https", "h", 9443), b"/api", b"h:9443"),
        ("http://h:80/", Origin("http", "h", 80), b"/", b"h"),
        ("http://[::1]:8080/x", Origin("http", "::1", 8080), b"/x", b"[::1]:8080"),
        ("http://h?q", Origin("http", "h", 80), b"/?q", b"h"),
    ],
)
def test_target(url: str, origin: Origin, path: bytes, authority: bytes) -> None:
    assert parse_target(url) == (origin, path, authority)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "/v1",
        "h/v1",
        "ftp://h/",
        "file:///etc/passwd",
        "http://",
        "http:///x",
        "http://user@h/",
        "http://user:pw@h/",
        "http://trusted@evil/",
        "http://evil#.trusted/",
        "http://h/#x",
        "http://h/a b",
        "http://h/\r\nx: y",
        "http://h/\x00",
        "http://h\\@evil/",
        "http://пример/",
        "http://h:99999/",
        "http://h:-1/",
        "http://h:x/",
    ],
)
def test_url_that_is_refused(url: str) -> None:
    with pytest.raises(ValueError):
        parse_target(url)


def test_origin_as_text() -> None:
    assert str(Origin("https", "::1", 443)) == "https://[::1]:443"


def test_body_decides_on_the_length() -> None:
    assert b"content-length: 0\r\n" in encode_head(UpstreamRequest("POST", "http://h/"))
    assert b"content-length" not in encode_head(UpstreamRequest("GET", "http://h/"))
    assert b"content-length: 2\r\n" in encode_head(UpstreamRequest("DELETE", "http://h/", (), b"{}"))


@pytest.mark.parametrize("method", ["GET /x HTTP/1.1\r\nx: y\r\n\r\nGET", "", "G T"])
def test_method_that_is_refused(method: str) -> None:
    with pytest.raises(ValueError):
        encode_head(UpstreamRequest(method, "http://h/"))


def test_defaults_give_way() -> None:
    head = encode_head(UpstreamRequest("GET", "http://h/", ((b"accept-encoding", b"br"),)))
    assert head.count(b"accept-encoding") == 1
    assert head.count(b"user-agent") == 1


@given(
    st.lists(
        st.tuples(
            st.one_of(st.sampled_from([b"x", b"authorization", b"x-id"]), st.binary(max_size=6)), st.binary(max_size=12)
        )
    )
)
def test_headers_are_lines_or_refused(headers: list[tuple[bytes, bytes]]) -> None:
    """Whatever goes in: what comes out has one line for each header, and one empty line, at its end."""
    try:
        head = encode_head(UpstreamRequest("GET", "http://h/", tuple(headers)))
    except ValueError:
        return
    lines = head.split(b"\r\n")
    assert lines[-2:] == [b"", b""]
    assert b"" not in lines[:-2]
    given_lines = [line for line in lines[2:-2] if not line.startswith((b"user-agent: xrouter", b"accept-encoding: i"))]
    assert given_lines == [name + b": " + value for name, value in headers]
    assert b"\r" not in b"".join(lines)
    assert b"\n" not in b"".join(lines)
