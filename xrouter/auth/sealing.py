"""A new key's secret, kept for a day under an `Idempotency-Key` so that only who asked for it can read it again.

The sealing key is made of the asking credential itself, which the gateway does not keep, and of the Idempotency-Key. JWE,
direct encryption with A256GCM (RFC 7516, RFC 7518 sections 4.5 and 5.3).
"""

import hmac
from hashlib import sha256
from typing import Final

from joserfc import jwe
from joserfc.errors import JoseError
from joserfc.jwk import OctKey

from xrouter.secret import Secret

_HEADER: Final = {"alg": "dir", "enc": "A256GCM"}
_PURPOSE: Final = b"xrouter idempotent answer\n"


def sealing_key(credential: Secret, idempotency_key: str) -> OctKey:
    """A key of 256 bits (HMAC-SHA-256) that follows from both and gives away neither."""
    derived = hmac.digest(credential.reveal().encode("latin-1"), _PURPOSE + idempotency_key.encode(), sha256)
    return OctKey.import_key(derived)


def seal(secret: Secret, key: OctKey) -> str:
    return jwe.encrypt_compact(_HEADER, secret.reveal(), key)


def unseal(sealed: str, key: OctKey) -> Secret | None:
    """None if it was sealed with another key."""
    try:
        plaintext = jwe.decrypt_compact(sealed, key, algorithms=list(_HEADER.values())).plaintext
    except JoseError:
        return None
    return None if plaintext is None else Secret(plaintext.decode())
