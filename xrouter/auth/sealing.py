"""A new key's secret, kept for a day under an `Idempotency-Key` so that only who asked for it can read it again.

The sealing key is made of the asking credential itself, which the gateway does not keep, and of the Idempotency-Key. JWE,
direct encryption with A256GCM (RFC 7516, RFC 7518 sections 4.5 and 5.3).

The cryptography is imported when the first such answer is made: it would be a tenth of every gateway's memory.
"""

import hmac
from hashlib import sha256
from typing import TYPE_CHECKING, Final

from xrouter.secret import Secret

if TYPE_CHECKING:
    from joserfc.jwk import OctKey

_HEADER: Final = {"alg": "dir", "enc": "A256GCM"}
_PURPOSE: Final = b"xrouter idempotent answer\n"


def sealing_key(credential: Secret, idempotency_key: str) -> "OctKey":
    """A key of 256 bits (HMAC-SHA-256) that follows from both and gives away neither."""
    from joserfc.jwk import OctKey

    derived = hmac.digest(credential.reveal().encode("latin-1"), _PURPOSE + idempotency_key.encode(), sha256)
    return OctKey.import_key(derived)


def seal(secret: Secret, key: "OctKey") -> str:
    from joserfc import jwe

    return jwe.encrypt_compact(_HEADER, secret.reveal(), key)


def unseal(sealed: str, key: "OctKey") -> Secret | None:
    """None if it was sealed with another key."""
    from joserfc import jwe
    from joserfc.errors import JoseError

    try:
        plaintext = jwe.decrypt_compact(sealed, key, algorithms=list(_HEADER.values())).plaintext
    except JoseError:
        return None
    return None if plaintext is None else Secret(plaintext.decode())
