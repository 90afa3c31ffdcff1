"""The data plane's paths: which operation a request means. Only this reads a path, and only the routed one (I-03)."""

from collections.abc import Mapping
from typing import Final

from xrouter.context import Endpoint
from xrouter.errors import MethodNotAllowed, NotFound

_PREFIXES: Final = ("/v1/", "/api/v1/")


def _query(name: str, path: str, method: str = "GET", *, management: bool = False) -> tuple[str, Endpoint]:
    return path, Endpoint(name, method, inference=False, management=management)


_ENDPOINTS: Final = (
    ("chat/completions", Endpoint("chat", "POST", inference=True)),
    ("completions", Endpoint("completions", "POST", inference=True)),
    ("embeddings", Endpoint("embeddings", "POST", inference=True)),
    _query("models", "models"),
    _query("models_user", "models/user"),
    _query("models_count", "models/count"),
    _query("embedding_models", "embeddings/models"),
    _query("model", "model/{author}/{slug}"),
    _query("model_flat", "models/{model}"),
    _query("model_slashed", "models/{author}/{slug}"),
    _query("endpoints", "models/{author}/{slug}/endpoints"),
    _query("zdr_endpoints", "endpoints/zdr"),
    _query("parameters", "parameters/{author}/{slug}"),
    _query("parameters_flat", "parameters/{model}"),
    _query("providers", "providers"),
    _query("providers_status", "providers/status"),
    _query("generation", "generation"),
    _query("key", "key"),
    _query("key", "auth/key"),
    _query("credits", "credits", management=True),
    _query("activity", "activity", management=True),
    _query("keys", "keys", management=True),
    _query("keys_create", "keys", "POST", management=True),
    _query("keys_show", "keys/{hash}", management=True),
    _query("keys_update", "keys/{hash}", "PATCH", management=True),
    _query("keys_delete", "keys/{hash}", "DELETE", management=True),
    _query("tokens_count", "tokens/count", "POST"),
)


class Router:
    """Exact segments before wildcards; a segment is never empty and never holds a slash."""

    def __init__(self) -> None:
        self._exact: dict[str, dict[str, Endpoint]] = {}
        self._patterns: list[tuple[tuple[str, ...], dict[str, Endpoint]]] = []
        for path, endpoint in _ENDPOINTS:
            if "{" not in path:
                self._exact.setdefault(path, {})[endpoint.method] = endpoint
            else:
                segments = tuple(path.split("/"))
                found = next((methods for known, methods in self._patterns if known == segments), None)
                if found is None:
                    found = {}
                    self._patterns.append((segments, found))
                found[endpoint.method] = endpoint

    def find(self, path: str, method: str) -> tuple[Endpoint, dict[str, str], bool]:
        """The endpoint, the path's variables, and whether it came under OpenRouter's prefix.

        Raises NotFound for an unknown path, MethodNotAllowed for an unknown method of a known one.
        """
        methods, args, openrouter = self._find(path)
        endpoint = methods.get(method)
        if endpoint is None:
            raise MethodNotAllowed(f"This path takes {', '.join(sorted(methods))}")
        return endpoint, args, openrouter

    def methods(self, path: str) -> list[str]:
        """What a known path takes: the `Allow` of a 405 (RFC 9110 section 15.5.6). Raises NotFound."""
        return sorted(self._find(path)[0])

    def _find(self, path: str) -> tuple[Mapping[str, Endpoint], dict[str, str], bool]:
        for prefix in _PREFIXES:
            if path.startswith(prefix):
                methods, args = self._match(path[len(prefix) :])
                return methods, args, prefix == "/api/v1/"
        raise NotFound("There is nothing at this path")

    def _match(self, path: str) -> tuple[Mapping[str, Endpoint], dict[str, str]]:
        if methods := self._exact.get(path):
            return methods, {}
        segments = path.split("/")
        if all(segments):
            for pattern, methods in self._patterns:
                if len(pattern) == len(segments) and all(
                    known[0] == "{" or known == given for known, given in zip(pattern, segments, strict=True)
                ):
                    pairs = zip(pattern, segments, strict=True)
                    return methods, {known[1:-1]: given for known, given in pairs if known[0] == "{"}
        raise NotFound("There is nothing at this path")
