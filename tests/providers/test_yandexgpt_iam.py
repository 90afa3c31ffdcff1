"""Signing in. Numbers are those of the sheet's section 16; those that need an IAM service are in test_yandexgpt_sandbox."""

import json
from pathlib import Path
from typing import Any

import pytest
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import RSAKey
from yandexgpt_kit import API_KEY, FOLDER, StillWorld, answer, provider

from xrouter.errors import UpstreamAuthError, UpstreamError, UpstreamProtocolError
from xrouter.providers.yandexgpt import YandexGPT
from xrouter.providers.yandexgpt_iam import AUDIENCE, IamFlow, MetadataFlow
from xrouter.providers.yandexgpt_key import load_key
from xrouter.secret import Secret
from xrouter.upstream.signin import FixedSignIn, TokenFlow

NOW = 1_800_000_000


@pytest.fixture(scope="module")
def rsa_key() -> RSAKey:
    return RSAKey.generate_key(2048, private=True)


@pytest.fixture
def key_file(rsa_key: RSAKey, tmp_path: Path) -> str:
    return written(tmp_path, private_key=rsa_key.as_pem(private=True).decode())


def written(folder: Path, *, private_key: str, comment: bool = True, **fields: Any) -> str:
    line = "PLEASE DO NOT REMOVE THIS LINE! Yandex.Cloud SA Key ID <ajekey>\n" if comment else ""
    file = {
        "id": "ajekey",
        "service_account_id": "ajeaccount",
        "created_at": "2026-10-01T10:00:00Z",
        "key_algorithm": "RSA_2048",
        "private_key": line + private_key,
        **fields,
    }
    path = folder / "key.json"
    path.write_text(json.dumps(file))
    return str(path)


def flow(key_file: str, **config: Any) -> TokenFlow:
    made = provider(StillWorld(NOW), service_account_key_file=key_file, **config).sign_in()
    assert isinstance(made, TokenFlow)
    return made


@pytest.mark.parametrize("comment", [True, False])
def test_yandexgpt_10_the_jwt_is_what_iam_wants(rsa_key: RSAKey, tmp_path: Path, comment: bool) -> None:
    path = written(tmp_path, private_key=rsa_key.as_pem(private=True).decode(), comment=comment)
    request = flow(path).request()
    assert (request.method, request.url) == ("POST", AUDIENCE)
    body = json.loads(request.body)
    assert list(body) == ["jwt"]
    public = RSAKey.import_key(rsa_key.as_pem(private=False))
    token = jwt.decode(body["jwt"], public, algorithms=["PS256"])
    assert token.header == {"typ": "JWT", "alg": "PS256", "kid": "ajekey"}
    assert token.claims == {"iss": "ajeaccount", "aud": AUDIENCE, "iat": NOW, "exp": NOW + 3600}
    with pytest.raises(JoseError):
        jwt.decode(body["jwt"], public, algorithms=["RS256"])


def test_yandexgpt_10_the_audience_stays_wherever_the_request_goes(key_file: str, rsa_key: RSAKey) -> None:
    request = flow(key_file, iam_url="http://127.0.0.1:1/iam").request()
    assert request.url == "http://127.0.0.1:1/iam"
    assert jwt.decode(json.loads(request.body)["jwt"], rsa_key, algorithms=["PS256"]).claims["aud"] == AUDIENCE


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"private_key": "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"}, "not an RSA key"),
        ({"private_key": "nothing"}, "not an RSA key"),
        ({"id": None}, "not an authorised key"),
    ],
)
def test_yandexgpt_10_a_bad_key_file_is_refused_at_load(tmp_path: Path, change: dict[str, Any], says: str) -> None:
    path = written(tmp_path, **{"private_key": "", **change})
    with pytest.raises(ValueError, match=says):
        provider(service_account_key_file=path)


def test_yandexgpt_10_a_public_or_missing_key_is_refused_at_load(rsa_key: RSAKey, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="public key"):
        provider(service_account_key_file=written(tmp_path, private_key=rsa_key.as_pem(private=False).decode()))
    with pytest.raises(ValueError, match="cannot be read"):
        provider(service_account_key_file=str(tmp_path / "none.json"))
    (tmp_path / "garbage.json").write_bytes(b"\xff[")
    with pytest.raises(ValueError, match="not an authorised key"):
        provider(service_account_key_file=str(tmp_path / "garbage.json"))


@pytest.mark.parametrize(
    ("expires_at", "life"),
    [
        ("2027-01-15T20:00:00.123456789Z", 43200.123456),
        ("2027-01-15T20:00:00Z", 43200),
        ("2027-01-15T20:00:00.5Z", 43200.5),
        ("2027-01-15T23:00:00+03:00", 43200),
        ("2027-01-15T20:00:00", 43200),
        (None, 3600),
    ],
)
def test_yandexgpt_12_the_end_of_life_is_read(key_file: str, expires_at: str | None, life: float) -> None:
    token = flow(key_file).token(answer(200, {"iamToken": "t1.a.b", "expiresAt": expires_at}))
    assert token.value == "t1.a.b"
    assert token.lifetime_s == pytest.approx(life, abs=1e-3)


