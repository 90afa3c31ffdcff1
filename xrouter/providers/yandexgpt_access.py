"""Where one configured Yandex upstream is, and what every request to it carries. Source: the sheet's sections 1 and 2."""

import re
from collections.abc import Sequence

from xrouter.errors import UpstreamError, UpstreamProtocolError, XRouterError
from xrouter.ids import uuid4
from xrouter.providers.yandexgpt_config import YandexGPTSettings
from xrouter.providers.yandexgpt_errors import CONFIGURATION_ERROR, error_for, error_in_body
from xrouter.providers.yandexgpt_models import Scheme, YandexModel
from xrouter.secret import Secret
from xrouter.upstream.base import Headers, UpstreamAnswer, UpstreamRequest
from xrouter.world import World

_OPERATION_ID = re.compile(r"[A-Za-z0-9_-]{1,128}")


class Access:
    """One upstream's addresses, folder and headers. Signing is added by whoever sends."""

    def __init__(self, settings: YandexGPTSettings, world: World) -> None:
        self.folder = settings.folder
        self.world = world
        self.settings = settings
        base = settings.base_url.rstrip("/")
        self._native = base + "/foundationModels/v1/"
        self._openai = base + "/v1/"
        self._operations = settings.operations_url.rstrip("/") + "/"
        folder = settings.folder.encode()
        common = ((b"content-type", b"application/json"),)
        self._native_headers: Headers = (*common, (b"x-folder-id", folder))
        self._openai_headers: Headers = (*common, (b"openai-project", folder))
        self._secrets: Sequence[Secret] = tuple(
            secret for secret in (*settings.api_keys, settings.iam_token, settings.oauth_token) if secret
        )

    def native(
        self,
        method: str,
        body: bytes,
        *,
        private: bool = False,
        pace: tuple[str, float] | None = None,
        safe: bool = False,
    ) -> UpstreamRequest:
        """A call of the native surface. `private`: this client forbids keeping its data. `safe`: costs nothing twice."""
        headers = self._native_headers + self._call_headers(private)
        return UpstreamRequest("POST", self._native + method, headers, body, pace, idempotent=safe)

    def openai(
        self,
        path: str,
        body: bytes,
        *,
        private: bool = False,
        pace: tuple[str, float] | None = None,
        safe: bool = False,
    ) -> UpstreamRequest:
        """A call of the compatible surface; a GET where there is no body."""
        headers = self._openai_headers + self._call_headers(private)
        return UpstreamRequest(
            "POST" if body else "GET", self._openai + path, headers, body, pace, idempotent=safe or not body
        )

    def operation(self, operation_id: str) -> UpstreamRequest:
        """The state of an asynchronous operation. Raises UpstreamProtocolError for what is no id: it goes into a URL."""
        if not _OPERATION_ID.fullmatch(operation_id):
            raise UpstreamProtocolError("The upstream's operation has no usable id")
        headers = self._native_headers + self._call_headers(private=False)
        return UpstreamRequest(
            "GET", self._operations + operation_id, headers, pace=("operations", 50.0), idempotent=True
        )

    def model(self, name: str, scheme: Scheme) -> YandexModel:
        """The model that the configuration calls `name`. Raises UpstreamError: nothing a client sends gets here."""
        try:
            return YandexModel.parse(name, self.folder, scheme)
        except ValueError as error:
            raise UpstreamError(
                "The upstream's configuration of this model is not valid",
                status=500,
                type=CONFIGURATION_ERROR,
                retry=False,
                detail=f"model {name!r}: {error}",
            ) from None

    def error(self, answer: UpstreamAnswer) -> XRouterError:
        return error_for(answer, self.world, self._secrets)

    def error_in_body(self, body: object) -> XRouterError:
        return error_in_body(body, self._secrets)

    def _call_headers(self, private: bool) -> Headers:
        keep = b"true" if self.settings.data_logging and not private else b"false"
        return (
            (b"x-data-logging-enabled", keep),
            (b"x-client-request-id", uuid4(self.world).encode()),
        )
