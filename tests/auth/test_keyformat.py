import re
import string

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xrouter.auth import keyformat

BASE62 = string.digits + string.ascii_letters
tiers = st.none() | st.text(string.ascii_lowercase + string.digits + "_", min_size=1, max_size=32)


@given(tiers)
def test_a_new_secret_is_wellformed_and_names_its_tier(tier: str | None) -> None:
    secret = keyformat.new_secret(tier).reveal()
    assert keyformat.is_wellformed(secret)
    assert re.fullmatch(rf"xr-{tier or 'default'}-[0-9A-Za-z]{{33}}-[0-9A-Za-z]{{6}}", secret)


def test_secrets_are_random_in_every_place() -> None:
    secrets = [keyformat.new_secret("free").reveal() for _ in range(2000)]
    assert len(set(secrets)) == 2000
    randoms = [secret.split("-")[2] for secret in secrets]
    for place in range(33):
        assert len({text[place] for text in randoms}) == 62  # each of 62 is missing with a chance of 10⁻¹²


@given(tiers)
@settings(deadline=None)  # thousands of copies an example: a busy machine takes longer than the usual 200 ms
def test_every_wrong_character_is_found_without_a_look_up(tier: str | None) -> None:
    secret = keyformat.new_secret(tier).reveal()
    for place, right in enumerate(secret):
        for wrong in BASE62 + "-_ .\n\0é٣":
            if wrong != right:
                assert not keyformat.is_wellformed(secret[:place] + wrong + secret[place + 1 :])


@given(tiers)
@settings(deadline=None)
def test_exchanged_neighbours_and_cut_or_padded_copies_are_found(tier: str | None) -> None:
    secret = keyformat.new_secret(tier).reveal()
    for place in range(len(secret) - 1):
        exchanged = secret[:place] + secret[place + 1] + secret[place] + secret[place + 2 :]
        assert exchanged == secret or not keyformat.is_wellformed(exchanged)
    assert not any(keyformat.is_wellformed(secret[:length]) for length in range(len(secret)))
    assert not any(
        keyformat.is_wellformed(text) for text in (secret + "a", " " + secret, secret + "\n", secret.upper())
    )


@given(st.text())
def test_what_is_no_key_is_not_taken_for_one(text: str) -> None:
    assert not keyformat.is_wellformed(text)
    assert not keyformat.is_wellformed("xr-" + text)


@given(st.integers(0, 54), st.sampled_from(BASE62))
def test_secrets_that_differ_anywhere_have_different_digests(place: int, other: str) -> None:
    secret = keyformat.new_secret("free").reveal()
    changed = secret[:place] + other + secret[place + 1 :]
    assert (keyformat.digest(changed) == keyformat.digest(secret)) == (changed == secret)
    assert len(keyformat.digest(secret)) == 32


def test_a_checksum_alone_makes_no_key() -> None:
    random = "0123456789" * 3 + "abc"
    for head in ("xr-free", "sk-free", "xr-Free", "xr-", "xr-a-b", "free", "xr-" + "x" * 33):
        body = f"{head}-{random}"
        assert keyformat.is_wellformed(f"{body}-{keyformat._checksum(body)}") == (head == "xr-free")


def test_a_label_keeps_most_of_the_secret_to_itself() -> None:
    secret = keyformat.new_secret("free").reveal()
    label = keyformat.label(secret)
    assert re.fullmatch(r"xr-free-[0-9A-Za-z]{3}…[0-9A-Za-z]{4}", label)
    assert secret.startswith(label.split("…")[0])
    assert secret.endswith(label.split("…")[1])


@pytest.mark.parametrize("tier", ["x" * 32, None])
def test_a_label_fits_its_column(tier: str | None) -> None:
    assert len(keyformat.label(keyformat.new_secret(tier).reveal())) <= 64