@pytest.mark.parametrize(("life", "age"), [(43200, 3600), (3600, 3240), (100, 90), (0, 0), (-5, 0)])
def test_yandexgpt_12_a_token_is_renewed_after_an_hour_or_when_a_tenth_is_left(life: int, age: float) -> None:
    flow = MetadataFlow("http://169.254.169.254/token", StillWorld())
    token = flow.token(answer(200, {"access_token": "t1.a.b", "expires_in": life, "token_type": "Bearer"}))
    assert token.lifetime_s - token.renew_before_s == pytest.approx(age)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>",
        b"{}",
        b'{"iamToken":""}',
        b'{"iamToken":"a\\nb"}',
        b'{"iamToken":"a","expiresAt":"x"}',
        b"[" * 5000,
    ],
)
def test_yandexgpt_12_an_unreadable_answer_is_a_protocol_error(key_file: str, body: bytes) -> None:
    with pytest.raises(UpstreamProtocolError):
        flow(key_file).token(answer(200, body))


def test_yandexgpt_14_a_refused_key_is_final_and_a_busy_service_is_not(key_file: str) -> None:
    for status in (400, 401, 402, 403, 404, 413, 422):
        with pytest.raises(UpstreamAuthError) as refused:
            flow(key_file).token(answer(status, {"code": 16, "message": "JWT is expired"}))
        assert not refused.value.retry
    for status in (429, 500, 503):
        with pytest.raises(UpstreamError) as failed:
            flow(key_file).token(answer(status, b"<html>"))
        assert failed.value.retry
        assert not isinstance(failed.value, UpstreamAuthError)


async def test_yandexgpt_13_each_credential_has_its_header(key_file: str) -> None:
    api_key = provider().sign_in()
    assert isinstance(api_key, FixedSignIn)
    assert await api_key.headers() == ((b"authorization", b"Api-Key " + API_KEY.encode()),)
    assert not api_key.refused(await api_key.headers())
    iam_token = provider(iam_token=Secret("t1.a.b")).sign_in()
    assert isinstance(iam_token, FixedSignIn)
    assert await iam_token.headers() == ((b"authorization", b"Bearer t1.a.b"),)
    assert flow(key_file).headers("t1.a.b") == ((b"authorization", b"Bearer t1.a.b"),)


def test_yandexgpt_13_a_persons_token_and_the_metadata_service() -> None:
    person = provider(oauth_token=Secret("y0_x")).sign_in()
    assert isinstance(person, IamFlow)
    assert json.loads(person.request().body) == {"yandexPassportOauthToken": "y0_x"}
    machine = provider(metadata_url="http://169.254.169.254/token").sign_in()
    assert isinstance(machine, MetadataFlow)
    request = machine.request()
    assert (request.method, request.url, request.headers) == (
        "GET",
        "http://169.254.169.254/token",
        ((b"metadata-flavor", b"Google"),),
    )
    assert machine.token(answer(200, {"access_token": "t1.a.b"})).lifetime_s == 3600
    with pytest.raises(UpstreamAuthError):
        machine.token(answer(404, b""))


@pytest.mark.parametrize(
    "credentials",
    [
        {},
        {"api_key": Secret("")},
        {"api_key": Secret(""), "service_account_key_file": ""},
        {"api_key": Secret("a"), "iam_token": Secret("b")},
        {"api_key": Secret("a"), "metadata_url": "http://169.254.169.254/"},
    ],
)
def test_yandexgpt_13_exactly_one_credential_is_to_be_set(credentials: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="exactly one of") as raised:
        YandexGPT.Config(provider="yandexgpt", folder=FOLDER, **credentials)
    assert "Secret" not in str(raised.value)


@pytest.mark.parametrize(
    "fields", [{"folder": ""}, {"folder": "gpt://x"}, {"folder": "a/b"}, {"folder": FOLDER, "hold_back_chars": -1}]
)
def test_settings_that_cannot_work_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        YandexGPT.Config(provider="yandexgpt", api_key=Secret("a"), **fields)


def test_an_empty_variable_counts_as_unset() -> None:
    config = YandexGPT.Config(provider="yandexgpt", folder=FOLDER, api_key=Secret(""), iam_token=Secret("t1.a.b"))
    assert isinstance(YandexGPT(config, StillWorld()).sign_in(), FixedSignIn)


def test_a_key_signs_in_no_time(key_file: str) -> None:
    """A signature is synchronous work on the loop: once an hour, and short."""
    key = load_key(key_file)
    assert key.signed(NOW, AUDIENCE).count(".") == 2
