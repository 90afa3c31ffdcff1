"""Values: what each type takes, what it refuses, and what is said about that."""

from decimal import Decimal

import pytest

from xrouter.config.size import parse_size
from xrouter.secret import Secret


@pytest.mark.parametrize(
    ("line", "field", "value"),
    [
        ("text: a b", "text", "a b"),
        ('text: "1"', "text", "1"),
        ("text: no", "text", "no"),
        ("text: 2026-01-01", "text", "2026-01-01"),
        ("text: 1:30", "text", "1:30"),
        ('text: ""', "text", ""),
        ("text: |\n  a\n  b\n", "text", "a\nb\n"),
        ("text: null", "text", "x"),
        ("text:", "text", "x"),
        ("whole: -5", "whole", -5),
        ("whole: 0o17", "whole", 15),
        ("whole: 0xff", "whole", 255),
        ("whole: 010", "whole", 10),
        ("whole: 9223372036854775807", "whole", 2**63 - 1),
        ("number: 1", "number", 1.0),
        ("number: .5", "number", 0.5),
        ("number: 1e-3", "number", 0.001),
        ("number: 0x10", "number", 16.0),
        ("flag: True", "flag", True),
        ("flag: FALSE", "flag", False),
        ('price: "0.65"', "price", Decimal("0.65")),
        ("price: '10'", "price", Decimal(10)),
        ("price: ~", "price", None),
        ('price: ""', "price", None),
        ("secret: abc", "secret", Secret("abc")),
        ('secret: ""', "secret", None),
        ("size: 20MB", "size", 20_000_000),
        ("size: '1.5 KiB'", "size", 1536),
        ("size: 7", "size", 7),
        ("choice: b", "choice", "b"),
        ("choice: 3", "choice", 3),
        ("choice: true", "choice", True),
        ("items: [1, 2]", "items", (1, 2)),
        ("items: []", "items", ()),
        ("table: {a: 1, b: 2.5}", "table", {"a": 1.0, "b": 2.5}),
        ("either: 5", "either", 5),
        ("either: five", "either", "five"),
        ("either: null", "either", None),
        ("limited: off", "limited", "off"),
        ("maybe: null", "maybe", None),
    ],
)
def test_value_of_every_type(filter_config, line, field, value):
    found = getattr(filter_config(line), field)
    assert found == value
    assert type(found) is type(value)


def test_nested_dataclasses_keep_the_defaults_of_what_is_left_out(filter_config):
    config = filter_config("breaker: {failures: 2}\nlimited: {open_s: 3}")
    assert (config.breaker.failures, config.breaker.open_s) == (2, 10.0)
    assert (config.limited.failures, config.limited.open_s) == (5, 3.0)


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("text: 5", "13: expected text, found a whole number; put it in quotes"),
        ("text: 1.5", "13: expected text, found a number with a fraction; put it in quotes"),
        ("text: true", "13: expected text, found true or false; put it in quotes"),
        ("text: [a]", "13: expected text, found a list"),
        ("text: {a: b}", "13: expected text, found a mapping"),
        ("secret: 12345", "15: expected text, found a whole number; put it in quotes"),
        ("whole: 1.0", "14: expected a whole number, found a number with a fraction"),
        ("whole: five", "14: expected a whole number, found text"),
        ('whole: "5"', "14: expected a whole number, found text (in quotes)"),
        ("whole: true", "14: expected a whole number, found true or false"),
        ("whole: 1_000", "14: expected a whole number, found text"),
        ("whole: 9223372036854775808", "14: the number is too large"),
        (f"whole: {'9' * 5000}", "14: expected a whole number, found a whole number"),
        ("number: .inf", "15: expected a finite number"),
        ("number: -.INF", "15: expected a finite number"),
        ("number: .NaN", "15: expected a finite number"),
        ("number: 1e999", "15: expected a finite number"),
        ("number: abc", "15: expected a number, found text"),
        ("flag: yes", "13: expected true or false, found text"),
        ("flag: 1", "13: expected true or false, found a whole number"),
        ('flag: "true"', "13: expected true or false, found text (in quotes)"),
        ("price: 0.65", '14: write prices as quoted decimal strings, such as "0.65"'),
        ("price: 1", '14: write prices as quoted decimal strings, such as "0.65"'),
        ("price: [1]", "14: expected a price, found a list"),
        ('price: "NaN"', '14: a price is a finite number; write prices as quoted decimal strings, such as "0.65"'),
        ('price: "-Infinity"', '14: a price is a finite number; write prices as quoted decimal strings, such as "0.65"'),
        (
            'price: "1e3"',
            "14: expected a decimal number of at most 18 digits on either side of the point; "
            'write prices as quoted decimal strings, such as "0.65"',
        ),
        ("size: 20 apples", "13: expected a size such as 20MB or 512KiB, found text"),
        ("size: 0.3B", "13: expected a size such as 20MB or 512KiB, found text"),
        ("size: -1", "13: expected a size such as 20MB or 512KiB, found a whole number"),
        ("size: 999999999999999GB", "13: the number is too large"),
        ("choice: c", "15: expected one of 'a', 'b', 3, True, found 'c'"),
        ("choice: 4", "15: expected one of 'a', 'b', 3, True, found '4'"),
        ("items: 1", "14: expected a list, found a whole number"),
        ("items: {a: 1}", "14: expected a list, found a mapping"),
        ("items: [1, x]", "18: expected a whole number, found text"),
        ("items: [1, null]", "18: expected a whole number, found nothing"),
        ("table: [1]", "14: expected a mapping, found a list"),
        ("table: {a: x}", "18: expected a number, found text"),
        ("either: [1]", "15: expected a whole number or text, found a list"),
        ("either: true", "15: expected a whole number or text, found true or false"),
        ("limited: 5", "16: expected a mapping or 'off', found a whole number"),
        ("limited: [5]", "16: expected a mapping or 'off', found a list"),
        ("limited: {open_s: x}", "25: expected a number, found text"),
        ("limited: {closed: 1}", "17: unknown key 'closed'; known: failures, open_s"),
        ("breaker: 5", "16: expected a mapping, found a whole number"),
        ("pause_s: -1", "16: a duration is a number of seconds from 0 to a year"),
        ("pause_s: 1e9", "16: a duration is a number of seconds from 0 to a year"),
        (
            "txet: x",
            "7: unknown key 'txet'; known: breaker, choice, either, flag, items, limited, maybe, number, pause_s, price, "
            "secret, size, table, text, whole; did you mean 'text'?",
        ),
    ],
)  # fmt: skip
def test_wrong_value_is_a_problem_at_the_value(problems_of, sheet, line, problem):
    filters = f"filters:\n  - toy_parts:Reader\n  - toy_parts:Router\n  - toy_parts:Everything:\n      {line}"
    assert problems_of(sheet("filters", filters)) == [f"5:{problem}"]


