"""Names that clash, names that lead nowhere, and what several workers must share."""

import pytest


def _models(*models: tuple[str, str]) -> str:
    """Of each model its id and its first keys."""
    rest = "routes: [{upstream: up, model: m}], price: free"
    return "models:\n" + "\n".join(f"  {model_id}: {{{keys}{rest}}}" for model_id, keys in models)


@pytest.mark.parametrize(
    ("models", "problems"),
    [
        ([("ab", "")], ["2:3: a model's id looks like author/slug, 'ab' does not"]),
        ([("a/b/c", "")], ["2:3: a model's id looks like author/slug, 'a/b/c' does not"]),
        ([("a/б", "")], ["2:3: a model's id looks like author/slug, 'a/б' does not"]),
        ([("a/b", "aliases: [x, y z, ''], ")],
         ["2:22: an alias is letters, digits and . _ - : / @", "2:27: an alias is letters, digits and . _ - : / @"]),
        ([("a/b", "aliases: [x, x], ")], ["2:22: 'x' names this model already"]),
        ([("a/b", "aliases: [a/b], ")], ["2:19: 'a/b' names this model already"]),
        ([("a/b", "aliases: [x], "), ("c/d", "aliases: [x], ")], ["3:19: the name 'x' already stands for a/b, at 2:19"]),
        ([("a/b", "aliases: [c/d], "), ("c/d", "")], ["3:3: the name 'c/d' already stands for a/b, at 2:19"]),
        ([("a/b", ""), ("c/d", "aliases: [a/b], ")], ["3:19: the name 'a/b' already stands for a/b, at 2:3"]),
        ([("a/b", "variants: {rc: rc}, "), ("'a/b:rc'", "")], ["3:3: the name 'a/b:rc' already stands for a/b, at 2:20"]),
        ([("a/b", "aliases: [x], variants: {rc: rc}, "), ("c/d", "aliases: ['x:rc'], ")],
         ["3:19: the name 'x:rc' already stands for a/b, at 2:34"]),
        ([("a/b", "aliases: [x, 'x:rc'], variants: {rc: rc}, ")], ["2:22: the alias hides the variant 'rc' of 'x'"]),
        ([("a/b", "variants: {'r c': rc}, ")], ["2:20: a variant's name is letters, digits and . _ -"]),
        ([("a/b", "variants: {rc: ''}, ")], ["2:24: a variant names a branch of the upstream's model"]),
    ],
)  # fmt: skip
def test_names_of_models(problems_of, sheet, models, problems):
    assert problems_of(sheet("models", _models(*models))) == problems


def test_alias_latest_stands_for_the_model_itself(load_text, sheet):
    text = sheet("models", _models(("a/b", "aliases: [x, 'x:latest'], variants: {latest: latest, rc: rc}, ")))
    assert load_text(text).models["a/b"].aliases == ("x", "x:latest")


def test_unknown_upstream_is_told_even_beside_other_mistakes(problems_of, sheet):
    models = "models:\n  a/b:\n    context: many\n    price: free\n    routes:\n      - {upstream: down, model: 5}"
    assert problems_of(sheet("models", models)) == [
        "3:14: expected a whole number, found text",
        "6:20: unknown upstream 'down'; known: up",
        "6:33: expected text, found a whole number; put it in quotes",
    ]


def test_upstream_that_is_known_but_wrong_is_not_called_unknown(problems_of, sheet):
    models = "models:\n  a/b: {price: free, routes: [{upstream: up, model: m}]}"
    text = sheet("models", models).replace("toy_parts:Toy", "nothing")
    assert [line.partition(": ")[2].partition(";")[0] for line in problems_of(text)] == ["unknown provider 'nothing'"]


@pytest.mark.parametrize(
    ("server", "more", "refused"),
    [
        ("workers: 1", "", False),
        ("workers: 2", "", True),
        ("workers: 2", "redis: null", True),
        ("workers: 2", "redis: ${R:-}", True),
        ("workers: 2", "redis: redis://h", False),
    ],
)
def test_several_workers_count_together(problems_of, load_text, sheet, server, more, refused):
    text = sheet("server", f"server: {{{server}}}") + more
    if refused:
        assert problems_of(text) == ["1:19: 2 workers need `redis`: that is where they count together"]
    else:
        assert load_text(text).server
