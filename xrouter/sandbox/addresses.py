"""Where a sandbox's emulators are, and the environment that points a gateway there."""

from collections.abc import Mapping

from xrouter.sandbox import admin, credentials, gigachat_dialect, openai_dialect, yandex_dialect


class Addresses:
    """URLs without a slash at their end. `oauth_port`: where GigaChat's sign-in is, if not on the common port."""

    def __init__(self, host: str, port: int, *, tls: bool = False, oauth_port: int | None = None) -> None:
        origin = f"{'https' if tls else 'http'}://{f'[{host}]' if ':' in host else host}"
        self.url = url = f"{origin}:{port}"
        self.gigachat_url = f"{url}{gigachat_dialect.PREFIX}/v1"
        self.gigachat_auth_url = f"{origin}:{oauth_port or port}{gigachat_dialect.PREFIX}/api/v2/oauth"
        self.yandex_url = url + yandex_dialect.PREFIX
        self.yandex_openai_url = f"{self.yandex_url}/v1"
        self.yandex_iam_url = f"{self.yandex_url}/iam/v1/tokens"
        self.openai_url = f"{url}{openai_dialect.PREFIX}/v1"
        self.admin_url = url + admin.PREFIX

    @property
    def environ(self) -> Mapping[str, str]:
        """The variables of config/xrouter.yaml that point the gateway here."""
        return {
            "GIGACHAT_CREDENTIALS": credentials.SANDBOX_GIGACHAT_CREDENTIALS,
            "GIGACHAT_BASE_URL": self.gigachat_url,
            "GIGACHAT_AUTH_URL": self.gigachat_auth_url,
            "YANDEX_API_KEY": credentials.SANDBOX_YANDEX_API_KEY,
            "YANDEX_FOLDER_ID": credentials.SANDBOX_YANDEX_FOLDER,
            "YANDEX_BASE_URL": self.yandex_url,
            "YANDEX_IAM_URL": self.yandex_iam_url,
            "LOCAL_BASE_URL": self.openai_url,
            "LOCAL_API_KEY": credentials.SANDBOX_OPENAI_KEY,
        }
