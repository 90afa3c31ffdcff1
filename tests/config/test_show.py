"""What `xrouter check` prints, and that no secret is in it."""

import argparse
import json
from pathlib import Path

import pytest

from xrouter.commands import check
from xrouter.config.show import describe, describe_json
from xrouter.config.version import version

TEXT = """
server: {port: 8081}
store: postgresql://user:canary-1@db/xrouter?sslpassword=canary-2
redis: redis://:canary-3@cache:6379
admin: {token: canary-4}
upstreams:
  one: {provider: "toy_parts:Toy", api_key: "canary-5", proxy: "http://u:canary-6@proxy:3128"}
  two: {provider: "toy_parts:Toy"}
models:
  a/b:
    aliases: [x]
    variants: {rc: rc}
    price: {input: "0.5", output: "1.2", cached_input: "0", per: 1000, since: "2026-02-01"}
    price_changes: [{input: "0.6", output: "1.3", cost: {input: "0.1"}, since: "2026-12-01"}]
    variant_prices: {rc: free}
    routes:
      - {upstream: one, model: m, weight: 2}
      - {upstream: two, model: n, surface: native, price: {input: "7", per: 1}}
  c/d: {kind: embedding, price: free, routes: [{upstream: two, model: e}]}
tiers: {free: {requests: [20/minute], concurrency: 5}}
filters:
  - toy_parts:Reader
  - toy_parts:Router
  - toy_parts:Everything: {secret: canary-7, price: "1.5", size: 1kB, breaker: {failures: 2}, table: {a: 1}}
"""
EXPECTED = """\
listens on 127.0.0.1:8081, 1 worker; store postgresql://***@db/xrouter?…; redis redis://***@cache:6379

chain, outermost first
  edge
  toy_parts:Reader      provides call
  toy_parts:Router      needs call; provides route
  toy_parts:Everything
                          text: x
                          whole: 1
                          number: 1.0
                          flag: false
                          price: 1.5
                          secret: set
                          size: 1000
                          choice: a
                          items: []
                          table: {a: 1.0}
                          either: null
                          limited: off
                          breaker: {failures: 2, open_s: 10.0}
                          pause_s: null
                          maybe: 7
  dispatch              needs call, route; provides outcome

upstreams
  one: toy_parts:Toy at http://127.0.0.1:1/v1
    credentials: api_key set; not set: token
    tls: {ca_file: null, verify: true, cert_file: null, key_file: null, key_password: null}
    timeouts: {connect_s: 10.0, first_byte_s: 60.0, idle_s: 180.0, total_s: 600.0}
    queue_s: 30.0
    quota_rest_s: 600.0
    proxy: http://***@proxy:3128
    keep_alive_s: 30.0
    zdr: false
    scope: ONE
    auth_url: http://127.0.0.1:1/auth
    wait_s: 1.5
    loud: false
  two: toy_parts:Toy at http://127.0.0.1:1/v1
    credentials: none set; not set: api_key, token
    tls: {ca_file: null, verify: true, cert_file: null, key_file: null, key_password: null}
    timeouts: {connect_s: 10.0, first_byte_s: 60.0, idle_s: 180.0, total_s: 600.0}
    queue_s: 30.0
    quota_rest_s: 600.0
    keep_alive_s: 30.0
    zdr: false
    scope: ONE
    auth_url: http://127.0.0.1:1/auth
    wait_s: 1.5
    loud: false

models
  a/b (chat): one: m ×2 → two: n (native)
    also called x, a/b:rc, x:rc
    price: input 0.5, output 1.2, cached_input 0 per 1000 tokens, since 2026-02-01
    price from 2026-12-01: input 0.6, output 1.3 per 1000 tokens; costs input 0.1 per 1000 tokens
    price of :rc: free
    price at two: n: input 7 per 1 tokens
  c/d (embedding): two: e
    price: free

tiers
  free: {requests: [20/minute], tokens: [], concurrency: 5, strategy: sliding_window, quota: null, models: null, \
upstreams: null}"""


def test_description(load_text):
    assert describe(load_text(TEXT)) == EXPECTED


def test_json_form(load_text):
    summary = json.loads(describe_json(load_text(TEXT)))
    assert [step["name"] for step in summary["chain"]] == [
        "edge", "toy_parts:Reader", "toy_parts:Router", "toy_parts:Everything", "dispatch",
    ]  # fmt: skip
    assert summary["chain"][2] == {
        "name": "toy_parts:Router",
        "needs": ["call"],
        "provides": ["route"],
        "config": {},
        "place": summary["chain"][2]["place"],
    }
    assert summary["chain"][2]["place"].endswith("x.yaml:23:5")
    assert summary["upstreams"][0]["credentials"] == {"api_key": True, "token": False}
    assert summary["models"][1] == {
        "id": "c/d", "kind": "embedding", "names": ["c/d"], "routes": ["two: e"], "price": "free",
        "other_prices": {},
    }  # fmt: skip
    assert "canary" not in json.dumps(summary)


def _run(path: Path, *more: str) -> int:
    parser = argparse.ArgumentParser()
    check.add_parser(parser.add_subparsers())
    args = parser.parse_args(["check", "-c", str(path), *more])
    result = args.run(args)
    assert isinstance(result, int)
    return result


def test_command_prints_the_chain(tmp_path, capsys):
    path = tmp_path / "x.yaml"
    path.write_text(TEXT)
    assert _run(path) == 0
    assert capsys.readouterr() == (f"{EXPECTED}\n", "")
    assert _run(path, "--json") == 0
    assert json.loads(capsys.readouterr().out)["store"] == "postgresql://***@db/xrouter?…"


def test_command_tells_every_problem_and_fails(tmp_path, capsys):
    path = tmp_path / "x.yaml"
    path.write_text("server: {prot: 1}\nmodels: {}\nupstreams: {}\nfilters: []\n")
    assert _run(path) == 1
    output = capsys.readouterr()
    assert output.out == ""
    assert [line.partition(": ")[0] for line in output.err.splitlines()] == [
        f"{path}:1:10", f"{path}:4:1", f"{path}:4:1",
    ]  # fmt: skip


@pytest.mark.parametrize("arguments", [[], ["--json"]])
def test_command_needs_a_file(arguments):
    parser = argparse.ArgumentParser()
    check.add_parser(parser.add_subparsers())
    with pytest.raises(SystemExit):
        parser.parse_args(["check", *arguments])


def test_a_version_is_of_the_meaning_and_not_of_the_text(load_text):
    """So that two receipts with one version ran under the same prices. Fails if only the prices of today are in it."""
    first = version(load_text(TEXT))
    assert version(load_text(TEXT.replace("\nserver", "\n# a comment\nserver"))) == first
    assert version(load_text(TEXT.replace("canary-5", "another-secret"))) == first
    for old, new in (
        ("0.6", "0.7"),
        ("workers", "workers"),
        ("rc: free", "rc: {input: '1'}"),
        ("20/minute", "21/minute"),
    ):
        assert (version(load_text(TEXT.replace(old, new))) == first) is (old == new)
