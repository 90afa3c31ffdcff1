"""Ranges, addresses, rates: every rule's refusal at its place, and that what is right passes."""

import pytest
import trustme

from xrouter.config.rules import limit_fault

_DURATION = "a duration is a number of seconds from 0 to a year"
_CREDENTIAL = "a credential stands in a header: visible ASCII characters, no space and no line break"
_POSITIVE = "a duration of more than 0 seconds is needed here"
_ADDRESS = "expected an address that begins with http:// or https://"
_PRICE = "a price is not negative"
_PROXY = "a proxy is written http://host:port, https://host:port or socks5://host:port"
_NETWORK = "expected an address or a network, such as 10.0.0.0/8, without bits set after its length"
_LIMIT = "a limit is written N/second, N/minute, N/hour, N/day or N/month, such as 20/minute or 5 per 2 hours"
_STORE = "a store is written sqlite:///file or postgresql://user:password@host/database"
_REDIS = "redis is null or an address that begins with redis://, rediss://, redis+cluster:// or redis+sentinel://"


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ('server: {host: ""}', "1:16: expected an address or a host's name"),
        ("server: {host: a b}", "1:16: expected an address or a host's name"),
        ("server: {port: 65536}", "1:16: expected a number from 0 to 65535"),
        ("server: {port: -1}", "1:16: expected a number from 0 to 65535"),
        ("server: {workers: 0}", "1:19: expected a number from 1 to 1024"),
        ("server: {drain_s: -0.1}", f"1:19: {_DURATION}"),
        ("server: {drain_s: 31622401}", f"1:19: {_DURATION}"),
        ("server: {header_timeout_s: 0}", f"1:28: {_POSITIVE}"),
        ("server: {body_timeout_s: 0.0}", f"1:26: {_POSITIVE}"),
        ("server: {idle_timeout_s: -5}", f"1:26: {_DURATION}"),
        ("server: {write_timeout_s: 0}", f"1:27: {_POSITIVE}"),
        ("server: {max_header_bytes: 10}", "1:28: expected a number from 1024 to 1048576"),
        ("server: {max_headers: 0}", "1:23: expected a number from 1 to 10000"),
        ("server: {trusted_proxies: [10.0.0.1, 10.0.0.1/8, x]}", f"1:38: {_NETWORK}\n1:50: {_NETWORK}"),
        ('admin: {token: "a b"}', f"1:16: {_CREDENTIAL}"),
        ("store: mysql://u@h/d", f"1:8: {_STORE}"),
        ("store: sqlite://", f"1:8: {_STORE}"),
        ("store: sqlite://file.db", f"1:8: {_STORE}"),
        ("store: postgresql:///d", f"1:8: {_STORE}"),
        ("store: postgresql://u:p@h", f"1:8: {_STORE}"),
        ("store: postgresql://u:p@h:x/d", f"1:8: {_STORE}"),
        ("store: postgresql://u:1/2@h/d", f"1:8: {_STORE}; a password's / ? # and @ are written %2F %3F %23 and %40"),
        ("redis: localhost:6379", f"1:8: {_REDIS}"),
        ("redis: http://localhost", f"1:8: {_REDIS}"),
        ("redis: redis://h/abc", "1:8: a database of Redis is a number: redis://host/0"),
        ("redis: redis+sentinel://h:1,h:x/name", f"1:8: {_REDIS}"),
        ("redis: redis+sentinel://h", "1:8: the master's name follows the sentinels: redis+sentinel://host,host/name"),
        ("redis: redis+sentinel://h/name/x", "1:8: a database of Redis is a number: redis://host/0"),
        ("ledger: {hold_lease_s: 0}", f"1:24: {_POSITIVE}"),
        ("tiers: {free: {requests: [20/minute, 20/minutely]}}", f"1:38: {_LIMIT}"),
        ("tiers: {free: {tokens: [0/minute]}}", f"1:25: {_LIMIT}"),
        ("tiers: {free: {concurrency: 0}}", "1:29: expected a number of at least 1"),
        ("tiers: {Free-1: {}}", "1:9: a tier's name is small letters, digits and _: it is a part of its keys"),
    ],
)
def test_section_that_breaks_a_rule(problems_of, sheet, line, problem):
    assert problems_of(sheet(line.partition(":")[0], line)) == problem.split("\n")


