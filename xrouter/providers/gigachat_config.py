"""What an operator says of a GigaChat upstream."""

from base64 import b64decode
from dataclasses import dataclass
from typing import Literal

from xrouter.config.settings import UpstreamSettings
from xrouter.providers.gigachat_oauth import authorization_key
from xrouter.secret import Secret, each


@dataclass(frozen=True, slots=True, kw_only=True)
class GigaChatConfig(UpstreamSettings):
    """One way of signing in: `credentials`, `user` and `password`, `access_token`, or a client certificate in `tls`.

    An empty value is an absent one, so that `${NAME:-}` may stand for any of them.
    """

    bills_cached_input = False  # section 9: tokens from the prompt cache are not billed

    base_url: str = "https://api.giga.chat/v1"
    auth_url: str = "https://ngw.devices.sberbank.ru:9443/api/v2/oauth"
    credentials: Secret | tuple[Secret, ...] | None = None  # the authorization key: base64 of client id and secret
    scope: Literal["GIGACHAT_API_PERS", "GIGACHAT_API_B2B", "GIGACHAT_API_CORP"] = "GIGACHAT_API_PERS"
    user: str | None = None
    password: Secret | None = None
    access_token: Secret | None = None  # issued elsewhere; lives for 30 minutes
    echo_state_id: bool = True  # send `functions_state_id` back with the history, as the specification asks
    omit_function_call_after_result: bool = False  # for an API that refuses `function_call` beside a result
    strict: bool = False  # refuse what could only be kept in part: `stop`, `tool_choice: required` of several tools
    profanity_check: bool | None = None  # None: as the contract has it
    update_interval_s: float | None = None  # the least time between two events of a stream; None: the API's default
    image_ttl_s: float = 3600.0  # an uploaded image that was unused for so long is deleted

    def __post_init__(self) -> None:
        """Raises ValueError; its text holds no secret."""
        if bool(self.user) != bool(self.password):
            raise ValueError("user and password belong together: one of them is missing")
        methods = [
            name
            for name, value in (
                ("credentials", self.keys),
                ("user and password", self.user),
                ("access_token", self.access_token),
            )
            if value
        ]
        if len(methods) > 1:
            raise ValueError(f"one way of signing in, please: there are {', '.join(methods)}")
        if not methods and not self.tls.cert_file:
            raise ValueError(
                "no way of signing in: set credentials (the authorization key), user and password, access_token, "
                "or tls.cert_file for a client certificate"
            )
        for name, secret in (*(("credentials", key) for key in self.keys), ("access_token", self.access_token)):
            text = authorization_key(secret.reveal()) if secret else ""
            if not text.isascii() or not text.isprintable() or " " in text:
                raise ValueError(f"{name} holds spaces or letters that no key has")
        if self.image_ttl_s <= 0:
            raise ValueError("image_ttl_s must be above 0")
        if self.update_interval_s is not None and self.update_interval_s < 0:
            raise ValueError("update_interval_s must not be below 0")

    @property
    def keys(self) -> tuple[Secret, ...]:
        """The authorization keys; several take turns."""
        return each(self.credentials)

    def secrets(self) -> list[str]:
        """Every secret text in here, in the forms that an upstream could echo."""
        texts = [secret.reveal() for secret in (*self.keys, self.password, self.access_token) if secret]
        for secret in self.keys:
            key = authorization_key(secret.reveal())
            try:
                pair = b64decode(key, validate=True).decode()
            except ValueError:
                pair = ""
            texts += [key, pair, *pair.split(":", 1)]
        return [text for text in texts if text]
