"""Names of models that are none: fault matrix F35. And names that mean more than a model: suffixes, variants, aliases."""

import re
from collections.abc import Iterator
from urllib.parse import quote

import httpx2
import pytest
from kit.gateway import CHAIN, RunningGateway, running_gateway
from kit.hostile import answer, answering
from kit.raw_client import Answer, RawClient
from kit.scripted import Scripted, scripted_upstream
from kit.walk import chat, record_of

MODELS = """
upstreams:
  up: {provider: openai, base_url: "${UP_URL}"}
models:
  acme/large:
    aliases: [large]
    variants: {rc: rc}
    price: free
    routes: [{upstream: up, model: m}]
"""
BODY = (
    b'{"id":"up","model":"m","choices":[{"index":0,"message":{"role":"assistant","content":"Hi"},'
    b'"finish_reason":"stop"}],"usage":{"prompt_tokens":2,"completion_tokens":1}}'
)
TRICKS = [
    "ACME/LARGE",
    "Acme/large",
    "acme/large ",
    " acme/large",
    "acme/large\x00",
    "acme/large\r\nx-injected: 1",
    "acme/large\n",
    "acme/\u217carge",  # ROMAN NUMERAL FIFTY, NFKC of which is an l
    "\uff41cme/large",  # FULLWIDTH a
    "\u0430cme/large",  # CYRILLIC a
    "acme/large\u200b",  # ZERO WIDTH SPACE
    "acme/lar\u00adge",  # SOFT HYPHEN
    "\u202eacme/large",  # RIGHT-TO-LEFT OVERRIDE
    "acme/large\ufe0f",  # VARIATION SELECTOR
    "acme//large",
    "acme/./large",
    "acme/../acme/large",
    "../acme/large",
    "acme%2Flarge",
    "acme\\large",
    "acme/large/",
    "acme/large:",
    "acme/large::floor",
    "acme/large:floor:floor",
    "acme/large:RC",
    "large:rc:rc",
    ":floor",
    ":",
    "/",
    "*",
    "acme/*",
    "__proto__",
    "${UP_URL}",
    "x" * 10_000,
    "acme/large:" + "x" * 10_000,
    "\ud800",
]


@pytest.fixture(scope="module")
def upstream() -> Iterator[Scripted]:
    with scripted_upstream() as scripted:
        scripted.set(answering(answer(BODY, "content-type: application/json")))
        yield scripted


@pytest.fixture(scope="module")
def gateway(upstream: Scripted, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    folder = tmp_path_factory.mktemp("names")
    with running_gateway(MODELS + CHAIN, {"UP_URL": upstream.url}, folder) as running:
        yield running


def get(gateway: RunningGateway, path: str) -> Answer:
    """The answer to this very path: httpx2 and its like take dots out before they send."""
    url = httpx2.URL(gateway.url)
    with RawClient((url.host, url.port or 80)) as client:
        client.send(f"GET {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {gateway.key}\r\n\r\n".encode())
        return client.answer()


def labels(gateway: RunningGateway) -> set[str]:
    """Every value of the label `model`."""
    text = gateway.client.get("/metrics").text
    return set(re.findall(r'[{,]model="((?:[^"\\]|\\.)*)"', text))


def asked(gateway: RunningGateway, name: str) -> httpx2.Response:
    """A lone surrogate can be written in JSON, though not in UTF-8."""
    text = f'{{"model": {ascii_json(name)}, "messages": [{{"role": "user", "content": "?"}}]}}'
    return gateway.client.post(
        "/v1/chat/completions", content=text.encode(), headers={"content-type": "application/json"}
    )


def ascii_json(text: str) -> str:
    return '"' + "".join(f"\\u{ord(char):04x}" for char in text) + '"'


def test_f35_a_name_that_is_none_reaches_no_model(upstream: Scripted, gateway: RunningGateway) -> None:
    """Seen to fail on catalogues that fold case, that normalise (NFKC), or that strip a name before they look it up."""
    before = len(upstream.requests)
    for name in TRICKS:
        reply = asked(gateway, name)
        assert reply.status_code in (400, 404), name
        error = reply.json()["error"]
        assert error["param"] in ("model", None), name
        assert len(error["message"]) < 1000, "a long name is not repeated whole"
        assert "x-injected" not in reply.headers
        assert not re.search(r"[\x00-\x1f\x7f]", error["message"]), name
        assert len(str(record_of(gateway, reply))) < 5000
    assert len(upstream.requests) == before


def test_f35_names_that_are_none_make_no_series(gateway: RunningGateway) -> None:
    """Seen to fail on metrics whose label is the name as the client wrote it."""
    assert chat(gateway, "large", "?").status_code == 200
    for name in TRICKS:
        asked(gateway, name)
    assert chat(gateway, "acme/large:floor", "?").status_code == 200
    found = labels(gateway)
    assert found <= {"acme/large", "unknown"} | {"m"}, "a place's label is the provider's own model"


@pytest.mark.parametrize("prefix", ["/v1/models/", "/api/v1/models/", "/api/v1/model/", "/api/v1/parameters/"])
def test_f35_paths_that_name_no_model(gateway: RunningGateway, prefix: str) -> None:
    """Seen to fail on a gateway that resolves `..` in a path."""
    assert get(gateway, f"{prefix}acme/large").status == 200
    for name in TRICKS:
        if "\ud800" in name or len(name) > 8000:
            continue
        for path in (quote(name, safe=""), quote(name, safe="/:")):
            reply = get(gateway, prefix + path)
            assert reply.status in (400, 404), path
            assert reply.header("x-injected") is None
    assert get(gateway, prefix + "x" * 10_000).status in (400, 404, 414)


def test_f35_a_request_names_few_models(gateway: RunningGateway) -> None:
    """Each name is work. Seen to fail on requests without a bound: a megabyte of names held the loop for two."""
    assert chat(gateway, "large", "?", models=[f"no/{number}" for number in range(64)]).status_code == 200
    assert chat(gateway, "large", "?", models=[f"no/{number}" for number in range(65)]).status_code == 400


def test_suffixes_and_variants_reach_their_model(upstream: Scripted, gateway: RunningGateway) -> None:
    for name, model in (
        ("large:nitro", b'"model":"m"'),
        ("acme/large:rc", b'"model":"m/rc"'),
        ("large:rc:floor", b"m/rc"),
    ):
        assert chat(gateway, name, "?").status_code == 200
        assert model in upstream.requests[-1]


def test_a_missing_variant_is_named(gateway: RunningGateway) -> None:
    reply = chat(gateway, "large:free", "?")
    assert reply.status_code == 404
    assert reply.json()["error"]["message"] == "There is no model 'large:free': large has no variant 'free'"
