"""TLS towards upstreams: the system's trusted certificates, the operator's added ones, and client certificates."""

import ssl
from pathlib import Path

from xrouter.config.settings import Tls


def tls_context(settings: Tls) -> ssl.SSLContext:
    """A client context for `settings`: TLS 1.2 or later, host names checked and sent (SNI) unless `verify` is off.

    `ca_file` is added to the system's store, not put in its place: a provider that moves from the Russian Trusted Root to a
    public authority keeps working. Raises ValueError that names the setting at fault. Reads files: not for the request path.
    """
    context = ssl.create_default_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if settings.ca_file is not None:
        _add_authorities(context, settings.ca_file)
    if not settings.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if settings.cert_file is not None:
        _add_client_certificate(context, settings, settings.cert_file)
    elif settings.key_file is not None or settings.key_password is not None:
        raise ValueError("tls.cert_file is missing: a key without a certificate is of no use")
    return context


def _add_authorities(context: ssl.SSLContext, path: str) -> None:
    _check_readable("tls.ca_file", path)
    try:
        context.load_verify_locations(path)
    except ssl.SSLError as error:
        raise ValueError(f"tls.ca_file: {path} holds no certificates in PEM form") from error


def _add_client_certificate(context: ssl.SSLContext, settings: Tls, path: str) -> None:
    _check_readable("tls.cert_file", path)
    if settings.key_file is not None:
        _check_readable("tls.key_file", settings.key_file)
    asked = False

    def password() -> str:
        # Without a callback OpenSSL would ask on the terminal, and a gateway that is starting would hang there.
        nonlocal asked
        asked = True
        return settings.key_password.reveal() if settings.key_password is not None else ""

    try:
        context.load_cert_chain(path, settings.key_file, password)
    except ssl.SSLError as error:
        raise ValueError(_chain_problem(error, settings, asked)) from error


def _chain_problem(error: ssl.SSLError, settings: Tls, encrypted: bool) -> str:
    if error.reason == "KEY_VALUES_MISMATCH":
        return "tls.key_file does not belong to the certificate in tls.cert_file"
    if encrypted and settings.key_password is None:
        return "tls.key_password is missing: the key is encrypted"
    if encrypted:
        return "tls.key_password does not open the key"
    if settings.key_file is None:
        return f"tls.cert_file: {settings.cert_file} must hold a certificate and, without tls.key_file, its key, in PEM form"
    return (
        f"tls.cert_file and tls.key_file must hold a certificate and a key in PEM form: {error.reason or 'unreadable'}"
    )


def _check_readable(setting: str, path: str) -> None:
    try:
        with Path(path).open("rb"):
            pass
    except OSError as error:
        raise ValueError(f"{setting}: {path}: {error.strerror}") from error
