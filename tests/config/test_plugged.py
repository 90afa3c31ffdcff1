"""Upstreams and filters: the classes that a configuration names, and their own settings."""

import pytest
import toy_parts

from xrouter.secret import Secret

_FILTERS = "filters:\n  - toy_parts:Reader\n  - toy_parts:Router\n"


def test_upstream_is_decoded_into_its_providers_config(load_text, sheet):
    text = sheet(
        "upstreams",
        """
upstreams:
  up:
    provider: toy_parts:Toy
    api_key: ${KEY}
    scope: TWO
    timeouts: {connect_s: 3}
""",
    )
    upstream = load_text(text, KEY="k").upstreams["up"]
    assert type(upstream) is toy_parts.Toy.Config
    assert (upstream.provider, upstream.api_key, upstream.scope) == ("toy_parts:Toy", Secret("k"), "TWO")
    assert (upstream.timeouts.connect_s, upstream.timeouts.idle_s) == (3.0, 180.0)


@pytest.mark.parametrize(
    ("upstreams", "problem"),
    [
        ("upstreams: [a]", "1:12: expected a mapping of names to upstreams"),
        ("upstreams: {up: x}", "1:17: expected a mapping with `provider` and the provider's keys"),
        ("upstreams: {up: {base_url: http://h}}", "1:13: missing key 'provider'"),
        ("upstreams: {up: {provider: }}", "1:27: expected the name of a provider"),
        ("upstreams: {up: {provider: [x]}}", "1:28: expected the name of a provider"),
        (
            'upstreams: {"u p": {provider: "toy_parts:Toy"}}',
            "1:13: an upstream's name is up to 64 letters, digits and . _ -",
        ),
        (
            'upstreams: {up: {provider: "toy_parts:NotAnUpstream"}}',
            "1:28: NotAnUpstream.Config is no kind of UpstreamSettings",
        ),
        (
            'upstreams: {up: {provider: "toy_parts:Bare"}}',
            "1:28: the class Bare has no `Config`, a dataclass of its settings",
        ),
        (
            'upstreams: {up: {provider: "toy_parts:NOT_A_CLASS"}}',
            "1:28: provider 'toy_parts:NOT_A_CLASS' is not a class",
        ),
        (
            'upstreams: {up: {provider: "toy_parts:Absent"}}',
            "1:28: provider 'toy_parts:Absent' cannot be loaded: AttributeError: "
            "module 'toy_parts' has no attribute 'Absent'",
        ),
        (
            'upstreams: {up: {provider: "no.such:Thing"}}',
            "1:28: provider 'no.such:Thing' cannot be loaded: ModuleNotFoundError: No module named 'no'",
        ),
        (
            'upstreams: {up: {provider: "toy_parts:Toy", api_key: topsecret, token: othersecret}}',
            "1:13: one of api_key and token, not both (***)",
        ),
    ],
)
def test_wrong_upstream(problems_of, sheet, upstreams, problem):
    assert problems_of(sheet("upstreams", upstreams)) == [problem]


def test_unknown_provider_is_answered_with_the_known_ones(problems_of, sheet):
    (found,) = problems_of(sheet("upstreams", "upstreams: {up: {provider: gigachad}}"))
    assert found.startswith("1:28: unknown provider 'gigachad'; known: gigachat, openai, yandexgpt")


def test_name_from_the_environment_is_not_repeated(problems_of, sheet):
    found = problems_of(sheet("upstreams", 'upstreams: {up: {provider: "${P}"}}'), P="canary")
    assert found == [
        "1:28: the environment (P) names no provider that can be loaded; known: gigachat, openai, yandexgpt"
    ]


def test_filters_keep_their_names_settings_and_places(load_text, sheet):
    text = sheet("filters", f"{_FILTERS}  - toy_parts:Everything: {{whole: 3}}\n  - toy_parts:Reader2:\n")
    text = text.replace("  - toy_parts:Reader2:\n", "  - toy_parts:Everything:\n")
    filters = load_text(text).filters
    assert [(entry.name, entry.place.rpartition("x.yaml:")[2]) for entry in filters] == [
        ("toy_parts:Reader", "2:5"),
        ("toy_parts:Router", "3:5"),
        ("toy_parts:Everything", "4:5"),
        ("toy_parts:Everything", "5:5"),
    ]
    assert [entry.filter.__name__ for entry in filters] == ["Reader", "Router", "Everything", "Everything"]
    assert [entry.config.whole for entry in filters[2:]] == [3, 1]


