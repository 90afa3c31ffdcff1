"""What an operator writes about a Yandex upstream."""

from dataclasses import dataclass
from typing import ClassVar

from xrouter.config.settings import UpstreamSettings
from xrouter.providers.yandexgpt_iam import AUDIENCE
from xrouter.secret import Secret, each


@dataclass(frozen=True, slots=True, kw_only=True)
class YandexGPTSettings(UpstreamSettings):
    """Keys of `upstreams.<name>` with `provider: yandexgpt`. Exactly one of the five ways to sign in is to be set.

    Raises ValueError, with a sentence for the operator.
    """

    obeys_deny: ClassVar[bool] = True  # by the header x-data-logging-enabled

    folder: str  # the credential's folder; stands in every model's URI
    base_url: str = "https://llm.api.cloud.yandex.net"
    api_key: Secret | tuple[Secret, ...] | None = None  # a service account's API key; several take turns
    iam_token: Secret | None = None  # a fixed IAM token, at most 12 hours old: for trying things out
    service_account_key_file: str | tuple[str, ...] | None = (
        None  # the JSON of an authorised key, exchanged for IAM tokens
    )
    oauth_token: Secret | None = None  # a person's OAuth token, exchanged for IAM tokens
    metadata_url: str | None = None  # the token address of a virtual machine's metadata service
    iam_url: str = "https://iam.api.cloud.yandex.net/iam/v1/tokens"
    iam_audience: str = AUDIENCE  # what a service account's request for a token is addressed to, wherever it is sent
    operations_url: str = "https://operation.api.cloud.yandex.net/operations"
    data_logging: bool = False  # whether Yandex may keep prompts and answers
    hold_back_chars: int = 0  # native streams: the newest characters wait, since the model may still rewrite them
    strict: bool = False  # refuse what would be changed or dropped, instead of saying so in a header

    def __post_init__(self) -> None:
        if not self.folder:
            raise ValueError("`folder` is missing: the id of the folder that the credentials belong to")
        if "/" in self.folder or ":" in self.folder:
            raise ValueError("`folder` is an id such as b1g…, not an address")
        ways = {
            "api_key": self.api_keys,
            "iam_token": self.iam_token,
            "service_account_key_file": self.key_files,
            "oauth_token": self.oauth_token,
            "metadata_url": self.metadata_url,
        }
        given = [name for name, value in ways.items() if value]
        if len(given) != 1:
            found = f"{' and '.join(given)} are set" if given else "none is set"
            raise ValueError(f"exactly one of {', '.join(ways)} signs in to Yandex, but {found}")
        if self.hold_back_chars < 0:
            raise ValueError("`hold_back_chars` is a number of characters, 0 or more")
        if self.key_files:
            from xrouter.providers.yandexgpt_key import load_key  # see there why not above

            for file in self.key_files:
                load_key(file)

    @property
    def api_keys(self) -> tuple[Secret, ...]:
        return each(self.api_key)

    @property
    def key_files(self) -> tuple[str, ...]:
        return each(self.service_account_key_file)
