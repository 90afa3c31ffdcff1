"""A Yandex service account's authorised key: read from its file, and what it signs (section 2.1 of the sheet).

Only a configuration that names such a file imports this: the cryptography behind it takes a tenth of a gateway's memory.
"""

from pathlib import Path
from typing import Final

import msgspec
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import RSAKey
from msgspec import Struct

_JWT_LIFETIME_S: Final = 3600  # the longest that IAM accepts
_PEM_BEGIN: Final = "-----BEGIN"


class _KeyFile(Struct):
    """An authorised key as the console and `yc iam key create` write it."""

    id: str
    service_account_id: str
    private_key: str


class ServiceAccountKey:
    """The key that signs a service account's requests for tokens."""

    def __init__(self, key_id: str, service_account_id: str, private_key: RSAKey) -> None:
        self.key_id = key_id
        self.service_account_id = service_account_id
        self.private_key = private_key

    def signed(self, issued_at: int, audience: str) -> str:
        """A JWT as IAM wants it: PS256 and nothing else, for one audience, for at most an hour."""
        return jwt.encode(
            {"typ": "JWT", "alg": "PS256", "kid": self.key_id},
            {
                "iss": self.service_account_id,
                "aud": audience,
                "iat": issued_at,
                "exp": issued_at + _JWT_LIFETIME_S,
            },
            self.private_key,
            algorithms=["PS256"],
        )


def load_key(path: str) -> ServiceAccountKey:
    """Read the JSON file of an authorised key. Raises ValueError, with a sentence that holds nothing of the file."""
    try:
        file = msgspec.json.decode(Path(path).read_bytes(), type=_KeyFile)
    except OSError as error:
        raise ValueError(f"the service account's key file {path!r} cannot be read: {error.strerror}") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise ValueError(
            f"{path!r} is not an authorised key's JSON file with id, service_account_id and private_key"
        ) from None
    _comment, begin, rest = file.private_key.partition(_PEM_BEGIN)  # "PLEASE DO NOT REMOVE THIS LINE! …" stands before
    try:
        key = RSAKey.import_key(begin + rest)
    except (JoseError, ValueError):
        raise ValueError(f"the private_key in {path!r} is not an RSA key in PEM form") from None
    if not key.is_private:
        raise ValueError(f"the private_key in {path!r} is a public key")
    return ServiceAccountKey(file.id, file.service_account_id, key)
