"""The sandbox as one ASGI app: every emulator under its own path prefix.

/gigachat/api/v2/oauth   /gigachat/v1/…
/yandex/foundationModels/v1/…   /yandex/v1/…   /yandex/operations/{id}   /yandex/iam/v1/tokens
/openai/v1/…
/admin/…
"""

from starlette.applications import Starlette
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from xrouter.sandbox import (
    admin,
    gigachat_auth,
    gigachat_chat,
    gigachat_dialect,
    gigachat_files,
    gigachat_resources,
    openai_api,
    openai_dialect,
    yandex_compatible,
    yandex_dialect,
    yandex_iam,
    yandex_native,
)
from xrouter.sandbox.config import SandboxConfig
from xrouter.sandbox.endpoint import Dialect, Endpoint, Handler, Incoming
from xrouter.sandbox.reply import Refusal, Reply, html_page
from xrouter.sandbox.state import SandboxState

Table = list[tuple[str, str, Dialect, Handler]]


async def _page_not_found(incoming: Incoming) -> Reply:
    """GigaChat's front answers a wrong path by a page (gigachat.md section 1)."""
    raise Refusal(html_page(404))


async def _no_such_url(incoming: Incoming) -> Reply:
    text = f"Invalid URL ({incoming.method} {incoming.path})"
    raise openai_dialect.refuse(404, text)


_GIGACHAT: Table = [
    ("POST", "/v1/chat/completions", gigachat_dialect.API, gigachat_chat.chat_completions),
    ("POST", "/api/v2/oauth", gigachat_dialect.OAUTH, gigachat_auth.oauth),
    ("POST", "/v1/token", gigachat_dialect.API, gigachat_auth.password),
    ("GET", "/v1/models", gigachat_dialect.API, gigachat_resources.list_models),
    ("GET", "/v1/models/{id}", gigachat_dialect.API, gigachat_resources.one_model),
    ("POST", "/v1/embeddings", gigachat_dialect.API, gigachat_resources.embeddings),
    ("POST", "/v1/tokens/count", gigachat_dialect.API, gigachat_resources.count_tokens),
    ("GET", "/v1/balance", gigachat_dialect.API, gigachat_resources.balance),
    ("POST", "/v1/files", gigachat_dialect.API, gigachat_files.upload),
    ("GET", "/v1/files", gigachat_dialect.API, gigachat_files.list_files),
    ("GET", "/v1/files/{id}", gigachat_dialect.API, gigachat_files.one_file),
    ("POST", "/v1/files/{id}/delete", gigachat_dialect.API, gigachat_files.delete),
    ("GET", "/v1/files/{id}/content", gigachat_dialect.API, gigachat_files.content),
    ("", "/{rest:path}", gigachat_dialect.API, _page_not_found),
]

_NATIVE = "/foundationModels/v1"

_YANDEX: Table = [
    ("POST", f"{_NATIVE}/completion", yandex_dialect.STREAMING, yandex_native.completion),
    ("POST", "/v1/chat/completions", yandex_dialect.COMPATIBLE, yandex_compatible.chat_completions),
    ("POST", f"{_NATIVE}/completionAsync", yandex_dialect.UNARY, yandex_native.completion_async),
    ("POST", f"{_NATIVE}/tokenize", yandex_dialect.UNARY, yandex_native.tokenize),
    ("POST", f"{_NATIVE}/tokenizeCompletion", yandex_dialect.UNARY, yandex_native.tokenize_completion),
    ("POST", f"{_NATIVE}/textEmbedding", yandex_dialect.UNARY, yandex_native.text_embedding),
    ("GET", "/operations/{id}", yandex_dialect.UNARY, yandex_native.operation),
    ("POST", "/iam/v1/tokens", yandex_dialect.UNARY, yandex_iam.tokens),
    ("POST", "/iam/v1/tokens:revoke", yandex_dialect.UNARY, yandex_iam.revoke),
    ("POST", "/v1/embeddings", yandex_dialect.COMPATIBLE, yandex_compatible.embeddings),
    ("GET", "/v1/models", yandex_dialect.COMPATIBLE, yandex_compatible.list_models),
    ("", "/{rest:path}", yandex_dialect.COMPATIBLE, yandex_compatible.not_found),
]

_OPENAI: Table = [
    ("POST", "/v1/chat/completions", openai_dialect.API, openai_api.chat_completions),
    ("POST", "/v1/completions", openai_dialect.API, openai_api.completions),
    ("POST", "/v1/embeddings", openai_dialect.API, openai_api.embeddings),
    ("GET", "/v1/models", openai_dialect.API, openai_api.list_models),
    ("GET", "/v1/models/{id}", openai_dialect.API, openai_api.one_model),
    ("", "/{rest:path}", openai_dialect.API, _no_such_url),
]

_TABLES = (
    (gigachat_dialect.PREFIX, _GIGACHAT),
    (yandex_dialect.PREFIX, _YANDEX),
    (openai_dialect.PREFIX, _OPENAI),
)


class SandboxApp:
    """Paths without parameters by one look-up, as a model's calls are; Starlette's router for the others."""

    def __init__(self, state: SandboxState) -> None:
        self._exact: dict[tuple[str, str], Endpoint] = {}
        routes = admin.routes(state)
        for prefix, table in _TABLES:
            for method, path, dialect, handler in table:
                endpoint = Endpoint(state, dialect, prefix, path, handler)
                if "{" in path:
                    routes.append(Route(prefix + path, endpoint, methods=[method] if method else None))
                else:
                    self._exact[method, prefix + path] = endpoint
        self._router = Starlette(routes=routes)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        app = self._exact.get((scope.get("method", ""), scope["path"]), self._router)
        await app(scope, receive, send)


def create_app(config: SandboxConfig | None = None, state: SandboxState | None = None) -> ASGIApp:
    """The app. `state` is made from `config` unless the caller wants to hold it."""
    return SandboxApp(state or SandboxState(config or SandboxConfig()))
