"""TLS settings: what they are told wrong, they say clearly, and before anything is connected."""

import ssl
from pathlib import Path

import pytest
import trustme
from cryptography.hazmat.primitives import serialization

from xrouter.config.settings import Tls
from xrouter.secret import Secret
from xrouter.upstream.tls import tls_context


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Certificates and keys; locked.pem is the key encrypted with "sesame", other.pem another certificate's key."""
    path = tmp_path_factory.mktemp("tls")
    authority = trustme.CA()
    issued = authority.issue_cert("client")
    authority.cert_pem.write_to_path(path / "ca.pem")
    (path / "cert.pem").write_bytes(issued.cert_chain_pems[0].bytes())
    issued.private_key_pem.write_to_path(path / "key.pem")
    issued.private_key_and_cert_chain_pem.write_to_path(path / "both.pem")
    authority.issue_cert("other").private_key_pem.write_to_path(path / "other.pem")
    key = serialization.load_pem_private_key(issued.private_key_pem.bytes(), None)
    locked = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"sesame"),
    )
    (path / "locked.pem").write_bytes(locked)
    (path / "bad.pem").write_text("-----BEGIN CERTIFICATE-----\nnonsense\n-----END CERTIFICATE-----\n")
    (path / "empty.pem").write_text("")
    return path


def build(folder: Path, password: str | None = None, **files: str) -> ssl.SSLContext:
    paths = {name: str(folder / file) for name, file in files.items()}
    return tls_context(Tls(key_password=None if password is None else Secret(password), **paths))


def test_defaults_are_strict() -> None:
    context = tls_context(Tls())
    assert context.minimum_version == ssl.TLSVersion.TLSv1_2
    assert context.verify_mode == ssl.CERT_REQUIRED
    assert context.check_hostname


def test_authority_is_added_to_the_system_store(folder: Path) -> None:
    """Fails if `ca_file` replaces the store."""
    system = tls_context(Tls()).cert_store_stats()["x509_ca"]
    assert build(folder, ca_file="ca.pem").cert_store_stats()["x509_ca"] == system + 1


def test_verification_off() -> None:
    context = tls_context(Tls(verify=False))
    assert context.verify_mode == ssl.CERT_NONE
    assert not context.check_hostname
    assert context.minimum_version == ssl.TLSVersion.TLSv1_2


@pytest.mark.parametrize(
    ("password", "files"),
    [
        (None, {"cert_file": "both.pem"}),
        (None, {"cert_file": "cert.pem", "key_file": "key.pem"}),
        ("sesame", {"cert_file": "cert.pem", "key_file": "locked.pem"}),
        ("unneeded", {"cert_file": "cert.pem", "key_file": "key.pem"}),
    ],
)
def test_client_certificates_load(folder: Path, password: str | None, files: dict[str, str]) -> None:
    build(folder, password, **files)


@pytest.mark.parametrize(
    ("password", "files", "told"),
    [
        (None, {"ca_file": "none.pem"}, r"tls\.ca_file: .*none\.pem: No such file"),
        (None, {"ca_file": "bad.pem"}, r"tls\.ca_file: .*bad\.pem holds no certificates"),
        (None, {"ca_file": "empty.pem"}, r"tls\.ca_file: .*empty\.pem holds no certificates"),
        (None, {"ca_file": "."}, r"tls\.ca_file: .*directory"),
        (None, {"cert_file": "none.pem"}, r"tls\.cert_file: .*No such file"),
        (None, {"cert_file": "cert.pem", "key_file": "none.pem"}, r"tls\.key_file: .*No such file"),
        (None, {"cert_file": "cert.pem", "key_file": "other.pem"}, r"does not belong"),
        (None, {"cert_file": "cert.pem"}, r"tls\.cert_file: .*without tls\.key_file"),
        (None, {"cert_file": "bad.pem", "key_file": "key.pem"}, r"PEM"),
        (None, {"cert_file": "cert.pem", "key_file": "bad.pem"}, r"PEM"),
        (None, {"key_file": "key.pem"}, r"tls\.cert_file is missing"),
        (None, {"cert_file": "cert.pem", "key_file": "locked.pem"}, r"tls\.key_password is missing"),
        ("open", {"cert_file": "cert.pem", "key_file": "locked.pem"}, r"tls\.key_password does not open"),
    ],
)
def test_mistakes_are_named(folder: Path, password: str | None, files: dict[str, str], told: str) -> None:
    with pytest.raises(ValueError, match=told) as caught:
        build(folder, password, **files)
    assert password is None or password not in str(caught.value).replace("does not open", "")