@pytest.mark.parametrize(
    ("item", "problem"),
    [
        ("toy_parts:Everything: {whole: x}", "4:35: expected a whole number, found text"),
        ("toy_parts:Everything: 5", "4:27: expected a mapping, found a whole number"),
        ("toy_parts:Everything: []", "4:27: expected a mapping, found a list"),
        ("{}", "4:5: a filter is written as its name, or as `name: {…}` with its settings"),
        ("{a: {}, b: {}}", "4:5: a filter is written as its name, or as `name: {…}` with its settings"),
        ("[a]", "4:5: a filter is written as its name, or as `name: {…}` with its settings"),
        ("5", "4:5: unknown filter '5'; known: "),
        ('""', "4:5: expected the name of a filter"),
        ("toy_parts:Needy", "4:5: missing key 'limit'\n4:5: missing key 'names'"),
        ("toy_parts:Counter", "4:5: toy_parts:Counter needs `estimate`; no filter above it provides that"),
        ("toy_parts:Reader", "4:5: toy_parts:Reader provides `call`, as toy_parts:Reader above it already does"),
        ("toy_parts:Failing: {text: x}", "4:5: Failing.Config failed: RuntimeError: no x"),
        ("toy_parts:NoFacts", "4:5: the filter class NoFacts has no `provides`: the set of facts that it provides"),
        ("toy_parts:OddFacts", "4:5: the filter class OddFacts has no `needs`: the set of facts that it needs"),
        ("toy_parts:Bare", "4:5: the filter class Bare has no `needs`: the set of facts that it needs"),
        ("toy_parts:NoConfig", "4:5: the class NoConfig has no `Config`, a dataclass of its settings"),
        (
            "toy_parts:Unsupported: {value: 1}",
            "4:5: 'Unsupported.Config' has a field that no configuration can hold: the type <class 'complex'>",
        ),
        (
            "toy_parts:Unresolved",
            "4:5: 'Unresolved.Config' has a field that no configuration can hold: annotations that cannot be resolved: "
            "NameError: name 'Nowhere' is not defined",
        ),
    ],
)
def test_wrong_filter(problems_of, sheet, item, problem):
    found = problems_of(sheet("filters", f"{_FILTERS}  - {item}"))
    assert len(found) == len(problem.split("\n"))
    assert all(line.startswith(expected) for line, expected in zip(found, problem.split("\n"), strict=True))


def test_filters_are_a_list(problems_of, sheet):
    assert problems_of(sheet("filters", "filters: {auth: {}}")) == ["1:10: expected a list of filters, outermost first"]


def test_order_is_not_judged_while_a_filter_is_unknown(problems_of, sheet):
    found = problems_of(sheet("filters", "filters:\n  - nothing\n  - toy_parts:Router\n"))
    assert len(found) == 1
    assert found[0].startswith("2:5: unknown filter 'nothing'; known: ")


def test_order_is_judged_beside_wrong_settings(problems_of, sheet):
    filters = "filters:\n  - toy_parts:Everything: {whole: x}\n  - toy_parts:Router\n"
    assert problems_of(sheet("filters", filters)) == [
        "1:1: dispatch needs `call`; no filter provides that",
        "2:35: expected a whole number, found text",
        "3:5: toy_parts:Router needs `call`; no filter above it provides that",
    ]


def test_operators_own_class_beside_the_configuration(load_text, sheet, tmp_path):
    plugins = tmp_path / "plugins_beside_x"
    plugins.mkdir()
    (plugins / "own.py").write_text(
        "from toy_parts import Reader\n\n\nclass Own(Reader):\n    provides = frozenset()\n"
    )
    text = sheet("filters", f"{_FILTERS}  - plugins_beside_x.own:Own: {{}}")
    assert load_text(text).filters[-1].filter.__name__ == "Own"
