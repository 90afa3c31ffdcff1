"""`xrouter plan`: what differs in meaning, and which keys of a real store would notice."""

from pathlib import Path
from typing import Any

import pytest
from kit.gateway import new_key, running_gateway
from kit.serving import command

from xrouter.sandbox.running import running_sandbox
from xrouter.wire import decode_json

OLD = """
store: sqlite:///{folder}/gateway.db
upstreams:
  local: {{provider: openai, base_url: "${{LOCAL_BASE_URL}}", api_key: "${{LOCAL_API_KEY}}"}}
models:
  paid/chat: {{price: {{input: "1", output: "2"}}, aliases: [chat], routes: [{{upstream: local, model: sandbox-large}}]}}
  paid/other: {{price: free, routes: [{{upstream: local, model: sandbox-large}}]}}
tiers:
  pro: {{requests: [1000/day]}}
  team: {{requests: [5/minute]}}
filters: [auth, rate_limit, body, routing, token_count, quota]
"""
ENVIRON = {"LOCAL_BASE_URL": "http://127.0.0.1:9/v1", "LOCAL_API_KEY": "CANARY-old"}


@pytest.fixture
def old(tmp_path: Path) -> Path:
    file = tmp_path / "old.yaml"
    file.write_text(OLD.format(folder=tmp_path))
    return file


def plan(old: Path, new: str, *options: str) -> "Any":
    file = old.with_name("new.yaml")
    file.write_text(new)
    return command(ENVIRON, "plan", "-c", str(file), "--against", str(old), *options)


def test_the_same_meaning_in_other_words_is_no_change(old: Path) -> None:
    done = plan(old, "# a comment\n" + old.read_text().replace("[5/minute]", "['5/minute']"))
    assert (done.returncode, done.stdout) == (0, "the two mean the same\n")


def test_changes_are_told_by_key_and_value_and_secrets_by_neither(old: Path) -> None:
    new = old.read_text().replace('input: "1"', 'input: "1.5"').replace("${LOCAL_API_KEY}", "CANARY-new")
    new = new.replace("  paid/other:", "  paid/another:").replace("rate_limit, body", "body, rate_limit")
    new += "server: {port: 9999}\n"
    done = plan(old, new)
    lines = done.stdout.splitlines()
    assert "~ models.paid/chat.price.input: 1 → 1.5" in lines
    assert "~ upstreams.local.api_key: set → set to something else" in lines
    assert "~ server.port: 8080 → 9999" in lines
    assert "! server.port takes a restart; a reload leaves it as it is" in lines
    assert [line[:22] for line in lines if "paid/other" in line or "paid/another" in line] == [
        "- models.paid/other: {",
        "+ models.paid/another:",
    ]
    assert any(line.startswith("~ filters (order): auth, rate_limit, body") for line in lines)
    assert "CANARY" not in done.stdout + done.stderr


def test_keys_that_would_notice_are_named(old: Path, tmp_path: Path) -> None:
    """One has used more than the new limit, one loses a model that it is made for, one loses its tier; one nothing."""
    store = f"sqlite:///{tmp_path}/gateway.db"
    with running_sandbox() as sandbox:
        fields = {"name": "busy", "tier": "pro"}
        with running_gateway(old.read_text(), sandbox.environ, tmp_path, key=fields) as gateway:
            body = {"model": "paid/chat", "messages": [{"role": "user", "content": "hi"}]}
            for _ in range(3):
                assert gateway.client.post("/v1/chat/completions", json=body).status_code == 200
    for name, more in {
        "narrow": {"models": ("paid/other",)},
        "team": {"tier": "team"},
        "idle": {"tier": "pro"},
    }.items():
        new_key(store, name=name, **more)
    new = old.read_text().replace("requests: [1000/day]", 'requests: [2/day], quota: {day: "0.000001"}')
    new = new.replace("  team: {requests: [5/minute]}\n", "").replace("  paid/other:", "  paid/another:")
    done = plan(old, new, "--json")
    assert done.returncode == 0, done.stderr
    keys = {key["name"]: key["effects"] for key in decode_json(done.stdout)["keys"]}
    assert keys["narrow"] == ["loses the model paid/other"]
    assert keys["team"] == ["loses the model paid/other", "its tier team is gone, and with it the tier's limits"]
    assert keys["idle"] == ["loses the model paid/other"]
    assert keys["busy"][:2] == [
        "loses the model paid/other",
        "has used 3 requests in the last 24 h, more than the limit of 2",
    ]
    assert keys["busy"][2].startswith("has spent 0.")
    assert "that tier pro allows (day)" in keys["busy"][2]


def test_what_is_wrong_with_the_new_one_is_told_with_its_place(old: Path) -> None:
    done = plan(old, old.read_text() + "surprise: 1\n")
    assert done.returncode == 1
    assert "new.yaml:12:1: unknown key 'surprise'" in done.stderr
