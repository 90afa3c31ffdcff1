"""What a filter finds wrong with its entry once the whole file is known, told by `check` as by the start."""

import pytest

HEAD = """\
upstreams: {up: {provider: openai, base_url: "http://127.0.0.1:9/v1"}}
models: {a/b: {routes: [{upstream: up, model: m}], price: free}}
"""
COUNTED = "they need the filter token_count"


@pytest.mark.parametrize(
    ("tail", "place", "problem"),
    [
        ("filters: [auth, rate_limit, rate_limit, body, routing]", "3:29", "rate_limit stands in the chain once"),
        ("tiers: {t: {tokens: [9/day]}}\nfilters: [auth, rate_limit, body, routing]", "4:17", COUNTED),
        ("filters: [auth, rate_limit: {limits: [{per: key, tokens: 9/day}]}, body, routing]", "3:17", COUNTED),
    ],
)
def test_rate_limit(problems_of, tail, place, problem):
    """Fails without `misfit`: the second rate_limit made every request a 500, the others were told by the start alone."""
    (told,) = problems_of(HEAD + tail)
    assert told.startswith(f"{place}: ")
    assert problem in told


def test_rate_limit_that_fits(load_text):
    tail = "tiers: {t: {tokens: [9/day]}}\nfilters: [auth, rate_limit, body, routing, token_count]"
    assert [entry.name for entry in load_text(HEAD + tail).filters][1] == "rate_limit"