def test_all_problems_are_told_at_once_in_the_order_of_the_file(problems_of):
    text = """
server: {prot: 1, port: high, workers: 0}
stroe: x
upstreams:
  up: {provider: "toy_parts:Toy", base_ulr: x, wait_s: -1}
models:
  ab:
    routes: [{upstream: upp, model: m}]
    price: {input: 0.65}
    context: 0
filters:
  - toy_parts:Router: {x: 1}
  - nothing
tiers: {Free: {requests: [often]}}
"""
    found = problems_of(text)
    assert [line.partition(": ")[0] for line in found] == [
        "2:10", "2:25", "2:40", "3:1", "5:35", "5:56", "7:3", "8:25", "9:20", "10:14", "12:24", "13:5", "14:9", "14:27",
    ]  # fmt: skip
    assert found[4] == (
        "5:35: unknown key 'base_ulr'; known: api_key, auth_url, base_url, concurrency, data_collection, engine, "
        "keep_alive_s, key_file, loud, probe, provider, proxy, queue_s, quota_rest_s, scope, timeouts, tls, token, wait_s, "
        "zdr; did you mean 'base_url'?"
    )


def test_missing_sections_are_told_at_the_start(problems_of):
    assert problems_of("server: {}\n") == [
        "1:1: missing key 'upstreams'",
        "1:1: missing key 'models'",
        "1:1: missing key 'filters'",
    ]


def test_empty_required_section_is_a_problem(problems_of):
    assert problems_of("upstreams:\nmodels: ~\nfilters: null\n") == [
        "1:11: 'upstreams' is empty",
        "2:9: 'models' is empty",
        "3:10: 'filters' is empty",
    ]


def test_missing_key_is_told_where_its_owner_is_named(problems_of, sheet):
    models = (
        "models:\n  a/b:\n    name: x\n    price: {output: '1'}\n    routes:\n      - model: m\n  c/d: {price: free}"
    )
    assert problems_of(sheet("models", models)) == [
        "4:5: missing key 'input'",
        "6:9: missing key 'upstream'",
        "7:3: missing key 'routes'",
    ]


def test_long_keys_are_cut_in_messages(problems_of, sheet):
    found = problems_of(sheet("server", f"server: {{{'k' * 100}: 1}}"))
    assert found[0].startswith(f"1:10: unknown key '{'k' * 57}…'; known: ")


@pytest.mark.parametrize(
    ("text", "size"),
    [("0", 0), ("20MB", 20_000_000), ("20mb", 20_000_000), ("1kB", 1000), ("1.5GiB", 1610612736), ("3B", 3)],
)
def test_sizes(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "MB", "-1", "1TB", "1 000", "1e3", "1..5", "٣", "1MBB", "0.0001kB", "9" * 30])
def test_no_sizes(text):
    with pytest.raises(ValueError):
        parse_size(text)