@pytest.mark.parametrize(
    ("keys", "problem"),
    [
        ("base_url: ftp://h/v1", f"12: {_ADDRESS}"),
        ("base_url: h/v1", f"12: {_ADDRESS}"),
        ("base_url: http://", f"12: {_ADDRESS}"),
        ("base_url: http://h:99999", f"12: {_ADDRESS}"),
        ('base_url: "http://h/a b"', f"12: {_ADDRESS}"),
        ("base_url: http://h\\x", f"12: {_ADDRESS}"),
        ("base_url: http://[::1", f"12: {_ADDRESS}"),
        ("base_url: http://пример.рф", f"12: {_ADDRESS}"),
        ("base_url: http://u:p@h", "12: an address holds no user or password; credentials have keys of their own"),
        ("base_url: http://h/?a=b", "12: base_url has no ?query"),
        ("base_url: http://h/#a", "12: an address has no #fragment"),
        ("auth_url: http://u@h", "12: an address holds no user or password; credentials have keys of their own"),
        ("auth_url: ''", f"12: {_ADDRESS}"),
        ("concurrency: 0", "15: expected a number of at least 1"),
        ("queue_s: -1", f"11: {_DURATION}"),
        ("wait_s: -1", f"10: {_DURATION}"),
        ("timeouts: {connect_s: 0}", f"24: {_POSITIVE}"),
        ("timeouts: {total_s: -1}", f"22: {_DURATION}"),
        ("proxy: h:3128", f"9: {_PROXY}"),
        ("proxy: ftp://h", f"9: {_PROXY}"),
        ("proxy: http://h\n    engine: http1", "the engine http1 speaks to no proxy; leave `engine` out, or httpx2"),
        ("engine: http2", "10: expected one of 'http1', 'httpx2', found 'http2'"),
        ("key_file: /no/such/file", "12: no such file (a relative path starts at the working directory)"),
        (f"tls: {{ca_file: {__file__}}}", "17: the file holds no certificates in PEM form"),
        ("tls: {ca_file: /no/such/file}", "17: no such file (a relative path starts at the working directory)"),
        ('api_key: "sk-1\\n"', f"11: {_CREDENTIAL}"),  # how a block scalar ends; each request was a 500 for it
        ("api_key: ключ", f"11: {_CREDENTIAL}"),
        (f"key_file: {'x' * 5000}", "12: no such file (a relative path starts at the working directory)"),
        ("timeouts: {conect_s: 1}", "13: unknown key 'conect_s'; known: connect_s, first_byte_s, idle_s, total_s; "
                                    "did you mean 'connect_s'?"),
    ],
)  # fmt: skip
def test_upstream_that_breaks_a_rule(problems_of, sheet, keys, problem):
    text = sheet("upstreams", f"upstreams:\n  up:\n    provider: toy_parts:Toy\n    {keys}")
    if "engine: http1" in keys:
        assert problems_of(text) == [f"5:5: {problem}"]
    else:
        column, _, message = problem.partition(": ")
        assert problems_of(text) == [f"4:{int(column) + 3}: {message}"]


@pytest.mark.parametrize(
    ("keys", "problem"),
    [
        ('price: {input: "-1"}', f"20: {_PRICE}"),
        ('price: {input: "1", output: "-0.1"}', f"33: {_PRICE}"),
        ('price: {input: "1", cached_input: "-1"}', f"39: {_PRICE}"),
        ('price: {input: "1", reasoning: "-1"}', f"36: {_PRICE}"),
        ('price: {input: "1", image: "-1"}', f"32: {_PRICE}"),
        ('price: {input: "1", request: "-1"}', f"34: {_PRICE}"),
        ('price: {input: "1", per: 100}', "30: `per` is 1, 1000 or 1000000 tokens"),
        ('price: {input: 1, output: "1"}', '20: write prices as quoted decimal strings, such as "0.65"'),
        ("price: 1", "12: expected a mapping or 'free', found a whole number"),
        ("price: paid", "12: expected a mapping or 'free', found text"),
        ("price: null", "12: a/b has no price; a model that costs nothing says `price: free`"),
        ("name: x", "a/b has no price; a model that costs nothing says `price: free`"),
        ("price: free\n    routes: []", "5:13: a model needs at least one route"),
        ("price: free\n    routes: [{upstream: up, model: ''}]", "5:36: must not be empty"),
        (
            "price: free\n    routes: [{upstream: up, model: m, weight: -1}]",
            "5:47: expected a number from 0 to 1000000",
        ),
        ("price: free\n    routes: [{upstream: up, model: m, canary: 101}]", "5:47: expected a number from 0 to 100"),
        ("price: free\n    routes: [{upstream: up, model: m, shadow: -1}]", "5:47: expected a number from 0 to 100"),
        (
            "price: free\n    routes: [{upstream: up, model: m, canary: 1, shadow: 1}]",
            "5:13: a route is a canary or a shadow, not both",
        ),
        (
            "price: free\n    routes: [{upstream: up, model: m, canary: 1}, {upstream: up, model: n, shadow: 1}]",
            "5:13: a model needs at least one route that is neither a canary nor a shadow",
        ),
        (
            "price: free\n    routes: [{upstream: up, model: m}, {upstream: up, model: n, canary: 60},"
            " {upstream: up, model: o, canary: 41.5}]",
            "5:13: the canaries of a model have 100 percent together, not 101.5",
        ),
        ("price: free\n    routes: [{upstream: down, model: m}]", "5:25: unknown upstream 'down'; known: up"),
        ("price: free\n    context: 0", "5:14: expected a number of at least 1"),
        ("price: free\n    max_output: 0", "5:17: expected a number of at least 1"),
        ("price: free\n    inputs: []", "5:13: must not be empty"),
        ("price: free\n    inputs: [text, sound]", "5:20: expected one of 'text', 'image', found 'sound'"),
        ("price: free\n    created: -1", "5:14: expected a number of at least 0"),
        ("price: free\n    kind: speech", "5:11: expected one of 'chat', 'embedding', found 'speech'"),
    ],
)
def test_model_that_breaks_a_rule(problems_of, sheet, keys, problem):
    routes = "" if "routes" in keys else "\n    routes: [{upstream: up, model: m}]"
    text = sheet(
        "models", f"models:\n  a/b:\n    name: n\n    {keys}{routes}".replace("    name: n\n    name", "    name")
    )
    if "\n" in keys:
        expected = problem
    elif keys == "name: x":
        expected = f"2:3: {problem}"
    else:
        expected = f"4:{problem}"
    assert problems_of(text) == [expected]


@pytest.mark.parametrize(
    "limit",
    ["20/minute", "5 per minute", "1/second", "100 / 2 hours", "10/3days", "7 PER MONTH", " 1/day ", "5 per 2 hours"],
)
def test_rates_as_the_limits_package_writes_them(limit):
    assert limit_fault(limit) is None


@pytest.mark.parametrize(
    "limit",
    ["", "20", "/minute", "20/", "0/minute", "1/0 minute", "-1/minute", "1.5/minute", "20/year", "20 minute", "٣/day"],
)
def test_no_rates(limit):
    assert limit_fault(limit) == _LIMIT


def test_what_is_right_passes(load_text, sheet, tmp_path):
    trustme.CA().cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    text = f"""
server: {{host: "::1", port: 0, workers: 2, drain_s: 0, trusted_proxies: [10.0.0.0/8, "::1", 192.168.1.1]}}
store: postgresql://user:p%40ss@db.example:5432/xrouter?ssl=require
redis: rediss://:secret@redis.example:6380/1
upstreams:
  up:
    provider: toy_parts:Toy
    base_url: https://[::1]:8443/v1
    auth_url: http://h/auth?x=1
    proxy: http://user:secret@proxy:3128
    engine: httpx2
    tls: {{ca_file: {tmp_path}/ca.pem}}
    queue_s: 0
models:
  a/b:
    routes: [{{upstream: up, model: m, weight: 3}}]
    price: {{input: "0.000000000000000001", output: "0", per: 1}}
"""
    settings = load_text(text + sheet.sections["filters"])
    assert settings.server.workers == 2
    assert settings.upstreams["up"].proxy == "http://user:secret@proxy:3128"


@pytest.mark.parametrize(
    "address",
    ["redis+sentinel://a:26379,b:26380/name/1", "redis+sentinel://u:p@a,b/name", "rediss://h:6380/0?ssl_ca_certs=/f"],
)
def test_an_address_of_redis(load_text, sheet, address):
    """Fails for the first where an address has one port: sentinels with a port each were refused."""
    assert load_text(sheet("redis", f"redis: {address}")).redis == address
